//! Which of a VTM's jobs go on first when it gets the CPU again, where several run at once.
//!
//! What the kernel interrupts stays at the head of its queue (sched(7), SCHED_RR). What is stopped and continued goes to its
//! end, in the order in which it is continued: a job that was in the middle of something when its VTM lost the CPU would wait
//! for all others that are ready, again and again. So jobs are continued in the order in which they stood in the queue: the
//! interrupted one, those that waited behind it, those that had no work.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::dispatcher::Handle;
use super::job::cpu_time;

/// Where more run at once their order stays as it is: looking at one takes some 10 us.
const MOST: usize = 8;
/// Being continued, and finding that there is nothing to do, takes less CPU time than this.
const NOTHING: Duration = Duration::from_micros(50);
/// The beginning of /proc/PID/stat as far as the number of threads, with the longest name and numbers.
const BEGINNING: usize = 384;

/// What a job has done since the slot began, seen by its first process.
#[derive(Debug)]
pub(super) struct Work {
    pid: i32,
    before: Duration,
    place: Place,
}

/// What is seen of a job when its VTM loses the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    ready: bool,
    ran: bool,
}

/// Where a job stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// It was interrupted, or waited behind what was.
    First,
    /// It waited behind these, as it had run before them.
    Behind,
    /// It had nothing to do.
    Idle,
}

impl Work {
    /// Of the job whose first process is `pid`.
    pub(super) fn of(pid: i32) -> Self {
        Self {
            pid,
            before: Duration::ZERO,
            place: Place::Idle,
        }
    }

    fn now(&self) -> Duration {
        cpu_time(self.pid).unwrap_or_default()
    }

    fn look(&self) -> Look {
        Look {
            ready: is_ready(self.pid),
            ran: self.now().saturating_sub(self.before) > NOTHING,
        }
    }
}

/// Whether there are several, and not too many to look at.
fn matters(jobs: &[Handle]) -> bool {
    (2..=MOST).contains(&jobs.len())
}

/// Notes where the jobs that run are when a slot begins.
pub(super) fn mark(running: &mut [Handle]) {
    if matters(running) {
        for job in running {
            job.work.before = job.work.now();
        }
    }
}

/// Orders the jobs that run, before they are stopped, as they are to be continued.
pub(super) fn order(running: &mut [Handle]) {
    if !matters(running) {
        return;
    }
    let mut looks = [Look {
        ready: false,
        ran: false,
    }; MOST];
    for (look, job) in looks.iter_mut().zip(running.iter()) {
        *look = job.work.look();
    }
    let looks = &looks[..running.len()];
    for (number, job) in running.iter_mut().enumerate() {
        job.work.place = place(looks, number);
    }
    // Stable; so few are sorted without allocating.
    running.sort_by_key(|job| job.work.place);
}

/// Where the job of this number stands, of jobs in the order in which they were continued. Of several that are ready and
/// have run the last one was interrupted: the others had been before it, and are ready anew.
fn place(looks: &[Look], number: usize) -> Place {
    let interrupted = looks.iter().rposition(|look| look.ready && look.ran);
    match looks[number].ready {
        true if number >= interrupted.unwrap_or(0) => Place::First,
        true => Place::Behind,
        false => Place::Idle,
    }
}

/// Whether the process runs or waits for a CPU, or may: of one with several threads nobody asks each. Allocates nothing.
fn is_ready(pid: i32) -> bool {
    let mut path = [0; 32];
    let mut rest = &mut path[..];
    if write!(rest, "/proc/{pid}/stat").is_err() {
        return false;
    }
    let left = rest.len();
    let path = OsStr::from_bytes(&path[..path.len() - left]);
    let mut line = [0; BEGINNING];
    let read = File::open(path).and_then(|mut file| file.read(&mut line));
    let seen = read.ok().and_then(|length| state(&line[..length]));
    seen.is_some_and(|(state, threads)| state == b'R' || threads > 1)
}

/// State and number of threads (fields 3 and 20) in a line of /proc/PID/stat (proc_pid_stat(5)). The name before them is in
/// parentheses and may contain any character; behind it there are numbers.
fn state(line: &[u8]) -> Option<(u8, u32)> {
    let end = line.iter().rposition(|&byte| byte == b')')?;
    let behind = str::from_utf8(line.get(end + 2..)?).ok()?;
    let mut fields = behind.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(16)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places(looks: &[Look]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..looks.len()).collect();
        order.sort_by_key(|&number| place(looks, number));
        order
    }

    #[test]
    fn the_interrupted_job_goes_on_before_those_that_waited_and_those_without_work() {
        let idle = |ran| Look { ready: false, ran };
        let ready = |ran| Look { ready: true, ran };
        let looks = [
            idle(true),
            ready(false),
            idle(false),
            ready(true),
            ready(false),
        ];
        assert_eq!(places(&looks), [3, 4, 1, 0, 2]);
        // The first has used up its time slice, and the kernel has put it behind the others.
        let looks = [ready(true), ready(true), ready(false)];
        assert_eq!(places(&looks), [1, 2, 0]);
        assert_eq!(places(&[idle(false), ready(false)]), [1, 0]);
    }

    proptest! {
        /// A queue as the kernel has it: who is at its head runs until its work is done or its time slice is over.
        #[test]
        fn jobs_are_continued_in_the_order_of_the_kernels_queue(
            jobs in 1usize..9, fates in proptest::collection::vec(any::<bool>(), 0..8), idle in proptest::collection::vec(any::<bool>(), 8),
        ) {
            // Those that have work, in the order in which they were continued, and the others behind them.
            let (working, without): (Vec<usize>, Vec<usize>) = (0..jobs).partition(|&job| !idle[job]);
            let mut queue = working.clone();
            let mut looks = vec![Look { ready: false, ran: false }; jobs];
            for &job in &working {
                looks[job].ready = true;
            }
            let mut done = Vec::new();
            // Not all of them have their turn: the last one that has is interrupted.
            for slice_is_over in fates.into_iter().take(working.len().saturating_sub(1)) {
                let job = queue.remove(0);
                looks[job].ran = true;
                if slice_is_over {
                    queue.push(job);
                } else {
                    looks[job].ready = false;
                    done.push(job);
                }
            }
            if let Some(&head) = queue.first() {
                looks[head].ran = true;
            }
            let got: Vec<usize> = places(&looks).into_iter().filter(|job| looks[*job].ready).collect();
            prop_assert_eq!(got, queue);
            prop_assert_eq!(without.len() + done.len() + looks.iter().filter(|look| look.ready).count(), jobs);
        }

        #[test]
        fn the_state_is_found_whatever_the_process_is_called(
            name in "[ -~]{0,15}", state in prop::sample::select(vec![b'R', b'S', b'T']), threads in 1u32..4_194_304,
        ) {
            let most = format!("{} ", u64::MAX).repeat(16);
            let line = format!("4194303 ({name}) {} {most}{threads} 0", char::from(state));
            prop_assert_eq!(super::state(line.as_bytes()), Some((state, threads)));
            prop_assert!(line.len() <= BEGINNING);
        }
    }

    #[test]
    fn who_has_several_threads_may_be_ready_and_who_has_ended_is_not() {
        let own = i32::try_from(std::process::id()).unwrap();
        // The first thread waits for the one of this test.
        assert!(is_ready(own));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let begun = std::time::Instant::now();
        while is_ready(id) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_ready(id), "it sleeps");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_ready(id));
        assert_eq!(state(b"1 (sh"), None);
    }
}
