//! Ends a try whose guest stands for too long, also while the session's own thread is blocked in a write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

/// How long the session's thread may take to notice. Then the connections are cut, so that it does.
const GRACE: Duration = Duration::from_millis(50);

/// Watches until it is dropped.
pub(super) struct Guard {
    begin: Sender<Instant>,
    struck: Arc<AtomicBool>,
    limit: Duration,
}

impl Guard {
    /// Gets ready, which takes time, before the guest stands. Once `limit` is over `strike` tells the session, with the reason, and `cut` makes it hear.
    pub(super) fn stand_by<'scope>(
        scope: &'scope Scope<'scope, '_>,
        limit: Duration,
        strike: impl FnOnce(String) + Send + 'scope,
        cut: impl FnOnce() + Send + 'scope,
    ) -> io::Result<Self> {
        let (begin, orders) = channel();
        let struck = Arc::new(AtomicBool::new(false));
        let told = struck.clone();
        let watch = move || {
            if is_over(&orders, limit) {
                return;
            }
            told.store(true, Ordering::SeqCst);
            strike(reason(limit));
            if orders.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
                cut();
            }
        };
        let named = Builder::new().name("pause-limit".to_owned());
        named.spawn_scoped(scope, watch)?;
        Ok(Self {
            begin,
            struck,
            limit,
        })
    }

    /// The guest is told to stand, now.
    pub(super) fn begin(&self) {
        // Its thread waits for this.
        let _ = self.begin.send(Instant::now());
    }

    /// Why the try is over, once it is.
    pub(super) fn struck(&self) -> Option<String> {
        self.struck
            .load(Ordering::SeqCst)
            .then(|| reason(self.limit))
    }
}

fn reason(limit: Duration) -> String {
    format!(
        "the guest has stood for {limit:?} and the destination is not complete; it goes on here"
    )
}

/// Whether the guard was dropped before the limit.
fn is_over(orders: &Receiver<Instant>, limit: Duration) -> bool {
    let Ok(begun) = orders.recv() else {
        return true;
    };
    let left = limit.saturating_sub(begun.elapsed());
    orders.recv_timeout(left) != Err(RecvTimeoutError::Timeout)
}
