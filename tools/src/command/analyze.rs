//! `analyze`: whether tasks meet their deadlines in a reservation, or which reservation they need.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use guest_images::taskset::nanos;
use sched::analysis::demand::{demand_bound, request_bound};
use sched::analysis::design::{Periods, best_server};
use sched::analysis::{
    Priorities, Scheduler, Supply, SupplyBound, Task, TaskSet, Verdict, Witness, least_budget,
};
use serde::{Deserialize, Serialize};
use vmm::units::Span;

use super::Context;
use crate::failure::{Failure, REFUSED};
use crate::report::demand_plot::{Curve, DemandPlot, Instant, Panel};
use crate::report::table::{Cell, Column, Table};
use crate::report::terminal::{self, Screen};

/// What a switch to a server and away from it takes, if the file does not say: a few context switches, with caches.
const SWITCH: Duration = Duration::from_micros(20);
/// Points of a curve: more than a figure has pixels.
const POINTS: u32 = 1_000;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sheet {
    #[serde(default)]
    scheduler: Order,
    runtime: Option<Span>,
    period: Option<Span>,
    blocking: Option<Span>,
    budget_switch: Option<Span>,
    #[serde(default, rename = "task")]
    tasks: Vec<TaskLine>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Rm,
    Dm,
    Edf,
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
            .with_jitter(self.jitter.map_or(Duration::ZERO, Span::duration))
    }

    /// Whether all its releases can be beginnings of a server's periods.
    fn keeps_to(&self, period: Duration) -> bool {
        let is_multiple = |time: Span| nanos(time.duration()).is_multiple_of(nanos(period));
        let is_punctual = self.jitter.is_none_or(|jitter| jitter.duration().is_zero());
        is_punctual && is_multiple(self.period) && self.offset.is_none_or(is_multiple)
    }
}

/// A reservation on one supply bound.
struct Finding {
    supply: Supply,
    verdict: Verdict,
}

/// All that is said.
struct Analysis {
    set: TaskSet,
    scheduler: Scheduler,
    has_offsets: bool,
    /// What a switch costs where the period was chosen here.
    switch: Option<Duration>,
    /// The periodic resource model first.
    findings: Vec<Finding>,
}

/// Judges or designs; status 3 if deadlines are missed on the periodic resource model.
pub fn analyze(context: &Context, file: &Path, svg: Option<&Path>) -> Result<u8, Failure> {
    let in_file = |failure: Failure| failure.while_doing(&file.display().to_string());
    let text = std::fs::read_to_string(file).map_err(|e| in_file(e.into()))?;
    let sheet: Sheet = toml::from_str(&text).map_err(|e| in_file(e.into()))?;
    let analysis = sheet.analysis().map_err(in_file)?;
    if let Some(path) = svg {
        let drawing = analysis.plot().map(|plot| plot.drawing().standalone());
        std::fs::write(path, drawing.unwrap_or_default())
            .map_err(|e| Failure::from(e).while_doing(&path.display().to_string()))?;
    }
    context.print(&analysis.answer(), |_| analysis.text())?;
    let meets = |finding: &Finding| finding.verdict.is_schedulable();
    Ok(match analysis.findings.first().is_some_and(meets) {
        true => 0,
        false => REFUSED,
    })
}

impl Sheet {
    fn analysis(&self) -> Result<Analysis, Failure> {
        let blocking = self.blocking.map_or(Duration::ZERO, Span::duration);
        let set = TaskSet::new(self.tasks.iter().map(TaskLine::task))?.with_blocking(blocking)?;
        let scheduler = match self.scheduler {
            Order::Rm => Scheduler::RATE_MONOTONIC,
            Order::Dm => Scheduler::DEADLINE_MONOTONIC,
            Order::Edf => Scheduler::EarliestDeadlineFirst,
        };
        let (period, switch) = self.server_period(&set, scheduler)?;
        let mut servers: Vec<fn(Duration, Duration) -> Supply> = vec![Supply::worst_case];
        if self.tasks.iter().all(|task| task.keeps_to(period)) {
            servers.push(Supply::aligned);
        }
        let finding = |server: fn(Duration, Duration) -> Supply| {
            let least = || least_budget(&set, scheduler, period, |budget| server(budget, period));
            let runtime = self.runtime.map(Span::duration).or_else(least);
            let supply = server(runtime.unwrap_or(period), period);
            let verdict = scheduler.check(&set, &supply);
            Finding { supply, verdict }
        };
        Ok(Analysis {
            findings: servers.into_iter().map(finding).collect(),
            has_offsets: self.tasks.iter().any(|task| task.offset.is_some()),
            set,
            scheduler,
            switch,
        })
    }

    /// The period written, or the best one and the cost of a switch that made it so.
    fn server_period(
        &self,
        set: &TaskSet,
        scheduler: Scheduler,
    ) -> Result<(Duration, Option<Duration>), Failure> {
        let (runtime, period) = (
            self.runtime.map(Span::duration),
            self.period.map(Span::duration),
        );
        match (runtime, period) {
            (_, Some(period)) if period.is_zero() => {
                Err(Failure::new("period is 0: give a time such as \"50ms\""))
            }
            (Some(runtime), Some(period)) if runtime.is_zero() || runtime > period => {
                let (q, p) = (Span::from(runtime), Span::from(period));
                let text = format!(
                    "runtime {q} is not within the period {p}: give more than 0 and at most {p}"
                );
                Err(Failure::new(text))
            }
            (_, Some(period)) => Ok((period, None)),
            (Some(_), None) => Err(Failure::new(
                "runtime stands without period: write both to judge a reservation, period alone or neither to design one",
            )),
            (None, None) => {
                let switch = self.budget_switch.map_or(SWITCH, Span::duration);
                let periods = Periods::up_to_the_shortest_of(set);
                let best = best_server(set, scheduler, (periods, |_| switch), Supply::worst_case);
                let period = best.map_or(periods.longest, |best| best.period);
                Ok((period, Some(switch)))
            }
        }
    }
}

