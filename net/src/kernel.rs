//! System calls without a safe wrapper. The only `unsafe` of this crate is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

/// Lets the program that `command` starts run in the network namespace `namespace`.
pub(crate) fn start_inside(command: &mut Command, namespace: OwnedFd) {
    let enter = move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    // SAFETY: what runs between fork and exec
    // - makes one system call and allocates nothing: an `io::Error` of an error number is a number;
    // - uses a descriptor that it owns, closed with the command.
    unsafe { command.pre_exec(enter) };
}

/// `struct ifreq` (netdevice(7)) as the tap requests use it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// What an interface's name may hold: all but the final zero.
pub(crate) const NAME: usize = libc::IFNAMSIZ - 1;

nix::ioctl_write_int!(tun_set_interface_raw, b'T', 202);
nix::ioctl_write_int!(tun_set_offload_raw, b'T', 208);
nix::ioctl_write_ptr!(tun_set_header_size_raw, b'T', 216, libc::c_int);

/// Makes `file`, an open /dev/net/tun, the interface `name` (TUNSETIFF, Documentation/networking/tuntap.rst).
pub(crate) fn attach_tap(file: &File, name: &str, flags: libc::c_short) -> nix::Result<()> {
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags,
        rest: [0; 22],
    };
    let length = name.len().min(NAME);
    request.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    let pointer = (&raw mut request).expose_provenance() as libc::c_ulong;
    // SAFETY:
    // - the kernel reads and writes sizeof(struct ifreq) = 40 bytes at the pointer, the size of `InterfaceRequest`;
    // - the request lives until the call has returned.
    unsafe { tun_set_interface_raw(file.as_raw_fd(), pointer) }.map(drop)
}

/// Tells the tap what the reader can take unfinished (TUNSETOFFLOAD).
pub(crate) fn set_tap_offloads(file: &File, flags: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: the argument is a number, no pointer.
    unsafe { tun_set_offload_raw(file.as_raw_fd(), flags) }.map(drop)
}

/// Sets how many bytes precede each frame (TUNSETVNETHDRSZ).
pub(crate) fn set_tap_header_size(file: &File, bytes: libc::c_int) -> nix::Result<()> {
    // SAFETY: the kernel reads one int, which lives until the call has returned.
    unsafe { tun_set_header_size_raw(file.as_raw_fd(), &raw const bytes) }.map(drop)
}

/// A socket for whole frames, each behind a `struct virtio_net_hdr`, by the interface with this number (packet(7)). Nothing is received
/// by it, and writing does not wait.
pub(crate) fn packet_socket(interface: u32) -> nix::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the arguments are numbers, no pointers.
    let made = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor was just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(made) };
    let wanted: libc::c_int = 1;
    // SAFETY: the kernel reads one int, as long as is said, which lives until the call has returned.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_VNET_HDR,
            (&raw const wanted).cast(),
            length_of::<libc::c_int>(),
        )
    })?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: 0,
        sll_ifindex: i32::try_from(interface).map_err(|_| Errno::ENODEV)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads one `sockaddr_ll`, as long as is said, which lives until the call has returned.
    Errno::result(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    })?;
    Ok(socket)
}

/// `PACKET_VNET_HDR` of linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}
