//! Which pages a memory-dirtying task touches.

use crate::random::Random;
use crate::taskset::{Dirty, PAGE, Pattern};

/// The page, from 0 within the region, that touch number `touch` of job `job` goes to.
///
/// `random` is the job's own generator ([`Random::for_job`]), kept from touch to touch.
#[must_use]
pub fn page(dirty: &Dirty, job: u64, touch: u32, random: &mut Random) -> u64 {
    let pages = (dirty.region / PAGE).max(1);
    match dirty.pattern {
        Pattern::Sequential => {
            let before = job.wrapping_mul(u64::from(dirty.pages));
            before.wrapping_add(u64::from(touch)) % pages
        }
        Pattern::Random => random.uniform(0, pages - 1),
        Pattern::Hot => {
            let hot = pages.div_ceil(10);
            let among = if random.uniform(0, 9) < 9 { hot } else { pages };
            random.uniform(0, among - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dirty(pattern: Pattern, pages: u32, region_pages: u64) -> Dirty {
        Dirty {
            pages,
            region: region_pages * PAGE,
            pattern,
        }
    }

    #[test]
    fn a_sequential_task_goes_round_its_region() {
        let dirty = dirty(Pattern::Sequential, 3, 4);
        let mut random = Random::new(0);
        let touched: std::vec::Vec<u64> = (0..3)
            .flat_map(|job| (0..3).map(move |touch| (job, touch)))
            .map(|(job, touch)| page(&dirty, job, touch, &mut random))
            .collect();
        assert_eq!(touched, [0, 1, 2, 3, 0, 1, 2, 3, 0]);
    }

    #[test]
    fn a_hot_task_stays_mostly_in_a_tenth_of_its_region() {
        let dirty = dirty(Pattern::Hot, 10_000, 100_000);
        let mut random = Random::new(3);
        let hot = (0..10_000).filter(|touch| page(&dirty, 0, *touch, &mut random) < 10_000);
        // 0.9 + 0.1 * 0.1 of the touches, 5 standard deviations either way.
        assert!(hot.count().abs_diff(9_100) < 145);
    }

    proptest! {
        #[test]
        fn every_touch_is_inside_the_region(
            job: u64,
            first: u32,
            pages: u32,
            region_pages in prop_oneof![1u64..30, 1u64..1 << 28],
            seed: u64,
        ) {
            let mut random = Random::new(seed);
            for pattern in [Pattern::Sequential, Pattern::Random, Pattern::Hot] {
                let dirty = dirty(pattern, pages, region_pages);
                for touch in (0..50).map(|n| first.wrapping_add(n)) {
                    prop_assert!(page(&dirty, job, touch, &mut random) < region_pages);
                }
            }
        }
    }
}
