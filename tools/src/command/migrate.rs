//! `migrate`: has a guest's own process move it, and says what came of it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use vmm::control::{ControlError, Reply, Request, client};
use vmm::moving::{
    Measured, MigrationOutcome, MigrationRequest, MigrationStatus, PORT, Phase, RoundStatus,
    SwitchOverStatus,
};
use vmm::units::ByteSize;

use super::Context;
use super::signals::Signals;
use crate::cli::MigrateArgs;
use crate::failure::Failure;
use crate::host_figures::HostCosts;

/// How often it is asked how it goes.
const POLL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Answer {
    name: String,
    to: String,
    outcome: MigrationOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promise: Option<Value>,
    #[serde(skip)]
    said: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    switch_over: Option<SwitchOverStatus>,
    rounds: Vec<RoundStatus>,
}

/// Moves a guest, or cancels that.
pub fn migrate(context: &Context, args: &MigrateArgs) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if args.cancel {
            return cancel(context, &args.name).await;
        }
        let status = moved(context, args).await?;
        answer(context, status)
    })
}

async fn cancel(context: &Context, name: &str) -> Result<u8, Failure> {
    client::call(&context.run_dir, name, Request::CancelMigration {}).await?;
    Ok(0)
}

fn request(context: &Context, args: &MigrateArgs) -> Result<MigrationRequest, Failure> {
    let (Some(host), Some(downtime), Some(finish)) = (&args.host, args.downtime, args.finish)
    else {
        return Err(Failure::new("name a host, a downtime and a finish"));
    };
    let certificates = args.certificates.as_deref().map(std::path::absolute);
    Ok(MigrationRequest {
        to: with_port(host),
        host_name: args.host_name.clone(),
        certificates: certificates.transpose()?,
        downtime: downtime.duration(),
        finish: finish.duration(),
        confidence: args.confidence,
        streams: args.streams,
        compress: args.compress,
        rate: args.rate,
        desk: args.desk.clone(),
        predict: args.predict,
        best_effort: args.best_effort,
        basis: HostCosts::of(&context.run_dir).for_moving(),
    })
}

/// A host with its port: an IPv6 address alone has colons, too.
fn with_port(host: &str) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{host}]:{PORT}");
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match has_port {
        true => host.to_owned(),
        false => format!("{host}:{PORT}"),
    }
}

/// Has it moved, and follows that to its end. A signal gives it up.
async fn moved(context: &Context, args: &MigrateArgs) -> Result<MigrationStatus, Failure> {
    let ask = |request| client::call(&context.run_dir, &args.name, request);
    let mut signals = Signals::catch()?;
    ask(Request::Migrate(request(context, args)?)).await?;
    let mut progress = Progress::new(context.json);
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = signals.next() => drop(ask(Request::CancelMigration {}).await?),
        }
        match ask(Request::Migration {}).await {
            Ok(Reply::Migration(status)) if status.phase == Phase::Over => {
                progress.end();
                return Ok(*status);
            }
            Ok(Reply::Migration(status)) => progress.show(&status),
            Ok(_) => return Err(Failure::new("the guest gave an answer to another question")),
            Err(ControlError::NoGuest { .. } | ControlError::Talk { .. }) => {
                progress.end();
                return Err(Failure::new(format!(
                    "{} ended while it was being moved",
                    args.name
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn answer(context: &Context, status: MigrationStatus) -> Result<u8, Failure> {
    let outcome = status.outcome.unwrap_or(MigrationOutcome::Stayed);
    let answer = Answer {
        name: status.name,
        to: status.to,
        outcome,
        reason: status.reason,
        nearest: status.nearest,
        promise: status.promise,
        said: status.said,
        measured: status.measured,
        switch_over: status.switch_over,
        rounds: status.rounds,
    };
    let failure = failure(&answer);
    if context.json || failure.is_none() {
        context.print(&answer, text)?;
    }
    match failure {
        None => Ok(0),
        Some(failure) => Err(failure),
    }
}

/// Why the guest is not there, if it is not.
fn failure(answer: &Answer) -> Option<Failure> {
    let Answer { name, to, .. } = answer;
    let reason = answer.reason.as_deref().unwrap_or("no reason is known");
    match answer.outcome {
        MigrationOutcome::Moved | MigrationOutcome::Predicted => None,
        MigrationOutcome::Stayed => Some(Failure::new(format!(
            "{name} was not moved to {to} and goes on here: {reason}"
        ))),
        MigrationOutcome::Refused => {
            let said = answer.said.as_deref().unwrap_or(reason);
            Some(Failure::new(format!("{name} is not moved to {to}: {said}")).refused())
        }
    }
}

fn text(answer: &Answer) -> String {
    if answer.outcome == MigrationOutcome::Predicted {
        return answer.said.clone().unwrap_or_default();
    }
    let mut text = format!("{} runs at {}\n", answer.name, answer.to);
    if let Some(measured) = &answer.measured {
        let _ = writeln!(
            text,
            "  {:.3} s in all, {:.2} ms of downtime; {} pages, {} in {} rounds",
            measured.total_s,
            measured.downtime_s * 1e3,
            measured.pages,
            size(measured.bytes),
            measured.rounds
        );
    }
    text
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", ByteSize::new(bytes).bytes() >> 20),
    }
}

/// One line on standard error that says how far it is, where somebody looks.
struct Progress {
    is_shown: bool,
    /// What has been promised, once that was said.
    said: Option<String>,
    json: bool,
}

impl Progress {
    fn new(json: bool) -> Self {
        Self {
            is_shown: !json && std::io::stderr().is_terminal(),
            said: None,
            json,
        }
    }

    fn show(&mut self, status: &MigrationStatus) {
        if !self.json && status.said.is_some() && status.said != self.said {
            self.said.clone_from(&status.said);
            self.end();
            eprintln!("{}", status.said.as_deref().unwrap_or_default());
        }
        if self.is_shown {
            // Nobody looks any more.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(status));
        }
    }

    fn end(&mut self) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(status: &MigrationStatus) -> String {
    match (status.phase, &status.round) {
        (Phase::Watching, _) => format!("{}: watching what it writes", status.name),
        (Phase::Offering, _) => format!("{}: asking {}", status.name, status.to),
        (Phase::Copying, Some(round)) => format!(
            "{}: round {}, {} of {} pages, {:.0} Mbit/s",
            status.name,
            status.rounds.len() + 1,
            round.pages,
            status.of_pages,
            bits_per_second(round) / 1e6
        ),
        (Phase::Copying, None) => {
            format!("{}: {} rounds sent", status.name, status.rounds.len())
        }
        (Phase::Switching, _) => format!("{}: switching over", status.name),
        (Phase::Over, _) => String::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate to show")]
fn bits_per_second(round: &RoundStatus) -> f64 {
    round.bytes as f64 * 8.0 / round.seconds.max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_port_gets_ours() {
        for (written, meant) in [
            ("b", "b:7420"),
            ("b.example:99", "b.example:99"),
            ("10.0.0.2", "10.0.0.2:7420"),
            ("fe80::1", "[fe80::1]:7420"),
            ("[fe80::1]:99", "[fe80::1]:99"),
        ] {
            assert_eq!(with_port(written), meant);
        }
    }
}
