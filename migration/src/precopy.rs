//! Pre-copy: the guest's memory goes over in rounds while the guest runs.
//!
//! ```text
//!  planner ── classes of pages ──► Precopy ── one class at a time ──► stream threads ── frames ──► receivers ──► the other host's memory
//!                                     │ clears the class's dirty bits before its first page is read
//! ```
//!
//! # Why no page is lost
//! A page is *owed* from the moment its dirty bit is cleared (or tracking began) until its content, read after that, was handed to its stream. A write before the
//! clearing is seen by the reading; a write after it sets the bit again. [`Precopy::dirty`] is what is owed or dirty: a round that fails or is cancelled
//! in its middle leaves nothing out, and neither does a planner that leaves pages for later.
//!
//! # Why no page is overtaken
//! A page always goes over the same stream ([`Share`]), and streams are in order: what was sent last is what remains, whatever the streams' pace.

mod control;
mod error;
mod pace;
mod receive;
mod share;
mod stream;
#[cfg(test)]
mod tests;

pub use control::{Canceller, Progress};
pub use error::PrecopyError;
pub use pace::{Pacer, on_the_wire};
pub use receive::{RoundReceived, StreamReceiver};
pub use share::Share;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use units::BitRate;

use crate::page::{Encoder, EncoderSettings};
use crate::ram::{DirtyLog, GuestRam, PageSet};
use crate::transport::Framed;
use crate::wire::EndOfRound;
use control::{ATTENTION, Meter, Shared};
use stream::{Answer, Order, StreamSender};

/// Begins a stream's thread: puts the calling thread into its reservation. It gets the stream's number.
pub type ThreadSetup =
    Arc<dyn Fn(u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// How memory goes over.
#[derive(Clone)]
pub struct PrecopySettings {
    /// What a page may become.
    pub encoder: EncoderSettings,
    /// What is reserved on the link for all streams together, headers of TCP and IP included; none for as fast as it goes.
    pub rate: Option<BitRate>,
    /// Within this time no more goes out than the rate allows; short, so that others on the link do not wait.
    pub period: Duration,
    /// Done first in every stream's thread.
    pub thread: Option<ThreadSetup>,
}

impl Default for PrecopySettings {
    fn default() -> Self {
        Self {
            encoder: EncoderSettings::PLAIN,
            rate: None,
            period: Duration::from_millis(2),
            thread: None,
        }
    }
}

/// A round that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundSent {
    /// Its figures.
    pub progress: Progress,
    /// What each stream said at its end, by the streams' numbers.
    pub streams: Vec<EndOfRound>,
}

struct Worker {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// Sends a guest's memory in rounds.
pub struct Precopy<'a> {
    log: &'a mut dyn DirtyLog,
    owed: PageSet,
    next_round: u32,
    workers: Vec<Worker>,
    answers: Receiver<Answer>,
    canceller: Canceller,
}

impl<'a> Precopy<'a> {
    /// Begins to track writes, and takes the streams over. The whole memory is owed.
    ///
    /// # Errors
    /// When tracking or a stream's thread cannot begin.
    pub fn start(
        ram: &Arc<dyn GuestRam>,
        log: &'a mut dyn DirtyLog,
        streams: Vec<Framed>,
        settings: &PrecopySettings,
    ) -> Result<Self, PrecopyError> {
        let of = u16::try_from(streams.len()).map_err(|_| PrecopyError::NoStreams)?;
        if of == 0 {
            return Err(PrecopyError::NoStreams);
        }
        let shared = Arc::new(Shared::new(settings));
        let canceller = Canceller::new(shared.clone(), &streams)?;
        let (answer, answers) = channel();
        log.start()?;
        let mut precopy = Self {
            log,
            owed: PageSet::full(ram.pages()),
            next_round: 0,
            workers: Vec::new(),
            answers,
            canceller,
        };
        for (framed, index) in streams.into_iter().zip(0..) {
            let sender = StreamSender {
                framed,
                encoder: Encoder::new(&settings.encoder, of)?,
                ram: ram.clone(),
                share: Share { index, of },
                shared: shared.clone(),
                chunk: stream::Chunk::new(settings),
                sent: stream::Sent::default(),
            };
            precopy.spawn(sender, answer.clone(), settings.thread.clone())?;
        }
        Ok(precopy)
    }

    fn spawn(
        &mut self,
        sender: StreamSender,
        answer: Sender<Answer>,
        setup: Option<ThreadSetup>,
    ) -> Result<(), PrecopyError> {
        let (orders, todo) = channel();
        let index = sender.share.index;
        let thread = std::thread::Builder::new()
            .name(format!("migrate-{index}"))
            .spawn(move || {
                let ready = setup.map_or(Ok(()), |setup| setup(index));
                match ready {
                    Ok(()) => sender.run(&todo, &answer),
                    // Nobody listens any more where the one who directs has given up.
                    Err(error) => drop(answer.send((index, Err(PrecopyError::Thread(error))))),
                }
            })
            .map_err(|error| PrecopyError::Thread(error.into()))?;
        self.workers.push(Worker {
            orders: Some(orders),
            thread: Some(thread),
        });
        Ok(())
    }

