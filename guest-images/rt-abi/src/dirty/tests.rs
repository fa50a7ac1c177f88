use super::*;
use crate::taskset::Name;
use proptest::prelude::*;
use std::vec::Vec;

const MS: u64 = 1_000_000;

fn dirty(pattern: Pattern, pages: u32, region_pages: u64) -> Dirty {
    Dirty {
        pages,
        region: region_pages * PAGE,
        pattern,
        content: Content::Counter,
        phase: 0,
    }
}

fn task() -> Task {
    Task::periodic(Name::new("w").unwrap(), 0, 10 * MS)
}

fn touched(dirty: &Dirty, seed: u64, jobs: std::ops::Range<u64>) -> Vec<u64> {
    let pages = |job| {
        let mut pages = Pages::new((seed, 0), &task(), dirty, job);
        (0..dirty.pages).map(move |touch| pages.next(touch))
    };
    jobs.flat_map(pages).collect()
}

#[test]
fn a_sequential_task_goes_round_its_region() {
    let dirty = dirty(Pattern::Sequential, 3, 4);
    assert_eq!(touched(&dirty, 0, 0..3), [0, 1, 2, 3, 0, 1, 2, 3, 0]);
}

#[test]
fn a_hot_task_stays_mostly_in_a_tenth_of_its_region() {
    let dirty = dirty(Pattern::Hot, 10_000, 100_000);
    let hot = touched(&dirty, 3, 0..1)
        .into_iter()
        .filter(|page| *page < 10_000);
    // 0.9 + 0.1 * 0.1 of the touches, 5 standard deviations either way.
    assert!(hot.count().abs_diff(9_100) < 145);
}

#[test]
fn a_zipf_task_touches_a_page_about_as_often_as_its_rank_is_low() {
    let dirty = dirty(Pattern::Zipf, 100_000, 8191);
    let mut counts = std::vec![0u32; 8191];
    for page in touched(&dirty, 5, 0..1) {
        counts[usize::try_from(page).unwrap()] += 1;
    }
    // Rank n is page n * stride: 13 classes with 100000 / 13 touches each, 5 standard deviations (421) either way.
    let step = stride(8191);
    let of_ranks = |ranks: std::ops::Range<u64>| -> u32 {
        let page = |rank: u64| usize::try_from(rank * step % 8191).unwrap();
        ranks.map(|rank| counts[page(rank)]).sum()
    };
    for class in 0..13 {
        let ranks = (1 << class) - 1..(2 << class) - 1;
        assert!(of_ranks(ranks).abs_diff(7692) < 421, "class {class}");
    }
    // The hottest pages are not neighbours.
    assert!((1000..7000).contains(&step));
}

#[test]
fn the_pages_that_a_task_likes_move_with_its_phases() {
    let mut dirty = dirty(Pattern::Hot, 100, 1000);
    dirty.phase = 50 * MS;
    let hot = |jobs: std::ops::Range<u64>, start: u64| {
        let inside = |page: &u64| (page + 1000 - start) % 1000 < 100;
        touched(&dirty, 1, jobs)
            .iter()
            .filter(|page| inside(page))
            .count()
    };
    // Five jobs of 10 ms a phase, of 500 touches: 455 on average, 5 standard deviations 32.
    assert!(hot(0..5, 0) > 423);
    assert!(hot(5..10, 618) > 423);
    assert!(hot(10..15, 236) > 423);
    assert!(hot(5..10, 0) < 100);
}

#[test]
fn a_page_is_recognised_whole_torn_and_wrong() {
    for content in [Content::Random, Content::Half] {
        let page = Page::new(7, content, (2, 99), 5);
        let words: [u64; WORDS] = core::array::from_fn(|at| page.word(at));
        let [a, b, c, d, ..] = words;
        let claimed = Page::claimed([a, b, c, d], content).unwrap();
        assert_eq!(
            (claimed, claimed.place(), claimed.counter()),
            (page, (2, 99), 5)
        );
        assert_eq!(claimed.judge(&words), Verdict::Whole);
        assert!(claimed.is_closed_by(words[WORDS - 1]));
        let next = page.written(6);
        for cut in [1, 4, 5, 300, WORDS - 1] {
            let torn = core::array::from_fn(|at| if at < cut { next.word(at) } else { words[at] });
            assert_eq!(next.judge(&torn), Verdict::Torn, "{cut}");
            assert!(!next.is_closed_by(torn[WORDS - 1]));
            // The other way round nobody writes.
            let odd = core::array::from_fn(|at| if at < cut { words[at] } else { next.word(at) });
            assert!(matches!(page.judge(&odd), Verdict::Wrong { .. }), "{cut}");
        }
        let mut wrong = words;
        wrong[77] ^= 1;
        assert_eq!(page.judge(&wrong), Verdict::Wrong { at: 77 });
        assert_eq!(Page::claimed([0; 4], content), None);
    }
}

#[test]
fn half_of_a_page_that_compresses_is_one_word_over_and_over() {
    let page = Page::new(7, Content::Half, (0, 1), 3);
    let mut words: Vec<u64> = (0..WORDS).map(|at| page.word(at)).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), WORDS / 2 + 2);
}

proptest! {
    #[test]
    fn every_touch_is_inside_the_region(
        job: u64,
        first: u32,
        pages: u32,
        region_pages in prop_oneof![1u64..30, 1u64..1 << 28],
        phase in prop_oneof![Just(0), 1u64..1 << 40],
        seed: u64,
    ) {
        for pattern in [Pattern::Sequential, Pattern::Random, Pattern::Hot, Pattern::Zipf] {
            let dirty = Dirty { phase, ..dirty(pattern, pages, region_pages) };
            let mut touched = Pages::new((seed, 1), &task(), &dirty, job);
            for touch in (0..50).map(|n| first.wrapping_add(n)) {
                prop_assert!(touched.next(touch) < region_pages);
            }
        }
    }

    #[test]
    fn a_stride_comes_by_every_page(count in 1u64..3000) {
        let step = stride(count);
        let mut seen = std::vec![false; usize::try_from(count).unwrap()];
        for rank in 0..count {
            seen[usize::try_from(rank * step % count).unwrap()] = true;
        }
        prop_assert!(seen.iter().all(|seen| *seen));
    }
}
