//! Digests: whether the destination holds what the source sent.
//!
//! A stream's digest of a round runs over the headers and contents of its pages, in the order in which they were sent. The digest of everything runs
//! over those of the last round, stream by stream, and over the parts of the state. Like the checksums of frames it finds accidents: a frame that was
//! taken for another stream's, a part that was left out.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::pages::PagesHeader;
use crate::ram::Part;

/// XXH3-64 over what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The digest of one stream's pages of one round.
#[derive(Clone, Default)]
pub struct RoundDigest(Box<Xxh3>);

impl RoundDigest {
    /// Adds a frame's pages, as they are on the wire.
    pub fn add(&mut self, header: &PagesHeader, bytes: &[u8]) {
        self.0.update(&header.to_bytes());
        self.0.update(&xxh3_64(bytes).to_le_bytes());
    }

    /// The digest of what was added; the next round begins anew.
    pub fn take(&mut self) -> Digest {
        let digest = Digest(self.0.digest());
        self.0.reset();
        digest
    }
}

/// The digest of everything that the switch-over sends.
#[derive(Clone, Default)]
pub struct StateDigest(Box<Xxh3>);

impl StateDigest {
    /// Adds a stream's digest of the last round; in the order of the streams' indices.
    pub fn stream(&mut self, digest: Digest) {
        self.0.update(&digest.0.to_le_bytes());
    }

    /// Adds a part of the state; in the order in which they are sent.
    pub fn part(&mut self, part: &Part) {
        let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes();
        self.0.update(&length(part.kind.as_bytes()));
        self.0.update(part.kind.as_bytes());
        self.0.update(&part.version.to_le_bytes());
        self.0.update(&length(&part.bytes));
        self.0.update(&part.bytes);
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(self.0.digest())
    }
}
