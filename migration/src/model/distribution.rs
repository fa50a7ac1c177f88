//! What may come out, as quantiles; and the numbers by which chance enters, given from outside.

use std::time::Duration;

/// What may come out, equally likely each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes<T>(Vec<T>);

impl<T: Copy + Ord + Default> Outcomes<T> {
    /// The distribution of these outcomes.
    #[must_use]
    pub fn new(mut outcomes: Vec<T>) -> Self {
        outcomes.sort_unstable();
        Self(outcomes)
    }

    /// The outcome that a share `q` (0 to 1) of all does not exceed; zero of an empty distribution.
    #[must_use]
    pub fn quantile(&self, q: f64) -> T {
        let Some(last) = self.0.len().checked_sub(1) else {
            return T::default();
        };
        // The smallest outcome with at least the share q at or below it.
        let below = (q.clamp(0.0, 1.0) * self.0.len() as f64).ceil();
        self.0[whole(below)
            .saturating_sub(1)
            .try_into()
            .unwrap_or(last)
            .min(last)]
    }

    /// Half of the outcomes are no greater.
    #[must_use]
    pub fn median(&self) -> T {
        self.quantile(0.5)
    }

    /// 95 % of the outcomes are no greater.
    #[must_use]
    pub fn p95(&self) -> T {
        self.quantile(0.95)
    }

    /// How many outcomes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A length of time that has a long tail above: log-normal, given by its median and its 95 % quantile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skewed {
    /// Half of all are shorter.
    pub median: Duration,
    /// 95 % are shorter; `median` for a fixed length.
    pub p95: Duration,
}

/// Standard normal deviate that 95 % do not exceed.
const Z95: f64 = 1.644_854;

impl Skewed {
    /// Always the same length.
    #[must_use]
    pub const fn fixed(length: Duration) -> Self {
        Self {
            median: length,
            p95: length,
        }
    }

    /// From measured lengths: the log-normal of their median and their 95 % quantile. `None` without any.
    #[must_use]
    pub fn measured(lengths: &[Duration]) -> Option<Self> {
        let found = Outcomes::new(lengths.to_vec());
        (!found.is_empty()).then(|| Self {
            median: found.median(),
            p95: found.p95(),
        })
    }

    /// The length at `deviate` standard deviations above the median.
    pub(crate) fn at(&self, deviate: f64) -> f64 {
        let median = self.median.as_secs_f64();
        if median <= 0.0 {
            return 0.0;
        }
        let ratio = (self.p95.as_secs_f64() / median).max(1.0);
        median * (ratio.ln() / Z95 * deviate).exp()
    }
}

/// A generator of random numbers, the same for the same seed. SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014. Not for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The generator with this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number above 0 and below 1.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// A standard normal deviate (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A number of events of which `mean` are expected, for small means (Knuth's product of uniform numbers).
    pub(crate) fn poisson(&mut self, mean: f64) -> f64 {
        let limit = (-mean).exp();
        let mut product = self.unit();
        let mut count = 0.0;
        while product > limit {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}

/// The standard normal deviate below which a share `q` of all lie: Acklam's rational approximation (2003), relative error below 1.2e-9.
pub(crate) fn normal_quantile(q: f64) -> f64 {
    const A: [f64; 6] = [
        -39.696_830_286_653_76,
        220.946_098_424_520_5,
        -275.928_510_446_968_7,
        138.357_751_867_269,
        -30.664_798_066_147_16,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -54.476_098_798_224_06,
        161.585_836_858_040_9,
        -155.698_979_859_886_6,
        66.801_311_887_719_72,
        -13.280_681_552_885_72,
    ];
    const C: [f64; 6] = [
        -0.007_784_894_002_430_293,
        -0.322_396_458_041_136_5,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] = [
        0.007_784_695_709_041_462,
        0.322_467_129_070_039_8,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
    ];
    const TAIL: f64 = 0.02425;
    let polynomial = |factors: &[f64], x: f64| factors.iter().fold(0.0, |sum, f| sum * x + f);
    let q = q.clamp(1e-12, 1.0 - 1e-12);
    let tail = |q: f64| {
        let x = (-2.0 * q.ln()).sqrt();
        polynomial(&C, x) / (polynomial(&D, x) * x + 1.0)
    };
    if q < TAIL {
        tail(q)
    } else if q > 1.0 - TAIL {
        -tail(1.0 - q)
    } else {
        let x = q - 0.5;
        let square = x * x;
        polynomial(&A, square) * x / (polynomial(&B, square) * square + 1.0)
    }
}

/// The whole number nearest to `value`; 0 below it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and the value is rounded and not negative"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value.round().max(0.0) as u64
}

/// Seconds as a duration; the longest one for what is longer, such as infinity.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
