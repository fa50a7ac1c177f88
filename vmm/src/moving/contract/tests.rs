use proptest::prelude::*;
use sched::sim::{
    GuestPolicy, Host, Policy, Run, Server as SimServer, Slot, Task as SimTask, Vcpu, Vm, simulate,
};

use super::*;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn us(value: u64) -> Duration {
    Duration::from_micros(value)
}

fn vcpus(line: &str, reservation: (Duration, Duration)) -> Vec<VcpuTerms> {
    let guest = GuestTasks::parse(line).unwrap();
    let request = VcpuRequest {
        reservation: Some(Reservation::new(reservation.0, reservation.1).unwrap()),
        ..VcpuRequest::default()
    };
    let count = usize::from(guest.vcpus);
    let work = |work| VcpuTerms {
        request: request.clone(),
        work,
    };
    works(Some(&guest), count).into_iter().map(work).collect()
}

fn terms(pause: Duration, tracking: f64) -> Terms {
    Terms {
        pause,
        tracking,
        tracked_write: us(27),
        overheads: Overheads::default(),
    }
}

const PAPER: &str = "task=t1,c=30ms,t=150ms task=t2,c=50ms,t=200ms";

#[test]
fn the_papers_reservation_is_refused_with_a_pause_and_the_least_that_does_is_named() {
    let judged = |budget| judge(&vcpus(PAPER, (budget, ms(50))), &terms(ms(20), 0.0));
    let breach = judged(ms(28)).unwrap_err();
    let (vcpu, least) = breach.least().unwrap();
    assert_eq!(vcpu, 0);
    assert!(least > ms(32) && least < ms(50), "{least:?}");
    let text = breach.to_string();
    assert!(text.contains("vCPU 0 has (28 ms, 50 ms)"), "{text}");
    assert!(text.contains("pause of 20 ms"), "{text}");
    assert!(text.contains("32 ms without any pause"), "{text}");
    assert!(judged(least).is_ok());
    assert!(judged(least - us(1)).is_err());
}

#[test]
fn without_a_pause_the_least_is_that_of_the_server_alone() {
    let judged = |budget| judge(&vcpus(PAPER, (budget, ms(50))), &terms(ms(0), 0.0));
    assert_eq!(judged(ms(28)).unwrap_err().least(), Some((0, ms(32))));
    assert!(judged(ms(32)).is_ok());
}

#[test]
fn a_pause_for_which_no_budget_does_is_refused_with_the_longest_for_which_one_does() {
    let line = "task=t,c=30ms,t=50ms";
    let judged = |pause| judge(&vcpus(line, (ms(10), ms(10))), &terms(pause, 0.0));
    let breach = judged(ms(30)).unwrap_err();
    assert!(breach.to_string().contains("not even all"), "{breach}");
    assert_eq!(breach.longest(), Some(ms(20)));
    assert!(judged(ms(20)).is_ok());
    assert!(judged(ms(20) + us(1)).is_err());
}

#[test]
fn tracking_is_paid_by_a_raise_or_refused() {
    let held = |tracking| {
        let judged = judge(&vcpus(PAPER, (ms(45), ms(50))), &terms(ms(5), tracking));
        judged.map(|judgement| judgement.held[0].raised.runtime())
    };
    assert_eq!(held(0.0).unwrap(), ms(45));
    assert_eq!(held(0.04).unwrap(), ms(47));
    let breach = held(0.2).unwrap_err();
    assert!(
        breach.to_string().contains("20.0 %") && breach.to_string().contains("Q = 55 ms"),
        "{breach}"
    );
}

#[test]
fn a_guest_whose_tasks_are_not_known_pays_for_tracking_and_is_said_to_be_unchecked() {
    let mut own = vcpus(PAPER, (ms(20), ms(50)));
    own[0].work = works(None, 1).remove(0);
    let judgement = judge(&own, &terms(ms(20), 0.1)).unwrap();
    assert_eq!(judgement.held[0].raised.runtime(), ms(25));
    assert_eq!(
        judgement.unchecked,
        ["vCPU 0: what runs there is not known"]
    );
}

