//! A vCPU's thread: its set-up into a reservation, and the loop it runs.
//!
//! The thread makes one KVM_RUN that returns at once before it takes its policy: the first KVM_RUN of a VM forks a
//! kernel worker, which a SCHED_DEADLINE thread may not, and KVM_RUN would answer EAGAIN for ever.
//!
//! All signals are blocked on the thread but two, and these two only arrive inside KVM_RUN (KVM_SET_SIGNAL_MASK): none
//! is lost between a check and the entry, and no signal handler exists. What arrived is read from a signalfd.

mod recruit;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sched::account::Account;
use sched::alignment::Alignment;
use sched::backend::{self, CpuReservation};
use sched::budget::{BudgetError, BudgetTimer};
use sched::feedback::{Envelope, Follower};
use sched::framework::Machine as MessageMachine;
use sched::kernel::Tid;
use sched::request::{BackendKind, Enforcement, Granted};
use sched::reservation::Reservation;
use tokio::sync::mpsc::UnboundedSender;

use crate::desk::{Desk, Order};
use crate::device::{Effect, IOAPIC_EOI};
use crate::exit::{Decision, End, decide};
use crate::kernel;
use crate::machine::Machine;
use crate::report::Registers;
use crate::snapshot::{SnapshotError, VcpuState, complete_exit};

pub use recruit::{Errand, Recruit, Recruits};

/// Ends KVM_RUN because the owner wants something.
const KICK: Signal = Signal::SIGUSR1;
/// Ends KVM_RUN because the budget timer fired.
const BUDGET: Signal = Signal::SIGUSR2;
/// How often a vCPU that stands still looks at its order, should the command be missed.
const STANDING: Duration = Duration::from_millis(100);
/// KVM_RUN answering EAGAIN this often in a row will never do anything else.
const TOO_MANY_RETRIES: u32 = 10_000;

/// Something that a vCPU's own thread does with it.
pub type VcpuErrand = Box<dyn FnOnce(&mut VcpuFd) + Send>;

/// Commands to a vCPU that stands still.
pub enum Command {
    /// Follow the order.
    Go,
    /// Tell the state of the vCPU.
    Save(Sender<Result<VcpuState, SnapshotError>>),
    /// Do this.
    Do(VcpuErrand),
}

/// What a vCPU tells its owner.
pub enum VcpuEvent {
    /// Its reservation is in force, or could not be had.
    Ready {
        /// Which vCPU.
        vcpu: usize,
        /// Its thread.
        tid: Tid,
        /// The reservation in force.
        reservation: Result<Box<dyn CpuReservation>, SetupError>,
    },
    /// It stands still.
    Paused {
        /// Which vCPU.
        vcpu: usize,
    },
    /// It is over.
    Ended {
        /// Which vCPU.
        vcpu: usize,
        /// Why.
        end: End,
        /// Where it was.
        registers: Option<Registers>,
    },
}

/// Why a vCPU's thread could not be made real-time.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The thread could not be prepared.
    #[error("cannot prepare the thread of vCPU {vcpu} ({step}): {source}")]
    Thread {
        /// Which vCPU.
        vcpu: usize,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The reservation could not be put in force.
    #[error("the reservation of vCPU {vcpu} cannot be put in force: {source}")]
    Reservation {
        /// Which vCPU.
        vcpu: usize,
        /// Why.
        source: backend::BackendError,
    },
    /// Budgets cannot be ended on time.
    #[error("the budget of vCPU {vcpu} cannot be enforced exactly: {source}")]
    Budget {
        /// Which vCPU.
        vcpu: usize,
        /// Why.
        source: BudgetError,
    },
}

/// What a vCPU thread is given.
pub struct Assignment {
    /// Which vCPU.
    pub index: usize,
    /// Whether there is no other, so that it need not wait for any.
    pub is_sole: bool,
    /// The vCPU.
    pub fd: VcpuFd,
    /// The machine.
    pub machine: Arc<Machine>,
    /// What was admitted.
    pub granted: Granted,
    /// Where its budget follows its need: what is granted is the greatest.
    pub envelope: Option<Envelope>,
    /// Where its periods are to begin.
    pub alignment: Option<Alignment>,
    /// Shared with the owner.
    pub desk: Arc<Desk>,
    /// Where events go.
    pub events: UnboundedSender<VcpuEvent>,
    /// Where commands come from.
    pub commands: Receiver<Command>,
}

/// Ends the KVM_RUN of a vCPU thread, or the next one if it is outside.
pub fn kick(thread: &std::thread::JoinHandle<()>) {
    use std::os::unix::thread::JoinHandleExt;
    // The thread has ended: then there is nothing to kick.
    let _ = nix::sys::pthread::pthread_kill(thread.as_pthread_t(), KICK);
}

/// The signals that end KVM_RUN. Whoever starts vCPU threads blocks them first: a kick that comes before a thread has
/// set its own mask must not end the process.
#[must_use]
pub fn kick_signals() -> SigSet {
    SigSet::from_iter([KICK, BUDGET])
}

