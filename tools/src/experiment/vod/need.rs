//! What a stream needs of the CPU, and what the VTMs are therefore given: C = U * T / 100 for each stream, in whole slots.

use std::time::Duration;

use sched::reservation::Reservation;

use super::course::Course;
use super::ffmpeg::Size;
use super::listening::{Clock, Listener, Place};
use super::network::{EAST, Network};
use super::quality::Pair;
use super::streams::{Processes, Senders};
use super::vtms::{FRAME, SLOT, Vtms};
use crate::experiment::namespaces::open_inside;
use crate::experiment::progress::Progress;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};

/// What a stream needs in the paper: 14.19 % of the CPU, in every 40 ms.
pub const PAPER: Duration = Duration::from_micros(5_680);
/// Streams at first.
pub const FIRST_STREAMS: u16 = 4;
/// Streams in the end.
pub const STREAMS: u16 = FIRST_STREAMS + 1;
/// The need with which four streams fit into the slots that the paper gives them, and five do not, as in the paper.
const LEAST: Duration = Duration::from_micros(5_150);
const MOST: Duration = Duration::from_micros(5_650);
/// What is searched for: between what four and five streams would have to need, so that neither is left to chance where the
/// need changes with what else the machine does.
const WANTED: Duration = Duration::from_micros(5_400);
/// The period of best effort.
const BEST_EFFORT_PERIOD: Duration = Duration::from_millis(80);
/// Until a stream that was started runs evenly.
const SETTLING: Duration = Duration::from_millis(400);

/// What a stream of a certain size needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The size of its pictures.
    pub size: Size,
    /// CPU time for a frame.
    pub frame: Duration,
}

impl Need {
    /// The share of the CPU, U.
    pub fn share(self) -> f64 {
        self.frame.as_secs_f64() / FRAME.as_secs_f64()
    }

    /// The size with which it should be what is wanted, if it is not.
    pub fn corrected(self) -> Self {
        if (LEAST..=MOST).contains(&self.frame) {
            return self;
        }
        let factor = WANTED.as_secs_f64() / self.frame.as_secs_f64().max(1e-4);
        Self {
            size: self.size.scaled(factor),
            frame: WANTED,
        }
    }

    /// What gold needs for so many streams in every 40 ms: whole slots.
    pub fn of(self, streams: u16) -> Duration {
        let slots = (self.frame * u32::from(streams))
            .as_nanos()
            .div_ceil(SLOT.as_nanos());
        SLOT * u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// Gold's budget for the first streams, and that for one more. The second is never less than a slot more: there would
    /// be nothing to adapt.
    pub fn budgets(self) -> (Duration, Duration) {
        let first = self.of(FIRST_STREAMS).min(FRAME - SLOT * 2);
        (first, self.of(STREAMS).max(first + SLOT).min(FRAME - SLOT))
    }

    /// What the VTMs have at first: gold what its streams need, best effort so much that the CPU is nearly full, but for what
    /// real-time throttling keeps (90 % in all, as 8 ms slots have it).
    pub fn cpu(self) -> Result<Pair, ExperimentError> {
        let (gold, _) = self.budgets();
        let rest = (FRAME - SLOT / 2).saturating_sub(gold) * 2;
        Ok(Pair {
            gold: Reservation::new(gold, FRAME)?,
            best_effort: Reservation::new(rest, BEST_EFFORT_PERIOD)?,
        })
    }
}

/// Finds the size of pictures with which a stream needs about what the paper's need.
pub fn find(
    (stage, network): (&Stage, &Network),
    (length, tries): (Duration, u32),
    progress: &Progress,
) -> Result<Need, ExperimentError> {
    let mut size = Size::FIRST;
    let mut best: Option<Need> = None;
    for _ in 0..tries {
        let frame = measure(size, (stage, network), (length, progress))?;
        let need = Need { size, frame };
        let apart = |need: &Need| need.frame.abs_diff(WANTED);
        if best.is_none_or(|best| apart(&need) < apart(&best)) {
            best = Some(need);
        }
        if (LEAST..=MOST).contains(&frame) {
            break;
        }
        size = need.corrected().size;
    }
    best.ok_or(ExperimentError::NotInForce { patience: length })
}

/// What a stream of this size needs for a frame, beside three others: what is in caches differs from a stream's that is alone.
fn measure(
    size: Size,
    at: (&Stage, &Network),
    (length, progress): (Duration, &Progress),
) -> Result<Duration, ExperimentError> {
    let (stage, network) = at;
    let clock = Clock::start();
    let place = open_inside(&network.source, || Place::departure(EAST))?;
    let departures = Listener::start(place, FIRST_STREAMS, clock)?;
    let cpu = Pair {
        gold: Reservation::new(FRAME - SLOT, FRAME)?,
        best_effort: Reservation::new(SLOT, BEST_EFFORT_PERIOD)?,
    };
    let mut senders = Processes::new(Vtms::new(stage, cpu, FIRST_STREAMS)?, size, at);
    let tick = || progress.tick();
    for number in 0..FIRST_STREAMS {
        senders.start(number)?;
    }
    for number in 0..FIRST_STREAMS {
        senders.begin(number, (&departures, &tick))?;
    }
    interrupt::sleep(SETTLING, tick)?;
    let before = (senders.used(), clock.now());
    interrupt::sleep(length, tick)?;
    let after = (senders.used(), clock.now());
    drop(senders);
    let courses = departures.all();
    let courses = courses.iter().map(|sent| Course::new(sent, &[]));
    let window = before.1..after.1;
    let frames = courses.map(|course| course.frames_sent(&window)).sum();
    Ok(for_each(after.0.saturating_sub(before.0), frames))
}

/// CPU time for each frame.
pub fn for_each(time: Duration, frames: usize) -> Duration {
    time / u32::try_from(frames.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_need_gives_the_papers_reservations() {
        let need = Need {
            size: Size::FIRST,
            frame: PAPER,
        };
        let ms = Duration::from_millis;
        assert_eq!(need.budgets(), (ms(24), ms(32)));
        let cpu = need.cpu().unwrap();
        assert_eq!((cpu.gold.runtime(), cpu.gold.period()), (ms(24), ms(40)));
        assert_eq!(
            (cpu.best_effort.runtime(), cpu.best_effort.period()),
            (ms(24), ms(80))
        );
        assert!((need.share() - 0.142).abs() < 1e-3);
    }

    #[test]
    fn any_need_leaves_a_slot_to_move_and_one_to_best_effort() {
        for micros in (100..40_000).step_by(100) {
            let need = Need {
                size: Size::FIRST,
                frame: Duration::from_micros(micros),
            };
            let (first, second) = need.budgets();
            assert!(first < second && second <= FRAME - SLOT, "{micros}");
            let cpu = need.cpu().unwrap();
            let left = cpu
                .best_effort
                .runtime()
                .saturating_sub((second - first) * 2);
            assert!(left >= SLOT, "{micros}: {left:?}");
        }
    }
}
