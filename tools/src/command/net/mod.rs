//! `net`: the network of this host, from a plan; and the agent of a router.

mod text;

use std::io::{stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use net::Network;
use net::network::{Adaptation, NetworkError, NetworkStatus};
use net::plan::{self, NetworkPlan, Role};
use net::share::Priority;
use serde::Serialize;
use units::BitRate;

use super::{Context, say};
use crate::failure::Failure;
use crate::written;

/// `net`.
#[derive(Debug, Subcommand)]
pub enum NetCommand {
    /// Say what `apply` would do, and whether it fits. Changes nothing.
    #[command(
        override_usage = "chronovisor net plan [OPTIONS] <FILE>\n       chronovisor net plan --example"
    )]
    Plan {
        /// The plan.
        #[arg(required_unless_present = "example")]
        file: Option<PathBuf>,
        /// Print a commented plan.
        #[arg(long, conflicts_with = "file")]
        example: bool,
    },
    /// Put a plan in force, here and on its routers: all of it, or nothing.
    Apply {
        /// The plan; `net plan --example` prints one.
        file: PathBuf,
    },
    /// Show every share: what it was promised, what it carried, what was lost.
    Status {
        /// Look twice, so many seconds apart, and show the rates between.
        #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: Option<u64>,
    },
    /// Change the shares of one or several VMs and VTMs: all of them, or none.
    Adapt(AdaptArgs),
    /// Remove everything that was applied, here and on routers, and nothing else.
    Clear {
        /// Remove what this plan made, where the run directory knows nothing of it any more.
        #[arg(long, value_name = "FILE")]
        lost: Option<PathBuf>,
    },
    /// Take requests of another host on standard input, and answer on standard output: for routers, over ssh.
    Agent,
}

/// `net adapt`.
#[derive(Debug, Args)]
pub struct AdaptArgs {
    /// For each VM or VTM its name and what it is to be assured, such as `gold 7Mbit/s rest 3Mbit/s`.
    #[arg(
        required = true,
        num_args = 2..,
        value_names = ["NAME", "RATE"]
    )]
    changes: Vec<String>,
    /// The most it may have, where one is named [default: as before].
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    ceil: Option<BitRate>,
    /// Whether it takes spare bandwidth first, where one is named: gold or best-effort [default: as before].
    #[arg(long)]
    priority: Option<Priority>,
}

/// One of the `net` commands.
pub fn net(context: &Context, command: NetCommand) -> Result<u8, Failure> {
    match command {
        NetCommand::Plan { file: None, .. } => say(plan::EXAMPLE)?,
        NetCommand::Plan {
            file: Some(file), ..
        } => show_plan(context, &read(&file)?)?,
        NetCommand::Apply { file } => apply(context, &file)?,
        NetCommand::Status { seconds } => status(context, seconds)?,
        NetCommand::Adapt(args) => adapt(context, &args)?,
        NetCommand::Clear { lost } => clear(context, lost.as_deref())?,
        NetCommand::Agent => net::agent::serve(&context.run_dir, stdin().lock(), stdout().lock())?,
    }
    Ok(0)
}

/// An error of the network; one that is a refusal as such.
pub fn failure(error: NetworkError) -> Failure {
    let refused = error.is_refusal();
    let failure = Failure::from(error);
    if refused { failure.refused() } else { failure }
}

/// Reads and checks a plan; errors name the file.
fn read(file: &Path) -> Result<NetworkPlan, Failure> {
    written::read(file, |text| {
        NetworkPlan::parse(text).map_err(|error| failure(error.into()))
    })
}

/// A link, and what is left of it beside the plan's shares.
#[derive(Serialize)]
pub struct Room {
    what: &'static str,
    name: String,
    capacity: BitRate,
    headroom: BitRate,
    fixed: BitRate,
    left: BitRate,
}

#[derive(Serialize)]
struct Planned<'a> {
    links: Vec<Room>,
    plan: &'a NetworkPlan,
}

fn show_plan(context: &Context, plan: &NetworkPlan) -> Result<(), Failure> {
    Network::would_apply(&context.run_dir, plan).map_err(failure)?;
    let planned = Planned {
        links: rooms(plan),
        plan,
    };
    context.print(&planned, |planned| text::plan(planned.plan, &planned.links))
}

