//! `chronovisor`: launches real-time guests inside CPU reservations, controls them, and measures what they got.
//!
//! This crate parses, calls and prints. What it calls lives in `vmm` and `sched`.

mod bench;
mod cli;
mod command;
mod console;
mod experiment;
mod failure;
mod host_figures;
mod report;
mod traffic;
mod warnings;
mod written;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    warnings::show();
    match command::execute(cli) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.status())
        }
    }
}
