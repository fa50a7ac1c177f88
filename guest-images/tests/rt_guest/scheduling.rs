//! The guest schedules as it says, on every kind of machine: checked on the records that it prints.
//!
//! These machines may be slow and held up at any time, so nothing here depends on how long anything took.

use crate::qemu::{Machine, Run};
use rt_abi::policy::{JobView, deadline, next_release, ranks};
use rt_abi::random::execution;
use rt_abi::record::{Kind, Record};
use rt_abi::taskset::{Kind as TaskKind, Policy};
use system_tests::{Need, requires};

const QEMU: Need = Need::Program("qemu-system-x86_64");

/// A long job that short ones preempt, offsets, random execution times, a constrained deadline.
const SET: &str = "task=short,c=1ms,t=20ms task=long,c=15ms..25ms,t=100ms,o=3ms,d=90ms \
                   task=odd,c=2ms,t=30ms,d=25ms,o=1ms duration=300ms start=50ms seed=7 stream=1";
/// The same on the second vCPU, with a hog below.
const SECOND: &str = "task=short1,c=1ms,t=20ms,cpu=1 task=long1,c=20ms,t=100ms,cpu=1 hog=1";

/// Longest that a job may run over its execution time: one step of its loop, which is less than 8 usual ones.
const STEP: u64 = 200_000;

fn check_machine(machine: Machine) {
    for policy in ["rm", "edf"] {
        for second in ["", SECOND] {
            let run = machine.run(&format!("sched={policy} {SET} {second}"));
            assert_eq!(run.status, Some(33), "{machine:?}: {:#?}", run.lines);
            check_run(&run);
        }
    }
}

fn check_run(run: &Run) {
    assert_eq!(run.lines[0], "rt-guest: ready");
    assert!(
        !run.lines.iter().any(|l| l.starts_with('L')),
        "records lost"
    );
    for task in 0..run.set.tasks().len() {
        check_task(run, task);
    }
    check_precedence(run);
    let ends = run.of_kind(Kind::End);
    assert_eq!(ends.len(), 1);
    assert!(run.records().iter().all(|r| r.finish <= ends[0].finish));
}

/// Every job is there, released and due when it should be, and has run as long as it should.
fn check_task(run: &Run, index: usize) {
    let task = &run.set.tasks()[index];
    let jobs = run.jobs(index);
    if task.kind == TaskKind::Hog {
        assert!(jobs.is_empty(), "a hog never ends");
        return;
    }
    let start = start_of(run);
    for (number, job) in (0..).zip(&jobs) {
        assert_eq!(job.job, number);
        assert_eq!(job.vcpu, task.vcpu);
        assert_eq!(job.release, next_release(task, number, start));
        assert_eq!(job.deadline, deadline(task, job.release));
        assert!(
            job.woken == 0 || (job.release..=job.start).contains(&job.woken),
            "{job:?}"
        );
        assert!(job.release <= job.start, "{job:?}");
        let wanted = execution(run.set.seed, index, task, number);
        // 2 ns: times are rounded.
        assert!(
            job.executed + 2 >= wanted && job.executed <= wanted + STEP,
            "{wanted}: {job:?}"
        );
        assert!(job.finish - job.start + 2 >= job.executed, "{job:?}");
    }
    let summary = format!("task {} jobs {} misses ", task.name, jobs.len());
    assert!(
        run.lines.iter().any(|l| l.starts_with(&summary)),
        "no {summary}"
    );
}

/// When the run started: the same for all tasks, and not before it was asked to.
fn start_of(run: &Run) -> u64 {
    let firsts = run
        .of_kind(Kind::Job)
        .into_iter()
        .filter(|job| job.job == 0);
    let mut starts: Vec<u64> = firsts
        .map(|job| job.release - run.set.tasks()[usize::from(job.task)].offset)
        .collect();
    starts.dedup();
    assert_eq!(starts.len(), 1, "tasks disagree on when the run started");
    starts[0]
}

/// From its start to its finish, a job is only interrupted by jobs that go before it.
fn check_precedence(run: &Run) {
    let ranks = ranks(run.set.policy, run.set.tasks());
    let before = |a: &Record, b: &Record| {
        let key = |r: &Record| (r.deadline, ranks[usize::from(r.task)]);
        match run.set.policy {
            Policy::Edf => key(a) < key(b),
            Policy::RateMonotonic => key(a).1 < key(b).1,
        }
    };
    let jobs = run.of_kind(Kind::Job);
    for a in &jobs {
        for b in jobs.iter().filter(|b| b.vcpu == a.vcpu && before(a, b)) {
            let held_up = a.start..a.finish;
            assert!(!held_up.contains(&b.start), "{b:?} started in {a:?}");
            assert!(!held_up.contains(&(b.finish - 1)), "{b:?} ran in {a:?}");
            // From the interrupt of its release on, nothing that goes after it starts.
            let waiting = a.woken..a.start;
            assert!(
                a.woken == 0 || !waiting.contains(&b.start),
                "{b:?} overtook {a:?}"
            );
        }
    }
}

