//! A driver of the network device that may do anything: registers, queues and notifications by a script.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use vmm::device::Device;
use vmm::device::virtio::net::{Card, Desk, Identity, Net, Offloads, Wire};
use vmm::device::virtio::{Notifier, Transport};
use vmm::memory::Ram;

/// Memory with a hole between 0x8000 and 0x10000, and nothing from 0x18000 on.
const RANGES: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 0x8000), (GuestAddress(0x1_0000), 0x8000)];
/// Steps of a script at most.
const STEPS: usize = 400;

struct Socket(UnixDatagram);

impl Wire for Socket {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _: Offloads) -> io::Result<()> {
        Ok(())
    }
}

struct Machine {
    ram: Ram,
    device: Transport<Net>,
    desk: Arc<Desk>,
    host: UnixDatagram,
}

fn machine() -> Option<Machine> {
    let ram = Ram::from_ranges(&RANGES).ok()?;
    let (host, device) = UnixDatagram::pair().ok()?;
    host.set_nonblocking(true).ok()?;
    device.set_nonblocking(true).ok()?;
    let notifier = Arc::new(Notifier::new().ok()?);
    let identity = Identity {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
    };
    let wire = Box::new(Socket(device));
    let (net, desk) = Net::new(Card { identity, wire }, &ram, Arc::clone(&notifier)).ok()?;
    Some(Machine {
        ram,
        device: Transport::new(net, notifier),
        desk,
        host,
    })
}

impl Machine {
    fn set(&mut self, offset: u64, value: u32) {
        let _ = self.device.write(offset, &value.to_le_bytes());
    }

    fn status(&mut self) -> u32 {
        let mut word = [0; 4];
        self.device.read(0x70, &mut word);
        u32::from_le_bytes(word)
    }

    /// Sets the device up as a good driver does, with 8 descriptors a queue.
    fn start(&mut self, features: u32) {
        for status in [0, 1, 3] {
            self.set(0x70, status);
        }
        for (word, bits) in [(0, features), (1, 1)] {
            self.set(0x24, word);
            self.set(0x20, bits);
        }
        self.set(0x70, 11);
        for queue in 0..2 {
            self.set(0x30, queue);
            self.set(0x38, 8);
            for (register, page) in [(0x80, 0), (0x90, 1), (0xa0, 2)] {
                self.set(register, 0x1000 + 0x3000 * queue + 0x1000 * page);
            }
            self.set(0x44, 1);
        }
        self.set(0x70, 15);
    }

    /// One step: a kind, two bytes that say where, and four that say what.
    fn step(&mut self, [kind, low, high, a, b, c, d]: [u8; 7]) {
        let place = u16::from_le_bytes([low, high]);
        let value = u32::from_le_bytes([a, b, c, d]);
        match kind % 6 {
            0 => self.set(u64::from(place % 0x110), value),
            1 => {
                // Into the tables and rings most of all.
                let at = GuestAddress(0x1000 + u64::from(place % 0x6000));
                let _ = self.ram.write_slice(&value.to_le_bytes(), at);
            }
            2 => {
                let length = usize::from(place % 2000);
                let _ = self.host.send(&vec![a; length]);
            }
            3 => self.desk.work_off(),
            4 => self.start(value),
            _ => {
                let saved = self.device.save();
                // What was saved can be taken up, but not a queue that is broken by now.
                let _ = self.device.restore(&saved);
            }
        }
    }
}

/// Any script: nothing panics or hangs, and a device that has stopped is as good as new after a reset.
pub fn run(script: &[u8]) {
    let Some(mut machine) = machine() else {
        return;
    };
    machine.start(0);
    for step in script.as_chunks::<7>().0.iter().take(STEPS) {
        machine.step(*step);
    }
    machine.desk.work_off();
    while machine.host.recv(&mut [0; 4]).is_ok() {}
    for address in [0x2000, 0x3000, 0x5000, 0x6000] {
        machine
            .ram
            .write_slice(&[0; 0x100], GuestAddress(address))
            .unwrap_or(());
    }
    machine.start(0);
    machine.desk.work_off();
    assert_eq!(machine.status(), 15);
}

/// Scripts that receive, that send, and that send what cannot be.
#[must_use]
pub fn corpus() -> Vec<Vec<u8>> {
    let memory = |at: u16, value: u32| {
        let [low, high] = (at - 0x1000).to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        [1, low, high, a, b, c, d]
    };
    let queue = |base: u16, flags: u32, next: u32, available: u32| {
        [
            memory(base, 0x1_0000),
            memory(base + 8, 2048),
            memory(base + 12, flags | next << 16),
            memory(base + 16, 0x1_1000),
            memory(base + 24, 2048),
            memory(base + 28, flags & 2),
            memory(base + 0x1000, available << 16),
        ]
    };
    let run = [3, 0, 0, 0, 0, 0, 0];
    let frame = [2, 100, 0, 7, 0, 0, 0];
    let script = |steps: &[[u8; 7]]| steps.concat();
    let receive = [&queue(0x1000, 2, 0, 1)[..], &[frame, run]].concat();
    let send = [&queue(0x4000, 1, 1, 1)[..], &[run]].concat();
    let around = [&queue(0x4000, 1, 0, 1)[..], &[run]].concat();
    let table = [&queue(0x4000, 4, 0, 9)[..], &[run]].concat();
    [receive, send, around, table]
        .map(|steps| script(&steps))
        .to_vec()
}
