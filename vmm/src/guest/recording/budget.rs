//! How long a window has to be for its faults to take no more of the guest's time than they may. Decides only: time is an argument.
//!
//! The first write to a page in a window costs the guest a fault, so that short windows cost more. What a window costs is known at its
//! end, and paid for by the length of the next one, together with what that one is expected to cost itself. Whatever the guest does, the
//! faults of all windows take at most the share of the time of these windows and of one second more; of a guest that goes on as it did,
//! at most the share. A window whose faults the longest one cannot pay for ends this.

use std::time::Duration;

/// No window is longer: migration wants to know when within it a page was written.
pub(super) const LONGEST_WINDOW: Duration = Duration::from_secs(1);
/// What the next window is expected to cost, in terms of the last one: the guest does not do quite the same twice.
const EXPECTED: f64 = 1.1;
/// Relative error of the calculation: what is advised must do.
const ROUNDING: f64 = 1e-9;

/// Faults that no window is long enough for.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "the guest wrote {faults} pages in a window of {window:.1?}; at {tracked_write:?} each, windows of 1s take {:.2} % of its time, and may take {:.2} %: {}",
    .needed * 100.0, .share * 100.0, advice(*.needed)
)]
pub(super) struct TooDear {
    /// Pages written in the last window.
    faults: u64,
    /// Its length.
    window: Duration,
    /// What each has cost.
    tracked_write: Duration,
    /// Share of the guest's time that the same number of faults takes in the longest window.
    needed: f64,
    /// Share that they may take.
    share: f64,
}

fn advice(needed: f64) -> String {
    let percent = (needed * 100.0 / (1.0 + ROUNDING)).ceil();
    if percent > 100.0 {
        return "it writes too much to be recorded".to_owned();
    }
    format!("raise --cost to {percent:.0}")
}

/// What the faults of a recording may take, and have taken.
#[derive(Debug, Clone)]
pub(super) struct FaultBudget {
    window: Duration,
    tracked_write: Duration,
    share: f64,
    /// Seconds that windows were too short by for what they cost; at most those of the longest window.
    owed: f64,
}

impl FaultBudget {
    /// Windows of `window` if `share` of the time allows it, where a page's first write costs `tracked_write`.
    pub(super) fn new(window: Duration, tracked_write: Duration, share: f64) -> Self {
        Self {
            window,
            tracked_write,
            share,
            owed: 0.0,
        }
    }

    /// Length of the next window, after one of this length that cost so many faults.
    ///
    /// # Errors
    /// [`TooDear`].
    pub(super) fn next(&mut self, window: Duration, faults: u64) -> Result<Duration, TooDear> {
        let cost = self.tracked_write.as_secs_f64() * faults as f64;
        let longest = LONGEST_WINDOW.as_secs_f64();
        let pays = cost / self.share;
        if pays > longest * (1.0 + ROUNDING) {
            return Err(TooDear {
                faults,
                window,
                tracked_write: self.tracked_write,
                needed: cost / longest,
                share: self.share,
            });
        }
        // Time in which little was written is not saved up: a burst would spend it all at once.
        self.owed = (self.owed + pays - window.as_secs_f64()).max(0.0);
        let wanted = (self.owed + EXPECTED * pays).min(longest);
        Ok(Duration::from_secs_f64(wanted).max(self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn budget(percent: f64) -> FaultBudget {
        FaultBudget::new(MS * 10, Duration::from_micros(20), percent / 100.0)
    }

    #[test]
    fn a_window_pays_for_the_last_one_and_for_itself() {
        let mut budget = budget(5.0);
        // 100 faults of 20 us are 5 % of 40 ms, and a tenth more of 44 ms.
        assert_eq!(budget.next(MS * 40, 100).unwrap(), MS * 44);
        assert_eq!(budget.next(MS * 10, 100).unwrap(), MS * 74);
        assert_eq!(budget.next(MS * 74, 100).unwrap(), MS * 44);
        assert_eq!(budget.next(MS * 44, 0).unwrap(), MS * 10);
    }

    #[test]
    fn faults_that_no_window_pays_for_are_refused_with_the_share_that_would_do() {
        // 4000 faults take 80 ms.
        let error = budget(5.0).next(MS * 900, 4000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the guest wrote 4000 pages in a window of 900.0ms; at 20µs each, windows of 1s take 8.00 % of its time, \
             and may take 5.00 %: raise --cost to 8"
        );
        assert!(budget(8.0).next(MS * 900, 4000).is_ok());
        let error = budget(100.0).next(MS * 900, 60_000).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("it writes too much to be recorded"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn faults_never_take_more_than_their_share_of_a_second_more(
            percent in 0.1..100.0f64,
            all in prop::collection::vec(0..5000u64, 1..200),
        ) {
            let mut budget = budget(percent);
            let (mut window, mut time, mut cost) = (MS * 10, 0.0, 0.0);
            for faults in all {
                match budget.next(window, faults) {
                    Ok(next) => {
                        prop_assert!((MS * 10..=LONGEST_WINDOW).contains(&next));
                        time += window.as_secs_f64();
                        cost += 20e-6 * faults as f64;
                        window = next;
                    }
                    Err(error) => prop_assert!(error.needed > percent / 100.0, "{}", error),
                }
            }
            prop_assert!(cost <= percent / 100.0 * (time + 1.0) + 1e-6, "{cost} in {time}");
        }

        /// Round and round a set of pages, at a steady rate.
        #[test]
        fn a_steady_guest_is_refused_only_where_no_window_pays_for_it(
            percent in 0.5..100.0f64,
            rate in 1..100_000u64,
            set in 1..5000u64,
        ) {
            let mut budget = budget(percent);
            let (mut window, mut time, mut cost) = (MS * 10, 0.0, 0.0);
            let written = |window: Duration| {
                set.min(rate * u64::try_from(window.as_micros()).unwrap() / 1_000_000)
            };
            while time < 30.0 {
                let faults = written(window);
                time += window.as_secs_f64();
                cost += 20e-6 * faults as f64;
                match budget.next(window, faults) {
                    Ok(next) => window = next,
                    Err(error) => {
                        prop_assert!(20e-6 * written(LONGEST_WINDOW) as f64 > percent / 100.0, "{}", error);
                        return Ok(());
                    }
                }
            }
            prop_assert!(cost <= percent / 100.0 * (time + 1.0), "{cost} in {time}");
        }
    }
}
