//! Requests to the kernel's network configuration (rtnetlink(7)), without an async runtime: several requests go in one
//! send, every answer is read, and what the kernel says about a refusal is in the error.
//!
//! A socket belongs to the network namespace it was opened in, whatever thread uses it later.

mod error;
mod transaction;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_MULTIPART,
    NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

pub use error::{NetlinkError, Refusal};
pub use transaction::{Step, Transaction};

/// The answers to so many requests fit a socket's receive buffer of the default size.
const AT_ONCE: usize = 64;
/// No answer is longer (NLMSG_GOODSIZE and dumps of 32 KiB, `netlink_dump` in net/netlink/af_netlink.c).
const ANSWER: usize = 1 << 16;
/// How often a list is asked for that changes while it is read.
const LISTS: usize = 8;
/// Bytes of an error code.
const CODE: usize = 4;
/// Bytes of a message's header.
const HEADER: usize = 16;
/// Flags of an answer: only the request's header is repeated; attributes follow (linux/netlink.h).
const CAPPED: u16 = 0x100;
const ATTRIBUTES: u16 = 0x200;
const ATTRIBUTE_TEXT: u16 = 1;

/// One change, and what it does in words.
#[derive(Debug, Clone)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
    does: String,
}

impl Request {
    /// A change of what exists, or a removal. `does` completes the sentence "cannot ...".
    pub fn new(does: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self {
            message,
            flags: 0,
            does: does.into(),
        }
    }

    /// Something new, refused when it exists.
    #[must_use]
    pub fn creating(mut self) -> Self {
        self.flags |= NLM_F_CREATE | NLM_F_EXCL;
        self
    }

