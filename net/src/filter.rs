//! What decides which class a packet goes to, and what may enter at all: `u32` (tc-u32(8)), `bpf` with a classic program
//! (tc-bpf(8)) and the `mirred` action (tc-mirred(8)). A guest cannot influence any of it: ports are told apart by the
//! interface from which a packet was redirected, never by what is in the packet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterU32Option, TcMessage, TcOption};

use crate::attributes::{Attributes, message, numbers};
use crate::class::ClassId;
use crate::device::Link;
use crate::htb::{self, Root, TREE};
use crate::mac::Mac;
use crate::netlink::{Netlink, NetlinkError, Request};

/// `TC_H_CLSACT` and its two hooks (linux/pkt_sched.h), and the number that `clsact` always has.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// `ETH_P_` of linux/if_ether.h.
const ALL: u16 = 0x0003;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// `TCA_U32_` and `TC_U32_` of linux/pkt_cls.h.
const CLASS: u16 = 1;
const SELECTOR: u16 = 5;
const ACTIONS: u16 = 7;
const DEVICE: u16 = 8;
const TERMINAL: u8 = 1;
/// The bits that tell the filters of a table apart (`TC_U32_NODE`).
const NODES: u32 = 0xfff;
const TABLE: u16 = 2;
const LINK: u16 = 3;
const DIVISOR: u16 = 4;
/// `TCA_ACT_` and `TCA_MIRRED_`, `TC_ACT_STOLEN` and `TCA_EGRESS_REDIR`.
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
const STOLEN: u32 = 4;
const REDIRECT: u32 = 1;
/// `TCA_BPF_`, and the flag that says that the program's result is the verdict.
const PROGRAM_LENGTH: u16 = 4;
const PROGRAM: u16 = 5;
const PROGRAM_NAME: u16 = 7;
const PROGRAM_FLAGS: u16 = 8;
const DIRECT: u32 = 1;
/// Verdicts: dropped; and asked of the next filter.
const SHOT: u32 = 2;
const NEXT: u32 = u32::MAX;

/// Kinds of filters of a tree, each in a hash table of its own with a number of our choice: the kernel finds a filter by that
/// of its table. Asked in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// A port's packets to one receiver: nearly all there are.
    Unicast = 1,
    /// A port's other packets.
    Port = 2,
    /// Marks of IPv4.
    Dscp4 = 3,
    /// IPv4 destinations.
    Destination4 = 4,
    /// Marks of IPv6.
    Dscp6 = 5,
    /// IPv6 destinations.
    Destination6 = 6,
}

impl Rank {
    pub(crate) const fn of_destination(network: IpAddr) -> Self {
        match network {
            IpAddr::V4(_) => Self::Destination4,
            IpAddr::V6(_) => Self::Destination6,
        }
    }

    const fn protocol(self) -> u16 {
        match self {
            Self::Unicast | Self::Port => ALL,
            Self::Dscp4 | Self::Destination4 => IPV4,
            Self::Dscp6 | Self::Destination6 => IPV6,
        }
    }

    /// Ports' filters are asked together: only one of their tables matters to a packet.
    const fn priority(self) -> u32 {
        match self {
            Self::Unicast | Self::Port => 1,
            Self::Dscp4 => 3,
            Self::Destination4 => 4,
            Self::Dscp6 => 5,
            Self::Destination6 => 6,
        }
    }

    /// `tcm_info`: priority, and protocol in the network's byte order.
    fn info(self) -> u32 {
        self.priority() << 16 | u32::from(self.protocol().to_be())
    }

    /// The number of its hash table (`TC_U32_HTID`).
    const fn table(self) -> u32 {
        (self as u32) << 20
    }

    /// What a packet must be to be looked up in the table.
    const fn key(self) -> Key {
        match self {
            Self::Unicast => TO_ONE,
            _ => ANY,
        }
    }
}

/// One filter of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: Rank,
    /// 1 to [`LAST`].
    pub(crate) node: u16,
}

