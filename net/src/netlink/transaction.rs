//! Changes that stand or fall together.

use nix::errno::Errno;

use super::{Netlink, NetlinkError, Request};

/// A step of a transaction: a change, and the change that takes it back.
#[derive(Debug, Clone)]
pub struct Step {
    request: Request,
    undo: Option<Request>,
}

impl Step {
    /// A change that `undo` takes back.
    #[must_use]
    pub fn new(request: Request, undo: Request) -> Self {
        Self {
            request,
            undo: Some(undo),
        }
    }

    /// A change that goes away together with what an earlier step made.
    #[must_use]
    pub fn dependent(request: Request) -> Self {
        Self {
            request,
            undo: None,
        }
    }
}

/// Changes that belong together: when one fails, or when they are dropped without [`commit`](Self::commit), they are taken
/// back, the last first.
#[derive(Debug)]
pub struct Transaction<'a> {
    pub(super) netlink: &'a mut Netlink,
    pub(super) undo: Vec<Request>,
}

impl Transaction<'_> {
    /// Does these steps in one send.
    ///
    /// # Errors
    /// The first refusal, or a failing socket; everything that was done before is then taken back. What cannot be is in the
    /// error.
    pub fn apply(&mut self, steps: Vec<Step>) -> Result<(), NetlinkError> {
        self.attempt(steps)
            .map_err(|failed| match self.take_back() {
                Ok(()) => failed,
                Err(undoing) => NetlinkError::Partly {
                    failed: Box::new(failed),
                    undoing: Box::new(undoing),
                },
            })
    }

    fn attempt(&mut self, steps: Vec<Step>) -> Result<(), NetlinkError> {
        let (requests, undo): (Vec<_>, Vec<_>) = steps
            .into_iter()
            .map(|step| (step.request, step.undo))
            .unzip();
        let answers = match self.netlink.send(&requests) {
            Ok(answers) => answers,
            Err(error) => {
                // Nobody knows how far it came. Taking back what was not done does nothing.
                self.undo.extend(undo.into_iter().flatten());
                return Err(error);
            }
        };
        let mut first = None;
        for (answer, undo) in answers.into_iter().zip(undo) {
            match answer {
                Ok(()) => self.undo.extend(undo),
                Err(refusal) => first = first.or(Some(refusal)),
            }
        }
        first.map_or(Ok(()), |refusal| Err(NetlinkError::Refused(refusal)))
    }

    /// The socket, to read what steps depend on.
    pub fn netlink(&mut self) -> &mut Netlink {
        self.netlink
    }

    /// Lets the changes stand.
    pub fn commit(mut self) {
        self.undo.clear();
    }
}

impl Transaction<'_> {
    fn take_back(&mut self) -> Result<(), NetlinkError> {
        let mut undo = std::mem::take(&mut self.undo);
        undo.reverse();
        let answers = self.netlink.send(&undo)?;
        // What vanished meanwhile has taken its parts with it.
        let gone = [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL];
        let refusals = answers.into_iter().filter_map(Result::err);
        let stays = refusals.filter(|refusal| !gone.contains(&refusal.errno));
        let first = { stays }.next();
        first.map_or(Ok(()), |refusal| Err(NetlinkError::Refused(refusal)))
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::warn!("a change of the network stays half done: {error}");
        }
    }
}
