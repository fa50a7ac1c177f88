//! After every round: another one, switch over, or never.
//!
//! Another round is worth it while it is expected to shorten the downtime by a twentieth. Three ways of sending are tried in turn: only pages
//! that will rather stay clean than not, so that few are sent in vain; those whose chance to stay clean is above what their slot
//! costs all others; everything. When none helps, the dirty set has reached what the path and the guest's writes make of it.

use std::time::Duration;

use super::class::{CLASSES, Class};
use super::distribution::{duration, normal_quantile, whole};
use super::order::worth_sending;
use super::path::{Pace, Path, PathError, Requirement};
use super::rounds::{Cell, Dirty, Round, cells, idle, round};
use super::writes::Writes;

/// Why a migration cannot keep what is asked of it, and what would do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WhyNot {
    /// Rounds do not get shorter any more.
    #[error(
        "the guest dirties {dirtied} pages/s and the path carries {sent} pages/s: the downtime stays at {downtime:?} instead of {asked:?}; \
         allow {downtime:?}, or reserve a faster path"
    )]
    WritesTooFast {
        /// Pages that become dirty per second in the last round.
        dirtied: u64,
        /// Pages that the path sends per second.
        sent: u64,
        /// Downtime that can be had, at the confidence asked for.
        downtime: Duration,
        /// Downtime asked for.
        asked: Duration,
    },
    /// The fixed part of the downtime is too long already.
    #[error(
        "pause, state and switch-over alone take {takes:?} of the downtime of {asked:?}; allow more than {takes:?}"
    )]
    SwitchOverAlone {
        /// Fixed part of the downtime, at the confidence asked for.
        takes: Duration,
        /// Downtime asked for.
        asked: Duration,
    },
    /// There is no time for the round that would be needed.
    #[error(
        "the next round would make it end after {until:?} instead of {finish:?}; allow {until:?}, or reserve a faster path"
    )]
    Late {
        /// When it would end.
        until: Duration,
        /// When it has to end.
        finish: Duration,
    },
    /// It may go well, but too seldom.
    #[error(
        "both limits are kept with a probability of {kept:.3} instead of {confidence}; at that confidence the downtime is {downtime:?} \
         and the total {total:?}"
    )]
    TooSeldom {
        /// Share of all outcomes that keep both.
        kept: f64,
        /// Share asked for.
        confidence: f64,
        /// Downtime that is kept at the confidence asked for.
        downtime: Duration,
        /// Total time that is kept at the confidence asked for.
        total: Duration,
    },
}

/// A time for people, in whole microseconds, not shorter.
fn rounded(seconds: f64) -> Duration {
    // Rounding errors of the computation are no microsecond.
    Duration::from_micros(whole((seconds * 1e6 - 0.01).ceil()))
}

/// What to do next.
#[derive(Debug, Clone)]
#[must_use]
pub enum Decision {
    /// Another round.
    Another(RoundPlan),
    /// Pause the guest; the promise is kept.
    Switch {
        /// Downtime expected.
        downtime: Duration,
    },
    /// The promise cannot be kept, and another round would not change that.
    Never(WhyNot),
}

/// The next round.
#[derive(Debug, Clone)]
pub struct RoundPlan {
    /// Classes whose dirty pages are sent, in this order.
    pub send: Vec<Class>,
    /// Classes whose dirty pages wait for a later round.
    pub leave: Vec<Class>,
    /// Time expected for it.
    pub duration: Duration,
    /// Pages that it sends.
    pub pages: u64,
    /// Pages expected to be dirty afterwards, those that wait among them.
    pub dirty_after: u64,
    /// Downtime expected when switching over afterwards.
    pub downtime_after: Duration,
    expected: Round,
}

/// Rounds after which no further one is tried.
const MOST_ROUNDS: u32 = 40;
/// Rounds in a row that may leave no fewer pages than any before.
const MOST_FRUITLESS: u32 = 3;
/// A round has to shorten the downtime by this share.
const WORTH: f64 = 0.05;
/// Chance to stay clean from which on a page is rather sent than left.
const RATHER_CLEAN: f64 = 0.5;

/// Decides about one migration.
#[derive(Debug, Clone)]
pub(crate) struct Chooser<'a> {
    pub(crate) cells: &'a [Cell],
    pub(crate) pace: &'a Pace,
    pub(crate) path: &'a Path,
    pub(crate) requirement: &'a Requirement,
    /// How much more often pages are written than the cells say.
    pub(crate) vigour: f64,
}

