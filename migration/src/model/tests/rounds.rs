use proptest::prelude::*;

use super::path;
use crate::model::Rhythm;
use crate::model::class::{CLASSES, Class};
use crate::model::rounds::{Batch, Cell, Dirty, cells, round};
use crate::model::{Random, Writes};

/// The papers' sum, page by page: pages are sent in the order given, cleared by `chunk`, and exposed until `end`.
fn oracle(rates: &[f64], chunk: usize, slot: f64, wait: f64) -> f64 {
    let end = rates.len() as f64 * slot + wait;
    let chunks = rates.chunks(chunk).enumerate();
    chunks
        .map(|(at, rates)| {
            let exposed = end - (at * chunk) as f64 * slot;
            rates
                .iter()
                .map(|rate| 1.0 - (-rate * exposed).exp())
                .sum::<f64>()
        })
        .sum()
}

fn all_rates() -> impl Strategy<Value = Vec<f64>> {
    let rate = prop_oneof![2 => Just(0.0), 8 => (-9.0..12.0f64).prop_map(f64::exp2)];
    prop::collection::vec(rate, 1..400)
}

/// Each page's rate made that of its class, so that classes are exact.
fn by_class(rates: &[f64]) -> Vec<f64> {
    rates
        .iter()
        .map(|&rate| Class::of_rate(rate).rate())
        .collect()
}

#[test]
fn a_class_is_the_nearest_to_its_rates() {
    for class in Class::all() {
        for off in [1.0 / 1.18, 1.0, 1.18] {
            assert_eq!(Class::of_rate(class.rate() * off), class);
        }
    }
    assert_eq!(Class::of_rate(1e9).index(), CLASSES - 1);
}

