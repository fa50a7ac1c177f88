//! The file of `analyze`, and what is worked out from it.

use std::time::Duration;

use guest_images::taskset::nanos;
use sched::analysis::design::{
    Fit, Periods, best_server, least_parallel_budget, split as split_tasks,
};
use sched::analysis::mpr::Multiprocessor;
use sched::analysis::overhead::Overheads;
use sched::analysis::pause::{Paused, Resumption};
use sched::analysis::task::LONGEST;
use sched::analysis::{
    Phase, Priorities, Scheduler, Supply, Task, TaskSet, global_edf, least_budget,
};
use serde::Deserialize;
use vmm::spec::MAX_VCPUS;
use vmm::speed::SpeedFigures;
use vmm::units::Span;

use super::finding::{Analysis, Charged, Finding, Global, Part};
use crate::failure::Failure;
use crate::host_figures::HostFigures;

/// What a budget switch costs where a period is chosen and nothing else is known: a few context switches, with caches.
const SWITCH: Duration = Duration::from_micros(20);

/// The most tasks: a search for the best period of so many takes some seconds, and more than twice that for twice as many.
const MOST_TASKS: usize = 200;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    #[serde(default)]
    scheduler: Order,
    runtime: Option<Span>,
    period: Option<Span>,
    deadline: Option<Span>,
    split: Option<u32>,
    pause: Option<Span>,
    blocking: Option<Span>,
    timer_latency: Option<Span>,
    exit: Option<Span>,
    budget_switch: Option<Span>,
    reference: Option<SpeedFigures>,
    here: Option<SpeedFigures>,
    #[serde(default, rename = "task")]
    tasks: Vec<TaskLine>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Rm,
    Dm,
    Given,
    Edf,
}

