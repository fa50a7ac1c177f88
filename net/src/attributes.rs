//! Attributes of requests that netlink-packet-route does not know (netlink(7)), written by hand.

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

/// `TCA_OPTIONS` of linux/rtnetlink.h.
const OPTIONS: u16 = 2;
const HEADER: usize = 4;

/// A sequence of attributes.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    /// As the options of a queueing discipline, class or filter.
    pub(crate) fn options(self) -> TcAttribute {
        TcAttribute::Other(DefaultNla::new(OPTIONS | NLA_F_NESTED, self.0))
    }
}

/// Options that are one structure instead of attributes.
pub(crate) fn plain_options(structure: &[u8]) -> TcAttribute {
    TcAttribute::Other(DefaultNla::new(OPTIONS, structure.to_vec()))
}

/// A traffic control message about interface `index`.
pub(crate) fn message(
    index: u32,
    handle: u32,
    parent: u32,
    attributes: Vec<TcAttribute>,
) -> TcMessage {
    // The kernel's `tcm_ifindex` is signed; an index is never above i32::MAX (dev_index_reserve in net/core/dev.c).
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    message.header.handle = TcHandle::from(handle);
    message.header.parent = TcHandle::from(parent);
    message.attributes = attributes;
    message
}

/// The structure's numbers in the machine's byte order, one after the other.
pub(crate) fn numbers(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}
