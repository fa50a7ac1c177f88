//! Network interfaces: finding them, and the requests that make and change them. A request does nothing until a
//! [`Netlink`] applies it.

mod port;

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoData, InfoKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Stats64,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::kernel;
use crate::mac::Mac;
use crate::namespace::Namespace;
use crate::netlink::{Netlink, NetlinkError, Request};

pub use port::{close_port, guard_port, open_port};

/// An interface as the kernel reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace, never used again.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `ifb`, `veth`...; nothing for hardware.
    pub kind: Option<String>,
    /// What its owner wrote on it (`ip link set ... alias`).
    pub alias: Option<String>,
    /// Number of the bridge it is a port of.
    pub bridge: Option<u32>,
    /// Its hardware address, as bytes.
    pub address: Vec<u8>,
    /// Longest packet, in bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// What it has carried and dropped.
    pub counters: LinkCounters,
}

/// What an interface has carried and dropped since it exists (`struct rtnl_link_stats64`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Bytes that came in by it.
    pub received_bytes: u64,
    /// Packets that came in by it.
    pub received_packets: u64,
    /// Packets that came and were dropped.
    pub received_drops: u64,
    /// Bytes that went out by it.
    pub sent_bytes: u64,
    /// Packets that went out by it.
    pub sent_packets: u64,
    /// Packets dropped after any queueing discipline; of a tap, because its reader did not read.
    pub sent_drops: u64,
}

/// The interface of this name; nothing if there is none.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    let does = format!("look up the interface {name}");
    match netlink.get(&does, RouteNetlinkMessage::GetLink(message)) {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(link(message))),
        Ok(_) => Ok(None),
        // A name that cannot be one is that of no interface.
        Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::ERANGE)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The interface of this name.
///
/// # Errors
/// [`NetlinkError::NoInterface`] when there is none.
pub fn get(netlink: &mut Netlink, name: &str) -> Result<Link, NetlinkError> {
    let name = name.to_owned();
    find(netlink, &name)?.ok_or(NetlinkError::NoInterface { name })
}

/// All interfaces of the namespace.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.list("list the interfaces", message)?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(link(message)),
        _ => None,
    });
    Ok(links.collect())
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        alias: None,
        bridge: None,
        address: Vec::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        counters: LinkCounters::default(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(bridge) => link.bridge = Some(bridge),
            LinkAttribute::Address(address) => link.address = address,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Stats64(stats) => link.counters = LinkCounters::from(&stats),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

impl From<&Stats64> for LinkCounters {
    fn from(stats: &Stats64) -> Self {
        Self {
            received_bytes: stats.rx_bytes,
            received_packets: stats.rx_packets,
            received_drops: stats.rx_dropped,
            sent_bytes: stats.tx_bytes,
            sent_packets: stats.tx_packets,
            sent_drops: stats.tx_dropped,
        }
    }
}

/// Whether the kernel would take `name` for an interface.
///
/// # Errors
/// When not.
pub fn check_name(name: &str) -> Result<(), NetlinkError> {
    let odd = |c: char| c.is_whitespace() || c == '/' || c == ':' || c == '\0';
    let fits = (1..=kernel::NAME).contains(&name.len());
    if fits && !name.contains(odd) && name != "." && name != ".." {
        return Ok(());
    }
    Err(NetlinkError::Name {
        name: name.to_owned(),
    })
}

fn new_link(kind: InfoKind, name: &str, data: Option<InfoData>) -> Request {
    let does = format!("create the {kind} {name}");
    let mut message = LinkMessage::default();
    let mut infos = vec![LinkInfo::Kind(kind)];
    infos.extend(data.map(LinkInfo::Data));
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(infos),
    ];
    Request::new(does, RouteNetlinkMessage::NewLink(message)).creating()
}

/// Makes a bridge without spanning tree that forwards every multicast: no frame of a guest changes how it works.
#[must_use]
pub fn add_bridge(name: &str) -> Request {
    let data = InfoData::Bridge(vec![
        InfoBridge::ForwardDelay(0),
        InfoBridge::MulticastSnooping(false),
    ]);
    new_link(InfoKind::Bridge, name, Some(data))
}

/// Makes an intermediate functional block: an interface that is nothing but a queue.
#[must_use]
pub fn add_ifb(name: &str) -> Request {
    new_link(InfoKind::Ifb, name, None)
}

/// Makes two interfaces joined by a cable, the second in the namespace `other` if one is given. The namespace must
/// live until the request is applied.
#[must_use]
pub fn add_veth(name: &str, peer: &str, other: Option<&Namespace>) -> Request {
    use std::os::fd::AsRawFd;
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(peer.to_owned()));
    let file = other.map(|namespace| namespace.file().as_raw_fd());
    message.attributes.extend(file.map(LinkAttribute::NetNsFd));
    new_link(
        InfoKind::Veth,
        name,
        Some(InfoData::Veth(InfoVeth::Peer(message))),
    )
}

