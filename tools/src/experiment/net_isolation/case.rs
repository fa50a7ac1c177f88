//! What is measured: which load, in which direction, on a link of which capacity. Pure.

use std::time::Duration;

use net::share::{Priority, Share};
use vmm::units::BitRate;

use super::sharing::{Demand, shared};
use crate::traffic::flood::{FRAME_BITS, batch};

/// Whose traffic.
pub const NAMES: [&str; 2] = ["gold", "best effort"];

/// A link and what is promised of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// What both share; what all may send to everybody comes on top.
    pub capacity: BitRate,
    /// How far a share may be off, percent.
    pub allowed: u32,
    /// Spare bandwidth that nobody is assured, tenths of the capacity.
    pub spare: u64,
}

impl Link {
    /// 10 Mbit/s.
    pub const SMALL: Self = Self::new(10_000_000, 1);
    /// 1 Gbit/s.
    pub const GIGABIT: Self = Self::new(1_000_000_000, 1);
    /// 5 Gbit/s.
    pub const LARGE: Self = Self::new(5_000_000_000, 2);

    const fn new(bits: u64, allowed: u32) -> Self {
        Self {
            capacity: BitRate::new(bits),
            allowed,
            spare: 0,
        }
    }

    /// The same with two tenths that nobody is assured.
    pub const fn with_spare(self) -> Self {
        Self { spare: 2, ..self }
    }

    /// What is promised: of ten parts six to gold and four to best effort, less half of what is spare each.
    pub fn shares(&self) -> [Share; 2] {
        let share = |tenths: u64, priority| Share {
            assured: self.part(tenths - self.spare / 2),
            ceil: self.capacity,
            priority,
        };
        [share(6, Priority::Gold), share(4, Priority::BestEffort)]
    }

    /// What all may send to everybody, on top of the capacity: two thousandths of it.
    pub fn broadcast(&self) -> BitRate {
        BitRate::new(self.capacity.bits_per_second() / 500)
    }

    /// The capacity with what goes to everybody.
    pub fn whole(&self) -> BitRate {
        let all = self.capacity.bits_per_second() + self.broadcast().bits_per_second();
        BitRate::new(all)
    }

    /// So many tenths.
    pub fn part(&self, tenths: u64) -> BitRate {
        BitRate::new(self.capacity.bits_per_second() / 10 * tenths)
    }
}

/// The direction, as the VMs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the VMs.
    In,
    /// Out of the VMs.
    Out,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::In, Self::Out];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What the two send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Both flood with datagrams, each with more than the whole link takes.
    Udp,
    /// Both send over many TCP connections.
    Tcp,
    /// Gold floods; best effort sends as many frames again under gold's hardware address as under its own.
    Spoofed,
    /// Gold floods; best effort floods and sends as much again to everybody.
    Broadcast,
}

impl Load {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP floods",
            Self::Tcp => "TCP, many flows",
            Self::Spoofed => "UDP, spoofed MAC",
            Self::Broadcast => "UDP, broadcast storm",
        }
    }

    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Spoofed => "spoofed",
            Self::Broadcast => "broadcast",
        }
    }

    /// Whether best effort is a guest that is played through its tap: no kernel sends such frames for a program.
    pub fn is_played(self) -> bool {
        matches!(self, Self::Spoofed | Self::Broadcast)
    }
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The link.
    pub link: Link,
    /// The load.
    pub load: Load,
    /// The direction that is measured.
    pub direction: Direction,
}

