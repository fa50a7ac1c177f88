//! From a plan to a running guest, one step consuming the other.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime};

use kvm_ioctls::VcpuFd;
use net::passage::PassageError;
use net::{Network, NetworkError, Port};
use sched::alignment::{Alignment, CommonInstant};
use sched::framework::{Factory, Kind, Manager, Resource};
use sched::ledger::Refusal;
use sched::ledger::{Admitted, Ledger, LedgerError};
use sched::request::Granted;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::moving::Lender;
use super::network::{self, Attach};
use super::outcome::Records;
use super::passing::Passing;
use super::running::{RunningVm, VcpuHandle};
use crate::clock::{Clock, ClockError};
use crate::desk::{Desk, Order};
use crate::device::virtio::net::{Desk as NetDesk, Worker, WorkerError};
use crate::machine::{self, Built, Machine, MachineError, MachinePlan};
use crate::snapshot::{GuestState, SnapshotError};
use crate::spec::VmPlan;
use crate::telemetry::Reader;
use crate::vcpu::{Assignment, Command, Recruit, Recruits, SetupError, VcpuEvent, kick_signals};

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
    /// The network device's thread gets no CPU time.
    #[error("the network device's thread is not admitted (network.runtime, network.period): {0}")]
    NetworkThread(Box<Refusal>),
    /// There is no port for its network device.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Its port cannot be had ready for its coming.
    #[error(transparent)]
    Passage(#[from] PassageError),
    /// The network device's thread cannot be made real-time.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A thread ended without a word.
    #[error("the thread of a vCPU ended during set-up")]
    Lost,
}

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// A VM whose reservations are in the ledger, and whose threads wait for their vCPUs.
pub struct AdmittedVm {
    plan: VmPlan,
    run_dir: PathBuf,
    ledger: Ledger,
    port: Option<Arc<Port>>,
    // Before the ledger's entry goes: threads first, then what was promised to them.
    recruits: Vec<Recruit>,
    admitted: Admitted,
}

/// Makes VMs of what they were planned to be, upon threads of [`Recruits`].
pub struct Vms<'a> {
    /// Where the ledger is.
    pub run_dir: &'a Path,
}

/// What is made is admitted, but neither built nor started.
impl Factory for Vms<'_> {
    type Specification = VmPlan;
    type Product = AdmittedVm;
    /// [`StartError::Refused`] says which bound failed and what would fit; [`StartError::Ledger`].
    type Error = StartError;

    fn make(&mut self, plan: VmPlan) -> Result<AdmittedVm, StartError> {
        self.make_with(plan, Network::attach)
    }
}

impl Vms<'_> {
    /// As [`Factory::make`], for a guest that is still elsewhere: its port is closed, so that its frames go on going there until its
    /// state is put into it ([`RunningVm::restore`]).
    ///
    /// # Errors
    /// As [`Factory::make`].
    pub fn make_for_arrival(&mut self, plan: VmPlan) -> Result<AdmittedVm, StartError> {
        self.make_with(plan, Network::attach_closed)
    }

    fn make_with(&mut self, plan: VmPlan, attach: Attach) -> Result<AdmittedVm, StartError> {
        // From here on no kick can end the process.
        kick_signals()
            .thread_block()
            .map_err(|errno| StartError::Thread {
                vcpu: 0,
                source: errno.into(),
            })?;
        let mut ledger = Ledger::open(self.run_dir)?;
        let admitted = ledger
            .reserve(&plan.name, &plan.threads())
            .map_err(|refusal| refused(refusal, plan.requests.len()))?;
        let port = network::attach(self.run_dir, plan.network.as_ref(), attach)?;
        let recruit = |granted: &Granted| {
            let vcpu = granted.vcpu;
            Recruits
                .make(granted.clone())
                .map_err(|source| StartError::Thread { vcpu, source })
        };
        let vcpus = admitted.vcpus().iter().take(plan.requests.len());
        let recruits = vcpus.map(recruit);
        let recruits = recruits.collect::<Result<_, _>>()?;
        Ok(AdmittedVm {
            plan,
            run_dir: self.run_dir.to_owned(),
            ledger,
            port,
            recruits,
            admitted,
        })
    }
}

/// A refusal, said of the thread that it is about.
fn refused(refusal: Refusal, vcpus: usize) -> StartError {
    if refusal.vcpu == Some(vcpus) {
        return StartError::NetworkThread(Box::new(refusal));
    }
    refusal.into()
}

