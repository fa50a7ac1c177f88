//! VTMs on the real kernel: processes that run in the slots of their table only, and are left as they were found.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sched::framework::{Job, Manager, Scheduler};
use sched::kernel::{SchedAttr, Tid, attributes};
use sched::vtm::{
    CpuShare, JobSource, JobState, Means, Need, RoundRobin, Status, Suspend, VtmConfig, VtmError,
    VtmScheduler,
};
use support::Host;
use system_tests::requires::Capability;
use system_tests::{Need as Needs, requires};

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn share(execution: u64, period: u64) -> CpuShare {
    CpuShare {
        period: ms(period),
        need: Need::Time(ms(execution)),
        max_delay: None,
    }
}

/// A CPU that is no partition.
fn cpu() -> u32 {
    let mut online = sched::cpus::online();
    let partitions = sched::partition::usable(&online);
    online.retain(|cpu| partitions.iter().all(|partition| partition.cpu != *cpu));
    *online.last().unwrap()
}

/// A process of the test's own, ended on drop.
struct Process(Child);

impl Process {
    fn start(words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn busy() -> Self {
        Self::start(&["sh", "-c", "while :; do :; done"])
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    fn source(&self) -> JobSource {
        JobSource::Process(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether VTMs can be had here.
macro_rules! requires_real_time {
    () => {
        requires!(Needs::Root, Needs::Capability(Capability::SysNice));
    };
}

/// What of a process must be left as it was found.
#[derive(Debug, PartialEq)]
struct Look {
    policy: SchedAttr,
    cpus: Vec<bool>,
    freezer: String,
    stopped: bool,
}

impl Look {
    fn at(pid: i32) -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(pid)).unwrap();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        Self {
            policy: attributes(Tid(pid)).unwrap(),
            cpus: (0..CpuSet::count())
                .map(|cpu| allowed.is_set(cpu).unwrap())
                .collect(),
            freezer: groups,
            stopped: is_stopped(pid),
        }
    }
}

fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// Clock ticks of CPU time.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return 0;
    };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Whether a busy process gets on, within a time that a loaded host may take.
fn runs(pid: i32) -> bool {
    let before = ticks(pid);
    eventually(|| ticks(pid) > before + 2)
}

fn is_still(pid: i32) -> bool {
    // One that is on a CPU at this moment may take a tick to notice.
    sleep(ms(30));
    let before = ticks(pid);
    sleep(ms(200));
    ticks(pid) <= before + 1
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < ms(60_000) {
        if holds() {
            return true;
        }
        sleep(ms(10));
    }
    false
}

fn groups_left() -> Vec<String> {
    let own = format!("chronovisor.vtm{}.", std::process::id());
    let hierarchies = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup"];
    let entries = hierarchies
        .iter()
        .flat_map(|root| fs::read_dir(root).into_iter().flatten());
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&own)).collect()
}

fn scheduler(suspend: Suspend) -> VtmScheduler {
    VtmScheduler::new(VtmConfig {
        suspend,
        ..VtmConfig::on(cpu())
    })
    .unwrap()
}

/// A scheduler with one VTM, "a", that has half of the CPU.
fn half(suspend: Suspend) -> VtmScheduler {
    let mut vtms = scheduler(suspend);
    vtms.create("a", RoundRobin::default()).unwrap();
    vtms.reserve("a", &share(10, 20)).unwrap();
    vtms
}

/// The CPU time that each VTM's jobs get, over the wall time.
fn shares_over(vtms: &VtmScheduler, length: Duration) -> Vec<f64> {
    let before = vtms.status();
    let begin = Instant::now();
    sleep(length);
    let after = vtms.status();
    let wall = begin.elapsed().as_secs_f64();
    let both = before.vtms.iter().zip(&after.vtms);
    both.map(|(before, after)| (after.cpu_time - before.cpu_time).as_secs_f64() / wall)
        .collect()
}

#[test]
fn busy_jobs_get_what_their_vtm_was_promised_on_a_loaded_cpu() {
    requires_real_time!();
    let _host = Host::lock();
    let _load: Vec<_> = (0..2).map(|_| Process::busy()).collect();
    for suspend in [Suspend::Signals, Suspend::Freezer] {
        let jobs = [Process::busy(), Process::busy()];
        let mut vtms = scheduler(suspend);
        for ((name, execution, period), job) in
            [("gold", 20, 50), ("rest", 20, 100)].iter().zip(&jobs)
        {
            vtms.create(name, RoundRobin::default()).unwrap();
            vtms.reserve(name, &share(*execution, *period)).unwrap();
            vtms.add_job(name, &job.source()).unwrap();
        }
        vtms.schedule().unwrap();
        let got = shares_over(&vtms, ms(4000));
        for (got, promised) in got.iter().zip([0.4, 0.2]) {
            assert!(
                (got - promised).abs() < 0.02,
                "{suspend:?}: {got} of {promised}"
            );
        }
    }
}

