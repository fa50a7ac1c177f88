//! What the guest's TCP source sends: bytes by which the receiver knows that each is the next.
//!
//! They repeat after a prime number of them, so that no whole number of buffers, pages or segments can be missing unseen.

/// After so many bytes they repeat.
pub const PERIOD: usize = 251;
/// Several periods, to be copied from.
pub const PATTERN: [u8; 16 * PERIOD] = pattern();

const fn pattern() -> [u8; 16 * PERIOD] {
    let mut bytes = [0; 16 * PERIOD];
    let mut at = 0;
    let mut byte = 0;
    while at < bytes.len() {
        bytes[at] = byte;
        at += 1;
        byte = if byte as usize == PERIOD - 1 {
            0
        } else {
            byte + 1
        };
    }
    bytes
}

/// Fills `room` with what comes after `sent` bytes.
pub fn fill(mut room: &mut [u8], mut sent: usize) {
    while !room.is_empty() {
        let from = &PATTERN[sent % PERIOD..];
        let count = from.len().min(room.len());
        let (now, rest) = room.split_at_mut(count);
        now.copy_from_slice(&from[..count]);
        sent = (sent + count) % PERIOD;
        room = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    proptest! {
        #[test]
        fn however_it_is_cut_a_stream_is_the_same(lengths in proptest::collection::vec(0..9000_usize, 0..5)) {
            let mut sent = 0;
            for length in lengths {
                let mut room = vec![0; length];
                fill(&mut room, sent);
                for (at, byte) in room.iter().enumerate() {
                    prop_assert_eq!(usize::from(*byte), (sent + at) % PERIOD);
                }
                sent += length;
            }
        }
    }
}
