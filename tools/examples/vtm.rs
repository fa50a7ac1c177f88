//! A program that watches its VTMs and moves CPU time between them:
//! `cargo run -p chronovisor --example vtm -- TO FROM`, beside `chronovisor vtm serve --cpu N`.
//!
//! Whenever TO has used nearly all it was given since the last look, it gets a slot of each period out of what FROM has. That
//! FROM can spare it is for the admission test to say.

use std::error::Error;
use std::time::Duration;

use chronovisor::vtm::{Amount, Client, ClientError, Command, Reply, Share};
use sched::vtm::{Need, Status, VtmStatus};

const LOOK: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(to), Some(from)) = (arguments.next(), arguments.next()) else {
        return Err("say which VTM gets what which other gives".into());
    };
    let client = Client::find(&chronovisor::default_run_dir(), None)?;
    let mut before = status(&client)?;
    loop {
        std::thread::sleep(LOOK);
        let now = status(&client)?;
        let (old, new) = (vtm(&before, &to)?, vtm(&now, &to)?);
        let used = new.cpu_time.saturating_sub(old.cpu_time);
        let had = new.supplied.saturating_sub(old.supplied);
        if used > had.mul_f64(0.95) {
            let changes = vec![
                changed(new, now.slot, true)?,
                changed(vtm(&now, &from)?, now.slot, false)?,
            ];
            match client.call(&Command::Adapt { changes }) {
                Ok(_) => println!(
                    "{to} used {used:?} of {had:?}: it has a slot more, and {from} one less"
                ),
                Err(ClientError::Refused(reason)) => println!("{to} cannot have more: {reason}"),
                Err(error) => return Err(error.into()),
            }
        }
        before = now;
    }
}

fn status(client: &Client) -> Result<Status, Box<dyn Error>> {
    match client.call(&Command::Status {})? {
        Reply::Status(status) => Ok(*status),
        other => Err(format!("an answer to another question: {other:?}").into()),
    }
}

fn vtm<'a>(status: &'a Status, name: &str) -> Result<&'a VtmStatus, String> {
    let found = status.vtms.iter().find(|vtm| vtm.name == name);
    found.ok_or_else(|| format!("no VTM is called '{name}'"))
}

/// The share of a VTM with a slot more or less of each period.
fn changed(vtm: &VtmStatus, slot: Duration, more: bool) -> Result<Share, String> {
    let promise = vtm
        .promise
        .ok_or_else(|| format!("'{}' has no share", vtm.name))?;
    let execution = if more {
        promise.execution + slot
    } else {
        promise.execution.saturating_sub(slot)
    };
    Ok(Share {
        vtm: vtm.name.clone(),
        need: Amount(Need::Time(execution)),
        period: promise.period.into(),
        max_delay: None,
    })
}
