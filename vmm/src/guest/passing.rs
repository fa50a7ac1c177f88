//! The network's side of a guest that comes or goes: its port is opened before it runs here, its place announced once it does; where it
//! leaves, the port is closed once it runs elsewhere, and what came meanwhile is passed on.
//!
//! None of this is done by a vCPU's thread. Whoever moves the guest announces it first, without a thread or a clock; who owns it later,
//! by its own timer, again.

use std::sync::Arc;
use std::time::Instant;

use net::Port;
use net::announcement::DUE;
use net::netlink::NetlinkError;
use net::passage::{Late, Passage, PassageError};

use super::running::RunningVm;

/// How often the place is announced before it is counted what the tap dropped meanwhile: a guest that goes on takes what waits at once.
const COUNTED: usize = 2;

/// Where a guest with a network device is on its way.
#[derive(Default)]
pub(super) struct Passing {
    passage: Option<Passage>,
    stage: Stage,
    /// What the tap had dropped before anything of this.
    unread: u64,
    late: Late,
}

#[derive(Default, Clone, Copy)]
enum Stage {
    /// It stays where it is.
    #[default]
    Stays,
    /// It comes.
    Expected,
    /// It is here, and has been announced so often.
    Here { since: Instant, announced: usize },
}

impl Passing {
    /// For a guest that comes to this port.
    pub(super) fn arriving(port: Option<&Arc<Port>>) -> Result<Self, PassageError> {
        let mut passage = port.map(|port| port.passage()).transpose()?;
        Ok(Self {
            unread: passage.as_mut().map_or(Ok(0), Passage::unread)?,
            passage,
            stage: Stage::Expected,
            late: Late::default(),
        })
    }

    /// Lets frames for a guest that comes wait in its tap.
    pub(super) fn open(&mut self) -> Result<(), NetlinkError> {
        match (&mut self.passage, self.stage) {
            (Some(passage), Stage::Expected) => passage.open(),
            _ => Ok(()),
        }
    }

    /// It runs here: from now on it is announced.
    fn here(&mut self) {
        if matches!(self.stage, Stage::Expected) {
            self.stage = Stage::Here {
                since: Instant::now(),
                announced: 0,
            };
        }
    }

    /// When it is to be announced next.
    fn next(&self) -> Option<Instant> {
        match (&self.passage, self.stage) {
            (Some(_), Stage::Here { since, announced }) => {
                DUE.get(announced).map(|after| since + *after)
            }
            _ => None,
        }
    }

    fn announce(&mut self, vm: &str) {
        let (Some(passage), Stage::Here { announced, .. }) = (&mut self.passage, &mut self.stage)
        else {
            return;
        };
        *announced += 1;
        if let Err(error) = passage.announce() {
            tracing::warn!(
                "{vm}: its new place cannot be announced, so switches learn it only from what it sends: {error}"
            );
        }
        if *announced == COUNTED {
            // Without the kernel's word there is none.
            let now = passage.unread().unwrap_or(self.unread);
            self.late.lost += now.saturating_sub(self.unread);
        }
        if *announced == DUE.len() {
            (self.passage, self.stage) = (None, Stage::Stays);
        }
    }

    /// It may leave soon: what takes time is done while it runs.
    fn prepare_to_leave(&mut self, port: &Port) -> Result<(), PassageError> {
        let mut passage = match self.passage.take() {
            Some(passage) => passage,
            None => port.passage()?,
        };
        self.unread = passage.unread()?;
        self.passage = Some(passage);
        Ok(())
    }

    /// It runs elsewhere, and was announced there.
    fn leave(&mut self, port: &Port) -> Result<(), NetlinkError> {
        self.stage = Stage::Stays;
        let Some(mut passage) = self.passage.take() else {
            return Ok(());
        };
        let closed = passage.close();
        let Late { passed_on, lost } = passage.pass_on(&port.tap);
        self.late.passed_on += passed_on;
        self.late.lost += lost + passage.unread()?.saturating_sub(self.unread);
        closed
    }
}

impl RunningVm {
    /// What became of the frames that came while it was moved here or away from here.
    pub(super) fn late(&self) -> Late {
        self.passing.late
    }

    /// It runs; if it has just come it says so.
    pub(super) fn arrive(&mut self) {
        self.passing.here();
        self.announce();
    }

    /// When its place is to be announced next, if it has come lately.
    pub(super) fn next_announcement(&self) -> Option<Instant> {
        self.passing.next()
    }

    /// Announces its place if that is due.
    pub(super) fn announce(&mut self) {
        if self.passing.next().is_some_and(|due| due <= Instant::now()) {
            self.passing.announce(&self.plan.name);
        }
    }

    /// It may leave soon.
    pub(super) fn prepare_to_leave(&mut self) {
        let prepared = self
            .port
            .as_ref()
            .map(|port| self.passing.prepare_to_leave(port));
        if let Some(Err(error)) = prepared {
            tracing::warn!(
                "{}: frames that come while it is moved will be lost: {error}",
                self.plan.name
            );
        }
    }

    /// It runs elsewhere, and was announced there: what came to this place meanwhile is passed on. Takes as long as frames come, and
    /// no longer than the fifth part of a second.
    pub(super) fn leave(&mut self) {
        let left = self.port.as_ref().map(|port| self.passing.leave(port));
        if let Some(Err(error)) = left {
            tracing::warn!("{}: its port is not closed: {error}", self.plan.name);
        }
    }
}
