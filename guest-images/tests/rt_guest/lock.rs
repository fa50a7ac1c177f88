//! The spin lock that tasks of several vCPUs share, on a machine whose vCPUs really run at the same time or not.

use crate::qemu::{Machine, Run};
use rt_abi::record::{Kind, Record};
use system_tests::{Need, requires};

const QEMU: Need = Need::Program("qemu-system-x86_64");

/// Two vCPUs whose tasks want the lock at the same instants, and a second task beside one of them.
const SET: &str = "task=a,c=3ms,t=20ms,s=2ms task=b,c=3ms..5ms,t=20ms,s=2ms,cpu=1 task=c,c=1ms,t=10ms,s=500us,cpu=1 \
                   duration=300ms start=50ms stream=1";

fn sections(run: &Run) -> Vec<Record> {
    let mut sections: Vec<Record> = run.of_kind(Kind::Section);
    sections.sort_unstable_by_key(|section| section.job);
    sections
}

#[test]
fn critical_sections_of_two_vcpus_exclude_each_other() {
    requires!(QEMU);
    let run = Machine::new("tcg", "microvm").run(SET);
    assert_eq!(run.status, Some(33), "{:#?}", run.lines);
    let sections = sections(&run);
    for task in 0..3 {
        let own = sections.iter().filter(|section| section.task == task);
        // The end of the run may come between a section and the end of its job.
        let jobs = run.jobs(task.into()).len();
        assert!((jobs..=jobs + 1).contains(&own.count()), "{:#?}", run.lines);
    }
    for (number, section) in (0..).zip(&sections) {
        // Were two increments of the lock's counter at the same time, a number would come twice and one would be missing.
        assert_eq!(section.job, number, "{sections:?}");
        assert!(section.release <= section.start && section.start <= section.finish);
        let critical = run.set.tasks()[usize::from(section.task)].critical;
        assert!(
            section.finish - section.start + 2 >= critical,
            "{section:?}"
        );
    }
    assert!(
        sections
            .windows(2)
            .all(|pair| pair[0].finish <= pair[1].start),
        "{sections:?}"
    );
}

#[test]
fn a_job_executes_as_long_as_it_should_however_long_it_spins() {
    requires!(QEMU);
    // On a busy machine the two may not be there at the same time.
    let run = (0..5)
        .map(|_| Machine::new("tcg", "microvm").run(SET))
        .find(|run| {
            sections(run)
                .iter()
                .any(|section| section.executed > 1_000_000)
        })
        .unwrap();
    let sections = sections(&run);
    for job in run.jobs(0) {
        assert!((2_999_998..3_200_000).contains(&job.executed), "{job:?}");
        let own = |section: &&Record| {
            section.task == 0 && section.finish <= job.finish && section.release >= job.start
        };
        let section = sections.iter().find(own).unwrap();
        assert!(
            job.finish - job.start + 4 >= job.executed + section.executed,
            "{job:?} {section:?}"
        );
    }
}

#[test]
fn a_job_is_not_preempted_from_asking_for_the_lock_to_giving_it_back() {
    requires!(QEMU);
    let run = Machine::new("tcg", "microvm").run(SET);
    let sections = sections(&run);
    for section in &sections {
        let others = sections
            .iter()
            .filter(|other| other.vcpu == section.vcpu && other.job != section.job);
        for other in others {
            let apart = other.finish <= section.release || section.finish <= other.release;
            assert!(apart, "{other:?} in {section:?}");
        }
    }
}
