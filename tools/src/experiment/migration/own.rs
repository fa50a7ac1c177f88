//! This program: `run`, `receive` and `migrate` as a user would start them, one host's in its namespace and run directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use vmm::units::BitRate;

use super::case::{Case, DOWNTIME, Guest, Link, MEMORY, Mover, RESERVATION};
use super::hosts::{Host, Hosts};
use super::qemu::Setting;
use super::run::{End, Pair, Promise, Told};
use crate::experiment::ExperimentError;
use crate::experiment::guest::path;
use crate::experiment::process::Part;
use crate::experiment::stage::Stage;

/// Where the destination listens.
const PORT: u16 = 7420;
const NAME: &str = "guest";
/// What the command may take beside the migration: it looks at the guest first.
const SLACK: Duration = Duration::from_secs(8);
/// A command that makes certificates is done by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a link's capacity is paced to, in hundredths: the rest is headers.
const PAYLOAD: u64 = 94;
/// Where certificates are, in the stage's folder.
const CERTIFICATES: &str = "certificates";

/// A guest of this program, and a process that waits for it.
pub struct OwnPair<'a> {
    source: Part,
    destination: Part,
    hosts: &'a Hosts,
    folder: &'a Path,
    mover: Mover,
    link: Link,
    serial: PathBuf,
}

/// Makes certificates for both hosts.
pub fn certify(stage: &Stage, hosts: &Hosts) -> Result<(), ExperimentError> {
    let mut words: Vec<String> = ["--run-dir", &path(&stage.folder), "certificates"]
        .map(str::to_owned)
        .to_vec();
    words.push(path(&stage.folder.join(CERTIFICATES)));
    words.extend([&hosts.source, &hosts.destination].map(|host| host.address.to_string()));
    let part = Part::spawn("certificates", &stage.folder, &words)?;
    part.finish(PATIENCE, || {}).map(drop)
}

impl<'a> OwnPair<'a> {
    /// Starts the guest, and who waits for it.
    pub fn start(
        setting: &Setting<'a>,
        case: &Case,
        mover: Mover,
    ) -> Result<Self, ExperimentError> {
        let (hosts, folder) = (setting.hosts, setting.folder);
        let spec = folder.join("own.toml");
        let text = specification(setting, &case.guest);
        fs::write(&spec, text).map_err(ExperimentError::io(format!("write {}", spec.display())))?;
        let mut words = hosts.source.program();
        words.extend(["run".to_owned(), path(&spec)]);
        let source = hosts.source.start("own-source", folder, &words)?;
        let mut words = hosts.destination.program();
        words.extend([
            "receive".to_owned(),
            address(&hosts.destination),
            "--once".to_owned(),
        ]);
        words.extend(certificates(folder, &hosts.destination));
        let destination = hosts.destination.start("own-destination", folder, &words)?;
        Ok(Self {
            serial: source.stderr().to_owned(),
            source,
            destination,
            hosts,
            folder,
            mover,
            link: case.link,
        })
    }

    /// The words of the command that moves the guest.
    fn order(&self, patience: Duration) -> Vec<String> {
        let mut words = self.hosts.source.program();
        words.extend([
            "migrate".to_owned(),
            NAME.to_owned(),
            address(&self.hosts.destination),
        ]);
        words.extend([
            "--downtime".to_owned(),
            format!("{}ms", DOWNTIME.as_millis()),
        ]);
        words.extend(["--finish".to_owned(), format!("{}s", patience.as_secs())]);
        words.extend(certificates(self.folder, &self.hosts.source));
        match (self.mover, self.link.0) {
            (Mover::OwnReserved, Some(bits)) => {
                let payload = BitRate::new(bits / 100 * PAYLOAD);
                words.extend(["--rate".to_owned(), payload.to_string()]);
            }
            (Mover::OwnReserved, None) => {}
            _ => words.push("--best-effort".to_owned()),
        }
        if self.mover == Mover::OwnCompressed {
            words.push("--compress".to_owned());
        }
        words
    }
}

