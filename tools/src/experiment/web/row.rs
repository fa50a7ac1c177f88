//! What serves, and what the paper measured of it.

use std::time::Duration;

use sched::request::BackendKind;
use sched::reservation::Reservation;

use super::statistics::Statistics;
use crate::experiment::ExperimentError;
use crate::experiment::guest::Share;

/// The reservation of the paper's macro benchmark.
const BUDGET: Duration = Duration::from_millis(3);
const PERIOD: Duration = Duration::from_millis(5);

/// Who serves the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// A thread of the host.
    Host,
    /// A guest as an ordinary process.
    Guest,
    /// The same beside real-time load.
    Loaded,
    /// A guest in a reservation.
    Reserved,
    /// The same beside real-time load.
    ReservedLoaded,
}

impl Row {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] = [
        Self::Host,
        Self::Guest,
        Self::Loaded,
        Self::Reserved,
        Self::ReservedLoaded,
    ];

    /// Its name in tables and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
            Self::Loaded => "guest, loaded",
            Self::Reserved => "guest in (3, 5) ms",
            Self::ReservedLoaded => "guest in (3, 5) ms, loaded",
        }
    }

    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
            Self::Loaded => "guest-loaded",
            Self::Reserved => "reserved",
            Self::ReservedLoaded => "reserved-loaded",
        }
    }

    /// Whether the periodic real-time tasks run beside it.
    pub fn is_loaded(self) -> bool {
        matches!(self, Self::Loaded | Self::ReservedLoaded)
    }

    /// The guest's share of the CPU; none if no guest serves.
    pub fn share(self) -> Result<Option<Share>, ExperimentError> {
        Ok(match self {
            Self::Host => None,
            Self::Guest | Self::Loaded => Some(Share::ORDINARY),
            Self::Reserved | Self::ReservedLoaded => {
                let reservation = Reservation::new(BUDGET, PERIOD)?;
                Some(Share::reserved(BackendKind::Deadline, reservation))
            }
        })
    }

    /// What the paper measured, seconds: Cucinotta, Anastasi and Abeni, "Providing performance guarantees to virtual
    /// machines using real-time scheduling", table 1.
    pub fn paper(self) -> Option<Published> {
        let published = |min, avg, max, sd| Some(Published { min, avg, max, sd });
        match self {
            Self::Host => published(0.22, 1.14, 7.91, 1.26),
            Self::Guest => published(0.26, 1.22, 8.42, 1.07),
            Self::Loaded => published(1.153, 11.367, 89.88, 15.449),
            Self::Reserved => None,
            Self::ReservedLoaded => published(0.790, 2.044, 10.832, 1.275),
        }
    }
}

/// Published figures, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// The longest.
    pub max: f64,
    /// The standard deviation.
    pub sd: f64,
}

/// What came of a row.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Who served.
    pub row: Row,
    /// The response times of every run; why there are none.
    pub runs: Result<Vec<Vec<Duration>>, String>,
}

impl Measured {
    /// Its figures.
    pub fn statistics(&self) -> Option<Statistics> {
        Statistics::of(self.runs.as_ref().ok()?)
    }
}