#[test]
fn what_cannot_be_analysed_is_named() {
    let why = |line: &str| {
        let own = vcpus(line, (ms(20), ms(50)));
        judge(&own, &terms(ms(5), 0.0)).unwrap().unchecked.join(";")
    };
    assert!(why("task=w,t=10ms,dirty=5,region=1M").contains("task w"));
    assert!(why("task=w,c=1ms,t=200ms,s=500us").contains("spins"));
    assert!(why("net=10.0.0.2/24 task=w,c=1ms,t=200ms").contains("net"));
    assert_eq!(why("task=w,c=1ms,t=200ms,dirty=50,region=1M"), "");
    assert_eq!(why("task=w,c=1ms,t=200ms hog=0"), "");
    let mut tick = vcpus(PAPER, (ms(20), ms(50)));
    tick[0].request.enforcement = Enforcement::Tick;
    let judgement = judge(&tick, &terms(ms(20), 0.0)).unwrap();
    assert!(judgement.unchecked[0].contains("tick"), "{judgement:?}");
    let mut none = vcpus(PAPER, (ms(20), ms(50)));
    none[0].request.reservation = None;
    let judgement = judge(&none, &terms(ms(20), 0.0)).unwrap();
    assert!(judgement.held.is_empty() && judgement.unchecked[0].contains("no reservation"));
}

#[test]
fn each_page_that_a_job_writes_costs_a_fault_while_it_is_tracked() {
    let line = |pages: u32| match pages {
        0 => "task=w,c=10ms,t=50ms".to_owned(),
        pages => format!("task=w,c=10ms,t=50ms,dirty={pages},region=8M"),
    };
    let raised = |pages: u32| {
        let own = vcpus(&line(pages), (ms(5), ms(10)));
        judge(&own, &terms(ms(5), 0.01)).unwrap().held[0]
            .raised
            .runtime()
    };
    assert_eq!(raised(0), us(5100));
    assert!(raised(500) > raised(0), "{:?}", raised(500));
    let own = vcpus("task=w,c=16ms,t=50ms,dirty=1600,region=8M", (ms(6), ms(10)));
    let breach = judge(&own, &terms(ms(5), 0.01)).unwrap_err();
    assert!(matches!(breach, Breach::Tracked { .. }), "{breach}");
}

#[test]
fn a_slower_host_needs_about_as_much_more() {
    let own = vcpus(PAPER, (ms(25), ms(25)));
    let least = |speed: Option<Speed>| {
        let scaled = own.iter().cloned().map(|own| VcpuTerms {
            work: match speed {
                Some(speed) => own.work.scaled(speed),
                None => own.work,
            },
            ..own
        });
        let scaled: Vec<_> = scaled.collect();
        judge(&scaled, &terms(ms(5), 0.0)).unwrap().held[0]
            .least
            .unwrap()
    };
    let slower = Speed::measured(ms(3), ms(2)).unwrap();
    let ratio = least(Some(slower)).as_secs_f64() / least(None).as_secs_f64();
    assert!((1.2..1.6).contains(&ratio), "{ratio}");
}

/// Where in its periods a server supplies, when its first period begins, when the pause comes.
#[derive(Debug, Clone)]
struct Course {
    phase: u64,
    pause_at: u64,
    /// How late in each period the budget comes, in per cent of what is left of it.
    late: Vec<u64>,
}

fn course() -> impl Strategy<Value = Course> {
    let late = prop_oneof![3 => Just(0u64), 3 => Just(100u64), 2 => 0u64..=100];
    (0u64..10_000, 0u64..400_000, prop::collection::vec(late, 40)).prop_map(
        |(phase, pause_at, late)| Course {
            phase,
            pause_at,
            late,
        },
    )
}

