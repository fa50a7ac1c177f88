//! Guest time: nanoseconds, from the VMM's clock page or from a page of our own.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use rt_abi::clock::{ClockPage, MAGIC, MODULE};

use crate::start_info::StartInfo;
use crate::{hw, memory};

/// 64-bit words of a page that are in use.
const WORDS: usize = 6;
/// CPUID leaf of the hypervisor's name, and "KVMKVMKVM" as it stands there.
const HYPERVISOR: u32 = 0x4000_0000;
const KVM: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
/// `KVM_FEATURE_CLOCKSOURCE2` and its register (Documentation/virt/kvm/x86/msr.rst).
const KVMCLOCK_FEATURE: u32 = 1 << 3;
const MSR_KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// The 8254: its ports, its frequency in Hz, and the ticks that are waited for, 10 ms.
const PIT_COMMAND: u16 = 0x43;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_HZ: u64 = 1_193_182;
const PIT_COUNT: u16 = 11_932;
/// How often it is tried on a machine that holds the guest up.
const PIT_ATTEMPTS: u32 = 20;

static OWN_PAGE: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// Where KVM writes its time: `pvclock_vcpu_time_info`, 32 bytes.
#[repr(C, align(64))]
struct KvmTime([AtomicU64; 4]);

static KVM_TIME: KvmTime = KvmTime([const { AtomicU64::new(0) }; 4]);

/// Guest time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    page: &'static [AtomicU64],
}

impl Clock {
    /// The clock page that the VMM passes.
    pub fn of_vmm(info: &StartInfo) -> Option<Self> {
        let module = info.module(MODULE)?;
        let page = memory::words(module.address, WORDS as u64)?;
        (page.first()?.load(Ordering::Acquire) == MAGIC).then_some(Self { page })
    }

    /// A clock that starts with 0 at `boot_tsc`, at a frequency told by `tsc_khz`, by KVM, or by the 8254.
    pub fn measured(boot_tsc: u64, tsc_khz: Option<u64>) -> Option<Self> {
        let hz = tsc_khz
            .map(|khz| khz * 1000)
            .or_else(kvm_tsc_hz)
            .or_else(pit_tsc_hz)?;
        let page = ClockPage::new(hz, boot_tsc, 0)?;
        let words = page.words();
        for (to, from) in OWN_PAGE.iter().zip(words) {
            to.store(from, Ordering::Relaxed);
        }
        Some(Self { page: &OWN_PAGE })
    }

    /// The relation of TSC and time as of now.
    pub fn page(&self) -> ClockPage {
        let word = |i: usize| self.page.get(i).map_or(0, |w| w.load(Ordering::Relaxed));
        loop {
            let sequence = word(1);
            fence(Ordering::Acquire);
            let page = ClockPage {
                magic: MAGIC,
                sequence,
                base_tsc: word(2),
                base_ns: word(3),
                ns_per_tick: word(4),
                ticks_per_ns: word(5),
            };
            fence(Ordering::Acquire);
            if sequence.is_multiple_of(2) && word(1) == sequence {
                return page;
            }
            core::hint::spin_loop();
        }
    }

    /// The time.
    pub fn now(&self) -> u64 {
        let page = self.page();
        page.ns_at(hw::rdtsc())
    }

    /// Waits for `ns` nanoseconds.
    pub fn wait(&self, ns: u64) {
        let end = self.now() + ns;
        while self.now() < end {
            core::hint::spin_loop();
        }
    }
}

/// Length of `ticks` in nanoseconds.
pub fn length(page: &ClockPage, ticks: u64) -> u64 {
    origin(page).ns_at(ticks)
}

/// `ns` in ticks.
pub fn ticks(page: &ClockPage, ns: u64) -> u64 {
    origin(page).tsc_at(ns)
}

/// The least TSC value near which it is `ns`, or later: a timer set to it does not go off too early by a rounding.
pub fn tsc_reaching(page: &ClockPage, ns: u64) -> u64 {
    let mut tsc = page.tsc_at(ns);
    for _ in 0..4 {
        let early = ns.saturating_sub(page.ns_at(tsc));
        if early == 0 {
            break;
        }
        tsc += ticks(page, early) + 1;
    }
    tsc
}