/// Where a migration stands.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) dirty: Dirty,
    /// Seconds since its first byte.
    pub(crate) elapsed: f64,
    pub(crate) rounds: u32,
    /// Seconds of the last round; 0 before the first.
    pub(crate) last: f64,
    /// Fewest dirty pages that any round left.
    fewest: f64,
    /// Rounds since one last left clearly fewer.
    fruitless: u32,
}

impl Stand {
    pub(crate) fn start(cells: &[Cell], path: &Path) -> Self {
        Self {
            dirty: Dirty::everything(cells, path.zero_pages),
            elapsed: 0.0,
            rounds: 0,
            last: 0.0,
            fewest: f64::INFINITY,
            fruitless: 0,
        }
    }

    /// A round was done.
    pub(crate) fn after(&mut self, seconds: f64, dirty: Dirty) {
        let left = dirty.total();
        self.fruitless += 1;
        if left <= (1.0 - WORTH) * self.fewest {
            self.fruitless = 0;
        }
        self.fewest = self.fewest.min(left);
        self.dirty = dirty;
        self.rounds += 1;
        self.last = seconds;
    }

    /// Whether further rounds may help: their number is bounded, and so is that of rounds that were expected to help and did not.
    fn goes_on(&self) -> bool {
        self.rounds < MOST_ROUNDS && self.fruitless < MOST_FRUITLESS
    }
}

/// What was decided.
pub(crate) enum Choice {
    Another([bool; CLASSES], Round),
    Switch,
    Never(WhyNot),
}

impl Chooser<'_> {
    /// Seconds for the pages that are dirty when the guest has been paused.
    pub(crate) fn last_pages(&self, dirty: &Dirty) -> f64 {
        let mut dirty = dirty.clone();
        idle(self.cells, &mut dirty, self.pace.delay, self.vigour);
        dirty.whole_load(self.cells, self.pace).seconds
    }

    fn switch_over(&self, confidence: f64) -> f64 {
        self.path.switch_over.at(normal_quantile(confidence))
    }

    /// Median of the downtime when switching over now.
    fn downtime(&self, dirty: &Dirty) -> f64 {
        self.last_pages(dirty) + self.switch_over(0.5)
    }

    /// The downtime that is kept at the confidence asked for when switching over now.
    fn bound(&self, dirty: &Dirty) -> f64 {
        self.last_pages(dirty) + self.switch_over(self.requirement.confidence)
    }

    pub(crate) fn choose(&self, stand: &Stand) -> Choice {
        let now = self.downtime(&stand.dirty);
        let finish = self.requirement.finish.as_secs_f64();
        let mut late = None;
        for keep in self.ways(stand) {
            let send = worth_sending(self.cells, &stand.dirty, keep, self.pace, self.vigour);
            if !stand.goes_on() || !send.contains(&true) {
                continue;
            }
            let next = round(self.cells, &stand.dirty, &send, self.pace, self.vigour);
            if self.downtime(&next.dirty) >= (1.0 - WORTH) * now {
                continue;
            }
            let until = stand.elapsed + next.seconds + self.pace.delay + self.bound(&next.dirty);
            if until <= finish {
                return Choice::Another(send, next);
            }
            late.get_or_insert(until);
        }
        let bound = self.bound(&stand.dirty);
        let until = stand.elapsed + self.pace.delay + bound;
        if bound <= self.requirement.downtime.as_secs_f64() && until <= finish {
            return Choice::Switch;
        }
        Choice::Never(self.why_not(stand, late.or((until > finish).then_some(until))))
    }

    /// Least chances to stay clean of the pages that a round sends, in the order in which they are tried.
    fn ways(&self, stand: &Stand) -> [f64; 3] {
        let next = stand.dirty.whole_load(self.cells, self.pace).seconds;
        // What one more slot costs the others: pages dirtied in it.
        let shrinks = if stand.last > 0.0 {
            next / stand.last
        } else {
            0.1
        };
        [RATHER_CLEAN, shrinks.clamp(0.02, RATHER_CLEAN), 0.0]
    }

    fn why_not(&self, stand: &Stand, late: Option<f64>) -> WhyNot {
        let asked = self.requirement.downtime;
        let fixed = self.switch_over(self.requirement.confidence);
        if fixed > asked.as_secs_f64() {
            return WhyNot::SwitchOverAlone {
                takes: rounded(fixed),
                asked,
            };
        }
        if let Some(until) = late {
            return WhyNot::Late {
                until: rounded(until),
                finish: self.requirement.finish,
            };
        }
        let all = [true; CLASSES];
        let next = round(self.cells, &stand.dirty, &all, self.pace, self.vigour);
        WhyNot::WritesTooFast {
            dirtied: whole(next.faults / next.seconds),
            sent: whole(1.0 / self.pace.again.seconds),
            downtime: rounded(self.bound(&stand.dirty)),
            asked,
        }
    }
}

