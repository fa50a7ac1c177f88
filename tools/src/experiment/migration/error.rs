//! Why a migration cannot be measured.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::qmp::QmpError;

/// Why a migration cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// QEMU did not do what it was asked.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// There is no QEMU.
    #[error("QEMU is not installed (package qemu-system-x86)")]
    NoQemu,
    /// A guest has recorded nothing.
    #[error("{name} shows no sign of life within {patience:?}; see {}", serial.display())]
    Lifeless {
        /// Which.
        name: &'static str,
        /// How long was waited.
        patience: Duration,
        /// What it wrote.
        serial: PathBuf,
    },
    /// The memory of a process cannot be read.
    #[error("cannot read the guest's records in process {pid}: {source}; run as root")]
    Memory {
        /// The process.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
    /// A vCPU's thread does not get its reservation.
    #[error(
        "thread {tid} of QEMU gets no reservation of ({runtime:?}, {period:?}) on CPU {cpu}: {source}"
    )]
    Reservation {
        /// The thread.
        tid: i32,
        /// Q.
        runtime: Duration,
        /// P.
        period: Duration,
        /// The CPU.
        cpu: u32,
        /// Why not.
        source: nix::errno::Errno,
    },
    /// There is but one CPU.
    #[error("two hosts need two CPUs, and only CPU {cpu} is online")]
    OneCpu {
        /// It.
        cpu: u32,
    },
}
