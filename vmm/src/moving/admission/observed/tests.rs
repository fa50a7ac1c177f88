use proptest::prelude::*;

use super::*;

/// What a guest costs that writes `rate` different pages per second of `set`.
fn course(watch: &Watch, rate: f64, set: f64) -> (f64, f64, Vec<Duration>) {
    let mut windows = Windows::new(watch);
    let (mut faults, mut time, mut all) = (0.0, 0.0, Vec::new());
    while let Some(window) = windows.next() {
        let written = (rate * window.as_secs_f64()).min(set).floor();
        windows.had(window, written as u64);
        faults += written;
        time += window.as_secs_f64();
        all.push(window);
        assert!(all.len() < 1000);
    }
    (faults, time, all)
}

#[test]
fn a_guest_that_writes_little_is_watched_all_the_time_in_windows_of_every_length() {
    let (_, time, all) = course(&Watch::default(), 500.0, 1e6);
    assert!((time - 0.3).abs() < 0.003, "{time}");
    assert!(
        WINDOWS[..3].iter().all(|window| all.contains(window)),
        "{all:?}"
    );
}

#[test]
fn a_guest_that_writes_much_is_watched_as_long_as_its_faults_may_take() {
    let watch = Watch::default();
    let (faults, time, _) = course(&watch, 20_000.0, 1e6);
    let cost = faults * TRACKED_WRITE.as_secs_f64();
    assert!(cost <= watch.share * watch.limit.as_secs_f64(), "{cost}");
    assert!(time >= 0.016, "{time}");
}

proptest! {
    #[test]
    fn faults_take_no_more_than_their_share_but_for_the_first_window(rate in 0.0..1e6f64, set in 1.0..1e5f64, share in 0.01..0.5f64) {
        let watch = Watch { share, ..Watch::default() };
        let (faults, time, all) = course(&watch, rate, set);
        let allowed = share * watch.limit.as_secs_f64() / TRACKED_WRITE.as_secs_f64();
        let first = (rate * all[0].as_secs_f64()).min(set);
        prop_assert!(faults <= allowed.max(first) + 1.0, "{faults} of {allowed}");
        prop_assert!(time <= 0.301);
    }
}
