//! Numbers that depend on the seed only.
//!
//! SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): six lines that give the same numbers for ever, which the generators of
//! the `rand` crate do not promise across versions.

/// A generator of 64-bit numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream number `stream` of this seed. Each task has its own: what happens to one does not change another's.
    pub fn stream(seed: u64, stream: usize) -> Self {
        let start = Self(seed).next();
        Self(Self(start ^ stream as u64).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `least` to `most`, both included; unfair by less than the range in 2^64.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        if most <= least {
            return least;
        }
        let range = u128::from(most - least) + 1;
        let scaled = (u128::from(self.next()) * range) >> 64;
        // Less than the range, which fits.
        least + u64::try_from(scaled).unwrap_or(0)
    }

    /// A number in [0, 1): a multiple of 2^-53, all equally likely.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A place below `count`; 0 if there is none.
    pub fn below(&mut self, count: usize) -> usize {
        let last = count.saturating_sub(1) as u64;
        // No greater than the count, which is of this type.
        usize::try_from(self.between(0, last)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_units_stay_in_their_ranges_and_reach_all_of_them() {
        let mut random = Random::stream(1, 0);
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            seen[random.below(5)] = true;
            assert!((0.0..1.0).contains(&random.unit()));
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!((random.below(0), random.below(1)), (0, 0));
    }
}
