//! A guest's state taken out of its vCPUs and devices, put into those of another machine, and the hands that do both while it is moved.
//!
//! A guest that arrives has its threads, its reservations and its memory before its state comes, so that what is left to do while it
//! stands still is to set registers.

use std::io;
use std::sync::{Arc, mpsc};
use std::time::SystemTime;

use kvm_ioctls::VcpuFd;
use migration::ram::{Machine as Moved, Part};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::running::{PATIENCE, RunningVm};
use crate::clock::Clock;
use crate::dirty::{Beginning, DirtyPages, GuestPages};
use crate::moving::source::{Leaving, Migration, MigrationHandle};
use crate::moving::{MigrationError, MigrationRequest};
use crate::snapshot::{self, GuestState, SnapshotError};
use crate::telemetry::Reader;
use crate::vcpu::{Command, VcpuEvent};

impl RunningVm {
    /// Its memory by pages.
    #[must_use]
    pub fn pages(&self) -> GuestPages {
        GuestPages::new(self.machine.ram().clone())
    }

    /// The log of its pages that are written, which one at a time may start.
    #[must_use]
    pub fn dirty_pages(&self, beginning: Beginning) -> DirtyPages {
        DirtyPages::new(Arc::clone(&self.machine), beginning)
    }

    /// Begins to move it to another host. One migration at a time.
    ///
    /// # Errors
    /// [`MigrationError`]; it goes on as before.
    pub fn migrate(&mut self, request: MigrationRequest) -> Result<(), MigrationError> {
        if self.is_moving() {
            return Err(MigrationError::Busy(self.name().to_owned()));
        }
        if self.paused {
            return Err(MigrationError::Paused(self.name().to_owned()));
        }
        let leaving = Leaving::of(self, self.run_dir.clone());
        self.migration = Some(Migration::begin(request, leaving)?);
        Ok(())
    }

    /// Reaches the last migration.
    ///
    /// # Errors
    /// [`MigrationError::None`].
    pub fn migration(&self) -> Result<MigrationHandle, MigrationError> {
        let handle = self.migration.as_ref().map(Migration::handle);
        handle.ok_or_else(|| MigrationError::None(self.name().to_owned()))
    }

    /// Whether a migration is under way.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.migration().is_ok_and(|migration| !migration.is_over())
    }

    /// Reads the state of a paused guest.
    ///
    /// # Errors
    /// [`SnapshotError`]; the guest stays paused.
    pub fn save(&self) -> Result<GuestState, SnapshotError> {
        let answers: Vec<_> = self
            .vcpus
            .iter()
            .map(|vcpu| {
                let (reply, answer) = mpsc::channel();
                vcpu.command(Command::Save(reply));
                answer
            })
            .collect();
        let states = answers.into_iter().map(|answer| {
            let state = answer.recv_timeout(PATIENCE);
            state.map_err(|_| SnapshotError::Gone)?
        });
        let vcpus = states.collect::<Result<_, _>>()?;
        self.machine.deliver_coalesced();
        Ok(GuestState {
            memory: self.plan.memory.size,
            layout: *self.machine.layout(),
            clock: self.clock.state(),
            vcpus,
            ports: self.machine.ports().save(),
            mmio: self.machine.mmio().save(),
        })
    }

    /// Puts the state of another guest into this one, which is paused and whose memory is the other's already. Its clock goes on with
    /// the time that has passed since, and its timers are armed for the same guest time.
    ///
    /// # Errors
    /// [`SnapshotError`]; what this guest was is lost then, so it must not go on.
    pub fn restore(&mut self, state: GuestState) -> Result<(), SnapshotError> {
        if !self.paused {
            return Err(SnapshotError::Running);
        }
        self.machine.take_up_devices(&state)?;
        let state = Arc::new(state);
        let now = SystemTime::now();
        let (machine, saved) = (Arc::clone(&self.machine), Arc::clone(&state));
        // First the one that the clock is set by.
        let clock = self.with_vcpu(0, move |fd| {
            Clock::continue_tsc(&saved, 0, fd, now)?;
            let time = saved.clock.resumed_ns(SystemTime::now());
            let clock = Clock::start(&machine, fd, time)?;
            clock.restore_vcpu(&saved, 0, fd)?;
            Ok(clock)
        })?;
        self.clock = wait_for(clock)?;
        let clock = self.clock;
        let others = (1..self.vcpus.len()).map(|vcpu| {
            let saved = Arc::clone(&state);
            self.with_vcpu(vcpu, move |fd| {
                Clock::continue_tsc(&saved, vcpu, fd, now)?;
                clock.restore_vcpu(&saved, vcpu, fd)
            })
        });
        let others: Vec<_> = others.collect::<Result<_, _>>()?;
        others.into_iter().try_for_each(wait_for)?;
        self.reader = Reader::from_now_on(*self.machine.layout(), self.machine.ram());
        Ok(())
    }

    /// Has a vCPU's own thread, which stands still, do something with it.
    fn with_vcpu<T: Send + 'static>(
        &self,
        vcpu: usize,
        errand: impl FnOnce(&mut VcpuFd) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<Answer<T>, SnapshotError> {
        let (reply, answer) = mpsc::channel();
        let handle = self.vcpus.get(vcpu).ok_or(SnapshotError::Gone)?;
        handle.command(Command::Do(Box::new(move |fd| {
            // Whoever asked may have given up.
            let _ = reply.send(errand(fd));
        })));
        Ok(answer)
    }
}

