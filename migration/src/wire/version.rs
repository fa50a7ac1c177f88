//! Versions of the wire, and how two sides agree on one.
//!
//! A release speaks its own version N and N-1. `Hello` and `Refuse` have the same form in all versions, so that two releases that share none can
//! still say so.

use std::fmt;

/// A version of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u16);

/// The version in the head of frames whose form never changes.
pub(super) const FROZEN: Version = Version(0);

/// The newest version that this release speaks.
pub const NEWEST: Version = Version(1);

/// The versions that this release speaks: N and N-1, where there is one before.
pub const SPOKEN: Versions = Versions {
    least: Version(1),
    greatest: NEWEST,
};

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Versions that somebody speaks, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The oldest.
    pub least: Version,
    /// The newest.
    pub greatest: Version,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.greatest {
            self.least.fmt(f)
        } else {
            write!(f, "{} to {}", self.least, self.greatest)
        }
    }
}

/// Two sides that share no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// The other side is too new.
    #[error(
        "the other host speaks version {theirs} of the migration protocol and this one {ours}: update this host"
    )]
    Newer {
        /// Spoken here.
        ours: Versions,
        /// Spoken there.
        theirs: Versions,
    },
    /// The other side is too old.
    #[error(
        "the other host speaks version {theirs} of the migration protocol and this one {ours}: update the other host"
    )]
    Older {
        /// Spoken here.
        ours: Versions,
        /// Spoken there.
        theirs: Versions,
    },
    /// No versions at all.
    #[error(
        "the other host claims to speak versions {theirs}, expected at least one from 1 on: it is damaged"
    )]
    Senseless {
        /// What it claims.
        theirs: Versions,
    },
}

impl Versions {
    /// Whether `version` is among them.
    #[must_use]
    pub fn contain(self, version: Version) -> bool {
        (self.least..=self.greatest).contains(&version)
    }

    /// The newest version that both sides speak.
    ///
    /// # Errors
    /// [`VersionError`] where there is none.
    pub fn agree(self, theirs: Self) -> Result<Version, VersionError> {
        let ours = self;
        if theirs.least <= FROZEN || theirs.least > theirs.greatest {
            return Err(VersionError::Senseless { theirs });
        }
        let shared = ours.greatest.min(theirs.greatest);
        if shared >= ours.least && shared >= theirs.least {
            Ok(shared)
        } else if theirs.least > ours.greatest {
            Err(VersionError::Newer { ours, theirs })
        } else {
            Err(VersionError::Older { ours, theirs })
        }
    }
}