/// The supply of (budget, period) in microseconds with one pause, after which a new period begins, as slots of a table.
fn slots(course: &Course, (budget, period, pause): (u64, u64, u64), length: u64) -> Vec<Slot> {
    let mut table: Vec<(u64, u64)> = Vec::new();
    let mut late = course.late.iter().cycle();
    // Periods from `from` on whose supply is cut off at `to`.
    let mut periods = |from: u64, begins: u64, to: u64| {
        let mut start = from;
        while start < to {
            let room = (period - budget) * late.next().unwrap_or(&0) / 100;
            let (begin, end) = (start + room, start + room + budget);
            // The first period may have begun before the run.
            let (begin, end) = (
                begin.saturating_sub(begins),
                end.saturating_sub(begins).min(to.saturating_sub(begins)),
            );
            if begin < end {
                table.push((begin, end));
            }
            start += period;
        }
    };
    let shift = course.phase % period;
    periods(0, shift, course.pause_at + shift);
    periods(course.pause_at + pause, 0, length);
    let mut slots = Vec::new();
    let mut at = 0;
    for (begin, end) in table {
        let slot = |owner, length| Slot {
            owner,
            length: us(length),
        };
        if begin > at {
            slots.push(slot(None, begin - at));
        }
        slots.push(slot(Some(0), end - begin.max(at)));
        at = end;
    }
    slots.push(Slot {
        owner: None,
        length: us(length.saturating_sub(at).max(1)),
    });
    slots
}

fn tasks() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    let task = (1u64..30, 20_000u64..120_000, 0u64..100);
    prop::collection::vec(task, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 128 } else { 1024 }))]

    /// Deadlines hold in the simulator wherever the pause comes and however the server places its budgets.
    #[test]
    fn where_the_contract_says_yes_no_pause_of_that_length_makes_a_job_late(
        tasks in tasks(), period in 2_000u64..30_000, pause in 1u64..25_000, course in course(), edf: bool,
    ) {
        let policy = if edf { "sched=edf " } else { "" };
        let line = tasks.iter().enumerate().map(|(n, (percent, period, _))| {
            format!("task=t{n},c={}us,t={period}us", period * percent / 100)
        });
        let line = policy.to_owned() + &line.collect::<Vec<_>>().join(" ");
        let all = vcpus(&line, (us(period), us(period)));
        let terms = terms(us(pause), 0.0);
        // The least of all that hold.
        let Ok(judged) = judge(&all, &terms) else { return Ok(()) };
        let Some(least) = judged.held[0].least else { return Ok(()) };
        let again = judge(&vcpus(&line, (least.max(us(2)), us(period))), &terms);
        prop_assert!(again.is_ok());
        let budget = u64::try_from(least.as_micros()).unwrap();
        let length = 700_000;
        let guest = tasks.iter().map(|(percent, period, offset)| SimTask {
            offset: us(period * offset / 100),
            ..SimTask::new(us(period * percent / 100), us(*period))
        });
        let scheduler = if edf { GuestPolicy::Edf } else { GuestPolicy::RateMonotonic };
        let vcpu = Vcpu::new(SimServer::new(us(budget), us(period)), scheduler, guest.collect());
        let table = slots(&course, (budget, period, pause), length);
        let host = Host::new(1, Policy::Table(vec![table]), vec![Vm::single(vcpu)]);
        let outcome = simulate(&host, &Run::of(us(length - 1))).unwrap();
        let missed: u64 = outcome.tasks.iter().map(|task| task.missed).sum();
        prop_assert_eq!(missed, 0, "{} at Q = {} of {}", line, budget, period);
    }

    #[test]
    fn more_never_breaks_it(tasks in tasks(), period in 2_000u64..30_000, pause in 0u64..25_000, tracking in 0.0..0.3f64) {
        let line: Vec<_> = tasks.iter().enumerate().map(|(n, (percent, period, _))| {
            format!("task=t{n},c={}us,t={period}us", period * percent / 100)
        }).collect();
        let line = line.join(" ");
        let mut before = false;
        for tenth in 1..=10 {
            let judged = judge(&vcpus(&line, (us(period * tenth / 10), us(period))), &terms(us(pause), 0.0));
            prop_assert!(judged.is_ok() || !before);
            before = judged.is_ok();
            if let Ok(judged) = judge(&vcpus(&line, (us(period * tenth / 10), us(period))), &terms(us(pause), tracking)) {
                prop_assert!(judged.held[0].raised.runtime() >= judged.held[0].now.runtime());
            }
        }
    }
}
