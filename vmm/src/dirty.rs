//! Guest memory as migration sees it: by pages without holes, with a log of those that are written.
//!
//! The log is KVM's (`KVM_MEM_LOG_DIRTY_PAGES`), which knows what vCPUs and KVM itself write, merged with [`WriteMarks`](crate::memory::WriteMarks), which know what
//! the monitor's devices write. With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 looking at the log changes nothing, and pages are cleared, and
//! protected against unnoticed writes, when and as many as the caller wants: just before they are read and sent.
//!
//! What tracking costs the guest is one fault for the first write to each page that was cleared.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
};
use migration::ram::{DirtyLog, GuestRam, PAGE_SIZE, PageNumber, PageRange, PageSet, RamError};
use vm_memory::{Bytes, GuestMemoryBackend, MemoryRegionAddress};

use crate::kernel::{self, DirtyLogging};
use crate::machine::{Machine, enable};
use crate::memory::{PAGE, Ram, Region, marks};

const _: () = assert!(PAGE == PAGE_SIZE as u64);

/// What a log says of pages that nobody has cleared yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// All are clean: every page is protected at once, and the first write to each costs the guest a fault.
    Clean,
    /// All are dirty: a page costs nothing until it is cleared for the first time. For who is going to send everything.
    Dirty,
}

/// A range of RAM, its memory slot, and its pages.
struct Slot<'a> {
    number: u32,
    pages: PageRange,
    region: &'a Region,
}

/// The slots of `ram`, in the order in which they were registered and pages are counted.
fn slots(ram: &Ram) -> impl Iterator<Item = Slot<'_>> {
    let mut first = 0;
    (0..).zip(ram.iter()).map(move |(number, region)| {
        let pages = PageRange {
            first: PageNumber(first),
            count: region.size() as u64 / PAGE,
        };
        first += pages.count;
        Slot {
            number,
            pages,
            region,
        }
    })
}

fn pages(ram: &Ram) -> u64 {
    slots(ram).map(|slot| slot.pages.count).sum()
}

/// A guest's memory by pages.
#[derive(Clone)]
pub struct GuestPages(Ram);

impl GuestPages {
    /// Of this memory.
    #[must_use]
    pub fn new(ram: Ram) -> Self {
        Self(ram)
    }

    /// Calls `copy` with every part of the pages from `first` on that lies in one range: where in it, and which of the `bytes`.
    fn each(
        &self,
        first: PageNumber,
        bytes: usize,
        mut copy: impl FnMut(
            &Region,
            MemoryRegionAddress,
            std::ops::Range<usize>,
        ) -> Result<(), vm_memory::GuestMemoryError>,
    ) -> Result<(), RamError> {
        if !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(RamError::NotWholePages { bytes });
        }
        let (count, pages) = ((bytes / PAGE_SIZE) as u64, self.pages());
        let outside = RamError::Outside {
            first,
            count,
            pages,
        };
        let Some(end) = first.0.checked_add(count).filter(|&end| end <= pages) else {
            return Err(outside);
        };
        for slot in slots(&self.0) {
            let from = slot.pages.first.0.max(first.0);
            let to = slot.pages.end().min(end);
            if from >= to {
                continue;
            }
            let at = MemoryRegionAddress((from - slot.pages.first.0) * PAGE);
            let offset = |page: u64| usize::try_from((page - first.0) * PAGE).unwrap_or(bytes);
            copy(slot.region, at, offset(from)..offset(to)).map_err(|source| RamError::Host {
                what: "reach guest memory",
                source: Box::new(source),
            })?;
        }
        Ok(())
    }
}

impl GuestRam for GuestPages {
    fn pages(&self) -> u64 {
        pages(&self.0)
    }

    fn read(&self, first: PageNumber, into: &mut [u8]) -> Result<(), RamError> {
        self.each(first, into.len(), |region, at, part| {
            region.read_slice(&mut into[part], at)
        })
    }

    fn write(&self, first: PageNumber, from: &[u8]) -> Result<(), RamError> {
        self.each(first, from.len(), |region, at, part| {
            region.write_slice(&from[part], at)
        })
    }
}

/// Which pages of a machine's memory are written, by whomever. Dropping it ends the tracking.
pub struct DirtyPages {
    machine: Arc<Machine>,
    beginning: Beginning,
    is_on: bool,
}

impl DirtyPages {
    /// The log of `machine`, which one at a time may start. Nothing is tracked yet.
    #[must_use]
    pub fn new(machine: Arc<Machine>, beginning: Beginning) -> Self {
        Self {
            machine,
            beginning,
            is_on: false,
        }
    }

