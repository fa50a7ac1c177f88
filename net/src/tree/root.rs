//! What is done to trees, by whatever socket.

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use units::BitRate;

use super::TreeError;
use crate::class::ClassId;
use crate::device::Link;
use crate::filter::Rank;
use crate::htb::{self, Reported, Root};
use crate::netlink::{Netlink, NetlinkError, Refusal, Step};
use crate::share::{Priority, Share, ShareError};

/// All of a rate.
pub(crate) fn whole(rate: BitRate) -> Result<Share, ShareError> {
    Share::new(rate, rate, Priority::BestEffort)
}

/// A class that is to have another share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) root: &'a Root,
    pub(crate) class: ClassId,
    pub(crate) from: Share,
    pub(crate) to: Share,
    /// Whether it has a queue.
    pub(crate) is_leaf: bool,
}

/// Changes classes of one tree or several, all or none, in one send. What they were is asked first, in another.
pub(crate) fn change(
    netlink: &mut Netlink,
    changes: &[(&Root, ClassId, Share)],
) -> Result<(), TreeError> {
    let lookups: Vec<_> = changes
        .iter()
        .map(|(root, class, _)| root.get_class(*class))
        .collect();
    let answers = netlink.get_each(&lookups)?.into_iter().zip(changes);
    let known = answers.map(|(answer, &(root, class, to))| {
        let before = root.reported(class, answer)?;
        Ok(Change {
            root,
            class,
            from: before.share(),
            to,
            is_leaf: before.is_leaf,
        })
    });
    replace(netlink, &known.collect::<Result<Vec<_>, TreeError>>()?)
}

/// Changes classes of which is known what they are, all or none, in one send.
pub(crate) fn replace(netlink: &mut Netlink, changes: &[Change<'_>]) -> Result<(), TreeError> {
    let mut steps = Vec::with_capacity(changes.len());
    for Change {
        root,
        class,
        from,
        to,
        is_leaf,
    } in changes
    {
        to.check()?;
        steps.push(Step::new(
            root.change_class(*class, to),
            root.change_class(*class, from),
        ));
        let limit = |share: &Share| htb::queue_limit(share.assured);
        if *is_leaf && limit(to) != limit(from) {
            steps.push(Step::new(
                root.queue(*class, to.assured),
                root.queue(*class, from.assured),
            ));
        }
    }
    let mut transaction = netlink.transaction();
    transaction.apply(steps)?;
    transaction.commit();
    Ok(())
}

impl Root {
    pub(crate) fn of(link: &Link) -> Self {
        Self {
            index: link.index,
            interface: link.name.clone(),
        }
    }

    /// Whether the tree is there; an error if something of somebody else's is.
    pub(crate) fn is_there(&self, netlink: &mut Netlink) -> Result<bool, TreeError> {
        let root = match netlink.find(&self.get_root()) {
            Ok(Some(RouteNetlinkMessage::NewQueueDiscipline(root))) => root,
            // Where an interface was never up, what it has is not shown (`tc_qdisc_dump_ignore`).
            Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::ENOENT)) => {
                return Ok(false);
            }
            answer => return answer.map(|_| false).map_err(TreeError::from),
        };
        let (handle, kind) = htb::describe(&root);
        match handle {
            // What the kernel gives an interface by itself has no number.
            0 => Ok(false),
            htb::TREE if kind == "htb" => Ok(true),
            handle => Err(TreeError::Foreign {
                interface: self.interface.clone(),
                kind,
                handle: handle >> 16,
            }),
        }
    }

    /// The steps that make a tree with this capacity.
    pub(crate) fn plan(
        &self,
        capacity: BitRate,
        default: &Share,
        ranks: &[Rank],
    ) -> Result<Vec<Step>, TreeError> {
        default.check()?;
        let link = self.add_class(ClassId::LINK, None, &whole(capacity)?);
        let mut steps = vec![Step::new(self.add(), self.delete()), Step::dependent(link)];
        let leaf = self.leaf(ClassId::DEFAULT, Some(ClassId::LINK), default);
        steps.extend(leaf);
        let tables = ranks.iter().flat_map(|rank| self.add_table(*rank));
        steps.extend(tables.map(Step::dependent));
        Ok(steps)
    }

    /// The steps that make a class without classes below it.
    pub(crate) fn leaf(&self, id: ClassId, parent: Option<ClassId>, share: &Share) -> [Step; 2] {
        let add = self.add_class(id, parent, share);
        [
            Step::new(add, self.delete_class(id)),
            Step::dependent(self.queue(id, share.assured).creating()),
        ]
    }

    pub(crate) fn classes(&self, netlink: &mut Netlink) -> Result<Vec<Reported>, TreeError> {
        let does = format!("list the classes of {}", self.interface);
        let answers = netlink.list(&does, self.list_classes())?;
        let classes = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficClass(message) => htb::read_class(message),
            _ => None,
        });
        Ok(classes.collect())
    }

    /// An error if the tree has one of the classes not.
    pub(super) fn known(
        &self,
        netlink: &mut Netlink,
        classes: &[ClassId],
    ) -> Result<(), TreeError> {
        let lookups: Vec<_> = classes.iter().map(|id| self.get_class(*id)).collect();
        let answers = netlink.get_each(&lookups)?.into_iter().zip(classes);
        for (answer, id) in answers {
            self.reported(*id, answer)?;
        }
        Ok(())
    }

    /// The class that the kernel answered with.
    fn reported(
        &self,
        id: ClassId,
        answer: Result<RouteNetlinkMessage, Refusal>,
    ) -> Result<Reported, TreeError> {
        let none = || TreeError::NoClass {
            interface: self.interface.clone(),
            class: id,
        };
        match answer {
            Ok(RouteNetlinkMessage::NewTrafficClass(message)) => {
                htb::read_class(&message).ok_or_else(none)
            }
            Err(refusal) if refusal.errno != Errno::ENOENT => {
                Err(NetlinkError::Refused(refusal).into())
            }
            _ => Err(none()),
        }
    }
}
