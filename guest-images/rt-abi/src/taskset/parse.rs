//! From words to values. Ranges and contradictions are left to `check`.

use super::display::{CONTENTS, FAULTS, PATTERNS, POLICIES, STORMS};
use super::network;
use super::units::{self, Size, Time};
use super::{Content, Dirty, Mode, Name, ParseError, Pattern, Problem, Step, Task, TaskSet};

const SET_KEYS: &str = "sched, duration, seed, gap, start, stream, tsc_khz, vcpus, task, hog, bench, storm, fault, net, http, echo, sink, source, rtp, virtio_mmio.device";
const TASK_KEYS: &str =
    "c, t, d, o, cpu, prio, gaps, s, dirty, region, pattern, content, phase, c2, step";
const BENCH_KEYS: &str = "n, port";

/// See [`TaskSet::parse`].
pub(super) fn parse(line: &str) -> Result<TaskSet, ParseError> {
    let mut set = TaskSet::default();
    let mut vcpus = None;
    let mut seen = Seen::default();
    for word in line.split_ascii_whitespace() {
        let item = Item::new(None, word)?;
        match item.key {
            "task" => set.add(task(item.value)?)?,
            "hog" => set.add(Task::hog(item.number()?))?,
            "rtp" | "virtio_mmio.device" => {}
            _ => seen.once(&item, SET_KEYS)?,
        }
        match item.key {
            "vcpus" => vcpus = Some(item.number()?),
            "bench" | "storm" | "fault" => set_mode(&mut set, &item)?,
            _ => set_option(&mut set, &item)?,
        }
        network::set(&mut set, &item)?;
    }
    set.vcpus = vcpus.unwrap_or(set.vcpus);
    set.check()?;
    Ok(set)
}

fn set_option(set: &mut TaskSet, item: &Item<'_>) -> Result<(), ParseError> {
    match item.key {
        "sched" => set.policy = item.choice(&POLICIES, "rm or edf")?,
        "duration" => set.duration = item.time()?,
        "seed" => set.seed = item.number()?,
        "gap" => set.gap = item.time()?,
        "start" => set.start = item.time()?,
        "stream" => set.stream = item.flag()?,
        "tsc_khz" => set.tsc_khz = Some(item.number()?),
        _ => {}
    }
    Ok(())
}

fn set_mode(set: &mut TaskSet, item: &Item<'_>) -> Result<(), ParseError> {
    if set.mode != Mode::Tasks {
        let why = "is one too many; choose one of bench, storm and fault";
        return Err(item.error(Problem::Conflict(why)));
    }
    set.mode = match item.key {
        "bench" => bench(item)?,
        "storm" => Mode::Storm(item.choice(&STORMS, "pio or mmio")?),
        _ => Mode::Fault(item.choice(&FAULTS, "triple, ud, hang, wild or memory")?),
    };
    Ok(())
}

fn bench(item: &Item<'_>) -> Result<Mode, ParseError> {
    let (mut port, mut count) = (Mode::BENCH_PORT, Mode::BENCH_COUNT);
    let mut seen = Seen::default();
    let mut words = item.value.split(',');
    if words.next() != Some("pio") {
        return Err(item.error(Problem::Malformed("pio[,n=COUNT][,port=PORT]")));
    }
    for word in words {
        let item = Item::new(None, word)?;
        seen.once(&item, BENCH_KEYS)?;
        match item.key {
            "n" => count = item.number()?,
            _ => port = item.number()?,
        }
    }
    Ok(Mode::Bench { port, count })
}

/// A task of which not every key has been seen.
struct Draft {
    task: Task,
    execution: Option<(u64, u64)>,
    period: Option<u64>,
    deadline: Option<u64>,
    pages: Option<u32>,
    region: Option<u64>,
    pattern: Option<Pattern>,
    content: Option<Content>,
    phase: Option<u64>,
    second: Option<u64>,
    turn: Option<u64>,
}

fn task(text: &str) -> Result<Task, ParseError> {
    let mut words = text.split(',');
    let name = Name::new(words.next().unwrap_or_default())?;
    let mut draft = Draft {
        task: Task::periodic(name, 0, 0),
        execution: None,
        period: None,
        deadline: None,
        pages: None,
        region: None,
        pattern: None,
        content: None,
        phase: None,
        second: None,
        turn: None,
    };
    let mut seen = Seen::default();
    for word in words {
        let item = Item::new(Some(name), word)?;
        seen.once(&item, TASK_KEYS)?;
        draft.set(&item)?;
    }
    draft.finish()
}

impl Draft {
    fn set(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        match item.key {
            "c" => self.execution = Some(item.range()?),
            "t" => self.period = Some(item.time()?),
            "d" => self.deadline = Some(item.time()?),
            "o" => self.task.offset = item.time()?,
            "cpu" => self.task.vcpu = item.number()?,
            "prio" => self.task.priority = Some(item.number()?),
            "gaps" => self.task.gaps = item.flag()?,
            "s" => self.task.critical = item.time()?,
            "dirty" => self.pages = Some(item.number()?),
            "region" => self.region = Some(item.size()?),
            "c2" => self.second = Some(item.time()?),
            "step" => self.turn = Some(item.time()?),
            "content" => {
                self.content = Some(item.choice(&CONTENTS, "count, random or half")?);
            }
            "phase" => self.phase = Some(item.time()?),
            _ => self.pattern = Some(item.choice(&PATTERNS, "seq, random, hot or zipf")?),
        }
        Ok(())
    }

