//! Classes of pages by the rate at which they are written.

/// How many classes there are.
pub const CLASSES: usize = 48;

const LAST: u8 = 47;

const _: () = assert!(LAST as usize + 1 == CLASSES);

/// Rate of class 1, in writes per second: one in about eight minutes.
const LOWEST: f64 = 1.0 / 512.0;

/// A class of pages that are written about equally often. Class 0 are pages that nobody writes; from class 1 (one write in 512 s) on, each
/// class's rate is the last one's times the square root of two, up to 16384 writes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u8);

impl Class {
    /// Pages that nobody writes.
    pub const IDLE: Self = Self(0);

    /// The class whose rate is nearest to `rate` writes per second, in ratio.
    #[must_use]
    pub fn of_rate(rate: f64) -> Self {
        if rate < LOWEST / 2.0 {
            return Self::IDLE;
        }
        let place = 1.0 + 2.0 * (rate / LOWEST).log2();
        Self::all()
            .rev()
            .find(|class| f64::from(class.0) <= place.round())
            .map_or(Self(1), |class| class.max(Self(1)))
    }

    /// Writes per second.
    #[must_use]
    pub fn rate(self) -> f64 {
        if self == Self::IDLE {
            return 0.0;
        }
        LOWEST * (f64::from(self.0 - 1) / 2.0).exp2()
    }

    /// All classes, by increasing rate.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + Clone {
        (0..=LAST).map(Self)
    }

    /// Place among the classes, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The class as one byte.
    pub(crate) fn byte(self) -> u8 {
        self.0
    }

    /// The class that a byte from `byte` stands for; the last one for larger numbers.
    pub(crate) fn from_byte(byte: u8) -> Self {
        Self(byte.min(LAST))
    }
}
