//! Messages: what the two sides of a migration say to each other, one per frame.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::MessageError;
use super::frame::{Kind, Outgoing};
use super::part;
use super::version::{Version, Versions};
use crate::ram::Part;

/// Most bytes of a guest's name, of a reason and of an address.
pub const LONGEST_TEXT: usize = 1024;
/// Most bytes of a specification or of facts about a host.
pub const MOST_OPAQUE: usize = 32 << 10;
/// Most data streams of a session.
pub const MOST_STREAMS: u16 = 64;

macro_rules! random_bits {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

random_bits! {
    /// Names one try to move one guest: 128 random bits, drawn by the source.
    Session
}
random_bits! {
    /// Names one life of a host between two starts (`/proc/sys/kernel/random/boot_id`). Another one means that every process of before is dead, and that
    /// what was not forced to disk may be forgotten.
    Boot
}

/// What a data stream shows to belong to a session: 128 random bits, drawn by the destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token(pub [u8; 16]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

/// Opens a control connection; its form never changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Versions that its sender speaks.
    pub versions: Versions,
    /// The session.
    pub session: Session,
    /// The guest's name.
    pub name: String,
}

/// The destination does not take the guest; its form never changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refuse {
    /// Why.
    pub reason: String,
    /// What it would take instead, as `drive` writes it down; may be empty.
    pub nearest: Vec<u8>,
}

/// What is to be moved and what is promised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// The guest's specification, as its owner wrote it down.
    pub spec: Vec<u8>,
    /// Bytes of the guest's memory.
    pub memory_bytes: u64,
    /// Promised downtime in nanoseconds.
    pub downtime_ns: u64,
    /// Promised total time in nanoseconds.
    pub finish_ns: u64,
    /// Probability with which both are promised, in millionths.
    pub confidence_ppm: u32,
    /// Data streams that the source would open.
    pub streams: u16,
    /// One bit per feature that the source would use.
    pub features: u64,
    /// The source host's life.
    pub boot: Boot,
    /// Where the source's host answers inquiries about the session: one address or several, divided by commas, to be asked in this order until one
    /// answers anything. The session's own process comes first, the host's desk, which answers for the dead, last.
    pub inquiries: String,
}

/// The destination takes the guest and holds what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accept {
    /// What streams show.
    pub token: Token,
    /// Data streams that it takes.
    pub streams: u16,
    /// One bit per feature of those offered that it has.
    pub features: u64,
    /// The destination host's life.
    pub boot: Boot,
    /// Where the destination's host answers inquiries about the session, as [`Offer::inquiries`].
    pub inquiries: String,
    /// Speed and facts of the host, as its owner wrote them down.
    pub facts: Vec<u8>,
}

/// Opens a data stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stream {
    /// The session.
    pub session: Session,
    /// From [`Accept`].
    pub token: Token,
    /// Which of the streams, from 0.
    pub index: u16,
}

/// A stream has sent all its pages of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndOfRound {
    /// The round.
    pub round: u32,
    /// Pages that this stream sent in it.
    pub pages: u64,
    /// Over all of them.
    pub digest: Digest,
}

/// Everything is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prepare {
    /// The last round, which was sent while the guest stood.
    pub round: u32,
    /// Parts of the state that were sent.
    pub parts: u32,
    /// Over the last round and the state.
    pub digest: Digest,
}

/// One end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// Where the guest was.
    Source,
    /// Where it shall be.
    Destination,
}

impl Side {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Where a side stands: all that the other one needs to know once their connection is lost (`protocol::desk`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// No such session, and none will come: it never was, was aborted, or is finished.
    Nothing,
    /// Alive and undecided.
    Open,
    /// Source: the guest is the destination's, and never runs here again.
    Committed,
    /// Source: as committed, and its process is dead.
    Orphaned,
    /// Destination: complete, and waits for the decision.
    Prepared,
    /// Destination: complete, but it could not be started; the source may have it back.
    Declined,
    /// Destination: the guest runs or ran here.
    Running,
}

/// A question about a session that says where the asker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inquire {
    /// The session.
    pub session: Session,
    /// Which side asks.
    pub from: Side,
    /// Where it stands.
    pub standing: Standing,
    /// The life of its host.
    pub boot: Boot,
}

/// The answer to [`Inquire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// Where the answering side stands.
    pub standing: Standing,
    /// The life of its host.
    pub boot: Boot,
}

