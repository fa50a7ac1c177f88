//! The same guest and the same controller in simulation, on a host without overheads.

use sched::feedback::Envelope;
use sched::sim::policy::Feedback;
use sched::sim::{
    GuestPolicy, Host, Policy, Record, Run, Server, Step, Task, Vcpu, Vm, simulate_with,
};

use super::figures::{Followed, Need};
use crate::report::follow_plot::{Level, Response};

/// What the simulator says comes of it; nothing if it cannot be simulated.
pub fn predict(need: &Need, envelope: Envelope) -> Option<Followed> {
    let task = Task {
        step: Some(Step {
            execution: need.high,
            every: need.turn,
        }),
        ..Task::new(need.low, need.period)
    };
    let server = Server::new(envelope.initial(), envelope.period());
    let vcpu = Vcpu::new(server, GuestPolicy::Edf, vec![task]);
    let host = Host::new(1, Policy::Deadline, vec![Vm::single(vcpu)]);
    let run = Run {
        record: Record::Jobs,
        ..Run::of(need.length)
    };
    let mut changes = Vec::new();
    let policy = Feedback::new(&host, &[Some(envelope)], &mut changes);
    let outcome = simulate_with(&host, &run, policy).ok()?;
    let mut budgets = vec![Level {
        from: std::time::Duration::ZERO,
        value: envelope.initial(),
    }];
    budgets.extend(changes.iter().map(|change| Level {
        from: change.at,
        value: change.budget,
    }));
    let jobs = &outcome.tasks.first()?.jobs;
    let responses: Vec<Response> = jobs
        .iter()
        .map(|job| Response {
            at: job.arrival,
            time: job.response,
        })
        .collect();
    Some(Followed::of(need, &budgets, &responses))
}
