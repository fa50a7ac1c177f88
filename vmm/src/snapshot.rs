//! The saved form of a guest: vCPUs, devices, clock; memory goes beside it.
//!
//! Every part is `(kind, version, bytes)`, the version outside of what it versions. Bytes are postcard; an unknown
//! kind, an unknown version and left-over bytes are errors. What is not saved is what a new machine already has: CPUID,
//! the layout, the reservation.
//!
//! Restoring keeps real time: the guest's clock goes on from where it was plus the time that has passed since, its
//! TSC never goes back where the host can set it, and an armed timer is armed again for the same guest time.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use migration::ram::Part;
use rt_abi::clock::ClockPage;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::boot::BootLayout;
use crate::clock::ClockError;
use crate::device::{DeviceState, RestoreError};
use crate::units::ByteSize;

/// Time-stamp counter.
pub const MSR_TSC: u32 = 0x10;
/// Deadline of the local APIC's timer, in TSC ticks.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// What a guest of ours can have set: APIC base, feature control, system call entries, segment bases, PAT, clock.
const SAVED_MSRS: [u32; 22] = [
    MSR_TSC,
    0x1b, // IA32_APIC_BASE
    0x3a, // IA32_FEATURE_CONTROL
    0x174,
    0x175,
    0x176,       // SYSENTER
    0x1a0,       // IA32_MISC_ENABLE
    0x277,       // IA32_PAT
    0xc000_0080, // EFER
    0xc000_0081,
    0xc000_0082,
    0xc000_0084, // STAR, LSTAR, SFMASK
    0xc000_0100,
    0xc000_0101,
    0xc000_0102, // FS, GS, KERNEL_GS bases
    0xc000_0083, // CSTAR
    0xc000_0103, // TSC_AUX
    0x4b56_4d00,
    0x4b56_4d01, // KVM: wall clock, system time
    0x4b56_4d02,
    0x4b56_4d04, // KVM: asynchronous page faults, paravirtual EOI
    MSR_TSC_DEADLINE,
];

/// Why a guest cannot be saved or taken up.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// KVM refused to tell or to take something.
    #[error("KVM refused to {step}: {source}")]
    Kvm {
        /// What was tried.
        step: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// KVM took only some of the registers.
    #[error("KVM refused model-specific register {index:#x}")]
    Msr {
        /// The first one refused.
        index: u32,
    },
    /// A part cannot be written or read.
    #[error("saved {kind}: {reason}")]
    Format {
        /// Which part.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A device refused its state.
    #[error(transparent)]
    Device(#[from] RestoreError),
    /// The guest's memory cannot be written or read.
    #[error("guest memory: {0}")]
    Memory(String),
    /// The folder to save into cannot be made.
    #[error("folder {}: {reason}: {hint}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        reason: std::io::Error,
        /// What would work.
        hint: &'static str,
    },
    /// The guest that is to become another one runs.
    #[error("state can only be put into a guest that stands still; pause it first")]
    Running,
    /// The guest's clock cannot be set.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// Its port stays closed.
    #[error("frames for the guest cannot be let in: {0}")]
    Port(#[from] net::netlink::NetlinkError),
    /// A vCPU's thread is gone.
    #[error("a vCPU ended while it was being saved")]
    Gone,
}

/// The state of a vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    /// Pairs of number and value, in the order they must be set.
    msrs: Vec<(u32, u64)>,
}

/// What is saved of a guest besides its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct GuestState {
    /// Bytes of RAM.
    pub memory: ByteSize,
    /// Where the VMM's areas lie in it.
    pub layout: BootLayout,
    /// Clock page and when it was read.
    pub clock: ClockState,
    /// vCPUs, in order.
    pub vcpus: Vec<VcpuState>,
    /// Devices on the ports, in order.
    pub ports: Vec<DeviceState>,
    /// Devices in memory, in order.
    pub mmio: Vec<DeviceState>,
}

impl GuestState {
    /// A vCPU.
    ///
    /// # Errors
    /// [`SnapshotError::Format`] if the guest has fewer.
    pub fn vcpu(&self, index: usize) -> Result<&VcpuState, SnapshotError> {
        self.vcpus.get(index).ok_or_else(|| SnapshotError::Format {
            kind: GUEST_KIND,
            reason: format!("it has {} vCPUs, and no vCPU {index}", self.vcpus.len()),
        })
    }
}

