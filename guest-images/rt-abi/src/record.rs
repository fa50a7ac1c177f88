//! Record rings: what the guest's tasks did, one ring per vCPU, in memory that the VMM reads while the guest runs.
//!
//! The area is handed over as a PVH boot module whose command line is [`MODULE`]. It holds one ring after the other, each
//! [`ring_size`] bytes long: a [`RingHeader`] filled in by the VMM (but for `head`), then `capacity` records.
//! A guest that is handed none makes rings of its own with the same headers, for who can see its memory.
//! The guest never waits: the oldest records are overwritten, and the reader sees from `head` how many it lost.
//!
//! [`MAGIC`] stands for the layout of header and records. New kinds of records do not change it: a reader drops, and
//! counts, kinds that it does not know, and a guest writes a kind only when its task set asks for it.

/// Command line of the PVH module that carries the record rings.
pub const MODULE: &str = "chronovisor.records";

/// Value of [`RingHeader::magic`]: "CVRECRD1" read as little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CVRECRD1");

/// Start of a ring: 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RingHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// Records in this ring; a power of two.
    pub capacity: u64,
    /// Number of rings in the area, one per vCPU.
    pub rings: u64,
    /// Records ever written to this ring, by the guest; record `n` lies at index `n % capacity`. Written after the record.
    pub head: u64,
    /// Zero.
    pub reserved: [u64; 4],
}

/// Bytes that one ring of `capacity` records takes.
#[must_use]
pub const fn ring_size(capacity: u64) -> u64 {
    (capacity + 1) * 64
}

/// What a record tells; the value of [`Record::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A job of a task ended.
    Job = 1,
    /// A busy task was not running from `start` to `finish` (longer than the gap threshold on the command line).
    Gap = 2,
    /// The guest ended its run normally; `finish` says when.
    End = 3,
    /// A job's critical section ended: asked for the lock at `release`, got it at `start`, gave it back at `finish`.
    Section = 4,
}

impl Kind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Option<Self> {
        match raw {
            1 => Some(Self::Job),
            2 => Some(Self::Gap),
            3 => Some(Self::End),
            4 => Some(Self::Section),
            _ => None,
        }
    }
}

/// One record: 64 bytes, times in nanoseconds of guest time, 0 where a field has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Record {
    /// A [`Kind`].
    pub kind: u16,
    /// The vCPU it happened on.
    pub vcpu: u16,
    /// The task, in the order of the command line, from 0; `u16::MAX` for the guest itself.
    pub task: u16,
    /// Zero.
    pub reserved: u16,
    /// The job of the task, from 0; for gaps, the gaps seen before; for sections, how many the lock's counter says that
    /// there were before, of all tasks. The counter is read at the beginning of a section and written at its end, so
    /// that two sections at the same time show in it.
    pub job: u64,
    /// When the job was released (by the task's period and offset, not by the interrupt); for sections, when the lock was
    /// asked for.
    pub release: u64,
    /// When the guest's timer interrupt for this release ran its first instruction; 0 if the release needed no interrupt.
    pub woken: u64,
    /// When the job first ran; for sections, when the lock was got.
    pub start: u64,
    /// When the job was done; for sections, when the lock was given back.
    pub finish: u64,
    /// Its absolute deadline.
    pub deadline: u64,
    /// Processor time it used: the sum of its uninterrupted stretches, spinning for the lock left out. For sections, the
    /// processor time that was spun away.
    pub executed: u64,
}

impl Record {
    /// The record as it lies in memory and goes over the serial port.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let small = [self.kind, self.vcpu, self.task, self.reserved];
        for (i, value) in small.iter().enumerate() {
            bytes[i * 2..i * 2 + 2].copy_from_slice(&value.to_le_bytes());
        }
        let large = [
            self.job,
            self.release,
            self.woken,
            self.start,
            self.finish,
            self.deadline,
            self.executed,
        ];
        for (i, value) in large.iter().enumerate() {
            bytes[8 + i * 8..16 + i * 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The reverse of [`Record::to_bytes`]. Any bytes make a record: it is a claim of the guest.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let small = |i: usize| u16::from_le_bytes([bytes[i * 2], bytes[i * 2 + 1]]);
        let large = |i: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[8 + i * 8..16 + i * 8]);
            u64::from_le_bytes(eight)
        };
        Self {
            kind: small(0),
            vcpu: small(1),
            task: small(2),
            reserved: small(3),
            job: large(0),
            release: large(1),
            woken: large(2),
            start: large(3),
            finish: large(4),
            deadline: large(5),
            executed: large(6),
        }
    }
}

const _: () = assert!(size_of::<RingHeader>() == 64 && size_of::<Record>() == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_survives_the_wire(bytes in proptest::collection::vec(any::<u8>(), 64)) {
            let bytes: [u8; 64] = bytes.try_into().unwrap();
            prop_assert_eq!(Record::from_bytes(&bytes).to_bytes(), bytes);
        }
    }
}