    fn dirty(&self) -> Option<Dirty> {
        self.pages.map(|pages| Dirty {
            pages,
            region: self.region.unwrap_or(Dirty::REGION),
            pattern: self.pattern.unwrap_or(Pattern::Sequential),
            content: self.content.unwrap_or(Content::Counter),
            phase: self.phase.unwrap_or(0),
        })
    }

    fn finish(self) -> Result<Task, ParseError> {
        let name = self.task.name;
        let missing =
            |key, expected| ParseError::new(Some(name), key, "", Problem::Missing(expected));
        let dirty = self.dirty();
        let is_described = self.region.or(self.phase).is_some()
            || self.pattern.is_some()
            || self.content.is_some();
        if dirty.is_none() && is_described {
            let expected = "PAGES, or remove region, pattern, content and phase";
            return Err(missing("dirty", expected));
        }
        let step = match (self.second, self.turn) {
            (Some(c), Some(every)) => Some(Step { c, every }),
            (None, None) => None,
            (Some(_), None) => return Err(missing("step", "TIME, such as step=10s")),
            (None, Some(_)) => return Err(missing("c2", "TIME, such as c2=8ms")),
        };
        let (c_min, c_max) = match self.execution {
            Some(range) => range,
            None if dirty.is_some() => (0, 0),
            None => return Err(missing("c", "TIME, such as c=3ms or c=3ms..8ms")),
        };
        let period = self
            .period
            .ok_or_else(|| missing("t", "TIME, such as t=10ms"))?;
        Ok(Task {
            c_min,
            c_max,
            period,
            deadline: self.deadline.unwrap_or(period),
            dirty,
            step,
            ..self.task
        })
    }
}

/// One `key=value`.
pub(super) struct Item<'a> {
    pub(super) task: Option<Name>,
    pub(super) key: &'a str,
    pub(super) value: &'a str,
}

impl<'a> Item<'a> {
    pub(super) fn new(task: Option<Name>, word: &'a str) -> Result<Self, ParseError> {
        match word.split_once('=') {
            Some((key, value)) => Ok(Self { task, key, value }),
            None => Err(ParseError::new(task, word, "", Problem::NoValue)),
        }
    }

    pub(super) fn error(&self, problem: Problem) -> ParseError {
        ParseError::new(self.task, self.key, self.value, problem)
    }

    fn malformed(&self, expected: &'static str) -> ParseError {
        self.error(Problem::Malformed(expected))
    }

    pub(super) fn time(&self) -> Result<u64, ParseError> {
        let expected = "a time in whole nanoseconds with unit ns, us, ms or s, such as 2.5ms";
        Time::parse(self.value)
            .map(|time| time.0)
            .ok_or_else(|| self.malformed(expected))
    }

    fn range(&self) -> Result<(u64, u64), ParseError> {
        let Some((least, most)) = self.value.split_once("..") else {
            return self.time().map(|time| (time, time));
        };
        match (Time::parse(least), Time::parse(most)) {
            (Some(least), Some(most)) => Ok((least.0, most.0)),
            _ => Err(self.malformed("a time or two, such as 3ms or 3ms..8ms")),
        }
    }

    fn size(&self) -> Result<u64, ParseError> {
        Size::parse(self.value)
            .map(|size| size.0)
            .ok_or_else(|| self.malformed("a size, such as 64K, 16M or 1G"))
    }

    pub(super) fn number<T: TryFrom<u64> + Width>(&self) -> Result<T, ParseError> {
        units::number(self.value)
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.malformed(T::EXPECTED))
    }

    fn flag(&self) -> Result<bool, ParseError> {
        self.choice(&[("0", false), ("1", true)], "0 or 1")
    }

    fn choice<T: Copy>(
        &self,
        table: &[(&str, T)],
        expected: &'static str,
    ) -> Result<T, ParseError> {
        table
            .iter()
            .find(|(name, _)| *name == self.value)
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.malformed(expected))
    }
}

/// How to name the range of an integer type in an error.
pub(super) trait Width {
    const EXPECTED: &'static str;
}

impl Width for u8 {
    const EXPECTED: &'static str = "a whole number from 0 to 255";
}

impl Width for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";
}

impl Width for u32 {
    const EXPECTED: &'static str = "a whole number below 2^32";
}

impl Width for u64 {
    const EXPECTED: &'static str = "a whole number below 2^64";
}

/// The keys that were given, by their place in a list of keys.
#[derive(Default)]
pub(super) struct Seen(u32);

impl Seen {
    /// Notes the key of `item`, which must be among `keys` and new.
    pub(super) fn once(&mut self, item: &Item<'_>, keys: &'static str) -> Result<(), ParseError> {
        let Some(place) = keys.split(", ").position(|key| key == item.key) else {
            return Err(item.error(Problem::UnknownKey(keys)));
        };
        let bit = 1 << place;
        if self.0 & bit != 0 {
            return Err(item.error(Problem::Repeated));
        }
        self.0 |= bit;
        Ok(())
    }
}
