//! The scheduling system calls. The only `unsafe` of this crate is here.
//!
//! `sched_setattr` and `sched_getattr` (sched(7), Documentation/scheduler/sched-deadline.rst), per-thread timers and
//! pidfds (pidfd_open(2)) have no safe wrapper for what is needed: real-time signals and SCHED_DEADLINE parameters.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::{ForkResult, Pid};
use serde::{Deserialize, Serialize};

use crate::reservation::nanos;

/// A thread id, as `gettid` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tid(pub libc::pid_t);

impl Tid {
    /// The calling thread.
    pub fn current() -> Self {
        Self(nix::unistd::gettid().as_raw())
    }

    /// Whether this is the calling thread.
    pub fn is_current(self) -> bool {
        self == Self::current()
    }

    pub(crate) fn pid(self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Children do not inherit the policy. Also what lets a SCHED_DEADLINE thread fork at all.
pub const RESET_ON_FORK: u64 = 0x01;

/// A scheduling policy with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// SCHED_OTHER with nice 0.
    Other,
    /// SCHED_FIFO.
    Fifo {
        /// 1..=99.
        priority: u8,
    },
    /// SCHED_DEADLINE.
    Deadline {
        /// The kernel's runtime.
        runtime: Duration,
        /// The kernel's deadline, relative to the beginning of a period.
        deadline: Duration,
        /// The kernel's period.
        period: Duration,
    },
    /// A policy this crate never sets (SCHED_BATCH, SCHED_RR...).
    Foreign {
        /// `sched_attr.sched_policy`.
        number: u32,
    },
}

/// `struct sched_attr`, first version (48 bytes; sched_setattr(2)): a policy as the kernel has it, whatever it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const ATTR_SIZE: u32 = 48;
const SCHED_DEADLINE: u32 = 6;
const SCHED_RR: u32 = libc::SCHED_RR.unsigned_abs();
const SCHED_FIFO: u32 = libc::SCHED_FIFO.unsigned_abs();
const SCHED_OTHER: u32 = libc::SCHED_OTHER.unsigned_abs();

/// Sets the policy of a thread, with [`RESET_ON_FORK`] for every real-time policy and never with `SCHED_FLAG_RECLAIM`,
/// which would lift the cap that the reservation is.
///
/// # Errors
/// The kernel's: EPERM (capability, or affinity smaller than the root domain), EBUSY (bandwidth), ESRCH, EINVAL.
pub fn set_policy(tid: Tid, policy: Policy) -> Result<(), Errno> {
    let mut attr = SchedAttr {
        size: ATTR_SIZE,
        ..SchedAttr::default()
    };
    match policy {
        Policy::Other => attr.policy = SCHED_OTHER,
        Policy::Fifo { priority } => {
            attr.policy = SCHED_FIFO;
            attr.priority = u32::from(priority);
            attr.flags = RESET_ON_FORK;
        }
        Policy::Deadline {
            runtime,
            deadline,
            period,
        } => {
            attr.policy = SCHED_DEADLINE;
            attr.flags = RESET_ON_FORK;
            attr.runtime = nanos(runtime);
            attr.deadline = nanos(deadline);
            attr.period = nanos(period);
        }
        Policy::Foreign { .. } => return Err(Errno::EINVAL),
    }
    set_attributes(tid, &attr)
}

/// Sets the policy of a thread to one that was read from a thread, or to [`SchedAttr::round_robin`].
///
/// # Errors
/// As [`set_policy`].
pub fn set_attributes(tid: Tid, attr: &SchedAttr) -> Result<(), Errno> {
    // SAFETY:
    // - `attr` lives across the call, and the kernel only reads it.
    // - `attr.size` is the size of the structure everywhere one is made, so the kernel reads no further.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, tid.0, &raw const *attr, 0u32) };
    Errno::result(result).map(drop)
}

impl SchedAttr {
    /// SCHED_RR, which children inherit.
    pub fn round_robin(priority: u8) -> Self {
        Self {
            size: ATTR_SIZE,
            policy: SCHED_RR,
            priority: u32::from(priority),
            ..Self::default()
        }
    }

