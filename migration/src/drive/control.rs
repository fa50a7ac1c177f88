//! The control connection of a running session: one thread speaks, another listens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::transport::{Breaker, Framed, Received, TransportError, Watch};
use crate::wire::{Message, Version};

/// How soon a listener notices that it is not wanted any more.
const ATTENTION: Duration = Duration::from_millis(10);
/// How long the end may take that is in order; then the connection is cut.
const GRACE: Duration = Duration::from_millis(200);

/// What the listener heard: a message, or why none comes any more.
pub(super) type Heard = Result<Message, String>;

/// A control connection.
pub(super) struct Control {
    framed: Arc<Mutex<Framed>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
    breaker: Arc<Breaker>,
}

fn locked(framed: &Mutex<Framed>) -> MutexGuard<'_, Framed> {
    framed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Begins to listen; `tell` gets what is heard.
    pub(super) fn start(
        mut framed: Framed,
        tell: impl FnMut(Heard) + Send + 'static,
    ) -> Result<Self, TransportError> {
        let (watch, breaker) = (framed.connection().watch()?, framed.breaker()?);
        let framed = Arc::new(Mutex::new(framed));
        let stop = Arc::new(AtomicBool::new(false));
        let listener = Listening {
            framed: framed.clone(),
            stop: stop.clone(),
            watch,
        };
        Ok(Self {
            framed,
            stop,
            listener: Some(std::thread::spawn(move || listener.run(tell))),
            breaker: Arc::new(breaker),
        })
    }

    pub(super) fn say(&self, message: &Message) -> Result<(), TransportError> {
        locked(&self.framed).say(message)
    }

    fn is_deaf(&self) -> bool {
        self.listener.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What ends it at once, whatever is waited for.
    pub(super) fn breaker(&self) -> Arc<Breaker> {
        self.breaker.clone()
    }

    pub(super) fn agree(&self, version: Version) {
        locked(&self.framed).agree(version);
    }
}

impl Drop for Control {
    /// In order, so that what was said last arrives; but not later than whoever is at the other end wants.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let until = Instant::now() + GRACE;
        let mut closed = false;
        while Instant::now() < until && !(closed && self.is_deaf()) {
            // The listener holds it as long as a message takes to come.
            if let (false, Ok(mut framed)) = (closed, self.framed.try_lock()) {
                // The other side may be gone.
                let _ = framed.connection().close();
                closed = true;
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.breaker.cut();
        // A panic in it was printed already.
        let _ = self.listener.take().map(JoinHandle::join);
    }
}

struct Listening {
    framed: Arc<Mutex<Framed>>,
    stop: Arc<AtomicBool>,
    watch: Watch,
}

impl Listening {
    fn run(self, mut tell: impl FnMut(Heard)) {
        while !self.stop.load(Ordering::Relaxed) {
            let holds_bytes = locked(&self.framed).holds_bytes();
            // Not under the lock: the other thread speaks meanwhile.
            let ready = holds_bytes || self.watch.wait(ATTENTION).unwrap_or(true);
            if !ready {
                continue;
            }
            let heard = self.hear();
            let over = heard.is_err();
            tell(heard);
            if over {
                return;
            }
        }
    }

    fn hear(&self) -> Heard {
        match locked(&self.framed).hear(ATTENTION) {
            Ok(Some(Received::Message(message))) => Ok(message),
            Ok(Some(Received::Pages(..))) => Err("pages came on the control connection".to_owned()),
            Ok(None) => Err("the other side closed the connection".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
