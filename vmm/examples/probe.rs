#![allow(missing_docs)]
use std::time::Instant;
fn main() {
    let t = Instant::now();
    let b = vmm::machine::build(vmm::machine::MachinePlan {
        memory: vmm::memory::MemoryPlan {
            size: vmm::units::ByteSize::mebibytes(
                std::env::args().nth(1).map_or(8, |a| a.parse().unwrap()),
            ),
            hugepages: false,
        },
        vcpus: 1,
    })
    .unwrap();
    println!("build {:?}", t.elapsed());
    let t = Instant::now();
    let k = kvm_ioctls::Kvm::new().unwrap();
    let c = k.get_supported_cpuid(256).unwrap();
    println!("cpuid {:?} n={}", t.elapsed(), c.as_slice().len());
    for e in c
        .as_slice()
        .iter()
        .filter(|e| e.function >= 0x40000000 && e.function < 0x50000000)
    {
        println!("{e:x?}");
    }
    let mut m = kvm_bindings::Msrs::from_entries(&[kvm_bindings::kvm_msr_entry {
        index: 0x10,
        ..Default::default()
    }])
    .unwrap();
    let a = vmm::kernel::rdtsc();
    b.vcpus[0].get_msrs(&mut m).unwrap();
    let d = vmm::kernel::rdtsc();
    println!(
        "tsc host {a} {d} msr {} hz {}",
        m.as_slice()[0].data,
        b.machine.tsc_hz()
    );
    let t = Instant::now();
    drop(b);
    println!("drop {:?}", t.elapsed());
    let t = Instant::now();
    let r = vmm::memory::create(vmm::memory::MemoryPlan {
        size: vmm::units::ByteSize::mebibytes(8),
        hugepages: false,
    })
    .unwrap();
    println!("8M mem {:?}", t.elapsed());
    drop(r);
}
