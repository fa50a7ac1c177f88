//! Frames: what every byte on a connection belongs to.
//!
//! | offset | bytes | field | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `CVMG` |
//! | 4 | 2 | version | of the payload; 0 for the kinds that never change ([`Kind::is_frozen`]) |
//! | 6 | 2 | kind | [`Kind`] |
//! | 8 | 8 | sequence number | from 0, per connection and direction |
//! | 16 | 4 | length | of the payload |
//! | 20 | 4 | check of the head | low half of XXH3-64 of the 20 bytes before |
//! | 24 | length | payload | |
//! | 24 + length | 8 | checksum | XXH3-64 of the payload, seeded with the sequence number |
//!
//! All numbers are little-endian. The head has a check of its own, so that a damaged length is seen before anybody waits for bytes that never come.
//! The checksums find accidents; forgery is the transport's matter (TLS).

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::error::FrameError;
use super::version::{FROZEN, Version, Versions};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"CVMG";
/// Bytes before a payload.
pub const HEAD_BYTES: usize = 24;
/// Bytes after a payload.
pub const TRAILER_BYTES: usize = 8;
/// Most bytes of pages in one frame: 256 pages as they are.
pub const MOST_PAGE_BYTES: usize = 1 << 20;
/// Most bytes of a part of the saved state.
pub const MOST_PART_BYTES: usize = 16 << 20;
/// Most bytes of any other payload.
pub const MOST_CONTROL_BYTES: usize = 64 << 10;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }
        }
    };
}

kinds! {
    /// Opens a control connection.
    Hello = 1,
    /// The destination does not take the guest.
    Refuse = 2,
    /// What is to be moved and what is promised.
    Offer = 3,
    /// The destination takes it.
    Accept = 4,
    /// Opens a data stream.
    Stream = 5,
    /// Pages, in the layout of [`super::pages`].
    Pages = 6,
    /// A stream has sent all its pages of a round.
    EndOfRound = 7,
    /// All pages of a round are in memory.
    RoundDone = 8,
    /// The source would switch over now.
    Switch = 9,
    /// So would the destination.
    SwitchReady = 10,
    /// A part of the saved state.
    Part = 11,
    /// Everything is sent: take it up.
    Prepare = 12,
    /// Everything is taken up.
    Prepared = 13,
    /// The guest is the destination's.
    Commit = 14,
    /// It runs there.
    Running = 15,
    /// The source has let go.
    Done = 16,
    /// The try is over.
    Abort = 17,
    /// Where does the session stand?
    Inquire = 18,
    /// There.
    Answer = 19,
    /// Not on a connection: the record of a session in its file.
    Journal = 20,
}

impl Kind {
    /// The greatest number.
    pub const LAST: u16 = 20;

    /// Most bytes of its payload.
    #[must_use]
    pub const fn most_bytes(self) -> usize {
        match self {
            Self::Pages => MOST_PAGE_BYTES + super::pages::PAGES_HEADER_BYTES,
            Self::Part => MOST_PART_BYTES + super::part::PART_HEADER_BYTES,
            _ => MOST_CONTROL_BYTES,
        }
    }

    /// Whether its form is the same in all versions, because it is used before one is agreed upon.
    #[must_use]
    pub const fn is_frozen(self) -> bool {
        matches!(self, Self::Hello | Self::Refuse)
    }
}

/// The head of a frame whose order, version and length were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub sequence: u64,
    /// Bytes of the payload.
    pub length: usize,
}

impl Head {
    /// Bytes to read after the head.
    #[must_use]
    pub const fn rest_bytes(self) -> usize {
        self.length + TRAILER_BYTES
    }

