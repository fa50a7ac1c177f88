//! When the tasks of a guest ran, and when none could: put together from the records of jobs and gaps.
//!
//! A gap of a job is a stretch in which it did not run. Either another task of the guest did, or the virtual CPU was
//! away: a blackout.

use std::time::Duration;

use rt_abi::taskset::{Kind, TaskSet};
use vmm::telemetry::{Event, Gap, Job};

use crate::report::timeline_plot::{Deadline, Lane, Span, TimelinePlot};

/// A stretch of guest time in nanoseconds.
pub type Stretch = (u64, u64);

/// What a guest did.
pub struct Trace<'a> {
    set: &'a TaskSet,
    jobs: Vec<&'a Job>,
    gaps: Vec<&'a Gap>,
}

impl<'a> Trace<'a> {
    /// From the records of a run of `set`, whose tasks record their gaps.
    pub fn new(set: &'a TaskSet, events: &'a [Event]) -> Self {
        let mut trace = Self {
            set,
            jobs: Vec::new(),
            gaps: Vec::new(),
        };
        for event in events {
            match event {
                Event::Job(job) => trace.jobs.push(job),
                Event::Gap(gap) => trace.gaps.push(gap),
                Event::Section(_) | Event::End { .. } => {}
            }
        }
        trace
    }

    /// When a task ran: its jobs without their gaps.
    fn executions(&self, task: usize) -> Vec<Stretch> {
        let own = |number: u16| usize::from(number) == task;
        let jobs = self.jobs.iter().filter(|job| own(job.task));
        let jobs: Vec<Stretch> = jobs.map(|job| (job.start, job.finish)).collect();
        let gaps = self.gaps.iter().filter(|gap| own(gap.task));
        let gaps: Vec<Stretch> = gaps.map(|gap| (gap.start, gap.end)).collect();
        without(&jobs, &gaps)
    }

    /// When a task wanted to run and none did, of any length that counts as a gap.
    pub fn blackouts(&self) -> Vec<Stretch> {
        let mut gaps: Vec<Stretch> = self.gaps.iter().map(|gap| (gap.start, gap.end)).collect();
        gaps.sort_unstable();
        // Two tasks may have been waiting through the same blackout.
        let mut merged: Vec<Stretch> = Vec::new();
        for (start, end) in gaps {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        let mut ran: Vec<Stretch> = (0..self.set.tasks().len())
            .flat_map(|task| self.executions(task))
            .collect();
        ran.sort_unstable();
        let dark = without(&merged, &ran);
        dark.into_iter()
            .filter(|(start, end)| end - start >= self.set.gap)
            .collect()
    }

    /// The share of the run in which there was no blackout, counted from the first release.
    pub fn share(&self) -> Option<f64> {
        let releases = self.jobs.iter().map(|job| job.release);
        // Whoever never finished a job knows at least when it was away first.
        let gaps = self.gaps.iter().map(|gap| gap.start);
        let from = releases.min().or_else(|| gaps.min())?;
        let to = from + self.set.duration;
        let within = |(start, end): Stretch| end.min(to).saturating_sub(start.max(from));
        let dark: u64 = self.blackouts().into_iter().map(within).sum();
        Some(1.0 - dark as f64 / self.set.duration.max(1) as f64)
    }

    /// How long the blackouts were.
    pub fn blackout_lengths(&self) -> Vec<Duration> {
        let blackouts = self.blackouts().into_iter();
        blackouts
            .map(|(start, end)| Duration::from_nanos(end - start))
            .collect()
    }

    /// The schedule of `length`, from `from` after the first release.
    pub fn timeline(&self, title: &str, from: Duration, length: Duration) -> TimelinePlot {
        let zero = self.jobs.iter().map(|job| job.release).min().unwrap_or(0);
        let at = |time: u64| Duration::from_nanos(time.saturating_sub(zero));
        let span = |(start, end): Stretch| Span {
            from: at(start),
            to: at(end),
        };
        let tasks = self.set.tasks().iter().enumerate();
        let lanes = tasks
            .filter(|(_, task)| task.kind == Kind::Periodic)
            .map(|(index, task)| {
                let jobs = || {
                    self.jobs
                        .iter()
                        .filter(|job| usize::from(job.task) == index)
                };
                Lane {
                    name: task.name.to_string(),
                    releases: jobs().map(|job| at(job.release)).collect(),
                    deadlines: jobs()
                        .map(|job| Deadline {
                            at: at(job.deadline),
                            missed: job.missed(),
                        })
                        .collect(),
                    executions: self.executions(index).into_iter().map(span).collect(),
                }
            });
        TimelinePlot {
            title: title.to_owned(),
            window: Span {
                from,
                to: from + length,
            },
            lanes: lanes.collect(),
            blackouts: self.blackouts().into_iter().map(span).collect(),
        }
    }
}

/// What of `stretches` lies in none of `holes`; both in order.
fn without(stretches: &[Stretch], holes: &[Stretch]) -> Vec<Stretch> {
    let mut left = Vec::new();
    for &(start, end) in stretches {
        let mut from = start;
        for &(hole_start, hole_end) in holes.iter().filter(|hole| hole.1 > start && hole.0 < end) {
            if hole_start > from {
                left.push((from, hole_start));
            }
            from = from.max(hole_end);
        }
        if from < end {
            left.push((from, end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(task: u16, start: u64, finish: u64) -> Event {
        Event::Job(Job {
            vcpu: 0,
            task,
            job: 0,
            release: 0,
            woken: 0,
            start,
            finish,
            deadline: finish,
            executed: 0,
        })
    }

    fn gap(task: u16, start: u64, end: u64) -> Event {
        Event::Gap(Gap {
            vcpu: 0,
            task,
            start,
            end,
        })
    }

    #[test]
    fn a_gap_in_which_another_task_ran_is_a_preemption_and_the_rest_of_it_a_blackout() {
        let set =
            TaskSet::parse("sched=rm duration=1s gap=1us task=a,c=1ms,t=10ms task=b,c=1ms,t=20ms")
                .unwrap();
        let us = 1_000;
        // b runs from 0; a preempts it at 100 us for 50 us, then the virtual CPU is away until 300 us.
        let events = [
            job(1, 0, 400 * us),
            gap(1, 100 * us, 300 * us),
            job(0, 100 * us, 150 * us),
        ];
        let trace = Trace::new(&set, &events);
        assert_eq!(trace.blackout_lengths(), [Duration::from_micros(150)]);
        assert_eq!(trace.executions(1), [(0, 100 * us), (300 * us, 400 * us)]);
        assert_eq!(trace.share(), Some(0.999_85));
    }

    proptest! {
        #[test]
        fn what_is_left_and_the_holes_never_overlap_and_nothing_is_lost(
            lengths in prop::collection::vec((1u64..9, 0u64..9), 1..6), cuts in prop::collection::vec((0u64..60, 0u64..9), 0..8),
        ) {
            let mut at = 0;
            let stretches: Vec<Stretch> = lengths.iter().map(|(length, rest)| {
                let start = at;
                at += length + rest;
                (start, start + length)
            }).collect();
            let mut holes: Vec<Stretch> = cuts.iter().map(|(start, length)| (*start, start + length)).collect();
            holes.sort_unstable();
            let within = |all: &[Stretch], t: u64| all.iter().any(|(start, end)| (*start..*end).contains(&t));
            let left = without(&stretches, &holes);
            for t in 0..at {
                prop_assert_eq!(within(&left, t), within(&stretches, t) && !within(&holes, t), "at {}", t);
            }
        }
    }
}