type Answer<T> = mpsc::Receiver<Result<T, SnapshotError>>;

fn wait_for<T>(answer: Answer<T>) -> Result<T, SnapshotError> {
    answer
        .recv_timeout(PATIENCE)
        .map_err(|_| SnapshotError::Gone)?
}

/// A guest in the hands of whoever moves it: a thread of its own with a reservation of its own, not the event loop that owns the guest at
/// other times. It must not be used inside an event loop.
pub struct MovingVm {
    vm: RunningVm,
    /// Came instead of standing still.
    event: Option<VcpuEvent>,
    waiting: Runtime,
}

/// Why a guest that is being moved cannot be paused, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// It does not stand still.
    #[error("the guest does not stand still: {0}")]
    Pause(String),
    /// It has come to its end.
    #[error("the guest has come to its end")]
    Ended,
    /// Its state.
    #[error(transparent)]
    State(#[from] SnapshotError),
}

impl MovingVm {
    /// Takes the guest.
    ///
    /// # Errors
    /// When there are no descriptors for waiting left; the guest is gone then.
    pub fn new(vm: RunningVm) -> io::Result<Self> {
        Ok(Self {
            vm,
            event: None,
            waiting: waiting()?,
        })
    }

    /// The guest.
    #[must_use]
    pub fn vm(&self) -> &RunningVm {
        &self.vm
    }

    /// The guest, to be changed.
    pub fn vm_mut(&mut self) -> &mut RunningVm {
        &mut self.vm
    }

    /// Gives the guest back to its owner, with what a vCPU said meanwhile.
    #[must_use]
    pub fn give_back(self) -> (RunningVm, Option<VcpuEvent>) {
        (self.vm, self.event)
    }
}

/// What waiting outside of an event loop takes.
fn waiting() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_time().build()
}

impl Moved for MovingVm {
    type Error = MoveError;

    fn pause(&mut self) -> Result<(), MoveError> {
        match self.waiting.block_on(self.vm.pause()) {
            Ok(None) => Ok(()),
            Ok(event) => {
                self.event = event;
                Err(MoveError::Ended)
            }
            Err(reason) => Err(MoveError::Pause(reason)),
        }
    }

    fn resume(&mut self) -> Result<(), MoveError> {
        self.vm.resume();
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<Part>, MoveError> {
        Ok(vec![snapshot::to_part(&self.vm.save()?)?])
    }

    fn restore(&mut self, parts: &[Part]) -> Result<(), MoveError> {
        Ok(self.vm.restore(snapshot::from_parts(parts)?)?)
    }
}

/// Where whoever moves a supervised guest asks for it.
#[derive(Clone)]
pub struct Lender(UnboundedSender<Borrower>);

/// Somebody who waits for the guest.
pub(super) type Borrower = oneshot::Sender<(RunningVm, oneshot::Sender<Returned>)>;

/// A guest that comes back to its owner.
pub(super) struct Returned {
    pub(super) vm: RunningVm,
    /// What a vCPU said meanwhile.
    pub(super) event: Option<VcpuEvent>,
    /// Whether it lives somewhere else by now.
    pub(super) is_moved: bool,
}

impl Lender {
    pub(super) fn new() -> (Self, UnboundedReceiver<Borrower>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }

    /// Asks the guest's owner for it, and waits for that. While it is lent its owner does nothing: nobody is answered, no record is read.
    /// So it is asked for just before the guest is paused, and the time that asking takes is no downtime.
    ///
    /// # Errors
    /// [`MoveError::Ended`] when there is no guest any more.
    pub fn borrow(&self) -> Result<Loan, MoveError> {
        let waiting = waiting().map_err(|e| MoveError::Pause(e.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        self.0.send(sender).map_err(|_| MoveError::Ended)?;
        let (vm, back) = receiver.blocking_recv().map_err(|_| MoveError::Ended)?;
        let guest = MovingVm {
            vm,
            event: None,
            waiting,
        };
        Ok(Loan {
            held: Some((guest, back)),
            is_moved: false,
        })
    }
}

/// A guest that its owner has lent. Dropping it gives it back as it is: one that is paused stands still.
pub struct Loan {
    /// Taken by the drop alone.
    held: Option<(MovingVm, oneshot::Sender<Returned>)>,
    is_moved: bool,
}

impl Loan {
    /// The guest.
    pub fn guest(&mut self) -> &mut MovingVm {
        let (guest, _) = self.held.as_mut().expect("only the drop takes it");
        guest
    }

    /// Gives it back to be ended: it lives somewhere else, and must never run here again.
    pub fn moved(mut self) {
        self.is_moved = true;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some((guest, back)) = self.held.take() {
            let (vm, event) = guest.give_back();
            // If its owner is gone the guest ends here.
            let _ = back.send(Returned {
                vm,
                event,
                is_moved: self.is_moved,
            });
        }
    }
}

/// Lends the guest to somebody, and waits until it is given back.
pub(super) async fn lend(vm: RunningVm, borrower: Borrower) -> Returned {
    let (back, returned) = oneshot::channel();
    match borrower.send((vm, back)) {
        Ok(()) => returned
            .await
            .expect("a loan gives back when it is dropped"),
        // Has given up.
        Err((vm, _)) => Returned {
            vm,
            event: None,
            is_moved: false,
        },
    }
}
