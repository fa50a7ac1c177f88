//! The kernel's queues, and those of routers, as the book wants them.
//!
//! Two ways lead there. A change of rates goes straight to the classes, and is taken back where it was made should it fail
//! elsewhere. Everything else looks at what is there and makes it what the book says, whatever was begun before: that is
//! also how a broken-off change is undone.

use std::collections::BTreeSet;

use crate::book::{Book, Denied};
use crate::cgroup;
use crate::class::ClassId;
use crate::device;
use crate::marks;
use crate::netlink::Netlink;
use crate::owner::Owner;
use crate::plan::{BridgePlan, NetworkPlan, Traffic, UplinkPlan};
use crate::ports::{self, Ports, PortsConfig, PortsError};
use crate::router::Routers;
use crate::share::{Priority, Share};
use crate::tree::{Tree, TreeError};

use super::NetworkError;

/// What was opened of them.
#[derive(Debug)]
pub(super) struct Queues {
    /// Who asks routers.
    owner: Owner,
    /// Of which network.
    applied: u64,
    ports: Option<Ports>,
    trees: Vec<Tree>,
    routers: Routers,
}

impl Queues {
    /// Nothing opened yet.
    pub(super) fn of(owner: Owner) -> Self {
        Self {
            applied: 0,
            ports: None,
            trees: Vec::new(),
            routers: Routers::of(&owner),
            owner,
        }
    }

    /// The routers, to be asked by somebody who does not hold the state.
    pub(super) fn lend_routers(&mut self, book: &Book) -> Routers {
        self.follow(book);
        std::mem::replace(&mut self.routers, Routers::of(&self.owner))
    }

    /// Keeps their agents for the next who asks; the answer is who need not be kept, to be ended elsewhere.
    pub(super) fn take_routers(&mut self, applied: u64, lent: Routers) -> Option<Routers> {
        if self.applied != applied || !self.routers.is_empty() {
            return Some(lent);
        }
        self.routers = lent;
        None
    }

    /// Forgets what was opened of another network than the book's.
    fn follow(&mut self, book: &Book) {
        if self.applied != book.applied {
            self.ports = None;
            self.trees.clear();
            self.routers = Routers::of(&self.owner);
            self.applied = book.applied;
        }
    }

    /// The bridge's ports.
    pub(super) fn ports(&mut self, book: &Book) -> Result<&mut Ports, NetworkError> {
        self.follow(book);
        let ports = match self.ports.take() {
            Some(ports) => ports,
            None => {
                let bridge = book.plan.bridge.as_ref().ok_or(Denied::NoBridge)?;
                Ports::open(&bridge.name)?
            }
        };
        Ok(self.ports.insert(ports))
    }

    /// The tree on this interface.
    fn tree(&mut self, interface: &str) -> Result<&mut Tree, TreeError> {
        let known = self
            .trees
            .iter()
            .position(|tree| tree.interface() == interface);
        let at = match known {
            Some(at) => at,
            None => {
                self.trees.push(Tree::open(interface)?);
                self.trees.len() - 1
            }
        };
        Ok(&mut self.trees[at])
    }

    /// The trees of the uplink, in order.
    pub(super) fn uplink(&mut self, book: &Book) -> Result<Vec<&mut Tree>, NetworkError> {
        self.follow(book);
        let interfaces = book
            .plan
            .uplink
            .iter()
            .flat_map(|uplink| &uplink.interfaces);
        for interface in interfaces.clone() {
            self.tree(interface)?;
        }
        let is_one = |tree: &&mut Tree| interfaces.clone().any(|name| name == tree.interface());
        Ok(self.trees.iter_mut().filter(is_one).collect())
    }

    /// Changes rates from those of one book to those of another that differs in nothing else; all, or none.
    pub(super) fn change(&mut self, before: &Book, after: &Book) -> Result<(), NetworkError> {
        let mut done = Vec::new();
        let places = [Place::Ports, Place::Uplink, Place::Routers];
        let mut all = places.into_iter();
        let failed = all.find_map(|place| match self.change_at(place, before, after) {
            Ok(()) => {
                done.push(place);
                None
            }
            Err(error) => Some(error),
        });
        let Some(mut failed) = failed else {
            return Ok(());
        };
        for place in done.into_iter().rev() {
            if let Err(undoing) = self.change_at(place, after, before) {
                failed = NetworkError::partly(failed, undoing);
            }
        }
        Err(failed)
    }

