//! Hierarchical token buckets (tc-htb(8), net/sched/sch_htb.c): requests that make and change them, and what the kernel
//! reports of them. netlink-packet-route does not know HTB, so its attributes are written and read here.
//!
//! A rate is counted in bytes per second, with the Ethernet header and without preamble, checksum and gap; a burst as
//! the time that it takes at the rate, in ticks of 64 ns (`PSCHED_SHIFT`).

use netlink_packet_core::{NLM_F_ECHO, Nla as _, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcMessage, TcOption, TcStats2};
use units::{BitRate, ByteSize};

use crate::attributes::{Attributes, message, numbers, plain_options};
use crate::class::{ClassId, Counters, MAJOR, Rates};
use crate::netlink::Request;
use crate::share::{Priority, Share};

/// `TC_H_ROOT` of linux/pkt_sched.h: the parent of an interface's own queueing discipline.
pub(crate) const ROOT: u32 = 0xffff_ffff;
/// The kernel's number of the queueing discipline of a tree.
pub(crate) const TREE: u32 = (MAJOR as u32) << 16;

/// `TCA_HTB_` of linux/pkt_sched.h.
const PARMS: u16 = 1;
const INIT: u16 = 2;
const RATE64: u16 = 6;
const CEIL64: u16 = 7;
/// `HTB_VER >> 16`: what `tc_htb_glob.version` must be.
const VERSION: u32 = 3;
/// Only for classes without a quantum, of which there are none.
const RATE_TO_QUANTUM: u32 = 10;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes times itself and needs no table.
const ETHERNET: u8 = 1;
/// Size of `struct tc_htb_opt`: two `tc_ratespec` and five numbers.
const PARMS_SIZE: usize = 2 * 12 + 5 * 4;
const NANOS_PER_TICK: u64 = 64;

/// What is sent at once at a rate: so much time of it ...
const BURST_MICROS: u64 = 1_000;
/// ... and how much time of the assured rate may wait in a leaf.
const QUEUE_MILLIS: u64 = 50;
/// A shorter queue starves TCP, for a frame that is segmented later has up to 64 kB and a whole one must fit beside it
/// (measured: 10 Mbit/s with 45 kB give 0.28 Mbit/s, with 70 kB 9.57).
const QUEUE_FLOOR: u64 = 140_000;
/// Two full Ethernet frames: the least burst, and the least turn among classes of the same priority.
const TWO_FRAMES: u64 = 3_036;
/// Turns are no longer than this, however high the rate.
const LONGEST_TURN: u64 = 60_000;

const fn bytes_per_second(rate: BitRate) -> u64 {
    rate.bits_per_second() / 8
}

/// What is sent at once at `rate`.
#[must_use]
pub fn burst(rate: BitRate) -> ByteSize {
    let bytes = bytes_per_second(rate).saturating_mul(BURST_MICROS) / 1_000_000;
    ByteSize::new(bytes.max(TWO_FRAMES))
}

/// How many bytes may wait in the leaf of a class with this assured rate.
#[must_use]
pub fn queue_limit(assured: BitRate) -> u32 {
    let bytes = bytes_per_second(assured).saturating_mul(QUEUE_MILLIS) / 1_000;
    u32::try_from(bytes.max(QUEUE_FLOOR)).unwrap_or(u32::MAX)
}

/// By how many bytes a class takes turns with others of its priority: as its assured rate is to theirs, within limits.
#[must_use]
pub fn quantum(assured: BitRate) -> u32 {
    let bytes = bytes_per_second(assured).saturating_mul(BURST_MICROS) / 1_000_000;
    u32::try_from(bytes.clamp(TWO_FRAMES, LONGEST_TURN)).unwrap_or(u32::MAX)
}

const fn kernel_priority(priority: Priority) -> u32 {
    match priority {
        Priority::Gold => 0,
        Priority::BestEffort => 1,
    }
}

/// The time of a burst at its rate, in ticks.
fn ticks(rate: BitRate) -> u32 {
    let nanos = burst(rate).bytes().saturating_mul(1_000_000_000) / bytes_per_second(rate).max(1);
    u32::try_from(nanos / NANOS_PER_TICK).unwrap_or(u32::MAX)
}

