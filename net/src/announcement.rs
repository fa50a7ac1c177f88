//! What tells switches where a guest is now: a reverse ARP request in its name (RFC 903), to everybody. Nobody answers it, and every
//! switch on its way learns behind which of its ports the address is. QEMU does the same (`net/announce.c`).

use std::time::Duration;

use crate::mac::Mac;

/// When announcements are due after the guest went on: the first at once, the others against losses, at growing intervals as QEMU has
/// them (50 ms first; 100 ms more each time there, 50 ms here).
pub const DUE: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(500),
];

/// The shortest frame of Ethernet, without its checksum (IEEE 802.3, 4A.4.2).
const LENGTH: usize = 60;
/// The type RARP; Ethernet, IPv4, the lengths of their addresses, "request reverse" (RFC 903; numbers as of RFC 826).
const HEADER: [u8; 10] = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
const EVERYBODY: [u8; 6] = [0xff; 6];

/// The frame by which the guest with this address says where it is.
#[must_use]
pub fn frame(mac: Mac) -> [u8; LENGTH] {
    const NO_PROTOCOL_ADDRESS: [u8; 4] = [0; 4];
    let mac = mac.octets();
    let parts: [&[u8]; 7] = [
        &EVERYBODY,
        &mac,
        &HEADER,
        &mac,
        &NO_PROTOCOL_ADDRESS,
        &mac,
        &NO_PROTOCOL_ADDRESS,
    ];
    let mut frame = [0; LENGTH];
    let bytes = parts.into_iter().flatten();
    frame
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_that_of_the_standard() {
        let mac = "02:00:5e:10:00:01".parse().unwrap();
        let golden = "ffffffffffff 02005e100001 8035 \
            0001 0800 06 04 0003 02005e100001 00000000 02005e100001 00000000 \
            000000000000000000000000000000000000";
        let printed: String = frame(mac).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(printed, golden.replace(' ', ""));
    }

    #[test]
    fn announcements_come_at_growing_intervals_within_half_a_second() {
        let intervals: Vec<_> = DUE.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(intervals.is_sorted_by(|a, b| a < b), "{intervals:?}");
        assert_eq!(DUE[0], Duration::ZERO);
        assert_eq!(DUE[4], Duration::from_millis(500));
    }
}
