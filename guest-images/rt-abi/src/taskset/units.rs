//! Times and sizes as they are written on the command line.

use core::fmt;

/// Nanoseconds, written exactly with the largest unit that needs no fraction: `2500us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub u64);

const TIMES: [(&str, u64); 4] = [
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Time {
    /// Reads `30ms` or `2.5us`. `None` if it is anything else, finer than a nanosecond, or beyond 64 bits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, name) = text.split_at(unit_at);
        let (_, unit) = TIMES.iter().find(|(known, _)| *known == name)?;
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) => (whole, decimal_fraction(fraction, *unit)?),
            None => (number, 0),
        };
        decimal(whole)?
            .checked_mul(*unit)?
            .checked_add(fraction)
            .map(Self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        largest(self.0, &TIMES, f)
    }
}

/// Bytes, written exactly: `16M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

const SIZES: [(&str, u64); 4] = [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10), ("", 1)];

impl Size {
    /// Reads `16M`, `64K` or a number of bytes. `None` if it is anything else or beyond 64 bits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, unit) = SIZES.iter().find(|(name, _)| text.ends_with(name))?;
        decimal(text.strip_suffix(name)?)?
            .checked_mul(*unit)
            .map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        largest(self.0, &SIZES, f)
    }
}

/// `value` with the largest of `units` (sorted, the last one 1) that divides it.
fn largest(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fits = |unit: u64| unit == 1 || (value != 0 && value.is_multiple_of(unit));
    match units.iter().find(|(_, unit)| fits(*unit)) {
        Some((name, unit)) => write!(f, "{}{name}", value / unit),
        None => write!(f, "{value}"),
    }
}

/// A number in decimal, or in hexadecimal after `0x`.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => decimal(text),
    }
}

/// A number of decimal digits only: `str::parse` would take a sign.
fn decimal(text: &str) -> Option<u64> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The digits after a decimal point, of a value in `unit`s, if that is whole.
fn decimal_fraction(digits: &str, unit: u64) -> Option<u64> {
    let scale = 10u64.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let scaled = decimal(digits)?.checked_mul(unit)?;
    scaled.is_multiple_of(scale).then(|| scaled / scale)
}
