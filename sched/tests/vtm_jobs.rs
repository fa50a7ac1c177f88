//! Jobs of VTMs on the real kernel: which processes can be one, and that all are left as they were found.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

#[path = "support/jobs.rs"]
mod jobs;
mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;

use jobs::{Look, Process, eventually, groups_left, half, is_still, is_stopped, ms, runs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use sched::framework::{Manager, Scheduler};
use sched::vtm::{JobSource, JobState, Means, RoundRobin, Status, Suspend, VtmError};
use support::Host;

#[test]
fn jobs_are_still_until_they_are_dispatched_and_as_before_when_released() {
    requires_real_time!();
    let _host = Host::lock();
    for suspend in [Suspend::Signals, Suspend::Freezer, Suspend::Auto] {
        let job = Process::busy();
        let before = Look::at(job.pid());
        let mut vtms = half(suspend);
        vtms.add_job("a", &job.source()).unwrap();
        assert!(is_still(job.pid()), "{suspend:?}");
        vtms.schedule().unwrap();
        assert!(runs(job.pid()), "{suspend:?}");
        assert_ne!(Look::at(job.pid()).policy, before.policy);
        vtms.suspend("a").unwrap();
        assert!(is_still(job.pid()), "{suspend:?}");
        vtms.resume("a").unwrap();
        assert!(runs(job.pid()), "{suspend:?}");
        vtms.team("a")
            .unwrap()
            .suspend(&job.pid().to_string())
            .unwrap();
        assert!(is_still(job.pid()), "{suspend:?}");
        vtms.team("a")
            .unwrap()
            .resume(&job.pid().to_string())
            .unwrap();
        assert!(runs(job.pid()), "{suspend:?}");
        vtms.expel("a").unwrap();
        assert!(is_still(job.pid()), "{suspend:?}");
        vtms.remove_job("a", &job.pid().to_string()).unwrap();
        assert!(runs(job.pid()), "{suspend:?}");
        assert_eq!(Look::at(job.pid()), before, "{suspend:?}");
        vtms.add_job("a", &job.source()).unwrap();
        assert!(is_still(job.pid()), "{suspend:?}");
        drop(vtms);
        assert!(runs(job.pid()), "{suspend:?}");
        assert_eq!(Look::at(job.pid()), before, "{suspend:?}");
        assert!(groups_left().is_empty(), "{suspend:?}");
    }
}

/// A shell that starts a busy child whose parent ends, and goes on working itself.
const DOUBLE_FORK: &str = "(setsid sh -c 'echo $$; while :; do :; done' &); while :; do :; done";

/// The processes of a job's group as they were seen last. Dropping it ends them.
struct Members(Vec<i32>);

impl Members {
    /// Looks for those in the group of the first.
    fn look(&mut self, first: i32) -> &[i32] {
        let group = fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
        // Everybody else's processes are in others.
        assert!(group.contains("/chronovisor.vtm"), "{group}");
        let is_in = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|it| it == group)
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        self.0 = pids.filter(is_in).collect();
        &self.0
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for &pid in &self.0 {
            // It may have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Whether a process is the first of its session, as an orphan of [`DOUBLE_FORK`] is.
fn leads_its_session(pid: i32) -> bool {
    getsid(Some(Pid::from_raw(pid))).is_ok_and(|session| session.as_raw() == pid)
}

#[test]
fn children_whose_parent_has_ended_stop_with_their_job_where_there_is_a_freezer() {
    requires_real_time!();
    let _host = Host::lock();
    for suspend in [Suspend::Freezer, Suspend::Auto] {
        let mut vtms = half(suspend);
        let command = ["sh", "-c", DOUBLE_FORK].map(str::to_owned);
        let job = vtms
            .add_job("a", &JobSource::Command(command.to_vec()))
            .unwrap();
        vtms.schedule().unwrap();
        let is_frozen = |status: Status| {
            let job = &status.vtms[0].jobs[0];
            job.processes == 2 && job.means == Means::Freezer
        };
        assert!(eventually(|| is_frozen(vtms.status())), "{suspend:?}");
        let first = job.parse().unwrap();
        let mut members = Members(vec![first]);
        // The shell between the two counts as long as it lives.
        assert!(
            eventually(|| {
                let members = members.look(first);
                members.len() == 2 && members.iter().any(|&pid| leads_its_session(pid))
            }),
            "{suspend:?}"
        );
        vtms.suspend("a").unwrap();
        assert!(members.0.iter().all(|&pid| is_still(pid)), "{suspend:?}");
        drop(vtms);
        assert!(members.0.iter().all(|&pid| runs(pid)), "{suspend:?}");
        for &pid in &members.0 {
            let normal = Look::at(std::process::id().try_into().unwrap()).policy;
            assert_eq!(Look::at(pid).policy, normal, "{suspend:?}");
        }
        assert!(groups_left().is_empty(), "{suspend:?}");
    }
}

#[test]
fn children_stop_with_their_job_by_signals_too() {
    requires_real_time!();
    let _host = Host::lock();
    let busy = "while :; do :; done";
    let job = Process::start(&["sh", "-c", &format!("sh -c '{busy}' & {busy}")]);
    let mut vtms = half(Suspend::Signals);
    vtms.add_job("a", &job.source()).unwrap();
    vtms.schedule().unwrap();
    assert!(eventually(|| vtms.status().vtms[0].jobs[0].processes == 2));
    vtms.suspend("a").unwrap();
    assert!(is_still(job.pid()));
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            stat.rsplit_once(')').is_some_and(|(_, rest)| {
                rest.split_whitespace().nth(1) == Some(&job.pid().to_string())
            })
        })
    };
    let children: Vec<i32> = pids.filter(parent).collect();
    assert_eq!(children.len(), 1);
    assert!(is_still(children[0]));
    drop(vtms);
    assert!(runs(children[0]));
    kill(Pid::from_raw(children[0]), Signal::SIGKILL).unwrap();
}

