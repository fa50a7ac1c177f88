//! The commands: one file each, or one for those that belong together.

mod adapt;
mod analyze;
mod bench;
mod certificates;
mod check;
mod control;
mod demo;
pub mod dirty;
mod experiment;
mod host;
mod migrate;
pub mod net;
mod plan;
mod receive;
pub mod run;
mod signals;
mod simulate;
mod tree;
pub mod vtm;
mod watch;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

/// What every command needs.
#[derive(Clone)]
pub struct Context {
    /// Folder for sockets and ledger.
    pub run_dir: PathBuf,
    /// Whether machines read the output.
    pub json: bool,
}

impl Context {
    /// Prints `value` for machines, or what `text` makes of it for people.
    pub fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            return say(&serde_json::to_string_pretty(value)?);
        }
        let text = text(value);
        if text.is_empty() {
            return Ok(());
        }
        say(&text)
    }
}

/// Prints text and a newline on standard output. A reader that wants no more of it is no failure.
fn say(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Does what the command line says; the exit status of the process.
pub fn execute(cli: Cli) -> Result<u8, Failure> {
    let context = Context {
        run_dir: cli.run_dir.unwrap_or_else(chronovisor::default_run_dir),
        json: cli.json,
    };
    match cli.command {
        Command::Run(args) => run::run(&context, &args),
        Command::Check { spec } => check::check(&context, &spec),
        Command::Analyze(args) => analyze::analyze(&context, &args),
        Command::Ls => control::ls(&context),
        Command::Tree => tree::tree(&context),
        Command::Status { name } => control::status(&context, &name),
        Command::Pause { name } => control::pause(&context, &name),
        Command::Resume { name } => control::resume(&context, &name),
        Command::Stop { name } => control::stop(&context, &name),
        Command::Save { name, folder } => control::save(&context, &name, &folder),
        Command::Restore { spec, folder, show } => run::restore(&context, &spec, &folder, &show),
        Command::Adapt(args) => adapt::adapt(&context, &args),
        Command::Watch { rules, .. } => watch::watch(&context, rules.as_deref()),
        Command::Migrate(args) => migrate::migrate(&context, &args),
        Command::Receive(args) => receive::receive(&context, &args),
        Command::Certificates { dir, hosts } => certificates::certificates(&context, &dir, &hosts),
        Command::Dirty(command) => dirty::dirty(&context, &command),
        Command::Host(command) => host::host(&context, command),
        Command::Net(command) => net::net(&context, command),
        Command::Demo { seconds } => demo::demo(&context, seconds),
        Command::Experiment(command) => experiment::experiment(&context, command),
        Command::Vtm(args) => vtm::vtm(&context, args),
        Command::Simulate { spec, gantt } => simulate::simulate(&context, &spec, gantt.as_deref()),
        Command::Bench(args) => bench::bench(&context, &args),
        Command::Spec { .. } => {
            say(vmm::spec::EXAMPLE)?;
            Ok(0)
        }
    }
}