fn rooms(plan: &NetworkPlan) -> Vec<Room> {
    let room = |what, name: String, link: net::admission::Link, left| Room {
        what,
        name,
        capacity: link.capacity,
        headroom: link.headroom,
        fixed: link.fixed,
        left,
    };
    let mut rooms = Vec::new();
    if let Some(bridge) = &plan.bridge {
        let left = bridge.link().promisable();
        rooms.push(room("bridge", bridge.name.clone(), bridge.link(), left));
    }
    if let Some(uplink) = &plan.uplink {
        let left = uplink.link().left(plan.shares.iter().map(|one| &one.share));
        let name = uplink.interfaces.join(", ");
        rooms.push(room("uplink", name, uplink.link(), left));
    }
    for router in &plan.routers {
        if let Role::Core(core) = &router.role {
            let routed = plan.shares.iter().filter(|one| one.is_known_to_routers());
            let left = core.link().left(routed.map(|one| &one.share));
            rooms.push(room("router", router.name.clone(), core.link(), left));
        }
    }
    rooms
}

fn apply(context: &Context, file: &Path) -> Result<(), Failure> {
    let plan = read(file)?;
    Network::apply(&context.run_dir, &plan).map_err(failure)?;
    let planned = Planned {
        links: rooms(&plan),
        plan: &plan,
    };
    context.print(&planned, |_| {
        "applied; `chronovisor net status` shows it, `chronovisor net clear` undoes it".to_owned()
    })
}

fn status(context: &Context, seconds: Option<u64>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Looked {
        #[serde(flatten)]
        status: NetworkStatus,
        /// What was seen first, and how long before.
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<NetworkStatus>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    }
    let network = Network::open(&context.run_dir).map_err(failure)?;
    let first = network.status().map_err(failure)?;
    let begun = std::time::Instant::now();
    let looked = match seconds {
        None => Looked {
            status: first,
            before: None,
            seconds: None,
        },
        Some(seconds) => {
            std::thread::sleep(Duration::from_secs(seconds));
            Looked {
                status: network.status().map_err(failure)?,
                before: Some(first),
                seconds: Some(begun.elapsed().as_secs_f64()),
            }
        }
    };
    context.print(&looked, |looked| {
        let before = looked.before.as_ref().zip(looked.seconds);
        text::status(&looked.status, before)
    })
}

fn adapt(context: &Context, args: &AdaptArgs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Adapted<'a> {
        name: &'a str,
        share: &'a net::share::Share,
    }
    let rates = rates(&args.changes)?;
    let network = Network::open(&context.run_dir).map_err(failure)?;
    let wanted = match (rates.as_slice(), args.ceil, args.priority) {
        (_, None, None) => network.adapt_assured(&rates).map_err(failure)?,
        ([(name, assured)], ceil, priority) => {
            let change = Adaptation {
                ceil,
                priority,
                ..Adaptation::assured(name, *assured)
            };
            network.adapt_each(&[change]).map_err(failure)?
        }
        _ => {
            let what = "--ceil and --priority are for one name: change one after another";
            return Err(Failure::new(what).with_status(2));
        }
    };
    let adapted = wanted.iter().map(|one| Adapted {
        name: &one.name,
        share: &one.share,
    });
    context.print(&adapted.collect::<Vec<_>>(), |adapted| {
        let lines = adapted.iter();
        let lines = lines.map(|one| format!("{}: {}\n", one.name, one.share));
        lines.collect()
    })
}

fn rates(words: &[String]) -> Result<Vec<(String, BitRate)>, Failure> {
    let wrong = |reason: String| Failure::new(reason).with_status(2);
    let (pairs, rest) = words.as_chunks();
    if let Some(name) = rest.first() {
        return Err(wrong(format!(
            "`{name}` lacks a rate: write for every VM or VTM its name, and what it is to be assured"
        )));
    }
    let rate = |[name, rate]: &[String; 2]| {
        let rate = rate
            .parse()
            .map_err(|e: units::UnitError| wrong(e.to_string()))?;
        Ok((name.clone(), rate))
    };
    pairs.iter().map(rate).collect()
}

fn clear(context: &Context, lost: Option<&Path>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Cleared {
        cleared: bool,
    }
    let cleared = match lost {
        Some(file) => {
            let plan = read(file)?;
            Network::clear_lost(&context.run_dir, &plan).map_err(failure)?;
            true
        }
        None => Network::clear(&context.run_dir).map_err(failure)?,
    };
    context.print(&Cleared { cleared }, |cleared| {
        let done = if cleared.cleared {
            "cleared"
        } else {
            "nothing to clear"
        };
        done.to_owned()
    })
}
