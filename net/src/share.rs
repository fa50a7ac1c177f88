//! What is promised of a link: a rate that is always there, a ceiling, and who takes spare bandwidth first.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use units::BitRate;

/// Who takes bandwidth that nobody uses first (`prio` of an HTB class, tc-htb(8)).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// First.
    Gold,
    /// What gold leaves.
    #[default]
    BestEffort,
}

impl Priority {
    /// All of them, the first served first.
    pub const ALL: [Self; 2] = [Self::Gold, Self::BestEffort];

    /// The word in files and commands.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gold => "gold",
            Self::BestEffort => "best-effort",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Not a priority.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a priority; write gold or best-effort")]
pub struct PriorityError {
    text: String,
}

impl FromStr for Priority {
    type Err = PriorityError;

    fn from_str(text: &str) -> Result<Self, PriorityError> {
        let found = Self::ALL.into_iter().find(|known| known.word() == text);
        found.ok_or_else(|| PriorityError {
            text: text.to_owned(),
        })
    }
}

/// A share of a link. It holds in each direction by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Always there.
    pub assured: BitRate,
    /// Never more than this.
    pub ceil: BitRate,
    /// Whose turn it is when others leave bandwidth unused.
    pub priority: Priority,
}

/// The rates are not a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Nothing, or so little that a single frame would take seconds.
    #[error(
        "assured = {assured} is below the least rate: write at least {}",
        Share::LEAST
    )]
    TooSmall {
        /// What was asked for.
        assured: BitRate,
    },
    /// Above what HTB can count.
    #[error(
        "{key} = {rate} is above the greatest rate: write at most {}",
        Share::GREATEST
    )]
    TooGreat {
        /// Which of the two rates.
        key: &'static str,
        /// What was asked for.
        rate: BitRate,
    },
    /// The ceiling is below the assured rate.
    #[error(
        "ceil = {ceil} is below assured = {assured}: write at least {assured}, or leave ceil out"
    )]
    CeilBelowAssured {
        /// The ceiling.
        ceil: BitRate,
        /// The assured rate.
        assured: BitRate,
    },
}

impl Share {
    /// A frame of 1500 bytes then takes 1.5 seconds.
    pub const LEAST: BitRate = BitRate::new(8_000);
    /// Faster than any link this is made for.
    pub const GREATEST: BitRate = BitRate::new(100_000_000_000);

    /// A share whose rates were checked.
    ///
    /// # Errors
    /// When a rate is out of range, or the ceiling is below the assured rate.
    pub fn new(assured: BitRate, ceil: BitRate, priority: Priority) -> Result<Self, ShareError> {
        let share = Self {
            assured,
            ceil,
            priority,
        };
        share.check().map(|()| share)
    }

    /// Whether the rates can be a share.
    ///
    /// # Errors
    /// As [`Share::new`].
    pub fn check(&self) -> Result<(), ShareError> {
        let Self { assured, ceil, .. } = *self;
        if assured < Self::LEAST {
            return Err(ShareError::TooSmall { assured });
        }
        for (key, rate) in [("assured", assured), ("ceil", ceil)] {
            if rate > Self::GREATEST {
                return Err(ShareError::TooGreat { key, rate });
            }
        }
        if ceil < assured {
            return Err(ShareError::CeilBelowAssured { ceil, assured });
        }
        Ok(())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            assured,
            ceil,
            priority,
        } = self;
        write!(f, "{assured} (at most {ceil}, {priority})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_share_is_made_exactly_when_its_rates_are_in_range_and_in_order(assured in 0_u64..200_000_000_000, ceil in 0_u64..200_000_000_000) {
            let made = Share::new(BitRate::new(assured), BitRate::new(ceil), Priority::Gold);
            let is_right = (8_000..=100_000_000_000).contains(&assured) && ceil >= assured && ceil <= 100_000_000_000;
            prop_assert_eq!(made.is_ok(), is_right);
        }
    }

    #[test]
    fn an_error_names_the_key_the_value_and_what_would_fit() {
        let rate = BitRate::new;
        let error = |assured, ceil| {
            let made = Share::new(rate(assured), rate(ceil), Priority::Gold);
            made.unwrap_err().to_string()
        };
        assert_eq!(
            error(0, 1_000_000),
            "assured = 0bit/s is below the least rate: write at least 8kbit/s"
        );
        assert_eq!(
            error(1_000_000, 101_000_000_000),
            "ceil = 101Gbit/s is above the greatest rate: write at most 100Gbit/s"
        );
        assert_eq!(
            error(2_000_000, 1_000_000),
            "ceil = 1Mbit/s is below assured = 2Mbit/s: write at least 2Mbit/s, or leave ceil out"
        );
    }

    #[test]
    fn a_priority_is_written_as_it_is_read() {
        for priority in Priority::ALL {
            assert_eq!(priority.to_string().parse(), Ok(priority));
            let json = serde_json::to_string(&priority).unwrap();
            assert_eq!(json, format!("\"{priority}\""));
        }
        assert!("silver".parse::<Priority>().is_err());
    }
}
