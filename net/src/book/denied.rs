//! Why something is not to be had.

use std::path::PathBuf;

use crate::admission::Refusal;
use crate::mac::Mac;
use crate::owner::Owner;

/// What is asked for cannot be had, whatever the kernel says.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// It does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The plan has no bridge.
    #[error("the network has no bridge for VMs: write a [bridge] into its plan and apply it")]
    NoBridge,
    /// There is nothing that could carry the share.
    #[error(
        "the network has no uplink, and no routers that know share '{name}' by its destinations: write an [uplink] into its plan and apply it"
    )]
    NoUplink {
        /// The share.
        name: String,
    },
    /// Two of one name.
    #[error("'{name}' has a share already: adapt it, or use another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// One share changed twice at once.
    #[error("'{name}' is named twice: give it one share")]
    NamedTwice {
        /// The name.
        name: String,
    },
    /// Two ports of one address.
    #[error("{mac} is the address of '{vm}' already: give '{name}' another by mac = \"{}\"", Mac::of_name(.name))]
    MacTaken {
        /// The address.
        mac: Mac,
        /// Whose it is.
        vm: String,
        /// Who wants it.
        name: String,
    },
    /// Packets that would belong to two shares.
    #[error(
        "{packets} belongs to share '{other}' already: name others for '{name}', or adapt '{other}'"
    )]
    PacketsTaken {
        /// Which.
        packets: String,
        /// Whose they are.
        other: String,
        /// Who wants them.
        name: String,
    },
    /// No share of this name.
    #[error("nobody called '{name}' has a share: {}", choose_from(.known))]
    NoShare {
        /// The name.
        name: String,
        /// Those who have.
        known: Vec<String>,
    },
    /// A share that somebody else gives up.
    #[error(
        "the share of '{name}' was not reserved by this process: who reserved it releases it, and a plan's goes with the plan"
    )]
    NotReserved {
        /// The name.
        name: String,
    },
    /// A longer packet than the bridge carries.
    #[error("mtu = {mtu} of '{vm}' is above the bridge's {most}: write at most {most}")]
    Mtu {
        /// The VM.
        vm: String,
        /// What was asked for.
        mtu: u16,
        /// The bridge's.
        most: u16,
    },
    /// The bridge would have to be made anew.
    #[error(
        "'{vm}' has a port on bridge {bridge}, which would have to be made anew: stop it first, or leave name, mtu and address as they are"
    )]
    Attached {
        /// The VM.
        vm: String,
        /// The bridge.
        bridge: String,
    },
    /// The bridge would be removed.
    #[error("'{vm}' has a port on bridge {bridge}: stop it first, by `chronovisor stop {vm}`")]
    InUse {
        /// The VM.
        vm: String,
        /// The bridge.
        bridge: String,
    },
    /// A router that has another host's plan.
    #[error(
        "this router has the plan of {owner}: `chronovisor net clear` there gives it up, or here `chronovisor --run-dir {} net clear`", dir.display()
    )]
    Owned {
        /// The host.
        owner: Owner,
        /// Where the router keeps it.
        dir: PathBuf,
    },
    /// More than there are numbers.
    #[error("there are {most} shares, the most that can be told apart: release one")]
    TooMany {
        /// So many.
        most: usize,
    },
}

fn choose_from(known: &[String]) -> String {
    if known.is_empty() {
        return "there is none; reserve one, or start a VM with [network]".to_owned();
    }
    format!("use one of {}", known.join(", "))
}
