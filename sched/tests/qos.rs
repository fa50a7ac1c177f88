//! Rules at work on jobs that behave by hand, at random, and as the simulator has it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use sched::qos::{
    Action, Activator, Cause, Condition, Donor, Event, Evidence, Observation, Presence, Quality,
    Rule, Strategy as Steps, Target, TaskSeen, VcpuSeen, Watch,
};
use sched::reservation::Reservation;
use sched::sim::{GuestPolicy, Host, Policy, Run, Server, Task, Vcpu, Vm, simulate};

const TICK: Duration = Duration::from_millis(100);

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn target(job: &str) -> Target {
    Target {
        job: job.to_owned(),
        vcpu: 0,
    }
}

fn misses(within: Duration, count: u64) -> Condition {
    Condition {
        quality: Quality::DeadlineMiss { task: None },
        within,
        count,
    }
}

fn missed(misses: u64) -> Observation {
    let task = TaskSeen {
        jobs: 2 * misses,
        misses,
        latest: Vec::new(),
    };
    Observation {
        tasks: BTreeMap::from([("t".to_owned(), task)]),
        ..Observation::default()
    }
}

/// Jobs with what is in force, changed by the activator unless it refuses.
struct World {
    in_force: BTreeMap<Target, Reservation>,
    misses: BTreeMap<String, u64>,
    refuses: bool,
    acted: Vec<Action>,
}

impl World {
    fn of(jobs: &[(&str, u64, u64)]) -> Self {
        let reservation = |(job, runtime, period): &(&str, u64, u64)| {
            let reservation = Reservation::new(ms(*runtime), ms(*period)).unwrap();
            (target(job), reservation)
        };
        Self {
            in_force: jobs.iter().map(reservation).collect(),
            misses: BTreeMap::new(),
            refuses: false,
            acted: Vec::new(),
        }
    }

    fn runtime(&self, job: &str) -> Duration {
        self.in_force[&target(job)].runtime()
    }

    fn miss(&mut self, job: &str, number: u64) {
        *self.misses.entry(job.to_owned()).or_default() += number;
    }

    fn seen(&self) -> BTreeMap<String, Presence> {
        let presence = |(target, reservation): (&Target, &Reservation)| {
            let misses = self.misses.get(&target.job).copied().unwrap_or(0);
            let observation = Observation {
                vcpus: vec![VcpuSeen {
                    promised: Some(*reservation),
                    ..VcpuSeen::default()
                }],
                ..missed(misses)
            };
            (target.job.clone(), Presence::Here(observation))
        };
        self.in_force.iter().map(presence).collect()
    }

    /// Nanoseconds in a time that is a multiple of all periods.
    fn bandwidth(&self) -> u128 {
        let shares = self.in_force.values();
        shares
            .map(|one| one.runtime().as_nanos() * (COMMON / one.period().as_nanos()))
            .sum()
    }
}

/// A multiple of the periods used here.
const COMMON: u128 = 600_000_000;

impl Activator for World {
    fn activate(&mut self, action: &Action) -> Result<(), String> {
        for change in action.changes() {
            assert_eq!(self.in_force[&change.target], change.before);
            assert_eq!(change.before.period(), change.after.period());
            assert_eq!(change.before.deadline(), change.after.deadline());
        }
        if self.refuses {
            return Err("no".to_owned());
        }
        for change in action.changes() {
            self.in_force.insert(change.target.clone(), change.after);
        }
        self.acted.push(action.clone());
        Ok(())
    }
}

fn rule(name: &str, strategy: Steps) -> Rule {
    Rule {
        name: name.to_owned(),
        target: target("gold"),
        condition: misses(ms(1000), 2),
        strategy,
        cool_down: ms(2000),
    }
}

fn alone(step: u64, up_to: u64) -> Steps {
    Steps {
        step: ms(step),
        up_to: ms(up_to),
        donor: None,
        give_back_after: None,
    }
}

