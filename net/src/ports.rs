//! Ports of VMs: a bridge, a tap per VM, and two intermediate functional blocks with a tree each, into which everything
//! out of and into the VMs is redirected. Bandwidth is not admitted here.

mod bridge;
mod error;
mod slot;

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use units::BitRate;

use crate::class::{ClassId, Counters, Rates};
use crate::device::{self, Link};
use crate::filter;
use crate::htb::{Reported, Root};
use crate::mac::Mac;
use crate::namespace::Namespace;
use crate::netlink::{Netlink, NetlinkError, Step};
use crate::share::Share;
use crate::tap::Tap;
use crate::tree::{self, Change, TreeError};

pub use error::PortsError;

pub(crate) use bridge::{is_own, names};

use bridge::{Names, OWNER, make, without_ipv6};
use slot::{BROADCAST, Parts, Slot, broadcast_shares, classes_of};

/// How taps' names begin.
const PORT: &str = "cv";

/// What a bridge with ports is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsConfig {
    /// Its name, at most 12 characters; the two blocks have names made of it.
    pub bridge: String,
    /// What all ports together may send, and what they may receive.
    pub capacity: BitRate,
    /// What all ports together may send to everybody (broadcast and multicast), in equal parts among those that do. A
    /// port receives it beside its share.
    pub broadcast: BitRate,
    /// Longest packet, in bytes.
    pub mtu: u16,
    /// The host's own address on the bridge, and the length of the network's prefix.
    pub address: Option<(IpAddr, u8)>,
}

/// A port to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSpec {
    /// The only source address that its frames may have.
    pub mac: Mac,
    /// Its share, in each direction.
    pub share: Share,
}

/// Whether a port's guest is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// The bridge gives it its frames.
    Open,
    /// The bridge gives it nothing: its address may be elsewhere.
    Closed,
}

/// A port as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortState {
    /// Its name, which is its tap's.
    pub name: String,
    /// What it may send.
    pub out: Rates,
    /// What it may receive.
    pub into: Rates,
    /// What it counted.
    pub counters: PortCounters,
}

/// What a port has carried and lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Out of the VM, to one receiver.
    pub out: Counters,
    /// Into the VM, from one sender to it.
    pub into: Counters,
    /// Out of the VM, to everybody.
    pub broadcast_out: Counters,
    /// Into the VM, as to everybody.
    pub broadcast_into: Counters,
    /// Frames with a source address that is not the port's, all dropped.
    pub foreign_mac_drops: u64,
    /// Frames into the VM that were dropped because the tap's reader did not read.
    pub link_drops: u64,
}

/// A bridge with ports, by a socket of its own to the namespace of the thread that made or opened it. Dropping it changes
/// nothing. It remembers no ports: what the kernel has is what counts. Whoever attaches ports must keep other processes
/// from doing so meanwhile.
#[derive(Debug)]
pub struct Ports {
    netlink: Netlink,
    bridge: Link,
    out: Queue,
    into: Queue,
}

/// One direction: a block and the tree on it.
#[derive(Debug)]
struct Queue {
    block: Link,
    root: Root,
}

impl Queue {
    fn of(block: Link) -> Self {
        let root = Root::of(&block);
        Self { block, root }
    }
}

impl Ports {
    /// Makes the bridge and its blocks.
    ///
    /// # Errors
    /// When an interface of such a name exists, a rate is out of range, or the kernel refuses.
    pub fn create(config: &PortsConfig) -> Result<Self, PortsError> {
        let names = Names::of(&config.bridge)?;
        let mut netlink = Netlink::open()?;
        names.must_be_free(&mut netlink)?;
        let mut transaction = netlink.transaction();
        let made = make(&mut transaction, config, &names).map_err(PortsError::explained)?;
        transaction.commit();
        let [bridge, out, into] = made;
        Ok(Self {
            netlink,
            bridge,
            out: Queue::of(out),
            into: Queue::of(into),
        })
    }

