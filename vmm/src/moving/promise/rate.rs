//! Rates on the link, of content, and what CPUs reach.

use migration::model::{CpuCost, Limits, Path};
use migration::ram::PAGE_SIZE;

use super::{Means, Nearest, Refusal, Wish};
use crate::units::BitRate;

/// Of what goes over a link, so much is content: 1448 of 1514 bytes of a packet, 16384 of 16406 of a TLS record.
pub(super) const CONTENT: f64 = 1448.0 / 1514.0 * 16384.0 / 16406.0;
/// Where nothing limits the rate, CPUs do.
pub(super) const UNLIMITED: BitRate = BitRate::new(100_000_000_000);

/// Bits of content per second at a rate on the link.
pub(super) fn content(rate: BitRate) -> BitRate {
    BitRate::new(scaled(rate.bits_per_second(), CONTENT))
}

/// The rate on the link for so many bits of content per second.
pub(super) fn on_the_link(content: BitRate) -> BitRate {
    let exact = scaled(content.bits_per_second(), 1.0 / CONTENT);
    // Three digits are kept: what is computed is no more exact than that.
    let step = 10u64.pow(exact.max(1).ilog10().saturating_sub(2));
    BitRate::new(exact.div_ceil(step).saturating_mul(step))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and neither factor is negative"
)]
pub(super) fn scaled(value: u64, factor: f64) -> u64 {
    (value as f64 * factor).ceil() as u64
}

/// The largest rate on the link.
pub(super) fn greatest_rate(wish: &Wish, means: &Means) -> Result<BitRate, Refusal> {
    match (wish.rate, means.assured) {
        (Some(rate), Some(assured)) if rate > assured && !wish.best_effort => {
            let reason = format!(
                "{rate} were asked for, and {assured} are assured to migrations on the link (uplink.migration of the network's plan, the lesser of both hosts')"
            );
            let mut refusal = Refusal::because(reason);
            refusal.nearest = Some(Nearest {
                rate: Some(assured),
                ..Nearest::default()
            });
            Err(refusal)
        }
        (Some(rate), _) | (None, Some(rate)) => Ok(rate),
        (None, None) => Ok(UNLIMITED),
    }
}

/// Pages per second that carry so many bits.
pub(super) fn pages(path: &Path, rate: BitRate) -> f64 {
    let smallest = PAGE_SIZE as f64 * path.compression.min(path.compression_again);
    rate.bits_per_second() as f64 / 8.0 / (smallest + path.page_overhead.bytes() as f64)
}

/// CPU seconds of a page with content.
pub(super) fn of_page(cost: &CpuCost) -> f64 {
    let content = PAGE_SIZE as f64 / f64::from(1 << 20);
    cost.per_page.as_secs_f64() + cost.per_mebibyte.as_secs_f64() * content
}

/// The rate for which the CPUs are enough.
pub(super) fn reached(path: &Path, rate: BitRate, limits: &Limits) -> BitRate {
    let [source, destination] = [
        (&path.source, limits.source),
        (&path.destination, limits.destination),
    ]
    .map(|(cost, most)| most / of_page(cost));
    let factor = source.min(destination) / pages(path, rate).max(1.0);
    BitRate::new(scaled(rate.bits_per_second(), factor.min(1.0)))
}

/// The path at this rate, with the CPU shares that keep up with it.
pub(super) fn taking(path: &Path, rate: BitRate, limits: &Limits) -> Path {
    let share = |cost: &CpuCost, most: f64| CpuCost {
        share: (pages(path, rate) * of_page(cost)).clamp(f64::MIN_POSITIVE, most),
        ..*cost
    };
    Path {
        rate,
        source: share(&path.source, limits.source),
        destination: share(&path.destination, limits.destination),
        ..path.clone()
    }
}
