//! What pages travel on and what that costs; what is asked of a migration.

use std::time::Duration;

use units::{BitRate, ByteSize};

use super::distribution::Skewed;
use crate::ram::PAGE_SIZE;

/// A parameter that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PathError {
    /// Nothing could be sent.
    #[error("{what} is {value}; it has to be {valid}")]
    Nonsense {
        /// Which parameter.
        what: &'static str,
        /// What was given.
        value: f64,
        /// What would do.
        valid: &'static str,
    },
    /// Chunks of no pages.
    #[error("no pages are cleared per call; it has to be at least 1")]
    NoPagesPerClear,
}

/// What one end's CPU does for each page, and the share of it that is reserved for that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuCost {
    /// CPU time per page sent, whatever its content: all that a page of zeroes takes.
    pub per_page: Duration,
    /// CPU time per MiB of page content (reading, compressing, encrypting).
    pub per_mebibyte: Duration,
    /// Share of a CPU that may be used, above 0; above 1 for several streams on several CPUs.
    pub share: f64,
}

impl CpuCost {
    /// CPU seconds of a page with content.
    pub(crate) fn of_page(&self) -> f64 {
        let content = PAGE_SIZE as f64 / f64::from(1 << 20);
        self.per_page.as_secs_f64() + self.per_mebibyte.as_secs_f64() * content
    }
}

/// What pages travel on.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// Rate reserved for the migration.
    pub rate: BitRate,
    /// Relative standard deviation of the speed that is really reached, from one migration to another.
    pub rate_spread: f64,
    /// Bytes sent beside each page: frames, page numbers, TLS.
    pub page_overhead: ByteSize,
    /// Pages of zeroes, which are sent as their overhead only the first time. They are taken to be among those written least.
    pub zero_pages: u64,
    /// Bytes sent per byte of a page, the first time.
    pub compression: f64,
    /// Bytes sent per byte of a page that was sent before; differs from `compression` where differences are sent.
    pub compression_again: f64,
    /// Time per round in which no page travels: end of the round, its answer, the dirty log read.
    pub round_cost: Duration,
    /// Most pages whose dirty bits are cleared in one call, just before they are read.
    pub pages_per_clear: u32,
    /// Time from the decision to switch over until the guest is paused.
    pub switch_delay: Duration,
    /// Downtime beside the last pages: pause, state, commit, resume.
    pub switch_over: Skewed,
    /// Costs at the source.
    pub source: CpuCost,
    /// Costs at the destination.
    pub destination: CpuCost,
    /// What the first write to a page after its bit was cleared costs the guest.
    pub tracked_write: Duration,
}

impl Path {
    /// Checks that the parameters mean something.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), PathError> {
        let above_zero = |what, value: f64| {
            if value > 0.0 && value.is_finite() {
                return Ok(());
            }
            Err(PathError::Nonsense {
                what,
                value,
                valid: "above 0",
            })
        };
        above_zero("the rate in bit/s", self.rate.bits_per_second() as f64)?;
        above_zero("the compression ratio", self.compression)?;
        above_zero(
            "the compression ratio of pages sent again",
            self.compression_again,
        )?;
        above_zero("the source's CPU share", self.source.share)?;
        above_zero("the destination's CPU share", self.destination.share)?;
        if !(0.0..1.0).contains(&self.rate_spread) {
            return Err(PathError::Nonsense {
                what: "the spread of the rate",
                value: self.rate_spread,
                valid: "from 0 to below 1",
            });
        }
        if self.pages_per_clear == 0 {
            return Err(PathError::NoPagesPerClear);
        }
        Ok(())
    }

    /// Times and bytes per page, at `speed` times the path's rate and CPU speed.
    pub(crate) fn pace(&self, speed: f64) -> Pace {
        let per_byte = 8.0 / self.rate.bits_per_second() as f64;
        let slowest = |of: fn(&CpuCost) -> f64| {
            let cpu = |cpu: &CpuCost| of(cpu) / cpu.share;
            cpu(&self.source).max(cpu(&self.destination)) / speed
        };
        let overhead = self.page_overhead.bytes() as f64;
        let kind = |compression: f64, slowest: f64| {
            let bytes = PAGE_SIZE as f64 * compression + overhead;
            Slot {
                bytes,
                seconds: (bytes * per_byte / speed).max(slowest),
            }
        };
        let with_content = slowest(CpuCost::of_page);
        Pace {
            first: kind(self.compression, with_content),
            again: kind(self.compression_again, with_content),
            zero: kind(0.0, slowest(|cpu| cpu.per_page.as_secs_f64())),
            round: self.round_cost.as_secs_f64(),
            chunk: f64::from(self.pages_per_clear.max(1)),
            delay: self.switch_delay.as_secs_f64(),
        }
    }
}

/// What one page takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

/// A path's times in seconds and its bytes per page.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    pub(crate) first: Slot,
    pub(crate) again: Slot,
    pub(crate) zero: Slot,
    /// Time of a round in which no page travels.
    pub(crate) round: f64,
    /// Pages cleared at once.
    pub(crate) chunk: f64,
    /// From the decision to switch over to the pause.
    pub(crate) delay: f64,
}

/// What is asked of a migration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Requirement {
    /// Longest time for which the guest may stand still.
    pub downtime: Duration,
    /// Longest time from the first byte until the guest runs at the destination.
    pub finish: Duration,
    /// Share of all migrations (0 to below 1) that have to keep both.
    pub confidence: f64,
}
