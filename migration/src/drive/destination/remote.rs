//! Reaches whoever receives, from other threads.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use super::super::door::{Incoming, locked};
use crate::protocol::DestinationEvent;

/// Reaches [`super::Arrival::receive`] from other threads.
#[derive(Debug, Clone, Default)]
pub struct DestinationRemote(Arc<Mutex<Option<Sender<Incoming>>>>);

impl DestinationRemote {
    /// Hands an event in: a cancellation, which ends the waiting for a guest too, or an operator's word; whether anybody receives.
    #[allow(clippy::must_use_candidate, reason = "whoever cancels need not know")]
    pub fn hand_in(&self, event: DestinationEvent) -> bool {
        let receiving = locked(&self.0);
        let told = receiving
            .as_ref()
            .map(|tell| tell.send(Incoming::Event(event)));
        told.is_some_and(|told| told.is_ok())
    }

    /// From now on it reaches `tell`, until the answer is dropped.
    pub(super) fn reach(&self, tell: Sender<Incoming>) -> Reached<'_> {
        *locked(&self.0) = Some(tell);
        Reached(self)
    }
}

/// A way to whoever receives.
pub(super) struct Reached<'a>(&'a DestinationRemote);

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        *locked(&self.0.0) = None;
    }
}
