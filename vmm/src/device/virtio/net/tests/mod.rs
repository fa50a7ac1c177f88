//! The device driven from the host's side, without its thread.

mod driver;
mod hostile;
mod thread;

use std::sync::Arc;

use driver::{BUFFERS, Driver, EVENT_INDEX, INDIRECT, MAC, NEXT, wire};
use vm_memory::{Bytes, GuestAddress};

use super::{Card, HEADER, Identity, MRG_RXBUF, Net};
use crate::device::Device;
use crate::device::virtio::{Backend, Notifier};

/// A frame that begins with its header.
fn frame(length: usize) -> Vec<u8> {
    let bytes = (0..251).cycle().take(length);
    let header = std::iter::repeat_n(0, HEADER);
    header.chain(bytes).collect()
}

#[test]
fn the_registers_say_what_the_device_is() {
    let mut driver = Driver::new(wire().1);
    let registers = [0x00, 0x04, 0x08, 0x34, 0xb0, 0x70].map(|offset| driver.get(offset));
    assert_eq!(registers, [0x7472_6976, 2, 1, 256, u32::MAX, 0]);
    let mut config = [0xff; 14];
    driver.device.read(0x100, &mut config);
    assert_eq!(config[..6], MAC);
    assert_eq!(config[6..], [1, 0, 1, 0, 0xdc, 5, 0, 0]);
    let mut byte = [0; 1];
    driver.device.read(0x105, &mut byte);
    assert_eq!(byte, [1]);
}

#[test]
fn features_that_do_not_go_together_are_not_accepted() {
    for (features, good) in [
        (0, true),
        (super::GUEST_TSO4, false),
        (super::GUEST_TSO4 | super::GUEST_CSUM, true),
        (super::HOST_TSO6 | super::GUEST_CSUM, false),
        (1 << 40, false),
    ] {
        let mut driver = Driver::new(wire().1);
        driver.negotiate(features);
        assert_eq!(driver.get(0x70) & 8 != 0, good, "{features:#x}");
        driver.set(0x70, 15);
        assert_eq!(driver.get(0x70) & 4 != 0, good, "{features:#x}");
    }
}

#[test]
fn a_frame_of_the_guest_reaches_the_wire_and_its_buffer_comes_back() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(0);
    let sent = frame(100);
    driver
        .ram
        .write_slice(&sent, GuestAddress(BUFFERS))
        .unwrap();
    driver.describe(1, 3, (BUFFERS, 12), (NEXT, 5));
    driver.describe(1, 5, (BUFFERS + 12, 100), (0, 0));
    driver.offer(1, 3);
    driver.desk.work_off();
    let mut received = vec![0; 2000];
    let length = host.recv(&mut received).unwrap();
    assert_eq!(received[..length], sent);
    assert_eq!(driver.used(1), Some((3, 0)));
    assert!(driver.desk.notifier().take_signal());
    assert_eq!(driver.get(0x60), 1);
    let counters = driver.desk.counters();
    assert_eq!(
        (counters.sent, counters.sent_bytes, counters.interrupts),
        (1, 100, 1)
    );
}

#[test]
fn a_table_of_descriptors_elsewhere_is_followed() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(super::F_INDIRECT_DESC);
    let sent = frame(64);
    driver
        .ram
        .write_slice(&sent, GuestAddress(BUFFERS))
        .unwrap();
    let table = 0x9000;
    driver.describe_at(table, 0, (BUFFERS, 20), (NEXT, 2));
    driver.describe_at(table, 2, (BUFFERS + 20, 56), (0, 0));
    driver.describe(1, 0, (table, 48), (INDIRECT, 0));
    driver.offer(1, 0);
    driver.desk.work_off();
    let mut received = vec![0; 2000];
    let length = host.recv(&mut received).unwrap();
    assert_eq!(received[..length], sent);
}

