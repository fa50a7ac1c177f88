//! Streams of constant bit rate: RTP (RFC 3550) over UDP, a video frame in every period, split into packets.
//!
//! The rate is counted on the wire: Ethernet, IPv4, UDP and RTP headers included. What is not whole bytes is carried over, so
//! that n frames together are exact to a byte. Each payload begins with the frame's number and the guest's time at which the
//! packet was made, both 64 bits and big-endian; the rest is zero.

/// Bytes of an RTP header without contributors.
pub const HEADER: usize = 12;
/// Bytes of a payload that mean something.
pub const STAMPS: usize = 16;
/// Bytes of Ethernet, IPv4, UDP and RTP headers.
pub const OVERHEAD: u64 = 14 + 20 + 8 + HEADER as u64;
/// Bytes on the wire of the largest packet: an Ethernet frame of 1500 bytes.
pub const LARGEST_PACKET: u64 = 1514;
/// Bytes on the wire of the smallest frame.
pub const LEAST_FRAME: u64 = 128;
/// Bytes on the wire of the largest frame.
pub const LARGEST_FRAME: u64 = 65_536;
/// Ticks of an RTP timestamp in a second, for video.
pub const CLOCK_HZ: u64 = 90_000;
/// The payload type: the first dynamic one (RFC 3551).
pub const PAYLOAD_TYPE: u8 = 96;

const VERSION_2: u8 = 0x80;
const MARKER: u8 = 0x80;

/// A frame of a stream, and how it is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its number, from 0.
    pub number: u64,
    /// Its packets.
    pub packets: u32,
    /// Bytes of all its packets on the wire.
    pub bytes: u64,
}

/// What the header and the beginning of the payload of a packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whether it is the last of its frame.
    pub last: bool,
    /// Its number in the stream; it wraps.
    pub sequence: u16,
    /// When its frame was due, in ticks of [`CLOCK_HZ`]; it wraps.
    pub timestamp: u32,
    /// Which stream (SSRC).
    pub source: u32,
    /// Number of its frame.
    pub frame: u64,
    /// When it was made, in nanoseconds of the guest's clock.
    pub made: u64,
}

impl Frame {
    /// Frame `number` of a stream of `rate` bits per second with a frame every `period` nanoseconds.
    #[must_use]
    pub fn new(number: u64, rate: u64, period: u64) -> Self {
        let until = |frames: u64| {
            let bits = u128::from(rate) * u128::from(period) * u128::from(frames);
            bits / 8_000_000_000
        };
        let bytes = until(number.saturating_add(1)) - until(number);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(LARGEST_FRAME);
        let packets = bytes.div_ceil(LARGEST_PACKET).max(1);
        Self {
            number,
            packets: u32::try_from(packets).unwrap_or(1),
            bytes: bytes.max(OVERHEAD + STAMPS as u64),
        }
    }

    /// Bytes of RTP header and payload of packet `index`.
    #[must_use]
    pub fn size(&self, index: u32) -> usize {
        let packets = u64::from(self.packets);
        let payload = self.bytes.saturating_sub(packets * OVERHEAD);
        let more = u64::from(u64::from(index) < payload % packets);
        let size = payload / packets + more;
        // At most LARGEST_PACKET.
        HEADER + usize::try_from(size).unwrap_or(0).max(STAMPS)
    }

    /// The timestamp of its packets.
    #[must_use]
    pub fn timestamp(&self, period: u64) -> u32 {
        let ticks = u128::from(self.number) * u128::from(period) * u128::from(CLOCK_HZ);
        // Wraps, as RFC 3550 has it.
        u32::try_from(ticks / 1_000_000_000 % (1 << 32)).unwrap_or(0)
    }
}

impl Packet {
    /// Writes the packet; `room` is as long as it is to be.
    pub fn write(&self, room: &mut [u8]) {
        let marker = if self.last { MARKER } else { 0 };
        let [s0, s1] = self.sequence.to_be_bytes();
        let mut bytes = [0; HEADER + STAMPS];
        let (header, stamps) = bytes.split_at_mut(HEADER);
        header.copy_from_slice(&[
            VERSION_2,
            marker | PAYLOAD_TYPE,
            s0,
            s1,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        header[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        header[8..].copy_from_slice(&self.source.to_be_bytes());
        stamps[..8].copy_from_slice(&self.frame.to_be_bytes());
        stamps[8..].copy_from_slice(&self.made.to_be_bytes());
        let kept = room.len().min(bytes.len());
        let (front, rest) = room.split_at_mut(kept);
        front.copy_from_slice(&bytes[..kept]);
        rest.fill(0);
    }

    /// Reads a packet as [`Packet::write`] makes it.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let [frame, made] = *rest.as_chunks().0.first_chunk()?;
        let [version, kind, s0, s1, t0, t1, t2, t3, source @ ..] = *header;
        (version == VERSION_2 && kind & !MARKER == PAYLOAD_TYPE).then_some(Self {
            last: kind & MARKER != 0,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            source: u32::from_be_bytes(source),
            frame: u64::from_be_bytes(frame),
            made: u64::from_be_bytes(made),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taskset::Stream;
    use proptest::prelude::*;

    #[test]
    fn the_streams_of_the_paper_have_five_packets_in_a_frame() {
        let frame = Frame::new(7, Stream::RATE, Stream::PERIOD);
        assert_eq!((frame.bytes, frame.packets), (6070, 5));
        assert_eq!(frame.timestamp(Stream::PERIOD), 7 * 3600);
        assert_eq!(frame.size(0), HEADER + 1160);
    }

    proptest! {
        #[test]
        fn frames_keep_the_rate_to_a_byte_and_packets_their_size(
            period in 1_000_000u64..1_000_000_000,
            bytes in LEAST_FRAME..LARGEST_FRAME,
            first in 0u64..1 << 40,
        ) {
            let rate = bytes * 8_000_000_000 / period;
            let frames = (first..first + 100).map(|number| Frame::new(number, rate, period));
            let mut sum = 0;
            for frame in frames {
                let wire: u64 = (0..frame.packets).map(|i| frame.size(i) as u64 - HEADER as u64 + OVERHEAD).sum();
                prop_assert_eq!(wire, frame.bytes);
                prop_assert!((0..frame.packets).all(|i| frame.size(i) as u64 - HEADER as u64 + OVERHEAD <= LARGEST_PACKET));
                sum += frame.bytes;
            }
            let exact = u128::from(rate) * u128::from(period) * 100 / 8_000_000_000;
            prop_assert!(u128::from(sum).abs_diff(exact) <= 1);
        }

        #[test]
        fn a_packet_reads_as_it_was_written(
            last: bool, sequence: u16, timestamp: u32, source: u32, frame: u64, made: u64, more in 0usize..99,
        ) {
            let packet = Packet { last, sequence, timestamp, source, frame, made };
            let mut bytes = std::vec![0xa5; HEADER + STAMPS + more];
            packet.write(&mut bytes);
            prop_assert_eq!(Packet::read(&bytes), Some(packet));
            prop_assert!(bytes[HEADER + STAMPS..].iter().all(|b| *b == 0));
        }

        #[test]
        fn nothing_that_comes_panics_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Packet::read(&bytes);
        }
    }
}
