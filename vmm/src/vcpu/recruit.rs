//! Threads that wait for their vCPUs.

use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use sched::backend;
use sched::framework::{Factory, Kind, Resource};
use sched::kernel::Tid;
use sched::request::{Granted, Placement};

use super::{Assignment, run};
use crate::kernel;

/// Work that a recruit does before it is given its vCPU.
pub type Errand = Box<dyn FnOnce() + Send>;

/// A vCPU's thread that waits for its vCPU. Dropping it ends the thread, and waits for that.
#[derive(Debug)]
pub struct Recruit {
    resource: Resource,
    /// Errands and the assignment; closing it sends the thread home.
    orders: Option<Sender<RecruitOrder>>,
    thread: Option<JoinHandle<()>>,
    tid: Receiver<Tid>,
}

enum RecruitOrder {
    Errand(Errand),
    Assignment(Box<Assignment>),
}

/// Starts the threads that vCPUs are built on. A thread moves to its partition at once: that takes the kernel longer than
/// building the machine, and is waiting for the most part. The caller has blocked [`super::kick_signals`], which threads inherit.
#[derive(Debug)]
pub struct Recruits;

impl Factory for Recruits {
    type Specification = Granted;
    type Product = Recruit;
    type Error = std::io::Error;

    fn make(&mut self, granted: Granted) -> std::io::Result<Recruit> {
        let index = granted.vcpu;
        let (orders, inbox) = std::sync::mpsc::channel();
        let (tell, tid) = std::sync::mpsc::channel();
        let placement = granted.placement;
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                // Whoever started it is there, or has failed and drops it.
                let _ = tell.send(Tid::current());
                // A failure shows, with its reason, when the reservation is put in force.
                let _ = backend::move_ahead(&granted);
                for order in inbox {
                    match order {
                        RecruitOrder::Errand(errand) => errand(),
                        RecruitOrder::Assignment(assignment) => return run(*assignment),
                    }
                }
            })?;
        if let Placement::Partition { cpu } = placement {
            // It would wait for this thread's CPU otherwise. Where it cannot be, it gets there by joining its partition.
            let _ = kernel::send_to(&thread, cpu);
        }
        let cpu = Resource::cpu(placement.cpu());
        Ok(Recruit {
            resource: Resource::upon(Kind::THREAD, format!("vcpu{index}"), [&cpu]),
            orders: Some(orders),
            thread: Some(thread),
            tid,
        })
    }
}

impl Recruit {
    /// The thread among the levels: upon its CPU.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The thread, once it runs; `None` if it never will.
    pub fn tid(&self) -> Option<Tid> {
        self.tid.recv().ok()
    }

    /// Has the thread do something meanwhile, on its own CPU.
    pub fn perform(&self, errand: Errand) {
        self.order(RecruitOrder::Errand(errand));
    }

    /// Hands the thread its vCPU.
    pub fn assign(mut self, assignment: Assignment) -> Option<JoinHandle<()>> {
        self.order(RecruitOrder::Assignment(Box::new(assignment)));
        self.thread.take()
    }

    fn order(&self, order: RecruitOrder) {
        // The thread waits for this and nothing else; it cannot be gone.
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }
}

impl Drop for Recruit {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}
