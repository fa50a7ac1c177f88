//! The interfaces that ports need: the bridge and its two blocks.

use nix::errno::Errno;
use units::BitRate;

use super::slot::BROADCAST;
use super::{PortsConfig, PortsError};
use crate::class::ClassId;
use crate::device::{self, Link};
use crate::filter::Rank;
use crate::htb::Root;
use crate::netlink::{Netlink, NetlinkError, Step, Transaction};
use crate::share::{Priority, Share};
use crate::tree;

/// What is written on every interface made here.
pub(super) const OWNER: &str = "chronovisor";

/// The names of the interfaces that belong to a bridge, itself the last.
pub(crate) fn names(bridge: &str) -> [String; 3] {
    [
        format!("{bridge}-tx"),
        format!("{bridge}-rx"),
        bridge.to_owned(),
    ]
}

/// Whether an interface is of this crate's making.
pub(crate) fn is_own(link: &Link) -> bool {
    link.alias.as_deref() == Some(OWNER)
}

/// The names of the three interfaces.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) bridge: String,
    pub(super) out: String,
    pub(super) into: String,
}

impl Names {
    /// Names as seen from a VM: it transmits by one block and receives by the other.
    pub(super) fn of(bridge: &str) -> Result<Self, NetlinkError> {
        let names = Self {
            bridge: bridge.to_owned(),
            out: format!("{bridge}-tx"),
            into: format!("{bridge}-rx"),
        };
        device::check_name(&names.out)?;
        device::check_name(bridge)?;
        Ok(names)
    }

    pub(super) fn must_be_free(&self, netlink: &mut Netlink) -> Result<(), PortsError> {
        for name in [&self.bridge, &self.out, &self.into] {
            match device::find(netlink, name)? {
                None => {}
                Some(link) if link.alias.as_deref() == Some(OWNER) => {
                    let bridge = self.bridge.clone();
                    return Err(PortsError::Exists { bridge });
                }
                Some(_) => {
                    let name = name.clone();
                    return Err(PortsError::Foreign { name });
                }
            }
        }
        Ok(())
    }

    /// The interface of this name, if it is ours.
    pub(super) fn own(&self, netlink: &mut Netlink, name: &str) -> Result<Link, PortsError> {
        let link = device::find(netlink, name)?.ok_or_else(|| PortsError::None {
            bridge: self.bridge.clone(),
        })?;
        if link.alias.as_deref() == Some(OWNER) {
            return Ok(link);
        }
        let name = name.to_owned();
        Err(PortsError::Foreign { name })
    }
}

/// Makes bridge and blocks, with their trees.
pub(super) fn make(
    transaction: &mut Transaction<'_>,
    config: &PortsConfig,
    names: &Names,
) -> Result<[Link; 3], PortsError> {
    let own = |add, name| {
        let claim = Step::dependent(device::claim(name, OWNER));
        [Step::new(add, device::delete(name)), claim]
    };
    let made = [
        own(device::add_bridge(&names.bridge), &names.bridge),
        own(device::add_ifb(&names.out), &names.out),
        own(device::add_ifb(&names.into), &names.into),
    ];
    transaction.apply(made.into_iter().flatten().collect())?;
    let bridge = device::get(transaction.netlink(), &names.bridge)?;
    let out = device::get(transaction.netlink(), &names.out)?;
    let into = device::get(transaction.netlink(), &names.into)?;
    let links = [bridge, out, into];
    let mtu = u32::from(config.mtu);
    let mut steps = vec![device::set_mtu(&links[0], mtu)];
    // Written, the address stays; by itself it would become that of the port with the least.
    steps.push(device::keep_mac(&links[0]));
    steps.extend(
        config
            .address
            .map(|(address, prefix)| device::add_address(&links[0], address, prefix)),
    );
    transaction.apply(steps.into_iter().map(Step::dependent).collect())?;
    for link in &links[1..] {
        without_ipv6(transaction, link)?;
        let default = default_share(config.capacity);
        let ranks = [Rank::Unicast, Rank::Port];
        transaction.apply(Root::of(link).plan(config.capacity, &default, &ranks)?)?;
    }
    let broadcast = tree::whole(config.broadcast)?;
    let class = Root::of(&links[1]).add_class(BROADCAST, Some(ClassId::LINK), &broadcast);
    let ups = links.iter().map(|link| device::set_up(link, true));
    let steps = [class].into_iter().chain(ups);
    transaction.apply(steps.map(Step::dependent).collect())?;
    Ok(links.map(|link| Link { mtu, ..link }))
}

/// What passes a block and is no port's: nothing, but for the moment in which a port is made or removed.
fn default_share(capacity: BitRate) -> Share {
    let rate = BitRate::new(capacity.bits_per_second() / 1000).max(Share::LEAST);
    Share {
        assured: rate,
        ceil: rate.max(capacity),
        priority: Priority::BestEffort,
    }
}

pub(super) fn without_ipv6(
    transaction: &mut Transaction<'_>,
    link: &Link,
) -> Result<(), NetlinkError> {
    // It goes with the interface, and a kernel without IPv6 is no reason to take the rest back.
    let request = device::without_ipv6_address(link);
    match transaction.netlink().apply(&[request]) {
        Err(error) if error.errno() == Some(Errno::EAFNOSUPPORT) => Ok(()),
        answer => answer,
    }
}
