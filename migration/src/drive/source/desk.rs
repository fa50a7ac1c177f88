//! Answers inquiries as long as the session lives.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::Incoming;
use crate::drive::inquiry::{Asked, await_answer};
use crate::drive::reception::{ATTENTION, Host, Reception};
use crate::transport::Framed;
use crate::wire::{Answer, Boot, Message, Session, Side};

/// Answers for the session while it lives. For others it has no answer: whoever asks goes on to the host's desk.
pub(super) struct SourceDesk {
    pub(super) session: Session,
    pub(super) boot: Boot,
    pub(super) tell: Sender<Incoming>,
    pub(super) reception: Arc<Reception>,
}

impl Host for SourceDesk {
    fn introduce(&self, mut framed: Framed, message: Message) {
        let Message::Inquire(question) = message else {
            return;
        };
        if question.session != self.session || question.from != Side::Destination {
            return;
        }
        let (asked, answer) = Asked::new(&question);
        let told = self.tell.send(Incoming::Asked(asked));
        if let Some(standing) = told
            .ok()
            .and_then(|()| await_answer(&answer, ATTENTION, || self.reception.is_over()))
        {
            let boot = self.boot;
            let _ = framed.say(&Message::Answer(Answer { standing, boot }));
        }
    }
}
