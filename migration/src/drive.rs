//! What the state machines of [`crate::protocol`] need of a real host.
//!
//! - [`journal`]: the records that outlive a process, as files.

pub mod journal;
