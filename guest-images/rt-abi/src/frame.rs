//! Checksums of Ethernet frames that carry TCP or UDP over IPv4 (RFC 1071, 768, 9293), where a network device may leave them
//! to the other side: virtio 1.2, 5.1.6.

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where a frame's transport header is, and how far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Its first byte, counted from the frame's.
    pub start: u16,
    /// Where its checksum is, counted from `start`.
    pub checksum: u16,
    /// Bytes of all headers up to the payload.
    pub headers: u16,
    protocol: u8,
    /// Bytes of transport header and payload.
    length: usize,
}

impl Transport {
    /// The transport header of a frame; `None` if it is neither TCP nor UDP over IPv4, is a fragment, or is cut short.
    ///
    /// The length is the frame's rather than the one in the IP header: a frame that is still to be segmented may be too long for
    /// that.
    fn find(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        let version_and_length = *ip.first()?;
        let header = usize::from(version_and_length & 0xf) * 4;
        let more_fragments = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
        let is_ip = frame.get(12..ETHERNET)? == [8, 0] && version_and_length >> 4 == 4;
        if !is_ip || header < 20 || more_fragments != 0 {
            return None;
        }
        let protocol = *ip.get(9)?;
        let payload = ip.get(header..)?;
        let (checksum, length) = match protocol {
            TCP => (16, usize::from(payload.get(12)? >> 4) * 4),
            UDP => (6, 8),
            _ => return None,
        };
        if length < 8 || payload.len() < length.max(checksum + 2) {
            return None;
        }
        let start = ETHERNET + header;
        Some(Self {
            start: u16::try_from(start).ok()?,
            checksum: u16::try_from(checksum).ok()?,
            headers: u16::try_from(start + length).ok()?,
            protocol,
            length: payload.len(),
        })
    }

    /// The sum over addresses, protocol and length that goes into the checksum.
    fn pseudo_header(&self, frame: &[u8]) -> u32 {
        let addresses = frame.get(ETHERNET + 12..ETHERNET + 20).unwrap_or_default();
        let length = u32::try_from(self.length).unwrap_or(0);
        sum(addresses) + u32::from(self.protocol) + (length & 0xffff) + (length >> 16)
    }
}

/// The sum of big-endian 16-bit words, the last one filled up with a zero byte; for up to 128 KiB.
fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let whole: u32 = pairs
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    whole + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

/// Folds a sum into 16 bits.
fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    u16::try_from(twice).unwrap_or(u16::MAX)
}

/// Puts the pseudo header's sum where the checksum of `frame` will be, and says where that is: then the device only has to sum
/// up what follows. `None` if the frame has no such checksum.
pub fn leave_checksum(frame: &mut [u8]) -> Option<Transport> {
    let transport = Transport::find(frame)?;
    let partial = fold(transport.pseudo_header(frame)).to_be_bytes();
    let at = usize::from(transport.start + transport.checksum);
    frame.get_mut(at..at + 2)?.copy_from_slice(&partial);
    Some(transport)
}

/// Whether the checksum of `frame` is right, or it has none that is checked here.
#[must_use]
pub fn is_intact(frame: &[u8]) -> bool {
    // Short frames are filled up; what counts is the IP header's length.
    let total = match frame.get(ETHERNET + 2..ETHERNET + 4) {
        Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
        _ => return true,
    };
    let frame = frame.get(..ETHERNET + total).unwrap_or(frame);
    let Some(transport) = Transport::find(frame) else {
        return true;
    };
    let segment = frame
        .get(usize::from(transport.start)..)
        .unwrap_or_default();
    let has_none = transport.protocol == UDP && segment.get(6..8) == Some(&[0, 0]);
    has_none || fold(transport.pseudo_header(frame) + sum(segment)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A frame without a checksum.
    fn frame(protocol: u8, payload: &[u8], padding: usize) -> Vec<u8> {
        let header: &[u8] = match protocol {
            TCP => &[
                1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 9, 9, 0, 0, 0, 0,
            ],
            _ => &[1, 2, 3, 4, 0, 0, 0, 0],
        };
        let mut frame = std::vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        let total = u16::try_from(20 + header.len() + payload.len()).unwrap();
        frame.extend(total.to_be_bytes());
        frame.extend([0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(header);
        if protocol == UDP {
            let length = total - 20;
            frame[38..40].copy_from_slice(&length.to_be_bytes());
        }
        frame.extend(payload);
        frame.resize(frame.len() + padding, 0xee);
        frame
    }

    /// What the device does: the sum of all from the transport header on, its complement in the checksum's place.
    fn finish(frame: &mut [u8], transport: Transport, end: usize) {
        let start = usize::from(transport.start);
        let mut value = !fold(sum(&frame[start..end]));
        if value == 0 {
            value = 0xffff;
        }
        let at = start + usize::from(transport.checksum);
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    #[test]
    fn a_known_udp_checksum_comes_out() {
        // 10.0.0.1:258 to 10.0.0.2:772, "ab": 0x0a00+0x0001+0x0a00+0x0002+17+10+0x0102+0x0304+10+0x6162 = 0x7990
        let mut bytes = frame(UDP, b"ab", 0);
        let transport = leave_checksum(&mut bytes).unwrap();
        finish(&mut bytes, transport, 44);
        assert_eq!(bytes[40..42], (!0x7990_u16).to_be_bytes());
        assert_eq!(
            (transport.start, transport.checksum, transport.headers),
            (34, 6, 42)
        );
    }

    proptest! {
        #[test]
        fn what_the_device_finishes_is_intact_and_one_flipped_bit_is_not(
            tcp: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            padding in 0usize..20,
            flip in any::<proptest::sample::Index>(),
            bit in 0u8..8,
        ) {
            let protocol = if tcp { TCP } else { UDP };
            let mut bytes = frame(protocol, &payload, 0);
            let transport = leave_checksum(&mut bytes).unwrap();
            let end = bytes.len();
            finish(&mut bytes, transport, end);
            bytes.resize(end + padding, 0xee);
            prop_assert!(is_intact(&bytes));
            let start = usize::from(transport.headers);
            if end > start {
                bytes[start + flip.index(end - start)] ^= 1 << bit;
                prop_assert!(!is_intact(&bytes));
            }
        }

        #[test]
        fn no_frame_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), ip: bool) {
            if ip && bytes.len() > 23 {
                bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
                bytes[23] = TCP;
            }
            let _ = is_intact(&bytes);
            let _ = leave_checksum(&mut bytes);
        }
    }
}
