//! Routers that are asked for shares: edge routers mark, core routers have the queues (Duran-Limon et al., whose
//! `network_reserve` and `network_adapt` ran scripts on them).
//!
//! Each is asked through an agent ([`crate::agent`]) that a command starts and that is kept: a change of rates is one line to
//! each router and one line back, all routers at work at once.

use std::io::{self, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::agent::{Answered, Asked, Changed, Reply, Request, Trouble, VERSION, next_line};
use crate::book::Book;
use crate::network::RouterStatus;
use crate::owner::{Asker, Owner};
use crate::plan::{Role, RouterPlan};

/// How long all routers together have to answer, the time to reach them included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an agent has to end when nobody asks any more.
const FAREWELL: Duration = Duration::from_millis(500);

/// A router did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The command cannot be started.
    #[error("router '{router}': cannot start {}: {source}", .command.join(" "))]
    Start {
        /// The router.
        router: String,
        /// The command.
        command: Vec<String>,
        /// Why.
        source: io::Error,
    },
    /// No answer, or none that is understood.
    #[error("router '{router}' cannot be asked ({source}): try `{} </dev/null`", .command.join(" "))]
    Talk {
        /// The router.
        router: String,
        /// The command.
        command: Vec<String>,
        /// Why.
        source: io::Error,
    },
    /// It refused, or failed.
    #[error("router '{router}': {}", .trouble.message)]
    Trouble {
        /// The router.
        router: String,
        /// In its own words.
        trouble: Trouble,
    },
    /// One failed, and another could not take it back.
    #[error("{failed}; nor could the others take it back: {undoing}")]
    Partly {
        /// Why it failed.
        failed: Box<RouterError>,
        /// Why a part of it stays.
        undoing: Box<RouterError>,
    },
}

impl RouterError {
    /// Whether a part of what failed stays.
    #[must_use]
    pub fn is_in_part(&self) -> bool {
        matches!(self, Self::Partly { .. })
    }

    /// Whether the router would grant another request.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Trouble { trouble, .. } if trouble.refused)
    }
}

/// The agents that were started.
#[derive(Debug, Default)]
pub(crate) struct Routers {
    /// Who asks.
    owner: Owner,
    agents: Vec<Agent>,
}

/// A router's agent, ended on drop.
#[derive(Debug)]
struct Agent {
    plan: RouterPlan,
    child: Child,
    /// Taken on drop: its end is the agent's.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Routers {
    /// Those that this host asks.
    pub(crate) fn of(owner: &Owner) -> Self {
        Self {
            owner: owner.clone(),
            agents: Vec::new(),
        }
    }

    /// Whether none is being asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// Who asks for what was applied then.
    fn asker(&self, applied: u64) -> Asker {
        Asker {
            owner: self.owner.clone(),
            applied,
        }
    }

    /// Has every router apply what the book wants of it, and those that it does not have apply nothing.
    pub(crate) fn reconcile(&mut self, book: &Book, others: &[&Book]) -> Result<(), RouterError> {
        let is_same = |router: &&RouterPlan, other: &RouterPlan| router.command == other.command;
        let mut asked: Vec<(RouterPlan, Request)> = Vec::new();
        let latest = others.iter().map(|other| other.applied).max();
        let by = self.asker(latest.unwrap_or_default());
        for router in others.iter().flat_map(|other| &other.plan.routers) {
            let stays = book.plan.routers.iter().any(|new| is_same(&new, router));
            let is_asked = asked.iter().any(|(other, _)| is_same(&other, router));
            if !stays && !is_asked {
                asked.push((router.clone(), Request::Clear { by: by.clone() }));
            }
        }
        for router in &book.plan.routers {
            let plan = Box::new(book.plan_of(router));
            let by = self.asker(book.applied);
            asked.push((router.clone(), Request::Apply { by, plan }));
        }
        self.ask(&asked)
            .into_iter()
            .try_for_each(|answer| answer.map(|_| ()))
    }

