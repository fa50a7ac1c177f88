//! What is wrong with a command line, in a form that needs no heap, so that the guest can print it too.

use core::fmt::{self, Write as _};

use super::{Kind, MAX_TASKS, Name, Task};

/// Up to `N` bytes of text; what does not fit is cut, control characters become `?`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
    cut: bool,
}

impl<const N: usize> Text<N> {
    /// What `value` displays as.
    pub fn new(value: impl fmt::Display) -> Self {
        Self::formatted(format_args!("{value}"))
    }

    /// In one place for every kind of value: the guest is small.
    #[cold]
    #[inline(never)]
    fn formatted(value: fmt::Arguments<'_>) -> Self {
        const { assert!(N <= u8::MAX as usize) };
        let mut text = Self {
            bytes: [0; N],
            len: 0,
            cut: false,
        };
        // A `Display` that fails leaves a shorter text, which is all an error message can do about it.
        let _ = text.write_fmt(value);
        text
    }

    /// The text that was kept.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    fn push(&mut self, c: char) {
        let start = usize::from(self.len);
        let end = start + c.len_utf8();
        match (self.bytes.get_mut(start..end), u8::try_from(end)) {
            (Some(room), Ok(len)) if !self.cut => {
                c.encode_utf8(room);
                self.len = len;
            }
            _ => self.cut = true,
        }
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.push(if c.is_control() { '?' } else { c });
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        f.write_str(if self.cut { "..." } else { "" })
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A bound that a value breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What sets the bound: "its deadline".
    pub what: &'static str,
    /// Its value as one would write it.
    pub value: Text<20>,
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// No such key; these are the keys.
    UnknownKey(&'static str),
    /// The word has no `=`.
    NoValue,
    /// The key was there before.
    Repeated,
    /// The key must be there, followed by this.
    Missing(&'static str),
    /// The value does not read as this.
    Malformed(&'static str),
    /// The value is too small.
    Below(Limit),
    /// The value is too large.
    Above(Limit),
    /// The value is fine by itself; why it cannot stand here, and what to do.
    Conflict(&'static str),
}

/// Why a command line is no task set: the key, the value, and what would fit. Long keys and values are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError {
    /// The task that the key belongs to.
    pub task: Option<Name>,
    /// The key, or the word if it has no `=`.
    pub key: Text<15>,
    /// The value.
    pub value: Text<28>,
    /// What is wrong.
    pub problem: Problem,
}

impl ParseError {
    /// An error about `key=value` of `task`.
    pub(super) fn new(
        task: Option<Name>,
        key: impl fmt::Display,
        value: impl fmt::Display,
        problem: Problem,
    ) -> Self {
        Self::formatted(
            task,
            format_args!("{key}"),
            format_args!("{value}"),
            problem,
        )
    }

    /// In one place for every kind of value: the guest is small.
    #[cold]
    #[inline(never)]
    fn formatted(
        task: Option<Name>,
        key: fmt::Arguments<'_>,
        value: fmt::Arguments<'_>,
        problem: Problem,
    ) -> Self {
        Self {
            task,
            key: Text::formatted(key),
            value: Text::formatted(value),
            problem,
        }
    }

    /// `text` is no name for a task.
    pub(super) fn name(text: &str) -> Self {
        let expected = "a name of 1 to 15 letters, digits, `-`, `_` and `.`";
        Self::new(None, "task", text, Problem::Malformed(expected))
    }

    /// There is no room for `task`.
    pub(super) fn full(task: &Task) -> Self {
        let (key, value): (_, Text<15>) = match task.kind {
            Kind::Hog => ("hog", Text::new(task.vcpu)),
            _ => ("task", Text::new(task.name)),
        };
        let most = Limit {
            what: "the greatest number of tasks",
            value: Text::new(MAX_TASKS),
        };
        Self::new(None, key, value, Problem::Above(most))
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = &self.task {
            write!(f, "task {task}: ")?;
        }
        let Self {
            key,
            value,
            problem,
            ..
        } = self;
        match problem {
            Problem::UnknownKey(known) => {
                write!(f, "unknown key `{key}`; the keys here are {known}")
            }
            Problem::NoValue => write!(f, "`{key}` is not of the form key=value"),
            Problem::Repeated => write!(f, "{key}={value} gives `{key}` a second time; remove one"),
            Problem::Missing(expected) => write!(f, "`{key}` is missing; write {key}={expected}"),
            Problem::Malformed(expected) => write!(f, "{key}={value} is not {expected}"),
            Problem::Below(least) => write!(f, "{key}={value} is below {least}"),
            Problem::Above(most) => write!(f, "{key}={value} is above {most}"),
            Problem::Conflict(why) => write!(f, "{key}={value} {why}"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.what, self.value)
    }
}

impl core::error::Error for ParseError {}
