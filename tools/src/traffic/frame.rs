//! Ethernet frames with UDP datagrams in them, built by hand: pure. So a guest can be played that says what it likes about
//! where its frames come from.

use std::net::{Ipv4Addr, SocketAddrV4};

use net::mac::Mac;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// An ARP packet for Ethernet and IPv4.
const ARP: usize = 28;
/// RFC 894.
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Internet protocol number of UDP (RFC 768).
const PROTOCOL_UDP: u8 = 17;
/// Where a datagram's header and the checksum in it are.
pub const UDP_AT: usize = ETHERNET + IPV4;
pub const CHECKSUM_AT: usize = UDP_AT + 6;
/// Where every host listens.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// One end of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its hardware address, or what it claims.
    pub mac: [u8; 6],
    /// Its address and port.
    pub at: SocketAddrV4,
}

impl End {
    /// An end with this address.
    pub fn new(mac: Mac, at: SocketAddrV4) -> Self {
        Self {
            mac: mac.octets(),
            at,
        }
    }
}

/// A frame that carries a datagram with `payload` bytes, from the first end to the second one. Its checksum is still to be
/// completed.
pub fn datagram((from, to): (End, End), payload: usize) -> Vec<u8> {
    let length = |size: usize| u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = Vec::with_capacity(ETHERNET + IPV4 + UDP + payload);
    frame.extend(to.mac);
    frame.extend(from.mac);
    frame.extend(ETHERTYPE_IPV4);
    // RFC 791: version and length of the header, do not fragment, time to live.
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length(IPV4 + UDP + payload));
    header[6] = 0x40;
    header[8] = 64;
    header[9] = PROTOCOL_UDP;
    header[12..16].copy_from_slice(&from.at.ip().octets());
    header[16..20].copy_from_slice(&to.at.ip().octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(from.at.port().to_be_bytes());
    frame.extend(to.at.port().to_be_bytes());
    frame.extend(length(UDP + payload));
    // What whoever completes it begins with (RFC 768); a receiver must not be given it as it is.
    frame.extend(pseudo(&header, UDP + payload).to_be_bytes());
    frame.resize(frame.len() + payload, 0x5a);
    frame
}

/// The sum of a pseudo header, from the IPv4 header of a datagram of so many bytes.
fn pseudo(header: &[u8; IPV4], length: usize) -> u16 {
    let mut bytes = header[12..20].to_vec();
    bytes.extend([0, PROTOCOL_UDP]);
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    !checksum(&bytes)
}

/// An announcement that `address` is at `mac` (RFC 826, RFC 5227): a broadcast.
pub fn announcement(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mac = mac.octets();
    let mut frame = Vec::new();
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths of their addresses, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// The answer of who has this address to an ARP request for it; nothing to any other frame.
pub fn reply(request: &[u8], mac: Mac, address: Ipv4Addr) -> Option<Vec<u8>> {
    let body = request.get(ETHERNET..ETHERNET + ARP)?;
    // Ethernet, IPv4, lengths of their addresses, request.
    let asks = request[12..14] == ETHERTYPE_ARP && body[..8] == [0, 1, 8, 0, 6, 4, 0, 1];
    if !asks || body[24..28] != address.octets() {
        return None;
    }
    let sender = &body[8..18];
    let mut frame = Vec::with_capacity(ETHERNET + ARP);
    frame.extend(&sender[..6]);
    frame.extend(mac.octets());
    frame.extend(ETHERTYPE_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mac.octets());
    frame.extend(address.octets());
    frame.extend(sender);
    Some(frame)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(mac: [u8; 6], ip: [u8; 4], port: u16) -> End {
        End {
            mac,
            at: SocketAddrV4::new(ip.into(), port),
        }
    }

    proptest! {
        #[test]
        fn a_frame_says_what_was_asked_for(from: ([u8; 6], [u8; 4], u16), to: ([u8; 6], [u8; 4], u16), payload in 0usize..1472) {
            let ends = (end(from.0, from.1, from.2), end(to.0, to.1, to.2));
            let frame = datagram(ends, payload);
            prop_assert_eq!(frame.len(), 42 + payload);
            prop_assert_eq!((&frame[..6], &frame[6..12]), (&to.0[..], &from.0[..]));
            prop_assert_eq!((&frame[26..30], &frame[30..34]), (&from.1[..], &to.1[..]));
            // A header with its checksum in it sums up to nothing.
            prop_assert_eq!(checksum(&frame[14..34]), 0);
            let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
            prop_assert_eq!((length(16), length(38)), (28 + payload, 8 + payload));
            // Completed, the checksum is over pseudo header, header and payload.
            let sum = checksum(&frame[UDP_AT..]);
            let mut whole = frame[26..34].to_vec();
            whole.extend([0, 17]);
            whole.extend(&frame[38..40]);
            whole.extend(&frame[UDP_AT..CHECKSUM_AT]);
            whole.extend(sum.to_be_bytes());
            whole.extend(&frame[CHECKSUM_AT + 2..]);
            prop_assert_eq!(checksum(&whole), 0);
        }
    }

    proptest! {
        #[test]
        fn who_has_an_address_says_so_and_nobody_else(asker: [u8; 4], asked: [u8; 4], own: [u8; 4], same: bool, junk in prop::collection::vec(any::<u8>(), 0..80)) {
            let mac = |last| Mac::new([2, 0, 0, 0, 0, last]).unwrap();
            let own = if same { asked } else { own };
            let mut request = announcement(mac(1), asker.into());
            request[38..42].copy_from_slice(&asked);
            let answer = reply(&request, mac(2), own.into());
            prop_assert_eq!(answer.is_some(), own == asked);
            if let Some(answer) = answer {
                prop_assert_eq!(&answer[..6], &mac(1).octets()[..]);
                prop_assert_eq!(&answer[22..32], &[&mac(2).octets()[..], &own[..]].concat()[..]);
                prop_assert_eq!(&answer[38..42], &asker[..]);
                prop_assert_eq!(reply(&answer, mac(2), own.into()), None);
            }
            prop_assert_eq!(reply(&junk, mac(2), own.into()), None);
        }
    }

    #[test]
    fn the_checksum_is_that_of_a_known_header() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        assert_eq!(checksum(&header), 0xb861);
    }
}