    /// With more `NLM_F_` flags.
    #[must_use]
    pub fn with(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// What it does.
    #[must_use]
    pub fn does(&self) -> &str {
        &self.does
    }
}

/// A blocking socket to the network configuration of one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// Whether what was listed changed meanwhile: something of it may be missing.
    is_torn: bool,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink")
            .field("descriptor", &self.socket.as_raw_fd())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens a socket to the namespace of the calling thread.
    ///
    /// # Errors
    /// When the process has no descriptor left, or the kernel no network.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(|source| NetlinkError::Open { source })?,
            sequence: 0,
            is_torn: false,
            outgoing: Vec::new(),
            incoming: Vec::with_capacity(ANSWER),
        })
    }

    /// Its descriptor, for whoever must close or keep it.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Sends the requests in one message and reads every answer. The kernel takes them in order and goes on after a refusal.
    ///
    /// # Errors
    /// When the socket fails, or an answer is not understood. A refusal is an answer.
    pub fn send(&mut self, requests: &[Request]) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        let mut answers = Vec::with_capacity(requests.len());
        for some in requests.chunks(AT_ONCE) {
            let first = self.sequence.wrapping_add(1);
            self.outgoing.clear();
            for request in some {
                self.put(&request.message, request.flags | NLM_F_ACK);
            }
            self.write()?;
            for (number, request) in (0u32..).zip(some) {
                answers.push(self.answer(first.wrapping_add(number), request)?);
            }
        }
        Ok(answers)
    }

    /// Sends the requests as [`send`](Self::send) does; the first refusal is the error.
    ///
    /// # Errors
    /// As [`send`](Self::send), and refusals. What was not refused is done: a [`Transaction`] takes it back.
    pub fn apply(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        let answers = self.send(requests)?;
        answers
            .into_iter()
            .collect::<Result<(), _>>()
            .map_err(NetlinkError::Refused)
    }

    /// Begins changes that are taken back unless they are committed.
    pub fn transaction(&mut self) -> Transaction<'_> {
        Transaction {
            netlink: self,
            undo: Vec::new(),
        }
    }

    /// Everything of a kind that the kernel has. A list that changed while the kernel gave it, which it says
    /// (NLM_F_DUMP_INTR), is asked for again.
    ///
    /// # Errors
    /// When the socket fails, the kernel refuses, an answer is not understood, or the list never holds still.
    pub fn list(
        &mut self,
        does: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..LISTS {
            self.is_torn = false;
            let answers = self.ask(does, message.clone(), NLM_F_DUMP)?;
            if !self.is_torn {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Socket {
            action: "read from",
            source: io::ErrorKind::Interrupted.into(),
        })
    }

    /// The one thing that `message` describes.
    ///
    /// # Errors
    /// As [`list`](Self::list); the kernel refuses with ENODEV or ENOENT when there is no such thing.
    pub fn get(
        &mut self,
        does: &str,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        first_of(self.ask(does, message, 0)?, does)
    }

    /// The one thing that a lookup asks for; nothing if the kernel acknowledges it without a word.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn find(&mut self, lookup: &Request) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let flags = lookup.flags | NLM_F_ACK;
        let answers = self.ask(&lookup.does, lookup.message.clone(), flags)?;
        Ok(answers.into_iter().next())
    }

    /// One answer to each lookup, all sent at once.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn get_each(
        &mut self,
        lookups: &[Request],
    ) -> Result<Vec<Result<RouteNetlinkMessage, Refusal>>, NetlinkError> {
        let mut answers = Vec::with_capacity(lookups.len());
        for some in lookups.chunks(AT_ONCE) {
            let first = self.sequence.wrapping_add(1);
            self.outgoing.clear();
            for lookup in some {
                self.put(&lookup.message, lookup.flags);
            }
            self.write()?;
            for (number, lookup) in (0u32..).zip(some) {
                let answer = self.collect(&lookup.does, first.wrapping_add(number));
                answers.push(match answer {
                    Err(NetlinkError::Refused(refusal)) => Err(refusal),
                    answer => Ok(first_of(answer?, &lookup.does)?),
                });
            }
        }
        Ok(answers)
    }

    fn ask(
        &mut self,
        does: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.outgoing.clear();
        self.put(&message, flags);
        self.write()?;
        self.collect(does, self.sequence)
    }

    /// All that the kernel answers to the request with this number. An answer that is neither a list nor acknowledged ends
    /// with its first message.
    fn collect(
        &mut self,
        does: &str,
        number: u32,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut answers = Vec::new();
        while self.read_part(does, number, &mut answers)? {}
        Ok(answers)
    }

    /// Reads one datagram of an answer that has several messages; whether more will come.
    fn read_part(
        &mut self,
        does: &str,
        number: u32,
        answers: &mut Vec<RouteNetlinkMessage>,
    ) -> Result<bool, NetlinkError> {
        self.read()?;
        let mut rest = self.incoming.as_slice();
        while rest.len() >= HEADER {
            let (length, flags, sequence) = header(rest, does)?;
            let (this, after) = rest.split_at(aligned(length).min(rest.len()));
            rest = after;
            if sequence != number {
                continue;
            }
            self.is_torn |= flags & NLM_F_DUMP_INTR != 0;
            let is_part = flags & NLM_F_MULTIPART != 0;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(this)
                .map_err(|error| garbled(does, &error.to_string()))?;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => {
                    answers.push(inner);
                    if !is_part {
                        return Ok(false);
                    }
                }
                NetlinkPayload::Error(_) => {
                    let refusal = refusal(&this[HEADER..length], flags, does);
                    return refusal
                        .map_or(Ok(false), |refusal| Err(NetlinkError::Refused(refusal)));
                }
                // A list that the kernel could not finish ends with why.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(NetlinkError::Refused(Refusal {
                        does: does.to_owned(),
                        errno: Errno::from_raw(done.code.wrapping_neg()),
                        text: String::new(),
                    }));
                }
                NetlinkPayload::Done(_) => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    fn put(&mut self, message: &RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let at = self.outgoing.len();
        let length = HEADER + Emitable::buffer_len(message);
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        header.message_type = message.message_type();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        self.outgoing.resize(at + aligned(length), 0);
        header.emit(&mut self.outgoing[at..at + HEADER]);
        message.serialize(&mut self.outgoing[at + HEADER..at + length]);
    }

    fn write(&self) -> Result<(), NetlinkError> {
        self.socket
            .send(&self.outgoing, 0)
            .map(drop)
            .map_err(|source| NetlinkError::Socket {
                action: "write to",
                source,
            })
    }

    fn read(&mut self) -> Result<(), NetlinkError> {
        loop {
            self.incoming.clear();
            match self.socket.recv(&mut self.incoming, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let action = "read from";
                    return Err(NetlinkError::Socket { action, source });
                }
            }
        }
    }

    /// The kernel's answer to the request with this number; answers to earlier ones, left behind by an error, are passed over.
    fn answer(
        &mut self,
        number: u32,
        request: &Request,
    ) -> Result<Result<(), Refusal>, NetlinkError> {
        loop {
            self.read()?;
            let (length, flags, sequence) = header(&self.incoming, &request.does)?;
            if sequence == number && kind(&self.incoming) == libc::NLMSG_ERROR.unsigned_abs() {
                let refusal = refusal(&self.incoming[HEADER..length], flags, &request.does);
                return Ok(refusal.map_or(Ok(()), Err));
            }
        }
    }
}