/// The rounds of a migration that really happens: what to send next, given what each round left.
#[derive(Debug, Clone)]
pub struct Precopy {
    cells: Vec<Cell>,
    path: Path,
    requirement: Requirement,
    stand: Stand,
    /// Activity of the guest against what was estimated, as the rounds have shown it.
    vigour: f64,
    /// Speed of the path against what was reserved, as the rounds have shown it.
    speed: f64,
}

impl Precopy {
    /// Before the first round: all pages are to be sent.
    ///
    /// # Errors
    /// When the path's parameters make no sense.
    pub fn new(writes: &Writes, path: &Path, requirement: Requirement) -> Result<Self, PathError> {
        path.check()?;
        let cells = cells(writes);
        let stand = Stand::start(&cells, path);
        Ok(Self {
            cells,
            path: path.clone(),
            requirement,
            stand,
            vigour: 1.0,
            speed: 1.0,
        })
    }

    /// What to do next, `elapsed` after the first byte.
    pub fn decide(&self, elapsed: Duration) -> Decision {
        let pace = self.path.pace(self.speed);
        let chooser = self.chooser(&pace);
        let stand = Stand {
            elapsed: elapsed.as_secs_f64(),
            ..self.stand.clone()
        };
        match chooser.choose(&stand) {
            Choice::Another(send, expected) => {
                Decision::Another(self.plan(&chooser, &send, expected))
            }
            Choice::Switch => Decision::Switch {
                downtime: duration(chooser.downtime(&stand.dirty)),
            },
            Choice::Never(why) => Decision::Never(why),
        }
    }

    fn chooser<'a>(&'a self, pace: &'a Pace) -> Chooser<'a> {
        Chooser {
            cells: &self.cells,
            pace,
            path: &self.path,
            requirement: &self.requirement,
            vigour: self.vigour,
        }
    }

    fn plan(&self, chooser: &Chooser, send: &[bool; CLASSES], expected: Round) -> RoundPlan {
        let by_class = self.stand.dirty.by_class(&self.cells);
        let dirty = Class::all().filter(|class| by_class[class.index()] > 0.0);
        let (send, leave) = dirty.partition(|class| send[class.index()]);
        RoundPlan {
            send,
            leave,
            duration: duration(expected.seconds),
            pages: whole(expected.sent),
            dirty_after: whole(expected.dirty.total()),
            downtime_after: duration(chooser.downtime(&expected.dirty)),
            expected,
        }
    }

    /// A round was done as planned, took `took`, and left so many dirty pages per class (`Writes::count`).
    pub fn done(&mut self, plan: &RoundPlan, took: Duration, dirty: &[u64; CLASSES]) {
        let expected = &plan.expected;
        let left = plan.expected.dirty.total();
        let found: u64 = dirty.iter().sum();
        // Few pages say little; the dirty set grows less than proportionally, so that half the step does not overshoot.
        let ratio = (found as f64 + 8.0) / (left + 8.0);
        self.vigour = (self.vigour * ratio.sqrt()).clamp(0.05, 20.0);
        // Short rounds are mostly fixed costs.
        if expected.seconds > 4.0 * self.path.round_cost.as_secs_f64() && !took.is_zero() {
            let faster = expected.seconds / took.as_secs_f64();
            self.speed = (self.speed * faster).clamp(0.05, 20.0);
        }
        let mut left = expected.dirty.clone();
        fill(&self.cells, &mut left, dirty);
        self.stand.after(took.as_secs_f64(), left);
    }

    /// Rounds done.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.stand.rounds
    }
}

/// Makes the dirty pages per class what was found, divided among the class's cells as was expected.
fn fill(cells: &[Cell], dirty: &mut Dirty, found: &[u64; CLASSES]) {
    let expected = dirty.by_class(cells);
    let mut likely = [0.0; CLASSES];
    for cell in cells {
        likely[cell.class.index()] += cell.pages * (cell.rate + 1e-9);
    }
    for (cell, pages) in cells.iter().zip(&mut dirty.pages) {
        let class = cell.class.index();
        let found = found[class] as f64;
        *pages = if expected[class] > 0.0 {
            *pages * found / expected[class]
        } else {
            found * cell.pages * (cell.rate + 1e-9) / likely[class]
        };
    }
}