#[test]
fn a_long_frame_lies_in_several_buffers_that_appear_together() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(MRG_RXBUF | EVENT_INDEX);
    driver.offer_buffers(4, 1000);
    let sent = frame(1514);
    host.send(&sent).unwrap();
    driver.desk.work_off();
    assert_eq!(driver.used(0), Some((0, 1000)));
    assert_eq!(driver.used(0), Some((1, 526)));
    assert_eq!(driver.used(0), None);
    let mut seen = driver.bytes(BUFFERS, 1526);
    assert_eq!(seen[10..12], [2, 0]);
    seen[10..12].fill(0);
    assert_eq!(seen, sent);
}

#[test]
fn a_frame_without_merging_takes_one_buffer() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(0);
    driver.offer_buffers(3, 2048);
    for length in [60, 1514] {
        host.send(&frame(length)).unwrap();
    }
    driver.desk.work_off();
    assert_eq!(driver.used(0), Some((0, 72)));
    assert_eq!(driver.used(0), Some((1, 1526)));
    assert_eq!(driver.bytes(BUFFERS + 10, 2), [1, 0]);
}

#[test]
fn frames_wait_in_the_tap_for_buffers_and_none_is_lost() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(MRG_RXBUF | EVENT_INDEX);
    let frames: Vec<_> = (0..8).map(|number| frame(100 + number)).collect();
    frames.iter().for_each(|frame| {
        host.send(frame).unwrap();
    });
    driver.desk.work_off();
    assert_eq!(driver.used(0), None);
    let mut seen = Vec::new();
    for _ in 0..40 {
        driver.offer_buffers(2, 90);
        driver.desk.work_off();
        seen.extend(std::iter::from_fn(|| driver.used(0)).map(|(_, length)| length));
    }
    // 112 to 119 bytes take two buffers each.
    let expected = (112..120).flat_map(|length| [90, length - 90]);
    assert!(seen.iter().copied().eq(expected), "{seen:?}");
    let counters = driver.desk.counters();
    assert_eq!((counters.received, counters.too_long), (8, 0));
    assert!(counters.waits_for_buffers > 0);
}

#[test]
fn a_frame_longer_than_all_buffers_is_lost_and_counted_and_the_next_one_is_not() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(MRG_RXBUF);
    driver.offer_buffers(2, 200);
    host.send(&frame(1000)).unwrap();
    host.send(&frame(60)).unwrap();
    for _ in 0..3 {
        driver.desk.work_off();
    }
    assert_eq!(driver.used(0), Some((0, 72)));
    assert_eq!(driver.desk.counters().too_long, 1);
}

#[test]
fn a_frame_waits_for_a_guest_that_has_had_room_for_such() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(MRG_RXBUF);
    driver.offer_buffers(4, 500);
    host.send(&frame(60)).unwrap();
    host.send(&frame(1514)).unwrap();
    for _ in 0..3 {
        driver.desk.work_off();
    }
    assert_eq!(driver.used(0), Some((0, 72)));
    assert_eq!(driver.used(0), None);
    driver.offer_buffers(1, 500);
    driver.desk.work_off();
    let counters = driver.desk.counters();
    assert_eq!((counters.received, counters.too_long), (2, 0));
}

#[test]
fn a_frame_longer_than_the_one_buffer_that_it_may_have_is_lost() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(0);
    driver.offer_buffers(4, 500);
    host.send(&frame(1000)).unwrap();
    host.send(&frame(60)).unwrap();
    driver.desk.work_off();
    assert_eq!(driver.used(0), Some((0, 72)));
    assert_eq!(driver.desk.counters().too_long, 1);
}

#[test]
fn a_queue_taken_away_stays_away_in_the_saved_device() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(MRG_RXBUF);
    driver.offer_buffers(4, 500);
    driver.set(0x30, 0);
    driver.set(0x44, 0);
    assert_eq!(driver.get(0x44), 0);
    let (other_host, other_end) = wire();
    let mut other = Driver::of(driver.ram.clone(), other_end);
    other.device.restore(&driver.device.save()).unwrap();
    for (host, desk) in [(&host, &driver.desk), (&other_host, &other.desk)] {
        host.send(&frame(60)).unwrap();
        desk.work_off();
        assert_eq!(desk.counters().received, 0);
    }
}