/// The body of a vCPU's thread.
fn run(assignment: Assignment) {
    let vcpu = assignment.index;
    let events = assignment.events.clone();
    // The owner is gone only when the process ends; there is nobody left to tell.
    let mut thread = match VcpuThread::set_up(assignment) {
        Ok((thread, reservation)) => {
            let _ = events.send(VcpuEvent::Ready {
                vcpu,
                tid: Tid::current(),
                reservation: Ok(reservation),
            });
            thread
        }
        Err(error) => {
            let _ = events.send(VcpuEvent::Ready {
                vcpu,
                tid: Tid::current(),
                reservation: Err(error),
            });
            return;
        }
    };
    // All vCPUs run or none: wait until every other one is ready.
    if !thread.assignment.is_sole && !matches!(thread.assignment.commands.recv(), Ok(Command::Go)) {
        return;
    }
    let end = thread.run();
    thread.publish();
    let registers = Registers::read(&thread.assignment.fd);
    let _ = events.send(VcpuEvent::Ended {
        vcpu,
        end,
        registers,
    });
}

struct VcpuThread {
    assignment: Assignment,
    signals: SignalFd,
    budget: Option<BudgetTimer>,
    follower: Option<Follower>,
    account: Account,
    retries: u32,
}

impl VcpuThread {
    fn set_up(mut assignment: Assignment) -> Result<(Self, Box<dyn CpuReservation>), SetupError> {
        let vcpu = assignment.index;
        let failed = |step| {
            move |e: nix::Error| SetupError::Thread {
                vcpu,
                step,
                source: e.into(),
            }
        };
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
            .map_err(failed("block signals"))?;
        let ours = kick_signals();
        let signals = SignalFd::with_flags(&ours, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(failed("open a signalfd"))?;
        let blocked = !(bit(KICK) | bit(BUDGET));
        kernel::set_run_signal_mask(&assignment.fd, blocked).map_err(|source| {
            SetupError::Thread {
                vcpu,
                step: "set the signal mask of KVM_RUN",
                source,
            }
        })?;
        enter_once(&mut assignment.fd);
        let granted = &assignment.granted;
        let envelope = assignment.envelope;
        let reservation = match envelope {
            Some(envelope) => backend::apply_within(Tid::current(), granted, envelope),
            None => backend::apply(Tid::current(), granted),
        };
        let reservation = reservation.map_err(|source| SetupError::Reservation { vcpu, source })?;
        let budget = exact_budget(granted).map_err(|source| SetupError::Budget { vcpu, source })?;
        let budget = match (budget, assignment.alignment.take()) {
            (Some(budget), Some(alignment)) => Some(budget.aligned(alignment)),
            (budget, _) => budget,
        };
        let follower = envelope.map(|envelope| Follower::new(envelope, granted.surplus));
        let account = Account::new(granted.request.reservation);
        let thread = Self {
            assignment,
            signals,
            budget,
            follower,
            account,
            retries: 0,
        };
        Ok((thread, reservation))
    }

    fn run(&mut self) -> End {
        self.arm();
        loop {
            match self.assignment.desk.order() {
                Order::Run => {
                    if let Some(end) = self.step() {
                        return end;
                    }
                }
                Order::Pause => self.stand_still(),
                Order::Stop => return End::Stopped,
            }
        }
    }

    /// Runs the guest until its next exit, and serves that.
    fn step(&mut self) -> Option<End> {
        let exit = match self.assignment.fd.run() {
            Ok(exit) => exit,
            Err(error) => return self.interrupted(error.errno()),
        };
        self.retries = 0;
        let machine = &self.assignment.machine;
        machine.deliver_coalesced();
        let effect = match serve(machine, exit) {
            Some(effect) => effect,
            None => Effect::End(self.internal_error()),
        };
        match effect {
            Effect::None => None,
            Effect::End(end) => Some(end),
        }
    }

    /// KVM_RUN failed, in most cases because a signal came.
    fn interrupted(&mut self, errno: i32) -> Option<End> {
        match errno {
            libc::EINTR => self.retries = 0,
            libc::EAGAIN if self.retries < TOO_MANY_RETRIES => self.retries += 1,
            _ => {
                let error = std::io::Error::from_raw_os_error(errno);
                return Some(End::KvmFailure {
                    detail: format!("KVM_RUN: {error}"),
                });
            }
        }
        self.assignment.machine.deliver_coalesced();
        let mut budget_used = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            budget_used |= signal.ssi_signo == BUDGET as u32;
        }
        if let Some((reservation, surplus)) = self.assignment.desk.take_change() {
            if let Err(error) = self.take_over(reservation, surplus) {
                return Some(End::PromiseBroken {
                    detail: error.to_string(),
                });
            }
        } else if budget_used {
            self.budget_used();
        }
        if self.assignment.desk.is_asked() {
            self.publish();
        }
        None
    }

    /// The budget timer fired.
    fn budget_used(&mut self) {
        let Some(budget) = &mut self.budget else {
            return;
        };
        match &mut self.follower {
            Some(follower) => {
                let asleep = is_halted(&self.assignment.fd);
                follower.on_expiry(budget, &mut self.account, asleep);
            }
            None => drop(budget.on_expiry(&mut self.account)),
        }
    }