/// A VM that stands ready to run.
pub struct BuiltVm {
    vm: AdmittedVm,
    built: Built,
    restored: Option<GuestState>,
}

impl AdmittedVm {
    /// What was admitted.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Its hold on the ledger. One process has one, and shares it: each remembers what its process has there.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn machine(&self) -> Result<Built, MachineError> {
        let vcpus = u32::try_from(self.plan.requests.len()).unwrap_or(u32::MAX);
        let plan = MachinePlan {
            memory: self.plan.memory,
            vcpus,
        };
        let network = self.plan.network.as_ref().zip(self.port.as_ref());
        let card = network.map(|(plan, port)| network::card(plan, port));
        // There is a vCPU, so there is a recruit.
        machine::build(plan, card, |errand| self.recruits[0].perform(errand))
    }

    /// Tells the ledger which threads its vCPUs are, before they have bandwidth, so that nobody counts that as a stranger's. Not
    /// by the threads themselves: they may have to wait for their CPUs while they have the ledger locked.
    fn introduce_threads(&self) -> Vec<Resource> {
        let introduce = |(index, recruit): (usize, &Recruit)| {
            if let Some(tid) = recruit.tid() {
                // Without the note others are only refused more than need be.
                let _ = self.ledger.attach(&self.plan.name, index, tid);
            }
            Resource::upon(Kind::VCPU, index.to_string(), [recruit.resource()])
        };
        self.recruits.iter().enumerate().map(introduce).collect()
    }

    /// Starts the thread of the network device, which stands in the ledger behind the vCPUs.
    fn start_worker(
        &self,
        desk: Arc<NetDesk>,
        place: usize,
    ) -> Result<Option<Worker>, WorkerError> {
        let Some(granted) = self.admitted.vcpu(place) else {
            return Ok(None);
        };
        let attach = |tid| {
            // Without the note others are only refused more than need be.
            let _ = self.ledger.attach(&self.plan.name, place, tid);
        };
        Worker::start(desk, granted.clone(), attach).map(Some)
    }

    /// Builds the machine and loads `image` into it.
    ///
    /// # Errors
    /// [`StartError::Machine`].
    pub fn build(self, image: &[u8]) -> Result<BuiltVm, StartError> {
        let built = self.machine()?;
        built.load(image, &self.plan.command_line)?;
        Ok(BuiltVm {
            vm: self,
            built,
            restored: None,
        })
    }

    /// Builds the machine and leaves it empty, for a guest that is to arrive.
    ///
    /// # Errors
    /// [`StartError::Machine`].
    pub fn prepare(self) -> Result<BuiltVm, StartError> {
        let built = self.machine()?;
        Ok(BuiltVm {
            vm: self,
            built,
            restored: None,
        })
    }

    /// Builds the machine with memory and devices of a saved guest.
    ///
    /// # Errors
    /// [`StartError::Machine`], [`StartError::Snapshot`].
    pub fn restore(self, state: GuestState, memory: &std::fs::File) -> Result<BuiltVm, StartError> {
        let built = self.machine()?;
        built.machine.take_up(&state, memory)?;
        Ok(BuiltVm {
            vm: self,
            built,
            restored: Some(state),
        })
    }
}

