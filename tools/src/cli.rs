//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use sched::admission::Fit;
use vmm::units::{BitRate, Span};

/// Real-time virtual machines on KVM: CPU time as reservations, admitted before they are promised, enforced by the
/// kernel, measured while they run.
#[derive(Debug, Parser)]
#[command(name = "chronovisor", version, propagate_version = true)]
pub struct Cli {
    /// Print JSON for machines instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    /// Folder for sockets and the ledger [default: /run/chronovisor, or chronovisor in XDG_RUNTIME_DIR without root].
    #[arg(
        long,
        global = true,
        env = "CHRONOVISOR_RUN_DIR",
        hide_env_values = true
    )]
    pub run_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a guest in the foreground; its serial output goes to standard output.
    Run(RunArgs),
    /// Say what `run` would reserve, on which CPU, and whether it fits. Changes nothing.
    Check {
        /// The specification.
        spec: PathBuf,
    },
    /// Say whether tasks meet their deadlines in a reservation, or which reservation they need, and by which bound.
    ///
    /// FILE has a `[[task]]` for each task, `scheduler`, `runtime` and `period` to judge, `period` alone or neither to
    /// design, and what else is known; `analyze --example` prints all of it with comments.
    Analyze(AnalyzeArgs),
    /// List the guests that run on this host.
    Ls,
    /// Show the levels of this host: its CPUs, the threads on them, their vCPUs, and the VMs these belong to.
    Tree,
    /// Show one guest: what it was promised, what it got, how its tasks do.
    Status {
        /// Its name.
        name: String,
    },
    /// Make a guest stand still; its reservation stays.
    Pause {
        /// Its name.
        name: String,
    },
    /// Let a paused guest go on.
    Resume {
        /// Its name.
        name: String,
    },
    /// End a guest.
    Stop {
        /// Its name.
        name: String,
    },
    /// Change the reservation of a running guest.
    Adapt(AdaptArgs),
    /// Watch guests and VTMs, and adapt them by the rules of a file when they do not get what they need.
    ///
    /// Ctrl-C ends it; what it has changed stays.
    #[command(
        override_usage = "chronovisor watch [OPTIONS] <RULES>\n       chronovisor watch --example"
    )]
    Watch {
        /// The rules.
        #[arg(required_unless_present = "example")]
        rules: Option<PathBuf>,
        /// Print commented rules.
        #[arg(long, conflicts_with = "rules")]
        example: bool,
    },
    /// Save a guest into a new folder and end it here; `restore` lets it go on.
    Save {
        /// Its name.
        name: String,
        /// The folder, which must not exist.
        folder: PathBuf,
    },
    /// Let a saved guest go on, with the reservations of its specification.
    Restore {
        /// The specification it was started from.
        spec: PathBuf,
        /// The folder `save` made.
        folder: PathBuf,
        /// Where and how to show it.
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Move a running guest to another host, on which `chronovisor receive` runs.
    ///
    /// Says first whether what is asked can be kept. Ctrl-C gives it up as long as that is possible; the guest goes on here then.
    Migrate(MigrateArgs),
    /// Take guests that other hosts move here.
    Receive(ReceiveArgs),
    /// Make certificates by which hosts know each other, and an authority for them unless there is one.
    Certificates {
        /// Folder for authority.pem, authority.key, and a folder with three files for each host.
        dir: PathBuf,
        /// Names or addresses of hosts, as others call them.
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Record which pages a guest writes, and say what moving it would take.
    #[command(subcommand)]
    Dirty(crate::command::dirty::DirtyCommand),
    /// Prepare, restore or check this host.
    #[command(subcommand)]
    Host(HostCommand),
    /// Share the network's links among VMs and VTMs: bridge, uplink, routers.
    #[command(subcommand)]
    Net(crate::command::net::NetCommand),
    /// Show in a minute what this is about: a guest that misses deadlines, and the same one in a reservation.
    Demo {
        /// Seconds that each of the three runs takes.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
        seconds: u64,
    },
    /// Repeat an experiment and write a report.
    #[command(subcommand)]
    Experiment(ExperimentCommand),
    /// Share a CPU among virtual task machines (groups of processes) by a dispatch table: an interactive shell, or a script
    /// on standard input. Leaving it releases every process.
    #[command(
        after_help = "Without a command: the shell. Its commands are those above, and here they go to a service."
    )]
    Vtm(crate::command::vtm::VtmArgs),
    /// Say what response times tasks in VMs would have on a host of a given policy. Runs nothing.
    Simulate {
        /// What to simulate: CPUs, policy, VMs with their tasks (README.md has an example).
        spec: PathBuf,
        /// Draw the beginning of the schedule into this file.
        #[arg(long, value_name = "FILE.svg")]
        gantt: Option<PathBuf>,
    },
    /// Measure this program, beside its peers where they are installed.
    Bench(BenchArgs),
    /// Print a commented specification.
    Spec {
        /// The example.
        #[arg(long, required = true)]
        example: bool,
    },
}

