//! Why the kernel refuses, in its own words.

use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::kernel;

/// Why the kernel's network configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a socket to the kernel's network configuration: enable CONFIG_NET")]
    Open {
        /// The operating system's reason.
        source: io::Error,
    },
    /// The socket failed.
    #[error("cannot {action} the kernel's network configuration: try again")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The kernel said no.
    #[error("{0}")]
    Refused(Refusal),
    /// There is none of that name in this network namespace.
    #[error("there is no interface {name}: see `ip link` for those there are")]
    NoInterface {
        /// The name asked for.
        name: String,
    },
    /// Not what the kernel takes for a name (`dev_valid_name` in net/core/dev.c).
    #[error(
        "`{name}` is no name for an interface: write 1 to {} characters without spaces, `/` and `:`",
        kernel::NAME
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// It failed, and so did taking back what was done before.
    #[error("{failed}; nor can what was done before that be taken back: {undoing}")]
    Partly {
        /// Why it failed.
        failed: Box<NetlinkError>,
        /// Why a part of it stays.
        undoing: Box<NetlinkError>,
    },
    /// An answer of the kernel that is not understood.
    #[error(
        "the kernel's answer to `{does}` is not understood ({reason}): report this with the kernel's version"
    )]
    Garbled {
        /// What was asked for.
        does: String,
        /// Where understanding ended.
        reason: String,
    },
}

impl NetlinkError {
    /// The error number with which the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            Self::NoInterface { .. } => Some(Errno::ENODEV),
            Self::Partly { failed, .. } => failed.errno(),
            _ => None,
        }
    }

    /// Whether a part of what failed stays.
    #[must_use]
    pub fn is_in_part(&self) -> bool {
        matches!(self, Self::Partly { .. })
    }
}

/// A request that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the request was to do, as in "cannot ...".
    pub does: String,
    /// Why not.
    pub errno: Errno,
    /// The kernel's own words; empty when it said nothing.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { does, errno, text } = self;
        write!(f, "cannot {does}: {}", errno.desc())?;
        if !text.is_empty() {
            write!(f, " ({})", text.trim_end_matches('.'))?;
        }
        match errno {
            Errno::EPERM => f.write_str("; give the process CAP_NET_ADMIN"),
            Errno::ENODEV => f.write_str(
                "; the interface is gone or never was: see `ip link` for those there are",
            ),
            _ => Ok(()),
        }
    }
}
