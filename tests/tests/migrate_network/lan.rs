//! Two hosts with a switch between them: network namespaces.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use net::device;
use net::namespace::Namespace;
use net::netlink::Netlink;

use crate::PATIENCE;

/// The hosts' addresses, and the client's.
pub const HOSTS: [&str; 2] = ["10.97.0.11", "10.97.0.12"];
const CLIENT: &str = "10.97.0.1";
/// The switch's ports towards the hosts.
const PORTS: [&str; 2] = ["a", "b"];

/// Two hosts, and a switch with a client.
pub struct Lan {
    switch: Namespace,
    pub hosts: [Namespace; 2],
}

impl Lan {
    pub fn new(what: &str) -> Self {
        let name = |end: &str| format!("chronovisor-{what}-{end}-{}", std::process::id());
        let [switch, a, b] = ["switch", "a", "b"].map(|end| Namespace::create(&name(end)).unwrap());
        let mut netlink = switch.netlink().unwrap();
        netlink.apply(&[device::add_bridge("sw")]).unwrap();
        let bridge = device::get(&mut netlink, "sw").unwrap();
        let address = device::add_address(&bridge, CLIENT.parse().unwrap(), 24);
        netlink
            .apply(&[address, device::set_up(&bridge, true)])
            .unwrap();
        Self {
            switch,
            hosts: [a, b],
        }
    }

    /// Gives a host an interface towards the switch.
    pub fn lay_cable(&self, host: usize) {
        let cable = device::add_veth("up", PORTS[host], Some(&self.switch));
        let mut netlink = self.hosts[host].netlink().unwrap();
        netlink.apply(&[cable]).unwrap();
    }

    /// Connects a host whose network has been applied.
    pub fn connect(&self, host: usize) {
        plug(&mut self.hosts[host].netlink().unwrap(), "up", "vms0");
        plug(&mut self.switch.netlink().unwrap(), PORTS[host], "sw");
    }

    /// Behind which port of the switch the guest is.
    pub fn place(&self) -> String {
        let mut command = self.switch.command("bridge").unwrap();
        let listed = command.args(["fdb", "show", "br", "sw"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let own = net::mac::Mac::of_name("cv-moved").to_string();
        let mut lines = listed.lines().filter(|line| line.starts_with(&own));
        let line = lines.next().unwrap_or_default();
        line.split(' ').nth(2).unwrap_or("nothing").to_owned()
    }

    /// A connection to the guest, which may not be there yet.
    pub fn open(&self, guest: &str, port: u16) -> TcpStream {
        let to: SocketAddr = format!("{guest}:{port}").parse().unwrap();
        let begun = Instant::now();
        loop {
            let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(1));
            match self.switch.run(connect).unwrap() {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        }
    }
}

fn plug(netlink: &mut Netlink, name: &str, bridge: &str) {
    let [link, bridge] = [name, bridge].map(|name| device::get(netlink, name).unwrap());
    let steps = [
        device::set_bridge(&link, Some(&bridge)),
        device::set_up(&link, true),
    ];
    netlink.apply(&steps).unwrap();
}

/// A host's network.
pub fn network(host: usize) -> String {
    let address = HOSTS[host];
    format!("[bridge]\nname = \"vms0\"\ncapacity = \"10Gbit/s\"\naddress = \"{address}/24\"\n")
}
