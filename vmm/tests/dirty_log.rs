//! The log of written pages, on real KVM: guests of a few instructions, whose writes are known.

#![cfg(test)]

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};
use migration::ram::{DirtyLog, GuestRam, PageNumber, PageSet, RamError};
use system_tests::requires;
use vm_memory::{Bytes, GuestAddress};
use vmm::cpu;
use vmm::dirty::{Beginning, DirtyPages, GuestPages};
use vmm::kernel::Stretches;
use vmm::machine::{self, Machine, MachinePlan};
use vmm::memory::MemoryPlan;
use vmm::units::ByteSize;

/// Where the code lies.
const CODE: u64 = 0x10_0000;
const MEMORY: u64 = 8 << 20;

/// A guest that writes a byte to each of these pages, a list after the other, and exits after each list.
struct Guest {
    machine: Arc<Machine>,
    vcpu: VcpuFd,
}

impl Guest {
    fn new(lists: &[&[u64]]) -> Self {
        let plan = MachinePlan {
            memory: MemoryPlan {
                size: ByteSize::mebibytes(8),
                hugepages: false,
            },
            vcpus: 1,
        };
        let mut built = machine::build(plan, None, |errand| errand()).unwrap();
        let mut code = Vec::new();
        for pages in lists {
            for page in *pages {
                // mov byte [address], 1
                let address = u32::try_from(page * 4096 + 8).unwrap();
                code.extend([0xc6, 0x05]);
                code.extend(address.to_le_bytes());
                code.push(1);
            }
            // mov dx, 0xf4; out dx, al
            code.extend([0x66, 0xba, 0xf4, 0x00, 0xee]);
        }
        let ram = built.machine.ram();
        ram.write_slice(&code, GuestAddress(CODE)).unwrap();
        let vcpu = built.vcpus.remove(0);
        let reset = vcpu.get_sregs().unwrap();
        vcpu.set_sregs(&cpu::pvh_system_registers(reset)).unwrap();
        vcpu.set_regs(&cpu::pvh_registers(CODE, 0)).unwrap();
        Self {
            machine: Arc::new(built.machine),
            vcpu,
        }
    }

    fn write_next_list(&mut self) {
        match self.vcpu.run().unwrap() {
            VcpuExit::IoOut(0xf4, _) => {}
            other => panic!("{other:?}"),
        }
    }

    fn log(&self, beginning: Beginning) -> DirtyPages {
        DirtyPages::new(Arc::clone(&self.machine), beginning)
    }
}

fn numbers(set: &PageSet) -> Vec<u64> {
    set.iter().map(|page| page.0).collect()
}

fn set(pages: &[u64]) -> PageSet {
    let mut set = PageSet::empty(MEMORY / 4096);
    for page in pages {
        set.insert(PageNumber(*page));
    }
    set
}

#[test]
fn the_log_says_exactly_what_was_written_since_it_was_cleared() {
    requires!(system_tests::Need::Kvm);
    let mut guest = Guest::new(&[&[3, 700], &[3, 700, 701, 2000], &[3, 700, 5], &[9]]);
    guest.write_next_list();
    let mut log = guest.log(Beginning::Clean);
    log.start().unwrap();
    assert!(log.look().unwrap().is_empty());
    guest.write_next_list();
    assert_eq!(numbers(&log.look().unwrap()), [3, 700, 701, 2000]);
    // Looking clears nothing; clearing takes what it is told, in a hurry with a page that was not written.
    log.clear(&set(&[3, 701, 1000])).unwrap();
    assert_eq!(numbers(&log.look().unwrap()), [700, 2000]);
    guest.write_next_list();
    assert_eq!(numbers(&log.look().unwrap()), [3, 5, 700, 2000]);
    log.stop().unwrap();
    guest.write_next_list();
    assert!(matches!(log.look(), Err(RamError::Host { .. })));
    log.start().unwrap();
    assert!(log.look().unwrap().is_empty());
}

#[test]
fn a_log_that_begins_dirty_holds_each_page_until_it_is_cleared_once() {
    requires!(system_tests::Need::Kvm);
    let mut guest = Guest::new(&[&[3, 700], &[3, 800]]);
    let mut log = guest.log(Beginning::Dirty);
    log.start().unwrap();
    let all = log.look().unwrap();
    assert_eq!(all.len(), MEMORY / 4096);
    guest.write_next_list();
    // 64 to 1087 are cleared after the guest wrote 700, and the rest is not.
    let chunk: Vec<u64> = (64..1088).collect();
    log.clear(&set(&chunk)).unwrap();
    guest.write_next_list();
    let mut dirty = log.look().unwrap();
    assert_eq!(dirty.len(), MEMORY / 4096 - 1024 + 1);
    dirty.intersect_with(&set(&chunk));
    assert_eq!(numbers(&dirty), [800]);
}

#[test]
fn what_a_device_writes_from_another_thread_is_in_the_log() {
    requires!(system_tests::Need::Kvm);
    let mut guest = Guest::new(&[&[40]]);
    let mut log = guest.log(Beginning::Clean);
    log.start().unwrap();
    let ram = guest.machine.ram().clone();
    let device = std::thread::spawn(move || {
        ram.write_obj(7_u64, GuestAddress(100 * 4096)).unwrap();
        // As a frame is read from a tap: the kernel writes, scattered over two buffers, the second in two pages.
        let mut stretches = Stretches::new(ram, 4);
        stretches.push(GuestAddress(200 * 4096 + 100), 50).unwrap();
        stretches
            .push(GuestAddress(300 * 4096 + 4000), 500)
            .unwrap();
        stretches.push(GuestAddress(400 * 4096), 500).unwrap();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.send(&[1; 200]).unwrap();
        assert_eq!(stretches.read_from(&theirs, 3).unwrap(), 200);
        // And as one that had to wait is put into the guest's buffers.
        stretches.drop_front(2);
        stretches.put(10, &[2; 20]);
    });
    device.join().unwrap();
    guest.write_next_list();
    let written = [40, 100, 200, 300, 301, 400];
    assert_eq!(numbers(&log.look().unwrap()), written);
    log.clear(&set(&[100, 301])).unwrap();
    assert_eq!(numbers(&log.look().unwrap()), [40, 200, 300, 400]);
    log.stop().unwrap();
    let ram = guest.machine.ram();
    ram.write_obj(7_u64, GuestAddress(500 * 4096)).unwrap();
    log.start().unwrap();
    assert!(log.look().unwrap().is_empty());
}

#[test]
fn a_log_that_is_dropped_is_stopped_and_a_set_of_another_guest_is_refused() {
    requires!(system_tests::Need::Kvm);
    let guest = Guest::new(&[]);
    let pages = GuestPages::new(guest.machine.ram().clone());
    assert_eq!(pages.pages(), MEMORY / 4096);
    let mut log = guest.log(Beginning::Clean);
    log.start().unwrap();
    let refused = log.clear(&PageSet::empty(7));
    assert!(matches!(refused, Err(RamError::OtherGuest { set: 7, .. })));
    // There is one log, and whoever is refused it takes nothing away.
    let mut second = guest.log(Beginning::Clean);
    assert!(matches!(second.start(), Err(RamError::Host { .. })));
    drop(second);
    assert!(log.look().unwrap().is_empty());
    drop(log);
    // KVM has no log to tell of any more.
    let size = usize::try_from(MEMORY).unwrap();
    assert!(guest.machine.vm().get_dirty_log(0, size).is_err());
}
