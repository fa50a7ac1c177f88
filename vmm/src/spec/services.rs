//! `[guest.net]` and `[[guest.rtp]]`: the network of `rt-guest` as it sees it, and its services.
//!
//! They become words of its command line (rt_abi::taskset::network). What the host gives the guest is not said here.

use std::net::{Ipv4Addr, SocketAddrV4};

use rt_abi::taskset::Stream;
use serde::Deserialize;

use super::{GuestSpec, SpecError};
use crate::units::{BitRate, ByteSize, Span};

/// Memory that a guest needs at least with a network, with TCP sinks and sources, and with HTTP, whose images have 12 MB each.
const LEAST_MEMORY: [ByteSize; 3] = [
    ByteSize::mebibytes(4),
    ByteSize::mebibytes(8),
    ByteSize::mebibytes(32),
];

/// The network of `rt-guest`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Its address and prefix.
    pub address: String,
    /// Who forwards what goes elsewhere.
    pub gateway: Option<Ipv4Addr>,
    /// The period of the task that runs the network, for its place among the tasks.
    pub period: Option<Span>,
    /// How much of each period this task runs at most; those below it wait while frames come if left out.
    pub execution: Option<Span>,
    /// Its priority among tasks that have one; under fixed priorities.
    pub priority: Option<u8>,
    /// Port of UDP echo with times.
    pub echo: Option<u16>,
    /// Port of HTTP whose requests rotate an image.
    pub http: Option<u16>,
    /// The period of the task that serves HTTP requests, for its place among the tasks.
    pub http_period: Option<Span>,
    /// Its priority among tasks that have one.
    pub http_priority: Option<u8>,
    /// Port of TCP that takes what it is sent.
    pub sink: Option<u16>,
    /// Port of TCP that sends without end.
    pub source: Option<u16>,
}

/// A stream of `rt-guest`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSpec {
    /// Address and port that it goes to.
    pub to: SocketAddrV4,
    /// Processor time of a frame.
    pub execution: Option<Span>,
    /// Time between two frames.
    pub period: Option<Span>,
    /// Bit rate on the wire.
    pub rate: Option<BitRate>,
    /// Time of the first frame.
    pub offset: Option<Span>,
    /// Its priority among tasks that have one.
    pub priority: Option<u8>,
}

/// What can be said of a service's place among the tasks.
fn place(period: Option<Span>, priority: Option<u8>) -> String {
    let period = period.map(|period| format!(",t={period}"));
    let priority = priority.map(|priority| format!(",prio={priority}"));
    period.unwrap_or_default() + &priority.unwrap_or_default()
}

impl GuestSpec {
    /// The words of the command line for network and services.
    pub(super) fn service_words(&self) -> Vec<String> {
        let streams = self.streams.iter().map(StreamSpec::word);
        let net = self.net.iter().flat_map(NetSpec::words);
        net.chain(streams).collect()
    }

    /// Checks network and services as far as the guest itself would not name the key.
    pub(super) fn check_services(&self, has_device: bool) -> Result<(), SpecError> {
        let Some(net) = &self.net else {
            return match self.streams.first() {
                Some(stream) => Err(SpecError::Missing {
                    key: "guest.net".to_owned(),
                    fits: format!(
                        "the stream to {} needs a network; write [guest.net] with an address",
                        stream.to
                    ),
                }),
                None => Ok(()),
            };
        };
        if !has_device {
            return Err(SpecError::Missing {
                key: "network".to_owned(),
                fits: "guest.net needs a device; write [network] with an assured rate".to_owned(),
            });
        }
        net.check_address()?;
        net.check_ports()?;
        let tcp = net.sink.or(net.source).is_some();
        let [plain, with_tcp, with_http] = LEAST_MEMORY;
        let (least, why) = match (net.http, tcp) {
            (Some(_), _) => (with_http, "guest.net.http, whose requests rotate images"),
            (None, true) => (with_tcp, "guest.net.sink or source"),
            (None, false) => (plain, "guest.net"),
        };
        if self.memory >= least {
            return Ok(());
        }
        Err(SpecError::Value {
            key: "guest.memory".to_owned(),
            value: format!("\"{}\"", self.memory),
            fits: format!("at least {least} with {why}"),
        })
    }
}