#[derive(Serialize)]
struct Answer {
    scheduler: &'static str,
    utilisation: f64,
    findings: Vec<FindingAnswer>,
}

#[derive(Serialize)]
struct FindingAnswer {
    runtime_ns: u64,
    period_ns: u64,
    schedulable: bool,
    outcome: String,
    test: &'static str,
    supply: String,
    witnesses: Vec<WitnessAnswer>,
}

/// A witness for machines.
#[derive(Serialize)]
pub struct WitnessAnswer {
    task: String,
    instant_ns: u64,
    demand_ns: u64,
    supply_ns: u64,
}

impl From<&Witness> for WitnessAnswer {
    fn from(witness: &Witness) -> Self {
        Self {
            task: witness.task.clone(),
            instant_ns: nanos(witness.instant),
            demand_ns: nanos(witness.demand),
            supply_ns: nanos(witness.supply),
        }
    }
}

impl Finding {
    fn answer(&self) -> FindingAnswer {
        FindingAnswer {
            runtime_ns: nanos(self.supply.budget),
            period_ns: nanos(self.supply.period),
            schedulable: self.verdict.is_schedulable(),
            outcome: self.verdict.outcome.to_string(),
            test: self.verdict.test,
            supply: self.verdict.supply.clone(),
            witnesses: self.verdict.witnesses.iter().map(Into::into).collect(),
        }
    }

    /// The reservation as people write it.
    fn pair(&self) -> String {
        let (q, p) = (self.supply.budget, self.supply.period);
        format!("({}, {})", Span::from(q), Span::from(p))
    }

    fn table(&self, set: &TaskSet) -> Table {
        let row = |(task, witness): (&Task, &Witness)| {
            let time = |time: Duration| Cell::millis(time, 3);
            vec![
                Cell::text(&task.name),
                time(task.execution),
                time(task.deadline),
                time(task.period),
                time(witness.instant),
                time(witness.demand),
                time(witness.supply),
                Cell::judged(
                    witness.suffices(),
                    if witness.suffices() {
                        "enough"
                    } else {
                        "too little"
                    },
                ),
            ]
        };
        let columns = ["C", "D", "T", "within", "demanded", "supplied"];
        let numbers = columns.into_iter().map(|title| Column::new(title, "ms"));
        Table {
            caption: format!("{} on the {}", self.pair(), self.verdict.supply),
            columns: [Column::new("task", "")]
                .into_iter()
                .chain(numbers)
                .chain([Column::new("", "")])
                .collect(),
            rows: set
                .tasks()
                .iter()
                .zip(&self.verdict.witnesses)
                .map(row)
                .collect(),
        }
    }
}

impl Analysis {
    fn answer(&self) -> Answer {
        Answer {
            scheduler: self.scheduler.name(),
            utilisation: self.set.utilisation(),
            findings: self.findings.iter().map(Finding::answer).collect(),
        }
    }

    fn text(&self) -> String {
        let screen = Screen::of_stdout();
        let mut text = format!(
            "{} tasks, {}, utilisation {:.2} %\n",
            self.set.tasks().len(),
            self.scheduler.name(),
            self.set.utilisation() * 100.0
        );
        if let Some(switch) = self.switch {
            let switch = Span::from(switch);
            let _ = writeln!(
                text,
                "period chosen for the least (Q + {switch})/P, {switch} for a budget switch"
            );
        }
        if self.has_offsets {
            text += "tasks are taken to be released together, whatever their offsets\n";
        }
        for finding in &self.findings {
            let verdict = &finding.verdict;
            let table = terminal::table(&finding.table(&self.set), screen);
            let _ = write!(
                text,
                "\n{}: {} by {}\n{table}",
                finding.pair(),
                verdict.outcome,
                verdict.test
            );
        }
        text
    }

    /// Demand and supply of the first finding: task by task under fixed priorities, of all at once under EDF.
    fn plot(&self) -> Option<DemandPlot> {
        let finding = self.findings.first()?;
        let verdict = &finding.verdict;
        let panels = match self.scheduler {
            Scheduler::FixedPriority(priorities) => verdict
                .witnesses
                .iter()
                .enumerate()
                .map(|(place, witness)| self.panel_of(finding, (place, priorities), witness))
                .collect(),
            Scheduler::EarliestDeadlineFirst => {
                let witness = verdict.decisive()?;
                let longest = self.set.tasks().iter().map(|task| task.period).max()?;
                let end = (witness.instant + witness.instant / 4).max(longest);
                vec![Panel {
                    name: format!("all tasks; tightest at a deadline of {}", witness.task),
                    demand: curve(end, |length| demand_bound(&self.set, length)),
                    supply: curve(end, |length| finding.supply.bound(length)),
                    deadline: None,
                    witness: Some(instant(witness)),
                }]
            }
        };
        Some(DemandPlot {
            title: format!(
                "{}, {}: {}",
                self.scheduler.name(),
                finding.pair(),
                verdict.outcome
            ),
            note: format!("By {}, on the {}.", verdict.test, verdict.supply),
            panels,
        })
    }

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