    /// The owner changed the reservation: measure and enforce against the new one.
    fn take_over(
        &mut self,
        reservation: Reservation,
        surplus: Duration,
    ) -> Result<(), BudgetError> {
        self.account.adapt(reservation);
        if let Some(budget) = &mut self.budget {
            budget.adapt(surplus, 0)?;
            budget.arm();
        }
        Ok(())
    }

    fn internal_error(&mut self) -> End {
        let (suberror, data) = kernel::internal_error(&mut self.assignment.fd);
        let what = match suberror {
            1 => "an instruction that KVM cannot emulate",
            2 => "an exit while an event was being delivered",
            3 => "an exit that KVM did not expect while delivering an event",
            4 => "an exit reason that KVM does not know",
            _ => "an internal error",
        };
        End::KvmFailure {
            detail: format!("{what} (suberror {suberror}, data {data:x?})"),
        }
    }

    /// Paused: serves commands until the order changes.
    fn stand_still(&mut self) {
        // Whoever is told that it stands still counts on its writing nothing any more.
        let Assignment { fd, machine, .. } = &mut self.assignment;
        complete_exit(fd, |exit| {
            // An end is seen again when the guest goes on.
            let _ = serve(machine, exit);
        });
        self.publish();
        let vcpu = self.assignment.index;
        let _ = self.assignment.events.send(VcpuEvent::Paused { vcpu });
        // The order is what counts; a command may be one from before.
        while self.assignment.desk.order() == Order::Pause {
            match self.assignment.commands.recv_timeout(STANDING) {
                Ok(command) => self.process(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.arm();
    }

    fn arm(&mut self) {
        match (&mut self.budget, &mut self.follower) {
            (Some(budget), Some(follower)) => follower.restart(budget),
            (Some(budget), None) => budget.arm(),
            (None, _) => {}
        }
    }

    /// Leaves a fresh account on the desk, unless somebody is reading the last one.
    fn publish(&mut self) {
        self.account.consumed(sched::kernel::thread_cpu_time());
        let mut account = self.account.snapshot();
        if !self.budget.as_ref().is_some_and(BudgetTimer::ends_budgets) {
            account.budgets = None;
        }
        account.feedback = self.follower.as_ref().map(Follower::standing);
        self.assignment.desk.leave(account);
    }
}

/// What it is told while it stands still.
impl MessageMachine for VcpuThread {
    type Message = Command;
    type Reply = ();

    fn process(&mut self, command: Command) {
        match command {
            // It is the order that says whether to go on.
            Command::Go => {}
            Command::Do(errand) => errand(&mut self.assignment.fd),
            Command::Save(reply) => {
                let Assignment { fd, machine, .. } = &mut self.assignment;
                let state = VcpuState::save(fd, |exit| {
                    // An end is seen again when the guest goes on.
                    let _ = serve(machine, exit);
                });
                // Whoever asked may have given up.
                let _ = reply.send(state);
            }
        }
    }
}

/// Makes happen what an exit means. `None` for KVM's internal errors, of which the vCPU knows more.
pub fn serve(machine: &Machine, exit: VcpuExit<'_>) -> Option<Effect> {
    Some(match decide(exit) {
        Decision::PortRead(port, data) => {
            machine.ports().read(u64::from(port), data);
            Effect::None
        }
        Decision::PortWrite(port, data) => machine.ports().write(u64::from(port), data),
        Decision::MmioRead(address, data) => {
            machine.mmio().read(address, data);
            Effect::None
        }
        Decision::MmioWrite(address, data) => machine.mmio().write(address, data),
        Decision::EndOfInterrupt(vector) => machine.mmio().write(IOAPIC_EOI, &[vector]),
        Decision::Resume => Effect::None,
        Decision::End(end) => Effect::End(end),
        Decision::InternalError => return None,
    })
}

/// The timer that ends this thread's budgets, if they are to be ended exactly.
fn exact_budget(granted: &Granted) -> Result<Option<BudgetTimer>, BudgetError> {
    let exact = granted.request.backend == BackendKind::Deadline
        && granted.request.enforcement == Enforcement::Exact;
    exact
        .then(|| BudgetTimer::new(BUDGET as i32, granted.surplus, 0))
        .transpose()
}

/// Whether the vCPU waits for an interrupt. KVM keeps the local APIC, and so the waiting, to itself (HLT makes no exit).
fn is_halted(fd: &VcpuFd) -> bool {
    // One that cannot be read has something to do, which costs no more than a needless look at the budget.
    fd.get_mp_state()
        .is_ok_and(|state| state.mp_state == kvm_bindings::KVM_MP_STATE_HALTED)
}

/// One KVM_RUN that returns at once. Its error is the expected EINTR; any other shows again at the next one.
fn enter_once(fd: &mut VcpuFd) {
    fd.set_kvm_immediate_exit(1);
    let _ = fd.run();
    fd.set_kvm_immediate_exit(0);
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}