/// Everything that is said but pages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is told at its kind")]
pub enum Message {
    Hello(Hello),
    Refuse(Refuse),
    Offer(Offer),
    Accept(Accept),
    Stream(Stream),
    EndOfRound(EndOfRound),
    RoundDone { round: u32 },
    Switch,
    SwitchReady,
    Part(Part),
    Prepare(Prepare),
    Prepared,
    Commit,
    Running,
    Done,
    Abort { reason: String },
    Inquire(Inquire),
    Answer(Answer),
}

impl Message {
    /// Its kind of frame.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Refuse(_) => Kind::Refuse,
            Self::Offer(_) => Kind::Offer,
            Self::Accept(_) => Kind::Accept,
            Self::Stream(_) => Kind::Stream,
            Self::EndOfRound(_) => Kind::EndOfRound,
            Self::RoundDone { .. } => Kind::RoundDone,
            Self::Switch => Kind::Switch,
            Self::SwitchReady => Kind::SwitchReady,
            Self::Part(_) => Kind::Part,
            Self::Prepare(_) => Kind::Prepare,
            Self::Prepared => Kind::Prepared,
            Self::Commit => Kind::Commit,
            Self::Running => Kind::Running,
            Self::Done => Kind::Done,
            Self::Abort { .. } => Kind::Abort,
            Self::Inquire(_) => Kind::Inquire,
            Self::Answer(_) => Kind::Answer,
        }
    }

    /// Appends the message as the next frame of a connection.
    ///
    /// # Errors
    /// [`MessageError::Field`], [`super::FrameError::Length`]; `into` is then as it was.
    pub fn write(&self, out: &mut Outgoing, into: &mut Vec<u8>) -> Result<(), MessageError> {
        let payload = self.payload()?;
        out.frame(self.kind(), into, |frame| frame.extend(payload))?;
        Ok(())
    }

    fn payload(&self) -> Result<Vec<u8>, MessageError> {
        self.check()?;
        let kind = self.kind();
        match self {
            Self::Hello(hello) => Ok(hello.to_bytes()),
            Self::Refuse(refuse) => Ok(refuse.to_bytes()),
            Self::Part(part) => {
                let mut bytes = Vec::with_capacity(part.bytes.len() + part::PART_HEADER_BYTES);
                part::write(part, &mut bytes).map(|()| bytes)
            }
            Self::Offer(offer) => pack(kind, offer),
            Self::Accept(accept) => pack(kind, accept),
            Self::Stream(stream) => pack(kind, stream),
            Self::EndOfRound(end) => pack(kind, end),
            Self::RoundDone { round } => pack(kind, round),
            Self::Prepare(prepare) => pack(kind, prepare),
            Self::Abort { reason } => pack(kind, reason),
            Self::Inquire(inquire) => pack(kind, inquire),
            Self::Answer(answer) => pack(kind, answer),
            Self::Switch
            | Self::SwitchReady
            | Self::Prepared
            | Self::Commit
            | Self::Running
            | Self::Done => Ok(Vec::new()),
        }
    }

    /// Reads the payload of a frame of `kind`.
    ///
    /// # Errors
    /// All of [`MessageError`]. The connection is of no use afterwards.
    pub fn read(kind: Kind, payload: &[u8]) -> Result<Self, MessageError> {
        let empty = |message: Self| match payload.len() {
            0 => Ok(message),
            bytes => Err(MessageError::LeftOver { kind, bytes }),
        };
        let message = match kind {
            Kind::Hello => Hello::from_bytes(payload).map(Self::Hello),
            Kind::Refuse => Refuse::from_bytes(payload).map(Self::Refuse),
            Kind::Offer => unpack(kind, payload).map(Self::Offer),
            Kind::Accept => unpack(kind, payload).map(Self::Accept),
            Kind::Stream => unpack(kind, payload).map(Self::Stream),
            Kind::Pages | Kind::Journal => Err(MessageError::Misplaced { kind }),
            Kind::EndOfRound => unpack(kind, payload).map(Self::EndOfRound),
            Kind::RoundDone => unpack(kind, payload).map(|round| Self::RoundDone { round }),
            Kind::Switch => empty(Self::Switch),
            Kind::SwitchReady => empty(Self::SwitchReady),
            Kind::Part => part::read(payload).map(Self::Part),
            Kind::Prepare => unpack(kind, payload).map(Self::Prepare),
            Kind::Prepared => empty(Self::Prepared),
            Kind::Commit => empty(Self::Commit),
            Kind::Running => empty(Self::Running),
            Kind::Done => empty(Self::Done),
            Kind::Abort => unpack(kind, payload).map(|reason| Self::Abort { reason }),
            Kind::Inquire => unpack(kind, payload).map(Self::Inquire),
            Kind::Answer => unpack(kind, payload).map(Self::Answer),
        }?;
        message.check()?;
        Ok(message)
    }

    /// Bounds of fields, the same for what goes out and what comes in.
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Hello(hello) => bound("length of a guest's name", hello.name.len()),
            Self::Refuse(refuse) => {
                opaque("length of the nearest offer", refuse.nearest.len())?;
                bound("length of a reason", refuse.reason.len())
            }
            Self::Abort { reason } => bound("length of a reason", reason.len()),
            Self::Offer(offer) => {
                opaque("length of a specification", offer.spec.len())?;
                streams(offer.streams)?;
                bound("length of an address", offer.inquiries.len())
            }
            Self::Accept(accept) => {
                opaque("length of a host's facts", accept.facts.len())?;
                streams(accept.streams)?;
                bound("length of an address", accept.inquiries.len())
            }
            _ => Ok(()),
        }
    }
}

