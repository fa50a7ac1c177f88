//! Demand against supply, drawn.

use std::time::Duration;

use sched::analysis::demand::{demand_bound, request_bound};
use sched::analysis::{Priorities, Scheduler, SupplyBound, Verdict, Witness};

use super::finding::{Analysis, Finding, Global, Part};
use crate::report::demand_plot::{Curve, DemandPlot, Instant, Panel};

/// Points of a curve: more than a figure has pixels.
const POINTS: u32 = 1_000;

impl Analysis {
    /// The first finding of every vCPU: task by task under fixed priorities, all at once under EDF; then that of all vCPUs
    /// together.
    pub fn plot(&self) -> Option<DemandPlot> {
        let first = self.parts.first()?.findings.first()?;
        let own = self.parts.iter().flat_map(|part| self.panels(part));
        let panels = own.chain(self.global.as_ref().and_then(Global::panel));
        let verdict = &first.verdict;
        let title = match self.is_split {
            true => format!(
                "{}, split over {} vCPUs: {}",
                self.scheduler.name(),
                self.parts.len(),
                self.outcome()
            ),
            false => format!(
                "{}, {}: {}",
                self.scheduler.name(),
                first.pair(),
                verdict.outcome
            ),
        };
        Some(DemandPlot {
            title,
            note: format!(
                "By {}, on the {}. {}",
                verdict.test,
                verdict.supply,
                self.charged.note()
            ),
            panels: panels.collect(),
        })
    }

    fn panels(&self, part: &Part) -> Vec<Panel> {
        let Some(finding) = part.findings.first() else {
            return Vec::new();
        };
        let mut panels = match self.scheduler {
            Scheduler::FixedPriority(priorities) => finding
                .verdict
                .witnesses
                .iter()
                .enumerate()
                .map(|(place, witness)| part.panel_of(finding, (place, priorities), witness))
                .collect(),
            Scheduler::EarliestDeadlineFirst => Vec::from_iter(part.panel_of_all(finding)),
        };
        if self.is_split {
            for panel in &mut panels {
                let pair = finding.pair();
                panel.name = format!("vCPU {} {pair}: {}", part.vcpu, panel.name);
            }
        }
        panels
    }
}

impl Part {
    fn panel_of(
        &self,
        finding: &Finding,
        (place, priorities): (usize, Priorities),
        witness: &Witness,
    ) -> Panel {
        let task = &self.set.tasks()[place];
        let deadline = task.deadline - task.jitter;
        let end = deadline + deadline / 20;
        Panel {
            name: format!("task {} and all above it", task.name),
            demand: curve(end, |length| {
                request_bound(&self.set, priorities, place, length)
            }),
            supply: curve(end, |length| finding.supply.bound(length)),
            deadline: Some(deadline),
            witness: Some(instant(witness)),
        }
    }

    fn panel_of_all(&self, finding: &Finding) -> Option<Panel> {
        let witness = finding.verdict.decisive()?;
        let end = self.end(&finding.verdict)?;
        Some(Panel {
            name: format!("all tasks; tightest at a deadline of {}", witness.task),
            demand: curve(end, |length| demand_bound(&self.set, length)),
            supply: curve(end, |length| finding.supply.bound(length)),
            deadline: None,
            witness: Some(instant(witness)),
        })
    }

    /// Past the instant that decides and the longest period.
    fn end(&self, verdict: &Verdict) -> Option<Duration> {
        let witness = verdict.decisive()?;
        let longest = self.set.tasks().iter().map(|task| task.period).max()?;
        Some((witness.instant + witness.instant / 4).max(longest))
    }
}

impl Global {
    /// The test bounds the demand of each task with all others anew: there is no one curve for it.
    fn panel(&self) -> Option<Panel> {
        let witness = self.verdict.decisive()?;
        let end = witness.instant + witness.instant / 2;
        let vcpus = self.supply.vcpus;
        Some(Panel {
            name: format!(
                "{vcpus} vCPUs {} under global EDF; tightest for {}",
                self.pair(),
                witness.task
            ),
            demand: Curve::new(),
            supply: curve(end, |length| self.supply.bound(length)),
            deadline: None,
            witness: Some(instant(witness)),
        })
    }
}

fn instant(witness: &Witness) -> Instant {
    Instant {
        at: witness.instant,
        demand: witness.demand,
        supply: witness.supply,
    }
}

fn curve(end: Duration, value: impl Fn(Duration) -> Duration) -> Curve {
    (0..=POINTS)
        .map(|n| end / POINTS * n)
        .map(|length| (length, value(length)))
        .collect()
}
