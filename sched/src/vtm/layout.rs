//! Who gets which slot of a hyperperiod.
//!
//! Placing as late as possible is placing as soon as possible in reversed time: all periods begin together, so the
//! periods of a reversed hyperperiod are the same ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::request::Task;
use super::table::{Placement, Policy};

/// The VTM of each slot, by index.
pub(super) type Owners = Vec<Option<usize>>;

/// A VTM that found no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Miss {
    pub(super) vtm: usize,
    /// The slot in which its period begins.
    pub(super) begin: usize,
    /// How many slots it lacks there.
    pub(super) lacking: usize,
    /// Whether it is the one that its maximum delay asks for.
    pub(super) delayed: bool,
}

/// What a table is made from.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    pub(super) policy: Policy,
    pub(super) placement: Placement,
    pub(super) tasks: &'a [Task],
    /// The VTMs by falling priority.
    pub(super) order: &'a [usize],
    /// The length of the hyperperiod.
    pub(super) slots: usize,
}

impl Layout<'_> {
    /// The table, and the placement it has.
    pub(super) fn fill(&self) -> Result<(Owners, Placement), Miss> {
        if self.placement == Placement::HighestAsSoonOthersAsLate
            && let Ok(owners) = self.others_late()
        {
            return Ok((owners, self.placement));
        }
        Ok((self.all_soon()?, Placement::AllAsSoon))
    }

    /// The table that [`Layout::fill`] would make, from one with the same order, hyperperiod and placement in which only
    /// the VTMs from `first` to `last` of the order were different.
    pub(super) fn refill(&self, old: &Owners, first: usize, last: usize) -> Option<Owners> {
        if self.policy != Policy::RateMonotonic {
            return None;
        }
        let late = self.placement == Placement::HighestAsSoonOthersAsLate;
        let mut rank = vec![0; self.order.len()];
        for (at, &vtm) in self.order.iter().enumerate() {
            rank[vtm] = at;
        }
        let kept = old
            .iter()
            .map(|owner| owner.filter(|&vtm| rank[vtm] < first));
        let mut row = Row::new(kept.collect());
        let mut old = old.clone();
        let mut next = first;
        if late {
            if first == 0 {
                self.place(&mut row, self.order[0], false).ok()?;
                next = 1;
            }
            row = row.reversed();
            old.reverse();
        }
        for &vtm in self.order.get(next..=last).unwrap_or_default() {
            self.place(&mut row, vtm, late).ok()?;
        }
        let upper = |owner: &Option<usize>| owner.is_some_and(|vtm| rank[vtm] <= last);
        let mut both = row.owners.iter().zip(&old);
        if both.all(|(new, old)| new.is_some() == upper(old)) {
            // The lower ones find the same slots free as before.
            let both = row.owners.iter().zip(&old);
            row.owners = both.map(|(new, old)| new.or(*old)).collect();
        } else {
            for &vtm in &self.order[last + 1..] {
                self.place(&mut row, vtm, late).ok()?;
            }
        }
        if late {
            row.owners.reverse();
        }
        Some(row.owners)
    }

    fn all_soon(&self) -> Result<Owners, Miss> {
        let mut row = Row::new(vec![None; self.slots]);
        self.place_all(&mut row, self.order, false)?;
        Ok(row.owners)
    }

    fn others_late(&self) -> Result<Owners, Miss> {
        let mut row = Row::new(vec![None; self.slots]);
        let (highest, others) = self.order.split_at(self.order.len().min(1));
        self.place_all(&mut row, highest, false)?;
        let mut row = row.reversed();
        self.place_all(&mut row, others, true)?;
        row.owners.reverse();
        Ok(row.owners)
    }

    fn place_all(&self, row: &mut Row, vtms: &[usize], reversed: bool) -> Result<(), Miss> {
        match self.policy {
            Policy::RateMonotonic => vtms
                .iter()
                .try_for_each(|&vtm| self.place(row, vtm, reversed)),
            Policy::EarliestDeadlineFirst => {
                let pieces = vtms.iter().flat_map(|&vtm| self.pieces(vtm, reversed));
                earliest_deadline_first(&mut row.owners, &pieces.collect::<Vec<_>>())
            }
        }
    }

    /// Gives one VTM the first free slots of each of its periods.
    fn place(&self, row: &mut Row, vtm: usize, reversed: bool) -> Result<(), Miss> {
        for begin in (0..self.slots).step_by(self.tasks[vtm].period) {
            for piece in self.pieces(vtm, reversed) {
                row.take(begin, &piece)?;
            }
        }
        Ok(())
    }

    /// A job of a VTM: the slot that has to come within its delay, and the others.
    fn pieces(&self, vtm: usize, reversed: bool) -> impl Iterator<Item = Piece> {
        let task = self.tasks[vtm];
        let period = task.period;
        let timely = task.timely_start().map(|latest| {
            let room = if reversed {
                (period - latest - 1, period)
            } else {
                (0, latest + 1)
            };
            (room, 1, true)
        });
        let rest = task.execution - usize::from(timely.is_some());
        let pieces = timely.into_iter().chain([((0, period), rest, false)]);
        let pieces = pieces.filter(|&(_, slots, _)| slots > 0);
        pieces.map(move |((release, deadline), slots, delayed)| Piece {
            vtm,
            release,
            deadline,
            period,
            slots,
            delayed,
        })
    }
}