impl Place {
    fn handle(self) -> u32 {
        self.rank.table() | u32::from(self.node)
    }
}

/// The greatest number of a filter of one rank.
pub(crate) const LAST: u16 = 0xfff;

/// A comparison of 32 bits: `(packet[offset..] & mask) == value`, counted from the network header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    mask: [u8; 4],
    value: [u8; 4],
    offset: i32,
}

/// Every packet.
const ANY: Key = Key {
    mask: [0; 4],
    value: [0; 4],
    offset: 0,
};

/// Packets to one receiver: the group bit of the destination, 14 bytes before the network header, is not set. Keys are
/// aligned to 4 bytes.
const TO_ONE: Key = Key {
    mask: [0, 0, 1, 0],
    value: [0; 4],
    offset: -16,
};

fn selector(keys: &[Key], flags: u8) -> Vec<u8> {
    let count = u8::try_from(keys.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![flags, 0, count];
    bytes.resize(16, 0);
    for key in keys {
        bytes.extend(key.mask);
        bytes.extend(key.value);
        bytes.extend(key.offset.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

/// The keys that the addresses of a network match, by IP header (RFC 791, RFC 8200).
pub(crate) fn destination(network: IpAddr, prefix: u8) -> (Rank, Vec<Key>) {
    let (first, bytes) = match network {
        IpAddr::V4(v4) => (16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (24, v6.octets().to_vec()),
    };
    let words = bytes
        .chunks_exact(4)
        .zip(0u8..)
        .filter_map(|(word, number)| {
            let bits = prefix.saturating_sub(number * 32).min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let value = word
                .first_chunk()
                .map(|word| u32::from_be_bytes(*word) & mask)?;
            (mask != 0).then_some(Key {
                mask: mask.to_be_bytes(),
                value: value.to_be_bytes(),
                offset: first + i32::from(number) * 4,
            })
        });
    let mut keys: Vec<_> = words.collect();
    if keys.is_empty() {
        keys.push(ANY);
    }
    (Rank::of_destination(network), keys)
}

/// The keys that a mark matches: the upper six bits of the second byte (RFC 791), and of the eight after the first four
/// (RFC 8200).
pub(crate) fn dscp(dscp: u8) -> [(Rank, Vec<Key>); 2] {
    let at = |shift: u32| {
        vec![Key {
            mask: (0xfc_u32 << shift).to_be_bytes(),
            value: (u32::from(dscp) << 2 << shift).to_be_bytes(),
            offset: 0,
        }]
    };
    [(Rank::Dscp4, at(16)), (Rank::Dscp6, at(20))]
}

fn kind(name: &str) -> TcAttribute {
    TcAttribute::Kind(name.to_owned())
}

impl Root {
    fn new_filter(&self, rank: Rank, number: u32, options: Attributes) -> RouteNetlinkMessage {
        let attributes = vec![kind("u32"), options.options()];
        let mut message = message(self.index, number, TREE, attributes);
        message.header.info = rank.info();
        RouteNetlinkMessage::NewTrafficFilter(message)
    }

    /// Makes the table of a rank, and sends packets there. It goes with the tree.
    pub(crate) fn add_table(&self, rank: Rank) -> [Request; 2] {
        let does = || format!("add a table of filters to {}", self.interface);
        let table = Attributes::default().number(DIVISOR, 1);
        let link = Attributes::default()
            .number(LINK, rank.table())
            .put(SELECTOR, &selector(&[rank.key()], 0));
        let (table, link) = (
            self.new_filter(rank, rank.table(), table),
            self.new_filter(rank, rank as u32, link),
        );
        [table, link].map(|message| Request::new(does(), message).creating())
    }

    fn filter(&self, place: Place, class: ClassId, keys: &[Key], device: Option<&str>) -> Request {
        let mut options = Attributes::default()
            .number(CLASS, class.handle())
            .number(TABLE, place.rank.table())
            .put(SELECTOR, &selector(keys, TERMINAL));
        if let Some(device) = device {
            options = options.text(DEVICE, device);
        }
        let message = self.new_filter(place.rank, place.handle(), options);
        let does = format!("add a filter for the class {class} to {}", self.interface);
        Request::new(does, message).creating()
    }

    /// Puts what was redirected from `port` into a class: packets to one receiver, or the others, by the rank.
    pub(crate) fn add_port_filter(&self, place: Place, class: ClassId, port: &str) -> Request {
        self.filter(place, class, &[ANY], Some(port))
    }

    /// Puts what matches the keys into a class.
    pub(crate) fn add_match_filter(&self, place: Place, class: ClassId, keys: &[Key]) -> Request {
        self.filter(place, class, keys, None)
    }

    pub(crate) fn delete_filter(&self, place: Place) -> Request {
        let mut message = message(self.index, place.handle(), TREE, vec![kind("u32")]);
        message.header.info = place.rank.info();
        let does = format!("delete the filter {} of {}", place.node, self.interface);
        Request::new(does, RouteNetlinkMessage::DelTrafficFilter(message))
    }

    pub(crate) fn list_filters(&self) -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetTrafficFilter(message(self.index, 0, TREE, Vec::new()))
    }
}

/// The filter of a match that `message` is about, and its class.
pub(crate) fn read_match_filter(message: &TcMessage) -> Option<(Place, ClassId)> {
    let ranks = [
        Rank::Dscp4,
        Rank::Destination4,
        Rank::Dscp6,
        Rank::Destination6,
    ];
    let rank = ranks
        .into_iter()
        .find(|rank| rank.info() == message.header.info)?;
    let handle = u32::from(message.header.handle);
    let node = u16::try_from(handle & NODES).ok()?;
    let options = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        })?;
    let class = options.iter().find_map(|option| match option {
        TcOption::U32(TcFilterU32Option::ClassId(handle)) => ClassId::of_handle((*handle).into()),
        _ => None,
    })?;
    let place = Place { rank, node };
    (node != 0 && handle == place.handle()).then_some((place, class))
}

/// Gives an interface the two hooks for filters, before and after its queues.
pub(crate) fn add_hooks(link: &Link) -> Request {
    let message = message(link.index, CLSACT_HANDLE, CLSACT, vec![kind("clsact")]);
    let does = format!("put filters on {}", link.name);
    Request::new(does, RouteNetlinkMessage::NewQueueDiscipline(message)).creating()
}

/// How many packets the filters of each interface dropped, by the interface's number.
pub(crate) fn list_drops(netlink: &mut Netlink) -> Result<BTreeMap<u32, u64>, NetlinkError> {
    let does = "list the queueing disciplines";
    let answers = netlink.list(does, htb::list_disciplines())?;
    let hooks = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(message) => Some(message),
        _ => None,
    });
    let hooks = hooks.filter(|message| u32::from(message.header.parent) == CLSACT);
    let drops = hooks.filter_map(|message| {
        let index = u32::try_from(message.header.index).ok()?;
        Some((index, htb::read_counters(message).drops))
    });
    Ok(drops.collect())
}

