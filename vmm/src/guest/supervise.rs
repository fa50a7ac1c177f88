//! The one place that decides what happens to a running guest: vCPU events, requests, signals and records meet here.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Signo};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::moving::{self, Borrower, Returned};
use super::outcome::Outcome;
use super::running::RunningVm;
use super::serve::{serve, serve_lent};
use super::start::BuiltVm;
use super::transfer;
use crate::control::{Call, ControlError, Request, Server, Socket};
use crate::exit::End;
use crate::kernel;
use crate::moving::source::MigrationHandle;
use crate::report::Registers;
use crate::telemetry::Event;
use crate::vcpu::VcpuEvent;

/// How often records are read, and the watchdog looks, while the guest has something to say.
const POLL: Duration = Duration::from_millis(20);
/// The same for a guest that is silent: two hundred that were looked at fifty times a second each kept a CPU busy.
const SILENT_POLL: Duration = Duration::from_millis(160);
/// How often it is looked whether the promises hold. That reads files of the kernel.
const PROMISE: Duration = Duration::from_millis(500);
/// How long the end of a guest that was moved waits for who follows that.
const TOLD: Duration = Duration::from_secs(1);
/// After so many of these, the first of which comes at once, all that only serves to start has been done.
const STARTED: u32 = 2;

/// Who is shown what the guest says.
pub trait Observer {
    /// Bytes of serial output.
    fn output(&mut self, bytes: &[u8]);
    /// A record.
    fn event(&mut self, event: &Event);
    /// Called now and then, for what had to wait. None of these may block: the guest's owner calls them.
    fn idle(&mut self) {}
}

/// Where calls and signals that come before a guest is supervised wait for that: made before it runs. Cheap, because the
/// guest waits for it; what is not (an event loop) is made while it runs.
///
/// Dropping it takes the control socket away, and lets signals through.
pub struct Reception {
    socket: Socket,
    _held: HeldSignals,
}

impl Reception {
    /// Opens the control socket of a guest in `run_dir`, and holds the signals that end it in good order.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn open(vm: &BuiltVm, run_dir: &Path) -> Result<Self, ControlError> {
        let held = HeldSignals::new().map_err(|errno| ControlError::Signals(errno.into()))?;
        Ok(Self {
            socket: Socket::bind(run_dir, vm.name())?,
            _held: held,
        })
    }
}

/// Supervises a guest until it is over, and serves its control socket meanwhile.
///
/// # Errors
/// [`ControlError`] if there can be no control socket or no signal handling; the guest is then stopped.
pub async fn supervise(
    mut vm: RunningVm,
    reception: Reception,
    observer: &mut dyn Observer,
) -> Result<Outcome, ControlError> {
    let Reception {
        socket,
        _held: held,
    } = reception;
    let (server, mut calls) = Server::start(socket)?;
    let mut signals = Signals::new().map_err(ControlError::Signals)?;
    // Those that have come are handled now.
    drop(held);
    let mut announced = Announcements::of(&mut vm).map_err(ControlError::Signals)?;
    let poll = sleep(Duration::ZERO);
    tokio::pin!(poll);
    let mut fate = Fate::default();
    let mut waiting = None;
    let mut watch = Watch::new();
    show_output(&mut vm, observer);
    loop {
        let announcement = vm.next_announcement();
        tokio::select! {
            event = vm.events.recv() => match event {
                Some(event) => fate.take(&mut vm, event),
                // Every vCPU thread has ended.
                None => break,
            },
            Some(call) = calls.recv() => {
                let called = Instant::now();
                if let Some(event) = serve(&mut vm, call, &mut fate, &mut waiting).await {
                    fate.take(&mut vm, event);
                }
                // Serving may have taken seconds in which nobody looked.
                watch.alive += called.elapsed();
            }
            said = transfer::said(&mut waiting) => {
                if let Some(transfer) = waiting.take() {
                    transfer.finish(&mut vm, said);
                }
            }
            Some(borrower) = vm.borrowers.recv() => {
                if fate.is_sealed() {
                    // There is nothing left to lend.
                    continue;
                }
                let lent = Instant::now();
                vm = lend(vm, borrower, &mut fate, &mut calls).await;
                watch.alive += lent.elapsed();
            }
            () = signals.arrived() => fate.stop(&mut vm, End::Stopped),
            () = is_due(announcement) => vm.announce(),
            () = announced.arrived() => {
                if show_output(&mut vm, observer) {
                    watch.alive = Instant::now();
                }
            }
            () = &mut poll => {
                let pace = watch.look(&mut vm, observer, &mut fate);
                poll.as_mut().reset(tokio::time::Instant::now() + pace);
            }
        }
    }
    if let Some(transfer) = waiting.take() {
        transfer.undo(&mut vm, "the guest is ending".to_owned());
    }
    show_rest(&mut vm, observer);
    let outcome = fate.outcome(&vm);
    let migration = vm.migration().ok();
    if outcome.end == End::Moved {
        // What it had here is free before anybody is told that it has gone.
        drop(vm);
    }
    if let Some(migration) = migration.filter(MigrationHandle::is_asked_for) {
        tell_the_end(&outcome.status.name, &migration, &mut calls).await;
    }
    server.close(calls).await;
    Ok(outcome)
}

