//! What the guest's UDP echo puts into its replies.
//!
//! A reply is what came, but for two times of the guest's clock in nanoseconds (big-endian): when the frame was taken from
//! the device, in bytes 8 to 15, and when the reply was handed over, in bytes 16 to 23. The first 8 bytes are the client's.
//! A shorter datagram comes back as it was.

/// Bytes before the times.
pub const CLIENT: usize = 8;
/// Bytes that a datagram has at least if there are times in its reply.
pub const LEAST: usize = CLIENT + 16;

/// Puts the times into a datagram.
pub fn stamp(datagram: &mut [u8], received: u64, sent: u64) {
    if let Some([first, second]) = times(datagram) {
        *first = received.to_be_bytes();
        *second = sent.to_be_bytes();
    }
}

fn times(datagram: &mut [u8]) -> Option<&mut [[u8; 8]; 2]> {
    let room = datagram.get_mut(CLIENT..LEAST)?;
    room.as_chunks_mut().0.first_chunk_mut()
}

/// The times in a reply: when it was received and when it was sent.
#[must_use]
pub fn stamps(reply: &[u8]) -> Option<(u64, u64)> {
    let [received, sent] = *reply.get(CLIENT..LEAST)?.as_chunks().0.first_chunk()?;
    Some((u64::from_be_bytes(received), u64::from_be_bytes(sent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reply_is_the_datagram_but_for_the_times(
            datagram in proptest::collection::vec(any::<u8>(), 0..100),
            received: u64,
            sent: u64,
        ) {
            let mut reply = datagram.clone();
            stamp(&mut reply, received, sent);
            if datagram.len() < LEAST {
                prop_assert_eq!(stamps(&reply), None);
                prop_assert_eq!(reply, datagram);
            } else {
                prop_assert_eq!(stamps(&reply), Some((received, sent)));
                prop_assert_eq!(&reply[..CLIENT], &datagram[..CLIENT]);
                prop_assert_eq!(&reply[LEAST..], &datagram[LEAST..]);
            }
        }
    }
}
