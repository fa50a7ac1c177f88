//! A guest that writes memory is moved to another machine in the same process, by the traits that migration moves guests by.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use guest_images::RT_GUEST;
use guest_images::pages::{Found, check};
use guest_images::taskset::TaskSet;
use migration::ram::{DirtyLog, GuestRam, Machine, PAGE_SIZE, PageNumber, PageRange, PageSet};
use sched::framework::Factory;
use system_tests::{Need, requires};
use vmm::dirty::{Beginning, DirtyPages, GuestPages};
use vmm::guest::{AdmittedVm, MovingVm, RunningVm, Vms};
use vmm::spec::VmSpec;
use vmm::telemetry::{Event, Job};

fn admitted(run_dir: &Path, tasks: &str) -> AdmittedVm {
    let text = format!(
        "name = \"moved\"\n[guest]\nmemory = \"24MiB\"\nduration = \"60s\"\nseed = 5\n{tasks}\n[cpu]\nbackend = \"other\"\n"
    );
    let plan = VmSpec::parse(&text).unwrap().plan().unwrap();
    Vms { run_dir }.make(plan).unwrap()
}

const WRITER: &str = "[[guest.task]]\nname = \"w\"\nperiod = \"2ms\"\n\
    writes = { pages = 20, set = \"16MiB\", pattern = \"zipf\", content = \"random\" }";

/// The jobs that ended since the last call.
fn jobs(vm: &mut RunningVm) -> Vec<Job> {
    let mut jobs = Vec::new();
    vm.poll_records(|event| {
        if let Event::Job(job) = event {
            jobs.push(*job);
        }
    });
    jobs
}

/// Waits until `count` more jobs have ended.
fn run_for(vm: &mut RunningVm, count: usize) -> Vec<Job> {
    let (begun, mut done) = (Instant::now(), Vec::new());
    while done.len() < count {
        assert!(begun.elapsed() < Duration::from_secs(60), "{done:?}");
        std::thread::sleep(Duration::from_millis(5));
        done.extend(jobs(vm));
    }
    done
}

fn copy(pages: &PageSet, from: &GuestPages, to: &GuestPages) {
    for range in pages.ranges() {
        let mut bytes = vec![0; usize::try_from(range.count).unwrap() * PAGE_SIZE];
        from.read(range.first, &mut bytes).unwrap();
        to.write(range.first, &bytes).unwrap();
    }
}

/// Everything once, each piece cleared just before it is read; then what was written meanwhile, `rounds` times.
fn pre_copy(log: &mut DirtyPages, from: &GuestPages, to: &GuestPages, rounds: usize) {
    log.start().unwrap();
    for first in (0..from.pages()).step_by(256) {
        let mut piece = PageSet::empty(from.pages());
        let end = from.pages().min(first + 256);
        piece.insert_range(PageRange {
            first: PageNumber(first),
            count: end - first,
        });
        log.clear(&piece).unwrap();
        copy(&piece, from, to);
    }
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(10));
        let dirty = log.look().unwrap();
        assert!(
            !dirty.is_empty() && dirty.len() < from.pages() / 2,
            "{}",
            dirty.len()
        );
        log.clear(&dirty).unwrap();
        copy(&dirty, from, to);
    }
}

