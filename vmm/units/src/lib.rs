//! Sizes, data rates and durations as people write them: `16MiB`, `28ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is not a quantity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}; write a number and one of {units}, such as `{example}`")]
pub struct UnitError {
    text: String,
    what: &'static str,
    units: &'static str,
    example: &'static str,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// `count` MiB.
    #[must_use]
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_owned(),
            what: "size",
            units: "B, KiB, MiB, GiB",
            example: "16MiB",
        };
        let (number, unit) = split(text).ok_or_else(error)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(error()),
        };
        let whole: u64 = number.parse().map_err(|_| error())?;
        whole.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

/// A data rate in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(u64);

impl BitRate {
    /// `bits` bits per second.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Bits per second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [
            ("Gbit/s", 1_000_000_000),
            ("Mbit/s", 1_000_000),
            ("kbit/s", 1_000),
        ] {
            if self.0 != 0 && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}bit/s", self.0)
    }
}

impl FromStr for BitRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_owned(),
            what: "data rate",
            units: "bit/s, kbit/s, Mbit/s, Gbit/s",
            example: "6Mbit/s",
        };
        let (number, unit) = split(text).ok_or_else(error)?;
        let digits = match unit {
            "bit/s" => 0,
            "kbit/s" => 3,
            "Mbit/s" => 6,
            "Gbit/s" => 9,
            _ => return Err(error()),
        };
        decimal(number, digits).map(Self).ok_or_else(error)
    }
}

/// A length of time, exact to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// The span as a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
            if nanos != 0 && nanos.is_multiple_of(size) {
                return write!(f, "{}{unit}", nanos / size);
            }
        }
        write!(f, "{nanos}ns")
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_owned(),
            what: "time",
            units: "ns, us, ms, s",
            example: "28ms",
        };
        let (number, unit) = split(text).ok_or_else(error)?;
        let digits = match unit {
            "ns" => 0,
            "us" => 3,
            "ms" => 6,
            "s" => 9,
            _ => return Err(error()),
        };
        decimal(number, digits)
            .map(|nanos| Self(Duration::from_nanos(nanos)))
            .ok_or_else(error)
    }
}

/// `number` times ten to the `digits`, if that is a whole number: `1.5` with 6 digits is 1 500 000.
fn decimal(number: &str, digits: usize) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > digits || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    format!("{whole}{fraction}{}", "0".repeat(digits - fraction.len()))
        .parse()
        .ok()
}

/// Number and unit of `text`; nothing if it does not start with a digit.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (number, unit) = text.split_at(end);
    Some((number, unit.trim_start()))
}

macro_rules! serde_as_text {
    ($kind:ty, $expected:literal) => {
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $kind;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$kind, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

serde_as_text!(ByteSize, "a size in quotes, such as \"16MiB\"");
serde_as_text!(BitRate, "a data rate in quotes, such as \"6Mbit/s\"");
serde_as_text!(Span, "a time in quotes, such as \"28ms\"");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes: u64, nanos: u64) {
            let size = ByteSize::new(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
            let rate = BitRate(bytes);
            prop_assert_eq!(rate.to_string().parse::<BitRate>().unwrap(), rate);
            let span = Span::from(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }

        #[test]
        fn any_text_is_a_quantity_or_an_error(text: String) {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Span>();
        }
    }

    #[test]
    fn fractions_are_exact_or_refused() {
        assert_eq!(
            "2.5ms".parse::<Span>().unwrap().duration(),
            Duration::from_micros(2500)
        );
        assert!("0.5ns".parse::<Span>().is_err());
        assert!("1.ms".parse::<Span>().is_err());
    }

    #[test]
    fn a_wrong_unit_is_named_with_what_would_work() {
        let error = "28 minutes".parse::<Span>().unwrap_err().to_string();
        assert!(
            error.contains("28 minutes") && error.contains("ms"),
            "{error}"
        );
        assert!("16MB".parse::<ByteSize>().is_err());
        assert!("28".parse::<Span>().is_err());
    }

    #[test]
    fn a_number_without_a_unit_is_refused_with_what_would_work() {
        let error = serde_json::from_str::<Span>("28").unwrap_err().to_string();
        assert!(
            error.contains("`28`") && error.contains("\"28ms\""),
            "{error}"
        );
    }
}
