use super::*;
use proptest::prelude::*;

const PERIOD: u64 = 50_000_000;

fn us(value: u64) -> Duration {
    Duration::from_micros(value)
}

fn envelope(least_us: u64, greatest_us: u64) -> Envelope {
    Envelope::new(us(least_us), us(greatest_us), Duration::from_nanos(PERIOD)).unwrap()
}

/// A vCPU that is asked for work at the beginning of every period, and its controller. Times in nanoseconds.
struct Vcpu {
    controller: Controller,
    backlog: u64,
    consumed: u64,
    period: u64,
    /// The budget in force, which the controller's follows a period later.
    budget: u64,
}

impl Vcpu {
    fn new(envelope: Envelope) -> Self {
        let controller = Controller::new(envelope, Observation::default());
        Self {
            budget: nanos(controller.budget()),
            controller,
            backlog: 0,
            consumed: 0,
            period: 0,
        }
    }

    /// One period in which this much is asked for.
    fn period(&mut self, need: u64) {
        self.budget = nanos(self.controller.budget());
        self.backlog += need;
        let supplied = self.backlog.min(self.budget);
        self.backlog -= supplied;
        self.consumed += supplied;
        let now = Observation {
            consumed: Duration::from_nanos(self.consumed),
            now: Duration::from_nanos(self.period * PERIOD + self.budget),
        };
        self.period += 1;
        match self.backlog {
            0 => self.controller.at_rest(now),
            _ => self.controller.ran_out(now),
        };
    }
}

#[test]
fn a_step_up_makes_four_jobs_late_and_a_step_down_is_followed() {
    let mut vcpu = Vcpu::new(envelope(2_000, 40_000));
    for _ in 0..20 {
        vcpu.period(10_000_000);
    }
    assert_eq!(vcpu.budget, 10_312_500);
    let late: Vec<bool> = (0..20)
        .map(|_| {
            vcpu.period(30_000_000);
            vcpu.backlog > 0
        })
        .collect();
    assert_eq!(late.iter().filter(|late| **late).count(), 4);
    assert!(late[..4].iter().all(|late| *late), "{late:?}");
    assert!((30_000_000..31_200_000).contains(&vcpu.budget));
    for _ in 0..8 {
        vcpu.period(10_000_000);
    }
    assert!(vcpu.budget < 10_400_000, "{}", vcpu.budget);
}

#[test]
fn over_a_span_of_several_periods_budgets_may_run_out_without_need_for_more() {
    let envelope = Envelope::new(us(1_000), us(8_000), us(10_000)).unwrap();
    let mut controller =
        Controller::new(envelope.measured_over(5).unwrap(), Observation::default());
    let at = |consumed, now| Observation {
        consumed: us(consumed),
        now: us(now),
    };
    controller.budget = 2_200_000;
    // A job of 10 ms in every 50 ms: four budgets of 2.2 ms run out, the fifth does not.
    for round in 0..8 {
        let (work, time) = (round * 10_000, round * 50_000);
        for turn in 1..5 {
            assert!(!controller.ran_out(at(work + turn * 2_200, time + turn * 10_000)));
        }
        controller.at_rest(at(work + 10_000, time + 50_000));
    }
    assert_eq!(controller.budget(), Duration::from_nanos(2_062_500));
    for turn in 1..5 {
        assert!(!controller.ran_out(at(80_000 + turn * 2_062, 400_000 + turn * 10_000)));
    }
    assert!(controller.ran_out(at(90_310, 450_000)));
    assert_eq!(controller.budget(), us(4_125));
}

#[test]
fn time_that_does_not_count_is_not_measured() {
    let mut vcpu = Vcpu::new(envelope(2_000, 40_000));
    (0..20).for_each(|_| vcpu.period(10_000_000));
    let before = vcpu.controller.budget();
    vcpu.period += 1_000;
    vcpu.controller.restart(Observation {
        consumed: Duration::from_nanos(vcpu.consumed),
        now: Duration::from_nanos((vcpu.period - 1) * PERIOD + vcpu.budget),
    });
    (0..20).for_each(|_| vcpu.period(10_000_000));
    assert_eq!(vcpu.controller.budget(), before);
}

