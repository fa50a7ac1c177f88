//! What of an RTP stream is needed to tell how it arrives (RFC 3550): its header, and counters that do not wrap around.

/// The fixed part of a header (RFC 3550, 5.1).
const FIXED: usize = 12;
/// The only version there is.
const VERSION: u8 = 2;
/// Ticks of a video stream's clock in a second; also that of MPEG-TS (RFC 3551, 5; RFC 2250, 2).
pub const CLOCK_RATE: u32 = 90_000;

/// The fields of a packet's header that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts packets, modulo 2^16, from a random beginning.
    pub sequence: u16,
    /// When what is in it was sampled, in ticks of [`CLOCK_RATE`], modulo 2^32, from a random beginning.
    pub timestamp: u32,
    /// The synchronisation source: which stream.
    pub source: u32,
    /// Bytes after the header, padding included.
    pub payload: usize,
}

/// Why a datagram is no RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// It is shorter than its header.
    #[error("{length} bytes are fewer than the {needed} of an RTP header")]
    Short {
        /// Its length.
        length: usize,
        /// The header's.
        needed: usize,
    },
    /// It is of another version.
    #[error("version {found} is not RTP's version 2")]
    Version {
        /// Which.
        found: u8,
    },
}

impl Header {
    /// Reads the header of a datagram.
    pub fn parse(datagram: &[u8]) -> Result<Self, RtpError> {
        let length = datagram.len();
        let short = |needed| RtpError::Short { length, needed };
        let (fixed, rest) = datagram.split_first_chunk::<FIXED>().ok_or(short(FIXED))?;
        let [first, _, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] = *fixed;
        if first >> 6 != VERSION {
            return Err(RtpError::Version { found: first >> 6 });
        }
        let contributing = usize::from(first & 0x0f) * 4;
        let extension = match first & 0x10 {
            0 => 0,
            _ => {
                let needed = FIXED + contributing + 4;
                let words = rest.get(contributing + 2..contributing + 4);
                let words = words.ok_or(short(needed))?;
                4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]))
            }
        };
        let needed = FIXED + contributing + extension;
        let payload = length.checked_sub(needed).ok_or(short(needed))?;
        Ok(Self {
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            source: u32::from_be_bytes([i0, i1, i2, i3]),
            payload,
        })
    }
}

/// Where a packet stands in its stream, counted without wrapping around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Its sequence number.
    pub sequence: i64,
    /// Its timestamp, in ticks.
    pub timestamp: i64,
}

/// Unwraps the counters of one stream: each is taken for the value nearest to that of the packet before
/// (RFC 3550, A.1, with half of the range for misordering and half for dropouts).
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrapping {
    last: Option<Position>,
}

impl Unwrapping {
    /// Goes on after a packet whose position is known.
    pub fn after(last: Position) -> Self {
        Self { last: Some(last) }
    }

    /// The position of the next packet that came.
    pub fn position(&mut self, header: &Header) -> Position {
        let last = self.last.unwrap_or(Position {
            sequence: i64::from(header.sequence),
            timestamp: i64::from(header.timestamp),
        });
        let sequence = header.sequence.wrapping_sub(low16(last.sequence));
        let timestamp = header.timestamp.wrapping_sub(low32(last.timestamp));
        let position = Position {
            sequence: last.sequence + i64::from(sequence.cast_signed()),
            timestamp: last.timestamp + i64::from(timestamp.cast_signed()),
        };
        self.last = Some(position);
        position
    }
}

fn low16(value: i64) -> u16 {
    let bytes = value.to_le_bytes();
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn low32(value: i64) -> u32 {
    let bytes = value.to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Ticks as seconds.
pub fn seconds(ticks: i64) -> f64 {
    // Ticks of a day are far below 2^52.
    ticks as f64 / f64::from(CLOCK_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet with contributing sources, an extension and a payload.
    fn packet(header: Header, (contributing, extension): (u8, Option<u16>)) -> Vec<u8> {
        let mut first = VERSION << 6 | contributing;
        if extension.is_some() {
            first |= 0x10;
        }
        let mut bytes = vec![first, 33];
        bytes.extend(header.sequence.to_be_bytes());
        bytes.extend(header.timestamp.to_be_bytes());
        bytes.extend(header.source.to_be_bytes());
        bytes.extend(vec![0xaa; usize::from(contributing) * 4]);
        if let Some(words) = extension {
            bytes.extend([0xbe, 0xde]);
            bytes.extend(words.to_be_bytes());
            bytes.extend(vec![0xbb; usize::from(words) * 4]);
        }
        bytes.extend(vec![0x47; header.payload]);
        bytes
    }

    prop_compose! {
        fn header()(sequence: u16, timestamp: u32, source: u32, payload in 0usize..1400) -> Header {
            Header { sequence, timestamp, source, payload }
        }
    }

    proptest! {
        #[test]
        fn a_header_is_read_back_whatever_stands_between_it_and_the_payload(
            header in header(), contributing in 0u8..16, extension in proptest::option::of(0u16..9)
        ) {
            let bytes = packet(header, (contributing, extension));
            prop_assert_eq!(Header::parse(&bytes), Ok(header));
        }

        #[test]
        fn a_datagram_that_ends_within_its_header_is_refused(
            header in header(), contributing in 0u8..16, extension in proptest::option::of(0u16..9), cut: prop::sample::Index
        ) {
            let bytes = packet(Header { payload: 0, ..header }, (contributing, extension));
            let cut = cut.index(bytes.len());
            let refused = matches!(Header::parse(&bytes[..cut]), Err(RtpError::Short { length, .. }) if length == cut);
            prop_assert!(refused);
        }

        #[test]
        fn any_datagram_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.payload + FIXED <= bytes.len());
            }
        }

        #[test]
        fn counters_go_on_where_the_packets_wrap_around_are_lost_and_are_reordered(
            first: u16, start: u32, steps in proptest::collection::vec((-20i64..200, -90_000i64..900_000), 1..300)
        ) {
            let (mut sequence, mut timestamp) = (i64::from(first), i64::from(start));
            let mut unwrapping = Unwrapping::default();
            let mut positions = vec![Position { sequence, timestamp }];
            for (packets, ticks) in steps {
                sequence += packets;
                timestamp += ticks;
                positions.push(Position { sequence, timestamp });
            }
            for position in positions {
                let header = Header {
                    sequence: low16(position.sequence),
                    timestamp: low32(position.timestamp),
                    source: 7,
                    payload: 0,
                };
                prop_assert_eq!(unwrapping.position(&header), position);
            }
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = [0; 20];
        bytes[0] = 0x40;
        assert_eq!(Header::parse(&bytes), Err(RtpError::Version { found: 1 }));
    }
}
