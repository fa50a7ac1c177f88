//! The guest's clock: the page that relates its TSC to its time, written by the VMM alone.
//!
//! Guest time is the host's CLOCK_MONOTONIC since the guest was started, plus what it had lived before if it was
//! restored: a pause is not hidden from the guest, because its deadlines pass in the real world.

use std::time::SystemTime;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use rt_abi::clock::ClockPage;
use vm_memory::{Bytes, GuestAddress};

use crate::kernel;
use crate::machine::Machine;
use crate::snapshot::{
    ClockState, GuestState, MSR_TSC, MSR_TSC_DEADLINE, SnapshotError, write_msr,
};

/// Why the clock cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The guest's TSC cannot be read.
    #[error("cannot read the guest's TSC: {0}")]
    Tsc(kvm_ioctls::Error),
    /// A frequency no clock can be made of.
    #[error("the guest's TSC runs at {0} Hz, which is out of range")]
    Frequency(u64),
    /// The page cannot be written.
    #[error("cannot write the guest's clock page: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// What is known of a guest's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    page: ClockPage,
    /// Guest TSC minus host TSC.
    tsc_offset: u64,
    tsc_hz: u64,
}

impl Clock {
    /// Starts the guest's clock at `base_ns`, now. No vCPU may run.
    ///
    /// # Errors
    /// [`ClockError`].
    pub fn start(machine: &Machine, boot_cpu: &VcpuFd, base_ns: u64) -> Result<Self, ClockError> {
        let tsc_offset = tsc_offset(boot_cpu)?;
        let now = kernel::rdtsc().wrapping_add(tsc_offset);
        let page = ClockPage::new(machine.tsc_hz(), now, base_ns)
            .ok_or(ClockError::Frequency(machine.tsc_hz()))?;
        for (i, word) in (0u64..).zip(page.words()) {
            machine
                .ram()
                .write_obj(word, GuestAddress(machine.clock().0 + i * 8))?;
        }
        Ok(Self {
            page,
            tsc_offset,
            tsc_hz: machine.tsc_hz(),
        })
    }

    /// Guest time now, in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.page
            .ns_at(kernel::rdtsc().wrapping_add(self.tsc_offset))
    }

    /// What is saved of the clock, now.
    #[must_use]
    pub fn state(&self) -> ClockState {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        ClockState {
            guest_ns: self.now_ns(),
            wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
            base_tsc: self.page.base_tsc,
            base_ns: self.page.base_ns,
            tsc_hz: self.tsc_hz,
        }
    }

    /// Puts vCPU `index` of a saved guest into a new one, its timer armed for the same guest time as before.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn restore_vcpu(
        &self,
        state: &GuestState,
        index: usize,
        fd: &VcpuFd,
    ) -> Result<(), SnapshotError> {
        let saved = state.vcpu(index)?;
        saved.restore(fd)?;
        let deadline = saved.deadline();
        let Some(time) = deadline.and_then(|tsc| state.clock.guest_time_of(tsc)) else {
            return Ok(());
        };
        write_msr(fd, MSR_TSC_DEADLINE, self.page.tsc_at(time).max(1))
    }

    /// Lets the TSC of new vCPU `index` go on from where that of the saved one was, where the host can do that. `now` is the
    /// same for all.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn continue_tsc(
        state: &GuestState,
        index: usize,
        fd: &VcpuFd,
        now: SystemTime,
    ) -> Result<(), SnapshotError> {
        let passed = state.clock.resumed_ns(now) - state.clock.guest_ns;
        let ticks = u128::from(passed) * u128::from(state.clock.tsc_hz) / 1_000_000_000;
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        write_msr(fd, MSR_TSC, state.vcpu(index)?.tsc().wrapping_add(ticks))
    }
}

/// Guest TSC minus host TSC. On a host that cannot shift the guest's TSC this is (nearly) nothing.
fn tsc_offset(vcpu: &VcpuFd) -> Result<u64, ClockError> {
    let entry = kvm_msr_entry {
        index: MSR_TSC,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry])
        .map_err(|_| ClockError::Tsc(kvm_ioctls::Error::new(libc::ENOMEM)))?;
    let before = kernel::rdtsc();
    vcpu.get_msrs(&mut msrs).map_err(ClockError::Tsc)?;
    let after = kernel::rdtsc();
    let guest = msrs.as_slice()[0].data;
    if (before..=after).contains(&guest) {
        return Ok(0);
    }
    // The register was read somewhere in between; the middle errs by half the call at most.
    Ok(guest.wrapping_sub(before + (after - before) / 2))
}