fn whole(pages: &GuestPages) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(pages.pages()).unwrap() * PAGE_SIZE];
    pages.read(PageNumber(0), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_guest_that_writes_goes_on_elsewhere_with_every_page_and_its_time() {
    requires!(Need::Kvm);
    let [here, there] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut source = admitted(here.path(), WRITER)
        .build(RT_GUEST)
        .unwrap()
        .start()
        .unwrap();
    let target = admitted(there.path(), WRITER)
        .prepare()
        .unwrap()
        .stand()
        .unwrap();
    let mut target = MovingVm::new(target).unwrap();
    run_for(&mut source, 50);
    let (from, to) = (source.pages(), target.vm().pages());
    let mut log = source.dirty_pages(Beginning::Dirty);
    pre_copy(&mut log, &from, &to, 3);
    let mut source = MovingVm::new(source).unwrap();
    // A try that is given up costs no page.
    source.pause().unwrap();
    source.save().unwrap();
    source.resume().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let step = |what: &str, begun: Instant| println!("{what}: {:?}", begun.elapsed());
    let paused = Instant::now();
    source.pause().unwrap();
    step("pause", paused);
    let stands = Instant::now();
    let begun = Instant::now();
    let rest = log.look().unwrap();
    copy(&rest, &from, &to);
    println!("{} pages left", rest.len());
    assert!(!rest.is_empty());
    step("look and copy", begun);
    let begun = Instant::now();
    let parts = source.save().unwrap();
    step("save", begun);
    assert!(
        log.look().unwrap() == rest,
        "something was written while it stood still"
    );
    assert!(whole(&from) == whole(&to), "memory differs");
    let begun = Instant::now();
    target.restore(&parts).unwrap();
    step("restore", begun);
    let begun = Instant::now();
    // It surely stood still from the end of the pause on.
    let downtime = stands.elapsed();
    target.resume().unwrap();
    step("resume", begun);
    let (mut source, event) = source.give_back();
    assert!(event.is_none());
    log.stop().unwrap();
    drop(log);
    let (mut target, _) = target.give_back();
    let last = jobs(&mut source).last().copied().unwrap();
    drop(source);
    // Not a job is missing, and the pause was no shorter for the guest than it was.
    let more = run_for(&mut target, 200);
    let numbers = more.iter().map(|job| job.job);
    assert!(
        numbers.eq(last.job + 1..=last.job + more.len() as u64),
        "{last:?} {more:?}"
    );
    let gap = Duration::from_nanos(more[0].finish - last.finish);
    println!("from the last job there to the first one here: {gap:?}");
    assert!(gap >= downtime, "{gap:?} of {downtime:?}");
    assert!(gap < paused.elapsed(), "{gap:?}");
    let mut target = MovingVm::new(target).unwrap();
    target.pause().unwrap();
    let line = "seed=5 task=w,t=2ms,dirty=20,region=16M,pattern=zipf,content=random";
    let Found { writes, torn } = check(&TaskSet::parse(line).unwrap(), 0, &whole(&to)).unwrap();
    println!("{writes} writes in all, {torn} pages torn");
    let done = more.last().unwrap().job + 1;
    assert!(
        (done * 20..(done + 50) * 20).contains(&writes),
        "{writes} writes in {done} jobs"
    );
}

/// Two tasks on two vCPUs, each with a timer of its own.
const TWO: &str = "[[guest.task]]\nname = \"a\"\nexecution = \"1ms\"\nperiod = \"10ms\"\n\
    [[guest.task]]\nname = \"b\"\nexecution = \"1ms\"\nperiod = \"15ms\"\nvcpu = 1\n";

#[test]
fn the_timers_of_all_vcpus_go_on_where_the_guest_arrives() {
    requires!(Need::Kvm, Need::Cpus(2));
    let [here, there] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut source = admitted(here.path(), TWO)
        .build(RT_GUEST)
        .unwrap()
        .start()
        .unwrap();
    let target = admitted(there.path(), TWO)
        .prepare()
        .unwrap()
        .stand()
        .unwrap();
    let mut before = run_for(&mut source, 20);
    let (mut source, mut target) = (
        MovingVm::new(source).unwrap(),
        MovingVm::new(target).unwrap(),
    );
    source.pause().unwrap();
    let (from, to) = (source.vm().pages(), target.vm().pages());
    copy(&PageSet::full(from.pages()), &from, &to);
    target.restore(&source.save().unwrap()).unwrap();
    let (mut source, _) = source.give_back();
    before.extend(jobs(&mut source));
    drop(source);
    target.resume().unwrap();
    let (mut target, _) = target.give_back();
    let more = run_for(&mut target, 60);
    for task in [0, 1] {
        let of = |jobs: &[Job]| {
            jobs.iter()
                .filter(|job| job.task == task)
                .map(|job| job.job)
                .collect::<Vec<_>>()
        };
        let (here, there) = (of(&before), of(&more));
        assert!(here.len() > 5 && there.len() > 15, "{before:?} {more:?}");
        // Not a job is missing, neither on the way nor before or after.
        let all = [here, there].concat();
        assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    }
}