impl Pair for OwnPair<'_> {
    fn source(&self) -> i32 {
        self.source.pid()
    }

    fn destination(&self) -> i32 {
        self.destination.pid()
    }

    fn serial(&self) -> &Path {
        &self.serial
    }

    fn migrate(
        &mut self,
        patience: Duration,
        glance: &mut dyn FnMut(),
    ) -> Result<End, ExperimentError> {
        let words = self.order(patience);
        let mut part = self
            .hosts
            .source
            .start("own-migrate", self.folder, &words)?;
        let (is_well, output) = part.end(patience + SLACK, glance)?;
        match serde_json::from_str::<Answer>(&output) {
            Ok(answer) => Ok(answer.end()),
            // It failed before it had anything to answer.
            Err(_) if !is_well => Err(part.failed()),
            Err(source) => Err(ExperimentError::Answer {
                name: "migrate".to_owned(),
                source,
            }),
        }
    }
}

fn address(host: &Host) -> String {
    format!("{}:{PORT}", host.address)
}

fn certificates(folder: &Path, host: &Host) -> [String; 2] {
    let own = folder.join(CERTIFICATES).join(host.address.to_string());
    ["--certificates".to_owned(), path(&own)]
}

/// As a user would write it. The image is a file, as QEMU's is: what its tasks are is not looked at, and no contract with
/// them is checked.
fn specification(setting: &Setting, guest: &Guest) -> String {
    let (_, period) = RESERVATION;
    format!(
        "name = \"{NAME}\"\n\n[guest]\nimage = \"{}\"\nmemory = \"{MEMORY}MiB\"\ncommand_line = \"{}\"\n\n\
         [cpu]\nruntime = \"{}ms\"\nperiod = \"{}ms\"\ncpu = {}\n",
        path(setting.image),
        guest.line(setting.seed),
        guest.runtime,
        period.as_millis(),
        setting.hosts.source.cpu
    )
}

/// What `migrate --json` prints.
#[derive(Debug, Deserialize)]
struct Answer {
    outcome: String,
    reason: Option<String>,
    promise: Option<Promised>,
    measured: Option<Measured>,
}

#[derive(Debug, Deserialize)]
struct Promised {
    total_s: Expected,
    downtime_s: Expected,
}

#[derive(Debug, Deserialize)]
struct Expected {
    median: f64,
    bound: f64,
}

#[derive(Debug, Deserialize)]
struct Measured {
    total_s: f64,
    downtime_s: Option<f64>,
    rounds: Option<u64>,
}

impl Expected {
    fn times(&self) -> (Duration, Duration) {
        (seconds(self.median), seconds(self.bound))
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

impl Answer {
    fn end(self) -> End {
        let promise = self.promise.map(|promise| Promise {
            total: promise.total_s.times(),
            downtime: promise.downtime_s.times(),
        });
        match self.measured {
            Some(measured) if self.outcome == "moved" => End::Moved(Told {
                total: seconds(measured.total_s),
                downtime: measured.downtime_s.map(seconds),
                rounds: measured.rounds,
                promise,
            }),
            _ => {
                let why = self
                    .reason
                    .unwrap_or_else(|| "no reason was given".to_owned());
                End::Stayed(format!("{}: {why}", self.outcome))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> End {
        serde_json::from_str::<Answer>(text).unwrap().end()
    }

    #[test]
    fn a_move_is_told_with_what_was_promised() {
        let text = r#"{"name": "guest", "to": "b", "outcome": "moved",
            "promise": {"total_s": {"median": 3.0, "bound": 4.5}, "downtime_s": {"median": 0.008, "bound": 0.012},
                        "bytes": {"median": 1.0, "bound": 2.0}, "rate_bit_s": 400000000, "budgets": []},
            "measured": {"total_s": 3.1, "downtime_s": 0.009, "bytes": 37, "pages": 9, "rounds": 4},
            "rounds": [{"pages": 9, "bytes": 37, "seconds": 3.0}]}"#;
        let End::Moved(told) = end(text) else {
            panic!("{text}")
        };
        assert_eq!(told.total, Duration::from_millis(3100));
        assert_eq!(told.downtime, Some(Duration::from_millis(9)));
        assert_eq!(told.rounds, Some(4));
        let promise = told.promise.unwrap();
        assert_eq!(promise.total.1, Duration::from_millis(4500));
        assert_eq!(promise.downtime.0, Duration::from_millis(8));
    }

    #[test]
    fn a_refusal_says_why() {
        let text =
            r#"{"name": "guest", "to": "b", "outcome": "refused", "reason": "no room on CPU 1"}"#;
        assert!(matches!(end(text), End::Stayed(why) if why == "refused: no room on CPU 1"));
    }
}