/// `struct tc_ratespec`.
fn rate_spec(rate: BitRate) -> [u8; 12] {
    let rate = u32::try_from(bytes_per_second(rate)).unwrap_or(u32::MAX);
    let [a, b, c, d] = rate.to_ne_bytes();
    [0, ETHERNET, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

fn class_options(share: &Share) -> TcAttribute {
    let mut parms = Vec::with_capacity(PARMS_SIZE);
    parms.extend(rate_spec(share.assured));
    parms.extend(rate_spec(share.ceil));
    parms.extend(numbers(&[
        ticks(share.assured),
        ticks(share.ceil),
        quantum(share.assured),
        0,
        kernel_priority(share.priority),
    ]));
    Attributes::default()
        .put(PARMS, &parms)
        .put(RATE64, &bytes_per_second(share.assured).to_ne_bytes())
        .put(CEIL64, &bytes_per_second(share.ceil).to_ne_bytes())
        .options()
}

fn kind(name: &str) -> TcAttribute {
    TcAttribute::Kind(name.to_owned())
}

/// Requests about the tree on one interface.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    /// The interface's number and name.
    pub(crate) index: u32,
    pub(crate) interface: String,
}

impl Root {
    fn class(&self, id: ClassId, parent: u32, share: &Share) -> RouteNetlinkMessage {
        let attributes = vec![kind("htb"), class_options(share)];
        RouteNetlinkMessage::NewTrafficClass(message(self.index, id.handle(), parent, attributes))
    }

    /// Makes the tree itself; refused by the kernel when the root is taken.
    pub(crate) fn add(&self) -> Request {
        let default = u32::from(ClassId::DEFAULT.minor());
        let global = numbers(&[VERSION, RATE_TO_QUANTUM, default, 0, 0]);
        let options = Attributes::default().put(INIT, &global).options();
        let message = message(self.index, TREE, ROOT, vec![kind("htb"), options]);
        let does = format!("put a tree on {}", self.interface);
        Request::new(does, RouteNetlinkMessage::NewQueueDiscipline(message)).creating()
    }

    pub(crate) fn delete(&self) -> Request {
        let message = message(self.index, TREE, ROOT, Vec::new());
        let does = format!("delete the tree of {}", self.interface);
        Request::new(does, RouteNetlinkMessage::DelQueueDiscipline(message))
    }

    /// Makes a class under `parent`, or beside the others with none.
    pub(crate) fn add_class(&self, id: ClassId, parent: Option<ClassId>, share: &Share) -> Request {
        let parent = parent.map_or(TREE, ClassId::handle);
        let does = format!("add the class {id} to {}", self.interface);
        Request::new(does, self.class(id, parent, share)).creating()
    }

    /// Gives a class other rates.
    pub(crate) fn change_class(&self, id: ClassId, share: &Share) -> Request {
        let does = format!("change the class {id} of {}", self.interface);
        Request::new(does, self.class(id, TREE, share))
    }

    pub(crate) fn delete_class(&self, id: ClassId) -> Request {
        let message = message(self.index, id.handle(), TREE, Vec::new());
        let does = format!("delete the class {id} of {}", self.interface);
        Request::new(does, RouteNetlinkMessage::DelTrafficClass(message))
    }

    /// Gives a class without children its queue, or an existing queue another length.
    pub(crate) fn queue(&self, id: ClassId, assured: BitRate) -> Request {
        let options = plain_options(&queue_limit(assured).to_ne_bytes());
        let message = message(self.index, 0, id.handle(), vec![kind("bfifo"), options]);
        let does = format!("set the queue of the class {id} of {}", self.interface);
        Request::new(does, RouteNetlinkMessage::NewQueueDiscipline(message))
    }

    pub(crate) fn get_class(&self, id: ClassId) -> Request {
        let message = message(self.index, id.handle(), TREE, Vec::new());
        let does = format!("look up the class {id} of {}", self.interface);
        // Without NLM_F_ECHO only those who listen to changes get the answer (`tclass_notify` in net/sched/sch_api.c).
        Request::new(does, RouteNetlinkMessage::GetTrafficClass(message)).with(NLM_F_ECHO)
    }

    /// Asks for what is at the interface's root, by itself: a list of every interface's is given in parts, and the kernel
    /// does not say when it changed in between (`tc_dump_qdisc` in net/sched/sch_api.c).
    pub(crate) fn get_root(&self) -> Request {
        let message = message(self.index, 0, ROOT, Vec::new());
        let does = format!("look up the queueing discipline of {}", self.interface);
        Request::new(does, RouteNetlinkMessage::GetQueueDiscipline(message)).with(NLM_F_ECHO)
    }

    pub(crate) fn list_classes(&self) -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetTrafficClass(message(self.index, 0, 0, Vec::new()))
    }
}

