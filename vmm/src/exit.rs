//! What an exit of a vCPU means: a pure decision, apart from what is then done about it.

pub use kvm_ioctls::VcpuExit;
use serde::{Deserialize, Serialize};

/// Why a guest is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum End {
    /// The guest wrote this value to the debug-exit port.
    DebugExit {
        /// The value written.
        value: u8,
    },
    /// The guest asked for a reset.
    Reset,
    /// Somebody asked for the guest to be stopped.
    Stopped,
    /// It was saved, and lives on where it is restored.
    Saved,
    /// It was moved, and lives on another host.
    Moved,
    /// A fault while a double fault was being delivered (or a shutdown request).
    TripleFault,
    /// KVM gave up on the guest.
    KvmFailure {
        /// What KVM said.
        detail: String,
    },
    /// KVM reported something that this machine never asks for.
    UnknownExit {
        /// Name or number of the exit.
        detail: String,
    },
    /// The guest showed no sign of life for longer than its watchdog allows.
    Hung,
    /// The vCPU's real-time set-up failed while it ran, so its promise could no longer be kept.
    PromiseBroken {
        /// What failed.
        detail: String,
    },
}

impl End {
    /// The exit status of the process that ran the guest.
    ///
    /// 0: the guest ended itself well or was stopped on request; 64 + value: the guest's own failure code (as far
    /// as it fits); 101 triple fault; 102 KVM failure; 103 unknown exit; 104 reset; 105 broken promise; 106 hung.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::DebugExit {
                value: DEBUG_EXIT_OK,
            }
            | Self::Stopped
            | Self::Saved
            | Self::Moved => 0,
            Self::DebugExit { value } => 64 + value % 32,
            Self::TripleFault => 101,
            Self::KvmFailure { .. } => 102,
            Self::UnknownExit { .. } => 103,
            Self::Reset => 104,
            Self::PromiseBroken { .. } => 105,
            Self::Hung => 106,
        }
    }
}

impl End {
    /// Whether the guest or its monitor failed; a guest that ends with its own failure code has told why itself.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        !matches!(
            self,
            Self::DebugExit { .. } | Self::Stopped | Self::Saved | Self::Moved | Self::Reset
        )
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DebugExit {
                value: DEBUG_EXIT_OK,
            } => write!(f, "guest ended"),
            Self::DebugExit { value } => write!(f, "guest ended with failure code {value:#x}"),
            Self::Reset => write!(f, "guest asked for a reset"),
            Self::Stopped => write!(f, "stopped on request"),
            Self::Saved => write!(f, "saved, and ended here"),
            Self::Moved => write!(f, "moved, and ended here"),
            Self::TripleFault => write!(f, "guest triple-faulted"),
            Self::KvmFailure { detail } => write!(f, "KVM gave up on the guest: {detail}"),
            Self::UnknownExit { detail } => write!(
                f,
                "KVM reported an exit this machine cannot serve: {detail}"
            ),
            Self::Hung => write!(f, "guest hung: no sign of life within its watchdog's time"),
            Self::PromiseBroken { detail } => {
                write!(f, "the reservation could not be kept: {detail}")
            }
        }
    }
}

/// Value a guest writes to the debug-exit port when all is well (QEMU turns it into exit status 33).
pub const DEBUG_EXIT_OK: u8 = 0x10;

