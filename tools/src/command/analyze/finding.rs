//! What `analyze` found, for people and for machines.

use std::fmt::Write;
use std::time::Duration;

use guest_images::taskset::nanos;
use sched::analysis::mpr::Multiprocessor;
use sched::analysis::overhead::Overheads;
use sched::analysis::pause::Paused;
use sched::analysis::{Outcome, Scheduler, Task, TaskSet, Verdict, Witness};
use serde::Serialize;
use vmm::units::Span;

use crate::host_figures::added;
use crate::report::table::{Cell, Column, Table};
use crate::report::terminal::{self, Screen};

/// What scheduling costs, and who says so.
pub struct Charged {
    /// What is charged.
    pub overheads: Overheads,
    /// Where it comes from.
    pub source: String,
}

impl Charged {
    /// In words.
    pub fn text(&self) -> String {
        match self.overheads == Overheads::default() {
            true => self.source.clone(),
            false => format!("{}: {}", self.source, added(&self.overheads)),
        }
    }

    /// In a few words, for a figure.
    pub fn note(&self) -> String {
        let Overheads {
            budget_switch,
            timer_latency,
            exit,
        } = self.overheads;
        match self.overheads == Overheads::default() {
            true => "No overheads.".to_owned(),
            false => format!(
                "Overheads: {} for a release, {} for a budget.",
                Span::from(timer_latency + exit),
                Span::from(budget_switch)
            ),
        }
    }
}

/// A reservation on one supply bound.
pub struct Finding {
    /// What reaches the guest.
    pub supply: Paused,
    /// Q of the reservation: what reaches the guest, and what the switch takes.
    pub reserved: Duration,
    /// The answer.
    pub verdict: Verdict,
}

/// The tasks of one vCPU.
pub struct Part {
    /// Its number.
    pub vcpu: usize,
    /// The tasks, with execution times as they are here and what scheduling costs.
    pub set: TaskSet,
    /// The periodic resource model, or that with an explicit deadline, first.
    pub findings: Vec<Finding>,
}

/// All tasks on all vCPUs.
pub struct Global {
    /// The tasks, as in [`Part`].
    pub set: TaskSet,
    /// What reaches the guest.
    pub supply: Multiprocessor,
    /// The budgets of all vCPUs together, with the switches.
    pub reserved: Duration,
    /// The answer.
    pub verdict: Verdict,
}

/// All that is said.
pub struct Analysis {
    /// The vCPUs that have tasks.
    pub parts: Vec<Part>,
    /// All of them together, if tasks were split.
    pub global: Option<Global>,
    /// Whether tasks were split.
    pub is_split: bool,
    /// How each vCPU schedules its tasks.
    pub scheduler: Scheduler,
    /// The sum of C / T as written.
    pub utilisation: f64,
    /// Whether execution times were measured on another host.
    pub is_scaled: bool,
    /// Whether there are offsets, which are not made use of.
    pub has_offsets: bool,
    /// What scheduling costs.
    pub charged: Charged,
    /// What a switch costs where the period was chosen here.
    pub switch: Option<Duration>,
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

/// For machines.
#[derive(Serialize)]
pub struct Answer {
    scheduler: &'static str,
    utilisation: f64,
    overheads: OverheadsAnswer,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<FindingAnswer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vcpus: Vec<PartAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    global: Option<FindingAnswer>,
}

#[derive(Serialize)]
struct OverheadsAnswer {
    source: String,
    timer_latency_ns: u64,
    exit_ns: u64,
    budget_switch_ns: u64,
}

#[derive(Serialize)]
struct PartAnswer {
    vcpu: usize,
    tasks: Vec<String>,
    findings: Vec<FindingAnswer>,
}

#[derive(Serialize)]
struct FindingAnswer {
    /// Of all vCPUs together under global EDF.
    runtime_ns: u64,
    period_ns: u64,
    reaches_guest_ns: u64,
    schedulable: bool,
    outcome: String,
    test: &'static str,
    supply: String,
    witnesses: Vec<WitnessAnswer>,
}

impl FindingAnswer {
    fn new((reserved, budget, period): (Duration, Duration, Duration), verdict: &Verdict) -> Self {
        Self {
            runtime_ns: nanos(reserved),
            period_ns: nanos(period),
            reaches_guest_ns: nanos(budget),
            schedulable: verdict.is_schedulable(),
            outcome: verdict.outcome.to_string(),
            test: verdict.test,
            supply: verdict.supply.clone(),
            witnesses: verdict.witnesses.iter().map(Into::into).collect(),
        }
    }
}

/// A reservation as people write it.
fn pair(runtime: Duration, period: Duration) -> String {
    format!("({}, {})", Span::from(runtime), Span::from(period))
}

/// One line per task: what it asks for, and its witness.
fn table(caption: String, set: &TaskSet, verdict: &Verdict) -> Table {
    let row = |(task, witness): (&Task, &Witness)| {
        let time = |time: Duration| Cell::millis(time, 3);
        let enough = match witness.suffices() {
            true => "enough",
            false => "too little",
        };
        vec![
            Cell::text(&task.name),
            time(task.execution),
            time(task.deadline),
            time(task.period),
            time(witness.instant),
            time(witness.demand),
            time(witness.supply),
            Cell::judged(witness.suffices(), enough),
        ]
    };
    let columns = ["C", "D", "T", "within", "demanded", "supplied"];
    let numbers = columns.into_iter().map(|title| Column::new(title, "ms"));
    Table {
        caption,
        columns: [Column::new("task", "")]
            .into_iter()
            .chain(numbers)
            .chain([Column::new("", "")])
            .collect(),
        rows: set
            .tasks()
            .iter()
            .zip(&verdict.witnesses)
            .map(row)
            .collect(),
    }
}

impl Finding {
    /// The reservation.
    pub fn pair(&self) -> String {
        pair(self.reserved, self.supply.supply.period)
    }

