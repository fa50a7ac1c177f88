//! Ports of VMs: a bridge, a tap per VM, and two intermediate functional blocks with a tree each, into which everything
//! out of and into the VMs is redirected. Bandwidth is not admitted here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use units::BitRate;

use crate::class::{ClassId, Counters, Rates};
use crate::device::{self, Link};
use crate::filter::{self, Place, Rank};
use crate::htb::{Reported, Root};
use crate::mac::Mac;
use crate::namespace::Namespace;
use crate::netlink::{Netlink, NetlinkError, Step, Transaction};
use crate::share::{Priority, Share, ShareError};
use crate::tap::{Tap, TapError};
use crate::tree::{self, TreeError};

/// What is written on every interface made here, and how taps' names begin.
const OWNER: &str = "chronovisor";
const PORT: &str = "cv";

/// Why ports are not as they were to be. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// There is an interface of a name that is needed.
    #[error(
        "there is an interface {name} that is not Chronovisor's: choose another name for the bridge, or delete the interface by `ip link delete {name}`"
    )]
    Foreign {
        /// The interface.
        name: String,
    },
    /// The bridge exists already.
    #[error(
        "there is a bridge {bridge} of Chronovisor's already: open it, or remove it by `chronovisor net clear`"
    )]
    Exists {
        /// The bridge.
        bridge: String,
    },
    /// There is no such bridge.
    #[error(
        "there is no bridge {bridge} of Chronovisor's: make it by `chronovisor net apply FILE`"
    )]
    None {
        /// The bridge.
        bridge: String,
    },
    /// There is no such port.
    #[error("the bridge {bridge} has no port {port}: see `chronovisor net status`")]
    NoPort {
        /// The bridge.
        bridge: String,
        /// The port asked for.
        port: String,
    },
    /// No room for one more.
    #[error("the bridge {bridge} has {most} ports, the most there can be: use another bridge")]
    Full {
        /// The bridge.
        bridge: String,
        /// So many.
        most: u16,
    },
    /// No rate that HTB can keep.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// No tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A tree refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The kernel refused or cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

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

/// The place of a port in both trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u16);

impl Slot {
    /// A bridge has at most 1023 ports (`BR_PORT_BITS` in net/bridge/br_private.h).
    const MOST: u16 = 1023;
    const UNICAST: u16 = 0x1000;
    const BROADCAST: u16 = 0x2000;

    fn all() -> impl Iterator<Item = Self> {
        (1..=Self::MOST).map(Self)
    }

    fn of_class(id: ClassId) -> Option<Self> {
        let slot = id.minor().checked_sub(Self::UNICAST)? % (Self::BROADCAST - Self::UNICAST);
        (1..=Self::MOST).contains(&slot).then_some(Self(slot))
    }

    fn unicast(self) -> ClassId {
        ClassId::numbered(Self::UNICAST + self.0)
    }

    fn broadcast(self) -> ClassId {
        ClassId::numbered(Self::BROADCAST + self.0)
    }

    fn places(self) -> [(Place, ClassId); 2] {
        let place = |rank| Place { rank, node: self.0 };
        [
            (place(Rank::Unicast), self.unicast()),
            (place(Rank::Port), self.broadcast()),
        ]
    }
}

/// The class above the ports' broadcasts.
const BROADCAST: ClassId = ClassId::numbered(ClassId::FIRST);

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
        let made = make(&mut transaction, config, &names)?;
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
        port.share.check()?;
        let (slot, broadcast) = self.free_slot()?;
        let tap = Tap::open(&self.name_of(slot))?;
        self.plug((slot, broadcast), port)?;
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
        match self.plug((slot, broadcast), port) {
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
        (slot, broadcast): (Slot, [Share; 2]),
        port: &PortSpec,
    ) -> Result<(), PortsError> {
        let [sent, received] = broadcast;
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
        // The tap is not up before its guard stands, and takes all that belongs to it with it.
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
            Step::dependent(device::close_port(&link)),
            Step::dependent(device::add_neighbour(&link, port.mac)),
            Step::dependent(device::set_up(&link, true)),
        ]))?;
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

/// What broadcasts of one port are given, out of the VM and into it, when all together may have `rate`: out, equal parts
/// of what is borrowed from the class above; in, more than all can send at once, for what keeps to the rate on its way
/// out comes in bursts, and only what enters by other ways (the host, an uplink) need be limited there.
fn broadcast_shares(rate: BitRate) -> [Share; 2] {
    let bits = rate.bits_per_second();
    let twice = BitRate::new(
        bits.saturating_mul(2)
            .min(Share::GREATEST.bits_per_second()),
    );
    let share = |assured, ceil| Share {
        assured,
        ceil,
        priority: Priority::BestEffort,
    };
    [share(Share::LEAST, rate), share(twice, twice)]
}

/// The steps that make a port's classes in one tree, and what puts its packets there.
fn classes_of(root: &Root, slot: Slot, share: &Share, parts: Parts, port: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(root.leaf(slot.unicast(), Some(ClassId::LINK), share));
    steps.extend(root.leaf(slot.broadcast(), parts.parent, &parts.share));
    steps.extend(slot.places().map(|(place, class)| {
        let add = root.add_port_filter(place, class, port);
        Step::new(add, root.delete_filter(place))
    }));
    steps
}

/// Where broadcasts of one direction belong, and what one port's are given.
#[derive(Debug, Clone, Copy)]
struct Parts {
    parent: Option<ClassId>,
    share: Share,
}

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
struct Names {
    bridge: String,
    out: String,
    into: String,
}

impl Names {
    /// Names as seen from a VM: it transmits by one block and receives by the other.
    fn of(bridge: &str) -> Result<Self, NetlinkError> {
        let names = Self {
            bridge: bridge.to_owned(),
            out: format!("{bridge}-tx"),
            into: format!("{bridge}-rx"),
        };
        device::check_name(&names.out)?;
        device::check_name(bridge)?;
        Ok(names)
    }

    fn must_be_free(&self, netlink: &mut Netlink) -> Result<(), PortsError> {
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
    fn own(&self, netlink: &mut Netlink, name: &str) -> Result<Link, PortsError> {
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
fn make(
    transaction: &mut Transaction<'_>,
    config: &PortsConfig,
    names: &Names,
) -> Result<[Link; 3], PortsError> {
    let own = |add, name| Step::new(add, device::delete(name));
    transaction.apply(Vec::from([
        own(device::add_bridge(&names.bridge), &names.bridge),
        own(device::add_ifb(&names.out), &names.out),
        own(device::add_ifb(&names.into), &names.into),
    ]))?;
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
    steps.extend(links.iter().map(|link| device::set_alias(link, OWNER)));
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

fn without_ipv6(transaction: &mut Transaction<'_>, link: &Link) -> Result<(), NetlinkError> {
    match transaction.apply(vec![Step::dependent(device::without_ipv6_address(link))]) {
        Err(error) if error.errno() == Some(Errno::EAFNOSUPPORT) => Ok(()),
        answer => answer,
    }
}