#[test]
fn an_envelope_says_what_is_wrong_with_it() {
    let why = |least, greatest, period| {
        Envelope::new(us(least), us(greatest), us(period))
            .unwrap_err()
            .to_string()
    };
    assert!(why(30_000, 20_000, 50_000).contains("exceeds greatest"));
    assert!(why(1, 60_000, 50_000).starts_with("greatest: "));
    assert!(why(0, 20_000, 50_000).starts_with("least: "));
    assert!(why(5_000, 50_000, 50_000).contains("no room"));
    let envelope = envelope(5_000, 20_000);
    assert!(envelope.beginning_with(us(21_000)).is_err());
    assert!(envelope.measured_over(0).is_err());
}

proptest! {
    #[test]
    fn whatever_is_asked_for_the_budget_stays_inside_and_changes_by_no_more_than_its_rate(
        least in 100u64..20_000, more in 0u64..25_000, needs in prop::collection::vec(0u64..200_000_000, 1..200),
    ) {
        let envelope = envelope(least, least + more);
        let mut vcpu = Vcpu::new(envelope);
        for need in needs {
            let before = nanos(vcpu.controller.budget());
            vcpu.period(need);
            let after = vcpu.controller.budget();
            prop_assert!(envelope.contains(after));
            prop_assert!(nanos(after) <= before * RATE && nanos(after) >= before / RATE);
        }
    }

    #[test]
    fn any_sequence_of_looks_keeps_the_budget_inside(
        looks in prop::collection::vec((any::<bool>(), 0u64..1 << 40, 0u64..1 << 40), 1..100), span in 1u32..8,
    ) {
        let envelope = envelope(1_000, 40_000).measured_over(span).unwrap();
        let mut controller = Controller::new(envelope, Observation::default());
        for (asleep, consumed, now) in looks {
            let now = Observation { consumed: Duration::from_nanos(consumed), now: Duration::from_nanos(now) };
            let _ = if asleep { controller.at_rest(now) } else { controller.ran_out(now) };
            prop_assert!(envelope.contains(controller.budget()));
        }
    }

    #[test]
    fn after_any_disturbance_a_constant_need_is_met_in_time_and_the_budget_stays(
        disturbance in prop::collection::vec(0u64..100_000_000, 0..40), need in 2_000_000u64..36_000_000,
    ) {
        let envelope = envelope(1_000, 40_000);
        let mut vcpu = Vcpu::new(envelope);
        for amount in disturbance {
            vcpu.period(amount);
        }
        // To the greatest budget, the backlog at its surplus over the need, the window, and down again.
        let greatest = nanos(envelope.greatest());
        let doublings = 6;
        let backlog = vcpu.backlog + doublings * need;
        let within = doublings + backlog.div_ceil(greatest - need) + WINDOW as u64 + 2 + doublings;
        for _ in 0..within {
            vcpu.period(need);
        }
        let (exact, settled) = (need + need / MARGIN, nanos(vcpu.controller.budget()));
        prop_assert_eq!(vcpu.backlog, 0);
        prop_assert!(settled >= exact && settled <= exact + settled / DEAD_BAND + 1, "{settled} for {need}");
        for _ in 0..50 {
            vcpu.period(need);
            prop_assert_eq!(nanos(vcpu.controller.budget()), settled);
        }
    }

    #[test]
    fn a_need_that_varies_within_the_margin_never_runs_out_once_met(
        needs in prop::collection::vec(0u64..300, 20..100),
    ) {
        let mut vcpu = Vcpu::new(envelope(1_000, 40_000));
        for jitter in needs {
            vcpu.period(10_000_000 + jitter * 1_000);
            prop_assert_eq!(vcpu.backlog, 0);
            prop_assert!(vcpu.budget >= 10_000_000);
        }
    }
}
