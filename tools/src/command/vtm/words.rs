//! The words in which commands are given: the same in the shell, in scripts and on the command line.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use chronovisor::vtm::{Amount, Bandwidth, Command, NetworkShare, Share};
use clap::{Args, Subcommand};
use net::share::Priority;
use sched::vtm::JobSource;
use vmm::units::{BitRate, Span};

use crate::failure::Failure;

/// A command.
#[derive(Debug, Subcommand)]
pub enum Word {
    /// Make a VTM, without a share and without jobs.
    Create {
        /// Its name.
        vtm: String,
        /// How long a job runs before the next one has its turn [default: 10ms].
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        quantum: Option<Span>,
        /// How many jobs run at once [default: 1].
        #[arg(long, value_name = "N", allow_hyphen_values = true)]
        active: Option<NonZeroUsize>,
    },
    /// Reserve a share of the CPU for a VTM: an execution time or a percentage, of every period.
    #[command(visible_alias = "cpu_reservation")]
    Reserve {
        /// The VTM.
        vtm: String,
        /// Execution time such as 16ms, or share such as 40%.
        #[arg(value_name = "TIME|%", allow_hyphen_values = true)]
        need: Amount,
        /// Period such as 40ms.
        #[arg(allow_hyphen_values = true)]
        period: Span,
        /// Latest start of its first slot in every period.
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        max_delay: Option<Span>,
    },
    /// Change the shares of one or several VTMs: all of them, or none.
    #[command(visible_alias = "cpu_adapt")]
    Adapt {
        /// For each VTM its name, execution time or share, and period.
        #[arg(
            required = true,
            num_args = 3..,
            value_names = ["VTM", "TIME|%", "PERIOD"],
            allow_hyphen_values = true
        )]
        changes: Vec<String>,
    },
    /// Make a job of a process, a process group or a command; its children belong to it.
    ///
    /// A command is started by whoever has the VTMs: a service starts it as its own user. It runs on when it is let go.
    #[command(visible_alias = "add_resource")]
    Add(AddArgs),
    /// Let go of a job as it was found.
    #[command(visible_aliases = ["remove", "remove_resource"])]
    Rm {
        /// The VTM.
        vtm: String,
        /// Its job.
        job: String,
    },
    /// Give a VTM, or one of its jobs, no CPU until it is resumed; its share stays.
    Suspend {
        /// The VTM.
        vtm: String,
        /// Only this job of it.
        job: Option<String>,
    },
    /// Give it the CPU again.
    Resume {
        /// The VTM.
        vtm: String,
        /// Only this job of it.
        job: Option<String>,
    },
    /// Begin to dispatch by the table.
    Schedule,
    /// Show shares, jobs, and how dispatching goes.
    Status,
    /// Draw the dispatch table.
    Table,
    /// Shares of the network.
    #[command(subcommand)]
    Network(Network),
    /// As `network reserve`.
    #[command(name = "network_reserve", hide = true)]
    NetworkReserve(ReserveArgs),
    /// As `network adapt`.
    #[command(name = "network_adapt", hide = true)]
    NetworkAdapt(AdaptArgs),
    /// Let go of all jobs of a VTM, and forget it.
    Release {
        /// The VTM.
        vtm: String,
    },
    /// Release everything, and end.
    #[command(visible_alias = "exit")]
    Quit,
}

/// `add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The VTM.
    vtm: String,
    /// A process.
    #[arg(
        allow_hyphen_values = true,
        required_unless_present_any = ["group", "command"],
        conflicts_with_all = ["group", "command"]
    )]
    pid: Option<i32>,
    /// A process group.
    #[arg(long, value_name = "PGID", conflicts_with = "command")]
    group: Option<i32>,
    /// A command to start.
    #[arg(last = true)]
    command: Vec<String>,
}

/// `network`.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Reserve a share of the network for a VTM.
    Reserve(ReserveArgs),
    /// Change the shares of one or several VTMs: all of them, or none.
    Adapt(AdaptArgs),
}