fn first_of(
    answers: Vec<RouteNetlinkMessage>,
    does: &str,
) -> Result<RouteNetlinkMessage, NetlinkError> {
    let first = answers.into_iter().next();
    first.ok_or_else(|| garbled(does, "no answer"))
}

fn garbled(does: &str, reason: &str) -> NetlinkError {
    NetlinkError::Garbled {
        does: does.to_owned(),
        reason: reason.to_owned(),
    }
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Length, flags and sequence number of the message at the beginning of `bytes`.
fn header(bytes: &[u8], does: &str) -> Result<(usize, u16, u32), NetlinkError> {
    let message = NetlinkBuffer::new_checked(bytes).map_err(|e| garbled(does, &e.to_string()))?;
    let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
    Ok((length, message.flags(), message.sequence_number()))
}

fn kind(bytes: &[u8]) -> u32 {
    u32::from(NetlinkBuffer::new(bytes).message_type())
}

/// What an error message says; nothing if it is an acknowledgement.
fn refusal(payload: &[u8], flags: u16, does: &str) -> Option<Refusal> {
    let (code, rest) = payload.split_first_chunk::<CODE>()?;
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return None;
    }
    let repeated = if flags & CAPPED != 0 {
        HEADER
    } else {
        let length = rest
            .first_chunk::<4>()
            .map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        aligned(usize::try_from(length).unwrap_or(0))
    };
    let attributes = rest.get(repeated..).filter(|_| flags & ATTRIBUTES != 0);
    let text = NlasIterator::new(attributes.unwrap_or_default())
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == ATTRIBUTE_TEXT)
        .map(|attribute| text(attribute.value()));
    Some(Refusal {
        does: does.to_owned(),
        errno: Errno::from_raw(code.wrapping_neg()),
        text: text.unwrap_or_default(),
    })
}

/// A C string as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(bytes: Vec<u8>, flags: u16) {
            let _ = refusal(&bytes, flags, "do anything");
            let _ = header(&bytes, "do anything");
        }
    }

    #[test]
    fn the_kernels_own_words_are_in_the_error() {
        let mut payload = (-libc::EINVAL).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend([12u8, 0, 1, 0]);
        payload.extend(b"too big\0");
        let refusal = refusal(&payload, CAPPED | ATTRIBUTES, "add a class").unwrap();
        assert_eq!(
            refusal.to_string(),
            "cannot add a class: Invalid argument (too big)"
        );
    }

    #[test]
    fn a_lack_of_privilege_names_the_capability() {
        let refusal = Refusal {
            does: "add a bridge".to_owned(),
            errno: Errno::EPERM,
            text: String::new(),
        };
        assert!(refusal.to_string().contains("CAP_NET_ADMIN"), "{refusal}");
    }
}
