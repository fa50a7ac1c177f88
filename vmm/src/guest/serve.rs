//! Answers the requests that arrive over a guest's control socket.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use sched::ledger::Change;
use vm_memory::{GuestMemoryBackend, WriteVolatile};

use super::outcome::VcpuStatus;
use super::running::{ChangeError, RunningVm};
use super::supervise::Fate;
use crate::control::{Call, ControlError, Reply, Request, Transfer, client};
use crate::exit::End;
use crate::snapshot::{self, SnapshotError};
use crate::vcpu::VcpuEvent;

/// How long the other guest of a transfer has to give up budget: its thread is changed from outside, at once.
const OTHER_PATIENCE: Duration = Duration::from_secs(5);

/// Serves one call. Returns what a vCPU said meanwhile.
pub(super) async fn serve(vm: &mut RunningVm, call: Call, fate: &mut Fate) -> Option<VcpuEvent> {
    let mut event = None;
    let reply = match call.request {
        // A guest that ends takes no orders that could be taken for a reprieve.
        request if fate.is_sealed() && !matches!(request, Request::Status | Request::Stop) => {
            Err("the guest is ending".to_owned())
        }
        Request::Status => Ok(Reply::Status(Box::new(vm.status()))),
        Request::Pause => match vm.pause().await {
            Ok(None) => Ok(Reply::Done),
            Ok(other) => {
                event = other;
                Err("the guest is ending".to_owned())
            }
            Err(reason) => Err(reason),
        },
        Request::Resume => {
            vm.resume();
            Ok(Reply::Done)
        }
        Request::Stop => {
            fate.stop(vm, End::Stopped);
            Ok(Reply::Done)
        }
        Request::Adapt { vcpu, reservation } => timed(|| vm.adapt(vcpu, reservation)),
        Request::Enforce { vcpu, reservation } => timed(|| vm.enforce(vcpu, reservation)),
        Request::Transfer(transfer) => move_budget(vm, &transfer).await,
        Request::Save { path } => {
            let saved = save(vm, &path, &mut event).await;
            if saved.is_ok() {
                fate.stop(vm, End::Saved);
            }
            saved.map_err(|e| e.to_string())
        }
    };
    // Whoever asked may be gone.
    let _ = call.answer.send(reply);
    event
}

/// The answer to a change of a reservation, with how long it took.
fn timed(change: impl FnOnce() -> Result<VcpuStatus, ChangeError>) -> Result<Reply, String> {
    let begin = Instant::now();
    let vcpu = change().map_err(|e| e.to_string())?;
    Ok(Reply::Adapted {
        vcpu: Box::new(vcpu),
        elapsed: begin.elapsed(),
    })
}

/// Moves budget from another running guest to this one: both or none.
///
/// 1. The ledger admits both changes in one step.
/// 2. The other guest puts its smaller reservation in force; only then is its bandwidth free in the kernel.
/// 3. This guest puts its larger one in force.
///
/// If 2 fails the ledger goes back; if 3 fails the other guest gets back what it had, too.
async fn move_budget(vm: &mut RunningVm, transfer: &Transfer) -> Result<Reply, String> {
    let begin = Instant::now();
    let text = |e: ChangeError| e.to_string();
    if transfer.from == vm.name() {
        return Err(format!(
            "{} cannot take budget from itself; adapt its vCPUs one by one, the giving one first",
            transfer.from
        ));
    }
    let old = vm
        .reservation(transfer.vcpu)
        .map_err(text)?
        .ok_or("this vCPU has no reservation to change")?;
    let (vcpu, new) = (transfer.vcpu, transfer.reservation);
    let smaller = Change {
        vm: transfer.from.clone(),
        vcpu: transfer.from_vcpu,
        reservation: transfer.from_reservation,
    };
    let before = Change {
        reservation: transfer.from_before,
        ..smaller.clone()
    };
    let granted = vm.admit_pair(vcpu, new, smaller).map_err(text)?;
    let other = |reservation| Request::Enforce {
        vcpu: transfer.from_vcpu,
        reservation,
    };
    let back = |vm: &RunningVm| {
        vm.admit_pair(vcpu, old, before.clone())
            .map(|_| ())
            .map_err(text)
    };
    if let Err(error) = ask(&transfer.from_socket, other(transfer.from_reservation)).await {
        back(vm)?;
        return Err(format!("{} gave nothing up: {error}", transfer.from));
    }
    if let Err(error) = vm.put_in_force(vcpu, new, granted) {
        back(vm)?;
        let restored = ask(&transfer.from_socket, other(transfer.from_before)).await;
        let note = restored.err().map_or(String::new(), |e| {
            format!("; and {} did not get it back: {e}", transfer.from)
        });
        return Err(format!("{error}{note}"));
    }
    Ok(Reply::Adapted {
        vcpu: Box::new(vm.status_after_change(vcpu)),
        elapsed: begin.elapsed(),
    })
}

async fn ask(socket: &Path, request: Request) -> Result<Reply, ControlError> {
    client::call_within(socket, request, OTHER_PATIENCE).await
}

/// Saves the guest into a folder: `state` and `memory`. It is to end here then: a guest has one life. If it cannot be
/// saved the folder goes and the guest goes on as before.
async fn save(
    vm: &mut RunningVm,
    folder: &Path,
    event: &mut Option<VcpuEvent>,
) -> Result<Reply, SnapshotError> {
    let in_folder = |e: std::io::Error| SnapshotError::Memory(format!("{}: {e}", folder.display()));
    // First: a folder that exists is somebody's, and is left as it is.
    let created = DirBuilder::new().mode(0o700).create(folder);
    created.map_err(in_folder)?;
    let was_paused = vm.paused;
    let saved = save_into(vm, folder, event).await;
    if saved.is_err() {
        if !was_paused {
            vm.resume();
        }
        if let Err(error) = std::fs::remove_dir_all(folder) {
            tracing::warn!("{} is left behind: {error}", folder.display());
        }
    }
    saved.map(|()| Reply::Done)
}

async fn save_into(
    vm: &mut RunningVm,
    folder: &Path,
    event: &mut Option<VcpuEvent>,
) -> Result<(), SnapshotError> {
    *event = vm.pause().await.map_err(SnapshotError::Memory)?;
    if event.is_some() {
        return Err(SnapshotError::Gone);
    }
    let state = snapshot::encode(&vm.save()?)?;
    write_files(vm, folder, &state)
        .map_err(|e| SnapshotError::Memory(format!("{}: {e}", folder.display())))
}

/// A new file for its owner only: a guest's memory is nobody else's.
fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn write_files(vm: &RunningVm, folder: &Path, state: &[u8]) -> std::io::Result<()> {
    let mut memory = create_private(&folder.join("memory"))?;
    for region in vm.machine().ram().iter() {
        let slice = vm_memory::GuestMemoryRegion::as_volatile_slice(region)
            .map_err(std::io::Error::other)?;
        memory
            .write_all_volatile(&slice)
            .map_err(std::io::Error::other)?;
    }
    memory.sync_all()?;
    let mut file = create_private(&folder.join("state"))?;
    file.write_all(state)?;
    file.sync_all()
}
