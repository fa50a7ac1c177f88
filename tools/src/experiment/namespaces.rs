//! Network namespaces as hosts of an experiment: they go with it, and those of experiments that were killed go with the
//! next one.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use net::device;
use net::mac::Mac;
use net::namespace::Namespace;
use net::netlink::{Netlink, NetlinkError};

use super::ExperimentError;
use super::part;

/// Where they have names (ip-netns(8)).
const FOLDER: &str = "/run/netns";
/// All of them begin so; the process's number follows, and what it is.
const PREFIX: &str = "chronovisor-experiment-";

/// Makes the namespace of `host` for this process.
pub fn create(host: &str) -> Result<Namespace, ExperimentError> {
    Ok(Namespace::create(&format!(
        "{PREFIX}{}-{host}",
        std::process::id()
    ))?)
}

/// Removes those of processes that are gone.
pub fn sweep() {
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_gone = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
        if owner(&name).is_some_and(is_gone) {
            Namespace::delete(&name);
        }
    }
}

/// The process whose namespace is called so.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// The end of a cable in a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Plug<'a> {
    /// Its name there.
    pub device: &'a str,
    /// Its hardware address.
    pub mac: Mac,
    /// Its address, and how many of its bits are the network's.
    pub address: (Ipv4Addr, u8),
}

/// Sets the end of a cable in `namespace` up.
pub fn set_up(namespace: &Namespace, plug: &Plug) -> Result<(), ExperimentError> {
    Ok(namespace.run(|| set_up_here(plug))??)
}

fn set_up_here(plug: &Plug) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let link = device::get(&mut netlink, plug.device)?;
    let (address, prefix) = plug.address;
    netlink.apply(&[
        device::without_ipv6_address(&link),
        device::set_mac(&link, plug.mac),
        device::add_address(&link, IpAddr::V4(address), prefix),
        device::set_up(&link, true),
    ])
}

/// An error of the network, with what was tried and its causes.
pub fn failed(action: &'static str) -> impl Fn(&dyn std::error::Error) -> ExperimentError {
    move |error| {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            why += &format!(": {error}");
            source = error.source();
        }
        ExperimentError::Shares { action, why }
    }
}

/// The words of a program in `namespace` that ends with this experiment.
pub fn inside(namespace: &Namespace, words: &[String]) -> Vec<String> {
    let mut all = ["/proc/self/exe", "experiment", "part", "program"]
        .map(str::to_owned)
        .to_vec();
    all.extend(part::owner());
    all.extend(["--namespace".to_owned(), namespace.name().to_owned()]);
    all.push("--".to_owned());
    all.extend_from_slice(words);
    all
}

/// The same as a command.
pub fn program(namespace: &Namespace, words: &[String]) -> Command {
    let words = inside(namespace, words);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Opens something in a namespace.
pub fn open_inside<T: Send>(
    namespace: &Namespace,
    open: impl FnOnce() -> std::io::Result<T> + Send,
) -> Result<T, ExperimentError> {
    let opened = namespace
        .run(open)
        .map_err(|error| failed("enter a network namespace")(&error))?;
    opened.map_err(ExperimentError::io("open a socket in a network namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_name() {
        assert_eq!(owner("chronovisor-experiment-123-gold"), Some(123));
        for other in [
            "chronovisor-experiment-123",
            "chronovisor-x-1-y",
            "vm",
            "chronovisor-experiment-a-b",
        ] {
            assert_eq!(owner(other), None);
        }
    }
}