/// `analyze`.
#[derive(Debug, Args)]
#[command(
    override_usage = "chronovisor analyze [OPTIONS] <FILE>\n       chronovisor analyze --example"
)]
pub struct AnalyzeArgs {
    /// The tasks.
    #[arg(value_name = "FILE", required_unless_present = "example")]
    pub tasks: Option<PathBuf>,
    /// Draw demand against supply into this file.
    #[arg(long, value_name = "FILE", conflicts_with = "example")]
    pub svg: Option<PathBuf>,
    /// Print a commented file that can be analysed as it is.
    #[arg(long, conflicts_with = "tasks")]
    pub example: bool,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The specification; `chronovisor spec --example` prints one.
    pub spec: PathBuf,
    /// Where and how to show it.
    #[command(flatten)]
    pub show: ShowArgs,
}

/// How a running guest is shown.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Write every record of the guest's tasks to this file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// Promise also what is finer than the noise measured on this host.
    #[arg(long)]
    pub force: bool,
}

/// What protects connections between hosts.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SecurityArgs {
    /// Folder with this host's certificate, its key and the authority's certificate (`chronovisor certificates` makes one).
    #[arg(long, value_name = "DIR")]
    pub certificates: Option<PathBuf>,
    /// Protect nothing: whoever is on the way reads and changes the guest's memory, and anybody may send a guest.
    #[arg(long)]
    pub plain: bool,
}

/// `receive`.
#[derive(Debug, Args)]
pub struct ReceiveArgs {
    /// Where to wait for them.
    #[arg(default_value = "0.0.0.0:7420", value_name = "ADDRESS:PORT")]
    pub address: std::net::SocketAddr,
    /// How.
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Take one guest, in this process, and end with it.
    #[arg(long)]
    pub once: bool,
    /// A fault, for experiments: the guest stands until so much time has passed since it was saved.
    #[arg(long, hide = true, value_name = "T")]
    pub stretch_pause: Option<Span>,
    /// Descriptors of the socket to wait at, and of a pipe that is closed when the next process may wait there.
    #[arg(long, hide = true, requires = "once", value_delimiter = ',')]
    pub inherited: Vec<i32>,
    /// Where and how to show it.
    #[command(flatten)]
    pub show: ShowArgs,
}

/// `migrate`.
#[derive(Debug, Args)]
#[command(
    override_usage = "chronovisor migrate [OPTIONS] <NAME> <HOST[:PORT]> --downtime <T> --finish <T> (--certificates <DIR> | --plain)\n       \
        chronovisor migrate <NAME> --cancel"
)]
pub struct MigrateArgs {
    /// The guest.
    pub name: String,
    /// Where to; port 7420 where none is written.
    #[arg(required_unless_present = "cancel", value_name = "HOST[:PORT]")]
    pub host: Option<String>,
    /// Give up the migration that is under way.
    #[arg(long, exclusive = false, conflicts_with_all = ["host", "downtime", "finish", "certificates", "plain"])]
    pub cancel: bool,
    /// Longest time for which the guest may stand still, such as 20ms.
    #[arg(long, required_unless_present = "cancel", value_name = "T")]
    pub downtime: Option<Span>,
    /// Longest time until it runs there, such as 10s.
    #[arg(long, required_unless_present = "cancel", value_name = "T")]
    pub finish: Option<Span>,
    /// Probability with which both are kept.
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub confidence: f64,
    /// Folder with this host's certificate, its key and the authority's certificate (`chronovisor certificates` makes one).
    #[arg(long, value_name = "DIR", required_unless_present_any = ["cancel", "plain"])]
    pub certificates: Option<PathBuf>,
    /// Protect nothing: whoever is on the way reads and changes the guest's memory.
    #[arg(long, conflicts_with = "certificates")]
    pub plain: bool,
    /// What the other host's certificate is for, where that is not how it is called here.
    #[arg(long, value_name = "NAME")]
    pub host_name: Option<String>,
    /// Where `chronovisor receive` answers on this host for sessions whose process is dead.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub desk: Option<String>,
    /// Connections that memory goes over.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub streams: u16,
    /// Compress pages, and send differences of those sent before.
    #[arg(long)]
    pub compress: bool,
    /// Only say what would be promised; the other host is not asked.
    #[arg(long)]
    pub predict: bool,
    /// Reserve nothing for the migration itself, send as fast as it goes, and say which deadlines may break instead of refusing.
    #[arg(long)]
    pub best_effort: bool,
    /// Send no faster than this.
    #[arg(long, value_name = "RATE")]
    pub rate: Option<BitRate>,
}

