//! The network of the scenario: hosts and routers as network namespaces, joined by cables.
//!
//! ```text
//! source --- edge --- core ===10 Mbit/s=== far core --- far edge --- client
//!  streams   marks    shares                shares       marks       receives
//!  and load                              (other way)  (other way)
//! ```
//!
//! Every namespace carries the number of this process ([`namespaces`]).

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use net::device;
use net::namespace::Namespace;
use net::netlink::Netlink;

use crate::experiment::ExperimentError;
use crate::experiment::namespaces::{self, failed};

/// The interface towards the source.
pub const WEST: &str = "west";
/// The interface towards the client.
pub const EAST: &str = "east";
/// Where streams go.
pub const GOLD_TARGET: Ipv4Addr = address(5, 2);
/// Where the load goes.
pub const BEST_EFFORT_TARGET: Ipv4Addr = address(5, 3);
/// The source's own address on the bridge of its guests.
pub const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The guest that streams.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Leading bits of the addresses of that network.
pub const BRIDGE_PREFIX: u8 = 24;
const GUESTS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 77, 0, 0), BRIDGE_PREFIX);
const PREFIX_LENGTH: u8 = 24;

/// An address on cable `number`: 1 is its western end, 2 its eastern one.
const fn address(number: u8, end: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, number, end)
}

/// The network. Dropping it removes the namespaces and all that is in them.
pub struct Network {
    /// Where streams come from.
    pub source: Namespace,
    /// The router that marks.
    pub edge: Namespace,
    /// The router before the bottleneck.
    pub core: Namespace,
    /// The router behind it.
    pub far_core: Namespace,
    /// The router that marks what comes back.
    pub far_edge: Namespace,
    /// Where they go.
    pub client: Namespace,
}

impl Network {
    /// Builds it.
    pub fn build() -> Result<Self, ExperimentError> {
        namespaces::sweep();
        let create = |host: &str| namespaces::create(&format!("vod-{host}"));
        let network = Self {
            source: create("source")?,
            edge: create("edge")?,
            core: create("core")?,
            far_core: create("far-core")?,
            far_edge: create("far-edge")?,
            client: create("client")?,
        };
        let path = [
            &network.source,
            &network.edge,
            &network.core,
            &network.far_core,
            &network.far_edge,
            &network.client,
        ];
        for (number, pair) in (1..).zip(path.windows(2)) {
            let laid = lay_cable((pair[0], pair[1]), number);
            laid.map_err(|error| failed("join network namespaces")(&*error))?;
        }
        network
            .route()
            .map_err(|error| failed("set routes up")(&*error))?;
        Ok(network)
    }

    fn route(&self) -> Result<(), Anything> {
        let anywhere = (Ipv4Addr::UNSPECIFIED, 0);
        let cable = |number| (address(number, 0), PREFIX_LENGTH);
        let routes = [
            (&self.source, anywhere, address(1, 2)),
            (&self.edge, anywhere, address(2, 2)),
            (&self.core, cable(1), address(2, 1)),
            (&self.core, cable(5), address(3, 2)),
            (&self.far_core, cable(1), address(3, 1)),
            (&self.far_core, cable(5), address(4, 2)),
            (&self.edge, GUESTS, address(1, 1)),
            (&self.core, GUESTS, address(2, 1)),
            (&self.far_core, GUESTS, address(3, 1)),
            (&self.far_edge, anywhere, address(4, 1)),
            (&self.client, anywhere, address(5, 1)),
        ];
        for (namespace, (destination, length), gateway) in routes {
            let route = device::add_route(destination.into(), length, IpAddr::V4(gateway));
            namespace.netlink()?.apply(&[route])?;
        }
        // The source forwards for its guests.
        for router in [
            &self.source,
            &self.edge,
            &self.core,
            &self.far_core,
            &self.far_edge,
        ] {
            // The kernel shows each thread the file of its own namespace.
            router.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        }
        let mut client = self.client.netlink()?;
        let west = device::get(&mut client, WEST)?;
        let second = device::add_address(&west, BEST_EFFORT_TARGET.into(), PREFIX_LENGTH);
        client.apply(&[second])?;
        Ok(())
    }
}

type Anything = Box<dyn std::error::Error>;

fn lay_cable((west, east): (&Namespace, &Namespace), number: u8) -> Result<(), Anything> {
    let mut at_west = west.netlink()?;
    at_west.apply(&[device::add_veth(EAST, WEST, Some(east))])?;
    let mut at_east = east.netlink()?;
    for (netlink, name, end) in [(&mut at_west, EAST, 1), (&mut at_east, WEST, 2)] {
        set_up(netlink, name, address(number, end))?;
    }
    Ok(())
}

fn set_up(netlink: &mut Netlink, name: &str, address: Ipv4Addr) -> Result<(), Anything> {
    let link = device::get(netlink, name)?;
    netlink.apply(&[
        device::without_ipv6_address(&link),
        device::add_address(&link, address.into(), PREFIX_LENGTH),
        device::set_up(&link, true),
    ])?;
    Ok(())
}
