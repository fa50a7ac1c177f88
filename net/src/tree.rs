//! One HTB tree, owned on one interface: a class for the link's capacity, under it a class per share, one for what
//! nothing matches. Bandwidth is not admitted here.

mod error;
mod root;

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use units::BitRate;

use crate::class::{ClassId, Counters, Rates};
use crate::device;
use crate::filter::{self, Key, Place, Rank};
use crate::htb::Root;
use crate::netlink::{Netlink, Step};
use crate::share::Share;

pub use error::TreeError;
pub(crate) use root::{Change, change, replace, whole};

/// What the packets of a class have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Nothing: packets come by their priority (SO_PRIORITY, nft `meta priority set`, [`ClassId::handle`]).
    Marked,
    /// They go to a network whose first `prefix` bits are its own.
    Destination {
        /// An address of the network.
        network: IpAddr,
        /// How many bits are the network's.
        prefix: u8,
    },
    /// They have this mark (the upper six bits of IPv4's type of service and of IPv6's traffic class, RFC 2474).
    Dscp(u8),
}

/// A class to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClass {
    /// Its number.
    pub id: ClassId,
    /// What it is given.
    pub share: Share,
    /// What goes into it; any of them suffices.
    pub matches: Vec<Match>,
}

/// A tree, by a socket of its own to the namespace of the thread that made or opened it. Dropping it changes nothing. It
/// remembers nothing either: what the kernel has is what counts, whoever changed it.
#[derive(Debug)]
pub struct Tree {
    netlink: Netlink,
    root: Root,
}

impl Tree {
    /// Makes a tree on an interface that has no queueing discipline of its own choice. What no class matches shares what
    /// `default` says.
    ///
    /// # Errors
    /// When somebody's queueing discipline or a tree is there, a rate is out of range, or the kernel refuses.
    pub fn create(interface: &str, capacity: BitRate, default: &Share) -> Result<Self, TreeError> {
        let mut tree = Self::on(interface)?;
        if tree.is_there()? {
            return Err(TreeError::Exists {
                interface: interface.to_owned(),
            });
        }
        let steps = tree.root.plan(capacity, default, &MATCHES)?;
        let mut transaction = tree.netlink.transaction();
        transaction.apply(steps)?;
        transaction.commit();
        Ok(tree)
    }

    /// The tree that was made on this interface.
    ///
    /// # Errors
    /// When there is none, or the root is somebody else's.
    pub fn open(interface: &str) -> Result<Self, TreeError> {
        let mut tree = Self::on(interface)?;
        if tree.is_there()? {
            return Ok(tree);
        }
        Err(TreeError::None {
            interface: interface.to_owned(),
        })
    }

    fn on(interface: &str) -> Result<Self, TreeError> {
        let mut netlink = Netlink::open()?;
        let link = device::get(&mut netlink, interface)?;
        let root = Root::of(&link);
        Ok(Self { netlink, root })
    }

    fn is_there(&mut self) -> Result<bool, TreeError> {
        self.root.is_there(&mut self.netlink)
    }

