//! Queues that make no sense: the device stops until it is reset, and touches nothing else.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{BUFFERS, Driver, INDIRECT, NEXT, SIZE, WRITE, wire};
use super::frame;
use crate::device::virtio::Fault;
use crate::device::virtio::net::{F_EVENT_IDX, F_INDIRECT_DESC, MRG_RXBUF};

const ALL: u64 = F_INDIRECT_DESC | F_EVENT_IDX | MRG_RXBUF;

/// Has the device meet what `prepare` did to its queues.
fn meet(prepare: impl FnOnce(&mut Driver)) -> Option<Fault> {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(ALL);
    host.send(&frame(60)).unwrap();
    prepare(&mut driver);
    driver.desk.work_off();
    let fault = driver.desk.notifier().take_fault();
    assert_eq!(driver.needs_reset(), fault.is_some());
    assert_eq!(driver.desk.counters().faults, u64::from(fault.is_some()));
    // The guest is told, and a reset makes it as good as new.
    if fault.is_some() {
        assert!(driver.desk.notifier().take_signal());
        assert_eq!(driver.get(0x60) & 2, 2);
    }
    driver.start(ALL);
    driver.offer_buffers(4, 1000);
    host.send(&frame(60)).unwrap();
    driver.desk.work_off();
    assert!(!driver.needs_reset());
    assert!(driver.used(0).is_some());
    fault
}

#[test]
fn loops_and_tables_that_cannot_be_stop_the_device() {
    for queue in [0, 1] {
        let direction = if queue == 0 { WRITE } else { 0 };
        let fault = meet(|driver| {
            driver.describe(queue, 0, (BUFFERS, 64), (NEXT | direction, 1));
            driver.describe(queue, 1, (BUFFERS, 64), (NEXT | direction, 0));
            driver.offer(queue, 0);
        });
        assert_eq!(fault, Some(Fault::Chain), "a loop");
        let fault = meet(|driver| {
            driver.describe(queue, 0, (BUFFERS, 64), (NEXT | direction, SIZE));
            driver.offer(queue, 0);
        });
        assert_eq!(fault, Some(Fault::Chain), "out of the table");
        assert_eq!(
            meet(|driver| driver.offer(queue, SIZE)),
            Some(Fault::Chain),
            "a wild head"
        );
        let fault = meet(|driver| {
            driver.describe(queue, 0, (0x9000, 16), (INDIRECT, 0));
            driver.describe_at(0x9000, 0, (0xa000, 16), (INDIRECT, 0));
            driver.offer(queue, 0);
        });
        assert_eq!(fault, Some(Fault::Chain), "a table in a table");
        for length in [0, 15, 17, 16 * 65_536] {
            let fault = meet(|driver| {
                driver.describe(queue, 0, (0x9000, length), (INDIRECT, 0));
                driver.offer(queue, 0);
            });
            assert_eq!(fault, Some(Fault::Chain), "a table of {length} bytes");
        }
        let fault = meet(|driver| {
            driver.describe(queue, 0, (0x3_fff8, 32), (INDIRECT, 0));
            driver.offer(queue, 0);
        });
        assert_eq!(fault, Some(Fault::Chain), "a table that leaves memory");
    }
}

#[test]
fn buffers_outside_memory_and_of_the_wrong_direction_stop_the_device() {
    for queue in [0, 1] {
        let direction = if queue == 0 { WRITE } else { 0 };
        for (address, length) in [
            (0x3_ffff, 2),
            (0x4_0000, 1),
            (0xb_ffff, 2),
            (u64::MAX, 1),
            (u64::MAX - 10, u32::MAX),
            (0, u32::MAX),
        ] {
            let fault = meet(|driver| {
                driver.describe(queue, 0, (address, length), (direction, 0));
                driver.offer(queue, 0);
            });
            assert_eq!(
                fault,
                Some(Fault::Outside),
                "{length} bytes at {address:#x}"
            );
        }
        let fault = meet(|driver| {
            driver.describe(queue, 0, (BUFFERS, 64), (direction ^ WRITE, 0));
            driver.offer(queue, 0);
        });
        assert_eq!(fault, Some(Fault::Direction));
        let fault = meet(|driver| {
            driver.describe(queue, 0, (BUFFERS, 64), (direction | NEXT, 1));
            driver.describe(queue, 1, (BUFFERS, 64), (direction ^ WRITE, 0));
            driver.offer(queue, 0);
        });
        assert_eq!(fault, Some(Fault::Direction));
    }
}

#[test]
fn an_available_index_that_jumps_stops_the_device() {
    for queue in [0, 1] {
        for index in [SIZE + 1, 0x8000, u16::MAX] {
            assert_eq!(
                meet(|driver| driver.set_available(queue, index)),
                Some(Fault::Available)
            );
        }
    }
}