/// Asks for every queueing discipline of every interface.
pub(crate) fn list_disciplines() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())
}

/// The number and kind of a queueing discipline.
pub(crate) fn describe(message: &TcMessage) -> (u32, String) {
    let kind = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        });
    (message.header.handle.into(), kind.unwrap_or_default())
}

/// A class as the kernel reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) id: ClassId,
    /// The class above it; none if it stands beside the tree's others.
    pub(crate) parent: Option<ClassId>,
    /// Whether it has no class below it.
    pub(crate) is_leaf: bool,
    pub(crate) rates: Rates,
    pub(crate) counters: Counters,
}

impl Reported {
    /// The share that it was given.
    pub(crate) fn share(&self) -> Share {
        Share {
            assured: self.rates.assured,
            ceil: self.rates.ceil,
            priority: match self.rates.priority {
                0 => Priority::Gold,
                _ => Priority::BestEffort,
            },
        }
    }
}

/// The class of a tree of this crate that `message` is about; nothing if it is about anything else.
pub(crate) fn read_class(message: &TcMessage) -> Option<Reported> {
    let id = ClassId::of_handle(message.header.handle.into())?;
    let rates = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => read_rates(options),
            _ => None,
        })?;
    Some(Reported {
        id,
        parent: ClassId::of_handle(message.header.parent.into()),
        // `tcm_info` is the number of a leaf's own queueing discipline.
        is_leaf: message.header.info != 0,
        rates,
        counters: read_counters(message),
    })
}

fn read_rates(options: &[TcOption]) -> Option<Rates> {
    let TcOption::Other(options) = options.first()? else {
        return None;
    };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let value = |kind| {
        let mut attributes = NlasIterator::new(bytes.as_slice()).filter_map(Result::ok);
        attributes.find(|attribute| attribute.kind() == kind)
    };
    let (mut rates, buffer) = read_parms(value(PARMS)?.value())?;
    // Reported only when the rate does not fit the structure's 32 bits.
    let rate64 = |kind| {
        let bytes = u64::from_ne_bytes(*value(kind)?.value().first_chunk()?);
        Some(BitRate::new(bytes.saturating_mul(8)))
    };
    rates.assured = rate64(RATE64).unwrap_or(rates.assured);
    rates.ceil = rate64(CEIL64).unwrap_or(rates.ceil);
    let nanos = u128::from(buffer) * u128::from(NANOS_PER_TICK);
    let burst = nanos * u128::from(bytes_per_second(rates.assured)) / 1_000_000_000;
    rates.burst = ByteSize::new(u64::try_from(burst).unwrap_or(u64::MAX));
    Some(rates)
}

/// `struct tc_htb_opt`: what it says, and the burst in ticks.
fn read_parms(bytes: &[u8]) -> Option<(Rates, u32)> {
    let number = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let rate = |at| Some(BitRate::new(u64::from(number(at)?) * 8));
    let rates = Rates {
        assured: rate(8)?,
        ceil: rate(20)?,
        priority: number(40)?,
        burst: ByteSize::new(0),
        quantum: number(32)?,
    };
    Some((rates, number(24)?))
}

/// What a class or a queueing discipline counted.
pub(crate) fn read_counters(message: &TcMessage) -> Counters {
    let mut counters = Counters::default();
    let all = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            TcAttribute::Stats2(stats) => Some(stats),
            _ => None,
        });
    for statistic in all.flatten() {
        match statistic {
            TcStats2::Basic(basic) => {
                counters.bytes = basic.bytes;
                counters.packets = u64::from(basic.packets);
            }
            TcStats2::Queue(queue) => {
                counters.backlog = u64::from(queue.backlog);
                counters.drops = u64::from(queue.drops);
                counters.overlimits = u64::from(queue.overlimits);
            }
            _ => {}
        }
    }
    counters
}