    fn answer(&self) -> FindingAnswer {
        let supply = &self.supply.supply;
        FindingAnswer::new((self.reserved, supply.budget, supply.period), &self.verdict)
    }

    /// The bandwidth reserved.
    fn bandwidth(&self) -> f64 {
        self.reserved.as_secs_f64() / self.supply.supply.period.as_secs_f64()
    }
}

impl Part {
    /// The period of its reservation.
    pub fn period(&self) -> Option<Duration> {
        let first = self.findings.first();
        first.map(|finding| finding.supply.supply.period)
    }

    fn meets(&self) -> bool {
        let meets = |finding: &Finding| finding.verdict.is_schedulable();
        self.findings.first().is_some_and(meets)
    }

    fn answers(&self) -> Vec<FindingAnswer> {
        self.findings.iter().map(Finding::answer).collect()
    }
}

impl Global {
    /// The budget of all vCPUs together.
    pub fn pair(&self) -> String {
        pair(self.reserved, self.supply.period)
    }

    fn answer(&self) -> FindingAnswer {
        let supply = &self.supply;
        FindingAnswer::new((self.reserved, supply.budget, supply.period), &self.verdict)
    }
}

impl Analysis {
    /// Whether every vCPU's tasks meet their deadlines on the first of its supply bounds.
    pub fn meets(&self) -> bool {
        self.parts.iter().all(Part::meets)
    }

    /// The same in words.
    pub fn outcome(&self) -> Outcome {
        match self.meets() {
            true => Outcome::Schedulable,
            false => Outcome::Misses,
        }
    }

    /// For machines.
    pub fn answer(&self) -> Answer {
        let overheads = &self.charged.overheads;
        let part = |part: &Part| PartAnswer {
            vcpu: part.vcpu,
            tasks: part
                .set
                .tasks()
                .iter()
                .map(|task| task.name.clone())
                .collect(),
            findings: part.answers(),
        };
        let (findings, vcpus) = match self.is_split {
            false => (self.parts.iter().flat_map(Part::answers).collect(), vec![]),
            true => (vec![], self.parts.iter().map(part).collect()),
        };
        Answer {
            scheduler: self.scheduler.name(),
            utilisation: self.utilisation,
            overheads: OverheadsAnswer {
                source: self.charged.source.clone(),
                timer_latency_ns: nanos(overheads.timer_latency),
                exit_ns: nanos(overheads.exit),
                budget_switch_ns: nanos(overheads.budget_switch),
            },
            findings,
            vcpus,
            global: self.global.as_ref().map(Global::answer),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let screen = Screen::of_stdout();
        let mut text = self.head();
        for part in &self.parts {
            for finding in &part.findings {
                let verdict = &finding.verdict;
                let caption = format!("{} on the {}", finding.pair(), verdict.supply);
                let table = terminal::table(&table(caption, &part.set, verdict), screen);
                let vcpu = match self.is_split {
                    true => format!("vCPU {}: ", part.vcpu),
                    false => String::new(),
                };
                let _ = write!(
                    text,
                    "\n{vcpu}{}: {} by {}\n{table}",
                    finding.pair(),
                    verdict.outcome,
                    verdict.test
                );
            }
        }
        text + &self.comparison(screen)
    }

    fn head(&self) -> String {
        let tasks: usize = self.parts.iter().map(|part| part.set.tasks().len()).sum();
        let mut text = format!(
            "{tasks} tasks, {}, utilisation {:.2} %\n",
            self.scheduler.name(),
            self.utilisation * 100.0
        );
        let _ = writeln!(text, "overheads: {}", self.charged.text());
        if self.is_scaled {
            text += "execution times are those of this host, not those written\n";
        }
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
        text
    }

    /// The split beside all vCPUs together.
    fn comparison(&self, screen: Screen) -> String {
        if !self.is_split {
            return String::new();
        }
        let own = self.parts.iter().filter_map(|part| part.findings.first());
        let percent = own.map(Finding::bandwidth).sum::<f64>() * 100.0;
        let Some(global) = &self.global else {
            return format!(
                "\nsplit, {percent:.2} % of a CPU are reserved; global EDF is not compared with a deadline or a pause\n"
            );
        };
        let verdict = &global.verdict;
        let together = match verdict.is_schedulable() {
            true => {
                let period = global.supply.period.as_secs_f64();
                let percent = global.reserved.as_secs_f64() / period * 100.0;
                format!("for global EDF {percent:.2} %")
            }
            false => format!("for global EDF {} are not shown to do", global.pair()),
        };
        let caption = format!("{} on the {}", global.pair(), verdict.supply);
        let table = terminal::table(&table(caption, &global.set, verdict), screen);
        format!(
            "\nglobal EDF, {} for all vCPUs together: {} by {}\n{table}\nsplit, {percent:.2} % of a CPU are reserved; {together}\n",
            global.pair(),
            verdict.outcome,
            verdict.test
        )
    }
}
