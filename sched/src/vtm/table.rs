//! The dispatch table: which VTM has the CPU in which slot, for a hyperperiod that repeats.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layout::{Layout, Miss, Owners};
use super::request::{Quantity, Task, Vtm, gcd, times};
use crate::bisection::last_that_holds;
use crate::reservation::human;

/// The longest hyperperiod in slots.
pub const MOST_SLOTS: usize = 100_000;

/// By what VTMs come before one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Shorter periods first (Liu and Layland 1973); in the order given where they are the same.
    #[default]
    RateMonotonic,
    /// In every slot the nearest deadline first. It finds a table wherever there is one.
    EarliestDeadlineFirst,
}

/// Where in their periods VTMs are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The one with the shortest period as soon as possible, all others as late as their deadlines allow (Duran-Limon et
    /// al., Table 3). Where the others do not fit like that they are placed as soon as possible.
    #[default]
    HighestAsSoonOthersAsLate,
    /// All as soon as possible.
    AllAsSoon,
}

/// Why there is no such table. Nothing was changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TableError {
    /// No VTM.
    #[error("there is no VTM to make a table for: give one")]
    NoVtm,
    /// A slot of no length.
    #[error("the slot length is zero: use one that divides every period, for example 10 ms")]
    ZeroSlot,
    /// Two VTMs of one name.
    #[error("two VTMs are called '{vtm}': rename one of them")]
    NameTaken {
        /// The name.
        vtm: String,
    },
    /// No VTM of this name.
    #[error("no VTM is called '{vtm}': use one of {}", .known.join(", "))]
    Unknown {
        /// The name.
        vtm: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// A period or execution time of zero.
    #[error("the {quantity} of '{vtm}' is zero: use {} or a multiple of it", human(*.slot))]
    Zero {
        /// The VTM.
        vtm: String,
        /// Which quantity.
        quantity: Quantity,
        /// The least that would do.
        slot: Duration,
    },
    /// A period or execution time that ends within a slot.
    #[error("the {quantity} of '{vtm}', {}, is not a multiple of the slot of {}: use {}, or a slot of {}",
        human(*.value), human(*.slot), human(*.above), human(*.dividing))]
    NotWholeSlots {
        /// The VTM.
        vtm: String,
        /// Which quantity.
        quantity: Quantity,
        /// Its value.
        value: Duration,
        /// The slot length.
        slot: Duration,
        /// The next greater value that is a multiple.
        above: Duration,
        /// The longest slot that divides both.
        dividing: Duration,
    },
    /// A usage that is none.
    #[error("the CPU usage of '{vtm}' is {percent} %: use more than 0 and at most 100")]
    Usage {
        /// The VTM.
        vtm: String,
        /// What was asked for.
        percent: f64,
    },
    /// More execution time than period.
    #[error("the execution time of '{vtm}', {}, is longer than its period: use at most {}", human(*.execution), human(*.period))]
    ExecutionAbovePeriod {
        /// The VTM.
        vtm: String,
        /// Its execution time.
        execution: Duration,
        /// Its period.
        period: Duration,
    },
    /// A table of more than [`MOST_SLOTS`].
    #[error("with the period of '{vtm}', {}, the table would be longer than {} slots of {}: use {}", human(*.period), MOST_SLOTS, human(*.slot),
        .nearest.map_or_else(|| "longer slots".to_owned(), |nearest| format!("a period of {}, or longer slots", human(nearest))))]
    HyperperiodTooLong {
        /// The first VTM with which it is too long.
        vtm: String,
        /// Its period.
        period: Duration,
        /// The slot length.
        slot: Duration,
        /// The nearest period with which it is not.
        nearest: Option<Duration>,
    },
    /// A VTM that finds too few free slots in one of its periods.
    #[error("'{vtm}' does not fit: {} of its {} find no free slot in the period from {} (all VTMs together take {usage:.1} % of the CPU); {}{}",
        human(*.lacking), human(*.execution), human(*.begin),
        .longest.map_or_else(|| "no execution time fits".to_owned(), |longest| format!("the longest execution time that fits is {}", human(longest))),
        if *.fits_by_deadline { ", and earliest deadline first fits as it is" } else { "" })]
    DoesNotFit {
        /// The VTM.
        vtm: String,
        /// Its execution time.
        execution: Duration,
        /// How much of it has no slot.
        lacking: Duration,
        /// When that period begins.
        begin: Duration,
        /// What all VTMs take, in percent of the CPU.
        usage: f64,
        /// The longest execution time with which there is a table.
        longest: Option<Duration>,
        /// Whether [`Policy::EarliestDeadlineFirst`] finds a table.
        fits_by_deadline: bool,
    },
    /// A VTM whose first slot comes too late in one of its periods.
    #[error("'{vtm}' has no free slot within its maximum delay of {} in the period from {}; the shortest delay that fits is {}{}",
        human(*.delay), human(*.begin), human(*.shortest),
        if *.fits_by_deadline { ", and earliest deadline first fits as it is" } else { "" })]
    Delayed {
        /// The VTM.
        vtm: String,
        /// Its maximum delay.
        delay: Duration,
        /// When that period begins.
        begin: Duration,
        /// The shortest maximum delay with which there is a table.
        shortest: Duration,
        /// Whether [`Policy::EarliestDeadlineFirst`] finds a table.
        fits_by_deadline: bool,
    },
}

