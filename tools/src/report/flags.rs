//! Labelled marks above a plot, spread over lanes so that no label touches another.

use std::cmp::Ordering;

use super::svg::{Anchor, At, Drawing, PathData, text_width};

const SIZE: f64 = 11.0;
const LANE: f64 = 17.0;
const GAP: f64 = 10.0;

/// What a mark stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagKind {
    /// A deadline or predicted bound: a dashed line through the plot.
    Bound,
    /// A value published elsewhere: a diamond, with a faint line.
    Paper,
}

/// A label with a position on the time axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    /// Horizontal position.
    pub x: f64,
    label: String,
    kind: FlagKind,
    lane: usize,
    anchor: Anchor,
}

impl Flag {
    /// A flag not yet assigned to a lane.
    pub fn new(x: f64, label: String, kind: FlagKind) -> Self {
        Self {
            x,
            label,
            kind,
            lane: 0,
            anchor: Anchor::Start,
        }
    }

    fn extent(&self) -> (f64, f64) {
        let width = text_width(&self.label, SIZE) + 8.0;
        match self.anchor {
            Anchor::End => (self.x - width, self.x + 5.0),
            _ => (self.x - 5.0, self.x + width),
        }
    }
}

/// Flags whose side is chosen freely; further ones stand wherever they fit on the paper.
const CHOSEN: usize = 8;

/// Gives each flag a lane and a side so that no label touches another or the line of one above it, and returns the
/// number of lanes.
///
/// There are few flags, so every choice of sides is tried; the fewest collisions win, then the fewest lanes.
pub fn lanes_needed(flags: &mut [Flag], paper: (f64, f64)) -> usize {
    flags.sort_by(|a, b| b.x.total_cmp(&a.x));
    let choices = 1u32 << flags.len().min(CHOSEN);
    let tried = (0..choices).flat_map(|sides| [(sides, true), (sides, false)]);
    let best = tried
        .map(|(sides, from_right)| placed(flags, (sides, from_right), paper))
        .min_by_key(|(cost, _)| *cost);
    if let Some((_, best)) = best {
        flags.clone_from_slice(&best);
    }
    flags.iter().map(|flag| flag.lane + 1).max().unwrap_or(0)
}

/// The flags on the lowest free lanes, taken from the right or from the left; bit i of `sides` sets the label of flag i
/// to the left. The cost is (collisions and labels off the paper, lanes, labels to the left).
fn placed(
    flags: &[Flag],
    (sides, from_right): (u32, bool),
    (left, right): (f64, f64),
) -> ((usize, usize, u32), Vec<Flag>) {
    let mut result = flags.to_vec();
    let mut order: Vec<usize> = (0..flags.len()).collect();
    if !from_right {
        order.reverse();
    }
    let mut faults = 0;
    for (turn, &index) in order.iter().enumerate() {
        let mut flag = result[index].clone();
        let to_left = index < CHOSEN && sides >> index & 1 == 1;
        flag.anchor = if to_left { Anchor::End } else { Anchor::Start };
        let (from, to) = flag.extent();
        faults += usize::from(from < left - 8.0 || to > right + 12.0);
        let is_free = |lane: &usize| {
            order[..turn]
                .iter()
                .all(|&other| !collide(&flag, *lane, &result[other]))
        };
        let lane = (0..=turn).find(is_free);
        faults += usize::from(lane.is_none());
        flag.lane = lane.unwrap_or(turn);
        result[index] = flag;
    }
    let lanes = result.iter().map(|flag| flag.lane).max().unwrap_or(0);
    ((faults, lanes, sides.count_ones()), result)
}

fn collide(flag: &Flag, lane: usize, other: &Flag) -> bool {
    let ((from, to), (other_from, other_to)) = (flag.extent(), other.extent());
    match other.lane.cmp(&lane) {
        Ordering::Equal => from < other_to + GAP && other_from < to + GAP,
        // The line of the upper flag passes the lower one's label.
        Ordering::Greater => other.x > from - 3.0 && other.x < to + 3.0,
        Ordering::Less => flag.x > other_from - 3.0 && flag.x < other_to + 3.0,
    }
}

/// Draws the flags above `top` and their lines down to `bottom`.
pub fn draw_flags(drawing: &mut Drawing, flags: &[Flag], (top, bottom): (f64, f64)) {
    for flag in flags {
        let y = top - 8.0 - LANE * flag.lane as f64;
        let (class, start) = match flag.kind {
            FlagKind::Bound => ("bound", y - 9.0),
            FlagKind::Paper => ("lead", y),
        };
        drawing.line(class, At(flag.x, start), At(flag.x, bottom));
        if flag.kind == FlagKind::Paper {
            drawing.path("diamond", &diamond(At(flag.x, y - 3.5), 4.0));
        }
        let shift = if flag.anchor == Anchor::End {
            -8.0
        } else {
            8.0
        };
        drawing.text("small", At(flag.x + shift, y), (flag.anchor, &flag.label));
    }
}

fn diamond(centre: At, radius: f64) -> PathData {
    let At(x, y) = centre;
    let mut path = PathData::default();
    path.move_to(At(x - radius, y))
        .line_to(At(x, y - radius))
        .line_to(At(x + radius, y))
        .line_to(At(x, y + radius))
        .close();
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flag(x: f64, label: &str) -> Flag {
        Flag::new(x, label.to_owned(), FlagKind::Bound)
    }

    #[test]
    fn a_line_avoids_the_label_of_its_right_neighbour_at_the_edge() {
        let mut flags = [
            flag(540.0, "deadline 150 ms"),
            flag(635.0, "paper 3: max about 180 ms"),
        ];
        lanes_needed(&mut flags, (60.0, 736.0));
        assert!(!collide(&flags[0], flags[0].lane, &flags[1]), "{flags:?}");
    }

    proptest! {
        #[test]
        fn no_two_labels_of_a_lane_overlap(xs in prop::collection::vec(60.0f64..736.0, 0..8)) {
            let mut flags: Vec<_> = xs.iter().map(|x| flag(*x, "deadline 150 ms")).collect();
            let lanes = lanes_needed(&mut flags, (60.0, 736.0));
            prop_assert!(lanes <= xs.len());
            for (i, a) in flags.iter().enumerate() {
                for b in flags[..i].iter().filter(|b| b.lane == a.lane) {
                    prop_assert!(a.extent().1 <= b.extent().0 || b.extent().1 <= a.extent().0);
                }
            }
        }
    }
}
