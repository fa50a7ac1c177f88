//! The scheduler of each vCPU: releases jobs, programs the timer, says what runs. The policy itself is in `rt-abi`.

use core::sync::atomic::{AtomicU64, Ordering};

use rt_abi::clock::ClockPage;
use rt_abi::policy::{JobView, next_release, pick};
use rt_abi::taskset::{Kind, MAX_TASKS, Task};

use crate::cpu::{self, CONTEXTS, Context, Cpu, MAX_VCPUS, PENDING_DEVICE, PENDING_DONE, Start};
use crate::ring::Stream;
use crate::system::{System, system};
use crate::{clock, end, network, task, timer, web};

/// The context that prints records, on vCPU 0.
const PRINTER: usize = CONTEXTS - 1;
/// How often vCPU 0 looks for records of other vCPUs to print, in nanoseconds.
const PRINT_PERIOD: u64 = 20_000_000;

static STREAM: Stream = Stream::new();
/// What each vCPU's timer is programmed with; 0 for nothing.
static PROGRAMMED: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];

/// Prepares the contexts of every task, and the one that prints.
pub fn prepare(system: &System) {
    for (index, t) in system.set.tasks().iter().enumerate() {
        let (main, stack_end): (extern "C" fn(u64) -> !, _) = match t.kind {
            Kind::Periodic | Kind::Hog => (task::main, None),
            Kind::Network(_) => (network::main, system.network.map(|range| range.end)),
            Kind::Web(_) => (web::main, None),
        };
        let start = Start {
            main,
            argument: index as u64,
            stack_end,
        };
        if let Some(cpu) = Cpu::get(t.vcpu.into()) {
            cpu::prepare(index, cpu, start);
        }
        if t.kind.is_service() {
            // Services set themselves up in a first job.
            task::state(index).wake(0, 1);
        }
    }
    if let Some(cpu) = Cpu::get(0) {
        let start = Start {
            main: print,
            argument: 0,
            stack_end: None,
        };
        cpu::prepare(PRINTER, cpu, start);
    }
}

/// Whether records are still to be printed.
pub fn has_news(system: &System) -> bool {
    system.set.stream && STREAM.has_news(system.rings())
}

extern "C" fn print(_: u64) -> ! {
    let (system, cpu) = (system(), Cpu::get(0).expect("there is a first vCPU"));
    loop {
        STREAM.print_news(system.rings());
        cpu.yield_now();
    }
}

/// Picks the context that `cpu` is to run; waits if there is none. asm/user.S calls it with the scheduler's stack.
#[unsafe(no_mangle)]
extern "C" fn schedule(cpu: &'static Cpu) -> *mut Context {
    let system = system();
    let vcpu = cpu.index();
    let programmed = &PROGRAMMED[vcpu];
    loop {
        let flags = cpu.pending.swap(0, Ordering::Relaxed);
        let pending = flags & !(PENDING_DONE | PENDING_DEVICE);
        let before = timer::programmed(cpu, pending, programmed.load(Ordering::Relaxed));
        let page = system.clock.page();
        let now = page.ns_at(crate::hw::rdtsc());
        if now >= system.end {
            end::finish(vcpu);
            return run(cpu, PRINTER);
        }
        let woken = if pending == 0 {
            0
        } else {
            page.ns_at(cpu.stamp.load(Ordering::Relaxed))
        };
        release(system, vcpu, now, woken);
        if flags & PENDING_DEVICE != 0 {
            network::wake(system, now);
        }
        let wanted = plan(system, cpu, &page, now);
        programmed.store(wanted, Ordering::Relaxed);
        let choice = choose(system, vcpu, now);
        match choice {
            Some(slot) => {
                if wanted != before {
                    timer::arm(&page, wanted);
                }
                return run(cpu, slot);
            }
            None if wanted != before => timer::arm_and_idle(&page, wanted),
            None => crate::hw::idle(),
        }
    }
}

/// Makes context `slot` the one that runs when the scheduler does not.
fn run(cpu: &Cpu, slot: usize) -> *mut Context {
    let context = cpu::context(slot);
    cpu.current.store(context, Ordering::Relaxed);
    context
}

