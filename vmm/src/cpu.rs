//! The processor a guest sees: CPUID, and the registers of a PVH entry.

use kvm_bindings::{CpuId, kvm_regs, kvm_segment, kvm_sregs};

/// CPUID leaf 1, ECX: x2APIC, TSC-deadline timer, running under a hypervisor.
const LEAF1_ECX: u32 = 1 << 21 | 1 << 24 | 1 << 31;
/// KVM features of leaf 0x4000_0001 that lie when the guest is paused or moved, or that invite it to spin or yield on
/// the host's behalf; a real-time guest has its own clock page.
const UNWANTED_KVM_FEATURES: u32 = 1 << 5 /* steal time */ | 1 << 11 /* PV_SEND_IPI */ | 1 << 13 /* PV_SCHED_YIELD */;

/// What the guest's `vcpu` of `vcpus` shall read from CPUID, given what KVM can offer.
#[must_use]
pub fn cpuid(supported: &CpuId, vcpu: u32, vcpus: u32) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // EBX: initial APIC id, and the number of addressable ids of the package.
                entry.ebx = (entry.ebx & 0xffff) | (vcpus.min(255) << 16) | ((vcpu & 0xff) << 24);
                entry.ecx |= LEAF1_ECX;
            }
            // Extended topology: EDX is the x2APIC id.
            0xb | 0x1f => entry.edx = vcpu,
            0x4000_0001 => entry.eax &= !UNWANTED_KVM_FEATURES,
            _ => {}
        }
    }
    cpuid
}

/// Registers at a PVH entry: EBX holds the address of the start info.
#[must_use]
pub fn pvh_registers(entry: u64, start_info: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rbx: start_info,
        rflags: 2,
        ..Default::default()
    }
}

/// System registers at a PVH entry: protected mode, paging off, flat segments.
#[must_use]
pub fn pvh_system_registers(reset: kvm_sregs) -> kvm_sregs {
    let flat = |type_: u8, selector: u16| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let code = flat(0xb, 0x8);
    let data = flat(0x3, 0x10);
    let task = kvm_segment {
        limit: 0x67,
        type_: 0xb,
        present: 1,
        selector: 0x18,
        ..Default::default()
    };
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        cr0: 0x11, // PE, ET
        cr4: 0,
        efer: 0,
        ..reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn every_vcpu_reads_its_own_apic_id() {
        let leaf = |function| kvm_cpuid_entry2 {
            function,
            ..Default::default()
        };
        let supported = CpuId::from_entries(&[leaf(1), leaf(0xb)]).unwrap();
        let seen = cpuid(&supported, 3, 4);
        assert_eq!(seen.as_slice()[0].ebx >> 24, 3);
        assert_eq!(seen.as_slice()[0].ecx & LEAF1_ECX, LEAF1_ECX);
        assert_eq!(seen.as_slice()[1].edx, 3);
    }
}
