//! QEMU's machine protocol, as much of it as a migration needs (docs/interop/qmp-spec, qapi/migration.json).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::experiment::interrupt;

/// How long QEMU may take until it listens, and to answer a command.
const PATIENCE: Duration = Duration::from_secs(8);
const GLANCE: Duration = Duration::from_millis(10);

/// QEMU did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// It cannot be reached or went away.
    #[error("cannot {action} QEMU: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It said something that is not part of the protocol.
    #[error("QEMU said `{line}`, which is no message of its protocol")]
    Message {
        /// What it said.
        line: String,
    },
    /// It refused a command.
    #[error("QEMU refused {command}: {why}")]
    Refused {
        /// The command.
        command: String,
        /// What it says.
        why: String,
    },
    /// An answer has not the form that it should have.
    #[error("QEMU's answer to {command} makes no sense: {source}")]
    Answer {
        /// The command.
        command: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What QEMU says.
#[derive(Debug, PartialEq)]
enum Message {
    /// It is there.
    Greeting,
    /// The answer to the last command.
    Answer(Value),
    /// The last command was refused.
    Refusal(String),
    /// Something happened.
    Event,
}

/// One line from QEMU.
fn parse(line: &str) -> Result<Message, QmpError> {
    let wrong = || QmpError::Message {
        line: line.trim_end().chars().take(200).collect(),
    };
    let mut value: Value = serde_json::from_str(line).map_err(|_| wrong())?;
    if let Some(answer) = value.get_mut("return") {
        return Ok(Message::Answer(answer.take()));
    }
    if let Some(error) = value.get("error") {
        let why = error.get("desc").and_then(Value::as_str);
        return Ok(Message::Refusal(why.ok_or_else(wrong)?.to_owned()));
    }
    match (value.get("event"), value.get("QMP")) {
        (Some(_), _) => Ok(Message::Event),
        (_, Some(_)) => Ok(Message::Greeting),
        _ => Err(wrong()),
    }
}

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects as soon as QEMU listens at `socket`; `failed` is asked meanwhile whether it never will.
    pub fn connect<E: From<QmpError>>(
        socket: &Path,
        mut failed: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        let begin = Instant::now();
        let stream = loop {
            failed()?;
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(source) if begin.elapsed() > PATIENCE => {
                    return Err(io_error("reach")(source).into());
                }
                Err(_) => std::thread::sleep(GLANCE),
            }
        };
        Ok(Self::greet(stream)?)
    }

    fn greet(stream: UnixStream) -> Result<Self, QmpError> {
        let limit = Some(PATIENCE);
        stream
            .set_read_timeout(limit)
            .map_err(io_error("wait for"))?;
        stream
            .set_write_timeout(limit)
            .map_err(io_error("wait for"))?;
        let mut qmp = Self {
            lines: BufReader::new(stream),
        };
        match qmp.message()? {
            Message::Greeting => {}
            other => {
                let line = format!("{other:?}");
                return Err(QmpError::Message { line });
            }
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has it carry out a command; its answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let order = json!({ "execute": command, "arguments": arguments });
        let stream = self.lines.get_mut();
        writeln!(stream, "{order}").map_err(io_error("talk to"))?;
        loop {
            match self.message()? {
                Message::Answer(answer) => return Ok(answer),
                Message::Refusal(why) => {
                    let command = command.to_owned();
                    return Err(QmpError::Refused { command, why });
                }
                Message::Event | Message::Greeting => {}
            }
        }
    }

    fn message(&mut self) -> Result<Message, QmpError> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).map_err(io_error("hear"))?;
        if read == 0 {
            return Err(io_error("hear")(io::ErrorKind::UnexpectedEof.into()));
        }
        parse(&line)
    }

    /// The threads of its vCPUs.
    pub fn vcpus(&mut self) -> Result<Vec<i32>, QmpError> {
        const COMMAND: &str = "query-cpus-fast";
        let answer = self.execute(COMMAND, json!({}))?;
        vcpus(answer).map_err(answer_error(COMMAND))
    }

    /// How its migration is getting on.
    pub fn migration(&mut self) -> Result<Migration, QmpError> {
        const COMMAND: &str = "query-migrate";
        let answer = self.execute(COMMAND, json!({}))?;
        migration(answer).map_err(answer_error(COMMAND))
    }

    /// Gives a migration up, and waits until it has ended one way or the other.
    pub fn cancel(&mut self) -> Result<Migration, QmpError> {
        self.execute("migrate_cancel", json!({}))?;
        let begin = Instant::now();
        loop {
            let migration = self.migration()?;
            let is_interrupted = interrupt::check().is_err();
            if migration.status.is_over() || is_interrupted || begin.elapsed() > PATIENCE {
                return Ok(migration);
            }
            std::thread::sleep(GLANCE);
        }
    }
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> QmpError {
    move |source| QmpError::Io { action, source }
}