    /// The bridge that was made under this name. Classes of ports whose taps are gone are removed.
    ///
    /// # Errors
    /// When there is none, or the kernel cannot be asked.
    pub fn open(bridge: &str) -> Result<Self, PortsError> {
        let names = Names::of(bridge)?;
        let mut netlink = Netlink::open()?;
        let mut own = |name| names.own(&mut netlink, name);
        let (bridge, out, into) = (own(&names.bridge)?, own(&names.out)?, own(&names.into)?);
        let mut ports = Self {
            netlink,
            bridge,
            out: Queue::of(out),
            into: Queue::of(into),
        };
        for root in [&ports.out.root, &ports.into.root] {
            if !root.is_there(&mut ports.netlink)? {
                let bridge = names.bridge;
                return Err(PortsError::None { bridge });
            }
        }
        ports.repair()?;
        Ok(ports)
    }

    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge.name
    }

    fn roots(&self) -> [&Root; 2] {
        [&self.out.root, &self.into.root]
    }

    fn name_of(&self, slot: Slot) -> String {
        format!("{PORT}{}p{}", self.bridge.index, slot.0)
    }

    fn slot_of(&self, port: &str) -> Result<Slot, PortsError> {
        let begin = format!("{PORT}{}p", self.bridge.index);
        let number = port
            .strip_prefix(&begin)
            .and_then(|number| number.parse().ok());
        let slot = number.filter(|number| (1..=Slot::MOST).contains(number));
        slot.map(Slot).ok_or_else(|| self.no_port(port))
    }

    fn no_port(&self, port: &str) -> PortsError {
        PortsError::NoPort {
            bridge: self.bridge.name.clone(),
            port: port.to_owned(),
        }
    }

    /// Makes a port: tap, classes, guard. The calling thread must be in the bridge's namespace.
    ///
    /// # Errors
    /// When the share is out of range, there are too many ports, or the kernel refuses.
    pub fn attach(&mut self, port: &PortSpec) -> Result<Tap, PortsError> {
        self.attach_tap(port, Gate::Open)
    }

    /// Makes a port for a guest that is still elsewhere: it is given no frame until [`Passage::open`](crate::passage::Passage::open).
    ///
    /// # Errors
    /// As [`Ports::attach`].
    pub fn attach_closed(&mut self, port: &PortSpec) -> Result<Tap, PortsError> {
        self.attach_tap(port, Gate::Closed)
    }

    fn attach_tap(&mut self, port: &PortSpec, gate: Gate) -> Result<Tap, PortsError> {
        port.share.check()?;
        let (slot, broadcast) = self.free_slot()?;
        let tap = Tap::open(&self.name_of(slot))?;
        self.plug((slot, broadcast), port, gate)?;
        Ok(tap)
    }

    /// Makes a port whose other end is the interface `name` of another namespace instead of a tap's reader: for hosts
    /// that are namespaces. The port's name; it goes with that namespace. The calling thread must be in the bridge's.
    ///
    /// # Errors
    /// As [`Ports::attach`].
    pub fn attach_cable(
        &mut self,
        port: &PortSpec,
        (name, far): (&str, &Namespace),
    ) -> Result<String, PortsError> {
        port.share.check()?;
        let (slot, broadcast) = self.free_slot()?;
        let near = self.name_of(slot);
        self.netlink
            .apply(&[device::add_veth(&near, name, Some(far))])?;
        match self.plug((slot, broadcast), port, Gate::Open) {
            Ok(()) => Ok(near),
            Err(error) => {
                // The first error is the one that tells something.
                let _ = self.netlink.apply(&[device::delete(&near)]);
                Err(error)
            }
        }
    }

    /// Makes a port of the interface that has a slot's name; `broadcast` is what it is given of that, out and in.
    fn plug(
        &mut self,
        (slot, [sent, received]): (Slot, [Share; 2]),
        port: &PortSpec,
        gate: Gate,
    ) -> Result<(), PortsError> {
        let parts = [
            Parts {
                parent: Some(BROADCAST),
                share: sent,
            },
            Parts {
                parent: None,
                share: received,
            },
        ];
        let name = self.name_of(slot);
        let link = device::get(&mut self.netlink, &name)?;
        let roots = [self.out.root.clone(), self.into.root.clone()];
        let queue = |queue: &Queue| queue.block.clone();
        let (out, into) = (queue(&self.out), queue(&self.into));
        let mut transaction = self.netlink.transaction();
        // The interface is not up before its guard stands, and takes all that belongs to it with it.
        transaction.apply(Vec::from([
            Step::dependent(device::set_mtu(&link, self.bridge.mtu)),
            Step::dependent(device::set_alias(&link, OWNER)),
            Step::dependent(filter::add_hooks(&link)),
            Step::dependent(filter::guard(&link, port.mac)),
        ]))?;
        without_ipv6(&mut transaction, &link)?;
        for (root, parts) in roots.iter().zip(parts) {
            transaction.apply(classes_of(root, slot, &port.share, parts, &link.name))?;
        }
        transaction.apply(Vec::from([
            Step::dependent(filter::redirect_in(&link, &out)),
            Step::dependent(filter::redirect_out(&link, &into)),
            Step::dependent(device::set_bridge(&link, Some(&self.bridge))),
            Step::dependent(device::guard_port(&link)),
            Step::dependent(device::set_up(&link, true)),
        ]))?;
        if gate == Gate::Open {
            let open = device::open_port(&link, port.mac).map(Step::dependent);
            transaction.apply(open.into())?;
        }
        transaction.commit();
        Ok(())
    }

    /// The first slot that nobody has, and what its broadcasts are given out of and into the VM.
    fn free_slot(&mut self) -> Result<(Slot, [Share; 2]), PortsError> {
        let out = self.out.root.classes(&mut self.netlink)?;
        let into = self.into.root.classes(&mut self.netlink)?;
        let classes = out.iter().chain(&into);
        let mut taken: Vec<_> = classes
            .filter_map(|class| Slot::of_class(class.id))
            .collect();
        for link in device::list(&mut self.netlink)? {
            taken.extend(self.slot_of(&link.name));
        }
        let free = Slot::all().find(|slot| !taken.contains(slot));
        let slot = free.ok_or_else(|| PortsError::Full {
            bridge: self.bridge.name.clone(),
            most: Slot::MOST,
        })?;
        let all = out.iter().find(|class| class.id == BROADCAST);
        let rate = all.map_or(Share::LEAST, |class| class.rates.assured);
        Ok((slot, broadcast_shares(rate)))
    }

    /// Removes a port's classes, and sets its tap down, which goes when it is dropped.
    ///
    /// # Errors
    /// When there is no such port or the kernel refuses.
    pub fn detach(&mut self, port: &str) -> Result<(), PortsError> {
        let slot = self.slot_of(port)?;
        let link = device::find(&mut self.netlink, port)?;
        let down = link.map(|link| device::set_up(&link, false));
        let was_there = down.is_some();
        self.netlink.apply(&Vec::from_iter(down))?;
        if self.remove_classes(&[slot])? || was_there {
            return Ok(());
        }
        Err(self.no_port(port))
    }

    /// Removes what both trees have for these slots; whether there was anything.
    fn remove_classes(&mut self, slots: &[Slot]) -> Result<bool, PortsError> {
        let mut requests = Vec::new();
        for slot in slots {
            for root in self.roots() {
                let filters = slot.places().map(|(place, _)| root.delete_filter(place));
                let classes = slot.places().map(|(_, class)| root.delete_class(class));
                requests.extend(filters.into_iter().chain(classes));
            }
        }
        let answers = self.netlink.send(&requests)?;
        let removed = answers.iter().any(Result::is_ok);
        let gone = [Errno::ENOENT, Errno::EINVAL, Errno::ENODEV];
        let refusals = answers.into_iter().filter_map(Result::err);
        match refusals
            .into_iter()
            .find(|refusal| !gone.contains(&refusal.errno))
        {
            Some(refusal) => Err(NetlinkError::Refused(refusal).into()),
            None => Ok(removed),
        }
    }

    /// Changes the shares of ports, in both directions, all or none, in one send.
    ///
    /// # Errors
    /// When there is no such port, a rate is out of range, or the kernel refuses.
    pub fn change(&mut self, shares: &[(&str, Share)]) -> Result<(), PortsError> {
        let mut changes = Vec::with_capacity(2 * shares.len());
        for (port, share) in shares {
            let class = self.slot_of(port)?.unicast();
            let roots = [&self.out.root, &self.into.root];
            changes.extend(roots.map(|root| (root, class, *share)));
        }
        match tree::change(&mut self.netlink, &changes) {
            Err(TreeError::NoClass { class, .. }) => {
                let port = Slot::of_class(class).map(|slot| self.name_of(slot));
                Err(self.no_port(&port.unwrap_or_default()))
            }
            answer => Ok(answer?),
        }
    }

    /// Changes shares of ports as [`change`](Self::change) does, for a caller who knows what they are: port, share that it has,
    /// share that it is to have. It costs half, for the kernel is not asked; a refused change leaves ports with what the
    /// caller said they had.
    ///
    /// # Errors
    /// When a rate is out of range or the kernel refuses.
    pub fn replace(&mut self, shares: &[(&str, Share, Share)]) -> Result<(), PortsError> {
        let mut changes = Vec::with_capacity(2 * shares.len());
        for &(port, from, to) in shares {
            let class = self.slot_of(port)?.unicast();
            let roots = [&self.out.root, &self.into.root];
            changes.extend(roots.map(|root| Change {
                root,
                class,
                from,
                to,
                is_leaf: true,
            }));
        }
        Ok(tree::replace(&mut self.netlink, &changes)?)
    }

    /// Changes capacity and broadcast rate.
    ///
    /// # Errors
    /// When a rate is out of range, or the kernel refuses.
    pub fn set_capacity(
        &mut self,
        capacity: BitRate,
        broadcast: BitRate,
    ) -> Result<(), PortsError> {
        let mut changes = Vec::new();
        let (whole, all) = (tree::whole(capacity)?, tree::whole(broadcast)?);
        let parts = broadcast_shares(broadcast);
        for (root, part) in [&self.out.root, &self.into.root].into_iter().zip(parts) {
            for class in root.classes(&mut self.netlink)? {
                let slot = Slot::of_class(class.id);
                let share = match class.id {
                    ClassId::LINK => whole,
                    BROADCAST => all,
                    id if slot.is_some_and(|slot| slot.broadcast() == id) => part,
                    _ => continue,
                };
                changes.push((root, class.id, share));
            }
        }
        Ok(tree::change(&mut self.netlink, &changes)?)
    }

    /// Every port as the kernel has it, in the order in which they got their places.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn list(&mut self) -> Result<Vec<PortState>, PortsError> {
        let by_id = |classes: Vec<Reported>| -> BTreeMap<_, _> {
            classes.into_iter().map(|class| (class.id, class)).collect()
        };
        let out = by_id(self.out.root.classes(&mut self.netlink)?);
        let into = by_id(self.into.root.classes(&mut self.netlink)?);
        let links = device::list(&mut self.netlink)?;
        let foreign = filter::list_drops(&mut self.netlink)?;
        let mut states = Vec::new();
        for slot in Slot::all() {
            let name = self.name_of(slot);
            let link = links.iter().find(|link| link.name == name);
            let classes = (out.get(&slot.unicast()), into.get(&slot.unicast()));
            let (Some(link), (Some(sends), Some(receives))) = (link, classes) else {
                continue;
            };
            let broadcast = |classes: &BTreeMap<_, Reported>| {
                let class = classes.get(&slot.broadcast());
                class.map_or_else(Counters::default, |class| class.counters)
            };
            states.push(PortState {
                name,
                out: sends.rates,
                into: receives.rates,
                counters: PortCounters {
                    out: sends.counters,
                    into: receives.counters,
                    broadcast_out: broadcast(&out),
                    broadcast_into: broadcast(&into),
                    foreign_mac_drops: foreign.get(&link.index).copied().unwrap_or(0),
                    link_drops: link.counters.sent_drops,
                },
            });
        }
        Ok(states)
    }

    /// Removes the classes of ports whose taps are gone; how many ports.
    ///
    /// # Errors
    /// When the kernel cannot be asked or refuses.
    pub fn repair(&mut self) -> Result<usize, PortsError> {
        let mut slots = Vec::new();
        for root in [&self.out.root, &self.into.root] {
            let classes = root.classes(&mut self.netlink)?.into_iter();
            slots.extend(classes.filter_map(|class| Slot::of_class(class.id)));
        }
        slots.sort_unstable();
        slots.dedup();
        // Looked up after the classes: whoever attaches a port meanwhile makes the tap first.
        let links = device::list(&mut self.netlink)?;
        slots.retain(|slot| {
            let name = self.name_of(*slot);
            links.iter().all(|link| link.name != name)
        });
        self.remove_classes(&slots)?;
        Ok(slots.len())
    }

    /// Removes the bridge and its blocks. Taps stay with those who hold them; what they send is dropped from then on.
    ///
    /// # Errors
    /// When the kernel refuses. What is gone is no error.
    pub fn delete(mut self) -> Result<(), PortsError> {
        let names = [&self.bridge, &self.out.block, &self.into.block].map(|link| &link.name);
        let requests = names.map(|name| device::delete(name));
        let refusals = self
            .netlink
            .send(&requests)?
            .into_iter()
            .filter_map(Result::err);
        match refusals
            .into_iter()
            .find(|refusal| refusal.errno != Errno::ENODEV)
        {
            Some(refusal) => Err(NetlinkError::Refused(refusal).into()),
            None => Ok(()),
        }
    }
}