    /// What stops it from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Changes what is reserved on the link.
    pub fn set_rate(&mut self, rate: Option<BitRate>) {
        self.canceller.shared.set_rate(rate);
    }

    /// Pages that the other host does not have as they are now: the next round's.
    ///
    /// # Errors
    /// When the log does not answer.
    pub fn dirty(&mut self) -> Result<PageSet, PrecopyError> {
        let mut dirty = self.log.look()?;
        dirty.union_with(&self.owed);
        Ok(dirty)
    }

    /// Sends a round while the guest runs: the classes one after another, each cleared just before it is read. Pages in no class wait for a later round.
    ///
    /// # Errors
    /// When memory, the log or a stream fails, or it was cancelled. What was not sent is still owed, but the streams are of no use any more.
    pub fn round(
        &mut self,
        classes: &[PageSet],
        report: &mut dyn FnMut(&Progress),
    ) -> Result<RoundSent, PrecopyError> {
        self.send_round(classes, true, report)
    }

    /// Sends the last round, while the guest stands: everything that is owed or dirty. Nothing is cleared, which saves its time.
    ///
    /// # Errors
    /// As [`Precopy::round`].
    pub fn last_round(
        &mut self,
        report: &mut dyn FnMut(&Progress),
    ) -> Result<RoundSent, PrecopyError> {
        let dirty = self.dirty()?;
        self.send_round(&[dirty], false, report)
    }

    fn send_round(
        &mut self,
        classes: &[PageSet],
        clear: bool,
        report: &mut dyn FnMut(&Progress),
    ) -> Result<RoundSent, PrecopyError> {
        let of = classes.iter().map(PageSet::len).sum();
        let mut meter = Meter::new(self.canceller.shared.clone(), self.next_round, of, report);
        for class in classes.iter().filter(|class| !class.is_empty()) {
            if class.pages() != self.owed.pages() {
                return Err(PrecopyError::OtherGuest {
                    set: class.pages(),
                    pages: self.owed.pages(),
                });
            }
            // First owed, then cleared: between the two it must not be forgotten.
            self.owed.union_with(class);
            if clear {
                self.log.clear(class)?;
            }
            let pages = Arc::new(class.clone());
            let round = self.next_round;
            self.order(|| Order::Send {
                round,
                pages: pages.clone(),
            })?;
            self.await_all(&mut meter)?;
            self.owed.subtract(class);
        }
        let round = self.next_round;
        self.order(|| Order::End { round })?;
        let streams = self.await_all(&mut meter)?;
        self.next_round += 1;
        Ok(RoundSent {
            progress: meter.tell(),
            streams,
        })
    }

    fn order(&self, order: impl Fn() -> Order) -> Result<(), PrecopyError> {
        if self.canceller.shared.cancelled() {
            return Err(PrecopyError::Cancelled);
        }
        for worker in &self.workers {
            // A stream that failed has said why, and is heard below.
            let _ = worker.orders.as_ref().map(|orders| orders.send(order()));
        }
        Ok(())
    }

    /// Waits until every stream has done what it was told; what they say, by their numbers.
    fn await_all(&self, meter: &mut Meter<'_>) -> Result<Vec<EndOfRound>, PrecopyError> {
        let mut ends = vec![None; self.workers.len()];
        let mut missing = self.workers.len();
        while missing > 0 {
            match self.answers.recv_timeout(ATTENTION) {
                Ok((index, Ok(end))) => {
                    ends[usize::from(index)] = end;
                    missing -= 1;
                }
                Ok((_, Err(_))) if self.canceller.shared.cancelled() => {
                    return Err(PrecopyError::Cancelled);
                }
                Ok((_, Err(error))) => return Err(error),
                Err(RecvTimeoutError::Timeout) => meter.report(),
                Err(RecvTimeoutError::Disconnected) => return Err(PrecopyError::Ended),
            }
        }
        meter.report();
        Ok(ends.into_iter().flatten().collect())
    }

    /// Ends the streams in order, after the last round; the destination sees that nothing follows.
    ///
    /// # Errors
    /// When a stream cannot be ended in order.
    pub fn finish(mut self) -> Result<(), PrecopyError> {
        for worker in &mut self.workers {
            worker.orders = None;
        }
        for worker in &mut self.workers {
            let ended = worker.thread.take().map(JoinHandle::join);
            if matches!(ended, Some(Err(_))) {
                return Err(PrecopyError::Ended);
            }
        }
        match self.answers.try_recv() {
            Ok((_, Err(error))) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Precopy<'_> {
    /// Whoever gives up before the end stops the streams, and waits for their threads: nothing reads the guest's memory afterwards.
    fn drop(&mut self) {
        if self.workers.iter().all(|worker| worker.thread.is_none()) {
            return;
        }
        self.canceller.cancel();
        for worker in &mut self.workers {
            worker.orders = None;
            // A thread that panicked has ended as well.
            let _ = worker.thread.take().map(JoinHandle::join);
        }
    }
}