#[test]
fn twenty_vtms_have_their_shares_at_once() {
    requires_real_time!();
    let _host = Host::lock();
    let jobs: Vec<_> = (0..20).map(|_| Process::busy()).collect();
    let mut vtms = scheduler(Suspend::Auto);
    for (index, job) in jobs.iter().enumerate() {
        let name = format!("vtm{index}");
        vtms.create(&name, RoundRobin::default()).unwrap();
        vtms.reserve(&name, &share(10, 250)).unwrap();
        vtms.add_job(&name, &job.source()).unwrap();
    }
    vtms.schedule().unwrap();
    let got = shares_over(&vtms, ms(5000));
    assert!(got.iter().all(|got| (got - 0.04).abs() < 0.01), "{got:?}");
    let status = vtms.status();
    assert!((status.utilisation - 0.8).abs() < 1e-9);
    assert!(status.dispatches.cost.count >= 490);
}

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
        let of = |status: Status| status.vtms[0].jobs[0].clone();
        assert!(
            eventually(|| of(vtms.status()).processes == 2),
            "{suspend:?}"
        );
        assert!(
            eventually(|| of(vtms.status()).means == Means::Freezer),
            "{suspend:?}"
        );
        let first: i32 = job.parse().unwrap();
        let group = fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
        let same = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|it| it == group)
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let members: Vec<i32> = pids.filter(same).collect();
        assert_eq!(members.len(), 2, "{suspend:?}");
        vtms.suspend("a").unwrap();
        assert!(members.iter().all(|&pid| is_still(pid)), "{suspend:?}");
        drop(vtms);
        assert!(members.iter().all(|&pid| runs(pid)), "{suspend:?}");
        for pid in members {
            let normal = Look::at(std::process::id().try_into().unwrap()).policy;
            assert_eq!(Look::at(pid).policy, normal, "{suspend:?}");
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
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
fn jobs_of_a_vtm_take_turns() {
    requires_real_time!();
    let _host = Host::lock();
    let jobs: Vec<_> = (0..3).map(|_| Process::busy()).collect();
    let mut vtms = scheduler(Suspend::Signals);
    let rule = RoundRobin {
        quantum: ms(5),
        ..RoundRobin::default()
    };
    vtms.create("a", rule).unwrap();
    vtms.reserve("a", &share(30, 60)).unwrap();
    for job in &jobs {
        vtms.add_job("a", &job.source()).unwrap();
    }
    vtms.schedule().unwrap();
    sleep(ms(3000));
    let status = vtms.status();
    let turns: Vec<u64> = status.vtms[0].jobs.iter().map(|job| job.turns).collect();
    let (most, least) = (turns.iter().max().unwrap(), turns.iter().min().unwrap());
    assert!(most - least <= 1, "{turns:?}");
    assert!(*least >= 60, "a quantum within a slot is a turn: {turns:?}");
}

#[test]
fn a_new_table_is_in_force_at_the_next_slot_for_both_vtms_or_for_none() {
    requires_real_time!();
    let _host = Host::lock();
    let jobs = [Process::busy(), Process::busy()];
    let mut vtms = scheduler(Suspend::Signals);
    for (name, job) in ["x", "y"].iter().zip(&jobs) {
        vtms.create(name, RoundRobin::default()).unwrap();
        vtms.reserve(name, &share(40, 100)).unwrap();
        vtms.add_job(name, &job.source()).unwrap();
    }
    vtms.schedule().unwrap();
    let before = vtms.status();
    let refused = vtms.adapt(&[share(10, 100).of("x"), share(100, 100).of("y")]);
    assert!(matches!(refused, Err(VtmError::Table(_))), "{refused:?}");
    assert_eq!(vtms.status().tables, before.tables);
    vtms.adapt(&[share(10, 100).of("x"), share(70, 100).of("y")])
        .unwrap();
    assert!(eventually(
        || vtms.status().tables_in_force == before.tables + 1
    ));
    let got = shares_over(&vtms, ms(3000));
    assert!(
        (got[0] - 0.1).abs() < 0.02 && (got[1] - 0.7).abs() < 0.02,
        "{got:?}"
    );
    let mut team = vtms.team("x").unwrap();
    team.set_sched_param(Some(share(20, 100))).unwrap();
    assert_eq!(team.sched_param(), Some(share(20, 100)));
    team.set_sched_param(None).unwrap();
    assert_eq!(vtms.status().vtms[0].promise, None);
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

#[test]
fn wrong_reservations_are_refused_with_what_would_do() {
    requires_real_time!();
    let _host = Host::lock();
    let mut vtms = half(Suspend::Signals);
    let before = vtms.status();
    let refused =
        |error: VtmError, words: &str| assert!(error.to_string().contains(words), "{error}");
    refused(
        vtms.create("a", RoundRobin::default()).unwrap_err(),
        "already",
    );
    refused(
        vtms.create("a b", RoundRobin::default()).unwrap_err(),
        "usable",
    );
    let zero = RoundRobin {
        quantum: Duration::ZERO,
        ..RoundRobin::default()
    };
    refused(vtms.create("z", zero).unwrap_err(), "10 ms");
    refused(vtms.reserve("a", &share(10, 20)).unwrap_err(), "adapt");
    refused(
        vtms.adapt(&[share(20, 20).of("a")]).unwrap_err(),
        "sched_rt_runtime_us",
    );
    refused(
        vtms.adapt(&[share(30, 20).of("a")]).unwrap_err(),
        "at most 20 ms",
    );
    refused(vtms.adapt(&[share(0, 20).of("a")]).unwrap_err(), "zero");
    refused(
        vtms.reserve("nobody", &share(10, 20)).unwrap_err(),
        "use one of a",
    );
    refused(
        vtms.network_reserve("a", 1, &[]).unwrap_err(),
        "not configured",
    );
    assert_eq!(vtms.status(), before);
    let offline = VtmScheduler::new(VtmConfig::on(4096)).unwrap_err();
    refused(offline, "not online");
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
        let left = format!("chronovisor.vtm{}.", victim.pid());
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
