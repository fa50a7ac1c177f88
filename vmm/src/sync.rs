//! What [`crate::desk`] is made of. Its test compiles it with loom's in their place.

pub use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
pub use std::sync::{Mutex, PoisonError};
