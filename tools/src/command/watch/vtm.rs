//! Virtual task machines as jobs: seen and adapted over the sockets of their services.
//!
//! Of their jobs nothing is known but that they are there: deadlines and response times are not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chronovisor::vtm::{Amount, Command, Reply, Share};
use sched::qos::{Action, Activator, Change, Observation, Presence, VcpuSeen};
use sched::reservation::Reservation;
use sched::vtm::{Need, Status, VtmStatus};
use tokio::time::timeout;
use vmm::control::client::exchange;
use vmm::units::Span;

use super::super::Context;
use crate::failure::Failure;

/// What the names of VTMs begin with here. No virtual machine has such a name.
pub const PREFIX: &str = "vtm:";

/// How long a service has to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer.
const LONGEST: u64 = 1 << 26;

/// What is seen of each of `jobs` now.
pub async fn observe(run_dir: &Path, jobs: &[String]) -> BTreeMap<String, Presence> {
    let mut seen: BTreeMap<_, _> = jobs
        .iter()
        .map(|job| (job.clone(), Presence::Gone))
        .collect();
    if jobs.is_empty() {
        return seen;
    }
    for socket in sockets(run_dir) {
        let status = match ask(&socket, &Command::Status {}).await {
            Ok(Some(Reply::Status(status))) => status,
            Ok(_) => continue,
            Err(failure) => {
                // Any of those that are not found elsewhere may be there.
                for presence in seen.values_mut().filter(|one| **one == Presence::Gone) {
                    let reason = failure.to_string();
                    *presence = Presence::Silent { reason };
                }
                continue;
            }
        };
        for vtm in &status.vtms {
            if let Some(presence) = seen.get_mut(&format!("{PREFIX}{}", vtm.name)) {
                *presence = Presence::Here(observation(&status, vtm));
            }
        }
    }
    seen
}

fn observation(status: &Status, vtm: &VtmStatus) -> Observation {
    let is_served = status.dispatching && !vtm.suspended;
    let waited = status.dispatches.since.saturating_sub(vtm.supplied);
    Observation {
        life: u64::from(status.guardian.unsigned_abs()),
        tasks: BTreeMap::new(),
        vcpus: vec![VcpuSeen {
            promised: promised(vtm),
            supplied: vtm.supplied,
            // It has the CPU in its slots whether its jobs run or not.
            waited: is_served.then_some(waited),
        }],
    }
}

fn promised(vtm: &VtmStatus) -> Option<Reservation> {
    let promise = vtm.promise?;
    Reservation::new(promise.execution, promise.period).ok()
}

/// The sockets of all services, also of those that have died.
fn sockets(run_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run_dir.join("vtm")).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "sock"))
        .collect()
}

/// Asks a service; nothing if nobody serves there.
async fn ask(socket: &Path, command: &Command) -> Result<Option<Reply>, Failure> {
    let silent = |_| {
        Failure::new(format!(
            "{} does not answer within {PATIENCE:?}",
            socket.display()
        ))
    };
    let answer: Result<Result<Reply, String>, _> =
        timeout(PATIENCE, exchange(socket, command, LONGEST))
            .await
            .map_err(silent)?;
    match answer {
        Ok(reply) => reply.map(Some).map_err(Failure::new),
        Err(error) if super::is_nobody(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Adapts VTMs as `vtm adapt` does.
pub struct Adapter<'a>(pub &'a Context);

impl Activator for Adapter<'_> {
    fn activate(&mut self, action: &Action) -> Result<(), String> {
        let done = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::from)
            .and_then(|runtime| runtime.block_on(self.adapt(action)));
        done.map_err(|failure| failure.to_string())
    }
}

impl Adapter<'_> {
    async fn adapt(&self, action: &Action) -> Result<(), Failure> {
        for socket in sockets(&self.0.run_dir) {
            let Some(Reply::Status(status)) = ask(&socket, &Command::Status {}).await? else {
                continue;
            };
            let shares: Vec<_> = action
                .changes()
                .filter_map(|change| Some((change, find(&status, change)?)))
                .collect();
            if shares.len() < action.changes().count() {
                continue;
            }
            let changes = shares
                .into_iter()
                .map(|(change, vtm)| share(&status, change, vtm));
            let changes = changes.collect::<Result<_, _>>()?;
            ask(&socket, &Command::Adapt { changes }).await?;
            return Ok(());
        }
        Err(Failure::new("no service has all of these VTMs"))
    }
}

fn find<'a>(status: &'a Status, change: &Change) -> Option<&'a VtmStatus> {
    let name = change.target.job.strip_prefix(PREFIX)?;
    status.vtms.iter().find(|vtm| vtm.name == name)
}

fn share(status: &Status, change: &Change, vtm: &VtmStatus) -> Result<Share, Failure> {
    let name = &vtm.name;
    if promised(vtm) != Some(change.before) {
        let before = change.before;
        return Err(Failure::new(format!("{name} has no longer {before}")));
    }
    let (execution, slot) = (change.after.runtime(), status.slot);
    // More would be promised than the rule allows: a VTM gets whole slots.
    if slot.is_zero() || !execution.as_nanos().is_multiple_of(slot.as_nanos()) {
        let (execution, slot) = (Span::from(execution), Span::from(slot));
        return Err(Failure::new(format!(
            "{execution} for {name} are not whole slots of {slot}: give raise_by, up_to and down_to in slots"
        )));
    }
    Ok(Share {
        vtm: name.clone(),
        need: Amount(Need::Time(execution)),
        period: change.after.period().into(),
        max_delay: None,
    })
}