impl Case {
    /// All of them; cases of one fabric follow one another.
    pub fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        let both = |link, load| {
            Direction::BOTH.map(|direction| Self {
                link,
                load,
                direction,
            })
        };
        for link in [Link::SMALL, Link::GIGABIT, Link::LARGE] {
            cases.extend([Load::Udp, Load::Tcp].map(|load| both(link, load)).concat());
        }
        cases.extend(both(Link::SMALL.with_spare(), Load::Udp));
        for link in [Link::SMALL, Link::GIGABIT] {
            let loads = [Load::Spoofed, Load::Broadcast];
            cases.extend(loads.map(|load| both(link, load)).concat());
        }
        cases
    }

    /// Its name in tables.
    pub fn name(&self) -> String {
        let spare = match self.link.spare {
            0 => String::new(),
            spare => format!(", {spare}/10 spare"),
        };
        format!(
            "{}{spare}, {}, {}",
            self.load.name(),
            self.link.capacity,
            self.direction.name()
        )
    }

    /// What each sends if the network takes it: at least a fifth more than the whole link where that can be had, and
    /// always a fifth more than its share.
    pub fn offered(&self) -> [BitRate; 2] {
        let tenths = if self.link == Link::LARGE {
            // Two processors have to make all of it.
            [8, 6]
        } else {
            [12, 12]
        };
        tenths.map(|tenths| self.link.part(tenths))
    }

    /// What HTB's rule gives them, bits per second, when `others` (what goes to everybody) pass so much.
    pub fn expected(&self, others: f64) -> Vec<f64> {
        let demands = self.link.shares().map(|share| Demand {
            share,
            offered: f64::INFINITY,
        });
        let whole = self.link.whole().bits_per_second() as f64;
        shared(whole - others, &demands)
    }

    /// A flood that takes what the whole link has, and more where two processors can make it.
    pub fn flood(link: &Link) -> BitRate {
        link.part(if *link == Link::LARGE { 11 } else { 12 })
    }

    /// How long the datagrams of one call take at so many tenths of the link.
    pub fn grain(link: &Link, tenths: u64) -> Duration {
        let offered = link.part(12);
        let bits = FRAME_BITS as f64 * batch(offered) as f64;
        let rate = link.part(tenths).bits_per_second() as f64;
        Duration::from_secs_f64(bits / rate.max(1.0))
    }

    /// How far what was measured is from what was promised, percent.
    pub fn deviation(&self, passed: f64, expected: f64) -> f64 {
        (passed / expected - 1.0) * 100.0
    }
}

/// How long things are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Until a load has settled.
    pub settle: Duration,
    /// The same for TCP, which finds its rate by itself.
    pub settle_tcp: Duration,
    /// The middle of a run, that is measured.
    pub measure: Duration,
    /// Round trips on each link.
    pub round_trips: Duration,
    /// Changes of shares.
    pub changes: usize,
    /// Calls that are timed.
    pub calls: usize,
}

impl Lengths {
    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Of a whole or a quick experiment.
    pub fn new(is_quick: bool) -> Self {
        if is_quick {
            return Self {
                settle: Self::ms(300),
                settle_tcp: Self::ms(700),
                measure: Self::ms(1_200),
                round_trips: Self::ms(800),
                changes: 6,
                calls: 200,
            };
        }
        Self {
            settle: Self::ms(1_000),
            settle_tcp: Self::ms(3_000),
            measure: Self::ms(8_000),
            round_trips: Self::ms(5_000),
            changes: 40,
            calls: 2_000,
        }
    }

    /// How long a case takes.
    pub fn of(&self, case: &Case) -> Duration {
        self.settled(case.load) + self.measure
    }

    /// How long this load takes to settle.
    pub fn settled(&self, load: Load) -> Duration {
        if load == Load::Tcp {
            self.settle_tcp
        } else {
            self.settle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_measured_both_ways_and_each_name_is_its_own() {
        let cases = Case::all();
        let mut names: Vec<String> = cases.iter().map(Case::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            let other = |other: &Case| {
                (other.link, other.load) == (case.link, case.load)
                    && other.direction != case.direction
            };
            assert!(cases.iter().any(other), "{}", case.name());
        }
    }

    #[test]
    fn everybody_offers_more_than_is_expected() {
        for case in Case::all() {
            let expected = case.expected(case.link.broadcast().bits_per_second() as f64);
            for (offered, expected) in case.offered().iter().zip(expected) {
                let offered = offered.bits_per_second() as f64;
                assert!(offered >= expected * 1.15, "{}", case.name());
            }
        }
    }

    #[test]
    fn what_is_spare_is_golds() {
        let case = |link| Case {
            link,
            load: Load::Udp,
            direction: Direction::In,
        };
        assert_eq!(case(Link::SMALL).expected(20e3), [6e6, 4e6]);
        assert_eq!(case(Link::SMALL).expected(0.0), [6.02e6, 4e6]);
        assert_eq!(case(Link::SMALL.with_spare()).expected(20e3), [7e6, 3e6]);
    }
}