/// Removes an interface.
#[must_use]
pub fn delete(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    let does = format!("delete the interface {name}");
    Request::new(does, RouteNetlinkMessage::DelLink(message))
}

fn change(link: &Link, what: &str, attributes: Vec<LinkAttribute>) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.attributes = attributes;
    let does = format!("{what} the interface {}", link.name);
    Request::new(does, RouteNetlinkMessage::NewLink(message))
}

/// Sets an interface up or down.
#[must_use]
pub fn set_up(link: &Link, up: bool) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.header.change_mask = LinkFlags::Up;
    if up {
        message.header.flags = LinkFlags::Up;
    }
    let does = format!(
        "set the interface {} {}",
        link.name,
        if up { "up" } else { "down" }
    );
    Request::new(does, RouteNetlinkMessage::NewLink(message))
}

/// Sets the longest packet, in bytes.
#[must_use]
pub fn set_mtu(link: &Link, mtu: u32) -> Request {
    change(
        link,
        &format!("set the MTU {mtu} on"),
        vec![LinkAttribute::Mtu(mtu)],
    )
}

/// Sets how many packets the interface itself queues, behind any queueing discipline.
#[must_use]
pub fn set_queue_length(link: &Link, packets: u32) -> Request {
    let attribute = LinkAttribute::TxQueueLen(packets);
    change(
        link,
        &format!("set the queue length {packets} on"),
        vec![attribute],
    )
}

/// Writes on an interface whose it is.
#[must_use]
pub fn set_alias(link: &Link, alias: &str) -> Request {
    let attribute = LinkAttribute::IfAlias(alias.to_owned());
    change(
        link,
        &format!("write the alias {alias} on"),
        vec![attribute],
    )
}

/// Writes on the interface of this name whose it is: together with what makes it, in one send, so that nobody who is killed
/// leaves one without.
#[must_use]
pub fn claim(name: &str, alias: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::IfAlias(alias.to_owned()),
    ];
    let does = format!("write the alias {alias} on the interface {name}");
    Request::new(does, RouteNetlinkMessage::SetLink(message))
}

/// Sets the hardware address.
#[must_use]
pub fn set_mac(link: &Link, mac: Mac) -> Request {
    let attribute = LinkAttribute::Address(mac.octets().to_vec());
    change(link, &format!("set the address {mac} on"), vec![attribute])
}

/// Keeps a bridge's hardware address as it is, whatever ports it gets.
#[must_use]
pub fn keep_mac(bridge: &Link) -> Request {
    let attribute = LinkAttribute::Address(bridge.address.clone());
    change(bridge, "keep the address of", vec![attribute])
}

/// Lets the kernel give the interface no IPv6 address of its own: it then sends nothing by itself. A kernel without IPv6
/// refuses this with EAFNOSUPPORT, and needs it not.
#[must_use]
pub fn without_ipv6_address(link: &Link) -> Request {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
    change(link, "keep IPv6 addresses off", vec![attribute])
}

/// Makes an interface a port of `bridge`, or of none.
#[must_use]
pub fn set_bridge(link: &Link, bridge: Option<&Link>) -> Request {
    let attribute = LinkAttribute::Controller(bridge.map_or(0, |bridge| bridge.index));
    let what = bridge.map_or("free".to_owned(), |bridge| {
        format!("give the bridge {}", bridge.name)
    });
    change(link, &what, vec![attribute])
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Gives an interface an address in a network whose first `prefix` bits are its own.
#[must_use]
pub fn add_address(link: &Link, address: IpAddr, prefix: u8) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = link.index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    if let IpAddr::V4(v4) = address
        && prefix < 31
    {
        let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let broadcast = (u32::from(v4) | hosts).into();
        message
            .attributes
            .push(AddressAttribute::Broadcast(broadcast));
    }
    let does = format!(
        "give the interface {} the address {address}/{prefix}",
        link.name
    );
    Request::new(does, RouteNetlinkMessage::NewAddress(message)).creating()
}

/// Sends what is for the network `destination`/`prefix` to `gateway` (prefix 0: everything).
#[must_use]
pub fn add_route(destination: IpAddr, prefix: u8, gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway))];
    if prefix > 0 {
        let destination = RouteAttribute::Destination(RouteAddress::from(destination));
        message.attributes.push(destination);
    }
    let does = format!("route {destination}/{prefix} by {gateway}");
    Request::new(does, RouteNetlinkMessage::NewRoute(message)).creating()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_cut_is_refused() {
        for good in ["lo", "chronovisor0-tx", "a.b"] {
            check_name(good).unwrap();
        }
        for wrong in ["", "chronovisor0-out", "a b", "a/b", "a:b", "..", "."] {
            let error = check_name(wrong).unwrap_err().to_string();
            assert!(error.contains("15 characters"), "{error}");
        }
    }
}
