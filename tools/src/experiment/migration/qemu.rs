//! QEMU: the same image on its smallest machine, its vCPU's thread in a reservation, moved over its machine protocol.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sched::kernel::{Policy, Tid, set_policy};
use serde_json::json;

use super::case::{DOWNTIME, Guest, MEMORY, Mover, RESERVATION};
use super::error::MigrationError;
use super::hosts::{Host, Hosts};
use super::qmp::{Migration, Qmp, QmpError, Status};
use super::run::{End, Pair, Told};
use crate::experiment::guest::path;
use crate::experiment::process::Part;
use crate::experiment::{ExperimentError, interrupt};

const PROGRAM: &str = "qemu-system-x86_64";
/// Where the destination waits for a guest.
const PORT: u16 = 7421;
/// Far beyond any link: no limit of QEMU's own.
const BANDWIDTH: u64 = 100_000_000_000;
/// Connections of `multifd`, beside the first one.
const CHANNELS: u32 = 2;
/// The kernel has freed by then what a thread had that has ended (its 0-lag time).
const FREED: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(10);

/// One QEMU.
struct Machine {
    part: Part,
    qmp: Qmp,
}

/// Two of them: the second one waits for the guest.
pub struct QemuPair<'a> {
    source: Machine,
    destination: Machine,
    hosts: &'a Hosts,
    mover: Mover,
    serial: PathBuf,
}

/// Where the files of a pair are, and what it runs.
pub struct Setting<'a> {
    /// The hosts.
    pub hosts: &'a Hosts,
    /// Folder for files.
    pub folder: &'a Path,
    /// The image.
    pub image: &'a Path,
    /// What is different from one migration to the next.
    pub seed: u64,
}

impl<'a> QemuPair<'a> {
    /// Starts both; the guest runs in the first one.
    pub fn start(
        setting: &Setting<'a>,
        guest: &Guest,
        mover: Mover,
    ) -> Result<Self, ExperimentError> {
        let hosts = setting.hosts;
        let line = guest.line(setting.seed);
        let start = |host: &Host, name: &str, waits: bool| {
            let mut words = arguments((setting.image, &line), mover, (setting.folder, name));
            if waits {
                words.extend(["-incoming", "defer"].map(str::to_owned));
            }
            Machine::start(host, (name, setting.folder), &words)
        };
        let source = start(&hosts.source, "qemu-source", false)?;
        let destination = start(&hosts.destination, "qemu-destination", true)?;
        let mut pair = Self {
            source,
            destination,
            hosts,
            mover,
            serial: serial(setting.folder, "qemu-source"),
        };
        pair.prepare()?;
        Ok(pair)
    }

    fn prepare(&mut self) -> Result<(), ExperimentError> {
        let uses_several = self.mover != Mover::Plain;
        for machine in [&mut self.source, &mut self.destination] {
            let multifd = json!({ "capability": "multifd", "state": uses_several });
            let capabilities = json!({ "capabilities": [multifd] });
            let mut parameters = json!({
                "max-bandwidth": BANDWIDTH,
                "downtime-limit": u64::try_from(DOWNTIME.as_millis()).unwrap_or(u64::MAX),
            });
            if uses_several {
                parameters["multifd-channels"] = json!(CHANNELS);
            }
            machine.execute("migrate-set-capabilities", capabilities)?;
            machine.execute("migrate-set-parameters", parameters)?;
        }
        let uri = json!({ "uri": self.uri() });
        self.destination.execute("migrate-incoming", uri)
    }

    fn uri(&self) -> String {
        format!("tcp:{}:{PORT}", self.hosts.destination.address)
    }
}

impl Pair for QemuPair<'_> {
    fn source(&self) -> i32 {
        self.source.part.pid()
    }

    fn destination(&self) -> i32 {
        self.destination.part.pid()
    }

    fn serial(&self) -> &Path {
        &self.serial
    }

    fn migrate(
        &mut self,
        patience: Duration,
        glance: &mut dyn FnMut(),
    ) -> Result<End, ExperimentError> {
        let uri = json!({ "uri": self.uri() });
        let begin = Instant::now();
        self.source.execute("migrate", uri)?;
        loop {
            interrupt::check()?;
            glance();
            let migration = self.source.qmp.migration().map_err(MigrationError::from)?;
            if migration.status.is_over() {
                return Ok(end(&migration));
            }
            if begin.elapsed() > patience {
                let cancelled = self.source.qmp.cancel().map_err(MigrationError::from)?;
                // It may have been done in the meantime.
                if cancelled.status == Status::Completed {
                    return Ok(end(&cancelled));
                }
                return Ok(End::Stayed(given_up(&migration, patience)));
            }
            std::thread::sleep(GLANCE);
        }
    }
}