impl NetSpec {
    fn words(&self) -> Vec<String> {
        let gateway = self.gateway.map(|gateway| format!(",{gateway}"));
        let place_of_net = place(self.period, self.priority);
        let place_of_http = place(self.http_period, self.http_priority);
        let budget = self.execution.map(|execution| format!(",c={execution}"));
        let budget = budget.unwrap_or_default();
        let mut words = vec![format!(
            "net={}{}{budget}{place_of_net}",
            self.address,
            gateway.unwrap_or_default()
        )];
        words.extend(self.http.map(|port| format!("http={port}{place_of_http}")));
        let ports = [
            ("echo", self.echo),
            ("sink", self.sink),
            ("source", self.source),
        ];
        let ports = ports.iter().filter_map(|(key, port)| Some((key, (*port)?)));
        words.extend(ports.map(|(key, port)| format!("{key}={port}")));
        words
    }

    fn check_address(&self) -> Result<(), SpecError> {
        let parts = self.address.split_once('/');
        let address = parts.and_then(|(address, _)| address.parse::<Ipv4Addr>().ok());
        let prefix = parts.and_then(|(_, prefix)| prefix.parse::<u8>().ok());
        match (address, prefix) {
            (Some(_), Some(1..=31)) => Ok(()),
            _ => Err(SpecError::Value {
                key: "guest.net.address".to_owned(),
                value: format!("{:?}", self.address),
                fits: "an IPv4 address and a prefix from 1 to 31, such as \"10.77.0.2/24\""
                    .to_owned(),
            }),
        }
    }

    fn check_ports(&self) -> Result<(), SpecError> {
        let ports = [
            ("echo", self.echo),
            ("http", self.http),
            ("sink", self.sink),
            ("source", self.source),
        ];
        match ports.iter().find(|(_, port)| *port == Some(0)) {
            Some((key, _)) => Err(SpecError::Value {
                key: format!("guest.net.{key}"),
                value: "0".to_owned(),
                fits: "a port from 1 to 65535".to_owned(),
            }),
            None if self.http.is_none()
                && (self.http_period.is_some() || self.http_priority.is_some()) =>
            {
                Err(SpecError::Missing {
                    key: "guest.net.http".to_owned(),
                    fits: "the port, or remove guest.net.http_period and http_priority".to_owned(),
                })
            }
            None => Ok(()),
        }
    }
}

impl StreamSpec {
    fn word(&self) -> String {
        let mut word = format!("rtp={}", self.to);
        for (key, value) in [("c", self.execution), ("o", self.offset)] {
            if let Some(value) = value {
                word.push_str(&format!(",{key}={value}"));
            }
        }
        let rate = self.rate.map_or(Stream::RATE, BitRate::bits_per_second);
        word.push_str(&format!(",rate={rate}"));
        word + &place(self.period, self.priority)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VmPlan, VmSpec};
    use super::*;
    use proptest::prelude::*;

    fn plan(guest: &str) -> Result<VmPlan, SpecError> {
        let text = format!(
            "name = \"a\"\n[guest]\n{guest}\n[cpu]\nruntime = \"1ms\"\nperiod = \"10ms\"\n[network]\nassured = \"6Mbit/s\"\n"
        );
        VmSpec::parse(&text)?.plan()
    }

