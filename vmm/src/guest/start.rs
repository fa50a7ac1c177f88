//! From a plan to a running guest, one step consuming the other.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use sched::ledger::Refusal;
use sched::ledger::{Admitted, Ledger, LedgerError};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::outcome::Records;
use super::running::{RunningVm, VcpuHandle};
use crate::clock::{Clock, ClockError};
use crate::machine::{self, Built, MachineError, MachinePlan};
use crate::snapshot::{GuestState, SnapshotError};
use crate::spec::VmPlan;
use crate::telemetry::Reader;
use crate::vcpu::{self, Assignment, Command, Desk, Order, SetupError, VcpuEvent};

/// Why a guest could not be started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Not admitted.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The image cannot be read.
    #[error("cannot read the guest image {}: {source}", path.display())]
    Image {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The machine cannot be built.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The clock cannot be set.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// A saved guest cannot be taken up.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A vCPU cannot be made real-time.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A thread cannot be started.
    #[error("cannot start the thread of vCPU {vcpu}: {source}")]
    Thread {
        /// Which vCPU.
        vcpu: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A thread ended without a word.
    #[error("the thread of a vCPU ended during set-up")]
    Lost,
}

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// A VM whose reservations are in the ledger.
pub struct AdmittedVm {
    plan: VmPlan,
    ledger: Ledger,
    admitted: Admitted,
}

/// Reserves what the plan asks for, in the ledger in `run_dir`.
///
/// # Errors
/// [`StartError::Refused`] says which bound failed and what would fit; [`StartError::Ledger`].
pub fn admit(plan: VmPlan, run_dir: &Path) -> Result<AdmittedVm, StartError> {
    let ledger = Ledger::open(run_dir)?;
    let admitted = ledger.admit(&plan.name, &plan.requests)?;
    Ok(AdmittedVm {
        plan,
        ledger,
        admitted,
    })
}

/// A VM that stands ready to run.
pub struct BuiltVm {
    plan: VmPlan,
    ledger: Ledger,
    admitted: Admitted,
    built: Built,
    /// Guest time to start at.
    base_ns: u64,
    restored: Option<GuestState>,
}

impl AdmittedVm {
    /// What was admitted.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    fn machine_plan(&self) -> MachinePlan {
        let vcpus = u32::try_from(self.plan.requests.len()).unwrap_or(u32::MAX);
        MachinePlan {
            memory: self.plan.memory,
            vcpus,
        }
    }

    /// Builds the machine and loads `image` into it.
    ///
    /// # Errors
    /// [`StartError::Machine`].
    pub fn build(self, image: &[u8]) -> Result<BuiltVm, StartError> {
        let built = machine::build(self.machine_plan())?;
        built.load(image, &self.plan.command_line)?;
        Ok(self.with(built, 0, None))
    }

    /// Builds the machine around the memory of a saved guest.
    ///
    /// # Errors
    /// [`StartError::Machine`], [`StartError::Snapshot`].
    pub fn restore(self, state: GuestState, memory: &std::fs::File) -> Result<BuiltVm, StartError> {
        let built = machine::build(self.machine_plan())?;
        built.machine.take_up(&state, memory)?;
        let base_ns = state.clock.resumed_ns(std::time::SystemTime::now());
        Ok(self.with(built, base_ns, Some(state)))
    }

    fn with(self, built: Built, base_ns: u64, restored: Option<GuestState>) -> BuiltVm {
        let Self {
            plan,
            ledger,
            admitted,
        } = self;
        BuiltVm {
            plan,
            ledger,
            admitted,
            built,
            base_ns,
            restored,
        }
    }
}

impl BuiltVm {
    /// Starts the vCPU threads, each in its reservation, and lets the guest run once all are in force.
    ///
    /// # Errors
    /// [`StartError::Setup`]: then no vCPU has run, and all threads have ended.
    pub fn start(self) -> Result<RunningVm, StartError> {
        let Built {
            machine,
            vcpus,
            output,
        } = self.built;
        if let Some(state) = &self.restored {
            Clock::continue_tsc(state, &vcpus, std::time::SystemTime::now())?;
        }
        let clock = Clock::start(&machine, &vcpus[0], self.base_ns)?;
        if let Some(state) = &self.restored {
            clock.restore_vcpus(state, &vcpus)?;
        }
        let machine = Arc::new(machine);
        let (events_out, mut events) = unbounded_channel();
        let mut handles = Vec::new();
        for (index, (fd, granted)) in vcpus.into_iter().zip(self.admitted.vcpus()).enumerate() {
            let desk = Arc::new(Desk::new(Order::Run));
            let (commands, inbox) = mpsc::channel();
            let assignment = Assignment {
                index,
                fd,
                machine: Arc::clone(&machine),
                granted: granted.clone(),
                desk: Arc::clone(&desk),
                events: events_out.clone(),
                commands: inbox,
            };
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || vcpu::run(assignment))
                .map_err(|source| StartError::Thread {
                    vcpu: index,
                    source,
                })?;
            handles.push(VcpuHandle::new(desk, commands, thread, granted.clone()));
        }
        drop(events_out);
        collect_reservations(&mut events, &mut handles)?;
        for (index, handle) in handles.iter().enumerate() {
            self.ledger.attach(&self.plan.name, index, handle.tid())?;
        }
        for handle in &handles {
            handle.command(Command::Go);
        }
        let reader = Reader::new(*machine.layout());
        let records = Records::named(self.plan.tasks.as_deref());
        Ok(RunningVm {
            plan: self.plan,
            ledger: self.ledger,
            _admitted: self.admitted,
            machine,
            vcpus: handles,
            events,
            clock,
            output,
            reader,
            records,
            paused: false,
            started: Instant::now(),
        })
    }
}

/// Waits until every vCPU has its reservation. If one has not, all handles are dropped, and with them every thread.
fn collect_reservations(
    events: &mut UnboundedReceiver<VcpuEvent>,
    handles: &mut [VcpuHandle],
) -> Result<(), StartError> {
    for _ in 0..handles.len() {
        match events.blocking_recv() {
            Some(VcpuEvent::Ready {
                vcpu,
                tid,
                reservation,
            }) => handles[vcpu].ready(tid, reservation?),
            _ => return Err(StartError::Lost),
        }
    }
    Ok(())
}
