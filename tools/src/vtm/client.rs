//! Asks a service of VTMs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm::control::client::exchange;

use super::command::{Command, Reply};

/// How long a service has to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer: the status of the most VTMs and jobs that a host has processes for.
const LONGEST: u64 = 1 << 26;

/// Why asking failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No service.
    #[error("no VTMs are served here: `chronovisor vtm serve --cpu N` serves them (looked in {})", folder.display())]
    NoService {
        /// Where one would be.
        folder: PathBuf,
    },
    /// No service for this CPU.
    #[error("no VTMs are served on CPU {cpu}: `chronovisor vtm serve --cpu {cpu}` serves them")]
    NotServed {
        /// The CPU.
        cpu: u32,
    },
    /// More than one.
    #[error("VTMs are served on CPUs {}: say which with --cpu", list(.cpus))]
    Several {
        /// The CPUs.
        cpus: Vec<u32>,
    },
    /// It cannot be talked to.
    #[error("cannot talk to the service at {}: {source}", path.display())]
    Talk {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It did not answer.
    #[error("the service at {} did not answer within {} s", path.display(), PATIENCE.as_secs())]
    Silent {
        /// Its socket.
        path: PathBuf,
    },
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

fn list(cpus: &[u32]) -> String {
    let cpus: Vec<String> = cpus.iter().map(u32::to_string).collect();
    cpus.join(", ")
}

/// The socket of the service for the VTMs of `cpu`.
#[must_use]
pub fn socket_path(run_dir: &Path, cpu: u32) -> PathBuf {
    run_dir.join("vtm").join(format!("cpu{cpu}.sock"))
}

/// A service of VTMs, as a program that uses it sees it.
///
/// ```no_run
/// # use chronovisor::vtm::{Client, Command, Reply};
/// let client = Client::find(&chronovisor::default_run_dir(), None)?;
/// if let Reply::Status(status) = client.call(&Command::Status {})? {
///     println!("{} VTMs", status.vtms.len());
/// }
/// # Ok::<(), chronovisor::vtm::ClientError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The service for this CPU, or the only one.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(run_dir: &Path, cpu: Option<u32>) -> Result<Self, ClientError> {
        let cpus = served(run_dir);
        let cpu = match (cpu, cpus.as_slice()) {
            (Some(cpu), _) if cpus.contains(&cpu) => cpu,
            (Some(cpu), _) => return Err(ClientError::NotServed { cpu }),
            (None, &[only]) => only,
            (None, []) => {
                let folder = run_dir.join("vtm");
                return Err(ClientError::NoService { folder });
            }
            (None, _) => return Err(ClientError::Several { cpus }),
        };
        Ok(Self {
            socket: socket_path(run_dir, cpu),
        })
    }

    /// Has a command processed.
    ///
    /// # Errors
    /// [`ClientError`]; `Refused` is the service's own answer.
    pub fn call(&self, command: &Command) -> Result<Reply, ClientError> {
        let path = || self.socket.clone();
        let talk = |source| ClientError::Talk {
            path: path(),
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(talk)?;
        let asked = async {
            tokio::time::timeout(PATIENCE, exchange(&self.socket, command, LONGEST)).await
        };
        match runtime.block_on(asked) {
            Ok(Ok(reply)) => reply.map_err(ClientError::Refused),
            Ok(Err(source)) => Err(talk(source)),
            Err(_) => Err(ClientError::Silent { path: path() }),
        }
    }
}

/// The CPUs whose VTMs are served: a socket that nobody listens at is none.
fn served(run_dir: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(run_dir.join("vtm")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut cpus: Vec<u32> = names
        .filter_map(|name| {
            name.strip_prefix("cpu")?
                .strip_suffix(".sock")?
                .parse()
                .ok()
        })
        .filter(|&cpu| std::os::unix::net::UnixStream::connect(socket_path(run_dir, cpu)).is_ok())
        .collect();
    cpus.sort_unstable();
    cpus
}