/// The tasks of one vCPU with their places in the set.
fn tasks_of(system: &System, vcpu: usize) -> impl Iterator<Item = (usize, &Task)> {
    let tasks = system.set.tasks().iter().enumerate();
    tasks.filter(move |(_, task)| usize::from(task.vcpu) == vcpu)
}

/// Releases every job whose time has come; `woken` is when the last timer interrupt came, or 0.
fn release(system: &System, vcpu: usize, now: u64, woken: u64) {
    for (index, task) in tasks_of(system, vcpu).filter(|(_, t)| t.kind != Kind::Hog) {
        let state = task::state(index);
        if task.kind.is_service() {
            release_service(state, now);
            continue;
        }
        loop {
            let release = upcoming(system, index, task);
            if release > now {
                break;
            }
            // An interrupt before the release was for something else, or early.
            state.release(if woken >= release { woken } else { 0 });
        }
    }
}

/// Releases a service whose alarm went off.
fn release_service(state: &task::State, now: u64) {
    if state.alarm.load(Ordering::Relaxed) <= now {
        state.alarm.store(u64::MAX, Ordering::Relaxed);
        state.wake(now, 1);
    }
}

/// When the next job of a task is released; the end of the run if that comes first.
fn upcoming(system: &System, index: usize, task: &Task) -> u64 {
    if task.kind.is_service() {
        let alarm = &task::state(index).alarm;
        return alarm.load(Ordering::Relaxed).min(system.end);
    }
    let job = task::state(index).released.load(Ordering::Relaxed);
    next_release(task, job, system.start).min(system.end)
}

/// When the timer is to go off next, as a TSC value. Also leaves the time after that for the interrupt to program.
fn plan(system: &System, cpu: &Cpu, page: &ClockPage, now: u64) -> u64 {
    let vcpu = cpu.index();
    let mut next = system.end;
    let mut following = system.end;
    for (index, task) in tasks_of(system, vcpu) {
        let first = match task.kind {
            // A hog starts with the run and then needs no timer.
            Kind::Hog => first_time_after(now, next_release(task, 0, system.start), system.end),
            _ => upcoming(system, index, task),
        };
        let second = match task.kind {
            Kind::Periodic => first.saturating_add(task.period),
            _ => system.end,
        };
        (next, following) = earliest_two([next, following, first, second]);
    }
    if vcpu == 0 && system.set.stream && system.set.vcpus > 1 {
        let look = (now / PRINT_PERIOD + 1) * PRINT_PERIOD;
        (next, following) = earliest_two([next, following, look, look + PRINT_PERIOD]);
    }
    let following = clock::tsc_reaching(page, following);
    cpu.following.store(following, Ordering::Relaxed);
    clock::tsc_reaching(page, next)
}

fn first_time_after(now: u64, time: u64, otherwise: u64) -> u64 {
    if time > now { time } else { otherwise }
}

/// The earliest time, and the earliest that is later.
fn earliest_two(times: [u64; 4]) -> (u64, u64) {
    let first = times.into_iter().min().unwrap_or(u64::MAX);
    let second = times.into_iter().filter(|t| *t > first).min();
    (first, second.unwrap_or(first))
}

/// The context to run: the policy's choice among periodic tasks, else the printer if it has work, else a hog.
fn choose(system: &System, vcpu: usize, now: u64) -> Option<usize> {
    let ready = tasks_of(system, vcpu).filter_map(|(index, task)| match task.kind {
        Kind::Periodic => {
            let job = task::state(index).ready()?;
            Some(JobView::new(index, task, job, system.start))
        }
        Kind::Network(_) | Kind::Web(_) => {
            let state = task::state(index);
            let view = JobView::released(index, task, state.since());
            state.ready().map(|_| view)
        }
        Kind::Hog => None,
    });
    if let Some(task) = pick(system.set.policy, &system.ranks, ready) {
        return Some(task);
    }
    if vcpu == 0 && has_news(system) {
        return Some(PRINTER);
    }
    let mut hogs = tasks_of(system, vcpu).filter(|(_, t)| t.kind == Kind::Hog);
    let started = |t: &Task| next_release(t, 0, system.start) <= now;
    hogs.find(|(_, t)| started(t)).map(|(index, _)| index)
}

const _: () = assert!(MAX_TASKS < CONTEXTS);