/// What to do about an exit.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// A port is read: fill the bytes.
    PortRead(u16, &'a mut [u8]),
    /// A port is written.
    PortWrite(u16, &'a [u8]),
    /// Device memory is read: fill the bytes.
    MmioRead(u64, &'a mut [u8]),
    /// Device memory is written.
    MmioWrite(u64, &'a [u8]),
    /// The guest has ended a level-triggered interrupt with this vector.
    EndOfInterrupt(u8),
    /// Nothing to serve: enter the guest again.
    Resume,
    /// The guest is over.
    End(End),
    /// KVM failed; its suberror tells more.
    InternalError,
}

/// Decides what an exit means. Total: every exit reason has an answer, and none panics.
#[must_use]
pub fn decide(exit: VcpuExit<'_>) -> Decision<'_> {
    match exit {
        VcpuExit::IoIn(port, data) => Decision::PortRead(port, data),
        VcpuExit::IoOut(port, data) => Decision::PortWrite(port, data),
        VcpuExit::MmioRead(address, data) => Decision::MmioRead(address, data),
        VcpuExit::MmioWrite(address, data) => Decision::MmioWrite(address, data),
        // With the local APICs in the kernel HLT does not come here; signals and windows just mean "again".
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => Decision::Resume,
        VcpuExit::IoapicEoi(vector) => Decision::EndOfInterrupt(vector),
        VcpuExit::Shutdown => Decision::End(End::TripleFault),
        VcpuExit::SystemEvent(kind, _) => Decision::End(system_event(kind)),
        VcpuExit::InternalError => Decision::InternalError,
        VcpuExit::FailEntry(reason, cpu) => Decision::End(End::KvmFailure {
            detail: format!(
                "entry into the guest failed on CPU {cpu}, hardware reason {reason:#x}"
            ),
        }),
        VcpuExit::MemoryFault { flags, gpa, size } => Decision::End(End::KvmFailure {
            detail: format!(
                "no memory behind guest address {gpa:#x} ({size} bytes, flags {flags:#x})"
            ),
        }),
        other => Decision::End(End::UnknownExit {
            detail: name(&other),
        }),
    }
}

/// `KVM_SYSTEM_EVENT_*` of linux/kvm.h.
fn system_event(kind: u32) -> End {
    match kind {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => End::Stopped,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET => End::Reset,
        other => End::UnknownExit {
            detail: format!("system event {other}"),
        },
    }
}

fn name(exit: &VcpuExit<'_>) -> String {
    let text = format!("{exit:?}");
    text.split(['(', ' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_and_memory_accesses_go_to_devices() {
        let mut bytes = [0u8; 4];
        assert_eq!(
            decide(VcpuExit::IoOut(0x3f8, b"a")),
            Decision::PortWrite(0x3f8, b"a")
        );
        assert!(matches!(
            decide(VcpuExit::IoIn(0x3fd, &mut bytes)),
            Decision::PortRead(0x3fd, _)
        ));
        assert!(matches!(
            decide(VcpuExit::MmioRead(7, &mut bytes)),
            Decision::MmioRead(7, _)
        ));
        assert_eq!(
            decide(VcpuExit::MmioWrite(7, b"xy")),
            Decision::MmioWrite(7, b"xy")
        );
    }

    #[test]
    fn failures_end_the_guest_and_have_distinct_statuses() {
        let ends = [
            decide(VcpuExit::Shutdown),
            decide(VcpuExit::FailEntry(5, 1)),
            decide(VcpuExit::Hyperv),
            decide(VcpuExit::SystemEvent(
                kvm_bindings::KVM_SYSTEM_EVENT_RESET,
                &[],
            )),
        ];
        let mut statuses: Vec<u8> = ends
            .iter()
            .map(|end| match end {
                Decision::End(end) => end.status(),
                other => panic!("{other:?} does not end the guest"),
            })
            .collect();
        statuses.dedup();
        assert_eq!(statuses, vec![101, 102, 103, 104]);
    }

    #[test]
    fn signals_and_interrupt_windows_enter_the_guest_again() {
        assert_eq!(decide(VcpuExit::IoapicEoi(3)), Decision::EndOfInterrupt(3));
        for exit in [VcpuExit::Intr, VcpuExit::IrqWindowOpen, VcpuExit::Hlt] {
            assert_eq!(decide(exit), Decision::Resume);
        }
    }

    #[test]
    fn a_guest_that_ends_well_gives_status_zero_and_any_other_code_does_not() {
        assert_eq!(
            End::DebugExit {
                value: DEBUG_EXIT_OK
            }
            .status(),
            0
        );
        for value in (0..=u8::MAX).filter(|&v| v != DEBUG_EXIT_OK) {
            assert_ne!(End::DebugExit { value }.status(), 0);
        }
    }
}
