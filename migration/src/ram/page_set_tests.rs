//! Sets of pages against an ordered set of numbers.

use super::{PageNumber, PageRange, PageSet};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn number_and_members() -> impl Strategy<Value = (u64, BTreeSet<u64>)> {
    (1u64..300).prop_flat_map(|pages| (Just(pages), members(pages)))
}

fn members(pages: u64) -> impl Strategy<Value = BTreeSet<u64>> {
    prop_oneof![
        proptest::collection::btree_set(0..pages, 0..40),
        (0..pages, 0..pages).prop_map(|(a, b)| (a.min(b)..=a.max(b)).collect()),
    ]
}

fn set(pages: u64, members: &BTreeSet<u64>) -> PageSet {
    let mut set = PageSet::empty(pages);
    for &page in members {
        assert!(set.insert(PageNumber(page)));
    }
    set
}

fn listed(set: &PageSet) -> BTreeSet<u64> {
    set.iter().map(|page| page.0).collect()
}

proptest! {
    #[test]
    fn a_set_lists_what_was_put_in((pages, members) in number_and_members()) {
        let set = set(pages, &members);
        prop_assert_eq!(listed(&set), members.clone());
        prop_assert!(set.iter().map(|page| page.0).eq(members.iter().copied()), "in ascending order");
        prop_assert_eq!(set.len(), members.len() as u64);
        prop_assert_eq!(set.is_empty(), members.is_empty());
        for page in 0..pages + 70 {
            prop_assert_eq!(set.contains(PageNumber(page)), members.contains(&page));
        }
    }

    #[test]
    fn ranges_are_as_long_as_can_be_and_cover_the_set((pages, members) in number_and_members()) {
        let set = set(pages, &members);
        let ranges: Vec<PageRange> = set.ranges().collect();
        let covered: Vec<u64> = ranges.iter().flat_map(|range| range.first.0..range.end()).collect();
        prop_assert!(covered.iter().copied().eq(members.iter().copied()));
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].first.0));
        let mut again = PageSet::empty(pages);
        for range in ranges {
            prop_assert!(range.count > 0);
            again.insert_range(range);
        }
        prop_assert_eq!(again, set);
    }

    #[test]
    fn sets_combine_as_numbers_do((pages, a, b) in (1u64..300).prop_flat_map(|pages| (Just(pages), members(pages), members(pages)))) {
        let combined = |with: fn(&mut PageSet, &PageSet)| {
            let mut left = set(pages, &a);
            with(&mut left, &set(pages, &b));
            listed(&left)
        };
        prop_assert_eq!(combined(PageSet::union_with), &a | &b);
        prop_assert_eq!(combined(PageSet::intersect_with), &a & &b);
        prop_assert_eq!(combined(PageSet::subtract), &a - &b);
        let mut emptied = set(pages, &a);
        for page in 0..pages {
            prop_assert_eq!(emptied.remove(PageNumber(page)), a.contains(&page));
        }
        prop_assert!(emptied.is_empty());
    }

    #[test]
    fn the_bitmap_of_a_slot_lands_at_its_pages(
        before in 0u64..200, count in 0u64..200, behind in 0u64..100, words in proptest::collection::vec(any::<u64>(), 4),
        there in any::<bool>(),
    ) {
        let pages = before + count + behind;
        let mut set = PageSet::empty(pages);
        if there && pages > 0 {
            set.insert(PageNumber(pages - 1));
        }
        let mut expected = listed(&set);
        expected.extend((0..count).filter(|bit| words[usize::try_from(bit / 64).unwrap()] >> (bit % 64) & 1 == 1).map(|bit| before + bit));
        set.union_words(PageRange { first: PageNumber(before), count }, &words).unwrap();
        prop_assert_eq!(listed(&set), expected);
    }

    #[test]
    fn words_make_the_same_set_again((pages, members) in number_and_members(), noise in any::<u64>()) {
        let set = set(pages, &members);
        let mut words = set.words().to_vec();
        if pages % 64 != 0 {
            *words.last_mut().unwrap() |= noise << (pages % 64);
        }
        prop_assert_eq!(PageSet::from_words(pages, words.clone()).unwrap(), set);
        words.push(0);
        prop_assert!(PageSet::from_words(pages, words).is_err());
    }
}

#[test]
fn a_full_set_has_every_page_and_no_more() {
    for pages in [0, 1, 63, 64, 65, 128, 200] {
        let full = PageSet::full(pages);
        assert_eq!(full.len(), pages);
        assert!(full.iter().map(|page| page.0).eq(0..pages));
        assert_eq!(full.ranges().count(), usize::from(pages > 0));
    }
}

#[test]
fn a_slot_beyond_memory_or_with_too_few_words_is_an_error() {
    let mut set = PageSet::empty(100);
    let range = |first, count| PageRange {
        first: PageNumber(first),
        count,
    };
    assert!(set.union_words(range(90, 11), &[0; 2]).is_err());
    assert!(set.union_words(range(u64::MAX, 2), &[0; 2]).is_err());
    assert!(set.union_words(range(0, 65), &[0]).is_err());
}

#[test]
#[should_panic(expected = "not of a guest of 10 pages")]
fn a_page_beyond_the_last_cannot_be_put_in() {
    PageSet::empty(10).insert(PageNumber(10));
}
