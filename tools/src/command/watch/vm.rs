//! Virtual machines as jobs: seen and adapted over their control sockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use sched::qos::{Action, Activator, Change, Observation, Presence, TaskSeen, VcpuSeen};
use tokio::task::JoinSet;
use vmm::control::{ControlError, Reply, Request, client, socket_path};
use vmm::guest::{GuestStatus, TaskStatistics, VcpuStatus};

use super::super::Context;
use super::super::adapt::{Held, Wanted, carry_out};
use crate::failure::Failure;

/// How long a guest has to answer. Others wait no longer for one that is stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is seen of each of `jobs` now.
pub async fn observe(run_dir: &Path, jobs: &[String]) -> BTreeMap<String, Presence> {
    let mut asked = JoinSet::new();
    for job in jobs {
        let (job, socket) = (job.clone(), socket_path(run_dir, job));
        asked.spawn(async move {
            let answer = client::call_within(&socket, Request::Observe {}, PATIENCE).await;
            (job, presence(answer))
        });
    }
    asked.join_all().await.into_iter().collect()
}

fn presence(answer: Result<Reply, ControlError>) -> Presence {
    match answer {
        Ok(Reply::Status(status)) => Presence::Here(observation(&status)),
        Ok(_) => Presence::Silent {
            reason: "it gave an answer to another question".to_owned(),
        },
        Err(ControlError::Talk { source, .. }) if super::is_nobody(&source) => Presence::Gone,
        Err(error) => Presence::Silent {
            reason: error.to_string(),
        },
    }
}

fn observation(status: &GuestStatus) -> Observation {
    let task = |(number, task): (&u16, &TaskStatistics)| {
        let name = task.name.clone().unwrap_or_else(|| number.to_string());
        let latest = task.latest_responses.iter();
        let seen = TaskSeen {
            jobs: task.jobs,
            misses: task.misses,
            latest: latest.copied().map(Duration::from_nanos).collect(),
        };
        (name, seen)
    };
    Observation {
        life: u64::from(status.pid),
        tasks: status.records.tasks.iter().map(task).collect(),
        vcpus: status.vcpus.iter().map(vcpu).collect(),
    }
}

fn vcpu(status: &VcpuStatus) -> VcpuSeen {
    let served = served(status.tid);
    VcpuSeen {
        promised: status.granted.request.reservation,
        supplied: served.map_or(Duration::ZERO, |(ran, _)| ran),
        waited: served.map(|(_, waited)| waited),
    }
}

/// How long a thread ran and how long it waited for a CPU, by the kernel's account (Documentation/scheduler/sched-stats.rst).
/// Not known where it keeps none, or the thread is gone.
fn served(tid: i32) -> Option<(Duration, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?;
    let mut times = stat.split_whitespace().map(|nanos| nanos.parse().ok());
    let mut time = || times.next()?.map(Duration::from_nanos);
    Some((time()?, time()?))
}

/// Adapts virtual machines as `adapt` does.
pub struct Adapter<'a>(pub &'a Context);

impl Activator for Adapter<'_> {
    fn activate(&mut self, action: &Action) -> Result<(), String> {
        let done = match action {
            Action::Adapt(change) => self
                .wanted(change)
                .and_then(|to| carry_out(self.0, &to, None, false)),
            Action::Transfer { to, from } => self.wanted(to).and_then(|to| {
                let from = self.wanted(from)?;
                carry_out(self.0, &to, Some(&from), false)
            }),
        };
        done.map(drop).map_err(|failure| failure.to_string())
    }
}

impl Adapter<'_> {
    fn wanted(&self, change: &Change) -> Result<Wanted, Failure> {
        let (name, after) = (&change.target.job, change.after);
        let held = Held::by(self.0, name, change.target.vcpu)?;
        if held.reservation != change.before {
            let has = held.reservation;
            return Err(Failure::new(format!(
                "{name} has {has} by now, not {}",
                change.before
            )));
        }
        Ok(Wanted { held, after })
    }
}