    /// Its interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.root.interface
    }

    /// Changes the capacity; the sum of the assured rates is the caller's matter.
    ///
    /// # Errors
    /// When the rate is out of range or the kernel refuses.
    pub fn set_capacity(&mut self, capacity: BitRate) -> Result<(), TreeError> {
        self.change(&[(ClassId::LINK, whole(capacity)?)])
    }

    /// Adds classes, all or none.
    ///
    /// # Errors
    /// When a number is taken, a rate out of range, or the kernel refuses.
    pub fn add(&mut self, classes: &[NewClass]) -> Result<(), TreeError> {
        let mut taken: Vec<_> = self
            .filters()?
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        let mut steps = Vec::new();
        for class in classes {
            class.share.check()?;
            steps.extend(self.root.leaf(class.id, Some(ClassId::LINK), &class.share));
            for (rank, keys) in class.matches.iter().flat_map(Match::keys) {
                let place = self.free_place(&taken, rank)?;
                taken.push(place);
                let add = self.root.add_match_filter(place, class.id, &keys);
                steps.push(Step::new(add, self.root.delete_filter(place)));
            }
        }
        let mut transaction = self.netlink.transaction();
        transaction.apply(steps)?;
        transaction.commit();
        Ok(())
    }

    fn free_place(&self, taken: &[Place], rank: Rank) -> Result<Place, TreeError> {
        let mut places = (1..=filter::LAST).map(|node| Place { rank, node });
        let free = places.find(|place| !taken.contains(place));
        free.ok_or_else(|| TreeError::Full {
            interface: self.root.interface.clone(),
        })
    }

    /// The filters of matches, each with its class.
    fn filters(&mut self) -> Result<Vec<(Place, ClassId)>, TreeError> {
        let does = format!("list the filters of {}", self.root.interface);
        let answers = self.netlink.list(&does, self.root.list_filters())?;
        let filters = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(message) => filter::read_match_filter(message),
            _ => None,
        });
        Ok(filters.collect())
    }

    /// Changes the shares of classes, all or none, in one send.
    ///
    /// # Errors
    /// When there is no such class, a rate is out of range, or the kernel refuses.
    pub fn change(&mut self, shares: &[(ClassId, Share)]) -> Result<(), TreeError> {
        let changes: Vec<_> = shares
            .iter()
            .map(|(id, share)| (&self.root, *id, *share))
            .collect();
        change(&mut self.netlink, &changes)
    }

    /// Changes shares of classes as [`change`](Self::change) does, for a caller who knows what they are: class, share that it
    /// has, share that it is to have. It costs half, for the kernel is not asked; a refused change leaves classes with what
    /// the caller said they had.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub fn replace(&mut self, shares: &[(ClassId, Share, Share)]) -> Result<(), TreeError> {
        let change = |&(class, from, to)| Change {
            root: &self.root,
            class,
            from,
            to,
            is_leaf: class != ClassId::LINK,
        };
        let changes: Vec<_> = shares.iter().map(change).collect();
        replace(&mut self.netlink, &changes)
    }

    /// Removes classes with what matches them. Their packets go to the default class from then on.
    ///
    /// # Errors
    /// When there is no such class or the kernel refuses; the classes before it are then gone.
    pub fn remove(&mut self, classes: &[ClassId]) -> Result<(), TreeError> {
        self.root.known(&mut self.netlink, classes)?;
        let filters = self.filters()?.into_iter();
        let filters = filters.filter(|(_, class)| classes.contains(class));
        let mut requests: Vec<_> = filters
            .map(|(place, _)| self.root.delete_filter(place))
            .collect();
        requests.extend(classes.iter().map(|id| self.root.delete_class(*id)));
        Ok(self.netlink.apply(&requests)?)
    }

    /// The classes as the kernel has them, with those of the tree itself.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn classes(&mut self) -> Result<BTreeMap<ClassId, (Rates, Counters)>, TreeError> {
        let classes = self.root.classes(&mut self.netlink)?.into_iter();
        Ok(classes
            .map(|class| (class.id, (class.rates, class.counters)))
            .collect())
    }

    /// Removes the tree; the interface then has what the kernel gives by itself.
    ///
    /// # Errors
    /// When the kernel refuses. A tree or an interface that is gone is no error.
    pub fn delete(mut self) -> Result<(), TreeError> {
        let request = self.root.delete();
        match self.netlink.apply(&[request]) {
            Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT)) => Ok(()),
            answer => Ok(answer?),
        }
    }
}

impl Match {
    /// What a filter compares, for each filter that it takes.
    fn keys(&self) -> Vec<(Rank, Vec<Key>)> {
        match *self {
            Self::Marked => Vec::new(),
            Self::Destination { network, prefix } => vec![filter::destination(network, prefix)],
            Self::Dscp(dscp) => filter::dscp(dscp).to_vec(),
        }
    }
}

/// What matches of classes are looked up by.
const MATCHES: [Rank; 4] = [
    Rank::Dscp4,
    Rank::Destination4,
    Rank::Dscp6,
    Rank::Destination6,
];
