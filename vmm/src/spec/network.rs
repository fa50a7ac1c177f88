//! `[network]`: the guest's share of the host's network, and the CPU time of the thread that serves its device.

use std::time::Duration;

use net::PortRequest;
use net::mac::Mac;
use net::share::{Priority, Share};
use sched::request::{BackendKind, Enforcement, VcpuRequest};
use sched::reservation::Reservation;
use serde::Deserialize;

use super::SpecError;
use crate::units::{BitRate, Span};

/// The device's thread gets so much ...
const RUNTIME: Duration = Duration::from_micros(500);
/// ... in every one of these, unless something else is written.
const PERIOD: Duration = Duration::from_millis(10);
/// The longest packet of an ordinary Ethernet.
const MTU: u16 = 1500;
/// The least that IPv4 asks for (RFC 791).
pub(crate) const LEAST_MTU: u16 = 68;

/// A network device as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The rate that is always there, in each direction.
    pub assured: BitRate,
    /// Never more than this; the assured rate if left out.
    pub ceil: Option<BitRate>,
    /// Who takes what others leave first.
    #[serde(default)]
    pub priority: Priority,
    /// The device's address; one made of the VM's name if left out.
    pub mac: Option<Mac>,
    /// The longest packet.
    pub mtu: Option<u16>,
    /// CPU time of the device's thread ...
    pub runtime: Option<Span>,
    /// ... in every one of these.
    pub period: Option<Span>,
    /// What enforces it.
    #[serde(default)]
    pub backend: BackendKind,
    /// The host CPU wanted for the thread.
    pub cpu: Option<u32>,
}

/// What a network device asks of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Its port.
    pub port: PortRequest,
    /// Its thread.
    pub thread: VcpuRequest,
}

impl NetworkSpec {
    /// What is asked for in the name of `vm`.
    pub(super) fn plan(&self, vm: &str) -> Result<NetworkPlan, SpecError> {
        let value = |key: &str, value: String, fits: String| SpecError::Value {
            key: key.to_owned(),
            value,
            fits,
        };
        let mtu = self.mtu.unwrap_or(MTU);
        if mtu < LEAST_MTU {
            let fits = format!("between {LEAST_MTU} and {}", u16::MAX);
            return Err(value("network.mtu", mtu.to_string(), fits));
        }
        let share = Share::new(
            self.assured,
            self.ceil.unwrap_or(self.assured),
            self.priority,
        );
        Ok(NetworkPlan {
            port: PortRequest {
                vm: vm.to_owned(),
                mac: self.mac.unwrap_or_else(|| Mac::of_name(vm)),
                share: share.map_err(SpecError::Share)?,
                mtu,
            },
            thread: self.thread()?,
        })
    }

    fn thread(&self) -> Result<VcpuRequest, SpecError> {
        let reservation = match (self.runtime, self.period) {
            _ if !self.backend.needs_reservation() => None,
            (None, None) => Some((RUNTIME, PERIOD)),
            (Some(runtime), Some(period)) => Some((runtime.duration(), period.duration())),
            (runtime, _) => {
                let missing = if runtime.is_none() {
                    "runtime"
                } else {
                    "period"
                };
                return Err(SpecError::Missing {
                    key: format!("network.{missing}"),
                    fits: "write both, such as runtime = \"0.5ms\", period = \"10ms\", or neither"
                        .to_owned(),
                });
            }
        };
        let reservation = reservation.map(|(runtime, period)| Reservation::new(runtime, period));
        let reservation = reservation
            .transpose()
            .map_err(|source| SpecError::Reservation {
                key: "network".to_owned(),
                source,
            })?;
        Ok(VcpuRequest {
            reservation,
            backend: self.backend,
            // The thread looks at its own account between two stretches of work.
            enforcement: Enforcement::Tick,
            cpu: self.cpu,
            fifo_priority: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::{SpecError, VmPlan, VmSpec};

    fn plan(network: &str) -> Result<VmPlan, SpecError> {
        let text = format!(
            "name = \"a\"\n[guest]\n[cpu]\nruntime = \"1ms\"\nperiod = \"10ms\"\n[network]\n{network}"
        );
        VmSpec::parse(&text)?.plan()
    }

    #[test]
    fn what_is_left_out_of_a_network_is_filled_in() {
        let network = plan("assured = \"6Mbit/s\"").unwrap().network.unwrap();
        assert_eq!(network.port.share.assured, network.port.share.ceil);
        assert_eq!(network.port.mac, net::mac::Mac::of_name("a"));
        assert_eq!(network.port.mtu, 1500);
        assert!(network.thread.reservation.is_some());
    }

    #[test]
    fn a_network_that_cannot_be_is_refused_with_the_key_and_what_would_fit() {
        for (written, said) in [
            ("", "assured"),
            ("assured = \"0bit/s\"", "assured"),
            ("assured = \"200Gbit/s\"", "at most"),
            ("assured = \"2Mbit/s\"\nceil = \"1Mbit/s\"", "ceil"),
            ("assured = \"2Mbit/s\"\nmtu = 67", "network.mtu"),
            ("assured = \"2Mbit/s\"\nmac = \"01:00:00:00:00:00\"", "mac"),
            ("assured = \"2Mbit/s\"\nruntime = \"1ms\"", "network.period"),
            (
                "assured = \"2Mbit/s\"\nruntime = \"2ms\"\nperiod = \"1ms\"",
                "network",
            ),
            ("assured = \"2Mbit/s\"\nspeed = 3", "speed"),
        ] {
            let error = plan(written).unwrap_err().to_string();
            assert!(error.contains(said), "{written}: {error}");
        }
    }
}
