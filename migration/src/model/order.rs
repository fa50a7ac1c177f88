//! In which order a round sends its pages, and which it leaves to a later one.
//!
//! By increasing rate: of two pages exposed for less than their mean time between writes, exchanging them so that the colder one
//! comes first lowers the expected dirty set. A page so hot that it would be dirty again by the round's end costs a slot, to all pages before
//! it too, and gains nothing: it waits.

use super::class::{CLASSES, Class};
use super::path::Pace;
use super::rounds::{Batch, Cell, Dirty, Share};
use super::writes::Writes;
use crate::ram::{PageNumber, PageSet};

impl Writes {
    /// The classes that have pages, in the order in which a round sends them.
    #[must_use]
    pub fn order(&self) -> Vec<Class> {
        self.groups().iter().map(|group| group.class).collect()
    }

    /// The class of a page; `Class::IDLE` for a page that the guest does not have.
    #[must_use]
    pub fn class_of(&self, page: PageNumber) -> Class {
        let place = usize::try_from(page.0).ok();
        let byte = place.and_then(|place| self.class_bytes().get(place));
        byte.map_or(Class::IDLE, |&byte| Class::from_byte(byte))
    }

    /// The pages of a set by class, in the order in which a round sends them.
    #[must_use]
    pub fn split(&self, pages: &PageSet) -> Vec<(Class, PageSet)> {
        let mut sets: Vec<Option<PageSet>> = vec![None; CLASSES];
        for page in pages.iter() {
            let set = &mut sets[self.class_of(page).index()];
            set.get_or_insert_with(|| PageSet::empty(pages.pages()))
                .insert(page);
        }
        let by_class = Class::all().zip(sets);
        by_class
            .filter_map(|(class, set)| Some((class, set?)))
            .collect()
    }

    /// How many pages of a set each class has.
    #[must_use]
    pub fn count(&self, pages: &PageSet) -> [u64; CLASSES] {
        let mut counts = [0; CLASSES];
        for page in pages.iter() {
            counts[self.class_of(page).index()] += 1;
        }
        counts
    }
}

/// The classes whose dirty pages stay clean until the round's end with a chance of at least `keep`, if they are sent last.
pub(crate) fn worth_sending(
    cells: &[Cell],
    dirty: &Dirty,
    keep: f64,
    pace: &Pace,
    vigour: f64,
) -> [bool; CLASSES] {
    let by_class = dirty.by_class(cells);
    let mut stay = [0.0; CLASSES];
    for (cell, &pages) in cells.iter().zip(&dirty.pages) {
        let class = cell.class.index();
        let length = by_class[class] * pace.again.seconds;
        let end = length + pace.round;
        let batch = Batch {
            pages: by_class[class],
            start: 0.0,
            length,
            end,
            chunk: pace.chunk,
        };
        let share = Share {
            dirty: pages,
            fresh: dirty.fresh[class],
            batch: Some(batch),
            end,
        };
        stay[class] += pages - cell.hits_of_sent(&share, vigour);
    }
    std::array::from_fn(|class| by_class[class] > 0.0 && stay[class] >= keep * by_class[class])
}