/// A dispatch table and what it was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    slot: Duration,
    policy: Policy,
    /// The placement asked for.
    wanted: Placement,
    placement: Placement,
    vtms: Vec<Vtm>,
    tasks: Vec<Task>,
    owners: Owners,
}

impl Table {
    /// A table of slots of the given length.
    ///
    /// # Errors
    /// The first VTM that is wrong or does not fit, its value, and what would fit.
    pub fn new(
        slot: Duration,
        policy: Policy,
        placement: Placement,
        vtms: &[Vtm],
    ) -> Result<Self, TableError> {
        if slot.is_zero() {
            return Err(TableError::ZeroSlot);
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = vtms.iter().find(|vtm| !names.insert(&vtm.name)) {
            let vtm = twice.name.clone();
            return Err(TableError::NameTaken { vtm });
        }
        let tasks: Result<Vec<_>, _> = vtms.iter().map(|vtm| vtm.in_slots(slot)).collect();
        let mut table = Self {
            slot,
            policy,
            wanted: placement,
            placement,
            vtms: vtms.to_vec(),
            tasks: tasks?,
            owners: Owners::new(),
        };
        let slots = table.hyperperiod_slots()?;
        table.fill(slots)?;
        Ok(table)
    }

    /// Gives VTMs of the table what `changes` say, each in place of the one of its name: all of them or none.
    ///
    /// The table is the one that would be made anew, but what comes before the first and after the last change is kept
    /// where it can be.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub fn adapt(&mut self, changes: &[Vtm]) -> Result<(), TableError> {
        let mut new = self.clone();
        let mut changed = Vec::with_capacity(changes.len());
        for change in changes {
            let index = self.index_of(&change.name)?;
            new.tasks[index] = change.in_slots(self.slot)?;
            new.vtms[index] = change.clone();
            changed.push(index);
        }
        new.refill(&order(&self.tasks), &changed)?;
        *self = new;
        Ok(())
    }

    /// The VTMs, in the order given.
    pub fn vtms(&self) -> &[Vtm] {
        &self.vtms
    }

    /// What the VTM with this index of [`Table::vtms`] has of each of its periods.
    pub fn execution(&self, vtm: usize) -> Option<Duration> {
        Some(times(self.slot, self.tasks.get(vtm)?.execution))
    }

    /// The length of a slot.
    pub fn slot(&self) -> Duration {
        self.slot
    }

    /// After which time the table repeats.
    pub fn hyperperiod(&self) -> Duration {
        times(self.slot, self.owners.len())
    }

    /// The placement it has: not the one asked for where that did not fit.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// The VTM of each slot, as an index of [`Table::vtms`]; `None` in idle slots.
    pub fn slots(&self) -> &[Option<usize>] {
        &self.owners
    }

    /// The VTM that has the CPU at this time after the table's start.
    pub fn at(&self, since_start: Duration) -> Option<&Vtm> {
        let slots = self.owners.len() as u128;
        let slot = since_start.as_nanos() / self.slot.as_nanos() % slots;
        let owner = self.owners[usize::try_from(slot).unwrap_or_default()];
        owner.map(|vtm| &self.vtms[vtm])
    }

    fn index_of(&self, name: &str) -> Result<usize, TableError> {
        let at = self.vtms.iter().position(|vtm| vtm.name == name);
        at.ok_or_else(|| TableError::Unknown {
            vtm: name.to_owned(),
            known: self.vtms.iter().map(|vtm| vtm.name.clone()).collect(),
        })
    }

    fn hyperperiod_slots(&self) -> Result<usize, TableError> {
        let mut all = 1;
        for (vtm, task) in self.vtms.iter().zip(&self.tasks) {
            let short_enough = |&period: &usize| common(all, period).is_some();
            all = common(all, task.period).ok_or_else(|| TableError::HyperperiodTooLong {
                vtm: vtm.name.clone(),
                period: vtm.period,
                slot: self.slot,
                nearest: nearest(task)
                    .find(short_enough)
                    .map(|at| times(self.slot, at)),
            })?;
        }
        if self.vtms.is_empty() {
            return Err(TableError::NoVtm);
        }
        Ok(all)
    }

