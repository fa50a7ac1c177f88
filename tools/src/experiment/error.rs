//! Why an experiment could not be carried out.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::report::folder::ReportError;

/// Why an experiment could not be carried out. Everything it had started or prepared is undone then.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// A signal asked for the end.
    #[error("interrupted; everything was put back as it was")]
    Interrupted,
    /// The CPU asked for is not there.
    #[error("CPU {cpu} is not online: choose from {online}")]
    Offline {
        /// The CPU.
        cpu: u32,
        /// Those that are.
        online: String,
    },
    /// Somebody runs in the partition already.
    #[error(
        "CPU {cpu} is a partition in use by thread {tid}: stop that guest, or choose another CPU with --cpu"
    )]
    InUse {
        /// The CPU.
        cpu: u32,
        /// One of the threads.
        tid: sched::kernel::Tid,
    },
    /// A process of the experiment failed.
    #[error("{name} failed ({status}): {said}")]
    Part {
        /// What it was.
        name: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote to standard error.
        said: String,
    },
    /// A process of the experiment did not answer.
    #[error("{name} gave no answer within {patience:?}: is CPU time left for it? see {}", stderr.display())]
    Silent {
        /// What it was.
        name: String,
        /// How long was waited.
        patience: Duration,
        /// Where its standard error went.
        stderr: PathBuf,
    },
    /// What a process said is not what it should say.
    #[error("{name} gave an answer that makes no sense: {source}")]
    Answer {
        /// What it was.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A file, thread or process could not be had.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// The host could not be put back.
    #[error(transparent)]
    Host(#[from] sched::prepare::PrepareError),
    /// A task set that cannot be run.
    #[error("task set: {0}")]
    Tasks(String),
    /// A host that cannot be simulated.
    #[error(transparent)]
    Simulation(#[from] sched::sim::SimError),
    /// A reservation the kernel would not take.
    #[error(transparent)]
    Reservation(#[from] sched::reservation::ReservationError),
    /// A control group that cannot be had.
    #[error("cannot {action}: {source}")]
    Group {
        /// What was tried.
        action: String,
        /// Why not.
        source: sched::cgroup::CgroupError,
    },
    /// A ledger that cannot be opened.
    #[error(transparent)]
    Ledger(#[from] sched::ledger::LedgerError),
    /// A guest that did not answer, or refused.
    #[error(transparent)]
    Call(#[from] vmm::control::ControlError),
    /// A dispatch table that was accepted and not followed.
    #[error(
        "the dispatcher follows an old table after {patience:?}: is its CPU taken by others in real time?"
    )]
    NotInForce {
        /// How long was waited.
        patience: Duration,
    },
    /// A VTM that cannot be had.
    #[error(transparent)]
    Vtm(#[from] sched::vtm::VtmError),
    /// There is no ffmpeg, or not the one that is needed.
    #[error("{why}: install it (on Debian: apt-get install ffmpeg)")]
    Ffmpeg {
        /// What is wrong with it.
        why: String,
    },
    /// A stream that does not stream.
    #[error("{name} sent no packet within {patience:?}: see {}", stderr.display())]
    NoStream {
        /// Which.
        name: String,
        /// How long was waited.
        patience: Duration,
        /// Where its standard error went.
        stderr: PathBuf,
    },
    /// Shares of the network cannot be had.
    #[error("cannot {action}: {why}")]
    Shares {
        /// What was tried.
        action: &'static str,
        /// Why not.
        why: String,
    },
    /// An answer that did not come, or was wrong.
    #[error(transparent)]
    Client(#[from] super::web::ClientError),
    /// A migration that cannot be measured.
    #[error(transparent)]
    Migration(#[from] super::migration::MigrationError),
    /// A network namespace that cannot be had.
    #[error(transparent)]
    Namespace(#[from] net::namespace::NamespaceError),
    /// An interface that cannot be set up.
    #[error(transparent)]
    Interface(#[from] net::netlink::NetlinkError),
    /// A network that cannot be.
    #[error(transparent)]
    Plan(#[from] net::plan::PlanError),
    /// A network that cannot be had.
    #[error(transparent)]
    Network(#[from] net::NetworkError),
    /// A link that cannot be given a capacity.
    #[error(transparent)]
    Tree(#[from] net::tree::TreeError),
    /// A share of a link that cannot be.
    #[error(transparent)]
    Bandwidth(#[from] net::share::ShareError),
    /// Ports that cannot be had.
    #[error(transparent)]
    Ports(#[from] net::ports::PortsError),
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl ExperimentError {
    /// Turns an I/O error into one that says what was tried.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
