//! The peer: QEMU with KVM, running the same image, if it is installed.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use net::mac::Mac;

const PROGRAM: &str = "qemu-system-x86_64";

/// Bytes of RAM, in MiB: as much as the guests of this program have.
const MEMORY: &str = "4";

/// An installed QEMU.
#[derive(Debug)]
pub struct Qemu {
    version: String,
}

impl Qemu {
    /// The one on the path.
    pub fn find() -> Option<Self> {
        let output = Command::new(PROGRAM).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next()?.to_owned();
        output.status.success().then_some(Self { version })
    }

    /// What it calls itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The command that runs `image` on its smallest machine.
    pub fn command(&self, image: &Path, line: &str) -> Command {
        self.on_machine("microvm", image, (line, MEMORY))
    }

    /// The same with so many MiB of RAM, and with a network device behind `tap`, which it inherits. Its offloads are on
    /// where the tap has a header for them, which QEMU finds out.
    pub fn with_network(
        &self,
        image: &Path,
        (line, memory): (&str, &str),
        (tap, mac): (&impl AsRawFd, Mac),
    ) -> Command {
        // Without ACPI it announces its devices on the guest's command line.
        let mut command = self.on_machine("microvm,acpi=off", image, (line, memory));
        command
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .arg("-netdev")
            .arg(format!("tap,id=net0,fd={}", tap.as_raw_fd()))
            .arg("-device")
            .arg(format!("virtio-net-device,netdev=net0,mac={mac}"));
        command
    }

    fn on_machine(&self, machine: &str, image: &Path, (line, memory): (&str, &str)) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("-M")
            .arg(format!("{machine},memory-backend=ram"))
            .args(["-accel", "kvm"])
            .args(["-m", memory, "-smp", "1"])
            // A memfd, so that guest memory can be told from the rest of the process.
            .arg("-object")
            .arg(format!("memory-backend-memfd,id=ram,size={memory}M"))
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .arg("-kernel")
            .arg(image)
            .args(["-append", line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }
}
