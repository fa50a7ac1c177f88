//! Which features of processor and KVM a guest may use, and what they are called.

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::Cap;

/// A register that CPUID returns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    pub(super) fn of(self, entry: &kvm_cpuid_entry2) -> u32 {
        match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        }
    }
}

/// A register each bit of which is a feature.
#[derive(Debug)]
pub(super) struct Mask {
    pub(super) function: u32,
    pub(super) index: u32,
    pub(super) register: Register,
    /// Bits that are no features, say how this host stands at the moment, or are hidden from guests.
    pub(super) unused: u32,
    /// Names of some bits.
    names: &'static [(u8, &'static str)],
}

impl Mask {
    /// What these bits are called.
    pub(super) fn names(&self, bits: u32) -> impl Iterator<Item = String> {
        (0..32u8)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(|bit| {
                let known = self.names.iter().find(|(at, _)| *at == bit);
                let Self {
                    function,
                    index,
                    register,
                    ..
                } = self;
                known.map_or_else(
                    || format!("CPUID {function:#x}.{index} {} bit {bit}", register.name()),
                    |(_, name)| (*name).to_owned(),
                )
            })
    }
}

/// All of them (Intel SDM, volume 2A, CPUID; AMD64 APM, volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst). Their order is part of version 1
/// of what hosts tell each other.
pub(super) const MASKS: [Mask; 13] = [
    Mask {
        function: 1,
        index: 0,
        register: Register::Ecx,
        // OSXSAVE: whether the one who asks has switched it on. Hypervisor, TSC deadline and x2APIC: set for every guest.
        unused: 1 << 27 | 1 << 31 | 1 << 24 | 1 << 21,
        names: &[
            (0, "SSE3"),
            (1, "PCLMULQDQ"),
            (9, "SSSE3"),
            (12, "FMA"),
            (13, "CMPXCHG16B"),
            (19, "SSE4.1"),
            (20, "SSE4.2"),
            (22, "MOVBE"),
            (23, "POPCNT"),
            (25, "AES"),
            (26, "XSAVE"),
            (28, "AVX"),
            (29, "F16C"),
            (30, "RDRAND"),
        ],
    },
    Mask {
        function: 1,
        index: 0,
        register: Register::Edx,
        unused: 0,
        names: &[(4, "TSC"), (24, "FXSR"), (25, "SSE"), (26, "SSE2")],
    },
    Mask {
        function: 7,
        index: 0,
        register: Register::Ebx,
        unused: 0,
        names: &[
            (0, "FSGSBASE"),
            (3, "BMI1"),
            (5, "AVX2"),
            (7, "SMEP"),
            (8, "BMI2"),
            (9, "ERMS"),
            (16, "AVX512F"),
            (17, "AVX512DQ"),
            (18, "RDSEED"),
            (19, "ADX"),
            (20, "SMAP"),
            (23, "CLFLUSHOPT"),
            (24, "CLWB"),
            (28, "AVX512CD"),
            (29, "SHA"),
            (30, "AVX512BW"),
            (31, "AVX512VL"),
        ],
    },
    Mask {
        function: 7,
        index: 0,
        register: Register::Ecx,
        // OSPKE: whether the one who asks has switched it on.
        unused: 1 << 4,
        names: &[
            (1, "AVX512_VBMI"),
            (2, "UMIP"),
            (3, "PKU"),
            (6, "AVX512_VBMI2"),
            (8, "GFNI"),
            (9, "VAES"),
            (10, "VPCLMULQDQ"),
            (11, "AVX512_VNNI"),
            (16, "LA57"),
            (22, "RDPID"),
        ],
    },
    Mask {
        function: 7,
        index: 0,
        register: Register::Edx,
        unused: 0,
        names: &[
            (4, "FSRM"),
            (22, "AMX-BF16"),
            (23, "AVX512_FP16"),
            (24, "AMX-TILE"),
            (25, "AMX-INT8"),
            (26, "SPEC_CTRL"),
        ],
    },
    Mask {
        function: 7,
        index: 1,
        register: Register::Eax,
        unused: 0,
        names: &[(4, "AVX-VNNI"), (5, "AVX512_BF16")],
    },
    Mask {
        function: 0xd,
        index: 0,
        register: Register::Eax,
        unused: 0,
        names: &[
            (2, "the AVX state"),
            (5, "the AVX-512 mask registers"),
            (6, "the upper halves of ZMM0-15"),
            (7, "ZMM16-31"),
            (9, "the PKRU state"),
            (18, "the AMX tile data"),
        ],
    },
    Mask {
        function: 0xd,
        index: 1,
        register: Register::Eax,
        unused: 0,
        names: &[(0, "XSAVEOPT"), (1, "XSAVEC"), (3, "XSAVES")],
    },
    Mask {
        function: 0x8000_0001,
        index: 0,
        register: Register::Ecx,
        unused: 0,
        names: &[(0, "LAHF in 64-bit mode"), (5, "LZCNT")],
    },
    Mask {
        function: 0x8000_0001,
        index: 0,
        register: Register::Edx,
        unused: 0,
        names: &[
            (11, "SYSCALL"),
            (20, "NX"),
            (26, "pages of 1 GiB"),
            (27, "RDTSCP"),
            (29, "long mode"),
        ],
    },
    Mask {
        function: 0x8000_0007,
        index: 0,
        register: Register::Edx,
        unused: 0,
        names: &[(8, "an invariant TSC")],
    },
    Mask {
        function: 0x8000_0008,
        index: 0,
        register: Register::Ebx,
        unused: 0,
        names: &[],
    },
    Mask {
        function: 0x4000_0001,
        index: 0,
        register: Register::Eax,
        // Steal time, PV_SEND_IPI and PV_SCHED_YIELD are hidden from guests.
        unused: 1 << 5 | 1 << 11 | 1 << 13,
        names: &[
            (0, "kvmclock"),
            (3, "kvmclock's newer registers"),
            (24, "a stable kvmclock"),
        ],
    },
];

/// What this monitor needs of KVM, or guests can notice. Their order is part of version 1 of what hosts tell each other.
pub(super) const CAPABILITIES: [(&str, Cap); 9] = [
    ("split irqchip", Cap::SplitIrqchip),
    ("TSC deadline timer", Cap::TscDeadlineTimer),
    ("saving of extended control registers", Cap::Xcrs),
    ("saving of extended state", Cap::Xsave),
    ("saving of debug registers", Cap::Debugregs),
    ("saving of vCPU events", Cap::VcpuEvents),
    ("immediate exit", Cap::ImmediateExit),
    ("message-signalled interrupts", Cap::SignalMsi),
    ("irqfd", Cap::Irqfd),
];