/// `network reserve`.
#[derive(Debug, Args)]
pub struct ReserveArgs {
    /// The VTM.
    vtm: String,
    /// Its share, such as 6Mbit/s.
    #[arg(allow_hyphen_values = true)]
    bandwidth: BitRate,
    /// The hosts that its packets go to.
    #[arg(conflicts_with_all = ["uid", "cgroup"], value_parser = net::plan::host)]
    targets: Vec<IpAddr>,
    /// The most it may have [default: all of the link].
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    ceil: Option<BitRate>,
    /// Whether it takes spare bandwidth first: gold or best-effort.
    #[arg(long, default_value_t = Priority::BestEffort)]
    priority: Priority,
    /// Instead of hosts: the user whose packets they are.
    #[arg(long, value_name = "ID", conflicts_with = "cgroup")]
    uid: Option<u32>,
    /// Instead of hosts: the control group (version 2) whose packets they are.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
}

/// `network adapt`.
#[derive(Debug, Args)]
pub struct AdaptArgs {
    /// For each VTM its name and share.
    #[arg(
        required = true,
        num_args = 2..,
        value_names = ["VTM", "BANDWIDTH"],
        allow_hyphen_values = true
    )]
    changes: Vec<String>,
}

impl Word {
    /// What the words ask for.
    pub fn command(self) -> Result<Command, Failure> {
        Ok(match self {
            Self::Create {
                vtm,
                quantum,
                active,
            } => Command::Create {
                vtm,
                quantum,
                active,
            },
            Self::Reserve {
                vtm,
                need,
                period,
                max_delay,
            } => Command::Reserve(Share {
                vtm,
                need,
                period,
                max_delay,
            }),
            Self::Adapt { changes } => Command::Adapt {
                changes: shares(&changes)?,
            },
            Self::Add(args) => args.command(),
            Self::Rm { vtm, job } => Command::Remove { vtm, job },
            Self::Suspend { vtm, job } => Command::Suspend { vtm, job },
            Self::Resume { vtm, job } => Command::Resume { vtm, job },
            Self::Schedule => Command::Schedule {},
            Self::Status => Command::Status {},
            Self::Table => Command::Table {},
            Self::Network(Network::Reserve(args)) | Self::NetworkReserve(args) => {
                Command::NetworkReserve(NetworkShare {
                    vtm: args.vtm,
                    bandwidth: args.bandwidth,
                    ceil: args.ceil,
                    priority: args.priority,
                    targets: args.targets,
                    uid: args.uid,
                    cgroup: args.cgroup,
                })
            }
            Self::Network(Network::Adapt(args)) | Self::NetworkAdapt(args) => {
                Command::NetworkAdapt {
                    changes: bandwidths(&args.changes)?,
                }
            }
            Self::Release { vtm } => Command::Release { vtm },
            Self::Quit => Command::Quit {},
        })
    }
}

impl AddArgs {
    fn command(self) -> Command {
        let source = match (self.pid, self.group) {
            (Some(pid), _) => JobSource::Process(pid),
            (None, Some(pgid)) => JobSource::Group(pgid),
            (None, None) => JobSource::Command(self.command),
        };
        Command::Add {
            vtm: self.vtm,
            source,
        }
    }
}

fn shares(words: &[String]) -> Result<Vec<Share>, Failure> {
    let (changes, rest) = words.as_chunks();
    whole(rest, "its execution time or share, and its period")?;
    let share = |[vtm, need, period]: &[String; 3]| {
        Ok(Share {
            vtm: vtm.clone(),
            need: need.parse().map_err(wrong)?,
            period: period.parse().map_err(wrong)?,
            max_delay: None,
        })
    };
    changes.iter().map(share).collect()
}

fn bandwidths(words: &[String]) -> Result<Vec<Bandwidth>, Failure> {
    let (changes, rest) = words.as_chunks();
    whole(rest, "its share")?;
    let share = |[vtm, bandwidth]: &[String; 2]| {
        Ok(Bandwidth {
            vtm: vtm.clone(),
            bandwidth: bandwidth.parse().map_err(wrong)?,
        })
    };
    changes.iter().map(share).collect()
}

/// That every VTM has all its words.
fn whole(rest: &[String], what: &str) -> Result<(), Failure> {
    rest.first().map_or(Ok(()), |vtm| {
        Err(wrong(format!(
            "`{vtm}` lacks a word: write for every VTM its name, {what}"
        )))
    })
}

fn wrong(reason: impl ToString) -> Failure {
    Failure::new(reason.to_string()).with_status(2)
}