#[test]
fn a_job_that_ends_leaves_its_vtm_and_its_time_stays_counted() {
    requires_real_time!();
    let _host = Host::lock();
    let mut vtms = half(Suspend::Auto);
    let lengthy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let command = ["sh", "-c", lengthy].map(str::to_owned);
    vtms.add_job("a", &JobSource::Command(command.to_vec()))
        .unwrap();
    vtms.schedule().unwrap();
    assert!(eventually(|| vtms.status().vtms[0].ended == 1));
    let status = vtms.status();
    assert!(status.vtms[0].jobs.is_empty());
    assert!(
        status.vtms[0].cpu_time > ms(10),
        "{:?}",
        status.vtms[0].cpu_time
    );
    assert!(groups_left().is_empty());
}

#[test]
fn what_somebody_else_had_stopped_is_left_stopped() {
    requires_real_time!();
    let _host = Host::lock();
    for suspend in [Suspend::Signals, Suspend::Freezer, Suspend::Auto] {
        let job = Process::busy();
        kill(Pid::from_raw(job.pid()), Signal::SIGSTOP).unwrap();
        assert!(eventually(|| is_stopped(job.pid())));
        let before = Look::at(job.pid());
        let mut vtms = half(suspend);
        vtms.add_job("a", &job.source()).unwrap();
        vtms.schedule().unwrap();
        assert_eq!(vtms.status().vtms[0].jobs[0].state, JobState::Held);
        assert!(is_still(job.pid()), "{suspend:?}");
        drop(vtms);
        assert_eq!(Look::at(job.pid()), before, "{suspend:?}");
    }
}

#[test]
fn what_somebody_else_continues_takes_its_turns_and_is_left_running() {
    requires_real_time!();
    let _host = Host::lock();
    for suspend in [Suspend::Signals, Suspend::Freezer, Suspend::Auto] {
        let job = Process::busy();
        let before = Look::at(job.pid());
        kill(Pid::from_raw(job.pid()), Signal::SIGSTOP).unwrap();
        assert!(eventually(|| is_stopped(job.pid())));
        let mut vtms = half(suspend);
        vtms.add_job("a", &job.source()).unwrap();
        vtms.schedule().unwrap();
        kill(Pid::from_raw(job.pid()), Signal::SIGCONT).unwrap();
        let turns = |status: Status| status.vtms[0].jobs[0].turns;
        assert!(eventually(|| turns(vtms.status()) > 3), "{suspend:?}");
        vtms.suspend("a").unwrap();
        assert!(is_still(job.pid()), "{suspend:?}");
        drop(vtms);
        assert!(runs(job.pid()), "{suspend:?}");
        assert_eq!(Look::at(job.pid()), before, "{suspend:?}");
    }
}