fn from_donor(step: u64, up_to: u64, down_to: u64) -> Steps {
    let donor = Donor {
        target: target("donor"),
        down_to: ms(down_to),
    };
    Steps {
        donor: Some(donor),
        give_back_after: Some(ms(10_000)),
        ..alone(step, up_to)
    }
}

/// Steps of one tick over `length`, with `misses` of gold before each.
fn run(
    watch: &mut Watch,
    world: &mut World,
    now: &mut Duration,
    length: Duration,
    misses: u64,
) -> Vec<Event> {
    let mut events = Vec::new();
    let end = *now + length;
    while *now < end {
        *now += TICK;
        world.miss("gold", misses);
        let seen = world.seen();
        events.extend(watch.step(*now, &seen, world));
    }
    events
}

fn silent() -> Presence {
    Presence::Silent {
        reason: "no answer".to_owned(),
    }
}

fn refusals(events: &[Event]) -> usize {
    let is_refusal = |event: &&Event| matches!(event, Event::Refused { .. });
    events.iter().filter(is_refusal).count()
}

#[test]
fn a_job_that_misses_is_raised_step_by_step_to_its_bound_and_no_further() {
    let mut world = World::of(&[("gold", 10, 50)]);
    let mut watch = Watch::new([rule("up", alone(4, 17))]);
    let mut now = Duration::ZERO;
    run(&mut watch, &mut world, &mut now, ms(1000), 1);
    assert_eq!(world.runtime("gold"), ms(14));
    run(&mut watch, &mut world, &mut now, ms(1000), 1);
    assert_eq!(world.runtime("gold"), ms(14), "it rests");
    let events = run(&mut watch, &mut world, &mut now, ms(8000), 1);
    assert_eq!(world.runtime("gold"), ms(17));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Held { .. })),
        "{events:?}"
    );
}

#[test]
fn a_deadline_stays_where_it_is_and_bounds_what_is_taken_and_what_comes_back() {
    let mut world = World::of(&[("gold", 10, 50), ("donor", 20, 50)]);
    for reservation in world.in_force.values_mut() {
        *reservation = reservation.with_deadline(ms(25)).unwrap();
    }
    let mut watch = Watch::new([rule("up", from_donor(8, 40, 1))]);
    let mut now = Duration::ZERO;
    let events = run(&mut watch, &mut world, &mut now, ms(12_000), 1);
    assert_eq!(world.runtime("gold"), ms(25));
    assert_eq!(world.runtime("donor"), ms(5));
    let held = events.iter().find_map(|event| match event {
        Event::Held { hold, .. } => Some(hold.to_string()),
        _ => None,
    });
    let held = held.unwrap();
    assert!(held.ends_with("reached its bound of 25 ms"), "{held}");
    run(&mut watch, &mut world, &mut now, ms(60_000), 0);
    assert_eq!(world.runtime("donor"), ms(20));
    let donor = world.in_force[&target("donor")];
    assert_eq!(donor.deadline(), ms(25));
}

#[test]
fn a_donor_gives_down_to_its_bound_and_gets_everything_back_when_it_is_quiet() {
    // 4 of 50 are 8 of 100.
    let mut world = World::of(&[("donor", 30, 100), ("gold", 10, 50)]);
    let before = world.bandwidth();
    let mut watch = Watch::new([rule("take", from_donor(4, 40, 10))]);
    let mut now = Duration::ZERO;
    run(&mut watch, &mut world, &mut now, ms(15_000), 1);
    assert_eq!(world.runtime("gold"), ms(20));
    assert_eq!(world.runtime("donor"), ms(10));
    assert_eq!(world.bandwidth(), before);
    run(&mut watch, &mut world, &mut now, ms(10_000), 0);
    assert_eq!(world.runtime("gold"), ms(18), "the last step was of 2 ms");
    assert_eq!(world.bandwidth(), before);
    run(&mut watch, &mut world, &mut now, ms(60_000), 0);
    assert_eq!(
        (world.runtime("gold"), world.runtime("donor")),
        (ms(10), ms(30))
    );
}

