//! Record rings, the VMM's or our own, and their text over the serial port.

use core::sync::atomic::{AtomicU64, Ordering};

use rt_abi::record::{MAGIC, MODULE, Record, RingHeader};

use crate::console;
use crate::cpu::MAX_VCPUS;
use crate::memory;
use crate::start_info::StartInfo;

/// 64-bit words of a record, and of a ring's header.
const WORDS: usize = size_of::<Record>() / 8;
/// Which word of the header is `head`.
const HEAD: usize = core::mem::offset_of!(RingHeader, head) / 8;
/// Words of all our own rings together: 64 KiB.
const OWN_WORDS: usize = 8192;

static OWN: [AtomicU64; OWN_WORDS] = [const { AtomicU64::new(0) }; OWN_WORDS];

/// One vCPU's ring.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    words: &'static [AtomicU64],
    capacity: u64,
}

impl Ring {
    /// The VMM's ring for this vCPU.
    fn of_vmm(info: &StartInfo, vcpu: usize) -> Option<Self> {
        let module = info.module(MODULE)?;
        let header = memory::words(module.address, WORDS as u64)?;
        let [magic, capacity, rings, ..] = header else {
            return None;
        };
        let capacity = capacity.load(Ordering::Acquire);
        let valid = magic.load(Ordering::Acquire) == MAGIC
            && capacity.is_power_of_two()
            && (vcpu as u64) < rings.load(Ordering::Acquire);
        let words = capacity.checked_add(1)?.checked_mul(WORDS as u64)?;
        let offset = words.checked_mul(8)?.checked_mul(vcpu as u64)?;
        let end = offset.checked_add(words * 8)?;
        (valid && end <= module.size).then_some(())?;
        Some(Self {
            words: memory::words(module.address.checked_add(offset)?, words)?,
            capacity,
        })
    }

    /// A ring of our own: the largest of which `vcpus` fit. It has the header that a VMM's has, so that who can see the
    /// memory under another monitor finds it.
    fn own(vcpu: usize, vcpus: usize) -> Option<Self> {
        let share = OWN_WORDS / vcpus.clamp(1, MAX_VCPUS);
        let capacity = 1 << (share / WORDS - 1).ilog2();
        let size = (capacity + 1) * WORDS;
        let words = OWN.get(vcpu * size..(vcpu + 1) * size)?;
        let header = [MAGIC, capacity as u64, vcpus as u64];
        for (word, value) in words.iter().zip(header) {
            word.store(value, Ordering::Relaxed);
        }
        Some(Self {
            words,
            capacity: capacity as u64,
        })
    }

    /// The ring of `vcpu` among `vcpus`.
    pub fn for_vcpu(info: &StartInfo, vcpu: usize, vcpus: usize) -> Option<Self> {
        Self::of_vmm(info, vcpu).or_else(|| Self::own(vcpu, vcpus))
    }

    fn head(&self) -> Option<&'static AtomicU64> {
        self.words.get(HEAD)
    }

    /// The words of record number `number`.
    fn slot(&self, number: u64) -> Option<&'static [AtomicU64]> {
        let index = usize::try_from(number % self.capacity).ok()?;
        self.words.get((index + 1) * WORDS..(index + 2) * WORDS)
    }

    /// Appends a record. The caller keeps this vCPU's scheduler out.
    pub fn push(&self, record: &Record) {
        let Some(head) = self.head() else { return };
        let number = head.load(Ordering::Relaxed);
        let bytes = record.to_bytes();
        for (to, from) in self
            .slot(number)
            .unwrap_or_default()
            .iter()
            .zip(bytes.as_chunks().0)
        {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
        head.store(number + 1, Ordering::Release);
    }

    /// Record number `number`, if it was written and not overwritten since.
    fn read(&self, number: u64) -> Option<Record> {
        let mut bytes = [0; 64];
        for (to, from) in bytes.as_chunks_mut().0.iter_mut().zip(self.slot(number)?) {
            *to = from.load(Ordering::Acquire).to_le_bytes();
        }
        let head = self.head()?.load(Ordering::Acquire);
        (head > number && head - number < self.capacity).then(|| Record::from_bytes(&bytes))
    }
}

/// Prints what is new in the rings.
pub struct Stream {
    read: [AtomicU64; MAX_VCPUS],
}

impl Stream {
    /// From the first record of every ring.
    pub const fn new() -> Self {
        Self {
            read: [const { AtomicU64::new(0) }; MAX_VCPUS],
        }
    }

    /// Whether there is a record that was not printed.
    pub fn has_news<'a>(&self, rings: impl Iterator<Item = &'a Ring>) -> bool {
        self.read
            .iter()
            .zip(rings)
            .any(|(read, ring)| read.load(Ordering::Relaxed) < written(ring))
    }

    /// Prints them all.
    pub fn print_news<'a>(&self, rings: impl Iterator<Item = &'a Ring>) {
        for (vcpu, (read, ring)) in self.read.iter().zip(rings).enumerate() {
            while read.load(Ordering::Relaxed) < written(ring) {
                print_next(vcpu, read, ring);
            }
        }
    }
}

fn written(ring: &Ring) -> u64 {
    ring.head().map_or(0, |head| head.load(Ordering::Acquire))
}

fn print_next(vcpu: usize, read: &AtomicU64, ring: &Ring) {
    let number = read.load(Ordering::Relaxed);
    if let Some(r) = ring.read(number) {
        console::line(format_args!(
            "R {} {} {} {} {} {} {} {} {} {}",
            r.kind,
            r.vcpu,
            r.task,
            r.job,
            r.release,
            r.woken,
            r.start,
            r.finish,
            r.deadline,
            r.executed
        ));
        read.store(number + 1, Ordering::Relaxed);
    } else {
        // One more than what can still be read: the oldest may be overwritten at any moment.
        let oldest = (written(ring) + 1)
            .saturating_sub(ring.capacity)
            .max(number + 1);
        console::line(format_args!("L {vcpu} {}", oldest - number));
        read.store(oldest, Ordering::Relaxed);
    }
}
