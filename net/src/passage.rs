//! A port while its guest comes or goes: closed, opened, announced, and what came too late passed on.
//!
//! ```text
//!  old place                        switches                        new place
//!  port open: frames come here                                      port closed: the bridge gives it nothing
//!  (guest stands still)   frames wait in the tap                    open: what comes early waits in the tap
//!                                                        announce: the guest is here  (guest runs)
//!  close: no frame comes any more
//!  pass on: what waited goes ---------> out by the bridge ------->  to the guest
//! ```
//!
//! Announcements leave by the bridge itself, as frames of the host: they are neither in the guest's share, where they would wait behind
//! what it sends to everybody, nor looked at by the guard of its port. The own bridge learns nothing from them, and need not.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::announcement;
use crate::device::{self, Link};
use crate::kernel;
use crate::mac::Mac;
use crate::netlink::{Netlink, NetlinkError};
use crate::tap::Tap;

/// Bytes before a frame on a packet socket (`struct virtio_net_hdr`, PACKET_VNET_HDR of packet(7)), and on a tap, where the number of
/// merged buffers follows.
const HEADER: usize = 10;
const TAP_HEADER: usize = 12;
/// Bytes of an address: that of the receiver begins a frame, that of the sender follows.
const ADDRESS: usize = 6;
/// The longest train of packets, with what precedes it.
const LONGEST: usize = TAP_HEADER + 14 + 4 + 65_535;
/// So long no frame must come until it is taken that none waits in the port's class any more.
const SILENCE: Duration = Duration::from_millis(10);
/// How long frames are passed on at most: a small share with a full queue takes longer, and what it holds is lost.
const LIMIT: Duration = Duration::from_millis(200);
const NAP: Duration = Duration::from_micros(500);

/// Why what a guest's move takes of its port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PassageError {
    /// The port or its bridge is gone, or the kernel cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// It is a port of no bridge.
    #[error(
        "the interface {port} is a port of no bridge: `chronovisor net status` lists those that are"
    )]
    NoBridge {
        /// The interface.
        port: String,
    },
    /// There is no socket to send by.
    #[error("cannot send frames by the bridge of {port}: {source}; give the process CAP_NET_RAW")]
    Socket {
        /// The port.
        port: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What became of the frames that came while a guest stood still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Late {
    /// Sent on to where the guest is. One to everybody it may have had there already.
    pub passed_on: u64,
    /// Refused by the kernel.
    pub lost: u64,
}

/// The hands on a port whose guest comes or goes.
#[derive(Debug)]
pub struct Passage {
    netlink: Netlink,
    port: Link,
    mac: Mac,
    /// Bound to the bridge.
    socket: File,
}

impl Passage {
    /// Of the port that is the interface `port` of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`PassageError`].
    pub fn of(port: &str, mac: Mac) -> Result<Self, PassageError> {
        let mut netlink = Netlink::open()?;
        let port = device::get(&mut netlink, port)?;
        let bridge = port.bridge.ok_or_else(|| PassageError::NoBridge {
            port: port.name.clone(),
        })?;
        let socket = kernel::packet_socket(bridge).map_err(|errno| PassageError::Socket {
            port: port.name.clone(),
            source: errno.into(),
        })?;
        Ok(Self {
            netlink,
            port,
            mac,
            socket: socket.into(),
        })
    }

    /// Lets the bridge give the port its frames. They wait in the tap until somebody reads them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(&mut self) -> Result<(), NetlinkError> {
        self.netlink.apply(&device::open_port(&self.port, self.mac))
    }

    /// Has the bridge give the port no more frames: those for its address go where the bridge learns that it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close(&mut self) -> Result<(), NetlinkError> {
        let requests = device::close_port(&self.port, self.mac);
        let mut refusals = self
            .netlink
            .send(&requests)?
            .into_iter()
            .filter_map(Result::err);
        // It is behind another port already.
        let refusal = refusals.find(|refusal| refusal.errno != Errno::ENOENT);
        refusal.map_or(Ok(()), |refusal| Err(NetlinkError::Refused(refusal)))
    }

    /// Tells all who forward frames that the address is here.
    ///
    /// # Errors
    /// What the kernel answers, for example that the bridge is down.
    pub fn announce(&self) -> io::Result<()> {
        self.send([&[0; HEADER], &announcement::frame(self.mac), &[]])
    }

    /// Sends a frame that consists of these.
    fn send(&self, parts: [&[u8]; 3]) -> io::Result<()> {
        let parts = parts.map(IoSlice::new);
        (&self.socket).write_vectored(&parts).map(drop)
    }

    /// How many frames the interface has dropped because nobody read them.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn unread(&mut self) -> Result<u64, NetlinkError> {
        let link = device::get(&mut self.netlink, &self.port.name)?;
        Ok(link.counters.sent_drops)
    }

    /// Sends on by the bridge what waits in `tap` and what still comes there, until nothing does: for a port that is closed, whose guest
    /// has been announced elsewhere. Nobody else may read the tap.
    pub fn pass_on(&self, tap: &Tap) -> Late {
        let mut late = Late::default();
        let mut buffer = vec![0; LONGEST];
        let (begun, mut last) = (Instant::now(), Instant::now());
        while last.elapsed() < SILENCE && begun.elapsed() < LIMIT {
            let mut tap = tap;
            match tap.read(&mut buffer) {
                Ok(length) => {
                    self.send_on(&buffer[..length], &mut late);
                    last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NAP),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The interface is gone, and what it held.
                Err(_) => break,
            }
        }
        late
    }

    /// Sends on what was read from the tap.
    fn send_on(&self, bytes: &[u8], late: &mut Late) {
        let Some((header, frame)) = bytes.split_at_checked(TAP_HEADER) else {
            return;
        };
        let (mac, Some(rest)) = (self.mac.octets(), frame.get(ADDRESS..)) else {
            return;
        };
        // Its own announcement, say.
        if rest.starts_with(&mac) {
            return;
        }
        // What was for everybody is for it alone now: all others have had it.
        match self.send([&header[..HEADER], &mac, rest]) {
            Ok(()) => late.passed_on += 1,
            Err(_) => late.lost += 1,
        }
    }
}
