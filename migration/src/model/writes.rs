//! How often a guest writes its pages, by classes.

use std::time::Duration;

use super::class::{CLASSES, Class};

/// How the writes to a page follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// Whenever it happens: Poisson's process.
    Random,
    /// In equal intervals, as by a task that writes its pages in turn.
    Periodic,
}

impl Rhythm {
    /// The chance of a write within some seconds that begin at any instant.
    pub(crate) fn chance(self, rate: f64, seconds: f64) -> f64 {
        match self {
            Self::Random => -(-rate * seconds).exp_m1(),
            Self::Periodic => (rate * seconds).min(1.0),
        }
    }
}

/// A part of a class's pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Portion {
    /// Share of the class's pages.
    pub share: f64,
    /// Writes per second to each of them.
    pub rate: f64,
    /// How these follow one another.
    pub rhythm: Rhythm,
}

/// The pages of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Their class.
    pub class: Class,
    /// How many.
    pub pages: u64,
    /// How they are really written, as far as is known; shares sum up to 1.
    pub mix: Vec<Portion>,
}

/// The fewest pages that take a share of all writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HotSet {
    /// How many pages.
    pub pages: u64,
    /// The coldest class among them.
    pub from: Class,
    /// Writes per second to them.
    pub rate: f64,
}

/// How often a guest writes each of its pages.
#[derive(Debug, Clone, PartialEq)]
pub struct Writes {
    groups: Vec<Group>,
    /// Class of each page, one byte each.
    class_of: Vec<u8>,
    /// Standard deviation of the logarithm of a factor common to all rates.
    spread: f64,
    /// Longest time for which the guest was watched.
    watched: Duration,
}

impl Writes {
    /// Known rates: element i is page i's writes per second.
    #[must_use]
    pub fn known(rates: &[f64]) -> Self {
        let mut sums = [(0u64, 0.0); CLASSES];
        let mut class_of = Vec::with_capacity(rates.len());
        for &rate in rates {
            let class = Class::of_rate(rate);
            class_of.push(class.byte());
            sums[class.index()].0 += 1;
            sums[class.index()].1 += rate;
        }
        let groups = Class::all().zip(sums);
        let groups = groups
            .filter(|(_, (pages, _))| *pages > 0)
            .map(|(class, (pages, sum))| Group {
                class,
                pages,
                mix: vec![Portion {
                    share: 1.0,
                    rate: sum / pages as f64,
                    rhythm: Rhythm::Random,
                }],
            })
            .collect();
        Self {
            groups,
            class_of,
            spread: 0.0,
            watched: Duration::MAX,
        }
    }

    /// Groups by increasing class, and each page's class.
    pub(crate) fn estimated(
        groups: Vec<Group>,
        class_of: Vec<u8>,
        spread: f64,
        watched: Duration,
    ) -> Self {
        Self {
            groups,
            class_of,
            spread,
            watched,
        }
    }

    /// The same guest, whose pages are not told apart: every round sends them by address.
    #[must_use]
    pub fn by_address(&self) -> Self {
        let pages = self.pages();
        if pages == 0 {
            return self.clone();
        }
        let mut mix = Vec::new();
        for group in &self.groups {
            let share = group.pages as f64 / pages as f64;
            mix.extend(group.mix.iter().map(|part| Portion {
                share: part.share * share,
                ..*part
            }));
        }
        let class = Class::of_rate(self.rate() / pages as f64);
        Self {
            groups: vec![Group { class, pages, mix }],
            class_of: vec![class.byte(); self.class_of.len()],
            ..self.clone()
        }
    }

    /// The same, with a factor common to all rates that is known to a relative standard deviation.
    #[must_use]
    pub fn with_spread(self, spread: f64) -> Self {
        Self { spread, ..self }
    }

    /// Pages of the guest.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.class_of.len() as u64
    }

    /// The classes that have pages, by increasing rate.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Relative standard deviation of the factor common to all rates.
    #[must_use]
    pub fn spread(&self) -> f64 {
        self.spread
    }

    /// Time for which the guest was watched, older time counting less.
    #[must_use]
    pub fn watched(&self) -> Duration {
        self.watched
    }

    /// Each page's class, as its number.
    pub(crate) fn class_bytes(&self) -> &[u8] {
        &self.class_of
    }

    /// Writes per second, expected. A page that is written more often than could be told counts as often as could be told.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.groups.iter().map(group_rate).sum()
    }

    /// The fewest classes that take at least `share` (0 to 1) of all writes.
    #[must_use]
    pub fn hot_set(&self, share: f64) -> HotSet {
        let wanted = self.rate() * share;
        let mut hot = HotSet {
            pages: 0,
            from: Class::IDLE,
            rate: 0.0,
        };
        for group in self.groups.iter().rev() {
            if hot.rate >= wanted {
                break;
            }
            hot.pages += group.pages;
            hot.from = group.class;
            hot.rate += group_rate(group);
        }
        hot
    }

    /// How many different pages are expected to be written within `window`.
    #[must_use]
    pub fn dirty_within(&self, window: Duration) -> f64 {
        let seconds = window.as_secs_f64();
        let of_group = |group: &Group| {
            let chance = |part: &Portion| part.share * part.rhythm.chance(part.rate, seconds);
            group.pages as f64 * group.mix.iter().map(chance).sum::<f64>()
        };
        self.groups.iter().map(of_group).sum()
    }
}

fn group_rate(group: &Group) -> f64 {
    let mean: f64 = group.mix.iter().map(|part| part.rate * part.share).sum();
    mean * group.pages as f64
}