/// The guest's time when it was saved.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ClockState {
    /// Guest time.
    pub guest_ns: u64,
    /// The host's wall clock at that time, in nanoseconds since 1970.
    pub wall_ns: u64,
    /// Base and factor of the clock page, to turn an armed TSC deadline into guest time.
    pub base_tsc: u64,
    /// Guest time at the base.
    pub base_ns: u64,
    /// TSC ticks per second.
    pub tsc_hz: u64,
}

impl ClockState {
    /// Guest time to continue with at the wall-clock time `now`: what has passed since is not hidden.
    #[must_use]
    pub fn resumed_ns(&self, now: SystemTime) -> u64 {
        let wall = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let passed = u64::try_from(wall.as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_sub(self.wall_ns);
        self.guest_ns.saturating_add(passed)
    }

    /// Guest time of a TSC value of the saved guest.
    #[must_use]
    pub fn guest_time_of(&self, tsc: u64) -> Option<u64> {
        ClockPage::new(self.tsc_hz, self.base_tsc, self.base_ns).map(|page| page.ns_at(tsc))
    }
}

impl VcpuState {
    /// Reads the state of a vCPU that does not run. `serve` answers what the instruction it stands at still asks for.
    ///
    /// # Errors
    /// [`SnapshotError::Kvm`].
    pub fn save(fd: &mut VcpuFd, serve: impl FnMut(VcpuExit<'_>)) -> Result<Self, SnapshotError> {
        complete_exit(fd, serve);
        Ok(Self {
            // First: reading it may change the events that are pending.
            mp_state: fd.get_mp_state().map_err(kvm("tell the run state"))?,
            regs: fd.get_regs().map_err(kvm("tell registers"))?,
            sregs: fd.get_sregs().map_err(kvm("tell system registers"))?,
            xsave: fd
                .get_xsave()
                .map_err(kvm("tell the floating-point state"))?,
            xcrs: fd
                .get_xcrs()
                .map_err(kvm("tell extended control registers"))?,
            debugregs: fd.get_debug_regs().map_err(kvm("tell debug registers"))?,
            lapic: fd.get_lapic().map_err(kvm("tell the local APIC"))?,
            events: fd.get_vcpu_events().map_err(kvm("tell pending events"))?,
            msrs: read_msrs(fd)?,
        })
    }

    /// Puts a state into a vCPU that has not run. TSC and timer are left out: they depend on the guest's new clock.
    ///
    /// # Errors
    /// [`SnapshotError::Kvm`], [`SnapshotError::Msr`].
    pub fn restore(&self, fd: &VcpuFd) -> Result<(), SnapshotError> {
        fd.set_xcrs(&self.xcrs)
            .map_err(kvm("take extended control registers"))?;
        fd.set_sregs(&self.sregs)
            .map_err(kvm("take system registers"))?;
        fd.set_regs(&self.regs).map_err(kvm("take registers"))?;
        crate::kernel::set_xsave(fd, &self.xsave).map_err(kvm("take the floating-point state"))?;
        fd.set_debug_regs(&self.debugregs)
            .map_err(kvm("take debug registers"))?;
        for &(index, value) in &self.msrs {
            let timer = index == MSR_TSC_DEADLINE || index == MSR_TSC;
            if !timer {
                write_msr(fd, index, value)?;
            }
        }
        fd.set_lapic(&self.lapic)
            .map_err(kvm("take the local APIC"))?;
        fd.set_vcpu_events(&self.events)
            .map_err(kvm("take pending events"))?;
        fd.set_mp_state(self.mp_state)
            .map_err(kvm("take the run state"))
    }

    /// The TSC when this was saved.
    #[must_use]
    pub fn tsc(&self) -> u64 {
        self.msr(MSR_TSC).unwrap_or(0)
    }

    /// The TSC value the timer was armed for, if it was.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.msr(MSR_TSC_DEADLINE).filter(|&deadline| deadline != 0)
    }

    fn msr(&self, wanted: u32) -> Option<u64> {
        self.msrs
            .iter()
            .find(|(index, _)| *index == wanted)
            .map(|(_, value)| *value)
    }
}

/// Writes a model-specific register.
///
/// # Errors
/// [`SnapshotError::Msr`].
pub fn write_msr(fd: &VcpuFd, index: u32, data: u64) -> Result<(), SnapshotError> {
    let msrs = Msrs::from_entries(&[kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }])
    .map_err(|_| SnapshotError::Msr { index })?;
    match fd.set_msrs(&msrs) {
        Ok(1) => Ok(()),
        Ok(_) => Err(SnapshotError::Msr { index }),
        Err(source) => Err(SnapshotError::Kvm {
            step: "take model-specific registers",
            source,
        }),
    }
}