#[test]
fn the_guest_is_interrupted_when_it_wants_to_be() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(EVENT_INDEX);
    driver.offer_buffers(8, 2048);
    driver.set_used_event(0, 3);
    for expected in [false, false, false, true, false] {
        host.send(&frame(60)).unwrap();
        driver.desk.work_off();
        assert_eq!(driver.desk.notifier().take_signal(), expected);
    }
    let mut polling = Driver::new(wire().1);
    polling.start(0);
    // VIRTQ_AVAIL_F_NO_INTERRUPT.
    polling.ram.write_obj(1_u16, GuestAddress(0x5000)).unwrap();
    polling.describe(1, 0, (BUFFERS, 80), (0, 0));
    polling.offer(1, 0);
    polling.desk.work_off();
    assert_eq!(polling.used(1), Some((0, 0)));
    assert!(!polling.desk.notifier().take_signal());
}

#[test]
fn a_saved_device_goes_on_where_it_was() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(MRG_RXBUF | EVENT_INDEX);
    driver.offer_buffers(4, 500);
    host.send(&frame(60)).unwrap();
    driver.desk.work_off();
    assert_eq!(driver.used(0), Some((0, 72)));
    let saved = driver.device.save();
    let (other_host, other_end) = wire();
    let mut other = Driver::of(driver.ram.clone(), other_end);
    other.device.restore(&saved).unwrap();
    assert_eq!(other.device.save(), saved);
    other_host.send(&frame(700)).unwrap();
    other.desk.work_off();
    assert_eq!(driver.used(0), Some((1, 500)));
    assert_eq!(driver.used(0), Some((2, 212)));
    assert_eq!(other.get(0x60) & 1, 1);
}

#[test]
fn a_frame_that_waits_for_room_is_saved_with_the_device() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(MRG_RXBUF);
    driver.offer_buffers(4, 500);
    let sent = frame(1514);
    host.send(&frame(60)).unwrap();
    host.send(&sent).unwrap();
    driver.desk.work_off();
    assert_eq!(driver.used(0), Some((0, 72)));
    let saved = driver.device.save();
    let mut other = Driver::of(driver.ram.clone(), wire().1);
    other.device.restore(&saved).unwrap();
    assert_eq!(other.device.save(), saved);
    driver.offer_buffers(1, 500);
    other.desk.work_off();
    assert_eq!(other.desk.counters().received, 1);
    let used: Vec<_> = std::iter::from_fn(|| driver.used(0)).collect();
    assert_eq!(used, [(1, 500), (2, 500), (3, 500), (0, 26)]);
    let mut seen = driver.bytes(BUFFERS + 500, 1500);
    seen.extend(driver.bytes(BUFFERS, 26));
    seen[10..12].fill(0);
    assert_eq!(seen, sent);
}

#[test]
fn a_saved_frame_that_is_longer_than_any_is_refused() {
    let identity = Identity {
        mac: MAC,
        mtu: 1500,
    };
    let card = Card {
        identity,
        wire: wire().1,
    };
    let notifier = Arc::new(Notifier::new().unwrap());
    let (net, _) = Net::new(card, &driver::memory(), notifier).unwrap();
    let mut saved = net.save();
    assert_eq!(net.is_like(&saved), Ok(()));
    saved.resize(saved.len() + 70_000, 0);
    let refused = net.is_like(&saved).unwrap_err();
    assert!(refused.contains("70000 bytes"), "{refused}");
}

#[test]
fn a_saved_frame_that_could_never_have_room_is_not_waited_for() {
    let mut driver = Driver::new(wire().1);
    driver.start(MRG_RXBUF);
    driver.offer_buffers(4, 500);
    let is_held = driver.desk.engine().receiver.hold(&[1; 4000]);
    assert!(!is_held);
    driver.desk.work_off();
    assert_eq!(driver.used(0), None);
}

#[test]
fn the_state_of_another_guest_is_refused() {
    let driver = Driver::new(wire().1);
    let mut saved = driver.device.save();
    let at = saved.bytes.len() - 3;
    saved.bytes[at] ^= 1;
    let mut other = Driver::new(wire().1);
    let refused = other.device.restore(&saved).unwrap_err().to_string();
    assert!(refused.contains("02:00:00:00:00:00"), "{refused}");
    assert!(other.device.restore(&driver.device.save()).is_ok());
}
