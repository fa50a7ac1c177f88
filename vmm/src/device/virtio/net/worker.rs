//! The device's thread: in a reservation of its own, started, paused and stopped with the guest.
//!
//! It waits in epoll for the guest's notifications, the tap and its owner, all edge-triggered, and works in stretches. In
//! its loop nothing is allocated or logged, and the only lock is tried, never waited for.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::time::TimeSpec;
use sched::backend::{self, BackendError, CpuReservation, InForce};
use sched::kernel::{Tid, monotonic, thread_cpu_time};
use sched::request::{Granted, Placement};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::pace::Pace;
use super::{Desk, Next, RECEIVE, Ready, TRANSMIT};
use crate::kernel;

/// What wakes the thread.
const KICK_RECEIVE: u64 = RECEIVE as u64;
const KICK_TRANSMIT: u64 = TRANSMIT as u64;
const TAP: u64 = 2;
const OWNER: u64 = 3;
/// How long the owner waits for the end of a stretch of work, in which the kernel may have taken the thread its CPU until
/// its next period: longer than the longest one of SCHED_DEADLINE (4.19 s).
const PATIENCE: Duration = Duration::from_secs(6);

/// How the thread is told that there is something to do.
pub(super) struct Wake {
    kicks: Vec<EventFd>,
    owner: EventFd,
    /// The thread is to end.
    ends: AtomicBool,
}

impl Wake {
    pub(super) fn new(queues: usize) -> io::Result<Self> {
        let kicks = (0..queues).map(|_| EventFd::new(EFD_NONBLOCK));
        Ok(Self {
            kicks: kicks.collect::<io::Result<_>>()?,
            owner: EventFd::new(EFD_NONBLOCK)?,
            ends: AtomicBool::new(false),
        })
    }

    pub(super) fn kick(&self, queue: usize) -> &EventFd {
        &self.kicks[queue]
    }

    /// There may be anything to do.
    pub(super) fn all(&self) {
        // Fails only when it was written 2^64 - 2 times and is up.
        let _ = self.owner.write(1);
    }

    /// Sleeps until `instant`, if not woken by all before. The rest, if so.
    fn rest(&self, instant: Duration) -> Option<Duration> {
        let left = instant.saturating_sub(monotonic());
        let owner = kernel::descriptor(&self.owner);
        let mut owner = [PollFd::new(owner.as_fd(), PollFlags::POLLIN)];
        // Whatever ends it, the clock says whether it was long enough.
        let _ = ppoll(&mut owner, Some(TimeSpec::from_duration(left)), None);
        Some(instant).filter(|instant| monotonic() < *instant)
    }

    /// Takes note of what woke all: the next [`Wake::rest`] is woken by what comes after.
    fn hear(&self) {
        // Fails only if there was nothing.
        let _ = self.owner.read();
    }
}

