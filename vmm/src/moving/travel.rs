//! A guest's plan as it travels: what the destination needs to know of it before its memory comes, and checks as it would a user's.
//!
//! Two bytes of version, then JSON. The image does not travel: what it became lies in memory. Wishes for CPUs do not either: they are those of the
//! host that the guest leaves.

use std::time::Duration;

use net::PortRequest;
use net::mac::Mac;
use net::share::Share;
use rt_abi::taskset::TaskSet;
use sched::feedback::Envelope;
use sched::request::VcpuRequest;
use serde::{Deserialize, Serialize};

use crate::memory::MemoryPlan;
use crate::spec::{self, ImageSource, LEAST_MTU, MAX_VCPUS, NetworkPlan, VmPlan};
use crate::units::ByteSize;

/// Version of [`GuestV1`].
const VERSION: u16 = 1;
/// The longest command line; that of `rt-guest` with all its tasks is shorter.
const LONGEST_LINE: usize = 16 << 10;

/// What came is no guest that could be taken.
#[derive(Debug, thiserror::Error)]
pub enum TravelError {
    /// Of another time.
    #[error(
        "the guest is described in form {found}; this host reads form {VERSION}: bring both hosts to the same release"
    )]
    Version {
        /// The version found.
        found: u16,
    },
    /// Not even that.
    #[error("the guest's description cannot be read: {0}")]
    Unreadable(String),
    /// A value that no specification may have.
    #[error("the guest's description has {key} = {value}: {fits}")]
    Value {
        /// Which.
        key: &'static str,
        /// What it is.
        value: String,
        /// What would do.
        fits: String,
    },
}