    /// The payload of the bytes after the head, which must be exactly [`Head::rest_bytes`].
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::Checksum`].
    pub fn payload<'a>(&self, rest: &'a [u8]) -> Result<&'a [u8], FrameError> {
        let truncated = FrameError::Truncated {
            got: rest.len(),
            needed: self.rest_bytes(),
        };
        let Some((payload, trailer)) = rest.split_at_checked(self.length) else {
            return Err(truncated);
        };
        let got = u64::from_le_bytes(trailer.try_into().map_err(|_| truncated)?);
        let expected = xxh3_64_with_seed(payload, self.sequence);
        if got == expected {
            return Ok(payload);
        }
        Err(FrameError::Checksum {
            kind: self.kind,
            sequence: self.sequence,
            got,
            expected,
        })
    }
}

/// The frames that come in one direction of a connection.
#[derive(Debug, Clone)]
pub struct Incoming {
    versions: Versions,
    next: u64,
}

impl Incoming {
    /// Frames of any of `versions`.
    #[must_use]
    pub const fn new(versions: Versions) -> Self {
        Self { versions, next: 0 }
    }

    /// From now on only frames of `version`, which was agreed upon.
    pub const fn agree(&mut self, version: Version) {
        self.versions = Versions {
            least: version,
            greatest: version,
        };
    }

    /// Checks the head of the next frame.
    ///
    /// # Errors
    /// All of [`FrameError`] but [`FrameError::Truncated`] and [`FrameError::Checksum`]. The connection is of no use afterwards.
    pub fn head(&mut self, bytes: &[u8; HEAD_BYTES]) -> Result<Head, FrameError> {
        let [m0, m1, m2, m3, v0, v1, k0, k1, numbers @ ..] = *bytes;
        let [s0, s1, s2, s3, s4, s5, s6, s7, l0, l1, l2, l3, check @ ..] = numbers;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::Magic { got: magic });
        }
        let (got, expected) = (u32::from_le_bytes(check), head_check(bytes));
        if got != expected {
            return Err(FrameError::Head {
                expected_sequence: self.next,
                got,
                expected,
            });
        }
        let number = u16::from_le_bytes([k0, k1]);
        let version = Version(u16::from_le_bytes([v0, v1]));
        let kind = Kind::from_number(number);
        self.check_version(kind, version)?;
        let head = Head {
            kind: kind.ok_or(FrameError::Kind { got: number })?,
            sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            length: usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX),
        };
        self.check_order(head)
    }

    fn check_version(&self, kind: Option<Kind>, got: Version) -> Result<(), FrameError> {
        let expected = match kind {
            Some(kind) if kind.is_frozen() => Versions {
                least: FROZEN,
                greatest: FROZEN,
            },
            _ => self.versions,
        };
        if expected.contain(got) {
            Ok(())
        } else {
            Err(FrameError::Version { got, expected })
        }
    }

    fn check_order(&mut self, head: Head) -> Result<Head, FrameError> {
        let Head {
            kind,
            sequence,
            length,
        } = head;
        if sequence != self.next {
            return Err(FrameError::Sequence {
                kind,
                got: sequence,
                expected: self.next,
            });
        }
        let most = kind.most_bytes();
        if length > most {
            return Err(FrameError::Length {
                kind,
                got: length,
                most,
            });
        }
        self.next += 1;
        Ok(head)
    }

    /// The next frame at the beginning of `bytes`, and the bytes after it; `None` where no byte is left.
    ///
    /// # Errors
    /// All of [`FrameError`].
    pub fn frame<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Cut<'a>>, FrameError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let truncated = |needed| FrameError::Truncated {
            got: bytes.len(),
            needed,
        };
        let (head, rest) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or(truncated(HEAD_BYTES))?;
        let head = self.head(head)?;
        let (frame, after) = rest
            .split_at_checked(head.rest_bytes())
            .ok_or(truncated(HEAD_BYTES + head.rest_bytes()))?;
        let payload = head.payload(frame)?;
        Ok(Some(Cut {
            head,
            payload,
            after,
        }))
    }
}

/// A frame cut from the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut<'a> {
    /// Its head.
    pub head: Head,
    /// Its payload.
    pub payload: &'a [u8],
    /// What comes after it.
    pub after: &'a [u8],
}

/// The frames that go out in one direction of a connection.
#[derive(Debug, Clone)]
pub struct Outgoing {
    version: Version,
    next: u64,
}

impl Outgoing {
    /// Frames of `version`.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self { version, next: 0 }
    }

    /// From now on frames of `version`, which was agreed upon.
    pub const fn agree(&mut self, version: Version) {
        self.version = version;
    }

    /// Appends a frame to `into`. `payload` appends the payload, so that it is written once, where it leaves from.
    ///
    /// # Errors
    /// [`FrameError::Length`]; `into` is then as it was.
    pub fn frame(
        &mut self,
        kind: Kind,
        into: &mut Vec<u8>,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), FrameError> {
        let start = into.len();
        into.extend([0; HEAD_BYTES]);
        payload(into);
        let length = into.len() - start - HEAD_BYTES;
        let sized = u32::try_from(length)
            .ok()
            .filter(|_| length <= kind.most_bytes());
        let Some(sized) = sized else {
            into.truncate(start);
            return Err(FrameError::Length {
                kind,
                got: length,
                most: kind.most_bytes(),
            });
        };
        let checksum = xxh3_64_with_seed(&into[start + HEAD_BYTES..], self.next);
        into[start..start + HEAD_BYTES].copy_from_slice(&self.head(kind, sized));
        into.extend(checksum.to_le_bytes());
        self.next += 1;
        Ok(())
    }

    fn head(&self, kind: Kind, length: u32) -> [u8; HEAD_BYTES] {
        let version = if kind.is_frozen() {
            FROZEN
        } else {
            self.version
        };
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4..6].copy_from_slice(&version.0.to_le_bytes());
        head[6..8].copy_from_slice(&kind.number().to_le_bytes());
        head[8..16].copy_from_slice(&self.next.to_le_bytes());
        head[16..20].copy_from_slice(&length.to_le_bytes());
        let check = head_check(&head);
        head[20..].copy_from_slice(&check.to_le_bytes());
        head
    }
}

fn head_check(head: &[u8; HEAD_BYTES]) -> u32 {
    let [b0, b1, b2, b3, ..] = xxh3_64(&head[..20]).to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}
