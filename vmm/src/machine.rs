//! Builds the machine a guest runs on: KVM's VM, memory, local APICs, buses, vCPUs with the image loaded.
//!
//! Nothing runs yet, and nothing here knows of time or reservations. Interrupt chips: the local APICs are in the
//! kernel, the rest is not (split irqchip): closing a VM with all of them in the kernel takes 15 ms instead of 0.2.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{CpuId, KVM_CAP_HALT_POLL, KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, ReadVolatile};

use crate::boot::{self, BootError, BootLayout};
use crate::cpu;
use crate::device::virtio::net::{Card, Desk as NetDesk};
use crate::device::{
    Bus, BusError, DEBUG_EXIT_PORT, DebugExit, Effect, IOAPIC_PINS, KEYBOARD_PORTS, Reset,
    SERIAL_PORT, SERIAL_PORTS, SerialOutput, serial,
};
use crate::kernel::{self, DirtyLogging};
use crate::memory::Ram;
use crate::memory::{self, MemoryError, MemoryPlan, Population};
use crate::snapshot::{GuestState, SnapshotError};
use crate::units::ByteSize;

mod devices;

/// Entries that KVM's CPUID table may have.
const MAX_CPUID_ENTRIES: usize = 256;
/// Memory up to this size is populated by two threads.
const SHARED_UP_TO: ByteSize = ByteSize::mebibytes(64);

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// /dev/kvm cannot be opened.
    #[error("cannot open /dev/kvm: {source}; {hint}")]
    Open {
        /// What the kernel said.
        source: io::Error,
        /// What would help.
        hint: &'static str,
    },
    /// KVM lacks something.
    #[error("this host's KVM has no {0}, which Chronovisor needs")]
    Missing(&'static str),
    /// More vCPUs than KVM takes.
    #[error("{wanted} vCPUs are more than the {possible} that this host's KVM gives a guest")]
    TooManyVcpus {
        /// Wanted.
        wanted: u32,
        /// Possible.
        possible: usize,
    },
    /// A call failed.
    #[error("KVM refused to {step}: {source}")]
    Call {
        /// What was tried.
        step: &'static str,
        /// What KVM said.
        source: io::Error,
    },
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Image or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Devices overlap.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct MachinePlan {
    /// Memory.
    pub memory: MemoryPlan,
    /// Number of vCPUs, at least 1.
    pub vcpus: u32,
}

/// A guest's machine, shared by its vCPU threads.
pub struct Machine {
    // Dropped before `ram`, into which its memory slots point, and with it the bus whose I/O APIC has the other hold on it.
    vm: Arc<VmFd>,
    /// A second view of vCPU 0 that only reads the ring of coalesced writes, which all vCPUs share.
    coalesced: Option<Mutex<VcpuFd>>,
    ports: Bus,
    mmio: Bus,
    ram: Ram,
    layout: BootLayout,
    tsc_hz: u64,
    /// What the guest's command line says of its devices.
    announcement: String,
    /// Whether somebody tracks what is written to memory: there is one log.
    is_tracked: AtomicBool,
}

/// A machine just built, with what leaves it.
pub struct Built {
    /// Its vCPUs, still in the hands of whoever builds.
    pub vcpus: Vec<VcpuFd>,
    /// The machine.
    pub machine: Machine,
    /// Output of its serial port.
    pub output: SerialOutput,
    /// The network device's side towards its thread, if there is one.
    pub network: Option<Arc<NetDesk>>,
}

/// Builds a machine without an image: memory is zero, vCPUs are in reset.
///
/// With a `card` it has a network device. `elsewhere` runs a closure on another thread, on another CPU if there is one, in
/// the order they are given: making memory takes longest, and what KVM can tell of CPUID is slow to collect.
///
/// # Errors
/// [`MachineError`]; everything made so far is gone again.
pub fn build(
    plan: MachinePlan,
    card: Option<Card>,
    elsewhere: impl Fn(Box<dyn FnOnce() + Send>),
) -> Result<Built, MachineError> {
    let kvm = open()?;
    // Before memory: while pages are being locked, creating a VM would wait for them.
    let vm = create_vm(&kvm, plan.vcpus)?;
    let (answer, cpuid) = std::sync::mpsc::channel();
    elsewhere(Box::new(move || {
        // If nobody waits for it any more the build has failed.
        let _ = answer.send(kvm.get_supported_cpuid(MAX_CPUID_ENTRIES));
    }));
    let ram = memory::create(plan.memory)?;
    populate(plan.memory, &ram, &elsewhere)?;
    let cpuid = cpuid
        .recv()
        .map_err(|_| MachineError::Missing("CPUID table"))?;
    let cpuid = cpuid.map_err(call("tell its CPUID"))?;
    let vcpus = create_vcpus(&vm, &cpuid, plan.vcpus)?;
    assemble(plan, (vm, vcpus), ram, card)
}

/// Populates memory on this thread and, if it is little, on the other too. A vCPU's thread waits with real-time priority,
/// so it is not kept busy for long.
fn populate(
    plan: MemoryPlan,
    ram: &Ram,
    elsewhere: impl Fn(Box<dyn FnOnce() + Send>),
) -> Result<(), MemoryError> {
    let population = Arc::new(Population::new(ram.clone(), plan));
    let (answer, other) = std::sync::mpsc::channel();
    if plan.size <= SHARED_UP_TO {
        let population = Arc::clone(&population);
        elsewhere(Box::new(move || {
            // If nobody waits for it any more the build has failed.
            let _ = answer.send(population.work());
        }));
    } else {
        drop(answer);
    }
    population.work()?;
    // Nothing comes if it was not asked.
    other.recv().unwrap_or(Ok(()))
}

/// Puts VM, vCPUs and memory together and adds the devices.
fn assemble(
    plan: MachinePlan,
    (vm, vcpus): (VmFd, Vec<VcpuFd>),
    ram: Ram,
    card: Option<Card>,
) -> Result<Built, MachineError> {
    let vm = Arc::new(vm);
    let layout = BootLayout::new(plan.memory.size.bytes(), u64::from(plan.vcpus))?;
    kernel::register_memory(&vm, &ram, DirtyLogging::Off).map_err(call("register guest memory"))?;
    let tsc_khz = vcpus[0]
        .get_tsc_khz()
        .map_err(call("tell the TSC frequency"))?;
    let (ports, output) = port_bus()?;
    let coalesced = coalesce(&vm, &vcpus[0])?;
    let (mmio, network) = devices::memory_bus(&vm, &ram, card, coalesced.is_some())?;
    let machine = Machine {
        vm,
        coalesced,
        ports,
        mmio,
        ram,
        layout,
        tsc_hz: u64::from(tsc_khz) * 1000,
        announcement: network
            .as_ref()
            .map_or_else(String::new, |_| devices::announcement()),
        is_tracked: AtomicBool::new(false),
    };
    Ok(Built {
        machine,
        vcpus,
        output,
        network,
    })
}

impl Built {
    /// Loads an image and points vCPU 0 at its PVH entry. The command line goes on with what is to be said of devices.
    ///
    /// # Errors
    /// [`MachineError::Boot`], [`MachineError::Call`].
    pub fn load(&self, image: &[u8], command_line: &str) -> Result<(), MachineError> {
        let machine = &self.machine;
        let entry = boot::load_image(&machine.ram, image, &machine.layout)?;
        let command_line = format!("{command_line}{}", machine.announcement);
        boot::write_boot_data(&machine.ram, &machine.layout, &command_line)?;
        let boot_cpu = &self.vcpus[0];
        let reset = boot_cpu
            .get_sregs()
            .map_err(call("read system registers"))?;
        boot_cpu
            .set_sregs(&cpu::pvh_system_registers(reset))
            .map_err(call("set system registers"))?;
        let registers = cpu::pvh_registers(entry.0, machine.layout.start_info);
        boot_cpu.set_regs(&registers).map_err(call("set registers"))
    }
}

impl Machine {
    /// Guest memory.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// KVM's VM.
    #[must_use]
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Where the VMM's own areas lie in guest memory.
    #[must_use]
    pub fn layout(&self) -> &BootLayout {
        &self.layout
    }

    /// Frequency of the guest's TSC in Hz.
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// The I/O ports.
    #[must_use]
    pub fn ports(&self) -> &Bus {
        &self.ports
    }

    /// The device memory.
    #[must_use]
    pub fn mmio(&self) -> &Bus {
        &self.mmio
    }

    /// Address of the clock page.
    #[must_use]
    pub fn clock(&self) -> GuestAddress {
        GuestAddress(self.layout.clock)
    }

    /// Takes the log of written pages, if nobody has it.
    #[must_use]
    pub(crate) fn take_log(&self) -> bool {
        !self.is_tracked.swap(true, Ordering::AcqRel)
    }

    /// Gives the log of written pages back.
    pub(crate) fn give_back_log(&self) {
        self.is_tracked.store(false, Ordering::Release);
    }

    /// Takes up memory and devices of a saved guest. No vCPU may run.
    ///
    /// # Errors
    /// [`SnapshotError`] if it is another machine, or the memory file is short or cannot be read.
    pub fn take_up(&self, state: &GuestState, memory: &std::fs::File) -> Result<(), SnapshotError> {
        self.must_be_like(state)?;
        let failed = |e: &dyn std::fmt::Display| SnapshotError::Memory(e.to_string());
        let mut file = memory.try_clone().map_err(|e| failed(&e))?;
        for region in self.ram.iter() {
            let mut slice = region.as_volatile_slice().map_err(|e| failed(&e))?;
            file.read_exact_volatile(&mut slice)
                .map_err(|e| failed(&e))?;
        }
        self.take_up_devices(state)
    }

    /// Takes up the devices of a saved guest whose memory is there already. No vCPU may run.
    ///
    /// # Errors
    /// [`SnapshotError`] if it is another machine, or a device cannot take its state.
    pub fn take_up_devices(&self, state: &GuestState) -> Result<(), SnapshotError> {
        self.must_be_like(state)?;
        self.ports.restore(&state.ports)?;
        self.mmio.restore(&state.mmio)?;
        Ok(())
    }

    fn must_be_like(&self, state: &GuestState) -> Result<(), SnapshotError> {
        let vcpus = u64::try_from(state.vcpus.len()).unwrap_or(u64::MAX);
        let memory: u64 = self.ram.iter().map(|region| region.size() as u64).sum();
        let is_like = state.layout == self.layout && vcpus == self.layout.rings;
        if is_like && state.memory.bytes() == memory {
            return Ok(());
        }
        let reason = "it has another memory size or number of vCPUs than this machine".to_owned();
        Err(SnapshotError::Format {
            kind: "guest",
            reason,
        })
    }

    /// Delivers the writes that KVM has held back, oldest first. Called before anything else touches a device, so that
    /// the order of the guest's accesses is kept.
    pub fn deliver_coalesced(&self) {
        let Some(ring) = &self.coalesced else { return };
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some(entry)) = ring.coalesced_mmio_read() {
            let length = usize::try_from(entry.len).map_or(0, |n| n.min(entry.data.len()));
            let data = &entry.data[..length];
            let is_port = kernel::is_port(&entry);
            let bus = if is_port { &self.ports } else { &self.mmio };
            // What is coalesced, serial output and acknowledged interrupts, has no effect beyond the device.
            let _: Effect = bus.write(entry.phys_addr, data);
        }
    }
}

