//! The network of a router, as another host asks for it: one request and one answer per line of JSON.
//!
//! ```text
//! {"version":2,"request":{"kind":"adapt","by":{...},"changes":[{"name":"gold","share":{...}}]}}
//! {"version":2,"reply":{"Ok":{"kind":"done"}}}
//! ```
//!
//! The agent reads requests from its standard input and answers on its standard output, so who may ask is who may start it:
//! over ssh, who may log in. What it has put in force stays when it ends; the next one goes on from there.

use std::io::{self, BufRead, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::admission::Wanted;
use crate::network::{Network, NetworkError, NetworkStatus};
use crate::owner::{Asker, Owner};
use crate::plan::NetworkPlan;
use crate::share::Share;

/// The version of requests and answers.
pub const VERSION: u32 = 2;
/// The longest line that is read: a plan of the most shares.
pub const LONGEST: usize = 1 << 22;

/// What a router can be asked. What needs no more words has braces all the same: only then are keys that are not known
/// refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Put this in force, in place of what was asked for before.
    Apply {
        /// For whom.
        by: Asker,
        /// What.
        plan: Box<NetworkPlan>,
    },
    /// Change shares, all or none.
    Adapt {
        /// For whom.
        by: Owner,
        /// Which, and to what.
        changes: Vec<Changed>,
    },
    /// Tell how everything stands.
    Status {},
    /// Remove everything that this host has asked for, up to then. What it has not asked for, or later, stays.
    Clear {
        /// Which host.
        by: Asker,
    },
}

/// A share that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// Whose.
    pub name: String,
    /// What it is to have.
    pub share: Share,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// How everything stands.
    Status(Box<NetworkStatus>),
}

/// Why it was not done. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// Whether another request may be granted.
    pub refused: bool,
    /// What is wrong, and what would work.
    pub message: String,
}

/// A line with a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked<R> {
    pub(crate) version: u32,
    pub(crate) request: R,
}

/// A line with an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answered {
    pub(crate) version: u32,
    pub(crate) reply: Result<Reply, Trouble>,
}

/// Answers requests until there are no more. What it puts in force is kept in `run_dir`, apart from the network that was
/// applied there by hand.
///
/// # Errors
/// When requests cannot be read or answers not written.
pub fn serve(run_dir: &Path, requests: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut agent = Agent {
        run_dir: &run_dir.join("routed"),
        network: None,
    };
    let mut requests = requests;
    while let Some(line) = next_line(&mut requests)? {
        let answered = Answered {
            version: VERSION,
            reply: parse(&line).and_then(|request| agent.answer(request)),
        };
        let mut text = serde_json::to_vec(&answered)?;
        text.push(b'\n');
        answers.write_all(&text)?;
        answers.flush()?;
    }
    Ok(())
}

/// A line without its end; nothing at the end. One that never ends is an error.
pub(crate) fn next_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    let length = io::Read::take(&mut *input, limit).read_until(b'\n', &mut line)?;
    if length == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        let what = "a line that is longer than any request, or was broken off";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(line))
}

fn parse<R: DeserializeOwned>(line: &[u8]) -> Result<R, Trouble> {
    let wrong = |message: String| Trouble {
        refused: false,
        message,
    };
    // The version first: a request of another one may have keys that are not known.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } =
        serde_json::from_slice(line).map_err(|e| wrong(format!("this is no request: {e}")))?;
    if version != VERSION {
        return Err(wrong(format!(
            "the request is of version {version}, and the agent of version {VERSION}: install the same program on both"
        )));
    }
    let asked: Result<Asked<R>, _> = serde_json::from_slice(line);
    Ok(asked
        .map_err(|e| wrong(format!("this is no request: {e}")))?
        .request)
}

struct Agent<'a> {
    run_dir: &'a Path,
    network: Option<Network>,
}

impl Agent<'_> {
    fn answer(&mut self, request: Request) -> Result<Reply, Trouble> {
        let answered = match request {
            Request::Apply { by, plan } => {
                Network::apply_for(self.run_dir, &plan, &by).map(|network| {
                    self.network = Some(network);
                    Reply::Done
                })
            }
            Request::Adapt { by, changes } => self.network().and_then(|network| {
                let wanted = changes
                    .into_iter()
                    .map(|one| Wanted::new(one.name, one.share));
                network.adapt_for(&by, &wanted.collect::<Vec<_>>())?;
                Ok(Reply::Done)
            }),
            Request::Status {} => {
                let status = self.network().and_then(Network::status);
                status.map(|status| Reply::Status(Box::new(status)))
            }
            Request::Clear { by } => {
                self.network = None;
                Network::clear_for(self.run_dir, &by).map(|()| Reply::Done)
            }
        };
        answered.map_err(|error| Trouble {
            refused: error.is_refusal(),
            message: error.to_string(),
        })
    }

    fn network(&mut self) -> Result<&Network, NetworkError> {
        let network = match self.network.take() {
            Some(network) => network,
            None => Network::open(self.run_dir)?,
        };
        Ok(self.network.insert(network))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(requests: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let mut answers = Vec::new();
        serve(dir.path(), requests.as_bytes(), &mut answers).unwrap();
        let text = String::from_utf8(answers).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_line_has_an_answer_that_says_what_is_wrong_with_it() {
        let answers = talk(concat!(
            "nonsense\n",
            "{\"version\":3,\"request\":{\"kind\":\"later\"}}\n",
            "{\"version\":2,\"request\":{\"kind\":\"status\",\"force\":1}}\n",
            "{\"version\":2,\"request\":{\"kind\":\"status\"}}\n",
        ));
        let expected = [
            "no request",
            "version 3",
            "unknown field `force`",
            "no network was applied",
        ];
        assert_eq!(answers.len(), expected.len());
        for (answer, expected) in answers.iter().zip(expected) {
            assert!(
                answer.contains("\"Err\"") && answer.contains(expected),
                "{answer}"
            );
        }
    }

    #[test]
    fn a_line_that_never_ends_ends_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let endless = io::BufReader::new(io::Read::take(io::repeat(b'x'), 1 << 23));
        let error = serve(dir.path(), endless, io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