fn origin(page: &ClockPage) -> ClockPage {
    ClockPage {
        base_tsc: 0,
        base_ns: 0,
        ..*page
    }
}

/// The frequency that KVM's paravirtual clock runs at.
fn kvm_tsc_hz() -> Option<u64> {
    let [_, b, c, d] = hw::cpuid(HYPERVISOR);
    let features = hw::cpuid(HYPERVISOR + 1)[0];
    if [b, c, d] != KVM || features & KVMCLOCK_FEATURE == 0 {
        return None;
    }
    let at = (&raw const KVM_TIME).addr() as u64;
    hw::write_msr(MSR_KVM_SYSTEM_TIME, at | 1);
    let [version, _, _, scale] = &KVM_TIME.0;
    let filled = (0..1000).any(|_| {
        let version = version.load(Ordering::Acquire) & 0xffff_ffff;
        version != 0 && version.is_multiple_of(2)
    });
    let scale = scale.load(Ordering::Acquire);
    hw::write_msr(MSR_KVM_SYSTEM_TIME, 0);
    let [m0, m1, m2, m3, shift, ..] = scale.to_le_bytes();
    let multiplier = u128::from(u32::from_le_bytes([m0, m1, m2, m3]));
    // ns = (ticks << shift) * multiplier >> 32, or >> -shift.
    let (up, down) = match i8::from_le_bytes([shift]) {
        s @ 0.. => (u32::from(s.unsigned_abs()), 0),
        s => (0, u32::from(s.unsigned_abs())),
    };
    if !filled || multiplier == 0 || up > 31 || down > 31 {
        return None;
    }
    let hz = (1_000_000_000_u128 << (32 + down)) / (multiplier << up);
    u64::try_from(hz).ok()
}

/// The frequency by channel 0 of the 8254, which counts down once, in 55 ms.
///
/// Channel 2 would need port 0x61 too, which not every machine with an 8254 has. The interrupt goes nowhere: LINT0 and the
/// I/O APIC are masked.
fn pit_tsc_hz() -> Option<u64> {
    /// Mode 0, low byte then high byte: the output is low until the count is over. The status repeats it.
    const COUNT_DOWN: u8 = 0x30;
    for _ in 0..PIT_ATTEMPTS {
        hw::write_u8(PIT_COMMAND, COUNT_DOWN);
        if pit_status() & 0x3f != COUNT_DOWN {
            return None;
        }
        hw::write_u8(PIT_CHANNEL_0, 0xff);
        hw::write_u8(PIT_CHANNEL_0, 0xff);
        let (begin, first) = pit_count();
        let (end, last) = loop {
            let (tsc, count) = pit_count();
            if first.saturating_sub(count) >= PIT_COUNT || pit_is_over() {
                break (tsc, count);
            }
        };
        // Held up until after the end, the count has begun anew.
        if !pit_is_over() && last < first {
            let ticks = end.saturating_sub(begin).saturating_mul(PIT_HZ);
            return Some(ticks / u64::from(first - last));
        }
    }
    None
}

/// Whether channel 0 has counted to its end: its output is high.
fn pit_is_over() -> bool {
    pit_status() & 0x80 != 0
}

/// The status of channel 0.
fn pit_status() -> u8 {
    /// Read-back command: latches the status, not the count, of channel 0.
    const READ_STATUS: u8 = 0xe2;
    hw::write_u8(PIT_COMMAND, READ_STATUS);
    hw::read_u8(PIT_CHANNEL_0)
}

/// A TSC value and the count at that time: the quickest of several readings, since one may be held up on its way.
fn pit_count() -> (u64, u16) {
    const LATCH: u8 = 0;
    let readings = (0..8).map(|_| {
        let before = hw::rdtsc();
        hw::write_u8(PIT_COMMAND, LATCH);
        let took = hw::rdtsc().saturating_sub(before);
        let count = [hw::read_u8(PIT_CHANNEL_0), hw::read_u8(PIT_CHANNEL_0)];
        (took, before + took / 2, u16::from_le_bytes(count))
    });
    let (_, tsc, count) = readings.min().unwrap_or_default();
    (tsc, count)
}