/// Opens /dev/kvm and checks what this VMM cannot do without.
fn open() -> Result<Kvm, MachineError> {
    let kvm = Kvm::new().map_err(|e| {
        let source = io::Error::from(e);
        let hint = match source.kind() {
            io::ErrorKind::NotFound => {
                "load the module kvm_intel or kvm_amd, or switch on virtualisation in the firmware"
            }
            io::ErrorKind::PermissionDenied => {
                "run as root or as a member of the group that owns /dev/kvm (kvm)"
            }
            _ => "see dmesg for what KVM says",
        };
        MachineError::Open { source, hint }
    })?;
    for (capability, name) in [
        (Cap::UserMemory, "user memory slots"),
        (Cap::SplitIrqchip, "split irqchip"),
        (Cap::ImmediateExit, "immediate exit"),
        (Cap::TscDeadlineTimer, "TSC-deadline timer"),
        (Cap::GetTscKhz, "TSC frequency"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(MachineError::Missing(name));
        }
    }
    Ok(kvm)
}

fn create_vm(kvm: &Kvm, vcpus: u32) -> Result<VmFd, MachineError> {
    let possible = kvm.get_max_vcpus();
    if usize::try_from(vcpus).is_ok_and(|wanted| wanted > possible) {
        return Err(MachineError::TooManyVcpus {
            wanted: vcpus,
            possible,
        });
    }
    let vm = kvm.create_vm().map_err(call("create a VM"))?;
    enable(&vm, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS as u64)
        .map_err(call("split the interrupt chips"))?;
    // Polling for wake-ups would be charged to the guest's reservation.
    enable(&vm, KVM_CAP_HALT_POLL, 0).map_err(call("switch off halt polling"))?;
    Ok(vm)
}

