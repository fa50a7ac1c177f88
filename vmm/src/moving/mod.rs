//! A guest moves to another host: what is asked for, what comes of it, and both ends.
//!
//! ```text
//!  chronovisor migrate ── control socket ──> source: a thread beside the guest's owner
//!                                              watches what the guest writes, offers it, sends rounds,
//!                                              borrows it for the switch-over, gives it back or ends it
//!                                              |
//!  chronovisor receive ────────────────────> destination: admits it as a start would be, fills its memory,
//!                                              lets it run, hands it to who supervises it
//! ```
//!
//! The parts are the crate `migration`'s: its drive, with the machine, the memory and the log of this crate.

pub mod admission;
pub mod contract;
pub mod destination;
pub mod facts;
mod planner;
pub mod promise;
pub mod source;
mod stretch;
pub mod travel;

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use migration::transport::{Identity, Security, TransportError};
use migration::wire::Session;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::facts::HostBasis;
use crate::units::BitRate;

/// Where hosts receive guests unless something else is said.
pub const PORT: u16 = 7420;

/// What is asked of a migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationRequest {
    /// Host and port of the destination.
    pub to: String,
    /// What the destination's certificate is for; the host where nothing is said.
    pub host_name: Option<String>,
    /// Folder with this host's certificate; without one nothing is protected.
    pub certificates: Option<PathBuf>,
    /// Longest time for which the guest may stand still.
    pub downtime: Duration,
    /// Longest time from the first byte until it runs there.
    pub finish: Duration,
    /// Probability with which both are to be kept.
    pub confidence: f64,
    /// Streams that memory goes over.
    pub streams: u16,
    /// Whether pages are compressed.
    pub compress: bool,
    /// Most that it may send; as fast as it goes where nothing is said.
    pub rate: Option<BitRate>,
    /// Where this host answers for sessions whose process is dead.
    pub desk: Option<String>,
    /// Only say what would be promised.
    pub predict: bool,
    /// Reserve nothing for the migration itself, and break the guest's deadlines rather than refuse.
    pub best_effort: bool,
    /// What was measured of this host.
    pub basis: HostBasis,
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// What the guest writes is watched.
    #[default]
    Watching,
    /// The destination is asked.
    Offering,
    /// Rounds go over.
    Copying,
    /// The guest stands still, or its fate is decided.
    Switching,
    /// See [`MigrationStatus::outcome`].
    Over,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationOutcome {
    /// The guest runs at the destination.
    Moved,
    /// It was tried; the guest goes on here.
    Stayed,
    /// It was not tried; the guest goes on here.
    Refused,
    /// It was only asked what would be promised.
    Predicted,
}

/// A round that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RoundStatus {
    /// Pages.
    pub pages: u64,
    /// Bytes for them.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What a migration took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// From the first byte of memory until the destination said that the guest runs there.
    pub total_s: f64,
    /// From the beginning of the pause until then.
    pub downtime_s: f64,
    /// Bytes of memory sent, as the transport got them.
    pub bytes: u64,
    /// Pages sent.
    pub pages: u64,
    /// Rounds, the last one among them.
    pub rounds: usize,
}

/// When the steps of the switch-over were done, in seconds since the guest was asked for; not there where it was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct SwitchOverStatus {
    /// It stands.
    pub stands_s: Option<f64>,
    /// Its state is saved.
    pub saved_s: Option<f64>,
    /// Everything is sent.
    pub last_sent_s: Option<f64>,
    /// It is complete there.
    pub prepared_s: Option<f64>,
    /// It runs there.
    pub running_s: Option<f64>,
    /// It goes on here.
    pub resumed_s: Option<f64>,
}

/// How a migration goes, or went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrationStatus {
    /// The guest.
    pub name: String,
    /// Where to.
    pub to: String,
    /// Where it stands.
    pub phase: Phase,
    /// How it ended, once it has.
    pub outcome: Option<MigrationOutcome>,
    /// Why the guest is here still, or what went wrong on the way.
    pub reason: Option<String>,
    /// What would be possible instead, as [`promise::Refusal::json`] has it.
    pub nearest: Option<Value>,
    /// What is promised, as [`promise::Promise::json`] has it.
    pub promise: Option<Value>,
    /// The promise or the refusal in words.
    pub said: Option<String>,
    /// Rounds that were sent.
    pub rounds: Vec<RoundStatus>,
    /// The one that is being sent.
    pub round: Option<RoundStatus>,
    /// Pages that the round being sent has.
    pub of_pages: u64,
    /// The steps of its switch-over.
    pub switch_over: Option<SwitchOverStatus>,
    /// What it took, once the guest runs there.
    pub measured: Option<Measured>,
}

/// Why a migration cannot begin. The guest runs as before.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// There is one.
    #[error(
        "{0} is being moved already; wait until that is over, or cancel it (`chronovisor migrate {0} --cancel`)"
    )]
    Busy(String),
    /// A guest that stands still.
    #[error("{0} is paused; resume it first")]
    Paused(String),
    /// There is none.
    #[error("{0} is not being moved")]
    None(String),
    /// A value that makes no sense.
    #[error("{what} is {value}; it has to be {fits}")]
    Value {
        /// Which.
        what: &'static str,
        /// What was asked.
        value: String,
        /// What would do.
        fits: &'static str,
    },
    /// The thread.
    #[error("cannot start the thread that moves the guest: {0}")]
    Thread(io::Error),
}

/// What makes a host known to others, and others to it.
///
/// # Errors
/// [`TransportError::Identity`] names the file that is of no use.
pub fn security(certificates: Option<&Path>) -> Result<Security, TransportError> {
    let Some(folder) = certificates else {
        return Ok(Security::Plain);
    };
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| TransportError::Identity {
            what: "this host's certificates",
            reason: format!(
                "cannot read {}: {error}; `chronovisor certificates` makes them",
                path.display()
            ),
        })
    };
    let [certificate, key, authority] = [CERTIFICATE, KEY, AUTHORITY].map(read);
    let identity = Identity::from_pem(&certificate?, &key?, &authority?)?;
    Ok(Security::Tls(identity))
}

/// File of a host's certificate.
pub const CERTIFICATE: &str = "certificate.pem";
/// File of its private key.
pub const KEY: &str = "key.pem";
/// File of the authority's certificate.
pub const AUTHORITY: &str = "authority.pem";

/// 128 bits that nobody can guess.
fn random_bits() -> io::Result<[u8; 16]> {
    let mut bits = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bits)?;
    Ok(bits)
}

/// A new session.
fn new_session() -> io::Result<Session> {
    random_bits().map(Session)
}

/// This host's address as another sees it, by the route there. Nothing is sent.
fn own_address(other: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match other {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(other)?;
    Ok(socket.local_addr()?.ip())
}

/// An error and what is behind it, in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
