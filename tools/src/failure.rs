//! What went wrong, for the user: one line, with its causes, on standard error.

use std::error::Error;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    message: String,
    status: u8,
}

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// Exit status of a command whose request was understood but refused: admission, partition, noise.
pub const REFUSED: u8 = 3;

impl Failure {
    /// A failure with a text of our own.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: FAILED,
        }
    }

    /// The same failure, marked as a refusal.
    #[must_use]
    pub fn refused(self) -> Self {
        Self {
            status: REFUSED,
            ..self
        }
    }

    /// The same failure, with this exit status.
    #[must_use]
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// The same failure, with what was being done in front.
    #[must_use]
    pub fn while_doing(self, what: &str) -> Self {
        Self {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }

    /// The same failure, with what would help behind.
    #[must_use]
    pub fn with_hint(self, hint: &str) -> Self {
        Self {
            message: format!("{}; {hint}", self.message),
            ..self
        }
    }

    /// Prints it on standard error.
    pub fn print(&self) {
        eprintln!("error: {}", self.message);
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some errors repeat their source in their own text.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(message)
    }
}
