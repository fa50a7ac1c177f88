//! Which pages a memory-dirtying task touches, and what it leaves in them.
//!
//! Both are functions of the run's seed, the task and its jobs alone, so that whoever finds the memory again, on another host for
//! example, can tell whether every page is the one that was written last.

use crate::random::{Random, mixed};
use crate::taskset::{Content, Dirty, PAGE, Pattern, Task};

/// Words of a page.
pub const WORDS: usize = (PAGE / 8) as usize;
/// Second word of a page that says of itself what it is: "CVPAGE01" read as little endian.
pub const TAG: u64 = u64::from_le_bytes(*b"CVPAGE01");
/// The task's number stands above so many bits of the page's number in the third word.
const TASK_AT: u32 = 48;

/// The pages that the touches of one job go to.
#[derive(Debug, Clone)]
pub struct Pages {
    pattern: Pattern,
    /// In the region.
    count: u64,
    /// The first one, of a task that goes round; where ranks begin, of one that has pages it likes.
    start: u64,
    /// From a rank's page to that of the next.
    stride: u64,
    random: Random,
}

impl Pages {
    /// Of job `job` of `task`, which is at place `index` of a set with this seed and dirties memory as `dirty` says.
    #[must_use]
    pub fn new((seed, index): (u64, usize), task: &Task, dirty: &Dirty, job: u64) -> Self {
        let count = (dirty.region / PAGE).max(1);
        let turn = match dirty.phase {
            0 => 0,
            phase => job.saturating_mul(task.period) / phase,
        };
        let (start, stride) = match dirty.pattern {
            Pattern::Sequential => (job.wrapping_mul(u64::from(dirty.pages)) % count, 1),
            Pattern::Random => (0, 1),
            Pattern::Hot => (moved(turn, count), 1),
            Pattern::Zipf => (moved(turn, count), stride(count)),
        };
        Self {
            pattern: dirty.pattern,
            count,
            start,
            stride,
            random: Random::for_job(!seed, index, job),
        }
    }

    /// The page, from 0 within the region, that touch number `touch` of the job goes to. Asked for each touch once, in order.
    #[inline]
    pub fn next(&mut self, touch: u32) -> u64 {
        let (random, count) = (&mut self.random, self.count);
        let rank = match self.pattern {
            Pattern::Sequential => u64::from(touch),
            Pattern::Random => return random.uniform(0, count - 1),
            Pattern::Hot => {
                let hot = count.div_ceil(10);
                let among = if random.uniform(0, 9) < 9 { hot } else { count };
                random.uniform(0, among - 1)
            }
            Pattern::Zipf => zipf(random, count),
        };
        self.start.wrapping_add(rank.wrapping_mul(self.stride)) % count
    }
}

/// A rank below `count`, about as likely as it is low: all classes of ranks 0, 1 to 2, 3 to 6 and so on are equally likely.
fn zipf(random: &mut Random, count: u64) -> u64 {
    let classes = u64::from(count.ilog2()) + 1;
    let class = random.uniform(0, classes - 1);
    let (first, behind) = ((1 << class) - 1, (2 << class) - 1);
    random.uniform(first, behind.min(count) - 1)
}

/// Where the pages that a task likes are at its turn: each time a golden section of the region further on.
const fn moved(turn: u64, count: u64) -> u64 {
    turn.wrapping_mul(count * 618 / 1000) % count
}

/// A step that comes by all of `count` pages, and so scatters neighbouring ranks over the region.
fn stride(count: u64) -> u64 {
    let wanted = (count * 382 / 1000).max(1);
    (wanted..)
        .find(|step| is_coprime(*step, count))
        .unwrap_or(1)
}

const fn is_coprime(mut a: u64, mut b: u64) -> bool {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// What a page has in it after it was written `counter` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    seed: u64,
    place: u64,
    counter: u64,
    /// All content comes from this.
    key: u64,
    content: Content,
}

impl Page {
    /// Page `page` of the region of the task at place `task` of a set with this seed.
    #[must_use]
    pub fn new(seed: u64, content: Content, (task, page): (usize, u64), counter: u64) -> Self {
        let place = (task as u64) << TASK_AT | page;
        Self::of((seed, place, counter), content)
    }

    /// The page that these words say they are: the first four of a page. `None` if they say nothing.
    #[must_use]
    pub fn claimed(words: [u64; 4], content: Content) -> Option<Self> {
        let [counter, tag, place, seed] = words;
        (tag == TAG).then(|| Self::of((seed, place, counter), content))
    }

    fn of((seed, place, counter): (u64, u64, u64), content: Content) -> Self {
        Self {
            seed,
            place,
            counter,
            key: mixed(mixed(seed ^ mixed(place)) ^ counter),
            content,
        }
    }

    /// How often it was written.
    #[must_use]
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// The task it belongs to, and its number in the task's region.
    #[must_use]
    pub fn place(&self) -> (usize, u64) {
        let task = usize::try_from(self.place >> TASK_AT).unwrap_or(usize::MAX);
        (task, self.place & ((1 << TASK_AT) - 1))
    }

    /// Its seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The same page written once more, or once less if `counter` says so.
    #[must_use]
    pub fn written(&self, counter: u64) -> Self {
        Self::of((self.seed, self.place, counter), self.content)
    }

    /// Word number `at`. The first four say what page it is; of the others all, or a little more than half, are random.
    #[inline]
    #[must_use]
    pub fn word(&self, at: usize) -> u64 {
        match at {
            0 => self.counter,
            1 => TAG,
            2 => self.place,
            3 => self.seed,
            _ if self.content == Content::Half && at >= WORDS / 2 && at != WORDS - 1 => self.key,
            _ => mixed(self.key ^ at as u64),
        }
    }

    /// Whether the words at a page's beginning and end go together: a look that is cheap enough before every write.
    #[must_use]
    pub fn is_closed_by(&self, last: u64) -> bool {
        self.word(WORDS - 1) == last
    }

    /// What a whole page has in it.
    #[must_use]
    pub fn judge(&self, words: &[u64; WORDS]) -> Verdict {
        let first_other = |page: &Self, from: usize| {
            (from..WORDS).find(|&at| words.get(at) != Some(&page.word(at)))
        };
        let Some(at) = first_other(self, 0) else {
            return Verdict::Whole;
        };
        // Words are written in their order.
        let before = self.counter.checked_sub(1).map(|old| self.written(old));
        match before.map(|before| first_other(&before, at.max(1))) {
            Some(None) if at > 0 => Verdict::Torn,
            _ => Verdict::Wrong { at },
        }
    }
}

/// What was found in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What belongs there.
    Whole,
    /// Its task was interrupted while it wrote: the front is new and the rest as it was.
    Torn,
    /// Something else, from this word on.
    Wrong {
        /// The first word that does not belong there.
        at: usize,
    },
}

#[cfg(test)]
mod tests;