#[test]
fn more_buffers_than_there_are_descriptors_stop_the_device() {
    let fault = meet(|driver| {
        driver.describe(0, 0, (BUFFERS, 0), (WRITE, 0));
        (0..SIZE).for_each(|_| driver.offer(0, 0));
        driver.desk.work_off();
        driver.offer(0, 0);
    });
    assert_eq!(fault, Some(Fault::Available));
}

#[test]
fn a_frame_longer_than_there_can_be_stops_the_device() {
    let fault = meet(|driver| {
        driver.describe(1, 0, (BUFFERS, 0x1_0000), (NEXT, 1));
        driver.describe(1, 1, (BUFFERS, 0x1_0000), (0, 0));
        driver.offer(1, 0);
    });
    assert_eq!(fault, Some(Fault::TooLong));
}

#[test]
fn a_table_longer_than_the_queue_stops_the_device() {
    let fault = meet(|driver| {
        for index in 0..=SIZE {
            let next = if index < SIZE { NEXT } else { 0 };
            driver.describe_at(0x9000, index, (BUFFERS, 64), (next, index + 1));
        }
        driver.describe(1, 0, (0x9000, 16 * (u32::from(SIZE) + 1)), (INDIRECT, 0));
        driver.offer(1, 0);
    });
    assert_eq!(fault, Some(Fault::TooLong));
}

#[test]
fn queues_that_do_not_lie_in_memory_stop_the_device_before_it_begins() {
    for (register, address) in [
        (0x80, 0x3_ff80_u64),
        (0x90, 0x3_fff0),
        (0xa0, 0x3_fff0),
        (0x80, 0x1008),
        (0x90, 0x2001),
        (0xa0, 0x3002),
        (0x80, 0x5_0000),
        (0xa4, 1),
        (0x94, u64::from(u32::MAX)),
    ] {
        let mut driver = Driver::new(wire().1);
        driver.negotiate(ALL);
        driver.set_queue(0);
        driver.set_queue(1);
        driver.set(0x44, 0);
        driver.set(register, u32::try_from(address).unwrap());
        driver.set(0x44, 1);
        driver.set(0x70, 15);
        assert!(driver.needs_reset(), "{register:#x} = {address:#x}");
        assert_eq!(driver.desk.notifier().take_fault(), Some(Fault::Queue));
        driver.desk.work_off();
    }
    for size in [0, 3, 512, 65_536] {
        let mut driver = Driver::new(wire().1);
        driver.negotiate(ALL);
        driver.set_queue(0);
        driver.set_queue(1);
        driver.set(0x44, 0);
        driver.set(0x38, size);
        driver.set(0x44, 1);
        driver.set(0x70, 15);
        assert!(driver.needs_reset(), "{size} descriptors");
    }
}

proptest! {
    /// Random bytes where the queues lie, again and again: nothing panics or hangs, and what the device was not told of
    /// stays as it was. A chain can only lead into the two ranges of memory there are.
    #[test]
    fn random_queues_do_no_harm(
        rings in prop::collection::vec(any::<u8>(), 0x6000),
        heads in prop::collection::vec((0_usize..2, 0_u16..SIZE + 1), 1..20),
        jump in prop::option::of(any::<u16>()),
    ) {
        let (host, end) = wire();
        let mut driver = Driver::new(end);
        driver.start(ALL);
        driver.ram.write_slice(&rings, GuestAddress(0x1000)).unwrap();
        // Addresses that are near memory more often than not.
        for index in 0..SIZE {
            for table in [0x1000, 0x4000] {
                let at = GuestAddress(table + 16 * u64::from(index));
                let address: u64 = driver.ram.read_obj(at).unwrap();
                driver.ram.write_obj(address % 0xd_0000, at).unwrap();
                let rest: u64 = driver.ram.read_obj(GuestAddress(at.0 + 8)).unwrap();
                let tame = rest & 0x000f_0007_0000_0fff;
                driver.ram.write_obj(tame, GuestAddress(at.0 + 8)).unwrap();
            }
        }
        driver.set_available(0, 0);
        driver.set_available(1, 0);
        for (queue, head) in heads {
            // The wire may be full.
            let _ = host.send(&frame(500));
            driver.offer(queue, head);
            driver.desk.work_off();
            while host.recv(&mut [0; 16]).is_ok() {}
        }
        if let Some(index) = jump {
            driver.set_available(0, index);
            driver.desk.work_off();
        }
        let counters = driver.desk.counters();
        prop_assert!(counters.faults <= 1);
        prop_assert_eq!(driver.needs_reset(), counters.faults == 1);
        driver.start(ALL);
        prop_assert!(!driver.needs_reset());
    }
}