#[test]
fn a_refused_job_is_left_as_it_was_and_the_reason_names_it() {
    requires_real_time!();
    let _host = Host::lock();
    let job = Process::busy();
    let ended = {
        let short = Process::busy();
        short.pid()
    };
    let kernel_thread = 2;
    let own = i32::try_from(std::process::id()).unwrap();
    let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
    let mut vtms = half(Suspend::Auto);
    vtms.create("b", RoundRobin::default()).unwrap();
    let guardian = vtms.status().guardian;
    vtms.add_job("b", &job.source()).unwrap();
    let taken = Look::at(job.pid());
    let before = vtms.status();
    let refusals = [
        (JobSource::Process(ended), "does not exist"),
        (JobSource::Process(-1), "does not exist"),
        (JobSource::Group(i32::MAX), "no group"),
        (JobSource::Process(kernel_thread), "kernel thread"),
        (JobSource::Process(own), "scheduler itself"),
        (JobSource::Process(parent), "scheduler itself"),
        (JobSource::Process(1), "scheduler itself"),
        (JobSource::Process(guardian), "scheduler itself"),
        (job.source(), "VTM 'b' already"),
        (JobSource::Command(vec![]), "name a program"),
        (
            JobSource::Command(vec!["/nonexistent".to_owned()]),
            "/nonexistent",
        ),
    ];
    for (source, words) in refusals {
        let error = vtms.add_job("a", &source).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(matches!(
        vtms.add_job("c", &job.source()),
        Err(VtmError::NoSuchVtm { .. })
    ));
    assert_eq!(vtms.status().vtms, before.vtms);
    assert_eq!(Look::at(job.pid()), taken);
    let groups = groups_left();
    assert_eq!(groups.len(), 1, "of the job in 'b': {groups:?}");
}

/// Set in a process that is to be the scheduler, and be killed: the pid of its job.
const VICTIM: &str = "VTM_TEST_JOB";

#[test]
fn a_scheduler_that_is_killed_leaves_every_job_running_as_it_was() {
    requires_real_time!();
    if let Ok(job) = std::env::var(VICTIM) {
        let (suspend, pid) = job.split_once(' ').unwrap();
        let suspend = match suspend {
            "signals" => Suspend::Signals,
            _ => Suspend::Freezer,
        };
        let mut vtms = half(suspend);
        vtms.add_job("a", &JobSource::Process(pid.parse().unwrap()))
            .unwrap();
        vtms.schedule().unwrap();
        println!("guardian {}", vtms.status().guardian);
        loop {
            sleep(ms(1000));
        }
    }
    let _host = Host::lock();
    for suspend in ["signals", "freezer"] {
        let job = Process::start(&[
            "sh",
            "-c",
            "sh -c 'while :; do :; done' & while :; do :; done",
        ]);
        sleep(ms(100));
        let before = Look::at(job.pid());
        let name = "a_scheduler_that_is_killed_leaves_every_job_running_as_it_was";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]);
        command
            .env(VICTIM, format!("{suspend} {}", job.pid()))
            .stdout(Stdio::null());
        let mut victim = Process(command.spawn().unwrap());
        assert!(
            eventually(|| Look::at(job.pid()).policy != before.policy),
            "{suspend}"
        );
        sleep(ms(300));
        victim.0.kill().unwrap();
        victim.0.wait().unwrap();
        assert!(
            eventually(|| Look::at(job.pid()) == before),
            "{suspend}: {:?}",
            Look::at(job.pid())
        );
        assert!(runs(job.pid()), "{suspend}");
        let left = format!("chronovisor.vtm{}-", victim.pid());
        let left = || {
            fs::read_dir("/sys/fs/cgroup/freezer")
                .into_iter()
                .flatten()
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(&left))
        };
        assert!(eventually(|| !left()), "{suspend}");
        let children = format!("pkill -KILL -P {}", job.pid());
        let _ = Command::new("sh").args(["-c", &children]).status();
    }
}
