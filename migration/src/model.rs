//! What a migration will take, said beforehand, and what it needs to keep a promise. Pure: time and randomness are arguments.
//!
//! The model. A path sends a page in a slot of t seconds. Writes of a page are a Poisson process, so that a page exposed for e seconds is
//! dirty with probability 1 - exp(-r e), independently of the others. A round sends the dirty pages in an order; a page is exposed from
//! the instant at which its dirty bit is cleared, just before it is read, to the round's end. Pages are ordered by *class*, a few dozen rates in
//! geometric steps, so that a round has a closed form per class. What the rates are is estimated from dirty bitmaps that are sampled
//! beforehand, with the spread of what is not known.
//!
//! ```text
//! PageSets sampled ──> Estimator ──> Writes ──┬─> predict ──> Prediction { total, downtime, bytes, rounds as distributions }
//!       ^                                     ├─> least ────> Need { rate, CPU shares } | Impossible { why, nearest }
//!    Sampling (when to look, at what cost)    └─> Precopy ──> Decision each round: another (with its order), switch, or never
//! ```
//!
//! Pages that a task writes in turn are told apart from those written at random, and come back in their turn. What the model does not know:
//! bursts, whose pages it takes to be written independently; a guest that changes faster than it was observed is described by its average.

mod class;
mod convergence;
mod distribution;
mod estimator;
mod inverse;
mod mixture;
mod order;
mod path;
mod prediction;
mod regime;
mod rounds;
mod sampling;
mod writes;

#[cfg(test)]
mod tests;

pub use class::{CLASSES, Class};
pub use convergence::{Decision, Precopy, RoundPlan, WhyNot};
pub use distribution::{Outcomes, Random, Skewed};
pub use estimator::{Estimator, EstimatorError, Seen};
pub use inverse::{Impossible, Limits, Need, least};
pub use path::{CpuCost, Path, PathError, Requirement};
pub use prediction::{Prediction, RoundForecast, Tracking, predict};
pub use sampling::{Sampling, Step};
pub use writes::{Group, HotSet, Portion, Rhythm, Writes};

pub(crate) use distribution::{duration, whole};
pub(crate) use path::Pace;
