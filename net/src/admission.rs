//! Whether shares fit on a link: the sum of what is assured against what may be promised.
//!
//! Pure: no kernel, no files. HTB itself would take children that are assured more than their parent has (measured), and
//! then nobody gets what was promised. Ceilings are not added up: they are no promise.

use std::fmt;

use serde::{Deserialize, Serialize};
use units::BitRate;

use crate::share::Share;

/// A link as far as promises go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name, for people.
    pub name: String,
    /// What it carries, in each direction.
    pub capacity: BitRate,
    /// What is never promised: the class for what matches nothing is assured this.
    pub headroom: BitRate,
    /// What is promised to traffic that is nobody's share: broadcast, migration.
    pub fixed: BitRate,
}

/// What a share's name is and what it has or wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The VM or VTM.
    pub name: String,
    /// Its share.
    pub share: Share,
}

impl Wanted {
    /// `name` is to have `share`.
    pub fn new(name: impl Into<String>, share: Share) -> Self {
        Self {
            name: name.into(),
            share,
        }
    }
}

/// The bound that a share breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The sum of assured rates on a link.
    Assured {
        /// The link.
        link: Link,
    },
    /// A ceiling above the link's capacity.
    Ceil {
        /// The link.
        link: Link,
    },
}

/// Shares that do not fit. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose share.
    pub name: Box<str>,
    /// The bound.
    pub bound: Box<Bound>,
    /// What was asked for.
    pub needed: BitRate,
    /// What is left for it.
    pub available: BitRate,
    /// The greatest rate that would have been admitted, if there is one.
    pub nearest: Option<BitRate>,
}

impl Link {
    /// What may be promised to shares.
    #[must_use]
    pub fn promisable(&self) -> BitRate {
        let taken = self.headroom.bits_per_second();
        let taken = taken.saturating_add(self.fixed.bits_per_second());
        BitRate::new(self.capacity.bits_per_second().saturating_sub(taken))
    }

    /// What is left beside those who hold shares.
    pub fn left<'a>(&self, held: impl IntoIterator<Item = &'a Share>) -> BitRate {
        let left = self.promisable().bits_per_second();
        let taken = held.into_iter().map(|share| share.assured);
        BitRate::new(taken.fold(left, |left, rate| {
            left.saturating_sub(rate.bits_per_second())
        }))
    }

    /// Whether all of `wanted` fit at once, each in place of what it had in `held`. What some give up is there for the
    /// others.
    ///
    /// # Errors
    /// The first that does not fit, those before it admitted.
    pub fn admit(&self, held: &[Wanted], wanted: &[Wanted]) -> Result<(), Refusal> {
        let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted.name == name);
        let stays = held.iter().filter(|held| !is_wanted(&held.name));
        let mut left = self.left(stays.map(|held| &held.share)).bits_per_second();
        let before = |wanted: &Wanted| {
            let held = held.iter().find(|held| held.name == wanted.name);
            held.map_or(BitRate::new(0), |held| held.share.assured)
        };
        // Who takes no more than before does not have to make room for who does.
        let grows = |wanted: &&Wanted| wanted.share.assured > before(wanted);
        let (growing, others): (Vec<_>, Vec<_>) = wanted.iter().partition(grows);
        for wanted in others.into_iter().chain(growing) {
            let needed = wanted.share.assured;
            let Some(rest) = left.checked_sub(needed.bits_per_second()) else {
                let bound = Bound::Assured { link: self.clone() };
                return Err(Refusal::new(wanted, bound, needed, BitRate::new(left)));
            };
            left = rest;
            self.admit_ceil(wanted)?;
        }
        Ok(())
    }

    fn admit_ceil(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let ceil = wanted.share.ceil;
        if ceil <= self.capacity {
            return Ok(());
        }
        let bound = Bound::Ceil { link: self.clone() };
        Err(Refusal::new(wanted, bound, ceil, self.capacity))
    }
}

