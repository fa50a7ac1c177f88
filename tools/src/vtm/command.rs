//! What can be asked of VTMs, and what is answered.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::str::FromStr;

use net::share::Priority;
use sched::vtm::{JobSource, Need, Placement, Status};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vmm::units::{BitRate, Span};

/// What can be asked. What needs no more words has braces all the same: only then are keys that are not known refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Make a VTM.
    Create {
        /// Its name.
        vtm: String,
        /// How long a job runs before the next one has its turn, if not as long as usual.
        #[serde(default)]
        quantum: Option<Span>,
        /// How many jobs run at once, if not one.
        #[serde(default)]
        active: Option<NonZeroUsize>,
    },
    /// Reserve a share of the CPU (`cpu_reservation`).
    Reserve(Share),
    /// Change the shares of several VTMs: all, or none (`cpu_adapt`).
    Adapt {
        /// The new shares. A maximum delay that is not given stays as it is.
        changes: Vec<Share>,
    },
    /// Make a job of processes (`add_resource`).
    Add {
        /// The VTM.
        vtm: String,
        /// Which processes.
        source: JobSource,
    },
    /// Let go of a job.
    Remove {
        /// The VTM.
        vtm: String,
        /// Its job.
        job: String,
    },
    /// Give a VTM or one of its jobs no CPU until it is resumed.
    Suspend {
        /// The VTM.
        vtm: String,
        /// Only this job of it.
        #[serde(default)]
        job: Option<String>,
    },
    /// Give it the CPU again.
    Resume {
        /// The VTM.
        vtm: String,
        /// Only this job of it.
        #[serde(default)]
        job: Option<String>,
    },
    /// Begin to dispatch.
    Schedule {},
    /// Tell how everything stands.
    Status {},
    /// Tell the dispatch table.
    Table {},
    /// Reserve a share of the network (`network_reserve`).
    NetworkReserve(NetworkShare),
    /// Change shares of the network: all, or none (`network_adapt`).
    NetworkAdapt {
        /// The new shares.
        changes: Vec<Bandwidth>,
    },
    /// Let go of all jobs of a VTM, and forget it.
    Release {
        /// The VTM.
        vtm: String,
    },
    /// Release everything, and end.
    Quit {},
}

/// A share of the CPU for a VTM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The VTM.
    pub vtm: String,
    /// What it needs of each period.
    pub need: Amount,
    /// The period.
    pub period: Span,
    /// The latest start of its first slot in a period.
    #[serde(default)]
    pub max_delay: Option<Span>,
}

/// A share of the network for a VTM, for packets to hosts, or of a user or control group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkShare {
    /// The VTM.
    pub vtm: String,
    /// What it is assured.
    pub bandwidth: BitRate,
    /// The most it may have, if not all of the link.
    #[serde(default)]
    pub ceil: Option<BitRate>,
    /// Whether it takes spare bandwidth first.
    #[serde(default)]
    pub priority: Priority,
    /// The hosts.
    #[serde(default)]
    pub targets: Vec<IpAddr>,
    /// The user, instead of hosts.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The control group (version 2), instead of both.
    #[serde(default)]
    pub cgroup: Option<String>,
}

/// What a VTM is to be assured of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// The VTM.
    pub vtm: String,
    /// Its share.
    pub bandwidth: BitRate,
}

/// What a VTM needs of each period, as people write it: `16ms` or `40%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Amount(pub Need);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Need::Time(time) => Span::from(time).fmt(f),
            Need::Usage(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is neither a time nor a share; write for example `16ms` or `40%`");
        let need = match text.trim().strip_suffix('%') {
            Some(percent) => Need::Usage(percent.trim_end().parse().map_err(|_| wrong())?),
            None => Need::Time(text.parse::<Span>().map_err(|_| wrong())?.duration()),
        };
        Ok(Self(need))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// VTMs are promised this.
    Promised(Vec<Promised>),
    /// VTMs have these shares of the network.
    Shares(Vec<ShareOfNetwork>),
    /// There is a job of this name.
    Added {
        /// The name.
        job: String,
    },
    /// How everything stands.
    Status(Box<Status>),
    /// The dispatch table.
    Table(Box<Drawing>),
}

/// What a VTM is promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The VTM.
    pub vtm: String,
    /// Execution time in every period: whole slots.
    pub execution: Span,
    /// The period.
    pub period: Span,
}

/// What a VTM has of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareOfNetwork {
    /// The VTM.
    pub vtm: String,
    /// Its share.
    pub share: net::share::Share,
}

/// A dispatch table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawing {
    /// The length of a slot.
    pub slot: Span,
    /// The placement it has: not the one asked for where that did not fit.
    pub placement: Placement,
    /// The VTMs.
    pub vtms: Vec<String>,
    /// The VTM of each slot, as an index of `vtms`; none in idle slots.
    pub slots: Vec<Option<usize>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Command, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_wherever_it_stands() {
        let share = r#""vtm":"gold","need":"16ms","period":"40ms""#;
        for (right, wrong) in [
            (
                format!(r#"{{"kind":"reserve",{share}}}"#),
                format!(r#"{{"kind":"reserve",{share},"force":1}}"#),
            ),
            (
                format!(r#"{{"kind":"adapt","changes":[{{{share}}}]}}"#),
                format!(r#"{{"kind":"adapt","changes":[{{{share},"force":1}}]}}"#),
            ),
            (
                r#"{"kind":"schedule"}"#.to_owned(),
                r#"{"kind":"schedule","force":1}"#.to_owned(),
            ),
            (
                r#"{"kind":"suspend","vtm":"gold"}"#.to_owned(),
                r#"{"kind":"suspend","vtm":"gold","force":1}"#.to_owned(),
            ),
        ] {
            read(&right).unwrap();
            let error = read(&wrong).unwrap_err().to_string();
            assert!(error.contains("unknown field `force`"), "{wrong}: {error}");
        }
        let error = read(r#"{"kind":"destroy"}"#).unwrap_err().to_string();
        assert!(
            error.contains("destroy") && error.contains("release"),
            "{error}"
        );
    }

    #[test]
    fn a_time_that_is_none_is_refused_with_one_that_is() {
        for text in [
            "-16ms",
            "16",
            "ms",
            "1e3ms",
            "99999999999999999999s",
            "%",
            "x%",
            "",
        ] {
            let error = text.parse::<Amount>().unwrap_err();
            assert!(
                error.contains(&format!("`{text}`")) && error.contains("16ms"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos: u64, percent in 0.0..1e9f64) {
            for need in [Need::Time(std::time::Duration::from_nanos(nanos)), Need::Usage(percent)] {
                prop_assert_eq!(Amount(need).to_string().parse::<Amount>().unwrap(), Amount(need));
            }
        }
    }
}
