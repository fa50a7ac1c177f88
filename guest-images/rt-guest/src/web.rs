//! The task that does the work of HTTP requests: one after the other, in the order they came, below the network task, so that
//! connections live on meanwhile.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use rt_abi::image;
use rt_abi::record::{Kind, Record};
use rt_abi::taskset::{self, TaskSet};

use crate::cpu::{Cpu, PENDING_DONE};
use crate::end::Exit;
use crate::memory::Arena;
use crate::network;
use crate::system::{System, system};
use crate::task;

/// Connections at the same time.
pub const CONNECTIONS: usize = 16;
/// Images: the one that is rotated, and what comes of it.
const IMAGES: u64 = 2;

/// The request of a connection.
struct Request {
    state: AtomicU8,
    /// When it came, in nanoseconds.
    asked: AtomicU64,
    /// Its place in the order of asking.
    ticket: AtomicU64,
    checksum: AtomicU32,
    took: AtomicU64,
}

/// States of a request.
const NONE: u8 = 0;
const ASKED: u8 = 1;
const FINISHED: u8 = 2;

static REQUESTS: [Request; CONNECTIONS] = [const {
    Request {
        state: AtomicU8::new(NONE),
        asked: AtomicU64::new(0),
        ticket: AtomicU64::new(0),
        checksum: AtomicU32::new(0),
        took: AtomicU64::new(0),
    }
}; CONNECTIONS];
static TICKETS: AtomicU64 = AtomicU64::new(0);

/// What came of a request.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Checksum of the rotated image.
    pub checksum: u32,
    /// From the beginning of the work to its end, in nanoseconds.
    pub took: u64,
}

/// Bytes of memory that the task needs, in whole pages.
pub fn needed(set: &TaskSet) -> u64 {
    let size = (image::BYTES as u64).next_multiple_of(4096);
    set.web_port().map_or(0, |_| IMAGES * size)
}

/// Asks for the work of a request of `connection`, which has none under way; whether it will be done.
pub fn ask(connection: usize, system: &'static System, now: u64) -> bool {
    let (Some(request), Some(index), Some(cpu)) =
        (REQUESTS.get(connection), system.web_task, Cpu::get(0))
    else {
        return false;
    };
    request.asked.store(now, Ordering::Relaxed);
    let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
    request.ticket.store(ticket, Ordering::Relaxed);
    cpu.undisturbed(|| {
        request.state.store(ASKED, Ordering::Relaxed);
        task::state(index).wake(now, CONNECTIONS as u64 + 1);
    });
    true
}

/// The outcome of the request of `connection`, once.
pub fn finished(connection: usize) -> Option<Outcome> {
    let request = REQUESTS.get(connection)?;
    let is_finished = request.state.load(Ordering::Relaxed) == FINISHED;
    is_finished.then(|| {
        request.state.store(NONE, Ordering::Relaxed);
        Outcome {
            checksum: request.checksum.load(Ordering::Relaxed),
            took: request.took.load(Ordering::Relaxed),
        }
    })
}

/// What the task's context runs. Its first job is to paint the image; then there is one per request.
pub extern "C" fn main(index: u64) -> ! {
    let system = system();
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    let cpu = Cpu::get(0).expect("there is a first vCPU");
    let Some([from, to]) = images(system) else {
        crate::fail(Exit::Machine, format_args!("no memory for the images"))
    };
    image::paint(image::SIDE, from);
    end_job(system, (cpu, index), None);
    loop {
        let record = oldest().map(|request| work(system, index, request, (&*from, &mut *to)));
        end_job(system, (cpu, index), record.as_ref());
    }
}

fn images(system: &System) -> Option<[&'static mut [u8]; 2]> {
    // SAFETY:
    // - the range was set aside for this task, which is one context and makes this once.
    let mut arena = unsafe { Arena::new(system.web?) };
    Some([arena.bytes(image::BYTES)?, arena.bytes(image::BYTES)?])
}

/// The request that waits longest.
fn oldest() -> Option<&'static Request> {
    let waiting = REQUESTS
        .iter()
        .filter(|request| request.state.load(Ordering::Relaxed) == ASKED);
    waiting.min_by_key(|request| request.ticket.load(Ordering::Relaxed))
}

/// Does the work of `request`. The record's execution is all the time that it took, interruptions included.
fn work(
    system: &System,
    index: usize,
    request: &Request,
    (from, to): (&[u8], &mut [u8]),
) -> Record {
    let start = system.clock.now();
    image::rotate(image::SIDE, from, to);
    let checksum = image::checksum(to);
    let finish = system.clock.now();
    request.checksum.store(checksum, Ordering::Relaxed);
    request.took.store(finish - start, Ordering::Relaxed);
    request.state.store(FINISHED, Ordering::Relaxed);
    let release = request.asked.load(Ordering::Relaxed);
    let task = system.set.tasks().get(index);
    let deadline = task.map_or(u64::MAX, |task| rt_abi::policy::deadline(task, release));
    Record {
        kind: Kind::Job as u16,
        task: u16::try_from(index).unwrap_or(u16::MAX),
        job: task::state(index).jobs_done(),
        release,
        start,
        finish,
        deadline,
        executed: finish - start,
        ..Record::default()
    }
}

fn end_job(system: &System, (cpu, index): (&'static Cpu, usize), record: Option<&Record>) {
    cpu.undisturbed(|| {
        let state = task::state(index);
        match record {
            Some(record) => {
                state.finish(record);
                task::push(system, cpu, record);
                network::wake(system, record.finish);
            }
            None => state.done_with(system.clock.now()),
        }
        // The scheduler is to look, as if the timer had gone off.
        cpu.pending.fetch_or(PENDING_DONE, Ordering::Relaxed);
    });
}

/// The place of the task in `set`.
pub fn task(set: &TaskSet) -> Option<usize> {
    set.tasks()
        .iter()
        .position(|task| matches!(task.kind, taskset::Kind::Web(_)))
}
