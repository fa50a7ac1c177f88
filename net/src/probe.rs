//! Whether the kernel can do what shares need. What a kernel has is found by trying it, in a network namespace of its own
//! that nothing else sees and that ends with the attempt.

use std::fmt;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::class::ClassId;
use crate::device::{self, Link};
use crate::filter::{self, Place, Rank};
use crate::htb::Root;
use crate::mac::Mac;
use crate::netlink::{Netlink, NetlinkError, Request};
use crate::share::Share;
use crate::tap::{Tap, TapError};
use crate::tree;

/// Something of the kernel's that shares need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Bridges.
    Bridge,
    /// Interfaces that are nothing but a queue.
    Ifb,
    /// Taps.
    Tap,
    /// Hierarchical token buckets.
    Htb,
    /// Queues counted in bytes.
    Fifo,
    /// Filters before and after an interface's queues.
    Clsact,
    /// Filters by what is in a packet, with the interface it came by.
    U32,
    /// Filters that are programs.
    Bpf,
    /// Redirection of packets.
    Mirred,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Bridge,
        Self::Ifb,
        Self::Tap,
        Self::Htb,
        Self::Fifo,
        Self::Clsact,
        Self::U32,
        Self::Bpf,
        Self::Mirred,
    ];

    /// The kernel's option, and the module that it makes.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Bridge => ("CONFIG_BRIDGE", "bridge"),
            Self::Ifb => ("CONFIG_IFB", "ifb"),
            Self::Tap => ("CONFIG_TUN", "tun"),
            Self::Htb => ("CONFIG_NET_SCH_HTB", "sch_htb"),
            Self::Fifo => ("CONFIG_NET_SCH_FIFO", "none, it is built in"),
            Self::Clsact => ("CONFIG_NET_SCH_INGRESS", "sch_ingress"),
            Self::U32 => ("CONFIG_NET_CLS_U32", "cls_u32"),
            Self::Bpf => ("CONFIG_NET_CLS_BPF", "cls_bpf"),
            Self::Mirred => ("CONFIG_NET_ACT_MIRRED", "act_mirred"),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (option, module) = self.names();
        write!(f, "{option} (module {module})")
    }
}

/// Why nothing could be tried, or what was found missing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The process may not.
    #[error("cannot try what the kernel can do: give the process CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    Privilege {
        /// The kernel's reason.
        source: Errno,
    },
    /// Something is not there.
    #[error("the kernel cannot keep shares of a link: load the module or enable the option of {}", list(.missing))]
    Missing {
        /// What is not there.
        missing: Vec<Feature>,
    },
    /// The attempt itself failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

fn list(features: &[Feature]) -> String {
    let names: Vec<_> = features.iter().map(Feature::to_string).collect();
    names.join(", ")
}

/// Tries everything; an error that names all that is missing. The kernel loads modules by itself where it is allowed to.
///
/// # Errors
/// When something is missing or the process may not try.
pub fn check() -> Result<(), ProbeError> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(ProbeError::Missing { missing })
}

/// What the kernel has not.
///
/// # Errors
/// When the process may not try, or an attempt fails for another reason than that something is missing.
pub fn missing() -> Result<Vec<Feature>, ProbeError> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|source| ProbeError::Privilege { source })?;
        try_all()
    };
    let ended = thread::scope(|scope| scope.spawn(attempt).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Made on loopback, so that a missing kind of interface hides nothing else. What cannot be tried because of something
/// missing is not said to be missing as well.
fn try_all() -> Result<Vec<Feature>, ProbeError> {
    let mut netlink = Netlink::open()?;
    let link = device::get(&mut netlink, "lo")?;
    let mut missing = Vec::new();
    for (feature, needs, request) in attempts(&Root::of(&link), &link) {
        if missing.contains(&feature) || needs.is_some_and(|need| missing.contains(&need)) {
            continue;
        }
        if is_absence(netlink.apply(&[request]))? {
            missing.push(feature);
        }
    }
    match Tap::open("probe") {
        Ok(_) | Err(TapError::Exists { .. }) => {}
        Err(TapError::Device { .. }) => missing.push(Feature::Tap),
        Err(TapError::Refused { source, .. }) => return Err(ProbeError::Privilege { source }),
        Err(TapError::Netlink(error)) => return Err(error.into()),
    }
    missing.sort_unstable();
    Ok(missing)
}

/// What is tried for each feature, and what else that needs.
fn attempts(root: &Root, link: &Link) -> Vec<(Feature, Option<Feature>, Request)> {
    let share = tree::whole(Share::LEAST).expect("the least rate is a rate");
    let place = Place {
        rank: Rank::Port,
        node: 1,
    };
    let class = ClassId::DEFAULT;
    let [table, _] = root.add_table(Rank::Port);
    let (htb, hooks) = (Some(Feature::Htb), Some(Feature::Clsact));
    let guard = filter::guard(link, Mac::of_name("probe"));
    let queue = root.queue(class, share.assured).creating();
    vec![
        (Feature::Bridge, None, device::add_bridge("probe-b")),
        (Feature::Ifb, None, device::add_ifb("probe-i")),
        (Feature::Htb, None, root.add()),
        (Feature::Htb, None, root.add_class(class, None, &share)),
        (Feature::Fifo, htb, queue),
        (Feature::U32, htb, table),
        (Feature::U32, htb, root.add_port_filter(place, class, "lo")),
        (Feature::Clsact, None, filter::add_hooks(link)),
        (Feature::Bpf, hooks, guard),
        (Feature::Mirred, hooks, filter::redirect_in(link, link)),
    ]
}

/// Whether the kernel refused because it has not what was asked for.
fn is_absence(answer: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match answer {
        Ok(()) => Ok(false),
        Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::EPERM => {
            Err(NetlinkError::Refused(refusal))
        }
        Err(NetlinkError::Refused(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
