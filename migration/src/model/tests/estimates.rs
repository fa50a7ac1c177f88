use std::time::Duration;

use proptest::prelude::*;

use crate::model::mixture::{LENGTHS, Pattern, Windows, fit, kinds};
use crate::model::{Estimator, EstimatorError, Random, Rhythm, Sampling, Writes};
use crate::ram::{PageNumber, PageSet};

const PAGES: u64 = 4096;

/// A window of a guest whose page i is written `rate(i)` times a second.
fn sample(rate: impl Fn(u64) -> f64, window: Duration, random: &mut Random) -> PageSet {
    let mut set = PageSet::empty(PAGES);
    for page in 0..PAGES {
        if random.unit() < 1.0 - (-rate(page) * window.as_secs_f64()).exp() {
            set.insert(PageNumber(page));
        }
    }
    set
}

struct Watch {
    estimator: Estimator,
    random: Random,
    at: Duration,
}

impl Watch {
    fn new(seed: u64) -> Self {
        Self {
            estimator: Estimator::new(PAGES, Duration::from_secs(30)),
            random: Random::new(seed),
            at: Duration::ZERO,
        }
    }

    /// Windows of the sampling's lengths; how often a change was noticed.
    fn windows(&mut self, count: usize, rate: impl Fn(u64) -> f64) -> usize {
        let mut sampling = Sampling::new(1.0, Duration::ZERO);
        let mut changes = 0;
        for _ in 0..count {
            let window = sampling.next(Duration::ZERO, 0).window;
            self.at += window;
            let set = sample(&rate, window, &mut self.random);
            changes += usize::from(
                self.estimator
                    .sample(&set, self.at, window)
                    .unwrap()
                    .changed,
            );
        }
        changes
    }
}

fn near(found: f64, wanted: f64, by: f64) {
    assert!(
        (found - wanted).abs() <= by * wanted,
        "{found} is not {wanted} within {by}"
    );
}

#[test]
fn pages_of_three_rates_are_told_apart() {
    let mut watch = Watch::new(1);
    let rate = |page: u64| match page {
        0..40 => 300.0,
        40..1000 => 2.0,
        _ => 0.0,
    };
    watch.windows(80, rate);
    let writes = watch.estimator.writes();
    for page in 0..40 {
        near(writes.class_of(PageNumber(page)).rate(), 300.0, 0.6);
    }
    assert!(writes.class_of(PageNumber(2000)) < writes.class_of(PageNumber(500)));
    for (window, wanted) in [
        (2, 18.0 + 3.8),
        (20, 39.9 + 37.6),
        (1000, 40.0 + 830.0),
        (4000, 1000.0),
    ] {
        near(
            writes.dirty_within(Duration::from_millis(window)),
            wanted,
            0.12,
        );
    }
    let hot = writes.hot_set(0.8);
    assert!((36..=60).contains(&hot.pages), "{hot:?}");
}

#[test]
fn pages_that_were_not_seen_yet_are_expected_to_be_written_too() {
    // 3000 pages once in five seconds, watched for 1.2 s: most were not seen. Each page's own maximum likelihood would expect a third.
    let mut watch = Watch::new(2);
    watch.windows(8, |page| if page < 3000 { 0.2 } else { 0.0 });
    let writes = watch.estimator.writes();
    near(
        writes.dirty_within(Duration::from_secs(3)),
        3000.0 * (1.0 - (-0.6f64).exp()),
        0.25,
    );
}

#[test]
fn pages_written_in_turn_are_told_from_those_written_at_random() {
    // 2000 pages in turn, all within two seconds; windows meet the turn anywhere.
    let mut estimator = Estimator::new(PAGES, Duration::from_secs(30));
    let mut random = Random::new(8);
    let mut sampling = Sampling::new(1.0, Duration::ZERO);
    let mut at = Duration::ZERO;
    for _ in 0..200 {
        let window = sampling.next(Duration::ZERO, 0).window;
        at += window;
        let (first, count) = (
            random.bits() % 2000,
            u64::try_from(window.as_millis()).unwrap(),
        );
        let mut set = PageSet::empty(PAGES);
        (0..count).for_each(|turn| {
            set.insert(PageNumber((first + turn) % 2000));
        });
        let _ = estimator.sample(&set, at, window).unwrap();
    }
    let writes = estimator.writes();
    let parts = writes.groups().iter().flat_map(|group| {
        group
            .mix
            .iter()
            .map(|part| (group.pages as f64 * part.share, part))
    });
    let periodic: f64 = parts
        .filter(|(_, part)| part.rhythm == Rhythm::Periodic)
        .map(|(pages, _)| pages)
        .sum();
    near(periodic, 2000.0, 0.1);
    near(
        writes.dirty_within(Duration::from_millis(1500)),
        1500.0,
        0.1,
    );
    near(writes.dirty_within(Duration::from_secs(5)), 2000.0, 0.1);
}

#[test]
fn a_change_of_phase_is_noticed_and_the_old_phase_forgotten() {
    let mut watch = Watch::new(3);
    assert_eq!(
        watch.windows(60, |page| if page < 500 { 20.0 } else { 0.0 }),
        0
    );
    let moved = |page| {
        if (1000..1500).contains(&page) {
            20.0
        } else {
            0.0
        }
    };
    assert_eq!(watch.windows(60, moved), 1);
    assert!(watch.estimator.changed().is_some());
    let writes = watch.estimator.writes();
    let (old, new) = (
        writes.class_of(PageNumber(100)).rate(),
        writes.class_of(PageNumber(1100)).rate(),
    );
    assert!(old < 1.0 && new > 10.0, "{old} {new}");
    near(writes.dirty_within(Duration::from_millis(20)), 165.0, 0.25);
}

