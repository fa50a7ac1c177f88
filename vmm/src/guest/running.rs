//! A running guest and everything that may be done to it. There is one owner: all of it takes `&mut self`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use net::Port;
use sched::account::AccountSnapshot;
use sched::admission::demand;
use sched::backend::{BackendError, CpuReservation, Tid};
use sched::cpus;
use sched::framework::{Job, Manager, Resource};
use sched::ledger::{Admitted, Bound, Change, Ledger, Refusal};
use sched::request::{BackendKind, Granted, Placement};
use sched::reservation::Reservation;
use tokio::sync::mpsc::UnboundedReceiver;

use super::change::ChangeError;
use super::moving::{Borrower, Lender};
use super::network;
use super::outcome::{GuestStatus, Records, VcpuStatus};
use super::recording::Recording;
use crate::clock::Clock;
use crate::desk::{Desk, Order};
use crate::device::SerialOutput;
use crate::device::virtio::net::Worker;
use crate::machine::Machine;
use crate::moving::source::Migration;
use crate::spec::VmPlan;
use crate::telemetry::{Event, Reader};
use crate::vcpu::{Command, VcpuEvent, kick};

/// How long the owner waits for a vCPU thread that it has asked for something. Longer than the longest period of
/// SCHED_DEADLINE (4.19 s): the thread may be throttled at the moment.
pub(super) const PATIENCE: Duration = Duration::from_secs(6);

/// How long a status waits for a fresh account: a throttled thread has none, and its last one is no older than a period.
const ACCOUNT_PATIENCE: Duration = Duration::from_millis(10);

/// The owner's hold on a vCPU thread. Dropping it ends the thread.
pub(super) struct VcpuHandle {
    desk: Arc<Desk>,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    granted: Granted,
    in_force: Option<(Tid, Box<dyn CpuReservation>)>,
}

impl VcpuHandle {
    pub(super) fn new(
        desk: Arc<Desk>,
        commands: Sender<Command>,
        thread: Option<JoinHandle<()>>,
        granted: Granted,
    ) -> Self {
        Self {
            desk,
            commands: Some(commands),
            thread,
            granted,
            in_force: None,
        }
    }

    pub(super) fn ready(&mut self, tid: Tid, reservation: Box<dyn CpuReservation>) {
        self.in_force = Some((tid, reservation));
    }

    /// The thread; set once it is ready.
    pub(super) fn tid(&self) -> Tid {
        self.in_force
            .as_ref()
            .map_or_else(Tid::current, |(tid, _)| *tid)
    }