#[test]
fn a_donor_of_two_rules_gets_everything_back_in_whatever_order() {
    let mut world = World::of(&[("donor", 30, 50), ("gold", 10, 50), ("silver", 10, 50)]);
    let second = Rule {
        target: target("silver"),
        ..rule("second", from_donor(4, 14, 10))
    };
    let mut watch = Watch::new([rule("first", from_donor(4, 14, 10)), second]);
    let mut now = Duration::ZERO;
    for missing in ["gold", "silver"] {
        for _ in 0..40 {
            now += TICK;
            world.miss(missing, 1);
            let seen = world.seen();
            watch.step(now, &seen, &mut world);
        }
    }
    assert_eq!(world.runtime("donor"), ms(22));
    run(&mut watch, &mut world, &mut now, ms(60_000), 0);
    assert_eq!(world.runtime("donor"), ms(30));
}

#[test]
fn the_next_rule_acts_where_the_first_was_refused() {
    struct Full(World);
    impl Activator for Full {
        fn activate(&mut self, action: &Action) -> Result<(), String> {
            match action {
                Action::Adapt(_) => Err("the host is full".to_owned()),
                Action::Transfer { .. } => self.0.activate(action),
            }
        }
    }
    let mut world = Full(World::of(&[("donor", 20, 50), ("gold", 10, 50)]));
    let rules = [
        rule("free", alone(4, 40)),
        rule("take", from_donor(4, 40, 10)),
    ];
    let mut watch = Watch::new(rules);
    let mut events = Vec::new();
    for tick in 1..8 {
        world.0.miss("gold", 1);
        let seen = world.0.seen();
        events.extend(watch.step(TICK * tick, &seen, &mut world));
    }
    let mut told = events.iter().filter_map(|event| match event {
        Event::Refused { rule, reason } => Some((rule.as_str(), reason.as_str())),
        Event::Done { rule } => Some((rule.as_str(), "")),
        _ => None,
    });
    assert_eq!(told.next(), Some(("free", "the host is full")));
    assert_eq!(told.next(), Some(("take", "")));
    assert_eq!(told.next(), None);
    assert_eq!(world.0.runtime("gold"), ms(14));
}

#[test]
fn a_refused_rule_rests_before_it_asks_again() {
    let mut world = World::of(&[("gold", 10, 50)]);
    world.refuses = true;
    let mut watch = Watch::new([rule("up", alone(4, 40))]);
    let mut now = Duration::ZERO;
    let events = run(&mut watch, &mut world, &mut now, ms(10_000), 1);
    assert!((3..=5).contains(&refusals(&events)), "{events:?}");
    assert!(world.acted.is_empty());
}

#[test]
fn a_donor_gets_back_what_it_gave_to_a_job_that_has_gone() {
    let mut world = World::of(&[("donor", 20, 50), ("gold", 10, 50)]);
    let mut watch = Watch::new([rule("take", from_donor(4, 40, 8))]);
    let mut now = Duration::ZERO;
    run(&mut watch, &mut world, &mut now, ms(5_000), 1);
    assert!(world.runtime("donor") < ms(20));
    world.in_force.remove(&target("gold"));
    let mut seen = world.seen();
    seen.insert("gold".to_owned(), Presence::Gone);
    let events = watch.step(now + TICK, &seen, &mut world);
    assert!(matches!(events[0], Event::Gone { .. }), "{events:?}");
    assert_eq!(world.runtime("donor"), ms(20));
    assert_eq!(
        watch.step(now + 2 * TICK, &seen, &mut world),
        [],
        "said once"
    );
}

