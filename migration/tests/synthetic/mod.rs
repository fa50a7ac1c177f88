//! Guests whose writes are drawn from a seed.

use std::time::Duration;

use migration::model::{CpuCost, Path, Random, Requirement, Skewed};
use migration::ram::PageNumber;
use migration::trace::Timeline;
use units::{BitRate, ByteSize};

/// How a guest writes.
#[derive(Debug, Clone, Copy)]
pub enum Habit {
    /// `set` pages equally often.
    Uniform { set: u64 },
    /// `set` pages, the i-th of them i^-`skew` as often as the first.
    Skewed { set: u64, skew: f64 },
    /// As skewed, with an activity that wanders by `by` (relative standard deviation), staying the same for about half a second.
    Wandering { set: u64, by: f64 },
    /// Every `every` seconds some of `set` pages at once, drawn or in turn.
    Jobs { set: u64, every: f64, sweep: bool },
    /// `set` pages equally often, another set of that size every `every` seconds, two in turn.
    Phases { set: u64, every: f64 },
}

#[derive(Debug, Clone, Copy)]
pub struct Guest {
    pub pages: u64,
    pub habit: Habit,
    /// Writes per second.
    pub rate: f64,
    pub seed: u64,
}

impl Guest {
    /// Chances of the set's pages, summed up.
    fn sums(&self) -> Vec<f64> {
        let (set, skew) = match self.habit {
            Habit::Uniform { set } | Habit::Phases { set, .. } | Habit::Jobs { set, .. } => {
                (set, 0.0)
            }
            Habit::Skewed { set, skew } => (set, skew),
            Habit::Wandering { set, .. } => (set, 0.8),
        };
        let mut sum = 0.0;
        let mut add = |place: u64| {
            sum += (place as f64).powf(-skew);
            sum
        };
        (1..=set).map(&mut add).collect()
    }

    pub fn timeline(&self, length: Duration) -> Timeline {
        let mut random = Random::new(self.seed);
        let mut addresses: Vec<u64> = (0..self.pages).collect();
        for last in (1..addresses.len()).rev() {
            let other = usize::try_from(random.bits() % (last as u64 + 1)).unwrap();
            addresses.swap(last, other);
        }
        let sums = self.sums();
        let all = *sums.last().unwrap();
        let (mut at, mut activity, mut next) = (0.0, 1.0, 0.0);
        let mut writes = Vec::new();
        loop {
            if let Habit::Wandering { by, .. } = self.habit
                && at >= next
            {
                activity = (by * random.normal()).exp();
                next = at + 0.5;
            }
            at -= random.unit().ln() / (self.rate * activity);
            if at >= length.as_secs_f64() {
                break;
            }
            let wanted = random.unit() * all;
            let mut place = sums.partition_point(|&sum| sum < wanted);
            if let Habit::Jobs { every, sweep, .. } = self.habit {
                let each = (self.rate * every).round();
                let count = writes.len() as f64;
                // All of a job's within a millisecond.
                at = (count / each).floor() * every + (count % each) / each * 1e-3;
                if sweep {
                    place = writes.len() % sums.len();
                }
                if at >= length.as_secs_f64() {
                    break;
                }
            }
            let shift = match self.habit {
                Habit::Phases { set, every } if (at / every) % 2.0 >= 1.0 => {
                    usize::try_from(set).unwrap()
                }
                _ => 0,
            };
            writes.push((
                Duration::from_secs_f64(at),
                PageNumber(addresses[place + shift]),
            ));
        }
        Timeline::of_writes(self.pages, length, &writes).unwrap()
    }
}

/// A path of this rate as on the machine where it was measured.
pub fn path(rate: &str) -> Path {
    let cpu = CpuCost {
        per_page: Duration::from_nanos(300),
        per_mebibyte: Duration::from_micros(400),
        share: 1.0,
    };
    Path {
        rate: rate.parse::<BitRate>().unwrap(),
        rate_spread: 0.02,
        page_overhead: ByteSize::new(40),
        zero_pages: 0,
        compression: 1.0,
        compression_again: 1.0,
        round_cost: Duration::from_micros(500),
        pages_per_clear: 64,
        switch_delay: Duration::from_micros(200),
        switch_over: Skewed {
            median: Duration::from_micros(1100),
            p95: Duration::from_micros(1500),
        },
        source: cpu,
        destination: cpu,
        tracked_write: Duration::from_micros(26),
    }
}

pub const GENEROUS: Requirement = Requirement {
    downtime: Duration::from_secs(5),
    finish: Duration::from_secs(60),
    confidence: 0.95,
};