    fn fill(&mut self, slots: usize) -> Result<(), TableError> {
        let order = order(&self.tasks);
        let layout = self.layout(&self.tasks, &order, slots);
        let filled = layout.fill().map_err(|miss| self.missed(slots, miss));
        (self.owners, self.placement) = filled?;
        Ok(())
    }

    /// As [`Table::fill`], where the VTMs `changed` were something else when the table was made with `old_order`.
    fn refill(&mut self, old_order: &[usize], changed: &[usize]) -> Result<(), TableError> {
        let slots = self.hyperperiod_slots()?;
        let order = order(&self.tasks);
        let ranks = order.iter().enumerate();
        let ranks = ranks.filter(|(_, vtm)| changed.contains(vtm));
        let (mut first, mut last) = (None, None);
        for (rank, _) in ranks {
            first.get_or_insert(rank);
            last = Some(rank);
        }
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(());
        };
        let comparable =
            order == old_order && slots == self.owners.len() && self.placement == self.wanted;
        if comparable {
            let layout = self.layout(&self.tasks, &order, slots);
            if let Some(owners) = layout.refill(&self.owners, first, last) {
                self.owners = owners;
                return Ok(());
            }
        }
        self.fill(slots)
    }

    fn layout<'a>(&self, tasks: &'a [Task], order: &'a [usize], slots: usize) -> Layout<'a> {
        Layout {
            policy: self.policy,
            placement: self.wanted,
            tasks,
            order,
            slots,
        }
    }

    fn missed(&self, slots: usize, miss: Miss) -> TableError {
        let task = self.tasks[miss.vtm];
        let fits = |policy, changed: Task| {
            let mut tasks = self.tasks.clone();
            tasks[miss.vtm] = changed;
            let order = order(&tasks);
            let mut layout = self.layout(&tasks, &order, slots);
            layout.policy = policy;
            layout.fill().is_ok()
        };
        let fits_by_deadline = fits(Policy::EarliestDeadlineFirst, task);
        let vtm = self.vtms[miss.vtm].name.clone();
        let begin = times(self.slot, miss.begin);
        let start = |latest| Task {
            latest_start: Some(latest),
            ..task
        };
        let shortest = task
            .timely_start()
            .filter(|_| miss.delayed)
            .and_then(|fails| {
                let harmless = task.period - task.execution;
                boundary(harmless, fails, |at| fits(self.policy, start(at)))
            });
        if let Some(shortest) = shortest {
            return TableError::Delayed {
                vtm,
                delay: self.vtms[miss.vtm].max_delay.unwrap_or_default(),
                begin,
                shortest: times(self.slot, shortest),
                fits_by_deadline,
            };
        }
        let taking = |execution| Task { execution, ..task };
        let longest = boundary(1, task.execution, |at| fits(self.policy, taking(at)));
        let usage = |task: &Task| task.execution as f64 / task.period as f64;
        TableError::DoesNotFit {
            vtm,
            execution: times(self.slot, task.execution),
            lacking: times(self.slot, miss.lacking),
            begin,
            usage: 100.0 * self.tasks.iter().map(usage).sum::<f64>(),
            longest: longest.map(|execution| times(self.slot, execution)),
            fits_by_deadline,
        }
    }
}

/// The VTMs by falling priority.
fn order(tasks: &[Task]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by_key(|&vtm| tasks[vtm].period);
    order
}

/// The least common multiple, if a table may be as long.
fn common(a: usize, b: usize) -> Option<usize> {
    let divisor = gcd(a as u64, b as u64);
    let multiple = (a as u64 / divisor).checked_mul(b as u64)?;
    usize::try_from(multiple)
        .ok()
        .filter(|&slots| slots <= MOST_SLOTS)
}

/// Periods of a table, the nearest to the task's first, that its execution time fits into.
fn nearest(task: &Task) -> impl Iterator<Item = usize> {
    let (wanted, least) = (task.period.min(MOST_SLOTS), task.execution);
    let around =
        (0..MOST_SLOTS).flat_map(move |step| [wanted.checked_sub(step), Some(wanted + step)]);
    around
        .flatten()
        .filter(move |&period| period >= least && period <= MOST_SLOTS)
}

/// [`last_that_holds`] in slots.
fn boundary(from: usize, fails: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let fits = |at| usize::try_from(at).is_ok_and(&fits);
    let last = last_that_holds(from as u64, fails as u64, fits)?;
    usize::try_from(last).ok()
}
