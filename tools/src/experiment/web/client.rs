//! The clients: threads that each ask for one answer after the other, and check every one.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::http::{self, HttpError, Wait};
use crate::experiment::{ExperimentError, interrupt};

/// How long an answer may take: the paper's longest is 90 s.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is asked of a server.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where it listens.
    pub server: SocketAddr,
    /// What is asked for.
    pub path: String,
    /// Whether a body is that of the right answer.
    pub is_right: fn(&[u8]) -> bool,
    /// Clients at a time.
    pub clients: usize,
    /// Requests of each.
    pub requests: usize,
}

/// Why a run is none.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Another one than the right one.
    #[error(
        "http://{server}{path} answered {status} with {length} bytes that are not the right ones"
    )]
    Wrong {
        /// Who answered.
        server: SocketAddr,
        /// To what.
        path: String,
        /// The status code.
        status: u16,
        /// The length of the body.
        length: usize,
    },
}

impl Job {
    /// All clients at once, each with one request after the other; the response times, connecting included. `glance` is
    /// called meanwhile.
    ///
    /// The threads are in the network namespace of the calling one.
    pub fn run(&self, glance: impl Fn()) -> Result<Vec<Duration>, ExperimentError> {
        let times = Mutex::new(Vec::new());
        let failed = Mutex::new(None);
        let is_over = || failed.lock().is_ok_and(|failed| failed.is_some()) || interrupted();
        std::thread::scope(|scope| {
            let client = || match self.client(&is_over) {
                Ok(own) => {
                    if let Ok(mut times) = times.lock() {
                        times.extend(own);
                    }
                }
                Err(error) => {
                    if let Ok(mut failed) = failed.lock() {
                        failed.get_or_insert(error);
                    }
                }
            };
            let clients: Vec<_> = (0..self.clients).map(|_| scope.spawn(client)).collect();
            while clients.iter().any(|client| !client.is_finished()) {
                glance();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        interrupt::check()?;
        if let Some(error) = failed.into_inner().ok().flatten() {
            return Err(error.into());
        }
        Ok(times.into_inner().unwrap_or_default())
    }

    fn client(&self, is_over: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Duration>, ClientError> {
        (0..self.requests).map(|_| self.request(is_over)).collect()
    }

    /// One request; how long it took.
    fn request(&self, is_over: &(dyn Fn() -> bool + Sync)) -> Result<Duration, ClientError> {
        let wait = Wait {
            patience: PATIENCE,
            is_over,
        };
        let begin = Instant::now();
        let answer = http::get(self.server, &self.path, wait)?;
        let time = begin.elapsed();
        if answer.status != 200 || !(self.is_right)(&answer.body) {
            return Err(ClientError::Wrong {
                server: self.server,
                path: self.path.clone(),
                status: answer.status,
                length: answer.body.len(),
            });
        }
        Ok(time)
    }
}

fn interrupted() -> bool {
    interrupt::check().is_err()
}
