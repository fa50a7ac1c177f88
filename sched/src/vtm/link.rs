//! The way to the dispatcher, whether it runs or not.

use std::mem;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::sched_setaffinity;
use rtrb::{Consumer, Producer, RingBuffer};

use super::dispatcher::{Dispatcher, Figures, Handle, Order, Queues, Returned};
use super::error::VtmError;
use super::record::set_of;
use crate::kernel::{Policy, Tid, set_policy};
use crate::partition::Partition;

/// The highest there is.
const PRIORITY: u8 = 99;

const ORDERS: usize = 1024;
const RAN: usize = 4096;

const ENDED: VtmError = VtmError::Ended { what: "dispatcher" };

/// The scheduler's end of the dispatcher.
#[derive(Debug)]
pub(super) struct Link {
    stage: Stage,
    /// What came back and is waited for.
    inbox: Vec<Returned>,
}

#[derive(Debug)]
enum Stage {
    Ready(Box<Dispatcher>),
    Running {
        orders: Producer<Order>,
        returned: Consumer<Returned>,
        thread: JoinHandle<Dispatcher>,
    },
    Over,
}

impl Link {
    pub(super) fn new(slot: Duration, figures: Arc<Mutex<Figures>>) -> Self {
        Self {
            stage: Stage::Ready(Box::new(Dispatcher::new(slot, figures))),
            inbox: Vec::new(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Starts the thread on `cpu`. The ids of jobs that had a turn come out of what is returned.
    pub(super) fn start(
        &mut self,
        cpu: u32,
        partition: Option<Partition>,
    ) -> Result<Consumer<u64>, VtmError> {
        let dispatcher = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Ready(dispatcher) => *dispatcher,
            stage => {
                self.stage = stage;
                return Err(VtmError::Dispatching);
            }
        };
        let (orders, obeyed) = RingBuffer::new(ORDERS);
        let (returning, returned) = RingBuffer::new(2 * ORDERS);
        let (ran, had_turn) = RingBuffer::new(RAN);
        let queues = Queues {
            orders: obeyed,
            returned: returning,
            ran,
        };
        let (tell, told) = mpsc::channel();
        let life = move || {
            let ready = become_dispatcher(cpu, partition.as_ref());
            let failed = ready.is_err();
            // The one who waits for it is gone only if the process ends.
            let _ = tell.send(ready);
            if failed {
                dispatcher
            } else {
                dispatcher.run(queues)
            }
        };
        let thread = thread::Builder::new().name("vtm-dispatcher".to_owned());
        let thread = thread.spawn(life).map_err(|source| VtmError::SetUp {
            action: "start the dispatcher",
            source,
        })?;
        match told.recv().unwrap_or(Err(ENDED)) {
            Ok(()) => {
                self.stage = Stage::Running {
                    orders,
                    returned,
                    thread,
                };
                Ok(had_turn)
            }
            Err(error) => {
                let dispatcher = thread.join().map_err(|_| ENDED)?;
                self.stage = Stage::Ready(Box::new(dispatcher));
                Err(error)
            }
        }
    }

    /// Has an order obeyed: now, or from the next slot on.
    pub(super) fn order(&mut self, mut order: Order) -> Result<(), VtmError> {
        loop {
            self.collect();
            match &mut self.stage {
                Stage::Ready(dispatcher) => {
                    self.inbox.extend(dispatcher.obey(order));
                    return Ok(());
                }
                Stage::Running { orders, thread, .. } => match orders.push(order) {
                    Ok(()) => return Ok(()),
                    Err(_) if thread.is_finished() => return Err(ENDED),
                    Err(rtrb::PushError::Full(back)) => order = back,
                },
                Stage::Over => return Err(ENDED),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes a job; comes back when the dispatcher has nothing to do with it any more.
    pub(super) fn remove(&mut self, team: usize, id: u64) -> Result<Handle, VtmError> {
        self.order(Order::Remove(team, id))?;
        let is_it = |returned: &Returned| matches!(returned, Returned::Job(job) if job.id == id);
        match self.wait_for(is_it)? {
            Returned::Job(job) => Ok(job),
            _ => Err(ENDED),
        }
    }

    /// Releases a VTM; as [`Link::remove`] for all its jobs.
    pub(super) fn release(&mut self, team: usize) -> Result<Vec<Handle>, VtmError> {
        self.order(Order::Release(team))?;
        let is_it = |returned: &Returned| matches!(returned, Returned::Team(it, _) if *it == team);
        match self.wait_for(is_it)? {
            Returned::Team(_, jobs) => Ok(jobs),
            _ => Err(ENDED),
        }
    }

    /// Ends the thread; the jobs whose turn it was are stopped.
    pub(super) fn end(&mut self) {
        let _ = self.order(Order::End);
        if let Stage::Running { thread, .. } = mem::replace(&mut self.stage, Stage::Over) {
            let _ = thread.join();
        }
        self.inbox.clear();
    }

    /// Drops what came back, but for jobs that somebody waits for.
    fn collect(&mut self) {
        if let Stage::Running { returned, .. } = &mut self.stage {
            while let Ok(returned) = returned.pop() {
                if matches!(returned, Returned::Job(_) | Returned::Team(..)) {
                    self.inbox.push(returned);
                }
            }
        }
    }

    fn wait_for(&mut self, is_it: impl Fn(&Returned) -> bool) -> Result<Returned, VtmError> {
        loop {
            self.collect();
            if let Some(at) = self.inbox.iter().position(&is_it) {
                return Ok(self.inbox.swap_remove(at));
            }
            match &self.stage {
                Stage::Running { thread, .. } if !thread.is_finished() => {}
                _ => return Err(ENDED),
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Puts this thread where it has to be, in the policy it has to have.
fn become_dispatcher(cpu: u32, partition: Option<&Partition>) -> Result<(), VtmError> {
    let tid = Tid::current();
    if let Some(partition) = partition {
        partition.join(tid)?;
    }
    let failed = |action| {
        move |errno: nix::errno::Errno| VtmError::SetUp {
            action,
            source: errno.into(),
        }
    };
    let pinned = sched_setaffinity(tid.pid(), &set_of(&[cpu as usize]));
    pinned.map_err(failed("pin the dispatcher to its CPU"))?;
    let policy = Policy::Fifo { priority: PRIORITY };
    set_policy(tid, policy).map_err(failed("make the dispatcher real-time"))
}