    /// A thread that has ended takes no commands, and its end has been announced.
    pub(super) fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }

    fn order(&self, order: Order) {
        self.desk.set(order);
        self.kick();
    }

    fn kick(&self) {
        if let Some(thread) = self.thread.as_ref().filter(|thread| !thread.is_finished()) {
            kick(thread);
        }
    }

    /// The account as it is now; the last one if the thread does not answer in time (throttled, paused or over).
    fn account(&self) -> Option<AccountSnapshot> {
        self.desk.ask_account();
        self.kick();
        let asked = Instant::now();
        // A thread that has ended has left its last account.
        let is_over = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        while asked.elapsed() < ACCOUNT_PATIENCE && !is_over() {
            if let (Some(account), false) = self.desk.account() {
                return Some(account);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.desk.account().0
    }

    /// Why what it was promised is not in force any more. A thread that has ended needs nothing, and a setting that cannot
    /// be read at the moment proves nothing.
    fn broken(&self) -> Option<BackendError> {
        let (_, reservation) = self.in_force.as_ref()?;
        let error = reservation.in_force().err()?;
        let is_broken = match error {
            BackendError::Displaced { .. } => true,
            BackendError::NotInForce { .. } | BackendError::GroupNotInForce { .. } => {
                self.granted.request.reservation.is_some()
            }
            _ => false,
        };
        is_broken.then_some(error)
    }

    /// Its status, with this account.
    fn status(&self, account: Option<AccountSnapshot>) -> VcpuStatus {
        VcpuStatus {
            tid: self.tid().0,
            granted: self.granted.clone(),
            in_force: match &self.in_force {
                Some((_, reservation)) => reservation.in_force().map_err(|e| e.to_string()),
                None => Err("not started".to_owned()),
            },
            account,
            throttling: self.in_force.as_ref().and_then(|(_, r)| r.throttling()),
        }
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.order(Order::Stop);
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
        // The kernel took back what a thread had that is gone; its number may be a stranger's by now.
        let left_behind = |kind| matches!(kind, BackendKind::RtCgroup | BackendKind::CfsQuota);
        if let Some((_, mut reservation)) = self.in_force.take()
            && left_behind(reservation.kind())
            && let Err(error) = reservation.release()
        {
            tracing::warn!("a reservation was not given back: {error}");
        }
    }
}

/// A guest that runs or stands still.
pub struct RunningVm {
    pub(super) resource: Resource,
    pub(super) plan: VmPlan,
    pub(super) run_dir: PathBuf,
    pub(super) ledger: Ledger,
    // Before the migration ends, which may be waiting for the guest.
    pub(super) borrowers: UnboundedReceiver<Borrower>,
    // End before the machine whose log they read.
    pub(super) recording: Option<Recording>,
    pub(super) migration: Option<Migration>,
    pub(super) vcpus: Vec<VcpuHandle>,
    pub(super) network: Option<Worker>,
    pub(super) machine: Arc<Machine>,
    pub(super) port: Option<Arc<Port>>,
    // Dropped after the threads and the port: bandwidth is free in the kernel before it is free in the ledger, and who was
    // told that the name is free there finds no port of it.
    pub(super) _admitted: Admitted,
    pub(super) events: UnboundedReceiver<VcpuEvent>,
    pub(super) lender: Lender,
    pub(super) clock: Clock,
    pub(super) output: SerialOutput,
    pub(super) reader: Reader,
    pub(super) records: Records,
    pub(super) paused: bool,
    pub(super) started: Instant,
}

impl RunningVm {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What it was planned to be. Its reservations may have been changed since.
    #[must_use]
    pub fn plan(&self) -> &VmPlan {
        &self.plan
    }

    /// Its status now.
    #[must_use]
    pub fn status(&self) -> GuestStatus {
        self.status_with(VcpuHandle::account)
    }

    /// Its status as far as it is known without a word from its vCPUs, which are not disturbed: their accounts are the
    /// last that they left.
    #[must_use]
    pub fn seen(&self) -> GuestStatus {
        self.status_with(|vcpu| vcpu.desk.account().0)
    }

    fn status_with(&self, account: impl Fn(&VcpuHandle) -> Option<AccountSnapshot>) -> GuestStatus {
        let mut records = self.records.clone();
        records.losses = self.reader.losses();
        GuestStatus {
            name: self.plan.name.clone(),
            pid: std::process::id(),
            state: if self.paused { "paused" } else { "running" }.to_owned(),
            uptime: self.started.elapsed().as_secs_f64(),
            memory: self.plan.memory.size,
            vcpus: self
                .vcpus
                .iter()
                .map(|vcpu| vcpu.status(account(vcpu)))
                .collect(),
            records,
            serial_lost: self.output.lost(),
            network: self.network_status(),
        }
    }

    /// Why the promises to this guest no longer hold, if they do not: a CPU was taken offline, or somebody else changed
    /// what the kernel enforces. `online` are the CPUs that were online at the last look.
    pub(super) fn broken_promise(&self, online: &mut Vec<u32>) -> Option<String> {
        let mut vcpus = self.vcpus.iter().enumerate();
        let broken = vcpus.find_map(|(vcpu, handle)| Some((vcpu, handle.broken()?)));
        if let Some((vcpu, error)) = broken {
            return Some(format!("vCPU {vcpu}: {error}"));
        }
        if let Some(error) = self.network.as_ref().and_then(network::broken) {
            return Some(format!("network device: {error}"));
        }
        // No answer now is looked for again at the next look.
        let now = cpus::listed_online()?;
        let gone: Vec<_> = online
            .iter()
            .filter(|cpu| !now.contains(cpu))
            .copied()
            .collect();
        if gone.is_empty() {
            *online = now;
            return None;
        }
        // Where a thread may run on any CPU, the kernel takes a CPU away as long as all reservations fit on average.
        // The network device's thread stands in the ledger behind the vCPUs.
        let vcpus = self.vcpus.iter().map(|vcpu| &vcpu.granted);
        let mut threads = vcpus
            .chain(self.network.iter().map(Worker::granted))
            .enumerate();
        let refusal = threads.find_map(|(place, granted)| self.readmit(place, granted).err());
        match refusal {
            None => {
                *online = now;
                None
            }
            Some(refusal) if matches!(refusal.bound, Bound::Global { .. }) => {
                let gone = cpus::format(&gone);
                Some(format!("CPUs {gone} were taken offline: {refusal}"))
            }
            // A transfer is under way, or the ledger cannot be read: seen again at the next look.
            Some(_) => None,
        }
    }

    fn readmit(&self, place: usize, granted: &Granted) -> Result<(), Refusal> {
        match (granted.placement, granted.request.reservation) {
            (Placement::Global, Some(reservation)) => {
                let same = [Change::new(&self.plan.name, place, reservation)];
                self.ledger.exchange(&same, &same).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Reads what the guest has recorded since the last call.
    pub fn poll_records(&mut self, mut take: impl FnMut(&Event)) {
        let records = &mut self.records;
        self.reader.poll(self.machine.ram(), |event| {
            records.add(&event);
            take(&event);
        });
    }

    /// Stops all vCPUs where they are. Returns what came instead, should the guest end meanwhile.
    ///
    /// # Errors
    /// Names the vCPU that did not answer; all go on then.
    pub async fn pause(&mut self) -> Result<Option<VcpuEvent>, String> {
        if self.paused {
            return Ok(None);
        }
        for vcpu in &self.vcpus {
            vcpu.order(Order::Pause);
        }
        let mut standing = vec![false; self.vcpus.len()];
        while standing.contains(&false) {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(VcpuEvent::Paused { vcpu })) => standing[vcpu] = true,
                Ok(Some(other)) => return Ok(Some(other)),
                Ok(None) => return Err("the guest has ended".to_owned()),
                Err(_) => {
                    self.go_on();
                    let late = standing.iter().filter(|stands| !**stands).count();
                    return Err(format!(
                        "{late} vCPUs did not stand still within {PATIENCE:?}"
                    ));
                }
            }
        }
        // After the vCPUs: one that resets the device waits for nobody who stands still.
        if let Some(Err(reason)) = self.network.as_ref().map(Worker::pause) {
            self.go_on();
            return Err(reason);
        }
        self.paused = true;
        Ok(None)
    }

    /// Lets a paused guest go on.
    pub fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            self.go_on();
        }
    }

    fn go_on(&self) {
        self.network.iter().for_each(Worker::run);
        for vcpu in &self.vcpus {
            vcpu.desk.set(Order::Run);
            vcpu.command(Command::Go);
        }
    }

    /// Changes the reservation of one vCPU; those of the others stay.
    ///
    /// # Errors
    /// [`ChangeError`]; the old reservation stays.
    pub fn adapt(&mut self, vcpu: usize, new: Reservation) -> Result<VcpuStatus, ChangeError> {
        self.changeable(vcpu)?;
        let mut reservations = self.sched_param();
        reservations[vcpu] = Some(new);
        self.set_sched_param(reservations)?;
        Ok(self.status_after_change(vcpu))
    }

    /// Makes the kernel enforce what the ledger grants, the shrinking ones first; all or none.
    fn put_all_in_force(&mut self, granted: Vec<Granted>) -> Result<(), ChangeError> {
        let old: Vec<_> = self.vcpus.iter().map(|v| v.granted.clone()).collect();
        let mut order = granted;
        order.sort_by_key(|new| demand(&new.request) > demand(&old[new.vcpu].request));
        let mut done = Vec::new();
        for new in order {
            let vcpu = new.vcpu;
            if let Err(error) = self.put_in_force(vcpu, new) {
                let given_back = done.into_iter().rev();
                given_back.for_each(|vcpu: usize| self.put_back(vcpu, old[vcpu].clone()));
                return Err(error);
            }
            done.push(vcpu);
        }
        Ok(())
    }

    fn put_back(&mut self, vcpu: usize, old: Granted) {
        if let Err(error) = self.put_in_force(vcpu, old) {
            tracing::warn!("vCPU {vcpu} does not get its reservation back: {error}");
        }
    }

    /// What the ledger grants a vCPU; nothing if it cannot be read.
    fn granted_by_ledger(&self, vcpu: usize) -> Option<Granted> {
        let entries = self.ledger.entries().ok()?;
        let entry = entries.iter().find(|entry| entry.vm == self.plan.name)?;
        Some(entry.vcpus.get(vcpu)?.granted.clone())
    }

    /// Puts in force what the ledger says, where that is something else: whoever changed it may have ended before it said
    /// so. If somebody is just about to say it, saying it twice does no harm.
    fn follow_ledger(&mut self, vcpu: usize) {
        let Some(granted) = self.granted_by_ledger(vcpu) else {
            return;
        };
        if let Err(error) = self.put_in_force(vcpu, granted) {
            tracing::warn!("vCPU {vcpu} is not given what the ledger says: {error}");
        }
    }

    /// Puts in force what the ledger grants already, because another process admitted a change of several guests.
    ///
    /// # Errors
    /// [`ChangeError::NotGranted`] unless the ledger says exactly this.
    pub fn enforce(&mut self, vcpu: usize, new: Reservation) -> Result<VcpuStatus, ChangeError> {
        self.changeable(vcpu)?;
        let granted = self
            .granted_by_ledger(vcpu)
            .filter(|granted| granted.request.reservation == Some(new))
            .ok_or(ChangeError::NotGranted { vcpu })?;
        self.put_in_force(vcpu, granted)?;
        Ok(self.status_after_change(vcpu))
    }

    /// The reservation of a vCPU, if it has one.
    ///
    /// # Errors
    /// [`ChangeError::NoVcpu`].
    pub fn reservation(&self, vcpu: usize) -> Result<Option<Reservation>, ChangeError> {
        let last = self.vcpus.len() - 1;
        let handle = self
            .vcpus
            .get(vcpu)
            .ok_or(ChangeError::NoVcpu { vcpu, last })?;
        Ok(handle.granted.request.reservation)
    }

    /// The reservation of a vCPU, if it has one, for somebody who is to change it.
    ///
    /// # Errors
    /// [`ChangeError::NoVcpu`], and [`ChangeError::Follows`] for one that changes it itself.
    pub fn changeable(&self, vcpu: usize) -> Result<Option<Reservation>, ChangeError> {
        let reservation = self.reservation(vcpu)?;
        match self.plan.feedback {
            Some(envelope) => Err(ChangeError::Follows {
                vcpu,
                least: envelope.least(),
                greatest: envelope.greatest(),
            }),
            None => Ok(reservation),
        }
    }

    /// Makes the kernel enforce what was granted.
    ///
    /// # Errors
    /// [`ChangeError::Kernel`]; the old reservation stays in force.
    pub fn put_in_force(&mut self, vcpu: usize, granted: Granted) -> Result<(), ChangeError> {
        let Some(new) = granted.request.reservation else {
            return Err(ChangeError::NoReservation { vcpu });
        };
        let handle = &mut self.vcpus[vcpu];
        if let Some((_, reservation)) = &mut handle.in_force {
            reservation.adapt(new)?;
        }
        handle.desk.announce_change(new, granted.surplus);
        handle.granted = granted;
        handle.kick();
        Ok(())
    }

    /// The status of a vCPU without waiting for a fresh account.
    pub(super) fn status_after_change(&self, vcpu: usize) -> VcpuStatus {
        let handle = &self.vcpus[vcpu];
        handle.status(handle.desk.account().0)
    }

    /// Where it can be asked for while it is supervised.
    #[must_use]
    pub fn lender(&self) -> Lender {
        self.lender.clone()
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Orders all vCPUs to end; their ends arrive as events.
    pub fn order_stop(&mut self) {
        for vcpu in &self.vcpus {
            vcpu.order(Order::Stop);
            vcpu.command(Command::Go);
        }
    }
}

/// Its vCPUs' reservations, by index; nothing for one whose back end makes no promise.
impl Job for RunningVm {
    type Param = Vec<Option<Reservation>>;
    type Error = ChangeError;

    fn resource(&self) -> &Resource {
        &self.resource
    }

    fn sched_param(&self) -> Vec<Option<Reservation>> {
        let vcpus = self.vcpus.iter();
        vcpus.map(|vcpu| vcpu.granted.request.reservation).collect()
    }

    /// Ledger, kernel, read-back.
    fn set_sched_param(&mut self, new: Vec<Option<Reservation>>) -> Result<(), ChangeError> {
        let name = &self.plan.name;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (vcpu, (old, new)) in self.sched_param().into_iter().zip(new).enumerate() {
            match (old, new) {
                (Some(old), Some(new)) if old != new => {
                    self.changeable(vcpu)?;
                    before.push(Change::new(name, vcpu, old));
                    after.push(Change::new(name, vcpu, new));
                }
                (None, Some(_)) => return Err(ChangeError::NoReservation { vcpu }),
                _ => {}
            }
        }
        // Not if another guest is just taking some of it.
        let granted = match self.ledger.exchange(&before, &after) {
            Ok(granted) => granted,
            Err(refusal) => {
                if matches!(refusal.bound, Bound::Changed) {
                    before
                        .iter()
                        .for_each(|change| self.follow_ledger(change.vcpu));
                }
                return Err(refusal.into());
            }
        };
        self.put_all_in_force(granted).inspect_err(|_| {
            // What was there fits still: the kernel has it in force.
            if let Err(refusal) = self.ledger.adapt(&before) {
                tracing::warn!("the ledger does not show what is in force: {refusal}");
            }
        })
    }
}
