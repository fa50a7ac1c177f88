//! `host`: prepares this machine for promises, undoes that, and tells how fit it is.

use serde::Serialize;

use super::Context;
use crate::cli::HostCommand;
use crate::failure::Failure;

#[derive(Serialize)]
struct Prepared {
    cpus: Vec<u32>,
}

#[derive(Serialize)]
struct Restored {
    restored: bool,
}

/// One of the `host` commands.
pub fn host(context: &Context, command: HostCommand) -> Result<u8, Failure> {
    match command {
        HostCommand::Prepare { cpus } => {
            let partitions = sched::prepare::prepare(&context.run_dir, &cpus)?;
            let cpus = partitions.iter().map(|partition| partition.cpu).collect();
            context.print(&Prepared { cpus }, |prepared| {
                format!(
                    "prepared: one-CPU partitions {:?}; `chronovisor host restore` undoes it",
                    prepared.cpus
                )
            })?;
        }
        HostCommand::Restore => {
            let restored = sched::prepare::restore(&context.run_dir)?;
            context.print(&Restored { restored }, |restored| {
                if restored.restored {
                    "restored"
                } else {
                    "nothing to restore"
                }
                .to_owned()
            })?;
        }
        HostCommand::Check { .. } => return Err(Failure::new("soon")),
    }
    Ok(0)
}