proptest! {
    #[test]
    fn a_round_of_single_pages_is_the_sum_over_positions(rates in all_rates(), bits in 1e6..1e10f64) {
        let mut rates = by_class(&rates);
        rates.sort_by(f64::total_cmp);
        let mut path = path(super::super::whole(bits));
        path.pages_per_clear = 1;
        let pace = path.pace(1.0);
        let cells = cells(&Writes::known(&rates));
        let dirty = Dirty::everything(&cells, 0);
        let closed = round(&cells, &dirty, &[true; CLASSES], &pace, 1.0);
        let slow = oracle(&rates, 1, pace.first.seconds, pace.round);
        prop_assert!((closed.dirty.total() - slow).abs() < 1e-6 * (1.0 + slow), "{} {slow}", closed.dirty.total());
    }

    #[test]
    fn chunks_of_one_class_are_the_sum_over_chunks(rate in 0.0..5000.0f64, chunks in 1..30usize, chunk in 1..70usize) {
        let slot = 3e-5;
        let count = chunks * chunk;
        let length = count as f64 * slot;
        let batch = Batch { pages: count as f64, start: 0.0, length, end: length + 1e-4, chunk: chunk as f64 };
        let stays = batch.survival(Rhythm::Random, rate);
        let slow = oracle(&vec![rate; count], chunk, slot, 1e-4);
        let closed = (1.0 - stays) * count as f64;
        prop_assert!((closed - slow).abs() < 1e-6 * (1.0 + slow), "{closed} {slow}");
    }

    #[test]
    fn chunks_written_in_turn_are_the_sum_over_chunks(rate in 0.0..2000.0f64, chunks in 1..30usize, chunk in 1..70usize) {
        let (slot, wait) = (3e-5, 1e-4);
        let count = chunks * chunk;
        let length = count as f64 * slot;
        let batch = Batch { pages: count as f64, start: 0.0, length, end: length + wait, chunk: chunk as f64 };
        let exposed = |at: usize| length + wait - (at * chunk) as f64 * slot;
        let slow: f64 = (0..chunks).map(|at| chunk as f64 * (rate * exposed(at)).min(1.0)).sum();
        let closed = (1.0 - batch.survival(Rhythm::Periodic, rate)) * count as f64;
        prop_assert!((closed - slow).abs() < 1e-6 * (1.0 + slow), "{closed} {slow}");
    }

    #[test]
    fn a_later_round_agrees_with_every_page_taken_by_itself(rates in all_rates(), seed: u64, left_from in 0..CLASSES) {
        // Any pages dirty, the hot classes left out: by class in closed form, and page by page.
        let mut rates = by_class(&rates);
        rates.sort_by(f64::total_cmp);
        let mut path = path(200_000_000);
        path.pages_per_clear = 1;
        let pace = path.pace(1.0);
        let mut random = Random::new(seed);
        let cells = cells(&Writes::known(&rates));
        let is_dirty: Vec<bool> = rates.iter().map(|_| random.unit() < 0.4).collect();
        let mut dirty = Dirty::everything(&cells, 0);
        dirty.fresh = [false; CLASSES];
        for (cell, pages) in cells.iter().zip(&mut dirty.pages) {
            let of_class = rates.iter().zip(&is_dirty).filter(|(rate, dirty)| **dirty && Class::of_rate(**rate) == cell.class);
            *pages = of_class.count() as f64;
        }
        let send: [bool; CLASSES] = std::array::from_fn(|class| class < left_from);
        let closed = round(&cells, &dirty, &send, &pace, 1.0);

        let sent: Vec<usize> = (0..rates.len()).filter(|&page| is_dirty[page] && send[Class::of_rate(rates[page]).index()]).collect();
        let end = sent.len() as f64 * pace.again.seconds + pace.round;
        let slow: f64 = (0..rates.len()).map(|page| {
            let position = sent.iter().position(|&other| other == page);
            match position {
                Some(position) => 1.0 - (-rates[page] * (end - position as f64 * pace.again.seconds)).exp(),
                None if is_dirty[page] => 1.0,
                None => 1.0 - (-rates[page] * end).exp(),
            }
        }).sum();
        prop_assert!((closed.dirty.total() - slow).abs() < 1e-6 * (1.0 + slow), "{} {slow}", closed.dirty.total());
        prop_assert!((closed.seconds - end).abs() < 1e-9);
    }

    #[test]
    fn sorted_pages_leave_no_more_dirty_than_any_order_of_addresses(rates in prop::collection::vec((-9.0..7.0f64).prop_map(f64::exp2), 2..200), seed: u64, chunk in 1..20usize) {
        // As long as no page is exposed for longer than its mean time between writes.
        let slot = 3.3e-5;
        let wait = 2e-4;
        let longest = rates.len() as f64 * slot + wait;
        let rates: Vec<f64> = rates.into_iter().map(|rate| rate.min(1.0 / longest)).collect();
        let mut shuffled = rates.clone();
        let mut random = Random::new(seed);
        for last in (1..shuffled.len()).rev() {
            let other = usize::try_from(random.bits() % (last as u64 + 1)).unwrap();
            shuffled.swap(last, other);
        }
        let mut sorted = rates;
        sorted.sort_by(f64::total_cmp);
        let (sorted, shuffled) = (oracle(&sorted, chunk, slot, wait), oracle(&shuffled, chunk, slot, wait));
        prop_assert!(sorted <= shuffled * (1.0 + 1e-9), "{sorted} {shuffled}");
    }
}

/// What a round leaves beside what it sent: both are pages that will have been sent for it.
fn cost(cells: &[Cell], send: &[bool; CLASSES], pace: &crate::model::Pace) -> f64 {
    let dirty = Dirty::everything(cells, 0);
    let round = round(cells, &dirty, send, pace, 1.0);
    round.sent + round.dirty.total()
}

proptest! {
    #[test]
    fn a_round_that_leaves_hot_pages_costs_no_more_pages_than_address_order(rates in all_rates(), bits in 1e7..1e10f64, chunk in 1..64u32) {
        let mut path = path(super::super::whole(bits));
        path.pages_per_clear = chunk;
        let pace = path.pace(1.0);
        let writes = Writes::known(&by_class(&rates));
        let ordered = cells(&writes);
        let dirty = Dirty::everything(&ordered, 0);
        let send = crate::model::order::worth_sending(&ordered, &dirty, 0.5, &pace, 1.0);
        let by_address = cells(&writes.by_address());
        let (model, address) = (cost(&ordered, &send, &pace), cost(&by_address, &[true; CLASSES], &pace));
        prop_assert!(model <= address * (1.0 + 1e-9), "{model} {address}");
    }
}
