//! What a link gives to whom, as HTB shares it (tc-htb(8)): the prediction that measurements are held against. Pure.

use net::share::{Priority, Share};

/// What a class asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// What it was promised.
    pub share: Share,
    /// What it would send, bits per second.
    pub offered: f64,
}

/// What each gets, bits per second: first what is assured, as far as it is used; then, of what is left of `capacity`, gold
/// as much as its ceilings take, and best effort the rest; those of one priority the same.
pub fn shared(capacity: f64, demands: &[Demand]) -> Vec<f64> {
    let mut got: Vec<f64> = demands.iter().map(|d| d.offered.min(assured(d))).collect();
    for priority in Priority::ALL {
        let of_it: Vec<usize> = (0..demands.len())
            .filter(|i| demands[*i].share.priority == priority)
            .collect();
        let spare = capacity - got.iter().sum::<f64>();
        fill(spare, &of_it, demands, &mut got);
    }
    got
}

fn assured(demand: &Demand) -> f64 {
    demand.share.assured.bits_per_second() as f64
}

/// The most that a class takes.
fn limit(demand: &Demand) -> f64 {
    let ceil = demand.share.ceil.bits_per_second() as f64;
    demand.offered.min(ceil)
}

/// Spreads `spare` evenly among some classes until each is at its limit.
fn fill(mut spare: f64, among: &[usize], demands: &[Demand], got: &mut [f64]) {
    let mut open: Vec<usize> = among.to_vec();
    while spare > 1e-6 && !open.is_empty() {
        let each = spare / open.len() as f64;
        let mut left = Vec::new();
        for i in open {
            let more = (limit(&demands[i]) - got[i]).clamp(0.0, each);
            got[i] += more;
            spare -= more;
            if more >= each {
                left.push(i);
            }
        }
        open = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vmm::units::BitRate;

    fn demand(megabits: (u64, u64), priority: Priority, offered: f64) -> Demand {
        Demand {
            share: Share {
                assured: BitRate::new(megabits.0 * 1_000_000),
                ceil: BitRate::new(megabits.1 * 1_000_000),
                priority,
            },
            offered: offered * 1e6,
        }
    }

    fn megabits(capacity: f64, demands: &[Demand]) -> Vec<f64> {
        let got = shared(capacity * 1e6, demands);
        got.iter().map(|rate| (rate / 1e3).round() / 1e3).collect()
    }

    #[test]
    fn what_was_measured_with_htb_is_what_is_predicted() {
        let gold = |assured, offered| demand((assured, 10), Priority::Gold, offered);
        let other = |assured, offered| demand((assured, 10), Priority::BestEffort, offered);
        assert_eq!(megabits(10.0, &[gold(6, 12.0), other(4, 12.0)]), [6.0, 4.0]);
        assert_eq!(megabits(10.0, &[gold(6, 3.0), other(4, 12.0)]), [3.0, 7.0]);
        assert_eq!(megabits(10.0, &[gold(5, 12.0), other(3, 12.0)]), [7.0, 3.0]);
        let two = [other(1, 12.0), other(1, 2.0), gold(4, 0.0)];
        assert_eq!(megabits(10.0, &two), [8.0, 2.0, 0.0]);
    }

    proptest! {
        #[test]
        fn nobody_gets_less_than_assured_nor_more_than_asked_and_nothing_is_left_while_somebody_wants_it(
            classes in prop::collection::vec((1u64..40, 0u64..40, 0.0f64..100.0, any::<bool>()), 1..6),
            more in 0u64..50,
        ) {
            let capacity = (classes.iter().map(|c| c.0).sum::<u64>() + more) as f64;
            let demands: Vec<Demand> = classes.iter().map(|(assured, above, offered, is_gold)| {
                let priority = if *is_gold { Priority::Gold } else { Priority::BestEffort };
                demand((*assured, assured + above), priority, *offered)
            }).collect();
            let got = shared(capacity * 1e6, &demands);
            for (got, demand) in got.iter().zip(&demands) {
                prop_assert!(*got >= demand.offered.min(assured(demand)) - 1.0);
                prop_assert!(*got <= limit(demand) + 1.0);
            }
            let sum: f64 = got.iter().sum();
            let wanted: f64 = demands.iter().map(limit).sum();
            prop_assert!((sum - wanted.min(capacity * 1e6)).abs() < 10.0, "{} of {}", sum, wanted);
        }
    }
}
