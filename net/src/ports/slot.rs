//! What one port has in the two trees, by its number: classes and filters.

use units::BitRate;

use crate::class::ClassId;
use crate::filter::{Place, Rank};
use crate::htb::Root;
use crate::netlink::Step;
use crate::share::{Priority, Share};

/// The place of a port in both trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    /// A bridge has at most 1023 ports (`BR_PORT_BITS` in net/bridge/br_private.h).
    pub(super) const MOST: u16 = 1023;
    const UNICAST: u16 = 0x1000;
    const BROADCAST: u16 = 0x2000;

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (1..=Self::MOST).map(Self)
    }

    pub(super) fn of_class(id: ClassId) -> Option<Self> {
        let slot = id.minor().checked_sub(Self::UNICAST)? % (Self::BROADCAST - Self::UNICAST);
        (1..=Self::MOST).contains(&slot).then_some(Self(slot))
    }

    pub(super) fn unicast(self) -> ClassId {
        ClassId::numbered(Self::UNICAST + self.0)
    }

    pub(super) fn broadcast(self) -> ClassId {
        ClassId::numbered(Self::BROADCAST + self.0)
    }

    pub(super) fn places(self) -> [(Place, ClassId); 2] {
        let place = |rank| Place { rank, node: self.0 };
        [
            (place(Rank::Unicast), self.unicast()),
            (place(Rank::Port), self.broadcast()),
        ]
    }
}

/// The class above the ports' broadcasts.
pub(super) const BROADCAST: ClassId = ClassId::numbered(ClassId::FIRST);

/// What broadcasts of one port are given, out of the VM and into it, when all together may have `rate`: out, equal parts
/// of what is borrowed from the class above; in, more than all can send at once, for what keeps to the rate on its way
/// out comes in bursts, and only what enters by other ways (the host, an uplink) need be limited there.
pub(super) fn broadcast_shares(rate: BitRate) -> [Share; 2] {
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
pub(super) fn classes_of(
    root: &Root,
    slot: Slot,
    share: &Share,
    parts: Parts,
    port: &str,
) -> Vec<Step> {
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
pub(super) struct Parts {
    pub(super) parent: Option<ClassId>,
    pub(super) share: Share,
}
