//! Live migration of guests inside reservations.
//!
//! Prediction, the order of pages, the wire protocol and both ends' state machines. It knows nothing of KVM, of CPU scheduling or of shares of a
//! link: what is moved is reached through the traits of [`ram`].

pub mod drive;
pub mod model;
pub mod page;
pub mod precopy;
pub mod protocol;
pub mod ram;
pub mod trace;
pub mod transport;
pub mod wire;