/// What is looked at regularly while a guest runs.
struct Watch {
    /// When the guest was heard last.
    alive: Instant,
    online: Vec<u32>,
    looks: u32,
    promised: Instant,
    pace: Duration,
}

impl Watch {
    fn new() -> Self {
        Self {
            alive: Instant::now(),
            online: sched::cpus::online(),
            looks: 0,
            promised: Instant::now(),
            pace: POLL,
        }
    }

    /// Shows what there is, and ends a guest that hangs or whose promises are broken; when to look next.
    fn look(
        &mut self,
        vm: &mut RunningVm,
        observer: &mut dyn Observer,
        fate: &mut Fate,
    ) -> Duration {
        observer.idle();
        vm.say_network_fault();
        let is_heard = show_output(vm, observer) | show_records(vm, observer);
        if is_heard || vm.paused {
            self.alive = Instant::now();
        }
        let is_over = |limit| self.alive.elapsed() > limit;
        if vm.plan.watchdog.is_some_and(is_over) {
            fate.stop(vm, End::Hung);
        }
        if self.promised.elapsed() >= PROMISE {
            self.promised = Instant::now();
            fate.look_at_promises(vm, &mut self.online);
        }
        self.looks = self.looks.wrapping_add(1);
        if self.looks == STARTED {
            kernel::forget_start_up();
        }
        // The second comes 20 ms after the first in any case.
        self.pace = if is_heard || self.looks < STARTED {
            POLL
        } else {
            (self.pace * 2).min(SILENT_POLL)
        };
        self.pace
    }
}

/// Shows what a guest that has ended has left.
fn show_rest(vm: &mut RunningVm, observer: &mut dyn Observer) {
    vm.machine.deliver_coalesced();
    vm.say_network_fault();
    show_output(vm, observer);
    show_records(vm, observer);
}

/// Lets whoever follows a migration hear how it ended.
async fn tell_the_end(name: &str, migration: &MigrationHandle, calls: &mut mpsc::Receiver<Call>) {
    let is_told = async {
        while let Some(call) = calls.recv().await {
            let is_it = migration.is_over() && matches!(call.request, Request::Migration {});
            serve_lent(call, name, Some(migration));
            if is_it {
                return;
            }
        }
    };
    // They may be gone.
    let _ = tokio::time::timeout(TOLD, is_told).await;
}