    fn change_at(&mut self, place: Place, from: &Book, to: &Book) -> Result<(), NetworkError> {
        match place {
            Place::Ports => {
                let both = from.ports.iter().zip(&to.ports);
                let changed = both.filter(|(old, new)| old.share != new.share);
                let shares: Vec<_> = changed
                    .map(|(old, new)| (new.port.as_str(), old.share, new.share))
                    .collect();
                if !shares.is_empty() {
                    self.ports(from)?.replace(&shares)?;
                }
            }
            Place::Uplink => {
                let both = from.shares.iter().zip(&to.shares);
                let changed = both.filter(|(old, new)| old.plan.share != new.plan.share);
                let shares: Vec<_> = changed
                    .map(|(_, new)| (new.class, new.plan.share))
                    .collect();
                if !shares.is_empty() {
                    self.change_uplink(from, &shares)?;
                }
            }
            Place::Routers => self.routers.change(from, to)?,
        }
        Ok(())
    }

    /// On every interface, or on none.
    fn change_uplink(
        &mut self,
        book: &Book,
        shares: &[(ClassId, Share)],
    ) -> Result<(), NetworkError> {
        let mut trees = self.uplink(book)?;
        for index in 0..trees.len() {
            let Err(error) = trees[index].change(shares) else {
                continue;
            };
            let held = |class| book.shares.iter().find(|entry| entry.class == class);
            let old = shares
                .iter()
                .filter_map(|(class, _)| Some((*class, held(*class)?.plan.share)));
            let old: Vec<_> = old.collect();
            let mut failed = NetworkError::from(error);
            for tree in &mut trees[..index] {
                if let Err(undoing) = tree.change(&old) {
                    failed = NetworkError::partly(failed, undoing.into());
                }
            }
            return Err(failed);
        }
        Ok(())
    }

