//! What `rt-guest` and whoever runs it must agree on: the clock page, the record rings, the task-set command line.
//!
//! No dependencies and no `std`: the guest and the host compile the very same definitions. Nothing here touches hardware;
//! the guest's scheduling policy is here too, so that it is tested on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod budget;
pub mod clock;
pub mod dirty;
pub mod echo;
pub mod flow;
pub mod frame;
pub mod http;
pub mod image;
pub mod policy;
pub mod random;
pub mod record;
pub mod rtp;
pub mod taskset;