/// More exits than any one instruction makes.
const PARTS_OF_AN_ACCESS: u32 = 4096;

fn read_msrs(fd: &VcpuFd) -> Result<Vec<(u32, u64)>, SnapshotError> {
    let mut found = Vec::new();
    // One by one: KVM stops at the first that this host does not have, and the guest cannot have set that one.
    for index in SAVED_MSRS {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry]).map_err(|_| SnapshotError::Msr { index })?;
        if fd
            .get_msrs(&mut msrs)
            .map_err(kvm("tell model-specific registers"))?
            == 1
        {
            found.push((index, msrs.as_slice()[0].data));
        }
    }
    Ok(found)
}

/// An exit to user space may have left an instruction half done; entering again completes it (KVM API, KVM_RUN), which may write
/// guest memory. An access wider than a bus, or a repeated one, exits once for each of its parts.
pub(crate) fn complete_exit(fd: &mut VcpuFd, mut serve: impl FnMut(VcpuExit<'_>)) {
    fd.set_kvm_immediate_exit(1);
    for _ in 0..PARTS_OF_AN_ACCESS {
        match fd.run() {
            Ok(exit) => serve(exit),
            Err(_) => break,
        }
    }
    fd.set_kvm_immediate_exit(0);
}

fn kvm(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> SnapshotError {
    move |source| SnapshotError::Kvm { step, source }
}

/// Kind of the only part there is so far.
const GUEST_KIND: &str = "guest";
const GUEST_VERSION: u16 = 1;

/// One part of a saved guest as it lies in a file.
#[derive(Serialize, Deserialize)]
struct FilePart {
    kind: String,
    version: u16,
    bytes: Vec<u8>,
}

/// Turns a guest's state into a part.
///
/// # Errors
/// [`SnapshotError::Format`].
pub fn to_part(state: &GuestState) -> Result<Part, SnapshotError> {
    Ok(Part {
        kind: GUEST_KIND.to_owned(),
        version: GUEST_VERSION,
        bytes: to_bytes(GUEST_KIND, state)?,
    })
}

/// The state in the parts of a guest.
///
/// # Errors
/// [`SnapshotError::Format`]: other parts than that one, another version, damaged or left-over bytes.
pub fn from_parts(parts: &[Part]) -> Result<GuestState, SnapshotError> {
    let [part] = parts else {
        let reason = format!("it has {} parts; one, `{GUEST_KIND}`, is read", parts.len());
        return Err(SnapshotError::Format {
            kind: "parts",
            reason,
        });
    };
    if part.kind != GUEST_KIND || part.version != GUEST_VERSION {
        let reason = format!(
            "it is a `{}` in version {}; this program reads `{GUEST_KIND}` in version {GUEST_VERSION}",
            part.kind, part.version
        );
        return Err(SnapshotError::Format {
            kind: "part",
            reason,
        });
    }
    from_bytes(GUEST_KIND, &part.bytes)
}

/// Turns a guest's state into bytes.
///
/// # Errors
/// [`SnapshotError::Format`].
pub fn encode(state: &GuestState) -> Result<Vec<u8>, SnapshotError> {
    let Part {
        kind,
        version,
        bytes,
    } = to_part(state)?;
    let part = FilePart {
        kind,
        version,
        bytes,
    };
    to_bytes("part", &part)
}

/// The reverse of [`encode`].
///
/// # Errors
/// [`SnapshotError::Format`]: other kind, other version, damaged or left-over bytes.
pub fn decode(bytes: &[u8]) -> Result<GuestState, SnapshotError> {
    let FilePart {
        kind,
        version,
        bytes,
    } = from_bytes("part", bytes)?;
    from_parts(&[Part {
        kind,
        version,
        bytes,
    }])
}

fn to_bytes<T: Serialize>(kind: &'static str, value: &T) -> Result<Vec<u8>, SnapshotError> {
    postcard::to_allocvec(value).map_err(|e| SnapshotError::Format {
        kind,
        reason: e.to_string(),
    })
}

fn from_bytes<T: DeserializeOwned>(kind: &'static str, bytes: &[u8]) -> Result<T, SnapshotError> {
    let error = |reason: String| SnapshotError::Format { kind, reason };
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|e| error(e.to_string()))?;
    if !rest.is_empty() {
        return Err(error(format!("{} bytes are left over", rest.len())));
    }
    Ok(value)
}