impl BuiltVm {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.vm.plan.name
    }

    /// Gives the threads their vCPUs, each in its reservation, and lets the guest run once all are in force. First waits
    /// until what was granted is free ([`Admitted::waits`]).
    ///
    /// # Errors
    /// [`StartError::Setup`]: then no vCPU has run, and all threads have ended.
    pub fn start(self) -> Result<RunningVm, StartError> {
        self.begin(Order::Run)
    }

    /// The same, but the guest stands still: all its threads are there, in their reservations.
    ///
    /// # Errors
    /// As [`BuiltVm::start`].
    pub fn stand(self) -> Result<RunningVm, StartError> {
        let mut vm = self.begin(Order::Pause)?;
        for _ in 0..vm.vcpus.len() {
            match vm.events.blocking_recv() {
                Some(VcpuEvent::Paused { .. }) => {}
                _ => return Err(StartError::Lost),
            }
        }
        vm.paused = true;
        Ok(vm)
    }

    /// Has all threads follow this order, once all reservations are in force.
    fn begin(self, order: Order) -> Result<RunningVm, StartError> {
        let Self {
            vm,
            built,
            restored,
        } = self;
        let comes = restored.is_some() || order == Order::Pause;
        let passing = match comes {
            true => Passing::arriving(vm.port.as_ref())?,
            false => Passing::default(),
        };
        // Before the guest's time begins.
        vm.admitted.wait_until_free();
        let clock = start_clock(&built, restored.as_ref())?;
        let Built {
            machine,
            vcpus,
            output,
            network,
        } = built;
        // Before the guest runs, and so before it records anything new.
        let reader = match &restored {
            Some(_) => Reader::from_now_on(*machine.layout(), machine.ram()),
            None => Reader::new(*machine.layout()),
        };
        let machine = Arc::new(machine);
        let (events_out, mut events) = unbounded_channel();
        let grants = &vm.admitted.vcpus()[..vcpus.len()];
        // Before any vCPU runs: they and this thread have their reservations, or none has.
        let network = network
            .map(|desk| vm.start_worker(desk, vcpus.len()))
            .transpose()?
            .flatten();
        let resources = vm.introduce_threads();
        let seats = Seats {
            plan: &vm.plan,
            machine: &machine,
            grants,
            events: events_out,
            order,
        };
        let mut handles = seats.take(vcpus, vm.recruits);
        collect_reservations(&mut events, &mut handles)?;
        if order == Order::Run {
            network.iter().for_each(Worker::run);
        }
        for handle in &handles {
            handle.command(Command::Go);
        }
        let (lender, borrowers) = Lender::new();
        let mut vm = RunningVm {
            passing,
            lender,
            borrowers,
            resource: Resource::upon(Kind::VM, vm.plan.name.clone(), &resources),
            run_dir: vm.run_dir,
            ledger: vm.ledger,
            _admitted: vm.admitted,
            reader,
            records: Records::named(vm.plan.tasks.as_deref()),
            plan: vm.plan,
            machine,
            recording: None,
            migration: None,
            vcpus: handles,
            network,
            port: vm.port,
            events,
            clock,
            output,
            paused: false,
            started: Instant::now(),
        };
        if order == Order::Run {
            vm.arrive();
        }
        Ok(vm)
    }
}

/// What the threads of vCPUs get to work with.
struct Seats<'a> {
    plan: &'a VmPlan,
    machine: &'a Arc<Machine>,
    grants: &'a [Granted],
    events: UnboundedSender<VcpuEvent>,
    order: Order,
}

impl Seats<'_> {
    /// Gives each thread its vCPU.
    fn take(self, vcpus: Vec<VcpuFd>, recruits: Vec<Recruit>) -> Vec<VcpuHandle> {
        let mut alignments = alignments(self.plan).into_iter();
        let seat = |(index, (fd, recruit)): (usize, (VcpuFd, Recruit))| {
            let desk = Arc::new(Desk::new(self.order));
            let (commands, inbox) = mpsc::channel();
            let granted = &self.grants[index];
            let thread = recruit.assign(Assignment {
                index,
                is_sole: self.grants.len() == 1,
                fd,
                machine: Arc::clone(self.machine),
                granted: granted.clone(),
                envelope: self.plan.feedback,
                alignment: alignments.next(),
                desk: Arc::clone(&desk),
                events: self.events.clone(),
                commands: inbox,
            });
            VcpuHandle::new(desk, commands, thread, granted.clone())
        };
        vcpus
            .into_iter()
            .zip(recruits)
            .enumerate()
            .map(seat)
            .collect()
    }
}

/// Where the periods of each vCPU are to begin; nothing where they are left alone. One that has no other has nobody to be
/// aligned with.
fn alignments(plan: &VmPlan) -> Vec<Alignment> {
    let phases = plan.phases.iter().filter(|phases| phases.len() > 1);
    let common = Arc::new(CommonInstant::default());
    phases
        .flatten()
        .map(|&phase| Alignment {
            common: Arc::clone(&common),
            phase,
        })
        .collect()
}

/// Starts the guest's clock: at nothing, or where a saved guest's has come to meanwhile.
fn start_clock(built: &Built, restored: Option<&GuestState>) -> Result<Clock, StartError> {
    let Some(state) = restored else {
        return Ok(Clock::start(&built.machine, &built.vcpus[0], 0)?);
    };
    let now = SystemTime::now();
    for (index, fd) in built.vcpus.iter().enumerate() {
        Clock::continue_tsc(state, index, fd, now)?;
    }
    let now = state.clock.resumed_ns(SystemTime::now());
    let clock = Clock::start(&built.machine, &built.vcpus[0], now)?;
    for (index, fd) in built.vcpus.iter().enumerate() {
        clock.restore_vcpu(state, index, fd)?;
    }
    Ok(clock)
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
