//! What a service may use: so much processor time in every period, whenever it wants (a deferrable server: Strosnider, Lehoczky and
//! Sha, IEEE Transactions on Computers, 1995). Pure: time is an argument.

/// A budget that is full again at every multiple of its period. Times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    length: u64,
    period: u64,
    /// Which period the account is of, and what was used in it.
    current: u64,
    used: u64,
}

impl Budget {
    /// `length` in every `period`; no bound if `length` is 0.
    #[must_use]
    pub const fn new(length: u64, period: u64) -> Self {
        Self {
            length,
            period: if period == 0 { 1 } else { period },
            current: 0,
            used: 0,
        }
    }

    /// Charges what ran from `begin` to `end`, as far as it was in the period of `end`. If nothing is left, says when there is
    /// again.
    #[must_use]
    pub fn charge(&mut self, begin: u64, end: u64) -> Option<u64> {
        let now = end / self.period;
        let start = now.saturating_mul(self.period);
        if now != self.current {
            (self.current, self.used) = (now, 0);
        }
        self.used = self
            .used
            .saturating_add(end.saturating_sub(begin.max(start)));
        let is_bounded = self.length > 0;
        (is_bounded && self.used >= self.length).then(|| start.saturating_add(self.period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_service_that_always_wants_to_run_gets_its_budget_and_at_most_one_piece_more(
            period in 1_000u64..1_000_000,
            share in 1u64..100,
            pieces in proptest::collection::vec(1u64..2_000, 1..300),
        ) {
            let length = (period * share / 100).max(1);
            let mut budget = Budget::new(length, period);
            let longest = *pieces.iter().max().unwrap();
            let (mut now, mut used) = (0, std::collections::BTreeMap::<u64, u64>::new());
            for piece in pieces {
                let end = now + piece;
                for t in now..end {
                    *used.entry(t / period).or_default() += 1;
                }
                let last = end / period;
                now = match budget.charge(now, end) {
                    Some(next) => {
                        prop_assert!(next > end - 1 && next % period == 0);
                        prop_assert!(used.get(&last).copied().unwrap_or(0) >= length || last * period == end);
                        next
                    }
                    None => end,
                };
            }
            for (_, sum) in used {
                prop_assert!(sum < length + longest);
            }
        }

        #[test]
        fn without_a_length_there_is_no_bound(begin: u64, more: u64, period: u64) {
            prop_assert_eq!(Budget::new(0, period).charge(begin, begin.saturating_add(more)), None);
        }
    }
}