/// Slots that a VTM needs between two instants of each of its periods.
#[derive(Clone, Copy)]
struct Piece {
    vtm: usize,
    release: usize,
    deadline: usize,
    period: usize,
    slots: usize,
    delayed: bool,
}

impl Piece {
    fn miss(&self, begin: usize, lacking: usize) -> Miss {
        Miss {
            vtm: self.vtm,
            begin,
            lacking,
            delayed: self.delayed,
        }
    }
}

/// Serves the pieces by their deadlines in the slots that are free, which is optimal for pieces of one slot each: if
/// this fails there is no table (Jackson's rule; Horn, Some simple scheduling algorithms, 1974).
fn earliest_deadline_first(owners: &mut Owners, pieces: &[Piece]) -> Result<(), Miss> {
    let releases = pieces.iter().enumerate();
    let mut releases: BinaryHeap<_> = releases
        .map(|(index, piece)| Reverse((piece.release, index)))
        .collect();
    // By deadline, and by the priorities' order where it is the same.
    let mut ready = BinaryHeap::new();
    let mut lacking = vec![0; pieces.len()];
    for slot in 0..=owners.len() {
        if let Some(&Reverse((deadline, index))) = ready.peek()
            && deadline <= slot
        {
            let piece: &Piece = &pieces[index];
            return Err(piece.miss(deadline - piece.deadline, lacking[index]));
        }
        while let Some(&Reverse((at, index))) = releases.peek()
            && at <= slot
        {
            let piece = &pieces[index];
            releases.pop();
            releases.push(Reverse((at + piece.period, index)));
            ready.push(Reverse((at - piece.release + piece.deadline, index)));
            lacking[index] = piece.slots;
        }
        let free = owners.get(slot).is_some_and(Option::is_none);
        let Some(&Reverse((_, index))) = ready.peek().filter(|_| free) else {
            continue;
        };
        owners[slot] = Some(pieces[index].vtm);
        lacking[index] -= 1;
        if lacking[index] == 0 {
            ready.pop();
        }
    }
    Ok(())
}

/// A hyperperiod that is being filled.
struct Row {
    owners: Owners,
    /// For each slot one from which to look for the next free one: itself if it is free.
    next: Vec<usize>,
}

impl Row {
    fn new(owners: Owners) -> Self {
        let mut next: Vec<usize> = (0..=owners.len()).collect();
        for slot in (0..owners.len()).rev() {
            if owners[slot].is_some() {
                next[slot] = next[slot + 1];
            }
        }
        Self { owners, next }
    }

    fn reversed(mut self) -> Self {
        self.owners.reverse();
        Self::new(self.owners)
    }

    /// Gives a piece of a job its slots.
    fn take(&mut self, begin: usize, piece: &Piece) -> Result<(), Miss> {
        for taken in 0..piece.slots {
            let slot = self.free_from(begin + piece.release);
            if slot >= begin + piece.deadline {
                return Err(piece.miss(begin, piece.slots - taken));
            }
            self.owners[slot] = Some(piece.vtm);
            self.next[slot] = slot + 1;
        }
        Ok(())
    }

    /// The first free slot from `slot` on; the end where there is none.
    fn free_from(&mut self, mut slot: usize) -> usize {
        while self.next[slot] != slot {
            // Halve the way for the next one who looks.
            self.next[slot] = self.next[self.next[slot]];
            slot = self.next[slot];
        }
        slot
    }
}
