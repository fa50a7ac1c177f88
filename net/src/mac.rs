//! Hardware addresses of guests.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The address of one network interface: unicast, not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

/// Not the address of an interface.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six bytes.
    #[error("`{text}` is not a MAC address; write six bytes such as 02:00:5e:10:00:01")]
    Form {
        /// What was read.
        text: String,
    },
    /// The group bit is set (IEEE 802, 8.2), or all bytes are zero.
    #[error(
        "{mac} is no address of one interface: write one whose first byte is even and not all zero, such as {}",
        Mac::of_name("vm")
    )]
    NotUnicast {
        /// What was read.
        mac: String,
    },
}

impl Mac {
    /// The address with these bytes.
    ///
    /// # Errors
    /// [`MacError::NotUnicast`].
    pub fn new(octets: [u8; 6]) -> Result<Self, MacError> {
        if octets[0] & 1 != 0 || octets == [0; 6] {
            let mac = Self(octets).to_string();
            return Err(MacError::NotUnicast { mac });
        }
        Ok(Self(octets))
    }

    /// The address that a VM of this name has unless its spec says otherwise: locally administered (IEEE 802, 8.4), the rest
    /// a hash (FNV-1a) of the name, so that it is the same on every host and at every start.
    #[must_use]
    pub const fn of_name(name: &str) -> Self {
        let hash = hash(name.as_bytes());
        // The low bits of FNV are the good ones; folding brings the high ones in.
        let [_, _, _, a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// The six bytes.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

/// FNV-1a of 64 bits.
pub(crate) const fn hash(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError::Form {
            text: text.to_owned(),
        };
        let mut octets = [0; 6];
        let mut parts = text.trim().split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(error)?;
            let is_hex = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| is_hex)
                .ok_or_else(error)?;
        }
        match parts.next() {
            Some(_) => Err(error()),
            None => Self::new(octets),
        }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(octets: [u8; 6]) {
            if let Ok(mac) = Mac::new(octets) {
                prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            }
        }

        #[test]
        fn any_text_is_an_address_or_an_error(text: String) {
            let _ = text.parse::<Mac>();
        }

        #[test]
        fn a_name_gives_a_local_address_of_one_interface(name: String) {
            let mac = Mac::of_name(&name);
            prop_assert_eq!(Mac::new(mac.octets()), Ok(mac));
            prop_assert_eq!(mac.octets()[0] & 0b11, 0b10);
        }
    }

    #[test]
    fn a_thousand_names_have_a_thousand_addresses() {
        let mut macs: Vec<_> = (0..1000).map(|n| Mac::of_name(&format!("vm{n}"))).collect();
        macs.sort_unstable();
        macs.dedup();
        assert_eq!(macs.len(), 1000);
    }

    #[test]
    fn groups_and_what_is_no_address_are_refused() {
        for wrong in [
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "02:00:00:00:00:+1",
            "",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
