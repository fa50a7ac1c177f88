//! Signals that ask a command to come to its end, for those that have something to put in order first.

use std::io;

use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for the end. They are caught as long as this lives, and after.
pub struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// From now on they end nothing by themselves.
    pub fn catch() -> io::Result<Self> {
        let kinds = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        let caught = kinds.map(|kind| Ok((kind, signal(SignalKind::from_raw(kind))?)));
        Ok(Self(caught.into_iter().collect::<io::Result<_>>()?))
    }

    /// The next one.
    pub async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            let ready = self
                .0
                .iter_mut()
                .find_map(|(kind, signal)| signal.poll_recv(context).is_ready().then_some(*kind));
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}
