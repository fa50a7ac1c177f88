//! A lossy middle between two hosts, for tests: it carries bytes both ways and, at the byte it is told, cuts, stalls or corrupts. Like a cable it knows
//! nothing of what it carries.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the one who called.
    FromCaller,
    /// To the one who called.
    ToCaller,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks.
    Cut,
    /// Nothing passes any more in this direction, and the connection stays.
    Stall,
    /// One bit of this byte changes.
    Corrupt,
    /// From here on one byte passes at a time, a hundred in a second: always alive, and never done.
    Trickle,
}

/// Where it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// In which of the connections, by the order in which they come, from 0.
    pub connection: usize,
    /// Which way.
    pub direction: Direction,
    /// How many bytes pass before.
    pub after: u64,
    /// What.
    pub fault: Fault,
}

/// Carries connections to a target.
pub struct Relay {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    carried: Arc<AtomicU64>,
    tapes: Tapes,
    thread: Option<JoinHandle<()>>,
}

/// What passed on each connection in each direction.
type Tapes = Arc<Mutex<BTreeMap<(usize, Direction), Vec<u8>>>>;

const PATIENCE: Duration = Duration::from_millis(10);

impl Relay {
    /// Listens on loopback and calls `target` for each who calls. At most one thing goes wrong.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(target: SocketAddr, plan: Option<Plan>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (stop, carried) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let tapes = Tapes::default();
        let middle = Middle {
            stop: stop.clone(),
            carried: carried.clone(),
            tapes: tapes.clone(),
        };
        let thread = thread::spawn(move || middle.accept(&listener, target, plan));
        Ok(Self {
            address,
            stop,
            carried,
            tapes,
            thread: Some(thread),
        })
    }

    /// Where to call instead of the target.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes carried, both ways.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// What has passed on a connection in one direction.
    #[must_use]
    pub fn tape(&self, connection: usize, direction: Direction) -> Vec<u8> {
        let tapes = self.tapes.lock().unwrap_or_else(PoisonError::into_inner);
        tapes
            .get(&(connection, direction))
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed already.
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Middle {
    stop: Arc<AtomicBool>,
    carried: Arc<AtomicU64>,
    tapes: Tapes,
}

impl Middle {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn accept(&self, listener: &TcpListener, target: SocketAddr, plan: Option<Plan>) {
        let mut carriers = Vec::new();
        let mut number = 0;
        while !self.stopped() {
            let Ok((caller, _)) = listener.accept() else {
                thread::sleep(PATIENCE);
                continue;
            };
            let here = plan.filter(|plan| plan.connection == number);
            if let Ok(both) = self.connect(caller, target, number, here) {
                carriers.extend(both);
            }
            number += 1;
        }
        carriers.into_iter().for_each(|carrier| {
            let _ = carrier.join();
        });
    }

    fn connect(
        &self,
        caller: TcpStream,
        target: SocketAddr,
        number: usize,
        plan: Option<Plan>,
    ) -> io::Result<[JoinHandle<()>; 2]> {
        let called = TcpStream::connect(target)?;
        for socket in [&caller, &called] {
            socket.set_nonblocking(false)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        let carry = |from: &TcpStream, to: &TcpStream, direction| {
            let plan = plan.filter(|plan| plan.direction == direction);
            let carrier = Carrier {
                middle: self.clone(),
                from: from.try_clone()?,
                to: to.try_clone()?,
                tape: (number, direction),
                plan,
            };
            io::Result::Ok(thread::spawn(move || carrier.run()))
        };
        Ok([
            carry(&caller, &called, Direction::FromCaller)?,
            carry(&called, &caller, Direction::ToCaller)?,
        ])
    }
}

struct Carrier {
    middle: Middle,
    from: TcpStream,
    to: TcpStream,
    tape: (usize, Direction),
    plan: Option<Plan>,
}

impl Carrier {
    fn run(mut self) {
        let mut bytes = vec![0; 64 << 10];
        let mut passed = 0;
        while !self.middle.stopped() {
            let most = self.room(passed).min(bytes.len());
            match self.from.read(&mut bytes[..most]) {
                Ok(0) => break,
                Ok(got) => {
                    let sent = self.harm(passed, &mut bytes[..got])
                        && self.to.write_all(&bytes[..got]).is_ok();
                    if !sent {
                        return;
                    }
                    passed += got as u64;
                    self.count(&bytes[..got]);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
        }
        let _ = self.to.shutdown(Shutdown::Write);
    }

    fn count(&self, bytes: &[u8]) {
        let Middle { carried, tapes, .. } = &self.middle;
        carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut tapes = tapes.lock().unwrap_or_else(PoisonError::into_inner);
        tapes.entry(self.tape).or_default().extend(bytes);
    }

    /// So many bytes until the one where it goes wrong; that one alone.
    fn room(&self, passed: u64) -> usize {
        let trickles = |plan: &Plan| plan.fault == Fault::Trickle && plan.after < passed;
        if self.plan.as_ref().is_some_and(trickles) {
            thread::sleep(PATIENCE);
            return 1;
        }
        match self.plan.map(|plan| plan.after) {
            Some(after) if after > passed => usize::try_from(after - passed).unwrap_or(usize::MAX),
            Some(after) if after == passed => 1,
            _ => usize::MAX,
        }
    }

    /// Whether the bytes may pass, now that they are as the plan wants them.
    fn harm(&mut self, passed: u64, bytes: &mut [u8]) -> bool {
        match self
            .plan
            .filter(|plan| plan.after == passed)
            .map(|plan| plan.fault)
        {
            None | Some(Fault::Trickle) => true,
            Some(Fault::Corrupt) => {
                bytes[0] ^= 0x10;
                true
            }
            Some(Fault::Cut) => {
                let _ = self.from.shutdown(Shutdown::Both);
                let _ = self.to.shutdown(Shutdown::Both);
                false
            }
            Some(Fault::Stall) => {
                while !self.middle.stopped() {
                    thread::sleep(PATIENCE);
                }
                false
            }
        }
    }
}
