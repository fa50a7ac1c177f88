//! A tap: the host's end of a guest's network interface. Frames go through its descriptor, each behind a header that says
//! what is left to do with it (`struct virtio_net_hdr_v1`, VIRTIO 1.2, 5.1.6).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use crate::kernel;
use crate::netlink::NetlinkError;
use crate::{device, netlink::Netlink};

const DEVICE: &str = "/dev/net/tun";
/// The header with the number of merged buffers, which VIRTIO 1 always has.
const HEADER: i32 = 12;

/// What the reader of a tap takes unfinished (`TUN_F_` of linux/if_tun.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames without their checksum.
    pub checksum: bool,
    /// TCP over IPv4 in pieces larger than a frame; needs `checksum`.
    pub tcp4: bool,
    /// The same over IPv6.
    pub tcp6: bool,
    /// Such TCP with congestion marks.
    pub ecn: bool,
    /// UDP in pieces larger than a frame (both `TUN_F_USO4` and `TUN_F_USO6`, since Linux 6.2).
    pub udp: bool,
}

impl Offloads {
    fn flags(self) -> libc::c_ulong {
        let bit = |set: bool, bit: libc::c_ulong| if set { bit } else { 0 };
        bit(self.checksum, 0x01)
            | bit(self.tcp4, 0x02)
            | bit(self.tcp6, 0x04)
            | bit(self.ecn, 0x08)
            | bit(self.udp, 0x20 | 0x40)
    }
}

/// Why a tap cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no taps.
    #[error("cannot open {DEVICE}: load the module tun or enable CONFIG_TUN")]
    Device {
        /// The operating system's reason.
        source: io::Error,
    },
    /// There is one of that name.
    #[error(
        "there is an interface {name} already: delete it by `ip link delete {name}`, or take another name"
    )]
    Exists {
        /// Its name.
        name: String,
    },
    /// The kernel said no.
    #[error(
        "cannot {action} the tap {name}: give the process CAP_NET_ADMIN, and let it read and write {DEVICE}"
    )]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On which.
        name: String,
        /// Its reason.
        source: Errno,
    },
    /// No interface's name, or the kernel cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A tap. The interface lives as long as this.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Makes the tap `name` in the network namespace of the calling thread. Reads and writes of it do not wait.
    ///
    /// # Errors
    /// When there is an interface of that name, or the process may not make taps.
    pub fn open(name: &str) -> Result<Self, TapError> {
        device::check_name(name)?;
        // The kernel would make a number of it.
        if name.contains('%') {
            let name = name.to_owned();
            return Err(NetlinkError::Name { name }.into());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
                Some(errno @ (Errno::EACCES | Errno::EPERM)) => refused("open", name)(errno),
                _ => TapError::Device { source },
            })?;
        // An interface that exists and is no tap is refused by the kernel; TUN_EXCL refuses an existing tap too.
        let flags = [
            libc::IFF_TAP,
            libc::IFF_NO_PI,
            libc::IFF_VNET_HDR,
            IFF_TUN_EXCL,
        ];
        let flags = flags.into_iter().fold(0, |all, flag| all | flag);
        let flags =
            libc::c_short::from_ne_bytes(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
        let refused = |action| refused(action, name);
        kernel::attach_tap(&file, name, flags).map_err(refused("create"))?;
        kernel::set_tap_header_size(&file, HEADER).map_err(refused("set the header of"))?;
        let name = name.to_owned();
        Ok(Self { file, name })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says what the reader takes unfinished; the kernel finishes the rest before it hands a frame over.
    ///
    /// # Errors
    /// When the kernel does not know one of them.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        kernel::set_tap_offloads(&self.file, offloads.flags())
            .map_err(refused("set the offloads of", &self.name))
    }

    /// Sets how many packets wait for the reader before the interface drops them.
    ///
    /// # Errors
    /// When the kernel cannot be asked or refuses.
    pub fn set_queue_length(&self, netlink: &mut Netlink, packets: u32) -> Result<(), TapError> {
        let link = device::get(netlink, &self.name)?;
        Ok(netlink.apply(&[device::set_queue_length(&link, packets)])?)
    }

    /// Its open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// `IFF_TUN_EXCL` of linux/if_tun.h.
const IFF_TUN_EXCL: libc::c_int = 0x8000;

fn refused<'a>(action: &'static str, name: &'a str) -> impl Fn(Errno) -> TapError + 'a {
    move |source| {
        let name = name.to_owned();
        match source {
            Errno::EBUSY | Errno::EINVAL if action == "create" => TapError::Exists { name },
            _ => TapError::Refused {
                action,
                name,
                source,
            },
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Read for &Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }
}

impl Write for &Tap {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        (&self.file).write(frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