pub(crate) fn enable(vm: &VmFd, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    let mut cap = kvm_enable_cap {
        cap,
        ..Default::default()
    };
    cap.args[0] = argument;
    vm.enable_cap(&cap)
}

fn create_vcpus(vm: &VmFd, supported: &CpuId, count: u32) -> Result<Vec<VcpuFd>, MachineError> {
    (0..count)
        .map(|index| {
            let vcpu = vm
                .create_vcpu(u64::from(index))
                .map_err(call("create a vCPU"))?;
            vcpu.set_cpuid2(&cpu::cpuid(supported, index, count))
                .map_err(call("set CPUID"))?;
            Ok(vcpu)
        })
        .collect()
}

fn port_bus() -> Result<(Bus, SerialOutput), MachineError> {
    let (serial, output) = serial().map_err(|source| MachineError::Call {
        step: "make a pipe",
        source,
    })?;
    let mut ports = Bus::default();
    ports.insert(SERIAL_PORTS, Box::new(serial))?;
    ports.insert(DEBUG_EXIT_PORT..DEBUG_EXIT_PORT + 1, Box::new(DebugExit))?;
    ports.insert(KEYBOARD_PORTS, Box::new(Reset))?;
    Ok((ports, output))
}

/// Where KVM collects writes until there is another reason to exit, if it can: those to device memory, and since Linux
/// 4.20 those to ports, of which the serial transmit register's are collected.
fn coalesce(vm: &VmFd, vcpu: &VcpuFd) -> Result<Option<Mutex<VcpuFd>>, MachineError> {
    if !vm.check_extension(Cap::CoalescedMmio) {
        return Ok(None);
    }
    let mut ring = kernel::second_view(vm, vcpu).map_err(|source| MachineError::Call {
        step: "map a vCPU again",
        source,
    })?;
    ring.map_coalesced_mmio_ring()
        .map_err(call("map its ring of coalesced writes"))?;
    if vm.check_extension(Cap::CoalescedPio) {
        vm.register_coalesced_mmio(IoEventAddress::Pio(SERIAL_PORT), 1)
            .map_err(call("coalesce serial output"))?;
    }
    Ok(Some(Mutex::new(ring)))
}

/// Turns an error of a KVM call into ours.
fn call(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |e| MachineError::Call {
        step,
        source: e.into(),
    }
}