fn answer_error(command: &'static str) -> impl FnOnce(serde_json::Error) -> QmpError {
    move |source| QmpError::Answer { command, source }
}

fn vcpus(answer: Value) -> Result<Vec<i32>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Vcpu {
        #[serde(rename = "thread-id")]
        thread: i32,
    }
    let vcpus: Vec<Vcpu> = serde_json::from_value(answer)?;
    Ok(vcpus.into_iter().map(|vcpu| vcpu.thread).collect())
}

/// `MigrationStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The guest runs elsewhere.
    Completed,
    /// It failed.
    Failed,
    /// It was given up.
    Cancelled,
    /// None was begun.
    None,
    /// It is under way.
    #[default]
    #[serde(other)]
    UnderWay,
}

impl Status {
    /// Whether nothing will come of it any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// `MigrationInfo`, as much of it as is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Migration {
    /// How far it is; left out where none was begun.
    #[serde(default = "none")]
    pub status: Status,
    /// Milliseconds since it began, or that it took.
    pub total_time: Option<u64>,
    /// Milliseconds that the guest stood still, by its own account.
    pub downtime: Option<u64>,
    /// Why it failed.
    pub error_desc: Option<String>,
    /// What was sent.
    pub ram: Option<Ram>,
}

/// `MigrationStats`, as much of it as is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ram {
    /// Bytes sent.
    pub transferred: u64,
    /// Bytes that are still to be sent.
    pub remaining: u64,
    /// Passes over the guest's memory.
    pub dirty_sync_count: u64,
    /// Pages written per second, as it was last estimated.
    pub dirty_pages_rate: u64,
}

fn none() -> Status {
    Status::None
}

fn migration(answer: Value) -> Result<Migration, serde_json::Error> {
    serde_json::from_value(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#;
        assert_eq!(parse(greeting).unwrap(), Message::Greeting);
        let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "setup"}}"#;
        assert_eq!(parse(event).unwrap(), Message::Event);
        let answer = parse("{\"return\": {\"running\": true}}\r\n").unwrap();
        assert_eq!(answer, Message::Answer(json!({ "running": true })));
        let refusal = r#"{"error": {"class": "GenericError", "desc": "There's a migration process in progress"}}"#;
        let why = "There's a migration process in progress".to_owned();
        assert_eq!(parse(refusal).unwrap(), Message::Refusal(why));
    }

    #[test]
    fn what_is_no_message_is_an_error_that_shows_it() {
        for line in [
            "",
            "QEMU 7.2 monitor",
            "{}",
            "[1]",
            "{\"error\": 3}",
            "{\"return\":",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(
                error.contains(line) && error.contains("no message"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_completed_migration_says_what_it_took() {
        let answer = json!({
            "status": "completed", "setup-time": 1, "downtime": 3, "total-time": 394,
            "ram": {
                "total": 268_513_280_u64, "postcopy-requests": 0, "dirty-sync-count": 4, "multifd-bytes": 0,
                "pages-per-second": 151_758, "downtime-bytes": 53_352, "page-size": 4096, "remaining": 0, "mbps": 737.85,
                "transferred": 36_228_561, "duplicate": 57_267, "dirty-pages-rate": 0, "normal": 8702,
            }
        });
        let info = migration(answer).unwrap();
        assert_eq!(info.status, Status::Completed);
        assert_eq!((info.total_time, info.downtime), (Some(394), Some(3)));
        let ram = info.ram.unwrap();
        assert_eq!((ram.transferred, ram.dirty_sync_count), (36_228_561, 4));
    }

    #[test]
    fn before_while_and_without_a_migration_there_is_an_answer_too() {
        assert_eq!(migration(json!({})).unwrap().status, Status::None);
        for under_way in [
            "setup",
            "active",
            "pre-switchover",
            "device",
            "cancelling",
            "wait-unplug",
        ] {
            let info = migration(json!({ "status": under_way })).unwrap();
            assert_eq!(info.status, Status::UnderWay);
            assert!(!info.status.is_over());
        }
        let failed = json!({ "status": "failed", "error-desc": "Unable to write to socket" });
        let failed = migration(failed).unwrap();
        assert_eq!(
            failed.error_desc.as_deref(),
            Some("Unable to write to socket")
        );
        assert!(failed.status.is_over());
        assert!(migration(json!({ "status": 3 })).is_err());
    }

    #[test]
    fn threads_of_vcpus_are_found() {
        let answer = json!([{
            "thread-id": 21_576, "props": { "core-id": 0, "thread-id": 0, "socket-id": 0 },
            "qom-path": "/machine/unattached/device[0]", "cpu-index": 0, "target": "x86_64"
        }]);
        assert_eq!(vcpus(answer).unwrap(), [21_576]);
        assert!(vcpus(json!([{ "cpu-index": 0 }])).is_err());
    }
}