    /// Whether this host's KVM can clear pages one by one.
    ///
    /// # Errors
    /// Says what is missing.
    fn choose_protection(&self) -> Result<(), RamError> {
        let vm = self.machine.vm();
        let wanted = match self.beginning {
            Beginning::Clean => KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
            Beginning::Dirty => KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
        };
        let offered = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        if u32::try_from(offered).unwrap_or(0) & wanted != wanted {
            let reason = "its KVM has no manual dirty log protection; Linux 5.7 or later has";
            return Err(RamError::Host {
                what: "track writes on this host",
                source: reason.into(),
            });
        }
        enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, wanted.into())
            .map_err(host("choose when pages are protected"))
    }

    fn begin(&self) -> Result<(), RamError> {
        self.choose_protection()?;
        let ram = self.machine.ram();
        for region in ram.iter() {
            marks(region).begin();
        }
        kernel::fence_all_threads()
            .map_err(host("have all threads see that writes are tracked"))?;
        kernel::register_memory(self.machine.vm(), ram, DirtyLogging::On)
            .map_err(host("track the writes of vCPUs"))
    }

    fn end(&mut self) -> Result<(), RamError> {
        self.is_on = false;
        let ram = self.machine.ram();
        for region in ram.iter() {
            marks(region).end();
        }
        let ended = kernel::register_memory(self.machine.vm(), ram, DirtyLogging::Off)
            .map_err(host("stop tracking the writes of vCPUs"));
        self.machine.give_back_log();
        ended
    }

    fn must_be_on(&self) -> Result<(), RamError> {
        if self.is_on {
            return Ok(());
        }
        Err(RamError::Host {
            what: "tell which pages are written",
            source: "tracking has not been started".into(),
        })
    }
}

impl DirtyLog for DirtyPages {
    fn start(&mut self) -> Result<(), RamError> {
        if self.is_on {
            self.end()?;
        }
        if !self.machine.take_log() {
            return Err(RamError::Host {
                what: "track the writes of a guest twice at a time",
                source: "a recording or a migration does already; wait until that is over".into(),
            });
        }
        let begun = self.begin();
        match begun {
            Ok(()) => self.is_on = true,
            // What began is ended; the first error is the one to tell.
            Err(_) => drop(self.end()),
        }
        begun
    }

    fn look(&mut self) -> Result<PageSet, RamError> {
        self.must_be_on()?;
        let ram = self.machine.ram();
        let mut dirty = PageSet::empty(pages(ram));
        for slot in slots(ram) {
            let vm = self.machine.vm();
            let words = vm
                .get_dirty_log(slot.number, slot.region.size())
                .map_err(host("read the log of written pages"))?;
            dirty.union_words(slot.pages, &words)?;
            let words: Vec<u64> = marks(slot.region).words().collect();
            dirty.union_words(slot.pages, &words)?;
        }
        Ok(dirty)
    }

    fn clear(&mut self, cleared: &PageSet) -> Result<(), RamError> {
        self.must_be_on()?;
        let ram = self.machine.ram();
        let pages = pages(ram);
        if cleared.pages() != pages {
            return Err(RamError::OtherGuest {
                set: cleared.pages(),
                pages,
            });
        }
        slots(ram).try_for_each(|slot| clear(&self.machine, &slot, cleared))
    }

    fn stop(&mut self) -> Result<(), RamError> {
        if self.is_on { self.end() } else { Ok(()) }
    }
}

impl Drop for DirtyPages {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!("{error}");
        }
    }
}

/// Clears the pages of a slot in one call, from the first to the last word that has any.
fn clear(machine: &Machine, slot: &Slot<'_>, cleared: &PageSet) -> Result<(), RamError> {
    // All ranges but the last are whole words: they end at 3 GiB.
    let start = usize::try_from(slot.pages.first.0 / 64).unwrap_or(usize::MAX);
    let length = usize::try_from(slot.pages.count.div_ceil(64)).unwrap_or(usize::MAX);
    let words = &cleared.words()[start..start + length];
    let is_used = |&word: &u64| word != 0;
    let (Some(first), Some(last)) = (
        words.iter().position(is_used),
        words.iter().rposition(is_used),
    ) else {
        return Ok(());
    };
    // Before KVM's: a device that writes after either is seen in what is read later, or noted again.
    for (word, &bits) in words.iter().enumerate().filter(|(_, bits)| **bits != 0) {
        marks(slot.region).take(word, bits);
    }
    let from = first as u64 * 64;
    let to = (last as u64 * 64 + 64).min(slot.pages.count);
    let range = (from, u32::try_from(to - from).unwrap_or(u32::MAX));
    kernel::clear_dirty_log(machine.vm(), slot.number, range, &words[first..=last])
        .map_err(host("clear the log of written pages"))
}

fn host<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl Fn(E) -> RamError {
    move |source| RamError::Host {
        what,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
