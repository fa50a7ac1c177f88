//! The device with its thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sched::request::{AdmissionTest, BackendKind, Granted, Placement, VcpuRequest};
use sched::reservation::Reservation;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{BUFFERS, Driver, SIZE, wire};
use super::frame;
use crate::device::virtio::Fault;
use crate::device::virtio::net::{CSUM, Desk, GUEST_CSUM, Offloads, Wire, Worker};

/// Longer than anything takes here that waits for nothing.
const SOON: Duration = Duration::from_millis(500);

/// An ordinary thread, which keeps its budget by itself.
fn granted(reservation: Option<Reservation>) -> Granted {
    Granted {
        vm: "test".to_owned(),
        vcpu: 1,
        request: VcpuRequest {
            backend: BackendKind::Other,
            reservation,
            ..VcpuRequest::default()
        },
        placement: Placement::Anywhere,
        surplus: Duration::ZERO,
        test: AdmissionTest::None,
    }
}

fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Has the guest send as many frames as the queue is long.
fn send(driver: &mut Driver) {
    driver
        .ram
        .write_slice(&frame(1514), GuestAddress(BUFFERS))
        .unwrap();
    for head in 0..SIZE {
        driver.describe(1, head, (BUFFERS, 1526), (0, 0));
        driver.offer(1, head);
    }
    driver.desk.notification(1).write(1).unwrap();
}

fn drain(host: &UnixDatagram) {
    while host.recv(&mut [0; 2000]).is_ok() {}
}

#[test]
fn a_thread_that_rests_for_seconds_is_paused_and_ended_at_once() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(0);
    let little = Reservation::new(Duration::from_micros(100), Duration::from_secs(4)).unwrap();
    let worker = Worker::start(Arc::clone(&driver.desk), granted(Some(little)), |_| ()).unwrap();
    worker.run();
    let begun = Instant::now();
    while driver.desk.counters().used_up == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        send(&mut driver);
        drain(&host);
    }
    let rests = Instant::now();
    worker.pause().unwrap();
    let sent = driver.desk.counters().sent;
    worker.run();
    worker.pause().unwrap();
    assert!(rests.elapsed() < SOON, "{:?}", rests.elapsed());
    // And it rests on, whoever wakes it.
    worker.run();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.desk.counters().sent, sent);
    drop(worker);
    assert!(rests.elapsed() < SOON, "{:?}", rests.elapsed());
}

#[test]
fn a_thread_that_stands_still_sends_nothing_until_it_runs() {
    let (host, end) = wire();
    let mut driver = Driver::new(end);
    driver.start(0);
    let worker = Worker::start(Arc::clone(&driver.desk), granted(None), |_| ()).unwrap();
    let mut round = |sent: u64| {
        send(&mut driver);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(driver.desk.counters().sent, sent);
        worker.run();
        until(|| driver.desk.counters().sent == sent + u64::from(SIZE));
        worker.pause().unwrap();
        drain(&host);
    };
    round(0);
    round(u64::from(SIZE));
}

/// A wire that takes its time to take offloads, as the kernel may under its lock of all interfaces.
struct Slow {
    socket: UnixDatagram,
    asked: Sender<Offloads>,
    answers: Mutex<Receiver<io::Result<()>>>,
    count: Arc<AtomicUsize>,
}

impl Wire for Slow {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.asked.send(offloads).unwrap();
        self.answers.lock().unwrap().recv().unwrap()
    }
}

/// What the test has of a slow wire.
struct Hand {
    host: UnixDatagram,
    asked: Receiver<Offloads>,
    answer: Sender<io::Result<()>>,
    count: Arc<AtomicUsize>,
}

fn slow() -> (Hand, Box<Slow>) {
    let (host, end) = wire();
    let ((asked, told), (answer, answers)) = (channel(), channel());
    let count = Arc::new(AtomicUsize::new(0));
    let hand = Hand {
        host,
        asked: told,
        answer,
        count: Arc::clone(&count),
    };
    let slow = Slow {
        socket: end.0,
        asked,
        answers: Mutex::new(answers),
        count,
    };
    (hand, Box::new(slow))
}

fn worker(desk: &Arc<Desk>) -> Worker {
    let worker = Worker::start(Arc::clone(desk), granted(None), |_| ()).unwrap();
    worker.run();
    worker
}

#[test]
fn a_driver_never_waits_for_the_wire_to_take_offloads_and_no_frame_comes_before() {
    let (hand, end) = slow();
    let mut driver = Driver::new(end);
    let worker = worker(&driver.desk);
    driver.start(0);
    driver.offer_buffers(2, 2000);
    hand.host.send(&frame(60)).unwrap();
    assert!(!hand.asked.recv_timeout(SOON).unwrap().checksum);
    // It is being told, and the driver starts anew with others.
    driver.start(CSUM | GUEST_CSUM);
    driver.offer_buffers(2, 2000);
    worker.pause().unwrap();
    worker.run();
    assert_eq!(driver.desk.counters().received, 0);
    hand.answer.send(Ok(())).unwrap();
    assert!(hand.asked.recv_timeout(SOON).unwrap().checksum);
    assert_eq!(driver.desk.counters().received, 0);
    hand.answer.send(Ok(())).unwrap();
    until(|| driver.desk.counters().received == 1);
    // The same again need not be told.
    driver.start(CSUM | GUEST_CSUM);
    driver.offer_buffers(2, 2000);
    hand.host.send(&frame(60)).unwrap();
    until(|| driver.desk.counters().received == 2);
    assert_eq!(hand.count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_wire_that_refuses_its_offloads_stops_the_device() {
    for (errno, fault) in [(libc::EINVAL, Fault::Offloads), (libc::EBADFD, Fault::Gone)] {
        let (hand, end) = slow();
        let mut driver = Driver::new(end);
        hand.answer
            .send(Err(io::Error::from_raw_os_error(errno)))
            .unwrap();
        driver.start(0);
        driver.desk.work_off();
        assert!(driver.needs_reset());
        let notifier = driver.desk.notifier();
        assert_eq!(
            (notifier.fault(), notifier.take_fault()),
            (Some(fault), Some(fault))
        );
        let counters = driver.desk.counters();
        assert_eq!((counters.tap_errors, counters.faults), (1, 0));
    }
}