impl From<Order> for Scheduler {
    fn from(order: Order) -> Self {
        match order {
            Order::Rm => Self::RATE_MONOTONIC,
            Order::Dm => Self::DEADLINE_MONOTONIC,
            Order::Given => Self::FixedPriority(Priorities::Given),
            Order::Edf => Self::EarliestDeadlineFirst,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskLine {
    name: String,
    execution: Span,
    period: Span,
    deadline: Option<Span>,
    jitter: Option<Span>,
    offset: Option<Span>,
}

impl TaskLine {
    fn task(&self) -> Task {
        let period = self.period.duration();
        Task::new(&self.name, self.execution.duration(), period)
            .with_deadline(self.deadline.map_or(period, Span::duration))
            .with_jitter(time(self.jitter))
    }

    /// Whether all its releases can be beginnings of a server's periods.
    fn keeps_to(&self, period: Duration) -> bool {
        let is_multiple = |time: Span| nanos(time.duration()).is_multiple_of(nanos(period));
        let is_punctual = time(self.jitter).is_zero();
        is_punctual && is_multiple(self.period) && self.offset.is_none_or(is_multiple)
    }
}

fn time(span: Option<Span>) -> Duration {
    span.map_or(Duration::ZERO, Span::duration)
}

/// What is asked of the reservation.
#[derive(Clone, Copy)]
enum Wanted {
    /// Whether it suffices.
    Judged { runtime: Duration, period: Duration },
    /// The least runtime.
    Least { period: Duration },
    /// Period and runtime with the least bandwidth.
    Best,
}

/// The tasks as written, and as they are with what this host makes of them.
struct Tasks {
    here: TaskSet,
    scheduler: Scheduler,
    charged: Charged,
}

impl Sheet {
    /// Judges or designs.
    pub fn analysis(&self, figures: Option<&HostFigures>) -> Result<Analysis, Failure> {
        let count = self.tasks.len();
        if count > MOST_TASKS {
            return Err(Failure::new(format!(
                "there are {count} tasks: give at most {MOST_TASKS}"
            )));
        }
        let wanted = self.wanted()?;
        let processors = self.processors()?;
        let written = TaskSet::for_processors(processors, self.tasks.iter().map(TaskLine::task))?
            .with_blocking(time(self.blocking))?;
        let tasks = Tasks {
            here: self.scaled(&written, figures)?,
            scheduler: self.scheduler.into(),
            charged: self.charged(figures),
        };
        let all: Vec<usize> = (0..written.tasks().len()).collect();
        let places = match self.split {
            None => vec![all],
            Some(_) => self.placed(&tasks, wanted, processors)?,
        };
        let parts = places
            .into_iter()
            .enumerate()
            .filter(|(_, places)| !places.is_empty())
            .map(|(vcpu, places)| self.part(&tasks, wanted, (vcpu, &places)))
            .collect::<Result<Vec<Part>, Failure>>()?;
        let global = match self.split {
            Some(vcpus) => self.global(&tasks, (wanted, vcpus), &parts)?,
            None => None,
        };
        Ok(Analysis {
            parts,
            global,
            is_split: self.split.is_some(),
            has_offsets: self.tasks.iter().any(|task| task.offset.is_some()),
            is_scaled: self.reference.is_some(),
            utilisation: written.utilisation(),
            scheduler: tasks.scheduler,
            switch: matches!(wanted, Wanted::Best).then(|| self.switch(&tasks.charged)),
            charged: tasks.charged,
        })
    }

    fn wanted(&self) -> Result<Wanted, Failure> {
        for (key, span) in [
            ("period", self.period),
            ("pause", self.pause),
            ("timer_latency", self.timer_latency),
            ("exit", self.exit),
            ("budget_switch", self.budget_switch),
        ] {
            if let Some(value) = span.filter(|span| span.duration() > LONGEST) {
                let most = Span::from(LONGEST);
                let text = format!("{key} = \"{value}\" is too long: give at most {most}");
                return Err(Failure::new(text));
            }
        }
        let (runtime, period, deadline) = (self.runtime, self.period, self.deadline);
        let within = |key: &str, value: Span, most: (&str, Span)| {
            if !value.duration().is_zero() && value <= most.1 {
                return Ok(());
            }
            let (what, most) = most;
            Err(Failure::new(format!(
                "{key} {value} is not within the {what} {most}: give more than 0 and at most {most}"
            )))
        };
        let Some(period) = period else {
            let key = match (runtime, deadline) {
                (Some(_), _) => "runtime",
                (_, Some(_)) => "deadline",
                _ => return Ok(Wanted::Best),
            };
            return Err(Failure::new(format!(
                "{key} stands without period: write runtime and period to judge a reservation, period alone or neither to design one"
            )));
        };
        if period.duration().is_zero() {
            return Err(Failure::new("period is 0: give a time such as \"50ms\""));
        }
        if let Some(deadline) = deadline {
            within("deadline", deadline, ("period", period))?;
        }
        let most = deadline.map_or(("period", period), |deadline| ("deadline", deadline));
        let period = period.duration();
        match runtime {
            None => Ok(Wanted::Least { period }),
            Some(runtime) => {
                within("runtime", runtime, most)?;
                let runtime = runtime.duration();
                Ok(Wanted::Judged { runtime, period })
            }
        }
    }

    fn processors(&self) -> Result<u32, Failure> {
        match self.split {
            Some(split) if !(1..=MAX_VCPUS).contains(&split) => Err(Failure::new(format!(
                "split = {split}: give a number of vCPUs between 1 and {MAX_VCPUS}"
            ))),
            split => Ok(split.unwrap_or(1)),
        }
    }

    /// The tasks with execution times as they are here.
    fn scaled(&self, written: &TaskSet, figures: Option<&HostFigures>) -> Result<TaskSet, Failure> {
        let here = self.here.or(figures.map(|figures| figures.speed));
        match (self.reference, here) {
            (None, _) if self.here.is_some() => Err(Failure::new(
                "here stands without reference: write the figures of the host where execution times were measured, too",
            )),
            (None, _) => Ok(written.clone()),
            (Some(_), None) => Err(Failure::new(
                "reference stands without here, and this host was not measured: write here, or let `chronovisor host measure` find it",
            )),
            (Some(reference), Some(here)) => {
                let speed = here.beside(&reference)?;
                let as_here = |failure: Failure| failure.while_doing("as they are on this host");
                let scaled = written.scaled(speed);
                scaled.map_err(|error| as_here(error.into()).refused())
            }
        }
    }

    /// What is charged: what the file says, or else was measured here.
    fn charged(&self, figures: Option<&HostFigures>) -> Charged {
        let measured = figures.map(HostFigures::overheads).unwrap_or_default();
        let keys = [self.budget_switch, self.timer_latency, self.exit];
        let or = |key: Option<Span>, measured| key.map_or(measured, Span::duration);
        let source = match (figures, keys.iter().flatten().count()) {
            (_, 3) => "as given".to_owned(),
            (Some(figures), 0) => format!("measured on {}", figures.origin()),
            (Some(figures), _) => format!("as given, else measured on {}", figures.origin()),
            (None, 0) => "none given, none measured here (`chronovisor host measure`)".to_owned(),
            (None, _) => "as given, else none, as none were measured here".to_owned(),
        };
        Charged {
            overheads: Overheads {
                budget_switch: or(keys[0], measured.budget_switch),
                timer_latency: or(keys[1], measured.timer_latency),
                exit: or(keys[2], measured.exit),
            },
            source,
        }
    }

    /// What a switch costs where a period is chosen.
    fn switch(&self, charged: &Charged) -> Duration {
        let known = charged.overheads.budget_switch.max(SWITCH);
        self.budget_switch.map_or(known, Span::duration)
    }

    fn supply(&self, budget: Duration, period: Duration) -> Paused {
        let deadline = self.deadline.map_or(period, Span::duration);
        Paused {
            supply: Supply::explicit_deadline(budget, period, deadline),
            pause: time(self.pause),
            resumption: match self.pause {
                Some(_) => Resumption::Afresh,
                None => Resumption::Continued,
            },
        }
    }

    /// Which tasks go to which vCPU: spread evenly if the test lets them, packed otherwise. Without a runtime they only
    /// have to fit on processors of their own.
    fn placed(
        &self,
        tasks: &Tasks,
        wanted: Wanted,
        vcpus: u32,
    ) -> Result<Vec<Vec<usize>>, Failure> {
        let supply = match wanted {
            Wanted::Judged { runtime, period } => {
                self.supply(tasks.charged.overheads.left_of(runtime), period)
            }
            Wanted::Least { .. } | Wanted::Best => Paused {
                supply: Supply::whole_processor(),
                ..self.supply(Duration::ZERO, Duration::ZERO)
            },
        };
        let set = tasks.inflated(&tasks.here)?;
        let vcpus = usize::try_from(vcpus).unwrap_or(usize::MAX);
        let place = |fit| split_tasks(&set, tasks.scheduler, (vcpus, fit), &supply);
        let placed = place(Fit::Worst).or_else(|_| place(Fit::First));
        placed.map_err(|unplaced| Failure::from(unplaced).refused())
    }

    fn part(
        &self,
        tasks: &Tasks,
        wanted: Wanted,
        (vcpu, places): (usize, &[usize]),
    ) -> Result<Part, Failure> {
        let own = places.iter().map(|&at| tasks.here.tasks()[at].clone());
        let own = TaskSet::for_processors(1, own);
        let own = own.and_then(|own| own.with_blocking(tasks.here.blocking()));
        let set = tasks.inflated(&own.map_err(|error| Failure::from(error).refused())?)?;
        let scheduler = tasks.scheduler;
        let overheads = tasks.charged.overheads;
        let period = match wanted {
            Wanted::Judged { period, .. } | Wanted::Least { period } => period,
            Wanted::Best => {
                let periods = Periods::suited_to(&set);
                let switch = self.switch(&tasks.charged);
                let supply = |budget, period| self.supply(budget, period);
                let best = best_server(&set, scheduler, (periods, |_| switch), supply);
                best.map_or(periods.longest, |best| best.period)
            }
        };
        let finding = |phase: Phase| {
            let supply = |budget| {
                let mut supply = self.supply(budget, period);
                supply.supply.phase = phase;
                supply
            };
            let most = self.deadline.map_or(period, Span::duration);
            let reserved = match wanted {
                Wanted::Judged { runtime, .. } => runtime,
                _ => least_budget(&set, scheduler, period, supply)
                    .map(|budget| overheads.budget(budget))
                    .filter(|reserved| *reserved <= most)
                    .unwrap_or(most),
            };
            let budget = overheads.left_of(reserved);
            Finding {
                verdict: scheduler.check(&set, &supply(budget)),
                supply: supply(budget),
                reserved,
            }
        };
        let mut findings = vec![finding(Phase::Any)];
        // After a pause a server's periods begin anew, wherever the releases are.
        if self.pause.is_none() && places.iter().all(|&at| self.tasks[at].keeps_to(period)) {
            findings.push(finding(Phase::Aligned));
        }
        Ok(Part {
            vcpu,
            set,
            findings,
        })
    }

    /// All vCPUs together under global EDF, in the period given or the shortest of those found; nothing with a deadline
    /// or a pause, for which there is no such supply bound here.
    fn global(
        &self,
        tasks: &Tasks,
        (wanted, vcpus): (Wanted, u32),
        parts: &[Part],
    ) -> Result<Option<Global>, Failure> {
        if self.deadline.is_some() || self.pause.is_some() {
            return Ok(None);
        }
        let overheads = tasks.charged.overheads;
        let edf = Scheduler::EarliestDeadlineFirst;
        let set = tasks.inflated_for(&tasks.here, edf)?;
        let shortest = parts.iter().filter_map(Part::period).min();
        let (period, budget) = match wanted {
            Wanted::Judged { runtime, period } => {
                (period, Some(overheads.left_of(runtime) * vcpus))
            }
            Wanted::Least { period } => (period, least_parallel_budget(&set, period, vcpus)),
            Wanted::Best => {
                let period = shortest.unwrap_or(SWITCH);
                (period, least_parallel_budget(&set, period, vcpus))
            }
        };
        let supply = Multiprocessor {
            budget: budget.unwrap_or(period * vcpus),
            period,
            vcpus,
        };
        Ok(Some(Global {
            verdict: global_edf::check(&set, &supply),
            reserved: supply.budget + overheads.budget_switch * vcpus,
            set,
            supply,
        }))
    }
}

impl Tasks {
    fn inflated(&self, set: &TaskSet) -> Result<TaskSet, Failure> {
        self.inflated_for(set, self.scheduler)
    }

    fn inflated_for(&self, set: &TaskSet, scheduler: Scheduler) -> Result<TaskSet, Failure> {
        let inflated = self.charged.overheads.inflated(set, scheduler);
        inflated.map_err(|error| {
            let with = "with what scheduling costs on this host";
            Failure::from(error).while_doing(with).refused()
        })
    }
}