#[test]
fn who_is_not_there_or_silent_is_said_once_and_what_was_known_of_a_silent_job_stays() {
    let mut world = World::of(&[("gold", 10, 50)]);
    let mut watch = Watch::new([rule("take", from_donor(4, 40, 8))]);
    let mut seen = world.seen();
    seen.insert("donor".to_owned(), Presence::Gone);
    let events = watch.step(TICK, &seen, &mut world);
    let job = |name: &str| name.to_owned();
    let expected = [
        Event::Gone { job: job("donor") },
        Event::Here { job: job("gold") },
    ];
    assert_eq!(events, expected);
    seen.insert("gold".to_owned(), silent());
    let events = watch.step(2 * TICK, &seen, &mut world);
    assert!(matches!(events[..], [Event::Silent { .. }]), "{events:?}");
    assert_eq!(watch.step(3 * TICK, &seen, &mut world), []);
    // With nobody to take it from there is nothing to do.
    world.miss("gold", 5);
    let mut seen = world.seen();
    seen.insert("donor".to_owned(), Presence::Gone);
    let events = watch.step(4 * TICK, &seen, &mut world);
    assert_eq!(events[0], Event::Here { job: job("gold") });
    assert!(
        matches!(events[1..], [Event::Violation { .. }, Event::Held { .. }]),
        "{events:?}"
    );
}

/// What the simulator says of gold's task (14 ms of 100 ms) under a runtime, over 2 s: for each job when it ended and
/// whether it was late.
fn simulated(runtime: Duration) -> Vec<(Duration, bool)> {
    let vcpu = |server, task| Vm::single(Vcpu::new(server, GuestPolicy::RateMonotonic, vec![task]));
    let rest = ms(48).saturating_sub(runtime);
    let vms = vec![
        vcpu(Server::new(runtime, ms(50)), Task::new(ms(28), ms(100))),
        vcpu(Server::new(rest, ms(50)), Task::hog()),
    ];
    let outcome = simulate(&Host::new(1, Policy::Deadline, vms), &Run::of(ms(2000))).unwrap();
    let jobs = outcome.tasks[0].jobs.iter();
    jobs.filter_map(|job| Some((job.arrival + job.response?, job.missed)))
        .collect()
}

#[test]
fn under_a_constant_load_it_does_not_swing() {
    const LENGTH: Duration = Duration::from_secs(2000);
    let mut world = World::of(&[("donor", 40, 50), ("gold", 8, 50)]);
    let mut watch = Watch::new([rule("take", from_donor(2, 40, 8))]);
    let mut known: BTreeMap<Duration, Vec<(Duration, bool)>> = BTreeMap::new();
    let (mut ups, mut downs, mut late) = (0, 0, 0);
    let mut now = Duration::ZERO;
    while now < LENGTH {
        let runtime = world.runtime("gold");
        let jobs = known.entry(runtime).or_insert_with(|| simulated(runtime));
        // The simulated two seconds, over and over.
        let at = Duration::from_nanos_u128(now.as_nanos() % 2_000_000_000);
        let ended = jobs.iter().filter(|(end, _)| (at..at + TICK).contains(end));
        let number = ended.filter(|(_, missed)| *missed).count();
        late += u64::try_from(if now > LENGTH / 2 { number } else { 0 }).unwrap();
        world.miss("gold", u64::try_from(number).unwrap());
        now += TICK;
        let seen = world.seen();
        for event in watch.step(now, &seen, &mut world) {
            match event {
                Event::Decision {
                    cause: Cause::Quiet,
                    ..
                } => downs += 1,
                Event::Decision { .. } => ups += 1,
                _ => {}
            }
        }
    }
    // 14 ms of 50 are what it needs.
    assert!(
        world.runtime("gold") >= ms(12),
        "{:?}",
        world.runtime("gold")
    );
    assert!((3..=12).contains(&ups), "{ups} up, {downs} down");
    // Waits of 10, 20, 40, ... s fit into the time.
    assert!(downs <= 8, "{ups} up, {downs} down");
    assert!(late <= 10, "{late} late jobs in the second half");
}

