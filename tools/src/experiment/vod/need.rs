//! What a stream needs of the CPU, and what the VTMs are therefore given: C = U * T / 100 for each stream, in whole slots.

use std::time::Duration;

use sched::reservation::Reservation;

use super::course::Course;
use super::ffmpeg::Size;
use super::listening::{Clock, Listener, Place};
use super::network::{Network, open_inside};
use super::quality::Pair;
use super::vtms::{FRAME, SLOT, Vtms};
use super::{streams, vtms};
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
const LEAST: Duration = Duration::from_micros(5_300);
const MOST: Duration = Duration::from_micros(5_720);
/// How often a size is tried.
const TRIES: u32 = 5;
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

/// Finds the size of pictures with which a stream needs about what the paper's need, alone on the CPU and in a VTM.
pub fn find(
    (stage, network): (&Stage, &Network),
    length: Duration,
    progress: &Progress,
) -> Result<Need, ExperimentError> {
    let mut size = Size::FIRST;
    let mut best: Option<Need> = None;
    for _ in 0..TRIES {
        let frame = measure(size, (stage, network), (length, progress))?;
        let need = Need { size, frame };
        let apart = |need: &Need| need.frame.abs_diff(PAPER);
        if best.is_none_or(|best| apart(&need) < apart(&best)) {
            best = Some(need);
        }
        if (LEAST..=MOST).contains(&frame) {
            break;
        }
        size = size.scaled(PAPER.as_secs_f64() / frame.as_secs_f64().max(1e-4));
    }
    best.ok_or(ExperimentError::NotInForce { patience: length })
}

/// What a stream of this size needs for a frame.
fn measure(
    size: Size,
    at: (&Stage, &Network),
    (length, progress): (Duration, &Progress),
) -> Result<Duration, ExperimentError> {
    let (stage, network) = at;
    let clock = Clock::start();
    let place = open_inside(&network.source, Place::departure)?;
    let departures = Listener::start(place, 1, clock)?;
    let cpu = Pair {
        gold: Reservation::new(FRAME - SLOT, FRAME)?,
        best_effort: Reservation::new(SLOT, BEST_EFFORT_PERIOD)?,
    };
    let mut vtms = vtms::Vtms::new(stage, cpu, 1)?;
    let tick = || progress.tick();
    let mut part = streams::start(0, size, at)?;
    streams::wait(0, &mut part, &departures, &tick)?;
    let job = streams::admit(&part, &mut vtms)?;
    interrupt::sleep(SETTLING, tick)?;
    let used = |vtms: &Vtms| vtms.cpu_time(&job).unwrap_or_default();
    let before = (used(&vtms), clock.now());
    interrupt::sleep(length, tick)?;
    let after = (used(&vtms), clock.now());
    drop(vtms);
    drop(part);
    let sent = departures.all().into_iter().next().unwrap_or_default();
    // Seen at one end only, which is where frames are counted.
    let frames = Course::new(&sent, &sent)
        .frames(&(before.1..after.1))
        .count();
    let frames = u32::try_from(frames + 1).unwrap_or(u32::MAX);
    Ok(after.0.saturating_sub(before.0) / frames)
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
