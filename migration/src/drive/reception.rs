//! Who calls: so many at once, each with a deadline to show a certificate and to say what for. Whoever is slow, silent or mad keeps nobody else out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

use crate::transport::listener::Caller;
use crate::transport::{Breaker, Framed, Listener, Received};
use crate::wire::Message;

/// How soon a deadline, or the end, is noticed.
pub(super) const ATTENTION: Duration = Duration::from_millis(20);
/// Most callers that have not yet said what they want; more are closed at once.
pub(super) const MOST_CALLERS: usize = 16;

/// What a caller's first message is handed to, in the caller's own thread.
pub(super) trait Host: Send + Sync {
    /// Takes the caller over.
    fn introduce(&self, framed: Framed, message: Message);
}

/// Lets callers in until it is closed.
pub(super) struct Reception {
    /// From being accepted to the end of the first message.
    patience: Duration,
    over: AtomicBool,
    callers: Mutex<Callers>,
}

#[derive(Default)]
struct Callers {
    next: u64,
    /// With their deadlines.
    strangers: BTreeMap<u64, (Instant, Breaker)>,
}

/// One caller's place among the strangers, until it is dropped.
struct Place<'a> {
    reception: &'a Reception,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.reception.callers().strangers.remove(&self.number);
    }
}

impl Reception {
    pub(super) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            patience,
            over: AtomicBool::new(false),
            callers: Mutex::default(),
        })
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Lets nobody in any more; strangers are sent away.
    pub(super) fn close(&self) {
        // Under the lock, so that nobody enters afterwards.
        let callers = self.callers();
        self.over.store(true, Ordering::Relaxed);
        callers.strangers.values().for_each(|(_, it)| it.cut());
    }

    /// Lets in who comes, in threads of `scope`, until it is closed.
    pub(super) fn keep<'scope, H: Host + 'scope>(
        self: &Arc<Self>,
        scope: &'scope Scope<'scope, '_>,
        listener: &'scope Listener,
        host: Arc<H>,
    ) {
        let reception = self.clone();
        scope.spawn(move || {
            while !reception.is_over() {
                reception.cut_overdue();
                match listener.accept(ATTENTION) {
                    Ok(Some(caller)) => reception.admit(scope, caller, &host),
                    Ok(None) => {}
                    // Too many files are open, say; that passes.
                    Err(_) => std::thread::sleep(ATTENTION),
                }
            }
        });
    }

    fn cut_overdue(&self) {
        let now = Instant::now();
        let callers = self.callers();
        let overdue = callers.strangers.values().filter(|(until, _)| *until < now);
        overdue.for_each(|(_, breaker)| breaker.cut());
    }

    fn admit<'scope, H: Host + 'scope>(
        self: &Arc<Self>,
        scope: &'scope Scope<'scope, '_>,
        caller: Caller,
        host: &Arc<H>,
    ) {
        let Some(number) = self.enter(&caller) else {
            return;
        };
        let (reception, host) = (self.clone(), host.clone());
        let spawned = Builder::new()
            .name("caller".to_owned())
            .spawn_scoped(scope, move || reception.hear(number, caller, &*host));
        if spawned.is_err() {
            // Without a thread it is sent away.
            self.callers().strangers.remove(&number);
        }
    }

    fn enter(&self, caller: &Caller) -> Option<u64> {
        let breaker = caller.breaker().ok()?;
        let mut callers = self.callers();
        if self.is_over() || callers.strangers.len() >= MOST_CALLERS {
            return None;
        }
        let number = callers.next;
        callers.next += 1;
        let until = Instant::now() + self.patience;
        callers.strangers.insert(number, (until, breaker));
        Some(number)
    }

    /// Whoever cannot show a certificate, says nothing in time, or nothing that can be read, is sent away.
    fn hear<H: Host>(&self, number: u64, caller: Caller, host: &H) {
        let place = Place {
            reception: self,
            number,
        };
        let Ok(connection) = caller.greet() else {
            return;
        };
        let mut framed = Framed::new(connection);
        let Ok(Some(Received::Message(message))) = framed.hear(self.patience) else {
            return;
        };
        drop(place);
        host.introduce(framed, message);
    }
}