proptest! {
    #[test]
    fn whatever_happens_every_action_is_within_its_rule(
        shapes in proptest::collection::vec((1_u64..8, 10_u64..60, any::<bool>(), 1_u64..20, 1_u64..30, any::<bool>()), 1..4),
        periods in (prop_oneof![Just(50_u64), Just(60), Just(75)], prop_oneof![Just(40_u64), Just(100)]),
        script in proptest::collection::vec((0_u64..3, 0_u8..40), 20..300),
    ) {
        let rules: Vec<Rule> = shapes.iter().enumerate().map(|(number, (step, up_to, takes, down_to, cool, gives))| Rule {
            cool_down: ms(100 * cool),
            ..rule(&number.to_string(), Steps {
                donor: takes.then(|| Donor { target: target("donor"), down_to: ms(*down_to) }),
                give_back_after: gives.then(|| ms(800)),
                ..alone(*step, *up_to)
            })
        }).collect();
        let mut world = World::of(&[("donor", 20, periods.1), ("gold", 10, periods.0)]);
        let mut watch = Watch::new(rules.clone());
        let mut last: Option<(Duration, Duration)> = None;
        let mut counted = vec![0_u64; rules.len()];
        for (number, (new, chance)) in script.iter().enumerate() {
            let now = TICK * u32::try_from(number).unwrap();
            world.refuses = *chance < 8;
            world.miss("gold", *new);
            let mut seen = world.seen();
            if (8..10).contains(chance) {
                seen.insert("gold".to_owned(), silent());
            }
            let before = (world.bandwidth(), world.acted.len());
            let events = watch.step(now, &seen, &mut world);
            let (mut violated, mut raises) = (None, false);
            for event in &events {
                match event {
                    Event::Violation { rule, violation, rests, .. } => {
                        let Evidence::DeadlineMiss { misses } = violation.evidence else { panic!() };
                        counted[rule.parse::<usize>().unwrap()] += misses;
                        violated = (!rests).then(|| rule.clone());
                    }
                    Event::Decision { rule, action, cause } => {
                        raises = *cause == Cause::Violation;
                        let by = &rules[rule.parse::<usize>().unwrap()];
                        check_bounds(by, action, *cause)?;
                        if *cause == Cause::Violation {
                            let violated = violated.take();
                            prop_assert_eq!(violated.as_ref(), Some(rule), "a violation each");
                        }
                    }
                    Event::Done { rule } => {
                        if let Some((at, rest)) = last {
                            prop_assert!(now >= at + rest, "{:?} after {:?}", now, at);
                        }
                        let rest = if raises { rules[rule.parse::<usize>().unwrap()].cool_down } else { TICK };
                        last = Some((now, rest));
                    }
                    _ => {}
                }
            }
            prop_assert!(world.acted.len() - before.1 <= 1);
            if let Some(Action::Transfer { to, from }) = world.acted.get(before.1) {
                // A nanosecond of the donor's, which has the other period, may be lost in a step; none is won.
                let unit = COMMON / to.before.period().min(from.before.period()).as_nanos();
                let after = world.bandwidth();
                prop_assert!(after <= before.0 + unit && before.0 <= after + unit);
                let up = to.target.job == "gold";
                prop_assert!(!up || after <= before.0);
            }
        }
        let total = script.iter().map(|(new, _)| new).sum::<u64>();
        prop_assert!(counted.iter().all(|count| *count <= total), "counted twice");
    }
}

fn check_bounds(rule: &Rule, action: &Action, cause: Cause) -> Result<(), TestCaseError> {
    for change in action.changes() {
        let (before, after) = (change.before.runtime(), change.after.runtime());
        let donor = rule.strategy.donor.as_ref();
        if change.target == rule.target {
            let gained = after.abs_diff(before);
            prop_assert!(gained <= rule.strategy.step && !gained.is_zero());
            prop_assert!(cause != Cause::Violation || after <= rule.strategy.up_to);
            prop_assert!(after >= ms(10), "less than it began with");
            prop_assert_eq!(after > before, cause == Cause::Violation);
        } else {
            let donor = donor.unwrap();
            prop_assert_eq!(&change.target, &donor.target);
            prop_assert!(cause != Cause::Violation || after >= donor.down_to);
            prop_assert!(after <= ms(20), "more than it began with");
        }
    }
    Ok(())
}
