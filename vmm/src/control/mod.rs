//! Control of a running guest over its unix socket: one request and one reply per connection, each a line of JSON.
//!
//! ```text
//! {"version":1,"request":{"kind":"pause"}}   ->   {"version":1,"reply":{"kind":"done"}}
//! ```
//!
//! The socket is `NAME.sock` in the run directory and belongs to the user who started the guest. Others than guests may
//! be asked in the same way: [`Server`] and [`client::exchange`] leave open what is asked and answered.

pub mod client;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sched::reservation::Reservation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::guest::{GuestStatus, RecordingRequest, RecordingStatus, VcpuStatus};

use crate::moving::{MigrationRequest, MigrationStatus};

pub use server::{Call, Server, Socket};

/// Version of the protocol.
pub const VERSION: u16 = 1;
/// Longest line either side reads.
pub const MAX_LINE: u64 = 1 << 20;

/// What can be asked of a running guest. What needs no more words has braces all the same: only then are keys that are
/// not known refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Tell how it is.
    Status {},
    /// Tell how it is without disturbing its vCPUs: their accounts are the last that they left.
    Observe {},
    /// Stand still.
    Pause {},
    /// Go on.
    Resume {},
    /// End.
    Stop {},
    /// Change a vCPU's reservation.
    Adapt {
        /// Which vCPU.
        vcpu: usize,
        /// Its new reservation.
        reservation: Reservation,
    },
    /// Put in force what the ledger grants already.
    Enforce {
        /// Which vCPU.
        vcpu: usize,
        /// What the ledger grants.
        reservation: Reservation,
    },
    /// Change a vCPU's reservation with budget from another guest.
    Transfer(Transfer),
    /// Begin to record which pages are written.
    Record(RecordingRequest),
    /// Tell how the recording goes.
    Recording {},
    /// End the recording before its time.
    EndRecording {},
    /// Begin to move to another host.
    Migrate(MigrationRequest),
    /// Tell how the migration goes.
    Migration {},
    /// Give the migration up.
    CancelMigration {},
    /// Save into a folder, and end.
    Save {
        /// The folder; it must not exist.
        path: PathBuf,
    },
}

/// Moves budget between two guests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// vCPU that gets more.
    pub vcpu: usize,
    /// What it has now.
    pub before: Reservation,
    /// Its new reservation.
    pub reservation: Reservation,
    /// The guest that gives.
    pub from: String,
    /// Its socket.
    pub from_socket: PathBuf,
    /// Its vCPU.
    pub from_vcpu: usize,
    /// What that vCPU has now.
    pub from_before: Reservation,
    /// What it keeps.
    pub from_reservation: Reservation,
}

/// The answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// The status.
    Status(Box<GuestStatus>),
    /// How the recording goes.
    Recording(RecordingStatus),
    /// How the migration goes.
    Migration(Box<MigrationStatus>),
    /// A reservation was changed.
    Adapted {
        /// The vCPU, as it is now.
        vcpu: Box<VcpuStatus>,
        /// How long that took: admission, kernel, reading it back, and the other guest where there is one.
        elapsed: Duration,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine<Q> {
    version: u16,
    request: Q,
}

#[derive(Serialize, Deserialize)]
struct ReplyLine<R> {
    version: u16,
    reply: Result<R, String>,
}

/// Reads a line that came over the socket.
///
/// # Errors
/// Text for whoever sent it: not a request, or of another version.
pub fn parse_request(line: &[u8]) -> Result<Request, String> {
    parse_line(line)
}

/// As [`parse_request`], of whatever can be asked.
fn parse_line<Q: DeserializeOwned>(line: &[u8]) -> Result<Q, String> {
    match serde_json::from_slice::<RequestLine<Q>>(line) {
        Ok(RequestLine {
            version: VERSION,
            request,
        }) => Ok(request),
        Ok(line) => Err(format!(
            "protocol version {} is not known; this side speaks {VERSION}",
            line.version
        )),
        Err(error) => Err(format!("not a request: {error}")),
    }
}

/// Why control failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be made.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("{} is the socket of a process that lives: end that one first", path.display())]
    Taken {
        /// Its path.
        path: PathBuf,
    },
    /// No guest listens there.
    #[error("no guest `{name}` runs here; `chronovisor ls` shows those that do")]
    NoGuest {
        /// The name.
        name: String,
    },
    /// The guest cannot be talked to.
    #[error("cannot talk to the guest at {}: {source}", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The guest did not answer.
    #[error("the guest at {} did not answer within {seconds} s", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// The guest refused.
    #[error("{0}")]
    Refused(String),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// The socket of the guest `name`.
#[must_use]
pub fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_known_is_refused_wherever_it_stands() {
        let reservation = r#"{"runtime_ns":1000000,"period_ns":9000000}"#;
        let adapt = format!(r#"{{"kind":"adapt","vcpu":0,"reservation":{reservation}}}"#);
        let requests = ["status", "observe", "pause", "resume", "stop"]
            .map(|kind| format!(r#"{{"kind":"{kind}"}}"#));
        for request in requests.iter().chain([&adapt]) {
            let line = format!(r#"{{"version":1,"request":{request}}}"#);
            parse_request(line.as_bytes()).unwrap();
            let body = request.strip_suffix('}').unwrap();
            for line in [
                format!(r#"{{"version":1,"request":{body},"force":true}}}}"#),
                format!(r#"{{"version":1,"request":{request},"force":true}}"#),
            ] {
                let reason = parse_request(line.as_bytes()).unwrap_err();
                assert!(reason.contains("unknown field `force`"), "{line}: {reason}");
            }
        }
    }
}
