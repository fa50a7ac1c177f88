//! Answers the requests that arrive over a guest's control socket.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use vm_memory::{GuestMemoryBackend, WriteVolatile};

use super::change::ChangeError;
use super::outcome::VcpuStatus;
use super::recording::{Recording, RecordingStatus};
use super::running::RunningVm;
use super::supervise::Fate;
use super::transfer::{self, Waiting};
use crate::control::{Call, Reply, Request};
use crate::exit::End;
use crate::moving::source::MigrationHandle;
use crate::snapshot::{self, SnapshotError};
use crate::vcpu::VcpuEvent;

/// Serves one call, but for a transfer that is to wait for another guest. Returns what a vCPU said meanwhile.
pub(super) async fn serve(
    vm: &mut RunningVm,
    call: Call,
    fate: &mut Fate,
    waiting: &mut Option<Waiting>,
) -> Option<VcpuEvent> {
    let mut event = None;
    let begin = Instant::now();
    let reply = match call.request {
        // A guest that ends takes no orders that could be taken for a reprieve.
        request
            if fate.is_sealed()
                && !matches!(
                    request,
                    Request::Status {} | Request::Observe {} | Request::Stop {}
                ) =>
        {
            Err("the guest is ending".to_owned())
        }
        Request::Status {} => Ok(Reply::Status(Box::new(vm.status()))),
        Request::Observe {} => Ok(Reply::Status(Box::new(vm.seen()))),
        Request::Pause {} => match vm.pause().await {
            Ok(None) => Ok(Reply::Done),
            Ok(other) => {
                event = other;
                Err("the guest is ending".to_owned())
            }
            Err(reason) => Err(reason),
        },
        Request::Resume {} => {
            vm.resume();
            Ok(Reply::Done)
        }
        Request::Stop {} => {
            fate.stop(vm, End::Stopped);
            Ok(Reply::Done)
        }
        Request::Migrate(request) => done(vm.migrate(request)),
        Request::Migration {} => migration(vm),
        Request::CancelMigration {} => done(vm.migration().map(|own| own.cancel())),
        // What it is to have there has been said.
        request if vm.is_moving() && is_about_the_guest(&request) => Err(format!(
            "{0} is being moved: wait until that is over, or cancel it (`chronovisor migrate {0} --cancel`)",
            vm.name()
        )),
        request if is_changing(waiting.as_ref(), &request) => Err(format!(
            "{} is itself waiting for a transfer: try again",
            vm.name()
        )),
        Request::Adapt { vcpu, reservation } => {
            let mut change = vm.adapt(vcpu, reservation);
            if let Some(wait) = change.as_ref().err().and_then(ChangeError::fits_in) {
                // What it takes has just been given up. A period at most.
                tokio::time::sleep(wait).await;
                change = vm.adapt(vcpu, reservation);
            }
            timed(begin, change)
        }
        Request::Enforce { vcpu, reservation } => timed(begin, vm.enforce(vcpu, reservation)),
        Request::Transfer(transfer) => {
            *waiting = transfer::begin(vm, transfer, call.answer);
            return None;
        }
        Request::Record(request) => done(vm.record(request)),
        Request::Recording {} => recording(vm).map(Reply::Recording),
        Request::EndRecording {} => {
            vm.recording().iter().for_each(|own| own.end());
            Ok(Reply::Done)
        }
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

fn recording(vm: &RunningVm) -> Result<RecordingStatus, String> {
    let nothing = || format!("nothing is being recorded of {}", vm.name());
    vm.recording().map(Recording::ask).ok_or_else(nothing)
}

fn done<E: std::error::Error>(done: Result<(), E>) -> Result<Reply, String> {
    done.map(|()| Reply::Done)
        .map_err(|error| error.to_string())
}

/// How the migration goes.
fn migration(vm: &RunningVm) -> Result<Reply, String> {
    let migration = vm.migration().map_err(|error| error.to_string())?;
    Ok(Reply::Migration(Box::new(migration.ask())))
}

/// Whether a request changes what another host was told of the guest, or ends it.
fn is_about_the_guest(request: &Request) -> bool {
    matches!(
        request,
        Request::Adapt { .. }
            | Request::Enforce { .. }
            | Request::Transfer(_)
            | Request::Record(_)
            | Request::Save { .. }
    )
}

/// Answers a call to a guest that is lent to who moves it.
pub(super) fn serve_lent(call: Call, name: &str, migration: Option<&MigrationHandle>) {
    let reply = match (&call.request, migration) {
        (Request::Migration {}, Some(migration)) => Ok(Reply::Migration(Box::new(migration.ask()))),
        (Request::CancelMigration {}, Some(migration)) => {
            migration.cancel();
            Ok(Reply::Done)
        }
        _ => Err(format!("{name} is being given to another host: try again")),
    };
    // Whoever asked may be gone.
    let _ = call.answer.send(reply);
}

/// Whether a request is about what a transfer is changing. There is one transfer at a time.
fn is_changing(waiting: Option<&Waiting>, request: &Request) -> bool {
    waiting.is_some_and(|waiting| match request {
        Request::Transfer(_) => true,
        Request::Adapt { vcpu, .. } | Request::Enforce { vcpu, .. } => waiting.changes(*vcpu),
        _ => false,
    })
}

/// The answer to a change of a reservation, with how long it took.
fn timed(begin: Instant, change: Result<VcpuStatus, ChangeError>) -> Result<Reply, String> {
    let vcpu = change.map_err(|e| e.to_string())?;
    Ok(Reply::Adapted {
        vcpu: Box::new(vcpu),
        elapsed: begin.elapsed(),
    })
}

/// Saves the guest into a folder: `state` and `memory`. It is to end here then: a guest has one life. If it cannot be
/// saved the folder goes and the guest goes on as before.
async fn save(
    vm: &mut RunningVm,
    folder: &Path,
    event: &mut Option<VcpuEvent>,
) -> Result<Reply, SnapshotError> {
    // First: a folder that exists is somebody's, and is left as it is.
    let created = DirBuilder::new().mode(0o700).create(folder);
    created.map_err(|reason| SnapshotError::Folder {
        folder: folder.to_owned(),
        hint: match reason.kind() {
            ErrorKind::AlreadyExists => "name one that does not exist",
            _ => "name one that can be made",
        },
        reason,
    })?;
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