    #[test]
    fn a_network_with_services_becomes_words_of_the_command_line() {
        let guest = "memory = \"32MiB\"\n[guest.net]\naddress = \"10.77.0.2/24\"\ngateway = \"10.77.0.1\"\nexecution = \"500us\"\necho = 7\nhttp = 80\nhttp_period = \"2s\"\nsource = 19\n[[guest.rtp]]\nto = \"10.77.0.1:5004\"\nexecution = \"5.68ms\"\n[[guest.rtp]]\nto = \"10.77.0.1:5006\"\nrate = \"2Mbit/s\"\nperiod = \"20ms\"";
        let plan = plan(guest).unwrap();
        let words = "net=10.77.0.2/24,10.77.0.1,c=500us http=80,t=2s echo=7 source=19 rtp=10.77.0.1:5004,c=5680us,rate=1214000 rtp=10.77.0.1:5006,rate=2000000,t=20ms";
        assert_eq!(plan.command_line, words);
        let tasks = plan.tasks.unwrap();
        let streams = tasks.tasks().iter().filter_map(|task| task.stream);
        assert_eq!(
            streams.map(|s| s.rate).collect::<Vec<_>>(),
            [1_214_000, 2_000_000]
        );
    }

    #[test]
    fn errors_name_the_key_the_value_and_what_would_fit() {
        let net = |more: &str| format!("[guest.net]\naddress = \"10.77.0.2/24\"\n{more}");
        for (guest, parts) in [
            (
                "[guest.net]\naddress = \"10.77.0.2\"".to_owned(),
                &["guest.net.address", "10.77.0.2", "/24"][..],
            ),
            ("[guest.net]\necho = 7".to_owned(), &["address"]),
            (
                "[[guest.rtp]]\nto = \"10.0.0.1:9\"".to_owned(),
                &["guest.net", "10.0.0.1:9"],
            ),
            ("[[guest.rtp]]\nto = \"10.0.0.1\"".to_owned(), &["to"]),
            (net("gateway = \"x\""), &["gateway"]),
            (net("echo = 0"), &["guest.net.echo = 0", "1 to 65535"]),
            (
                net("http = 80"),
                &["guest.memory", "4MiB", "32MiB", "guest.net.http"],
            ),
            (net("sink = 9"), &["guest.memory", "8MiB", "guest.net.sink"]),
            (
                net("http_period = \"1s\""),
                &["guest.net.http", "http_period"],
            ),
            (net("speed = 1"), &["speed"]),
            (net("period = \"1us\""), &["t=1us", "100us"]),
            (
                net("[[guest.rtp]]\nto = \"10.0.0.1:9\"\nrate = \"100bit/s\""),
                &["rate=100"],
            ),
        ] {
            let message = plan(&guest).unwrap_err().to_string();
            for part in parts {
                assert!(
                    message.contains(part),
                    "{message:?} does not mention {part:?}"
                );
            }
        }
    }

    #[test]
    fn a_network_without_a_device_is_refused() {
        let text = "name = \"a\"\n[guest.net]\naddress = \"10.77.0.2/24\"\n[cpu]\nruntime = \"1ms\"\nperiod = \"10ms\"\n";
        let error = VmSpec::parse(text).unwrap().plan().unwrap_err();
        assert!(
            error.to_string().starts_with("network is missing"),
            "{error}"
        );
    }

    #[test]
    fn a_guest_with_a_network_and_no_runtime_is_told_to_have_one() {
        let text = "name = \"a\"\n[guest]\n[guest.net]\naddress = \"10.77.0.2/24\"\n[[guest.task]]\nname = \"t\"\nexecution = \"1ms\"\nperiod = \"9ms\"\n[cpu]\nperiod = \"9ms\"\n";
        let spec = VmSpec::parse(text).unwrap();
        let error = crate::design::design(&spec, &crate::design::Basis::default()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("cpu.runtime") && message.contains("network"),
            "{message}"
        );
    }

    proptest! {
        #[test]
        fn any_address_is_a_plan_or_an_error(address in "[0-9./]{0,20}", port: u16) {
            let _ = plan(&format!("[guest.net]\naddress = {address:?}\necho = {port}"));
        }
    }
}
