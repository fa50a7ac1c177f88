//! Ports of a bridge: what it sends them.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, change};
use crate::mac::Mac;
use crate::netlink::Request;

/// Lets a bridge learn nothing from a port and send it no frames for addresses that are not known: another's traffic to
/// nowhere then takes nothing of this port's share. Nor any for everybody: it is closed until [`open_port`].
#[must_use]
pub fn guard_port(link: &Link) -> Request {
    let flags = vec![
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(false),
        InfoBridgePort::BroadcastFlood(false),
        InfoBridgePort::MulticastFlood(false),
    ];
    port_flags(link, "guard the bridge's port", flags)
}

/// Lets a bridge send a port what is for `mac`, wherever that was before, and what is for everybody. No frame that comes by another
/// port takes the address away: one that its owner sent from elsewhere may have been long on its way.
#[must_use]
pub fn open_port(link: &Link, mac: Mac) -> [Request; 2] {
    let floods = port_flags(link, "open the bridge's port", for_everybody(true));
    let does = format!("tell the bridge that {mac} is behind {}", link.name);
    // Another bridge's port may have shown the address before: the port is newer.
    let add = Request::new(
        does,
        RouteNetlinkMessage::NewNeighbour(neighbour(link, mac)),
    )
    .with(NLM_F_CREATE | NLM_F_REPLACE);
    [add, floods]
}

/// Has a bridge send a port nothing any more. The second is refused (ENOENT) where the address is not there.
#[must_use]
pub fn close_port(link: &Link, mac: Mac) -> [Request; 2] {
    let floods = port_flags(link, "close the bridge's port", for_everybody(false));
    let does = format!("tell the bridge that {mac} is not behind {}", link.name);
    let message = RouteNetlinkMessage::DelNeighbour(neighbour(link, mac));
    [floods, Request::new(does, message)]
}

fn for_everybody(is_sent: bool) -> Vec<InfoBridgePort> {
    vec![
        InfoBridgePort::BroadcastFlood(is_sent),
        InfoBridgePort::MulticastFlood(is_sent),
    ]
}

fn port_flags(link: &Link, what: &str, flags: Vec<InfoBridgePort>) -> Request {
    let infos = vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(flags)),
    ];
    change(link, what, vec![LinkAttribute::LinkInfo(infos)])
}

/// That an address is behind a bridge's port: for good (no ageing), and whatever is seen elsewhere (Linux 5.0; before, a frame by
/// another port takes it away).
fn neighbour(link: &Link, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link.index;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())];
    message
}
