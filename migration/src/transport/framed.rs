//! Messages over a connection.

use std::time::Duration;

use super::{Breaker, Connection, TransportError};
use crate::wire::{
    FrameError, HEAD_BYTES, Incoming, Kind, Message, MessageError, NEWEST, Outgoing, PagesHeader,
    SPOKEN, Version,
};

/// Room for what was received and not yet read; grows to the largest frame that comes.
const BUFFER: usize = 256 << 10;

/// A connection that carries frames.
pub struct Framed {
    connection: Connection,
    incoming: Incoming,
    outgoing: Outgoing,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    unsent: Vec<u8>,
}

/// What came.
#[derive(Debug)]
pub enum Received<'a> {
    /// A message.
    Message(Message),
    /// Pages, and their bytes.
    Pages(PagesHeader, &'a [u8]),
}

impl Framed {
    /// Frames of any version that this release speaks, until one is agreed upon.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            incoming: Incoming::new(SPOKEN),
            outgoing: Outgoing::new(NEWEST),
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            unsent: Vec::new(),
        }
    }

    /// From now on only frames of this version.
    pub fn agree(&mut self, version: Version) {
        self.incoming.agree(version);
        self.outgoing.agree(version);
    }

    /// The connection.
    #[must_use]
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What ends the connection from another thread.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub fn breaker(&self) -> Result<Breaker, TransportError> {
        self.connection.breaker()
    }

    /// Whether bytes came that no message was made of yet.
    pub fn holds_bytes(&mut self) -> bool {
        self.start < self.end || self.connection.holds_bytes()
    }

    fn unreadable(&self, source: impl Into<MessageError>) -> TransportError {
        TransportError::Message {
            peer: self.connection.peer(),
            source: source.into(),
        }
    }

    /// Sends a message, and whatever waits to be sent before it.
    ///
    /// # Errors
    /// When the message is too long, or cannot be sent.
    pub fn say(&mut self, message: &Message) -> Result<(), TransportError> {
        let written = message.write(&mut self.outgoing, &mut self.unsent);
        written.map_err(|error| self.unreadable(error))?;
        self.flush()
    }

    /// Adds a frame to what waits to be sent. `payload` appends its payload.
    ///
    /// # Errors
    /// When it is too long.
    pub fn add(
        &mut self,
        kind: Kind,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), TransportError> {
        let added = self.outgoing.frame(kind, &mut self.unsent, payload);
        added.map_err(|error| self.unreadable(error))
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// When the other side takes nothing within the limit, or is gone.
    pub fn flush(&mut self) -> Result<(), TransportError> {
        self.connection.send(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    /// The next message, whose first byte must come before `limit` is over; none once the other side has closed in order.
    ///
    /// # Errors
    /// When nothing comes, or what comes is no message.
    pub fn hear(&mut self, limit: Duration) -> Result<Option<Received<'_>>, TransportError> {
        if self.start == self.end && !self.connection.wait(limit)? {
            return Err(TransportError::Stalled {
                peer: self.connection.peer(),
                what: "say anything",
                limit,
            });
        }
        let Some(head) = self.next_bytes(HEAD_BYTES)? else {
            return Ok(None);
        };
        let (head, _) = self.buffer[head..]
            .split_first_chunk()
            .expect("so many bytes were awaited");
        let head = self
            .incoming
            .head(head)
            .map_err(|error| self.unreadable(error))?;
        let rest = self.next_bytes(head.rest_bytes())?;
        let rest = rest.ok_or(TransportError::Closed {
            peer: self.connection.peer(),
        })?;
        let bytes = &self.buffer[rest..rest + head.rest_bytes()];
        let read = head
            .payload(bytes)
            .map_err(MessageError::from)
            .and_then(|payload| {
                if head.kind == Kind::Pages {
                    let (header, bytes) = PagesHeader::parse(payload)?;
                    return Ok(Received::Pages(header, bytes));
                }
                Message::read(head.kind, payload).map(Received::Message)
            });
        let peer = self.connection.peer();
        read.map(Some)
            .map_err(|source| TransportError::Message { peer, source })
    }

    /// Takes so many bytes out of the buffer, once they are there; where they begin. None when the other side has closed before the first.
    fn next_bytes(&mut self, count: usize) -> Result<Option<usize>, TransportError> {
        if self.buffer.len() - self.start < count {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() < count {
                self.buffer.resize(count, 0);
            }
        }
        while self.end - self.start < count {
            let got = self.connection.receive_some(&mut self.buffer[self.end..])?;
            if got == 0 && self.end == self.start {
                return Ok(None);
            }
            if got == 0 {
                let (got, needed) = (self.end - self.start, count);
                return Err(self.unreadable(FrameError::Truncated { got, needed }));
            }
            self.end += got;
        }
        let begin = self.start;
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(Some(begin))
    }
}
