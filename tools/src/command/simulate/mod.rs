//! `simulate`: response times of tasks in VMs on a host that is not there.

mod description;
mod gantt;

use std::path::Path;
use std::time::Duration;

use description::{Description, PolicyName, TaskName};
use sched::sim::{CpuOutcome, Outcome, Record, Run, TaskOutcome, simulate as simulated};
use serde::Serialize;

use super::Context;
use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};
use crate::report::table::{Cell, Column, Table};
use crate::report::terminal::{self, Screen};
use crate::written;

#[derive(Serialize)]
struct Answer {
    policy: PolicyName,
    length_ns: u64,
    seed: u64,
    tasks: Vec<TaskAnswer>,
    cpus: Vec<CpuAnswer>,
    events: u64,
    switches: u64,
    preemptions: u64,
    migrations: u64,
}

#[derive(Serialize)]
struct TaskAnswer {
    vm: String,
    vcpu: usize,
    task: String,
    finished: u64,
    missed: u64,
    /// Response times. Jobs whose deadlines passed before they were done count as longer than any other.
    median_ns: Option<u64>,
    p99_ns: Option<u64>,
    longest_ns: Option<u64>,
}

#[derive(Serialize)]
struct CpuAnswer {
    supplied_ns: u64,
    overhead_ns: u64,
    idle_ns: u64,
}

/// Simulates what a file describes.
pub fn simulate(context: &Context, path: &Path, gantt: Option<&Path>) -> Result<u8, Failure> {
    let in_file = |failure: Failure| failure.while_doing(&path.display().to_string());
    let description: Description = written::read(path, |text| Ok(toml::from_str(text)?))?;
    let (host, names) = description.host().map_err(in_file)?;
    let run = Run {
        length: description.length.duration(),
        seed: description.seed,
        record: match gantt {
            Some(_) => Record::Everything,
            None => Record::Jobs,
        },
    };
    let outcome = simulated(&host, &run).map_err(|error| in_file(error.into()))?;
    if let Some(gantt) = gantt {
        let drawing = gantt::draw(&host, &outcome, &names);
        let in_file = |failure: Failure| failure.while_doing(&gantt.display().to_string());
        std::fs::write(gantt, drawing).map_err(|error| in_file(error.into()))?;
    }
    context.print(&answer(&description, &outcome, names), shown)?;
    Ok(0)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn answer(description: &Description, outcome: &Outcome, names: Vec<TaskName>) -> Answer {
    let tasks = names.into_iter().zip(&outcome.tasks).map(task_answer);
    let cpu_answer = |cpu: &CpuOutcome| CpuAnswer {
        supplied_ns: nanos(cpu.supplied),
        overhead_ns: nanos(cpu.overhead),
        idle_ns: nanos(cpu.idle),
    };
    Answer {
        policy: description.policy,
        length_ns: nanos(outcome.length),
        seed: description.seed,
        tasks: tasks.collect(),
        cpus: outcome.cpus.iter().map(cpu_answer).collect(),
        events: outcome.events.total(),
        switches: outcome.events.switches,
        preemptions: outcome.events.preemptions,
        migrations: outcome.events.migrations,
    }
}

fn task_answer((name, outcome): (TaskName, &TaskOutcome)) -> TaskAnswer {
    let jobs = || outcome.jobs.iter();
    let overdue = jobs().filter(|job| job.response.is_none() && job.missed);
    let times: Distribution = jobs().filter_map(|job| job.response).collect();
    let times = times.with_unfinished(overdue.count());
    TaskAnswer {
        vm: name.vm,
        vcpu: name.vcpu,
        task: name.task,
        finished: outcome.finished,
        missed: outcome.missed,
        median_ns: times.quantile(Quantile::MEDIAN).map(nanos),
        p99_ns: times.quantile(Quantile::P99).map(nanos),
        longest_ns: times.max().map(nanos),
    }
}

fn shown(answer: &Answer) -> String {
    let screen = Screen::of_stdout();
    let millis = |nanos: Option<u64>| Cell::millis(nanos.map(Duration::from_nanos), 3);
    let task = |task: &TaskAnswer| {
        vec![
            Cell::text(&task.vm),
            Cell::text(task.vcpu.to_string()),
            Cell::text(&task.task),
            Cell::number(task.finished as f64, 0),
            Cell::number(task.missed as f64, 0),
            millis(task.median_ns),
            millis(task.p99_ns),
            millis(task.longest_ns),
        ]
    };
    let tasks = Table {
        caption: "Response times".to_owned(),
        columns: vec![
            Column::new("VM", ""),
            Column::new("vCPU", ""),
            Column::new("task", ""),
            Column::new("finished", ""),
            Column::new("missed", ""),
            Column::new("median", "ms"),
            Column::new("99 %", "ms"),
            Column::new("longest", "ms"),
        ],
        rows: answer.tasks.iter().map(task).collect(),
    };
    let share = |part: u64| Cell::number(part as f64 * 100.0 / answer.length_ns.max(1) as f64, 2);
    let cpu = |(number, cpu): (usize, &CpuAnswer)| {
        vec![
            Cell::text(number.to_string()),
            share(cpu.supplied_ns),
            share(cpu.overhead_ns),
            share(cpu.idle_ns),
        ]
    };
    let cpus = Table {
        caption: "Where the time of the CPUs went".to_owned(),
        columns: vec![
            Column::new("CPU", ""),
            Column::new("supplied", "%"),
            Column::new("overhead", "%"),
            Column::new("idle", "%"),
        ],
        rows: answer.cpus.iter().enumerate().map(cpu).collect(),
    };
    format!(
        "{}\n{}\n{} events, {} switches, {} preemptions, {} migrations",
        terminal::table(&tasks, screen),
        terminal::table(&cpus, screen),
        answer.events,
        answer.switches,
        answer.preemptions,
        answer.migrations
    )
}