#[test]
fn the_guest_schedules_on_a_microvm_without_kvm() {
    requires!(QEMU);
    check_machine(Machine::new("tcg", "microvm"));
}

#[test]
fn the_guest_schedules_on_a_pc_without_kvm() {
    requires!(QEMU);
    check_machine(Machine::new("tcg", "pc"));
}

#[test]
fn the_guest_schedules_on_a_microvm_with_the_tsc_deadline_timer_of_kvm() {
    requires!(QEMU, Need::Kvm);
    check_machine(Machine {
        // QEMU 7.2 cannot set the MSR of this feature where KVM offers it on AMD processors.
        cpu: Some("host,arch-capabilities=off"),
        ..Machine::new("kvm", "microvm")
    });
}

#[test]
fn the_guest_schedules_on_a_pc_with_the_one_shot_timer_of_kvm() {
    requires!(QEMU, Need::Kvm);
    check_machine(Machine::new("kvm", "pc"));
}

#[test]
fn a_long_job_is_preempted_and_goes_on() {
    requires!(QEMU);
    let line =
        "task=short,c=500us,t=10ms task=long,c=60ms,t=200ms duration=200ms start=50ms stream=1";
    let run = Machine::new("tcg", "microvm").run(line);
    check_run(&run);
    let short = run.jobs(0);
    let long = run.jobs(1);
    let inside = |s: &&Record| {
        long.iter()
            .any(|l| l.start < s.start && s.finish < l.finish)
    };
    assert!(short.iter().filter(inside).count() >= 3, "{:#?}", run.lines);
}

#[test]
fn edf_runs_the_job_that_is_due_first_where_rate_monotonic_runs_the_shorter_period() {
    requires!(QEMU);
    let set = "task=fast,c=5ms,t=100ms,o=1ms task=slow,c=30ms,t=200ms,d=40ms duration=90ms start=50ms stream=1";
    let order = |policy: &str| {
        let run = Machine::new("tcg", "microvm").run(&format!("sched={policy} {set}"));
        check_run(&run);
        let due: Vec<JobView> = (0..2)
            .map(|i| JobView::new(i, &run.set.tasks()[i], 0, start_of(&run)))
            .collect();
        assert!(due[1].deadline < due[0].deadline);
        let (fast, slow) = (run.jobs(0)[0], run.jobs(1)[0]);
        fast.finish < slow.finish
    };
    assert!(order("rm"));
    assert!(!order("edf"));
}

#[test]
fn a_hog_sees_a_gap_around_every_job_on_its_vcpu() {
    requires!(QEMU);
    let run = Machine::new("tcg", "microvm")
        .run("task=short,c=2ms,t=20ms hog=0 gap=1ms duration=200ms start=50ms stream=1");
    check_run(&run);
    let gaps = run.of_kind(Kind::Gap);
    let jobs = run.jobs(0);
    assert!(jobs.len() >= 5);
    // Before the first job the hog may not have started.
    for job in &jobs[1..] {
        let around = |g: &&Record| g.start <= job.start && g.finish >= job.finish;
        // Gaps that are open when the run ends are not recorded.
        let seen = gaps.iter().any(|g| around(&g)) || job.job + 1 == jobs.len() as u64;
        assert!(seen, "no gap around {job:?}: {gaps:?}");
    }
    assert!(
        gaps.iter()
            .enumerate()
            .all(|(i, g)| g.job == i as u64 && g.finish - g.start > 1_000_000)
    );
}

#[test]
fn the_same_seed_gives_the_same_execution_times_and_another_seed_others() {
    requires!(QEMU);
    let executed = |seed: u64| -> Vec<u64> {
        let line =
            format!("task=a,c=1ms..5ms,t=30ms duration=200ms start=50ms stream=1 seed={seed}");
        let run = Machine::new("tcg", "microvm").run(&line);
        check_run(&run);
        // To a tenth of a millisecond: the loop ends a step late.
        run.jobs(0)
            .iter()
            .map(|j| (j.executed + 50_000) / 100_000)
            .collect()
    };
    let (a, b) = (executed(1), executed(2));
    assert_ne!(a[..4], b[..4]);
    assert!(a.iter().any(|e| *e != a[0]));
}
