//! Designed reservations beside what the guest really does with its tasks.

use std::time::Duration;

use proptest::prelude::*;
use rt_abi::policy::ranks;
use sched::analysis::overhead::Overheads;
use sched::analysis::{Scheduler, Supply};
use sched::reservation::LEAST_RUNTIME;
use vmm::design::{Basis, DesignError, design};
use vmm::spec::VmSpec;

const SCHEDULERS: [&str; 4] = ["rm", "dm", "given", "edf"];

/// Execution time, deadline and period in microseconds, and the vCPU.
type Times = (u64, u64, u64, u16);

fn spec(scheduler: &str, tasks: &[Times], period: Option<u64>) -> VmSpec {
    let mut text = format!("name = \"a\"\n[guest]\nscheduler = {scheduler:?}\n");
    for (n, (c, d, t, vcpu)) in tasks.iter().enumerate() {
        text += &format!(
            "[[guest.task]]\nname = \"t{n}\"\nexecution = \"{c}us\"\ndeadline = \"{d}us\"\nperiod = \"{t}us\"\nvcpu = {vcpu}\n"
        );
    }
    if let Some(period) = period {
        text += &format!("[cpu]\nperiod = \"{period}us\"\n");
    }
    VmSpec::parse(&text).expect("a specification")
}

fn tasks() -> impl Strategy<Value = Vec<Times>> {
    let task = (1u64..40, 1u64..80, 0u64..80, 0u16..3).prop_map(|(c, slack, more, vcpu)| {
        let deadline = c + slack;
        (c * 100, deadline * 100, (deadline + more) * 100, vcpu)
    });
    prop::collection::vec(task, 1..8)
}

fn basis(overhead: u64) -> Basis {
    let time = Duration::from_micros(overhead);
    Basis {
        overheads: Overheads {
            budget_switch: time,
            timer_latency: time,
            exit: time,
        },
        speed: None,
    }
}

proptest! {
    #[test]
    fn every_vcpu_gets_the_least_that_its_tasks_need_in_the_order_in_which_the_guest_runs_them(
        tasks in tasks(), scheduler in prop::sample::select(SCHEDULERS.to_vec()),
        period in prop::option::of(1_000u64..20_000), overhead in 0u64..60,
    ) {
        let spec = spec(scheduler, &tasks, period);
        let designed = match design(&spec, &basis(overhead)) {
            Ok(designed) => designed,
            Err(error) => {
                prop_assert!(error.is_refusal(), "{error}");
                return Ok(());
            }
        };
        let guest = designed.spec.guest.command_line.is_none().then(|| designed.spec.plan());
        // A vCPU without tasks has nothing that it could be designed for.
        if let Some(Ok(plan)) = guest {
            let guest = plan.tasks.expect("it is the built-in guest");
            let ranks = ranks(guest.policy, guest.tasks());
            for own in &designed.vcpus {
                let request = plan.requests[usize::from(own.vcpu)].reservation;
                prop_assert_eq!(request, Some(own.reservation));
                let Scheduler::FixedPriority(priorities) = own.scheduler else { continue };
                let names = own.tasks.tasks();
                let analysed: Vec<&str> = priorities.order(&own.tasks).into_iter().map(|at| names[at].name.as_str()).collect();
                let mut there: Vec<_> = guest.tasks().iter().zip(ranks).filter(|(task, _)| task.vcpu == own.vcpu).collect();
                there.sort_by_key(|(_, rank)| *rank);
                let run: Vec<&str> = there.iter().map(|(task, _)| task.name.as_str()).collect();
                prop_assert_eq!(analysed, run);
            }
        }
        for own in &designed.vcpus {
            let (q, p) = (own.reservation.runtime(), own.reservation.period());
            prop_assert!(period.is_none_or(|period| p == Duration::from_micros(period)));
            let meets = |q: Duration| own.scheduler.meets(&own.tasks, &Supply::worst_case(q - own.switch, p));
            prop_assert!(own.verdict.is_schedulable() && meets(q), "{}", own.verdict);
            let less = q - Duration::from_micros(1);
            prop_assert!(q == LEAST_RUNTIME || less < own.switch || !meets(less), "{:?}", own.reservation);
        }
        let again = design(&designed.spec, &basis(overhead)).expect("a design");
        prop_assert!(again.vcpus.is_empty());
    }

    #[test]
    fn dearer_scheduling_never_needs_less(tasks in tasks(), overhead in 0u64..60) {
        let spec = spec("rm", &tasks, Some(5_000));
        let (Ok(cheap), Ok(dear)) = (design(&spec, &basis(0)), design(&spec, &basis(overhead))) else {
            return Ok(());
        };
        for (less, more) in cheap.vcpus.iter().zip(&dear.vcpus) {
            prop_assert!(less.reservation.runtime() <= more.reservation.runtime());
        }
    }
}

#[test]
fn the_paper_s_tasks_need_32_ms_in_50_in_the_worst_phase_and_never_the_aligned_bound() {
    let paper = [(30_000, 150_000, 150_000, 0), (50_000, 200_000, 200_000, 0)];
    let designed = design(&spec("rm", &paper, Some(50_000)), &basis(0)).expect("a design");
    let own = &designed.vcpus[0];
    assert_eq!(own.reservation.runtime(), Duration::from_millis(32));
    assert!(own.verdict.supply.contains("Shin and Lee 2003"));
    assert_eq!(own.scheduler, Scheduler::RATE_MONOTONIC);
}

#[test]
fn deadline_monotonic_and_given_priorities_reach_the_guest() {
    let tasks = [(1_000, 9_000, 10_000, 0), (1_000, 5_000, 20_000, 0)];
    let line = |scheduler| {
        let plan = design(&spec(scheduler, &tasks, None), &basis(0))
            .expect("a design")
            .spec
            .plan();
        plan.expect("a plan").command_line
    };
    let (dm, given) = (line("dm"), line("given"));
    assert!(
        dm.contains("sched=rm task=t0,c=1ms,t=10ms,d=9ms,prio=1"),
        "{dm}"
    );
    assert!(dm.contains("task=t1,c=1ms,t=20ms,d=5ms,prio=0"), "{dm}");
    assert!(
        given.contains("d=9ms,prio=0") && given.contains("d=5ms,prio=1"),
        "{given}"
    );
    assert!(!line("rm").contains("prio"));
}

#[test]
fn a_task_that_touches_memory_has_no_execution_time_to_design_for() {
    let text = "name = \"a\"\n[guest]\ncommand_line = \"task=a,t=10ms,dirty=16\"\n[cpu]\nperiod = \"5ms\"\n";
    let error = design(&VmSpec::parse(text).expect("a specification"), &basis(0));
    let error = error.expect_err("its memory takes time");
    assert!(matches!(error, DesignError::Spec(_)), "{error}");
    assert!(error.to_string().contains("task a"), "{error}");
}
