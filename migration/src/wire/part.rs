//! The payload of a `Part` frame: bytes of the kind's name (1), version (2), the name, and the rest is the part itself.

use super::error::MessageError;
use super::frame::MOST_PART_BYTES;
use crate::ram::Part;

/// Longest name of a kind, in bytes.
pub const LONGEST_KIND: usize = 32;
/// Most bytes before the part itself.
pub const PART_HEADER_BYTES: usize = 3 + LONGEST_KIND;

/// Most parts of one state: a few for each vCPU and device.
pub const MOST_PARTS: u32 = 1024;
/// Most bytes of all parts of one state together.
pub const MOST_STATE_BYTES: usize = 64 << 20;

/// Counts the parts of one state, which is bounded: a destination keeps them all until it takes them up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tally {
    parts: u32,
    bytes: usize,
}

impl Tally {
    /// One more part.
    ///
    /// # Errors
    /// [`MessageError::Field`] where it is one too many, or too much together.
    pub fn add(&mut self, part: &Part) -> Result<(), MessageError> {
        self.parts = self.parts.saturating_add(1);
        self.bytes = self.bytes.saturating_add(part.bytes.len());
        let within = |what, got, most| {
            if got <= most {
                Ok(())
            } else {
                Err(MessageError::Field { what, got, most })
            }
        };
        let count = |count| usize::try_from(count).unwrap_or(usize::MAX);
        within(
            "number of parts of a state",
            count(self.parts),
            count(MOST_PARTS),
        )?;
        within("length of a state", self.bytes, MOST_STATE_BYTES)
    }

    /// How many there are.
    #[must_use]
    pub const fn parts(&self) -> u32 {
        self.parts
    }
}

/// Appends a part.
pub(super) fn write(part: &Part, into: &mut Vec<u8>) -> Result<(), MessageError> {
    let length = u8::try_from(part.kind.len())
        .ok()
        .filter(|_| (1..=LONGEST_KIND).contains(&part.kind.len()))
        .ok_or(MessageError::Field {
            what: "name of a part",
            got: part.kind.len(),
            most: LONGEST_KIND,
        })?;
    if part.bytes.len() > MOST_PART_BYTES {
        return Err(MessageError::Field {
            what: "length of a part",
            got: part.bytes.len(),
            most: MOST_PART_BYTES,
        });
    }
    into.push(length);
    into.extend(part.version.to_le_bytes());
    into.extend(part.kind.as_bytes());
    into.extend(&part.bytes);
    Ok(())
}

/// Reads a part.
pub(super) fn read(payload: &[u8]) -> Result<Part, MessageError> {
    let refused = |reason: String| MessageError::Part { reason };
    let Some(([length, v0, v1], rest)) = payload.split_first_chunk::<3>() else {
        return Err(refused(format!(
            "{} bytes, expected 3 at least",
            payload.len()
        )));
    };
    let length = usize::from(*length);
    if !(1..=LONGEST_KIND).contains(&length) {
        return Err(refused(format!(
            "a name of {length} bytes, expected 1 to {LONGEST_KIND}"
        )));
    }
    let (kind, bytes) = rest.split_at_checked(length).ok_or_else(|| {
        refused(format!(
            "{} bytes, expected a name of {length} at least",
            rest.len()
        ))
    })?;
    let kind = std::str::from_utf8(kind)
        .map_err(|_| refused("a name that is no UTF-8 text, expected one".to_owned()))?;
    if bytes.len() > MOST_PART_BYTES {
        return Err(refused(format!(
            "{} bytes, expected at most {}",
            bytes.len(),
            MOST_PART_BYTES
        )));
    }
    Ok(Part {
        kind: kind.to_owned(),
        version: u16::from_le_bytes([*v0, *v1]),
        bytes: bytes.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: usize) -> Part {
        Part {
            kind: "vcpu".to_owned(),
            version: 1,
            bytes: vec![0; bytes],
        }
    }

    #[test]
    fn the_parts_of_a_state_are_bounded_in_number_and_together() {
        let (mut many, small) = (Tally::default(), part(1));
        (0..MOST_PARTS).for_each(|_| many.add(&small).unwrap());
        assert_eq!(many.parts(), MOST_PARTS);
        let error = many.add(&small).unwrap_err().to_string();
        assert_eq!(
            error,
            "number of parts of a state is 1025, expected 1 to 1024"
        );
        let (mut much, large) = (Tally::default(), part(MOST_PART_BYTES));
        let full = MOST_STATE_BYTES / MOST_PART_BYTES;
        (0..full).for_each(|_| much.add(&large).unwrap());
        let error = much.add(&small).unwrap_err().to_string();
        assert_eq!(
            error,
            "length of a state is 67108865, expected 1 to 67108864"
        );
    }
}