/// `adapt`.
#[derive(Debug, Args)]
pub struct AdaptArgs {
    /// The guest.
    pub name: String,
    /// Its vCPU.
    #[arg(long, default_value_t = 0, value_name = "I")]
    pub vcpu: usize,
    /// New runtime, such as 32ms.
    #[arg(long, value_name = "R")]
    pub runtime: Option<Span>,
    /// New period, such as 50ms.
    #[arg(long, value_name = "P")]
    pub period: Option<Span>,
    /// New deadline, counted from each period's beginning, such as 40ms; the period to have none before its end.
    #[arg(long, value_name = "D")]
    pub deadline: Option<Span>,
    /// Take what it needs more from this guest: both change, or none.
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// The vCPU of that guest.
    #[arg(long, default_value_t = 0, value_name = "I", requires = "from")]
    pub from_vcpu: usize,
    /// Promise also what is finer than the noise measured on this host.
    #[arg(long)]
    pub force: bool,
}

/// `host`.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Make one-CPU partitions, in which promises hold.
    Prepare {
        /// CPUs to make partitions of, such as 1 or 2,3.
        #[arg(long, value_delimiter = ',', required = true, value_parser = cpu)]
        cpus: Vec<u32>,
        /// Which partition is tried first for a vCPU: the first one, the one with least room (best) or with most (worst,
        /// unless chosen otherwise before). It may be chosen anew on a prepared host.
        #[arg(long)]
        fit: Option<Fit>,
    },
    /// Undo `prepare`.
    Restore,
    /// Tell how fit this host is for real time, and measure its noise.
    Check {
        /// Seconds to measure the noise of every CPU.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
    /// Measure what scheduling costs on this host and how fast it is, for `run`, `check` and `analyze`.
    Measure {
        /// The CPU to measure on, made a partition for the time being; the last one if not given.
        #[arg(long)]
        cpu: Option<u32>,
    },
}

/// `experiment`.
#[derive(Debug, Subcommand)]
pub enum ExperimentCommand {
    /// Response times on the host, in a guest, in a loaded guest, and in a reservation (Cucinotta, Anastasi, Abeni).
    CbsKvm(ExperimentArgs),
    /// The least budget without a miss, measured beside what theory predicts.
    Edge(ExperimentArgs),
    /// A reservation that follows a stepping need, beside fixed ones for its peak and its mean.
    Feedback(ExperimentArgs),
    /// Tasks on two vCPUs that share a spin lock: time spun away and uneven progress, with and without aligned budgets.
    LockHolder(ExperimentArgs),
    /// A guest with deadlines that moves between loaded hosts, with and without reservations: misses, pause, progress.
    MigrationRt(ExperimentArgs),
    /// Shares of a link under floods, many flows, spoofed addresses and broadcast storms; gold's round trips; changes.
    NetIsolation(ExperimentArgs),
    /// The share of random task sets that each test accepts and each policy schedules (RT-Xen). Runs nothing.
    Schedulability(SchedulabilityArgs),
    /// Video on demand: four streams and then a fifth, CPU and network adapted by what monitors see (Duran-Limon et al.).
    Vod(ExperimentArgs),
    /// What dispatching and adapting VTMs costs, beside the tables of Duran-Limon et al.
    VtmOverhead(ExperimentArgs),
    /// The same computation as a VTM, as a guest, as a plain process and under a quota, undisturbed and disturbed.
    VtmVsGuest(ExperimentArgs),
    /// Response times of a CPU-bound web service on the host, in a guest, loaded, and in a reservation (Cucinotta, Anastasi,
    /// Abeni).
    Web(ExperimentArgs),
    /// A process of an experiment.
    #[command(subcommand, hide = true)]
    Part(crate::experiment::part::PartCommand),
}

/// What every experiment takes.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    /// Shorter runs, for a first look and for tests.
    #[arg(long)]
    pub quick: bool,
    /// Folder for the report.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// The CPU to run on; the last one if not given.
    #[arg(long)]
    pub cpu: Option<u32>,
}

impl ExperimentArgs {
    /// The command that ran experiment `name` so; where its report went does not matter.
    pub fn command_line(&self, name: &str) -> String {
        let mut line = format!("chronovisor experiment {name}");
        if self.quick {
            line += " --quick";
        }
        if let Some(cpu) = self.cpu {
            line += &format!(" --cpu {cpu}");
        }
        line
    }
}

/// `experiment schedulability`.
#[derive(Debug, Args)]
pub struct SchedulabilityArgs {
    /// Fewer sets and utilisations, for a first look.
    #[arg(long)]
    pub quick: bool,
    /// Folder for the report.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Task sets for every utilisation [default: 300, or 30 with --quick].
    #[arg(long, value_name = "N", value_parser = sets)]
    pub sets: Option<usize>,
    /// The same seed draws the same sets.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// One of the CPUs in a list with commas.
fn cpu(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "give the numbers of CPUs with commas between, such as 1 or 2,3".to_owned())
}

/// A number of task sets.
fn sets(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=100_000) => Ok(count),
        _ => Err("give a number from 1 to 100000".to_owned()),
    }
}

/// `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Only these, by name.
    pub only: Vec<String>,
    /// Shorter runs.
    #[arg(long)]
    pub quick: bool,
    /// The CPU to run on; the last one if not given.
    #[arg(long)]
    pub cpu: Option<u32>,
}