    /// Changes rates on the routers that have queues, on all or on none; the error says where that could not be.
    pub(crate) fn change(&mut self, from: &Book, to: &Book) -> Result<(), RouterError> {
        let cores = to.plan.routers.iter();
        let cores: Vec<_> = cores
            .filter(|router| matches!(router.role, Role::Core(_)))
            .collect();
        let request = |from: &Book, to: &Book| {
            let both = from.routed().zip(to.routed());
            let changed = both.filter(|(old, new)| old.plan.share != new.plan.share);
            let changed = changed.map(|(_, new)| Changed {
                name: new.plan.name.clone(),
                share: new.plan.share,
            });
            changed.collect::<Vec<_>>()
        };
        let changes = request(from, to);
        if changes.is_empty() || cores.is_empty() {
            return Ok(());
        }
        let owner = self.owner.clone();
        let ask = |router: &RouterPlan, changes: &[Changed]| {
            let changes = changes.to_vec();
            let by = owner.clone();
            (router.clone(), Request::Adapt { by, changes })
        };
        let asked: Vec<_> = cores.iter().map(|router| ask(router, &changes)).collect();
        let mut answers = self.ask(&asked);
        let Some(failed) = answers.iter().position(Result::is_err) else {
            return Ok(());
        };
        // One that did not answer may have done it all the same.
        let undo = request(to, from);
        let refused = |answer: &Result<Reply, RouterError>| {
            matches!(
                answer,
                Err(RouterError::Trouble { .. } | RouterError::Start { .. })
            )
        };
        let done = cores
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| !refused(answer));
        let undone: Vec<_> = done.map(|(router, _)| ask(router, &undo)).collect();
        let undone = self.ask(&undone).into_iter();
        let stays = { undone }.find_map(Result::err);
        let failed = answers.swap_remove(failed).map(|_| ());
        failed.map_err(|failed| match stays {
            None => failed,
            Some(undoing) => RouterError::Partly {
                failed: Box::new(failed),
                undoing: Box::new(undoing),
            },
        })
    }

    /// How each stands.
    pub(crate) fn status(&mut self, book: &Book) -> Vec<RouterStatus> {
        let routers = &book.plan.routers;
        let asked = routers
            .iter()
            .map(|router| (router.clone(), Request::Status {}));
        let answers = self.ask(&asked.collect::<Vec<_>>());
        let status = |(router, answer): (&RouterPlan, Result<Reply, RouterError>)| RouterStatus {
            name: router.name.clone(),
            status: match answer {
                Ok(Reply::Status(status)) => Ok(*status),
                Ok(Reply::Done) => Err("it answered another question".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        };
        routers.iter().zip(answers).map(status).collect()
    }

    /// One answer for each request, in order; all routers work at once.
    fn ask(&mut self, asked: &[(RouterPlan, Request)]) -> Vec<Result<Reply, RouterError>> {
        let sent = asked
            .iter()
            .map(|(router, request)| self.send(router, request));
        let sent: Vec<_> = sent.collect();
        let until = Instant::now() + PATIENCE;
        let both = asked.iter().zip(sent);
        let answers = both.map(|((router, request), sent)| {
            let is_fresh = sent?;
            match self.receive(router, until) {
                // An agent that was kept may have ended since: another one is asked the same, which changes nothing twice.
                Err(RouterError::Talk { .. }) if !is_fresh => {
                    self.send(router, request)?;
                    self.receive(router, Instant::now() + PATIENCE)
                }
                answer => answer,
            }
        });
        answers.collect()
    }

    /// Sends a request; whether the agent was started for it.
    fn send(&mut self, router: &RouterPlan, request: &Request) -> Result<bool, RouterError> {
        let asked = Asked {
            version: VERSION,
            request,
        };
        if let Some(agent) = self.find(router) {
            match agent.write(&asked) {
                Ok(()) => return Ok(false),
                Err(_) => self.forget(router),
            }
        }
        let mut agent = Agent::start(router)?;
        let written = agent.write(&asked);
        written.map_err(|source| talk(router, source))?;
        self.agents.push(agent);
        Ok(true)
    }

    fn receive(&mut self, router: &RouterPlan, until: Instant) -> Result<Reply, RouterError> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let agent = self.find(router);
        let read = agent.map_or_else(|| Err(gone()), |agent| agent.read(until));
        if read.is_err() {
            // What it may still say would be taken for the answer to another question.
            self.forget(router);
        }
        let answered = read.map_err(|source| talk(router, source))?;
        answered.reply.map_err(|trouble| RouterError::Trouble {
            router: router.name.clone(),
            trouble,
        })
    }

    fn find(&mut self, router: &RouterPlan) -> Option<&mut Agent> {
        let mut agents = self.agents.iter_mut();
        agents.find(|agent| agent.plan.command == router.command)
    }

    fn forget(&mut self, router: &RouterPlan) {
        self.agents
            .retain(|agent| agent.plan.command != router.command);
    }
}

