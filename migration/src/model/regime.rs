//! Whether a guest still behaves as it did: changes of phase, and how much its activity wanders.

use std::time::Duration;

use super::mixture::LENGTHS;

/// Mean and variance, of which old values fade: after `LONGEST` values each new one counts 1/`LONGEST`.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

const LONGEST: f64 = 64.0;

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let part = 1.0 / self.count.min(LONGEST);
        let off = value - self.mean;
        self.mean += part * off;
        self.variance = (1.0 - part) * (self.variance + part * off * off);
    }

    /// Variance as estimated from this many values.
    fn unbiased(&self) -> f64 {
        let count = self.count.min(LONGEST);
        if count < 2.0 {
            return 0.0;
        }
        self.variance * count / (count - 1.0)
    }
}

/// What one window showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Kind of its length.
    pub(crate) length: usize,
    /// Its end.
    pub(crate) at: Duration,
    /// Its length.
    pub(crate) window: Duration,
    /// Pages that were dirty.
    pub(crate) dirty: f64,
    /// Those among them that were not known to be written.
    pub(crate) novel: f64,
}

/// Windows of one kind of length.
#[derive(Debug, Clone, Copy, Default)]
struct Habit {
    dirty: Moments,
    /// Share of the dirty pages that were not known.
    novel: Moments,
}

/// Windows put together until they are long enough to tell a wandering guest from a random one.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    length: Duration,
    dirty: f64,
    expected: f64,
}

/// How a guest behaved until now.
#[derive(Debug, Clone)]
pub(crate) struct Regime {
    habits: [Habit; LENGTHS],
    block: Block,
    /// Dirty pages by expected dirty pages, of blocks.
    ratios: Moments,
    /// Part of the ratios' variance that chance alone explains.
    chance: Moments,
    /// Windows in a row that did not fit.
    odd: u32,
    changed: Option<Duration>,
    memory: Duration,
}

/// A window has to be seen so often before one that differs means anything.
const FAMILIAR: f64 = 8.0;
/// Windows in a row that have to differ.
const ODD_IN_A_ROW: u32 = 2;
/// Standard deviations that count as different.
const FAR: f64 = 4.0;
const BLOCK: Duration = Duration::from_millis(250);
/// Spread of a guest that was not watched for long enough to know it.
const UNKNOWN: f64 = 0.1;

impl Regime {
    pub(crate) fn new(memory: Duration) -> Self {
        Self {
            habits: [Habit::default(); LENGTHS],
            block: Block::default(),
            ratios: Moments::default(),
            chance: Moments::default(),
            odd: 0,
            changed: None,
            memory,
        }
    }

    /// Takes a window in. Whether the guest now behaves differently, so that what was seen before should count little. A guest that
    /// changes again within the memory is described by its average instead: each of its phases comes back.
    pub(crate) fn take(&mut self, look: &Look) -> bool {
        let odd = self.is_odd(look);
        self.odd = if odd { self.odd + 1 } else { 0 };
        self.add_to_block(look);
        let habit = &mut self.habits[look.length];
        habit.dirty.add(look.dirty);
        if look.dirty > 0.0 {
            habit.novel.add(look.novel / look.dirty);
        }
        if self.odd < ODD_IN_A_ROW {
            return false;
        }
        self.odd = 0;
        let before = self.changed.replace(look.at);
        let lately = before.is_some_and(|before| look.at.saturating_sub(before) < self.memory);
        if !lately {
            self.habits = [Habit::default(); LENGTHS];
        }
        !lately
    }

    fn is_odd(&self, look: &Look) -> bool {
        let habit = &self.habits[look.length];
        if habit.dirty.count < FAMILIAR {
            return false;
        }
        let mean = habit.dirty.mean;
        let off = (look.dirty - mean).abs();
        let usual = (habit.dirty.variance + mean + 1.0).sqrt();
        let other_amount = off > FAR * usual && off > 0.5 * mean;
        let share = habit.novel.mean.clamp(0.0, 1.0);
        let more = look.novel - look.dirty * share;
        let usual = (look.dirty * (share * (1.0 - share) + habit.novel.variance) + 1.0).sqrt();
        other_amount || (more > FAR * usual && more > 0.25 * look.dirty)
    }

    fn add_to_block(&mut self, look: &Look) {
        let habit = &self.habits[look.length].dirty;
        if habit.count < 4.0 {
            return;
        }
        self.block.length += look.window;
        self.block.dirty += look.dirty;
        self.block.expected += habit.mean;
        if self.block.length < BLOCK {
            return;
        }
        let block = std::mem::take(&mut self.block);
        if block.expected > 0.0 {
            self.ratios.add(block.dirty / block.expected);
            self.chance.add(1.0 / block.expected);
        }
    }

    /// Relative standard deviation of the guest's activity from one block to another, beyond what independent writes explain.
    pub(crate) fn spread(&self) -> f64 {
        let blocks = self.ratios.count.min(LONGEST);
        if blocks < 4.0 {
            return UNKNOWN;
        }
        let excess = (self.ratios.unbiased() - self.chance.mean).max(0.0);
        (excess * (1.0 + 4.0 / blocks)).sqrt()
    }

    /// When the guest last began to behave differently.
    pub(crate) fn changed(&self) -> Option<Duration> {
        self.changed
    }
}