    /// Whether what `book` has beside `before` can be made: nothing is in its place. Changes nothing.
    pub(super) fn is_free(&self, book: &Book, before: &Book) -> Result<(), NetworkError> {
        let known: BTreeSet<_> = interfaces(&before.plan).collect();
        for interface in interfaces(&book.plan).filter(|name| !known.contains(name)) {
            match Tree::open(interface) {
                Err(TreeError::None { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    let interface = interface.to_owned();
                    return Err(TreeError::Exists { interface }.into());
                }
            }
        }
        let name = |book: &Book| book.plan.bridge.as_ref().map(|bridge| bridge.name.clone());
        let Some(bridge) = name(book).filter(|new| Some(new) != name(before).as_ref()) else {
            return Ok(());
        };
        match Ports::open(&bridge) {
            Err(PortsError::None { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(PortsError::Exists { bridge }.into()),
        }
    }

    /// Makes everything what `book` says, on routers last; what the `others` may have made is removed where `book` does not have it.
    pub(super) fn reconcile(
        &mut self,
        book: &Book,
        others: &[&Book],
        left: Left,
    ) -> Result<(), NetworkError> {
        self.reconcile_here(book, others, left)?;
        Ok(self.routers.reconcile(book, others)?)
    }

    /// The same without routers.
    pub(super) fn reconcile_here(
        &mut self,
        book: &Book,
        others: &[&Book],
        left: Left,
    ) -> Result<(), NetworkError> {
        self.ports = None;
        self.trees.clear();
        self.follow(book);
        let mut netlink = Netlink::open()?;
        if left == Left::Broken {
            remove_broken(&mut netlink, book, others)?;
        }
        self.remove_others(&mut netlink, book, others)?;
        if let Some(bridge) = &book.plan.bridge {
            let mut known = others.iter().filter_map(|other| other.plan.bridge.as_ref());
            let is_known = known.any(|other| other.name == bridge.name);
            self.make_bridge(&mut netlink, bridge, is_known, book)?;
        }
        if let Some(uplink) = &book.plan.uplink {
            let known = others.iter().flat_map(|other| interfaces(&other.plan));
            let known: BTreeSet<_> = known.collect();
            for interface in &uplink.interfaces {
                let is_known = known.contains(interface.as_str());
                self.make_tree(interface, is_known, uplink, book)?;
            }
        }
        mark(book, others)
    }

    /// Has the routers of a plan forget it.
    pub(super) fn clear_routers(&self, lost: &Book) -> Result<(), NetworkError> {
        let mut routers = Routers::of(&self.owner);
        Ok(routers.reconcile(&Book::default(), &[lost])?)
    }

    /// Marks and routers only.
    pub(super) fn reconcile_beyond(
        &mut self,
        book: &Book,
        others: &[&Book],
    ) -> Result<(), NetworkError> {
        self.follow(book);
        mark(book, others)?;
        Ok(self.routers.reconcile(book, others)?)
    }

    fn remove_others(
        &mut self,
        netlink: &mut Netlink,
        book: &Book,
        others: &[&Book],
    ) -> Result<(), NetworkError> {
        let kept: BTreeSet<_> = interfaces(&book.plan).collect();
        for other in others {
            let gone = interfaces(&other.plan).filter(|name| !kept.contains(name));
            for interface in gone {
                if device::find(netlink, interface)?.is_some() {
                    remove_tree(interface)?;
                }
            }
            let bridge = other.plan.bridge.as_ref();
            let stays = |old: &BridgePlan| {
                let new = book.plan.bridge.as_ref();
                new.is_some_and(|new| {
                    (&new.name, new.mtu, new.address) == (&old.name, old.mtu, old.address)
                })
            };
            if let Some(bridge) = bridge.filter(|bridge| !stays(bridge)) {
                remove_bridge(netlink, &bridge.name)?;
            }
        }
        Ok(())
    }

    fn make_bridge(
        &mut self,
        netlink: &mut Netlink,
        bridge: &BridgePlan,
        is_known: bool,
        book: &Book,
    ) -> Result<(), NetworkError> {
        let config = PortsConfig {
            bridge: bridge.name.clone(),
            capacity: bridge.capacity,
            broadcast: bridge.broadcast,
            mtu: bridge.mtu,
            address: bridge.address.map(|cidr| (cidr.address, cidr.prefix)),
        };
        let mut ports = match Ports::open(&bridge.name) {
            Ok(ports) if is_known => ports,
            Err(PortsError::None { .. }) if is_known => {
                remove_bridge(netlink, &bridge.name)?;
                Ports::create(&config)?
            }
            _ => Ports::create(&config)?,
        };
        ports.set_capacity(bridge.capacity, bridge.broadcast)?;
        let live = ports.list()?;
        let is_live = |name: &str| live.iter().any(|port| port.name == name);
        let shares = book.ports.iter().filter(|entry| is_live(&entry.port));
        let shares: Vec<_> = shares
            .map(|entry| (entry.port.as_str(), entry.share))
            .collect();
        ports.change(&shares)?;
        Ok(())
    }

    fn make_tree(
        &mut self,
        interface: &str,
        is_known: bool,
        uplink: &UplinkPlan,
        book: &Book,
    ) -> Result<(), NetworkError> {
        let default = Share {
            assured: uplink.headroom.max(Share::LEAST),
            ceil: uplink.capacity,
            priority: Priority::BestEffort,
        };
        let create = || Tree::create(interface, uplink.capacity, &default);
        let mut tree = match Tree::open(interface) {
            Ok(tree) if is_known => tree,
            Ok(_) | Err(TreeError::None { .. }) => create()?,
            Err(error) => return Err(error.into()),
        };
        tree.set_capacity(uplink.capacity)?;
        tree.change(&[(ClassId::DEFAULT, default)])?;
        let there = tree.classes()?;
        let wanted = book.classes(uplink);
        let is_wanted = |id: &ClassId| wanted.iter().any(|class| class.id == *id);
        let own = |id: &ClassId| matches!(*id, ClassId::LINK | ClassId::DEFAULT);
        let gone = there.keys().filter(|id| !own(id) && !is_wanted(id));
        let gone: Vec<_> = gone.copied().collect();
        let (stay, new): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|class| there.contains_key(&class.id));
        tree.remove(&gone)?;
        let stay: Vec<_> = stay.iter().map(|class| (class.id, class.share)).collect();
        tree.change(&stay)?;
        tree.add(&new)?;
        self.trees.push(tree);
        Ok(())
    }
}

/// What a change before has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All of it, or nothing.
    Whole,
    /// Perhaps a part: its process was killed.
    Broken,
}

/// Removes what may have been made only in part. A bridge with ports was there before, and whole.
fn remove_broken(netlink: &mut Netlink, book: &Book, others: &[&Book]) -> Result<(), NetworkError> {
    let all = || others.iter().copied().chain([book]);
    for interface in all().flat_map(|one| interfaces(&one.plan)) {
        if device::find(netlink, interface)?.is_some() {
            remove_tree(interface)?;
        }
    }
    if book.ports.is_empty() {
        let bridges = all().filter_map(|one| one.plan.bridge.as_ref());
        for bridge in bridges {
            remove_bridge(netlink, &bridge.name)?;
        }
    }
    Ok(())
}

/// Where rates are changed.
#[derive(Clone, Copy, Debug)]
enum Place {
    Ports,
    Uplink,
    Routers,
}

/// The interfaces on which a plan has trees.
fn interfaces(plan: &NetworkPlan) -> impl Iterator<Item = &str> + Clone {
    let uplink = plan.uplink.iter();
    uplink.flat_map(|uplink| uplink.interfaces.iter().map(String::as_str))
}

fn remove_tree(interface: &str) -> Result<(), NetworkError> {
    match Tree::open(interface) {
        Ok(tree) => Ok(tree.delete()?),
        // Somebody else's by now, or none.
        Err(TreeError::None { .. } | TreeError::Foreign { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Also one of which only a part is left.
fn remove_bridge(netlink: &mut Netlink, bridge: &str) -> Result<(), NetworkError> {
    for name in ports::names(bridge) {
        if device::find(netlink, &name)?.is_some_and(|link| ports::is_own(&link)) {
            netlink.apply(&[device::delete(&name)])?;
        }
    }
    Ok(())
}

/// Marks are replaced as a whole; without any, nft is not needed.
fn mark(book: &Book, others: &[&Book]) -> Result<(), NetworkError> {
    for entry in &book.shares {
        if let Traffic::Cgroup(path) = &entry.plan.traffic
            && let Err(error) = cgroup::find(path)
        {
            let share = &entry.plan.name;
            tracing::warn!(share, %error, "nobody's packets have this share; once the group is there, `chronovisor net apply` gives it to them");
        }
    }
    let wanted = book.marks();
    let table = table(&book.plan);
    for other in others.iter().filter(|other| !other.marks().is_empty()) {
        if let Some(old) = self::table(&other.plan)
            && (Some(&old) != table.as_ref() || wanted.is_empty())
        {
            marks::remove(&old)?;
        }
    }
    match table {
        Some(table) if !wanted.is_empty() => Ok(wanted.apply(&table)?),
        _ => Ok(()),
    }
}

/// The name of a plan's table of marks. A host that is an edge router for others may have an uplink of its own by the same
/// interface: each has its own table.
fn table(plan: &NetworkPlan) -> Option<String> {
    let first = |names: &[String]| names.first().cloned();
    let uplink = plan.uplink.as_ref();
    let marking = plan.marking.as_ref();
    let own = uplink.and_then(|uplink| first(&uplink.interfaces));
    own.map(|name| marks::table_of(&name)).or_else(|| {
        let edge = marking.and_then(|marking| first(&marking.interfaces));
        edge.map(|name| format!("{}_edge", marks::table_of(&name)))
    })
}