    /// Whether it is a SCHED_DEADLINE reservation.
    pub fn is_deadline(&self) -> bool {
        self.policy == SCHED_DEADLINE
    }
}

/// The policy of a thread, to be given to [`set_attributes`] later.
///
/// # Errors
/// ESRCH when there is no such thread, EPERM where reading is restricted.
pub fn attributes(tid: Tid) -> Result<SchedAttr, Errno> {
    let mut attr = SchedAttr::default();
    // SAFETY:
    // - `attr` is valid for writes of ATTR_SIZE bytes, the size passed, and lives across the call.
    // - Every bit pattern is a valid `SchedAttr`: it is plain integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            tid.0,
            &raw mut attr,
            ATTR_SIZE,
            0u32,
        )
    };
    Errno::result(result)?;
    attr.size = ATTR_SIZE;
    Ok(attr)
}

/// The policy of a thread, as the kernel has it.
///
/// # Errors
/// As [`attributes`].
pub fn policy(tid: Tid) -> Result<Policy, Errno> {
    let attr = attributes(tid)?;
    Ok(match attr.policy {
        SCHED_OTHER => Policy::Other,
        SCHED_FIFO => Policy::Fifo {
            priority: u8::try_from(attr.priority).unwrap_or(u8::MAX),
        },
        SCHED_DEADLINE => Policy::Deadline {
            runtime: Duration::from_nanos(attr.runtime),
            deadline: Duration::from_nanos(attr.deadline),
            period: Duration::from_nanos(attr.period),
        },
        number => Policy::Foreign { number },
    })
}

/// CPU time of the calling thread. Reading it makes the kernel bring its own accounting of the thread up to date.
pub fn thread_cpu_time() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CLOCK_MONOTONIC.
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// These clocks always exist on Linux; zero would only ever make a caller look again.
fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// Sleeps until CLOCK_MONOTONIC reads `instant`, or until a signal.
pub fn sleep_until(instant: Duration) {
    let flags = ClockNanosleepFlags::TIMER_ABSTIME;
    // What ends it early is a signal; the caller looks at the clock anyway.
    let _ = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        flags,
        &TimeSpec::from_duration(instant),
    );
}

/// One process for ever, whoever has its pid later (pidfd_open(2)).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// The process that has `pid` now.
    ///
    /// # Errors
    /// ESRCH when there is none, EINVAL for the id of a thread that is no process, EMFILE.
    pub fn open(pid: i32) -> Result<Self, Errno> {
        // SAFETY:
        // - The call takes integers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0u32) };
        let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY:
        // - The kernel has just made this descriptor, and nobody else knows of it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// ESRCH when it is gone, EPERM when it is another user's.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        let (fd, signal) = (self.0.as_raw_fd(), signal as libc::c_int);
        // SAFETY:
        // - A null `info` is allowed and means what kill(2) would send.
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0u32) };
        Errno::result(result).map(drop)
    }

    /// Whether it has ended; a zombie has.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// Lets the process that `command` will start join control groups before it runs anything: `groups` are their open files
/// for that.
pub fn join_before_start(command: &mut Command, groups: Vec<File>) {
    let join = move || {
        groups
            .iter()
            .try_for_each(|mut group| group.write_all(b"0"))
    };
    // SAFETY:
    // - The closure runs between fork and exec, where only async-signal-safe functions may be called: it calls write(2)
    //   and allocates nothing.
    unsafe { command.pre_exec(join) };
}

/// Another process that runs `work`, in a session of its own, with no file open but `keep`, which it gets as its input.
///
/// # Errors
/// When it cannot be made.
pub fn fork(keep: OwnedFd, work: impl FnOnce(OwnedFd)) -> Result<Pid, Errno> {
    // SAFETY:
    // - The child has the calling thread only. It takes no lock that another thread may have held: of this process it
    //   uses the allocator, whose locks the C library (glibc, fork(3)) leaves free in the child, and nothing else that
    //   was there before.
    // - It never returns from here, so that nothing of the caller's is dropped twice.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let Ok(input) = alone_with(keep) else {
                std::process::abort();
            };
            work(input);
            // SAFETY:
            // - Nothing of the parent's is to be run or flushed at the exit of this process: `_exit` does neither.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Closes everything but `keep`, which becomes descriptor 0, and leaves the session.