fn talk(router: &RouterPlan, source: io::Error) -> RouterError {
    RouterError::Talk {
        router: router.name.clone(),
        command: router.command.clone(),
        source,
    }
}

impl Agent {
    fn start(router: &RouterPlan) -> Result<Self, RouterError> {
        let failed = |source| RouterError::Start {
            router: router.name.clone(),
            command: router.command.clone(),
            source,
        };
        let (program, arguments) = router
            .command
            .split_first()
            .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for who asks, who may have to ask once more.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Self {
            plan: router.clone(),
            child,
            requests: Some(requests),
            answers: BufReader::new(answers),
        })
    }

    fn write(&mut self, asked: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(asked)?;
        line.push(b'\n');
        let requests = self.requests.as_mut();
        let requests = requests.ok_or(io::ErrorKind::NotConnected)?;
        let until = Instant::now() + PATIENCE;
        // A pipe that is ready takes so much without waiting for its reader (pipe(7)).
        for part in line.chunks(libc::PIPE_BUF) {
            wait_for(requests.as_fd(), PollFlags::POLLOUT, until)?;
            requests.write_all(part)?;
        }
        Ok(())
    }

    fn read(&mut self, until: Instant) -> io::Result<Answered> {
        let mut input = Patient {
            answers: &mut self.answers,
            until,
        };
        let line = next_line(&mut input)?;
        let line = line.ok_or_else(|| io::Error::other("it ended without an answer"))?;
        Ok(serde_json::from_slice(&line)?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.requests.take());
        let begun = Instant::now();
        while begun.elapsed() < FAREWELL {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads that do not wait for ever.
struct Patient<'a> {
    answers: &'a mut BufReader<ChildStdout>,
    until: Instant,
}

impl Patient<'_> {
    fn wait(&self) -> io::Result<()> {
        if !self.answers.buffer().is_empty() {
            return Ok(());
        }
        let stdout = self.answers.get_ref().as_fd();
        wait_for(stdout, PollFlags::POLLIN, self.until)
    }
}

/// Waits until `file` is ready, but no longer than `until`.
fn wait_for(file: BorrowedFd<'_>, ready: PollFlags, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file, ready)], left) {
            Ok(0) => {
                let reason = format!("no answer within {} s", PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        self.answers.read(buffer)
    }
}

impl io::BufRead for Patient<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.wait()?;
        self.answers.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.answers.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(script: &str) -> RouterPlan {
        RouterPlan {
            name: "r".to_owned(),
            role: Role::Edge {
                interfaces: vec!["eth0".to_owned()],
            },
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        }
    }

    fn ask(routers: &mut Routers, router: &RouterPlan) -> Result<Reply, RouterError> {
        let mut answers = routers.ask(&[(router.clone(), Request::Status {})]);
        answers.remove(0)
    }

    #[test]
    fn an_agent_is_kept_and_one_that_has_ended_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let answer = r#"read line; echo '{"version":2,"reply":{"Ok":{"kind":"done"}}}'"#;
        let twice = router(&format!("echo >>{}; {answer}; {answer}", count.display()));
        let mut routers = Routers::default();
        for started in [1, 1, 2, 2, 3] {
            assert_eq!(ask(&mut routers, &twice).unwrap(), Reply::Done);
            assert_eq!(std::fs::read(&count).unwrap().len(), started);
        }
    }

    #[test]
    fn one_that_ends_or_talks_nonsense_is_an_error_that_names_it() {
        for script in ["exit 1", "read line; echo nonsense", "read line; printf x"] {
            let error = ask(&mut Routers::default(), &router(script)).unwrap_err();
            assert!(
                error.to_string().contains("router 'r' cannot be asked"),
                "{error}"
            );
        }
        let mut nothing = router("");
        nothing.command = vec!["/no/such/program".to_owned()];
        let error = ask(&mut Routers::default(), &nothing).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