/// The first form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestV1 {
    name: String,
    /// Whether it runs the image that comes with the program, whose command line names its tasks.
    is_built_in: bool,
    /// Where the image lay.
    image: String,
    command_line: String,
    memory: ByteSize,
    hugepages: bool,
    vcpus: Vec<VcpuRequest>,
    feedback: Option<EnvelopeV1>,
    phases: Option<Vec<Duration>>,
    watchdog: Option<Duration>,
    network: Option<NetworkV1>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeV1 {
    least: Duration,
    greatest: Duration,
    initial: Duration,
    period: Duration,
    span: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkV1 {
    mac: Mac,
    share: Share,
    mtu: u16,
    thread: VcpuRequest,
}

/// Writes a plan down.
#[must_use]
pub fn encode(plan: &VmPlan) -> Vec<u8> {
    let anywhere = |request: &VcpuRequest| VcpuRequest {
        cpu: None,
        ..request.clone()
    };
    let guest = GuestV1 {
        name: plan.name.clone(),
        is_built_in: plan.image == ImageSource::BuiltIn,
        image: match &plan.image {
            ImageSource::BuiltIn => spec::BUILT_IN_IMAGE.to_owned(),
            ImageSource::File(path) => path.display().to_string(),
        },
        command_line: plan.command_line.clone(),
        memory: plan.memory.size,
        hugepages: plan.memory.hugepages,
        vcpus: plan.requests.iter().map(anywhere).collect(),
        feedback: plan.feedback.map(|envelope| EnvelopeV1 {
            least: envelope.least(),
            greatest: envelope.greatest(),
            initial: envelope.initial(),
            period: envelope.period(),
            span: envelope.span(),
        }),
        phases: plan.phases.clone(),
        watchdog: plan.watchdog,
        network: plan.network.as_ref().map(|network| NetworkV1 {
            mac: network.port.mac,
            share: network.port.share,
            mtu: network.port.mtu,
            thread: anywhere(&network.thread),
        }),
    };
    let mut bytes = VERSION.to_le_bytes().to_vec();
    bytes.extend(serde_json::to_vec(&guest).expect("a plan has no keys that JSON cannot have"));
    bytes
}

/// Reads what another host has written, which may be anything.
///
/// # Errors
/// [`TravelError`] names the first value that no specification could have.
pub fn decode(bytes: &[u8]) -> Result<VmPlan, TravelError> {
    let (version, json) = bytes
        .split_first_chunk()
        .ok_or_else(|| TravelError::Unreadable("it is empty".to_owned()))?;
    match u16::from_le_bytes(*version) {
        VERSION => {}
        found => return Err(TravelError::Version { found }),
    }
    let guest: GuestV1 =
        serde_json::from_slice(json).map_err(|error| TravelError::Unreadable(error.to_string()))?;
    guest.plan()
}

fn value(key: &'static str, value: impl ToString, fits: impl Into<String>) -> TravelError {
    TravelError::Value {
        key,
        value: value.to_string(),
        fits: fits.into(),
    }
}

impl GuestV1 {
    fn plan(self) -> Result<VmPlan, TravelError> {
        self.check()?;
        let memory = MemoryPlan {
            size: self.memory,
            hugepages: self.hugepages,
        };
        spec::check_memory(memory).map_err(|error| TravelError::Unreadable(error.to_string()))?;
        let tasks = match self.is_built_in {
            true => Some(Box::new(TaskSet::parse(&self.command_line).map_err(
                |error| value("command_line", &self.command_line, error.to_string()),
            )?)),
            false => None,
        };
        let feedback = self.feedback.map(EnvelopeV1::envelope).transpose()?;
        let network = self
            .network
            .map(|network| network.plan(&self.name))
            .transpose()?;
        Ok(VmPlan {
            image: match self.is_built_in {
                true => ImageSource::BuiltIn,
                false => ImageSource::File(self.image.into()),
            },
            name: self.name,
            command_line: self.command_line,
            tasks,
            memory,
            requests: self.vcpus,
            feedback,
            phases: self.phases,
            watchdog: self.watchdog,
            network,
        })
    }

    fn check(&self) -> Result<(), TravelError> {
        if !spec::is_name(&self.name) {
            return Err(value("name", format!("{:?}", self.name), "no name of a VM"));
        }
        if self.command_line.len() > LONGEST_LINE {
            let fits = format!("at most {LONGEST_LINE} bytes");
            return Err(value("command_line", self.command_line.len(), fits));
        }
        let vcpus = self.vcpus.len();
        if !u32::try_from(vcpus).is_ok_and(|count| (1..=MAX_VCPUS).contains(&count)) {
            return Err(value("vcpus", vcpus, format!("between 1 and {MAX_VCPUS}")));
        }
        let network = self.network.iter().map(|network| &network.thread);
        self.vcpus
            .iter()
            .chain(network)
            .try_for_each(check_request)?;
        match &self.phases {
            Some(phases) if phases.len() != vcpus => {
                let fits = format!("one for each of the {vcpus} vCPUs");
                Err(value("phases", phases.len(), fits))
            }
            _ => Ok(()),
        }
    }
}

fn check_request(request: &VcpuRequest) -> Result<(), TravelError> {
    let has = request.reservation.is_some();
    if request.backend.needs_reservation() && !has {
        let fits = format!("back end {} needs one", request.backend);
        return Err(value("reservation", "none", fits));
    }
    match request.fifo_priority {
        Some(priority) if !(1..=99).contains(&priority) => {
            Err(value("fifo_priority", priority, "between 1 and 99"))
        }
        _ => Ok(()),
    }
}

impl EnvelopeV1 {
    fn envelope(self) -> Result<Envelope, TravelError> {
        Envelope::new(self.least, self.greatest, self.period)
            .and_then(|envelope| envelope.beginning_with(self.initial))
            .and_then(|envelope| envelope.measured_over(self.span))
            .map_err(|error| value("feedback", format!("{self:?}"), error.to_string()))
    }
}

impl NetworkV1 {
    fn plan(self, vm: &str) -> Result<NetworkPlan, TravelError> {
        let share = self.share.check();
        share.map_err(|error| value("network.share", self.share, error.to_string()))?;
        if self.mtu < LEAST_MTU {
            let fits = format!("between {LEAST_MTU} and {}", u16::MAX);
            return Err(value("network.mtu", self.mtu, fits));
        }
        Ok(NetworkPlan {
            port: PortRequest {
                vm: vm.to_owned(),
                mac: self.mac,
                share: self.share,
                mtu: self.mtu,
            },
            thread: self.thread,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::VmSpec;

    fn plan() -> VmPlan {
        let text = "name = \"a\"\n[guest]\nmemory = \"24MiB\"\nwatchdog = \"3s\"\n\
            [[guest.task]]\nname = \"w\"\nexecution = \"1ms\"\nperiod = \"10ms\"\n\
            [cpu]\nvcpus = 2\nruntime = \"4ms\"\nperiod = \"10ms\"\n[[cpu.vcpu]]\ncpu = 0\n[[cpu.vcpu]]\ncpu = 1\n\
            [network]\nassured = \"6Mbit/s\"\ncpu = 0\n";
        VmSpec::parse(text).unwrap().plan().unwrap()
    }

    fn changed(from: &str, to: &str) -> TravelError {
        let bytes = encode(&plan());
        let text = std::str::from_utf8(&bytes[2..]).unwrap();
        assert!(text.contains(from), "{text}");
        let text = text.replacen(from, to, 1);
        decode(&[&bytes[..2], text.as_bytes()].concat()).unwrap_err()
    }

    #[test]
    fn a_plan_arrives_as_it_left_but_for_the_cpus_of_the_other_host() {
        let there = decode(&encode(&plan())).unwrap();
        let mut here = plan();
        here.requests
            .iter_mut()
            .for_each(|request| request.cpu = None);
        here.network.as_mut().unwrap().thread.cpu = None;
        assert_eq!(format!("{there:?}"), format!("{here:?}"));
    }

    #[test]
    fn values_that_no_specification_could_have_are_refused_by_name() {
        for (from, to, said) in [
            ("\"name\":\"a\"", "\"name\":\"../a\"", "name"),
            ("\"24MiB\"", "\"1KiB\"", "memory"),
            ("\"24MiB\"", "\"9000GiB\"", "memory"),
            ("task=w", "task=", "command_line"),
            ("\"mtu\":1500", "\"mtu\":12", "network.mtu"),
            (
                "\"assured\":\"6Mbit/s\"",
                "\"assured\":\"1bit/s\"",
                "network.share",
            ),
            ("4000000", "40000000", "runtime"),
            ("\"watchdog\"", "\"watchcat\"", "watchcat"),
            (
                "\"phases\":[",
                "\"phases\":[{\"secs\":0,\"nanos\":0},",
                "phases",
            ),
        ] {
            let error = changed(from, to).to_string();
            assert!(error.contains(said), "{from}: {error}");
        }
    }

    #[test]
    fn a_form_of_the_future_is_refused_before_it_is_read() {
        let mut bytes = encode(&plan());
        bytes[0] = 2;
        bytes.truncate(20);
        let error = decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("form 2"), "{error}");
        assert!(decode(&[1]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_bytes_come_nothing_breaks(at in 0..800usize, byte in 0..=255u8, cut in 0..900usize) {
            let mut bytes = encode(&plan());
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            let _ = decode(&bytes);
        }
    }
}
