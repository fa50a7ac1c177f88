//! The guest clock page: how a guest turns its TSC into time, with offset and scale owned by the VMM.
//!
//! Not every host can shift or scale a guest's TSC, and guests move between hosts, so the guest never takes the TSC for
//! time. The VMM rewrites the page whenever the relation changes (start, resume, arrival on another host).
//!
//! The page is handed over as a PVH boot module whose command line is [`MODULE`] (Xen `hvm_modlist_entry`).

/// Command line of the PVH module that carries the clock page.
pub const MODULE: &str = "chronovisor.clock";

/// Value of [`ClockPage::magic`]: "CVCLOCK1" read as little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CVCLOCK1");

/// Nanoseconds in a second.
const NANOS: u128 = 1_000_000_000;

/// The page as it lies in guest memory. All fields little endian; 48 bytes used of a 4096-byte page.
///
/// Written by the VMM only while no vCPU runs, or under `sequence` as a sequence lock: odd while being written, and a
/// reader that saw an odd or a changed value reads again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ClockPage {
    /// [`MAGIC`].
    pub magic: u64,
    /// Sequence lock.
    pub sequence: u64,
    /// TSC value at which guest time was `base_ns`.
    pub base_tsc: u64,
    /// Guest time in nanoseconds at `base_tsc`.
    pub base_ns: u64,
    /// Nanoseconds per TSC tick, 32.32 fixed point.
    pub ns_per_tick: u64,
    /// TSC ticks per nanosecond, 32.32 fixed point.
    pub ticks_per_ns: u64,
}

impl ClockPage {
    /// A page for a TSC of `tsc_hz` that says `base_ns` at `base_tsc`. `None` unless 1 MHz <= `tsc_hz` <= 100 GHz.
    #[must_use]
    pub fn new(tsc_hz: u64, base_tsc: u64, base_ns: u64) -> Option<Self> {
        if !(1_000_000..=100_000_000_000).contains(&tsc_hz) {
            return None;
        }
        Some(Self {
            magic: MAGIC,
            sequence: 0,
            base_tsc,
            base_ns,
            ns_per_tick: low64((NANOS << 32) / u128::from(tsc_hz)),
            ticks_per_ns: low64((u128::from(tsc_hz) << 32) / NANOS),
        })
    }

    /// The page as it lies in memory, word by word.
    #[must_use]
    pub const fn words(&self) -> [u64; 6] {
        [
            self.magic,
            self.sequence,
            self.base_tsc,
            self.base_ns,
            self.ns_per_tick,
            self.ticks_per_ns,
        ]
    }

    /// Guest time in nanoseconds when the TSC reads `tsc`. A TSC before the base counts as the base.
    #[must_use]
    pub fn ns_at(&self, tsc: u64) -> u64 {
        self.base_ns
            .wrapping_add(scale(tsc.saturating_sub(self.base_tsc), self.ns_per_tick))
    }

    /// TSC value at which guest time is `ns`. A time before the base counts as the base.
    #[must_use]
    pub fn tsc_at(&self, ns: u64) -> u64 {
        self.base_tsc
            .wrapping_add(scale(ns.saturating_sub(self.base_ns), self.ticks_per_ns))
    }
}

/// `value * factor` with `factor` in 32.32 fixed point.
fn scale(value: u64, factor: u64) -> u64 {
    low64((u128::from(value) * u128::from(factor)) >> 32)
}

/// The low half, saturating: times beyond 584 years are the end of time.
fn low64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn time_and_tsc_are_inverse_within_rounding(hz in 500_000_000u64..5_000_000_000, ns in 0u64..100_000_000_000_000) {
            let page = ClockPage::new(hz, 12_345, 678).unwrap();
            let back = page.ns_at(page.tsc_at(678 + ns));
            // 2^-32 relative for each factor, and one tick of rounding.
            prop_assert!(back.abs_diff(678 + ns) <= 8 + (ns >> 28), "{ns} came back as {back}");
        }

        #[test]
        fn any_page_and_any_tsc_are_total(base_tsc: u64, base_ns: u64, a: u64, b: u64, tsc: u64) {
            let page = ClockPage { magic: MAGIC, sequence: 0, base_tsc, base_ns, ns_per_tick: a, ticks_per_ns: b };
            let _ = page.ns_at(tsc);
            let _ = page.tsc_at(tsc);
        }
    }

    #[test]
    fn absurd_frequencies_are_refused() {
        assert!(ClockPage::new(0, 0, 0).is_none());
        assert!(ClockPage::new(u64::MAX, 0, 0).is_none());
    }
}
