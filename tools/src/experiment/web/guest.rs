//! The guest that serves.

use std::net::SocketAddr;

use crate::experiment::ExperimentError;
use crate::experiment::guest::Share;
use crate::experiment::stage::Stage;

/// A guest whose web service is reached.
pub struct WebGuest {
    server: SocketAddr,
}

impl WebGuest {
    /// Starts it.
    pub fn start(_stage: &Stage, _share: Share) -> Result<Self, ExperimentError> {
        Err(ExperimentError::Tasks("guests have no network yet".to_owned()))
    }

    /// Where it listens.
    pub fn server(&self) -> SocketAddr {
        self.server
    }
}
