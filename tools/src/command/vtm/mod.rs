//! `vtm`: virtual task machines by shell, by script, and as a service.

mod completion;
mod lines;
mod owner;
mod script;
mod shell;
mod text;
mod words;

use std::io::IsTerminal;
use std::time::Duration;

use chronovisor::vtm::{Client, ClientError, Command, VtmMachine};
use clap::{Args, Subcommand, ValueEnum};
use nix::sys::signal::{SigSet, Signal};
use sched::ledger::Ledger;
use sched::partition::Partition;
use sched::vtm::{Placement, Policy, Rule, Suspend, VtmConfig, VtmScheduler};
use vmm::units::Span;

use super::Context;
use crate::failure::Failure;
use words::Word;

/// `vtm`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct VtmArgs {
    /// The CPU to share; behind a command (`vtm status --cpu 1`), whose service is asked, where there are several.
    #[arg(long, global = true)]
    cpu: Option<u32>,
    #[command(flatten)]
    table: TableArgs,
    #[command(subcommand)]
    command: Option<VtmCommand>,
}

/// How a CPU is shared.
#[derive(Debug, Args)]
struct TableArgs {
    /// Length of a slot; periods and execution times are multiples of it.
    #[arg(long, default_value = "10ms")]
    slot: Span,
    /// Which VTM comes before another: the one with the shorter period, or with the nearer deadline.
    #[arg(long, value_enum, default_value_t = PolicyName::Rm)]
    policy: PolicyName,
    /// Where VTMs lie in their periods.
    #[arg(long, value_enum, default_value_t = PlacementName::HighestSoon)]
    placement: PlacementName,
    /// How processes are stopped.
    #[arg(long, value_enum, default_value_t = SuspendName::Auto)]
    suspend: SuspendName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyName {
    /// Rate monotonic.
    Rm,
    /// Earliest deadline first.
    Edf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlacementName {
    /// The VTM of the highest priority as soon as possible, all others as late as their deadlines allow.
    HighestSoon,
    /// All as soon as possible.
    AllSoon,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SuspendName {
    /// By signals while a job is one process, by a freezer from when it forks.
    Auto,
    /// SIGSTOP and SIGCONT; a child whose parent ended early escapes.
    Signals,
    /// A control group for each job; no child escapes.
    Freezer,
}

#[derive(Debug, Subcommand)]
enum VtmCommand {
    /// Take commands from other programs at a socket in the run directory, until `quit` or a signal.
    Serve {
        #[command(flatten)]
        table: TableArgs,
    },
    #[command(flatten)]
    Word(Word),
}

/// `vtm`.
pub fn vtm(context: &Context, args: VtmArgs) -> Result<u8, Failure> {
    match args.command {
        None if std::io::stdin().is_terminal() => {
            shell::run(context, || machine(context, args.cpu, &args.table))
        }
        None => script::run(context, machine(context, args.cpu, &args.table)?),
        Some(VtmCommand::Serve { table }) => {
            let cpu = which(args.cpu)?;
            owner::serve(context, cpu, || machine(context, Some(cpu), &table))
        }
        Some(VtmCommand::Word(word)) => once(context, args.cpu, word.command()?),
    }
}

/// One command to a service.
fn once(context: &Context, cpu: Option<u32>, command: Command) -> Result<u8, Failure> {
    let client = Client::find(&context.run_dir, cpu)?;
    let reply = client.call(&command).map_err(|error| match error {
        ClientError::Refused(_) => Failure::from(error).refused(),
        other => other.into(),
    })?;
    context.print(&reply, text::reply)?;
    Ok(0)
}

fn which(cpu: Option<u32>) -> Result<u32, Failure> {
    cpu.ok_or_else(|| Failure::new("which CPU is to be shared? Say it with --cpu N").with_status(2))
}

/// A scheduler without VTMs. On a CPU that belongs to virtual machines the ledger keeps them away.
fn machine(context: &Context, cpu: Option<u32>, args: &TableArgs) -> Result<VtmMachine, Failure> {
    let cpu = which(cpu)?;
    // A dispatcher that Ctrl-Z stops would leave jobs stopped. Commands are started without these blocked.
    let mut job_control = SigSet::empty();
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        job_control.add(signal);
    }
    job_control.thread_block()?;
    let slot = args.slot.duration();
    if slot == Duration::ZERO {
        return Err(Failure::new("the slot is zero: use for example --slot 10ms").with_status(2));
    }
    let ledger = Partition::of(cpu).map(|_| Ledger::open(&context.run_dir));
    let config = VtmConfig {
        slot,
        rule: Rule {
            policy: match args.policy {
                PolicyName::Rm => Policy::RateMonotonic,
                PolicyName::Edf => Policy::EarliestDeadlineFirst,
            },
            placement: match args.placement {
                PlacementName::HighestSoon => Placement::HighestAsSoonOthersAsLate,
                PlacementName::AllSoon => Placement::AllAsSoon,
            },
        },
        suspend: match args.suspend {
            SuspendName::Auto => Suspend::Auto,
            SuspendName::Signals => Suspend::Signals,
            SuspendName::Freezer => Suspend::Freezer,
        },
        ledger: ledger.transpose()?,
        ..VtmConfig::on(cpu)
    };
    let machine = VtmMachine::new(VtmScheduler::new(config)?);
    Ok(machine.with_network(&context.run_dir))
}