impl Refusal {
    fn new(wanted: &Wanted, bound: Bound, needed: BitRate, available: BitRate) -> Self {
        Self {
            name: wanted.name.as_str().into(),
            bound: Box::new(bound),
            needed,
            available,
            nearest: (available >= Share::LEAST).then_some(available),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            needed,
            available,
            ..
        } = self;
        match &*self.bound {
            Bound::Assured { link } => {
                let over = needed.bits_per_second() - available.bits_per_second();
                write!(
                    f,
                    "refused: '{name}' needs {needed} of {} but it has {available} left ({} too much; capacity {}, head room {}",
                    link.name,
                    BitRate::new(over),
                    link.capacity,
                    link.headroom,
                )?;
                if link.fixed > BitRate::new(0) {
                    write!(f, ", broadcast or migration {}", link.fixed)?;
                }
                f.write_str(")")?;
            }
            Bound::Ceil { link } => write!(
                f,
                "refused: '{name}' may use up to {needed} but {} carries {available}",
                link.name
            )?,
        }
        match self.nearest {
            Some(nearest) => write!(f, "; the nearest that fits is {nearest}"),
            None => f.write_str("; nothing fits, take some from another share"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Priority;
    use proptest::prelude::*;

    fn share(assured: u64) -> Share {
        Share {
            assured: BitRate::new(assured),
            ceil: BitRate::new(assured),
            priority: Priority::BestEffort,
        }
    }

    fn link(capacity: u64, headroom: u64, fixed: u64) -> Link {
        Link {
            name: "eth0".to_owned(),
            capacity: BitRate::new(capacity),
            headroom: BitRate::new(headroom),
            fixed: BitRate::new(fixed),
        }
    }

    /// Distinct names with rates.
    fn shares() -> impl Strategy<Value = Vec<Wanted>> {
        let rates = prop::collection::btree_map("[a-e]", 8_000_u64..60_000, 0..5);
        rates.prop_map(|rates| {
            let wanted = |(name, rate)| Wanted::new(name, share(rate));
            rates.into_iter().map(wanted).collect()
        })
    }

    /// The state afterwards, written down and added up.
    fn oracle(link: &Link, held: &[Wanted], wanted: &[Wanted]) -> bool {
        let mut after = std::collections::HashMap::new();
        for one in held.iter().chain(wanted) {
            after.insert(
                one.name.clone(),
                u128::from(one.share.assured.bits_per_second()),
            );
        }
        let all: u128 = after.values().sum();
        let bits = |rate: BitRate| u128::from(rate.bits_per_second());
        let ceilings = wanted.iter().all(|one| one.share.ceil <= link.capacity);
        ceilings && all + bits(link.headroom) + bits(link.fixed) <= bits(link.capacity)
    }

    fn with_rate(wanted: &[Wanted], name: &str, rate: BitRate) -> Vec<Wanted> {
        let mut wanted = wanted.to_vec();
        for one in wanted.iter_mut().filter(|one| one.name == name) {
            one.share = share(rate.bits_per_second());
        }
        wanted
    }

    proptest! {
        #[test]
        fn shares_are_admitted_exactly_when_the_sum_afterwards_fits(
            capacity in 0_u64..200_000, headroom in 0_u64..20_000, fixed in 0_u64..20_000, held in shares(), wanted in shares(),
        ) {
            let link = link(capacity, headroom, fixed);
            // Who held more than fits got it in some other way; giving up is then refused too.
            prop_assert_eq!(link.admit(&held, &wanted).is_ok(), oracle(&link, &held, &wanted) || wanted.is_empty());
        }

        #[test]
        fn the_nearest_fits_and_one_bit_more_does_not(
            capacity in 0_u64..200_000, headroom in 0_u64..20_000, held in shares(), name in "[a-e]", rate in 8_000_u64..300_000,
        ) {
            let link = link(capacity, headroom, 0);
            let wanted = [Wanted::new(name.clone(), share(rate))];
            let Err(refusal) = link.admit(&held, &wanted) else { return Ok(()) };
            let admits = |rate: BitRate| link.admit(&held, &with_rate(&wanted, &name, rate)).is_ok();
            match refusal.nearest {
                Some(nearest) if matches!(*refusal.bound, Bound::Assured { .. }) => {
                    prop_assert!(admits(nearest));
                    prop_assert!(!admits(BitRate::new(nearest.bits_per_second() + 1)));
                }
                Some(nearest) => prop_assert_eq!(nearest, link.capacity),
                None => prop_assert!(!admits(Share::LEAST)),
            }
        }

        #[test]
        fn no_rate_makes_the_sum_overflow(rates in prop::collection::vec(any::<u64>(), 1..6)) {
            let name = |(index, rate): (usize, u64)| Wanted::new(index.to_string(), share(rate));
            let wanted: Vec<_> = rates.into_iter().enumerate().map(name).collect();
            let link = link(u64::MAX, u64::MAX / 2, u64::MAX);
            prop_assert_eq!(link.admit(&[], &wanted).is_ok(), oracle(&link, &[], &wanted));
        }
    }

    #[test]
    fn what_one_gives_up_another_gets_in_whatever_order_they_stand() {
        let link = link(10_000_000, 0, 0);
        let held = [
            Wanted::new("gold", share(6_000_000)),
            Wanted::new("rest", share(4_000_000)),
        ];
        let mut wanted = vec![
            Wanted::new("gold", share(7_000_000)),
            Wanted::new("rest", share(3_000_000)),
        ];
        assert_eq!(link.admit(&held, &wanted), Ok(()));
        wanted.reverse();
        assert_eq!(link.admit(&held, &wanted), Ok(()));
        let refusal = link.admit(&held, &wanted[1..]).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "refused: 'gold' needs 7Mbit/s of eth0 but it has 6Mbit/s left (1Mbit/s too much; capacity 10Mbit/s, head room 0bit/s); the nearest that fits is 6Mbit/s"
        );
    }

    #[test]
    fn a_ceiling_above_the_link_is_refused_with_the_links_capacity() {
        let link = link(10_000_000, 0, 0);
        let mut wanted = Wanted::new("gold", share(6_000_000));
        wanted.share.ceil = BitRate::new(11_000_000);
        let refusal = link.admit(&[], &[wanted]).unwrap_err();
        assert_eq!(refusal.nearest, Some(BitRate::new(10_000_000)));
        assert!(refusal.to_string().contains("up to 11Mbit/s"), "{refusal}");
    }
}