fn alone_with(keep: OwnedFd) -> Result<OwnedFd, Errno> {
    nix::unistd::setsid()?;
    // SAFETY:
    // - Descriptor 0 is replaced and owned from here on; the standard input of this process is not used otherwise.
    let input = unsafe {
        Errno::result(libc::dup2(keep.as_raw_fd(), 0))?;
        OwnedFd::from_raw_fd(0)
    };
    mem::forget(keep);
    // SAFETY:
    // - All other descriptors belong to objects of the parent that this process neither uses nor drops.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 1u32, u32::MAX, 0u32) };
    Errno::result(closed)?;
    Ok(input)
}

/// A one-shot CLOCK_MONOTONIC timer that signals one thread.
#[derive(Debug)]
pub struct ThreadTimer {
    id: libc::timer_t,
}

// SAFETY:
// - `timer_t` is an identifier that any thread of the process may use; the pointer type is the C library's choice and
//   is never dereferenced here.
unsafe impl Send for ThreadTimer {}

impl ThreadTimer {
    /// A disarmed timer that will send `signal` to the calling thread.
    ///
    /// # Errors
    /// EINVAL for a bad signal number, EAGAIN when the process has too many timers or queued signals.
    pub fn new(signal: libc::c_int) -> Result<Self, Errno> {
        // SAFETY:
        // - All-zero bytes are a valid `sigevent`: integers, a union of integers and pointers that is not followed.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = Tid::current().0;
        let mut id: libc::timer_t = std::ptr::null_mut();
        // SAFETY:
        // - `event` and `id` are valid and live across the call; the kernel copies the one and writes the other.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) };
        Errno::result(result)?;
        Ok(Self { id })
    }

    /// Fires once after `delay` (at least 1 ns); replaces what was armed.
    pub fn arm(&mut self, delay: Duration) {
        self.set(delay.max(Duration::from_nanos(1)));
    }

    /// Fires no more. A signal already queued stays queued.
    pub fn disarm(&mut self) {
        self.set(Duration::ZERO);
    }

    fn set(&mut self, delay: Duration) {
        let seconds = libc::time_t::try_from(delay.as_secs()).unwrap_or(libc::time_t::MAX);
        let value = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: seconds,
                tv_nsec: libc::c_long::from(delay.subsec_nanos().cast_signed()),
            },
        };
        // SAFETY:
        // - `id` came from timer_create and is deleted only on drop.
        // - `value` is valid and only read; a null old value is allowed.
        let result =
            unsafe { libc::timer_settime(self.id, 0, &raw const value, std::ptr::null_mut()) };
        debug_assert_eq!(result, 0, "a live timer and a canonical time are accepted");
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY:
        // - `id` came from timer_create and is not used after this.
        unsafe { libc::timer_delete(self.id) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_thread_is_an_ordinary_one() {
        assert_eq!(policy(Tid::current()), Ok(Policy::Other));
    }

    #[test]
    fn a_thread_that_does_not_exist_is_an_error() {
        assert_eq!(policy(Tid(i32::MAX)), Err(Errno::ESRCH));
        assert_eq!(set_policy(Tid(i32::MAX), Policy::Other), Err(Errno::ESRCH));
    }

    #[test]
    fn a_policy_this_crate_does_not_set_is_refused() {
        let foreign = Policy::Foreign { number: 3 };
        assert_eq!(set_policy(Tid::current(), foreign), Err(Errno::EINVAL));
    }

    #[test]
    fn cpu_time_passes_only_while_the_thread_runs() {
        let (wall, cpu) = (monotonic(), thread_cpu_time());
        std::thread::sleep(Duration::from_millis(20));
        let slept = thread_cpu_time() - cpu;
        assert!(monotonic() - wall >= Duration::from_millis(20));
        assert!(slept < Duration::from_millis(10), "{slept:?}");
    }
}
