//! Memory of the process beyond the guest's own.

use std::io::Read;
use std::process::Child;
use std::time::Duration;

use super::guest::{self, GuestPlan};
use super::outcome::{Check, Row, Target};
use super::{Bench, wait};
use crate::failure::Failure;

/// Long enough to look at the guest in the middle of its run.
const LINE: &str = "task=t,c=1ms,t=20ms duration=3s";
/// When to look: everything is allocated by then.
const SETTLED: Duration = Duration::from_secs(1);
/// Mappings of guest memory: our own memfd, and QEMU's.
const GUEST_MEMORY: [&str; 2] = ["memfd:chronovisor.guest", "memfd:memory-backend-memfd"];

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let plan = GuestPlan::reserved("bench-memory", LINE, (10.0, 40.0));
    // A copy: this process maps the same file, and pages mapped twice count half for each.
    let program = bench.scratch.path("chronovisor");
    std::fs::copy(guest::PROGRAM, &program)?;
    let guest = bench.start_by(&program, &plan)?;
    wait::sleep(SETTLED)?;
    let own = Mappings::of(guest.pid())?;
    guest.stop()?;
    let mebibytes = own.without_guest() as f64 / 1024.0;
    let check = Check::new("Pss", (mebibytes, "MiB"), Target::AtMost(2.5));
    let check = match peer(bench)? {
        Some(qemu) => {
            let qemu = qemu.without_guest() as f64 / 1024.0;
            check.beside(format!("QEMU {qemu:.1} MiB"))
        }
        None => check.beside("QEMU is not installed"),
    };
    Ok(Row::new(vec![check]).note(own.largest()))
}

fn peer(bench: &Bench) -> Result<Option<Mappings>, Failure> {
    let Some(qemu) = &bench.qemu else {
        return Ok(None);
    };
    let image = bench.scratch.write("rt-guest", guest_images::RT_GUEST)?;
    let child = qemu.command(&image, LINE).spawn()?;
    let mut peer = Peer(child);
    if let Some(output) = &mut peer.0.stdout {
        output.read_exact(&mut [0])?;
    }
    wait::sleep(SETTLED)?;
    Mappings::of(peer.0.id()).map(Some)
}

/// Dropping it ends the process.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Proportional set sizes in KiB, by what is mapped (proc_pid_smaps(5)).
struct Mappings(Vec<(String, u64)>);

impl Mappings {
    fn of(pid: u32) -> Result<Self, Failure> {
        let path = format!("/proc/{pid}/smaps");
        let text =
            std::fs::read_to_string(&path).map_err(|e| Failure::from(e).while_doing(&path))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut sizes: Vec<(String, u64)> = Vec::new();
        let mut name = String::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if !first.ends_with(':') {
                // Addresses, rights, offset, device, inode, then the name.
                name = words.skip(4).collect::<Vec<_>>().join(" ");
            } else if first == "Pss:" {
                let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
                match sizes.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += size,
                    None => sizes.push((name.clone(), size)),
                }
            }
        }
        Self(sizes)
    }

    fn without_guest(&self) -> u64 {
        let of_guest = |name: &str| GUEST_MEMORY.iter().any(|memfd| name.contains(memfd));
        let own = self.0.iter().filter(|(name, _)| !of_guest(name));
        own.map(|(_, size)| size).sum()
    }

    fn largest(&self) -> String {
        let mut sizes: Vec<_> = self.0.iter().collect();
        sizes.sort_unstable_by_key(|(_, size)| std::cmp::Reverse(*size));
        let words = sizes.iter().take(6).map(|(name, size)| {
            let name = name.rsplit('/').next().unwrap_or_default();
            let name = if name.is_empty() { "anonymous" } else { name };
            format!("{name} {size} KiB")
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_from_the_rest() {
        let text = "7f00-7f10 rw-p 00000000 00:01 12 /memfd:chronovisor.guest (deleted)\nPss:  4096 kB\nPss_Dirty: 9 kB\n\
                    5500-5600 r-xp 00000000 fe:00 3 /usr/bin/chronovisor\nPss:   900 kB\nVmFlags: rd ex\n\
                    5600-5700 rw-p 00000000 00:00 0\nPss:    24 kB\n";
        let mappings = Mappings::parse(text);
        assert_eq!(mappings.without_guest(), 924);
        assert!(mappings.largest().contains("anonymous 24 KiB"));
    }
}