fn hook(link: &Link, hook: u32, priority: u32, attributes: Vec<TcAttribute>) -> Request {
    let mut message = message(link.index, 0, hook, attributes);
    message.header.info = priority << 16 | u32::from(ALL.to_be());
    let does = format!("add a filter to {}", link.name);
    Request::new(does, RouteNetlinkMessage::NewTrafficFilter(message)).creating()
}

/// Drops every frame that comes in by an interface with another source address than `mac`.
pub(crate) fn guard(link: &Link, mac: Mac) -> Request {
    let program = guard_program(mac);
    let length = u16::try_from(program.len() / 8).unwrap_or(u16::MAX);
    let options = Attributes::default()
        .put(PROGRAM_LENGTH, &length.to_ne_bytes())
        .put(PROGRAM, &program)
        .text(PROGRAM_NAME, &format!("source {mac}"))
        .number(PROGRAM_FLAGS, DIRECT)
        .options();
    hook(link, INGRESS, 1, vec![kind("bpf"), options])
}

/// Classic BPF (Documentation/networking/filter.rst); offsets are from the frame's first byte.
fn guard_program(mac: Mac) -> Vec<u8> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let [a, b, c, d, e, f] = mac.octets();
    let instructions = [
        (LOAD_WORD, 0, 6),
        (JUMP_EQUAL, 3, u32::from_be_bytes([a, b, c, d])),
        (LOAD_HALF, 0, 10),
        (JUMP_EQUAL, 1, u32::from(u16::from_be_bytes([e, f]))),
        (RETURN, 0, NEXT),
        (RETURN, 0, SHOT),
    ];
    let mut program = Vec::new();
    for (code, jump_unless_equal, operand) in instructions {
        program.extend(code.to_ne_bytes());
        program.extend([0, jump_unless_equal]);
        program.extend(operand.to_ne_bytes());
    }
    program
}

