//! System calls without a safe wrapper. The only `unsafe` of this crate is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

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
