//! What can be wrong with bytes that claim to be frames and messages: what was got, and what was expected.

use super::frame::{Kind, MAGIC};
use super::version::{Version, Versions};

/// Why bytes are no frame, or not the frame that comes next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something else speaks.
    #[error(
        "a frame begins with {got:02x?}, expected {MAGIC:02x?}: this is no migration connection"
    )]
    Magic {
        /// The first bytes.
        got: [u8; 4],
    },
    /// A version that is not spoken here, or not the one agreed upon.
    #[error("a frame of version {got}, expected {expected}: use releases that follow one another")]
    Version {
        /// The version in the frame.
        got: Version,
        /// The versions that are taken.
        expected: Versions,
    },
    /// A kind that version 1 does not have.
    #[error("unknown kind of frame {got}, expected 1 to {}", Kind::LAST)]
    Kind {
        /// Its number.
        got: u16,
    },
    /// The head was damaged.
    #[error(
        "the head of frame {expected_sequence} is damaged: its check is {got:#010x}, expected {expected:#010x}"
    )]
    Head {
        /// The frame that was expected.
        expected_sequence: u64,
        /// The check it carries.
        got: u32,
        /// The check of its bytes.
        expected: u32,
    },
    /// A frame came twice or out of order, or one is missing.
    #[error("frame {got} of kind {kind:?}, expected frame {expected}: {}", order(*got, *expected))]
    Sequence {
        /// Its kind.
        kind: Kind,
        /// Its number.
        got: u64,
        /// The number that comes next.
        expected: u64,
    },
    /// More than such a frame may carry.
    #[error("{kind:?} of {got} bytes, expected at most {most}")]
    Length {
        /// Its kind.
        kind: Kind,
        /// Bytes of the payload.
        got: usize,
        /// Most bytes of such a payload.
        most: usize,
    },
    /// The bytes end inside of a frame.
    #[error("truncated: {got} bytes of a frame, expected {needed}")]
    Truncated {
        /// Bytes there are.
        got: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The payload was damaged.
    #[error(
        "{kind:?}, frame {sequence}, is damaged: its checksum is {got:#018x}, expected {expected:#018x}"
    )]
    Checksum {
        /// Its kind.
        kind: Kind,
        /// Its number.
        sequence: u64,
        /// The checksum it carries.
        got: u64,
        /// The checksum of its bytes.
        expected: u64,
    },
}

fn order(got: u64, expected: u64) -> &'static str {
    if got < expected {
        "it is repeated or late"
    } else {
        "frames are missing before it"
    }
}

/// Why a payload is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The frame is wrong already.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The payload is not what its kind asks for.
    #[error("{kind:?} of {bytes} bytes cannot be read: {reason}")]
    Payload {
        /// Its kind.
        kind: Kind,
        /// Its length.
        bytes: usize,
        /// What is wrong.
        reason: String,
    },
    /// Something follows the message.
    #[error("{kind:?} is followed by {bytes} bytes, expected none")]
    LeftOver {
        /// Its kind.
        kind: Kind,
        /// How many.
        bytes: usize,
    },
    /// A field is beyond its bound.
    #[error("{what} is {got}, expected 1 to {most}")]
    Field {
        /// The field.
        what: &'static str,
        /// Its length or value.
        got: usize,
        /// The most.
        most: usize,
    },
    /// A `Pages` frame that contradicts itself.
    #[error("pages: {reason}")]
    Pages {
        /// What is wrong.
        reason: String,
    },
    /// A `Part` frame that cannot be read.
    #[error("part of the state: {reason}")]
    Part {
        /// What is wrong.
        reason: String,
    },
    /// A frame that is no message where one was expected.
    #[error("{kind:?} where a message was expected")]
    Misplaced {
        /// Its kind.
        kind: Kind,
    },
}