#[test]
fn a_guest_that_goes_quiet_is_noticed() {
    let mut watch = Watch::new(4);
    watch.windows(60, |page| if page < 2000 { 3.0 } else { 0.0 });
    assert_eq!(
        watch.windows(40, |page| if page < 10 { 3.0 } else { 0.0 }),
        1
    );
    assert!(watch.estimator.writes().rate() < 700.0);
}

#[test]
fn a_steady_guest_never_changes() {
    for seed in 0..20 {
        let mut watch = Watch::new(seed);
        let skewed = |page: u64| 500.0 / (page + 1) as f64;
        assert_eq!(watch.windows(200, skewed), 0, "seed {seed}");
        let spread = watch.estimator.writes().spread();
        assert!(spread < 0.06, "seed {seed}: {spread}");
    }
}

#[test]
fn a_wandering_guest_is_known_to_wander() {
    let mut watch = Watch::new(5);
    let mut moods = Random::new(6);
    for _ in 0..60 {
        let mood = (0.4 * moods.normal()).exp();
        watch.windows(4, |page| if page < 2000 { mood } else { 0.0 });
    }
    let spread = watch.estimator.writes().spread();
    assert!((0.2..0.7).contains(&spread), "{spread}");
}

#[test]
fn weights_may_be_scaled_down_without_a_trace() {
    let mut short = Watch::new(7);
    short.estimator = Estimator::new(PAGES, Duration::from_millis(700));
    short.windows(400, |page| if page < 1000 { 5.0 } else { 0.0 });
    // 88 memories long: scaled several times.
    near(
        short
            .estimator
            .writes()
            .dirty_within(Duration::from_millis(100)),
        1000.0 * (1.0 - (-0.5f64).exp()),
        0.15,
    );
}

#[test]
fn samples_that_do_not_fit_are_refused() {
    let mut estimator = Estimator::new(PAGES, Duration::from_secs(1));
    let set = PageSet::empty(PAGES);
    let ms = Duration::from_millis;
    let _ = estimator.sample(&set, ms(100), ms(50)).unwrap();
    let overlap = estimator.sample(&set, ms(120), ms(50)).unwrap_err();
    assert_eq!(
        overlap,
        EstimatorError::OutOfOrder {
            at: ms(120),
            window: ms(50),
            last: ms(100)
        }
    );
    let none = estimator.sample(&set, ms(120), Duration::ZERO).unwrap_err();
    assert_eq!(none, EstimatorError::NoWindow { at: ms(120) });
    let other = estimator
        .sample(&PageSet::empty(64), ms(150), ms(10))
        .unwrap_err();
    assert_eq!(
        other.to_string(),
        "a sample of 64 pages is of another guest: this one has 4096 pages"
    );
}

#[test]
fn a_guest_that_was_never_watched_has_only_idle_pages() {
    let writes = Estimator::new(PAGES, Duration::from_secs(1)).writes();
    assert_eq!(writes.pages(), PAGES);
    assert_eq!(
        writes.groups().iter().map(|group| group.pages).sum::<u64>(),
        PAGES
    );
}

proptest! {
    #[test]
    fn one_length_of_windows_gives_the_maximum_likelihood(chance in 0.05..0.95f64, count in 20..500u32, window in 0.001..1.0f64) {
        let seen = (chance * f64::from(count)).round();
        let found = seen / f64::from(count);
        prop_assume!((0.01..10_000.0).contains(&(-(1.0 - found).ln() / window)));
        let mut windows = [Windows::default(); LENGTHS];
        windows[0] = Windows { count: count.into(), length: window };
        let pattern = Pattern { seen: [seen, 0.0, 0.0, 0.0], pages: 1000.0 };
        let posterior = &fit(&[pattern], &windows)[0];
        let fitted: f64 = kinds().zip(posterior).map(|((rhythm, class), share)| share * rhythm.chance(class.rate(), window)).sum();
        // Classes are half an octave wide, so that the nearest is up to a quarter of an octave off.
        prop_assert!((fitted - found).abs() < 0.19 * found, "{fitted} {found}");
    }

    #[test]
    fn watching_costs_no_more_than_its_share(share in 0.001..0.2f64, rate in 1.0..50_000.0f64) {
        let cost = Duration::from_micros(26);
        let mut sampling = Sampling::new(share, cost);
        let mut step = sampling.next(Duration::ZERO, 0);
        let (mut time, mut paid) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..40 {
            let dirty = crate::model::whole(5000.0 * (1.0 - (-rate / 5000.0 * step.window.as_secs_f64()).exp()));
            paid += cost * u32::try_from(dirty).unwrap();
            time += step.window;
            step = sampling.next(step.window, dirty);
            time += step.pause;
        }
        prop_assert!(paid.as_secs_f64() <= share * time.as_secs_f64() * (1.0 + 1e-6), "{paid:?} of {time:?}");
    }

    #[test]
    fn splitting_a_set_keeps_its_pages_and_orders_them_by_rate(rates in prop::collection::vec(0.0..1000.0f64, 1..300), seed: u64) {
        let writes = Writes::known(&rates);
        let mut random = Random::new(seed);
        let mut set = PageSet::empty(rates.len() as u64);
        for page in 0..rates.len() as u64 {
            if random.unit() < 0.5 {
                set.insert(PageNumber(page));
            }
        }
        let split = writes.split(&set);
        let mut union = PageSet::empty(rates.len() as u64);
        for (class, pages) in &split {
            prop_assert_eq!(writes.count(&set)[class.index()], pages.len());
            prop_assert!(pages.iter().all(|page| writes.class_of(page) == *class));
            union.union_with(pages);
        }
        prop_assert_eq!(union, set);
        prop_assert!(split.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