impl Machine {
    fn start(
        host: &Host,
        (name, folder): (&str, &Path),
        words: &[String],
    ) -> Result<Self, ExperimentError> {
        let mut part = host.start(name, folder, words)?;
        let failed = || part.ended().map_or(Ok(()), Err);
        let mut qmp = Qmp::connect::<ExperimentError>(&socket(folder, name), failed)?;
        let vcpus = qmp.vcpus().map_err(MigrationError::from)?;
        for tid in vcpus {
            reserve(tid, host.cpu)?;
        }
        Ok(Self { part, qmp })
    }

    fn execute(
        &mut self,
        command: &str,
        arguments: serde_json::Value,
    ) -> Result<(), ExperimentError> {
        let done = self.qmp.execute(command, arguments);
        done.map_err(MigrationError::from)?;
        Ok(())
    }
}

impl From<QmpError> for ExperimentError {
    fn from(error: QmpError) -> Self {
        MigrationError::from(error).into()
    }
}

/// The vCPU's thread has a reservation like that of a guest of this program.
fn reserve(tid: i32, cpu: u32) -> Result<(), MigrationError> {
    let (runtime, period) = RESERVATION;
    let policy = Policy::Deadline {
        runtime,
        deadline: period,
        period,
    };
    let begin = Instant::now();
    loop {
        match set_policy(Tid(tid), policy) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY) if begin.elapsed() < FREED => std::thread::sleep(GLANCE),
            Err(source) => {
                return Err(MigrationError::Reservation {
                    tid,
                    runtime,
                    period,
                    cpu,
                    source,
                });
            }
        }
    }
}

fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.qmp"))
}

fn serial(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.serial"))
}

fn arguments(
    (image, line): (&Path, &str),
    mover: Mover,
    (folder, name): (&Path, &str),
) -> Vec<String> {
    let memory = MEMORY.to_string();
    let serial = format!("file:{}", path(&serial(folder, name)));
    let qmp = format!("unix:{},server=on,wait=off", path(&socket(folder, name)));
    let image = path(image);
    let mut words = vec![PROGRAM, "-accel", "kvm", "-m", &memory, "-smp", "1"];
    words.extend(["-nodefaults", "-no-user-config", "-no-reboot"]);
    words.extend(["-display", "none", "-serial", &serial, "-qmp", &qmp]);
    words.extend(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    words.extend(["-kernel", &image, "-append", line]);
    let backend = format!("memory-backend-ram,id=ram,size={memory}M,prealloc=on");
    if mover == Mover::MultifdPrepared {
        words.extend(["-M", "microvm,memory-backend=ram", "-object", &backend]);
    } else {
        words.extend(["-M", "microvm"]);
    }
    words.into_iter().map(str::to_owned).collect()
}

fn end(migration: &Migration) -> End {
    match migration.status {
        Status::Completed => {
            let millis = |value: Option<u64>| value.map(Duration::from_millis);
            End::Moved(Told {
                total: millis(migration.total_time).unwrap_or_default(),
                downtime: millis(migration.downtime),
                rounds: migration.ram.as_ref().map(|ram| ram.dirty_sync_count),
                promise: None,
            })
        }
        status => {
            let why = migration.error_desc.clone();
            End::Stayed(why.unwrap_or_else(|| format!("QEMU says: {status:?}")))
        }
    }
}

fn given_up(migration: &Migration, patience: Duration) -> String {
    let state = migration.ram.as_ref().map_or_else(String::new, |ram| {
        format!(
            ": pass {}, {:.1} MiB left, {} pages written per second",
            ram.dirty_sync_count,
            ram.remaining as f64 / f64::from(1 << 20),
            ram.dirty_pages_rate
        )
    });
    format!("did not end within {} s{state}", patience.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::migration::qmp::Ram;

    #[test]
    fn a_migration_that_failed_says_why_and_one_that_does_not_end_how_far_it_is() {
        let failed = Migration {
            status: Status::Failed,
            error_desc: Some("Unable to write to socket".to_owned()),
            ..Migration::default()
        };
        assert!(matches!(end(&failed), End::Stayed(why) if why == "Unable to write to socket"));
        let endless = Migration {
            ram: Some(Ram {
                transferred: 1 << 30,
                remaining: 3 << 20,
                dirty_sync_count: 40,
                dirty_pages_rate: 5000,
            }),
            ..Migration::default()
        };
        let told = given_up(&endless, Duration::from_secs(12));
        assert_eq!(
            told,
            "did not end within 12 s: pass 40, 3.0 MiB left, 5000 pages written per second"
        );
    }
}
