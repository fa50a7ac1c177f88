//! Virtual task machines at work: one [`Command`] and one [`Reply`] for everybody, one machine that processes them.
//!
//! ```text
//! shell, script -----\
//!                     > Order { Command, peer } --> VtmMachine --> sched::vtm::VtmScheduler
//! socket <-- Client -/                                  |
//!                                                     Reply
//! ```
//!
//! The socket is `vtm/cpuN.sock` in the run directory, one for each CPU whose VTMs are served, and takes lines of JSON as
//! the sockets of guests do ([`vmm::control`]):
//!
//! ```text
//! {"version":1,"request":{"kind":"reserve","vtm":"gold","need":"16ms","period":"40ms"}}
//! {"version":1,"reply":{"Ok":{"kind":"promised","data":[{"vtm":"gold","execution":"16ms","period":"40ms"}]}}}
//! ```

mod client;
mod command;
mod machine;
mod network;

pub use client::{Client, ClientError, socket_path};
pub use command::{
    Amount, Bandwidth, Command, Drawing, NetworkShare, Promised, Reply, Share, ShareOfNetwork,
};
pub use machine::{CommandError, Order, VtmMachine};
pub use network::ShareOfNetworkError;