/// Why a device's thread cannot be made real-time.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The thread cannot be started or prepared.
    #[error("cannot {step} the network device's thread: {source}")]
    Thread {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Its reservation cannot be put in force.
    #[error("the reservation of the network device's thread cannot be put in force: {0}")]
    Reservation(#[from] BackendError),
    /// It ended without a word.
    #[error("the network device's thread ended during set-up")]
    Lost,
}

/// The owner's hold on the thread. Dropping it ends the thread, and waits for that.
pub struct Worker {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
    tid: Tid,
    granted: Granted,
    in_force: Option<Box<dyn CpuReservation>>,
}

impl Worker {
    /// Starts the thread of `desk` in the reservation that it was granted. It stands still at first. `attach` is told of
    /// the thread before it has its reservation.
    ///
    /// # Errors
    /// [`WorkerError`]; there is no thread then.
    pub fn start(
        desk: Arc<Desk>,
        granted: Granted,
        attach: impl FnOnce(Tid),
    ) -> Result<Self, WorkerError> {
        let failed = |step| move |source| WorkerError::Thread { step, source };
        desk.engine().stands = true;
        let epoll = desk.watch().map_err(failed("make the events of"))?;
        let (tell, told) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let (own, ticket) = (Arc::clone(&desk), granted.clone());
        let thread = std::thread::Builder::new().name("net".to_owned());
        let thread = thread.spawn(move || {
            // Whoever started it waits.
            let _ = tell.send(Ok((Tid::current(), None)));
            if gone.recv().is_err() {
                return;
            }
            let is_set = set_up(&ticket).map(|reservation| (Tid::current(), Some(reservation)));
            let is_good = is_set.is_ok();
            let _ = tell.send(is_set);
            if is_good {
                run(&own, &epoll, &ticket);
            }
        });
        let mut worker = Self {
            desk,
            thread: Some(thread.map_err(failed("start"))?),
            tid: Tid::current(),
            granted,
            in_force: None,
        };
        if let (Placement::Partition { cpu }, Some(thread)) =
            (worker.granted.placement, &worker.thread)
        {
            // It would wait for this thread's CPU otherwise. Where it cannot be, it gets there by joining its partition.
            let _ = kernel::send_to(thread, cpu);
        }
        let (tid, _) = told.recv().map_err(|_| WorkerError::Lost)??;
        worker.tid = tid;
        attach(tid);
        go.send(()).map_err(|_| WorkerError::Lost)?;
        let (_, reservation) = told.recv().map_err(|_| WorkerError::Lost)??;
        worker.in_force = reservation;
        Ok(worker)
    }

    /// Lets it work. Interrupts for what the guest has not acknowledged: in one that was taken up, the message may have been
    /// lost under way, and one for nothing does no harm.
    pub fn run(&self) {
        if self.desk.notifier.is_up() {
            self.desk.notifier.signal();
        }
        self.desk.engine().stands = false;
        self.desk.wake.all();
    }

    /// Has it stand still: it touches neither queues nor tap when this returns. Waits for the end of a stretch of work at
    /// most, not for a thread that rests or has no budget.
    ///
    /// # Errors
    /// If that does not come within some seconds.
    pub fn pause(&self) -> Result<(), String> {
        let asked = Instant::now();
        loop {
            if let Ok(mut engine) = self.desk.engine.try_lock() {
                engine.stands = true;
                return Ok(());
            }
            if asked.elapsed() > PATIENCE {
                return Err(format!(
                    "the network device's thread did not stand still within {PATIENCE:?}"
                ));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// What it was granted.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// What it shares with the device.
    #[must_use]
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// What the kernel has for it now.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was set.
    pub fn in_force(&self) -> Result<Option<InForce>, BackendError> {
        self.in_force.as_ref().map(|r| r.in_force()).transpose()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.wake.ends.store(true, Ordering::Release);
        self.desk.wake.all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
        if let Some(mut reservation) = self.in_force.take()
            && let Err(error) = reservation.release()
        {
            tracing::warn!("the network device's reservation was not given back: {error}");
        }
    }
}

impl Desk {
    /// Everything that wakes the thread.
    fn watch(&self) -> io::Result<Epoll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let add = |fd: &dyn AsFd, number: u64, flags: EpollFlags| {
            epoll.add(
                fd.as_fd(),
                EpollEvent::new(flags | EpollFlags::EPOLLET, number),
            )
        };
        let input = EpollFlags::EPOLLIN;
        for (number, kick) in (KICK_RECEIVE..).zip(&self.wake.kicks) {
            add(&kernel::descriptor(kick), number, input)?;
        }
        add(&kernel::descriptor(&self.wake.owner), OWNER, input)?;
        add(&self.wire.descriptor(), TAP, input | EpollFlags::EPOLLOUT)?;
        Ok(epoll)
    }

    /// Charges what the thread has consumed; until when it is to rest, if that was its budget.
    fn charge(&self, pace: &mut Pace) -> Option<Duration> {
        let consumed = thread_cpu_time();
        let nanos = u64::try_from(consumed.as_nanos()).unwrap_or(u64::MAX);
        self.counters.consumed.set(nanos);
        let until = pace.look(monotonic(), consumed)?;
        self.counters.used_up.add(1);
        Some(until)
    }
}

/// Blocks all signals, which are for others, and takes the reservation.
fn set_up(granted: &Granted) -> Result<Box<dyn CpuReservation>, WorkerError> {
    let blocked = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    blocked.map_err(|errno| WorkerError::Thread {
        step: "block the signals of",
        source: errno.into(),
    })?;
    Ok(backend::apply(Tid::current(), granted)?)
}

fn run(desk: &Desk, epoll: &Epoll, granted: &Granted) {
    let mut ready = Ready::default();
    let reservation = granted.request.reservation;
    let mut pace = reservation.map(|r| Pace::new(r, monotonic(), thread_cpu_time()));
    // Until when the budget is used up.
    let mut used_up = None;
    while !desk.wake.ends.load(Ordering::Acquire) {
        let next = match used_up {
            Some(until) => {
                used_up = desk.wake.rest(until);
                Next::Now
            }
            None => {
                let next = desk.work(&mut ready);
                used_up = pace.as_mut().and_then(|pace| desk.charge(pace));
                match used_up {
                    Some(_) => Next::Now,
                    None => next,
                }
            }
        };
        wait(desk, epoll, &mut ready, next);
    }
}

/// Takes what has come; waits for something if there is nothing to do until then.
fn wait(desk: &Desk, epoll: &Epoll, ready: &mut Ready, next: Next) {
    let mut events = [EpollEvent::empty(); 4];
    let timeout = match next {
        Next::Wait => EpollTimeout::NONE,
        Next::Now => EpollTimeout::ZERO,
    };
    // It fails only for a signal, and there is none.
    let count = epoll.wait(&mut events, timeout).unwrap_or(0);
    if next == Next::Wait {
        desk.counters.wakes.add(1);
    }
    for event in &events[..count] {
        match event.data() {
            KICK_RECEIVE => ready.receive = true,
            KICK_TRANSMIT => ready.transmit = true,
            TAP => {
                ready.receive |= event.events().contains(EpollFlags::EPOLLIN);
                ready.transmit |= event.events().contains(EpollFlags::EPOLLOUT);
                ready.gone |= event.events().contains(EpollFlags::EPOLLERR);
            }
            _ => {
                desk.wake.hear();
                ready.all();
            }
        }
    }
}
