use super::reading::field;
use super::*;
use proptest::prelude::*;

const MS: Nanos = 1_000_000;

#[test]
fn the_field_is_found_and_may_be_negative() {
    let text = b"policy   :    6\ndl.runtime      :     -12345\ndl.deadline :   99\n";
    assert_eq!(field(text, b"dl.runtime"), Some(-12_345));
    assert_eq!(field(text, b"dl.deadline"), Some(99));
    assert_eq!(field(text, b"dl.missing"), None);
    assert_eq!(field(b"dl.runtime : 12x\n", b"dl.runtime"), None);
}

#[test]
fn an_ordinary_thread_has_no_budget_to_end() {
    let error = BudgetTimer::new(libc::SIGRTMIN(), Duration::from_millis(1), 0).unwrap_err();
    assert!(error.to_string().contains("enforcement = \"tick\" works"));
}

#[test]
fn a_budget_the_kernel_is_ending_at_this_moment_is_not_yielded() {
    assert!(matches!(decide(0, MS, 0), Decision::Rearm(_)));
    assert!(matches!(decide(-5 * MS, MS, 0), Decision::Rearm(_)));
    assert_eq!(decide(1, MS, 0), Decision::Yield);
}

#[test]
fn a_fresh_budget_after_a_wake_up_is_run_not_yielded() {
    let decision = decide(11 * MS, MS, 0);
    assert_eq!(decision, Decision::Rearm(Duration::from_millis(10)));
}

#[test]
fn of_a_budget_that_a_wake_up_cut_only_its_part_of_the_surplus_is_taken_off() {
    let reading = |remaining, sleeps| Reading {
        remaining,
        deadline: None,
        sleeps: Some(sleeps),
    };
    let mut begun = Begun {
        least: 11 * MS,
        sleeps: Some(3),
    };
    let mut part = |reading, last| {
        begun.follow(reading, last, 11 * MS);
        begun.part(MS, 11 * MS)
    };
    // Ten of eleven are for the thread.
    assert_eq!(part(reading(9 * MS, 3), 11 * MS), MS);
    // A sleep: at least what is left was given.
    assert_eq!(part(reading(5 * MS + 500_000, 4), 9 * MS), MS / 2);
    assert_eq!(part(reading(2 * MS, 4), 5 * MS + 500_000), MS / 2);
    // More than before and no sleep: a new period.
    assert_eq!(part(reading(10 * MS, 4), 2 * MS), MS);
}

#[test]
fn a_reservation_of_nearly_the_whole_period_has_no_surplus() {
    let by = |deadline| {
        let pair = Reservation::new(Duration::from_millis(40), Duration::from_millis(50));
        let pair = pair.unwrap().with_deadline(Duration::from_micros(deadline));
        default_surplus(pair.unwrap())
    };
    assert_eq!(by(40_999), Duration::ZERO);
    assert_eq!(by(41_000), Duration::from_millis(1));
    let whole = Reservation::new(Duration::from_millis(50), Duration::from_millis(50)).unwrap();
    assert_eq!(default_surplus(whole), Duration::ZERO);
}

proptest! {
    #[test]
    fn no_yield_while_more_than_the_surplus_is_left(
        remaining in -50 * MS..50 * MS, surplus in 0..5 * MS, lead in -2 * MS..=0,
    ) {
        match decide(remaining, surplus, lead) {
            Decision::Yield => prop_assert!(remaining <= surplus + GRAIN),
            Decision::Rearm(after) => prop_assert!(signed_nanos(after) >= GRAIN),
        }
    }

    #[test]
    fn the_surplus_never_takes_a_reservation_past_its_period(q in 1024u64..50_000_000, p in 100_000u64..50_000_000) {
        let made = Reservation::new(Duration::from_nanos(q.min(p)), Duration::from_nanos(p)).unwrap();
        prop_assert!(made.runtime() + default_surplus(made) <= made.period());
    }

    #[test]
    fn a_cut_budget_supplies_no_less_than_one_without_surplus_that_is_cut_alike(
        q in 1024i64..50_000_000, left in 0i64..=1000, ran in 0i64..=1000,
    ) {
        let surplus = (q / 10).min(MS);
        let full = q + surplus;
        // (D - t) / D thousandths of it at the wake-up, some of which have run when the timer sees it.
        let cut = full * left / 1000;
        let seen = cut - cut * ran / 1000;
        let mut begun = Begun { least: full, sleeps: Some(0) };
        begun.follow(Reading { remaining: seen, deadline: None, sleeps: Some(1) }, full, full);
        let supplied = cut - begun.part(surplus, full);
        prop_assert!(supplied >= q * left / 1000 - 1);
    }
}