/// Lends the guest to whoever moves it, and waits until it is given back.
async fn lend(
    vm: RunningVm,
    borrower: Borrower,
    fate: &mut Fate,
    calls: &mut mpsc::Receiver<Call>,
) -> RunningVm {
    let (name, migration) = (vm.name().to_owned(), vm.migration().ok());
    let lent = moving::lend(vm, borrower);
    tokio::pin!(lent);
    let returned = loop {
        tokio::select! {
            returned = &mut lent => break returned,
            Some(call) = calls.recv() => serve_lent(call, &name, migration.as_ref()),
        }
    };
    let Returned {
        mut vm,
        event,
        is_moved,
    } = returned;
    if let Some(event) = event {
        fate.take(&mut vm, event);
    }
    if is_moved {
        fate.stop(&mut vm, End::Moved);
    }
    vm
}

/// How a guest is coming to its end.
#[derive(Default)]
pub(super) struct Fate {
    /// Why it was told to end.
    told: Option<End>,
    /// The vCPU that ended first, why, and where.
    first: Option<(usize, End, Option<Registers>)>,
}

impl Fate {
    /// Tells the guest to end, unless it is ending already.
    pub(super) fn stop(&mut self, vm: &mut RunningVm, end: End) {
        if self.told.is_none() && self.first.is_none() {
            self.told = Some(end);
            vm.order_stop();
        }
    }

    /// Whether the guest is coming to its end.
    pub(super) fn is_sealed(&self) -> bool {
        self.told.is_some() || self.first.is_some()
    }

    fn take(&mut self, vm: &mut RunningVm, event: VcpuEvent) {
        if let VcpuEvent::Ended {
            vcpu,
            end,
            registers,
        } = event
            && self.first.is_none()
        {
            self.first = Some((vcpu, end, registers));
            vm.order_stop();
        }
    }

    fn look_at_promises(&mut self, vm: &mut RunningVm, online: &mut Vec<u32>) {
        if let Some(detail) = vm.broken_promise(online) {
            self.stop(vm, End::PromiseBroken { detail });
        }
    }

    fn outcome(self, vm: &RunningVm) -> Outcome {
        let (vcpu, end, registers) = self.first.unwrap_or((0, End::Stopped, None));
        // A vCPU that ends because it was told to says only that.
        let end = if end == End::Stopped {
            self.told.unwrap_or(end)
        } else {
            end
        };
        Outcome {
            end,
            vcpu: Some(vcpu),
            registers,
            status: vm.status(),
        }
    }
}

/// Shows new serial output; whether there was any.
fn show_output(vm: &mut RunningVm, observer: &mut dyn Observer) -> bool {
    let mut bytes = Vec::new();
    vm.output.drain(&mut bytes);
    if !bytes.is_empty() {
        observer.output(&bytes);
    }
    !bytes.is_empty()
}

/// Shows new records; whether there were any.
fn show_records(vm: &mut RunningVm, observer: &mut dyn Observer) -> bool {
    let mut any = false;
    vm.poll_records(|event| {
        any = true;
        observer.event(event);
    });
    any
}

/// Waits for this instant; for ever where there is none.
async fn is_due(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// Says when there is serial output.
struct Announcements(pipe::Receiver);

impl Announcements {
    fn of(vm: &mut RunningVm) -> std::io::Result<Self> {
        let taken = || std::io::Error::other("the serial output has a reader already");
        let reader = vm.output.take_ready().ok_or_else(taken)?;
        Ok(Self(pipe::Receiver::from_owned_fd(reader.into())?))
    }

    async fn arrived(&mut self) {
        let mut byte = [0];
        if !matches!(self.0.read(&mut byte).await, Ok(1)) {
            // The port is gone, and with it all output.
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps the signals that end a guest from this thread, on which they wait. All others of the process have blocked them,
/// or do so before the guest runs.
struct HeldSignals {
    before: SigSet,
}

impl HeldSignals {
    fn new() -> nix::Result<Self> {
        let ending = SigSet::from_iter([Signo::SIGINT, Signo::SIGTERM, Signo::SIGHUP]);
        let before = ending.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { before })
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // Fails only for a mask that cannot be.
        let _ = self.before.thread_set_mask();
    }
}

/// The signals that end a guest in good order.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn arrived(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