fn bound(what: &'static str, got: usize) -> Result<(), MessageError> {
    within(what, got, 1, LONGEST_TEXT)
}

fn opaque(what: &'static str, got: usize) -> Result<(), MessageError> {
    within(what, got, 0, MOST_OPAQUE)
}

fn streams(count: u16) -> Result<(), MessageError> {
    within(
        "number of streams",
        count.into(),
        1,
        usize::from(MOST_STREAMS),
    )
}

fn within(what: &'static str, got: usize, least: usize, most: usize) -> Result<(), MessageError> {
    if (least..=most).contains(&got) {
        Ok(())
    } else {
        Err(MessageError::Field { what, got, most })
    }
}

fn pack(kind: Kind, value: &impl Serialize) -> Result<Vec<u8>, MessageError> {
    postcard::to_allocvec(value).map_err(|error| MessageError::Payload {
        kind,
        bytes: 0,
        reason: error.to_string(),
    })
}

fn unpack<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, MessageError> {
    let (value, rest) =
        postcard::take_from_bytes(payload).map_err(|error| MessageError::Payload {
            kind,
            bytes: payload.len(),
            reason: error.to_string(),
        })?;
    match rest.len() {
        0 => Ok(value),
        bytes => Err(MessageError::LeftOver { kind, bytes }),
    }
}

fn text(kind: Kind, bytes: &[u8]) -> Result<String, MessageError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| MessageError::Payload {
        kind,
        bytes: bytes.len(),
        reason: "it is no UTF-8 text".to_owned(),
    })
}

fn too_short(kind: Kind, payload: &[u8]) -> MessageError {
    MessageError::Payload {
        kind,
        bytes: payload.len(),
        reason: "it is too short".to_owned(),
    }
}

impl Hello {
    /// Least (2) and greatest version (2), session (16), and the rest is the name.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20 + self.name.len());
        bytes.extend(self.versions.least.0.to_le_bytes());
        bytes.extend(self.versions.greatest.0.to_le_bytes());
        bytes.extend(self.session.0);
        bytes.extend(self.name.as_bytes());
        bytes
    }

    fn from_bytes(payload: &[u8]) -> Result<Self, MessageError> {
        let short = || too_short(Kind::Hello, payload);
        let ([l0, l1, g0, g1], rest) = payload.split_first_chunk::<4>().ok_or_else(short)?;
        let (session, name) = rest.split_first_chunk::<16>().ok_or_else(short)?;
        Ok(Self {
            versions: Versions {
                least: Version(u16::from_le_bytes([*l0, *l1])),
                greatest: Version(u16::from_le_bytes([*g0, *g1])),
            },
            session: Session(*session),
            name: text(Kind::Hello, name)?,
        })
    }
}

impl Refuse {
    /// Length of the reason (2), the reason, and the rest is the nearest offer.
    fn to_bytes(&self) -> Vec<u8> {
        let length = u16::try_from(self.reason.len()).unwrap_or(u16::MAX);
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(self.reason.as_bytes());
        bytes.extend(&self.nearest);
        bytes
    }

    fn from_bytes(payload: &[u8]) -> Result<Self, MessageError> {
        let short = || too_short(Kind::Refuse, payload);
        let (length, rest) = payload.split_first_chunk::<2>().ok_or_else(short)?;
        let (reason, nearest) = rest
            .split_at_checked(usize::from(u16::from_le_bytes(*length)))
            .ok_or_else(short)?;
        Ok(Self {
            reason: text(Kind::Refuse, reason)?,
            nearest: nearest.to_vec(),
        })
    }
}