/// Redirects everything that comes in by an interface into `queue`, from which it comes in again.
pub(crate) fn redirect_in(link: &Link, queue: &Link) -> Request {
    hook(link, INGRESS, 2, redirect(queue))
}

/// Redirects everything that goes out by an interface into `queue`, from which it goes out again.
pub(crate) fn redirect_out(link: &Link, queue: &Link) -> Request {
    hook(link, EGRESS, 2, redirect(queue))
}

fn redirect(queue: &Link) -> Vec<TcAttribute> {
    // `struct tc_mirred`: index, capabilities, verdict, two counts, what to do, and with which interface.
    let parms = numbers(&[0, 0, STOLEN, 0, 0, REDIRECT, queue.index]);
    let parms = Attributes::default().put(MIRRED_PARMS, &parms);
    let action = Attributes::default()
        .text(ACTION_KIND, "mirred")
        .nested(ACTION_OPTIONS, &parms);
    let options = Attributes::default()
        .put(SELECTOR, &selector(&[ANY], TERMINAL))
        .nested(ACTIONS, &Attributes::default().nested(1, &action))
        .options();
    vec![kind("u32"), options]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel does with the keys (`u32_classify` in net/sched/cls_u32.c).
    fn matches(keys: &[Key], header: &[u8]) -> bool {
        keys.iter().all(|key| {
            let at = usize::try_from(key.offset).unwrap();
            let word = &header[at..at + 4];
            (0..4).all(|n| word[n] & key.mask[n] == key.value[n])
        })
    }

    proptest! {
        #[test]
        fn addresses_match_a_network_if_their_first_bits_do(
            network: u32, address: u32, prefix in 0u8..=32, near: bool
        ) {
            let address = if near { network ^ (address & 0xff) } else { address };
            let (_, keys) = destination(IpAddr::V4(network.into()), prefix);
            let mut header = [0; 20];
            header[16..].copy_from_slice(&address.to_be_bytes());
            let same = (network ^ address).leading_zeros() >= u32::from(prefix);
            prop_assert_eq!(matches(&keys, &header), same);
        }

        #[test]
        fn a_mark_matches_whatever_the_other_bits_of_its_bytes_are(mark in 0u8..64, other in 0u8..64, rest: u32, same: bool) {
            let written = if same { mark } else { other };
            let [(_, four), (_, six)] = dscp(mark);
            let header = |shift: u32| {
                let word = rest & !(0xfc << shift) | u32::from(written) << 2 << shift;
                word.to_be_bytes()
            };
            prop_assert_eq!(matches(&four, &header(16)), written == mark);
            prop_assert_eq!(matches(&six, &header(20)), written == mark);
        }

        #[test]
        fn longer_addresses_match_too(network: u128, change in 0u32..128, prefix in 0u8..=128) {
            let address = network ^ (1 << change);
            let (_, keys) = destination(IpAddr::V6(network.into()), prefix);
            let mut header = [0; 40];
            header[24..].copy_from_slice(&address.to_be_bytes());
            let same = (network ^ address).leading_zeros() >= u32::from(prefix);
            prop_assert_eq!(matches(&keys, &header), same);
        }
    }
}
