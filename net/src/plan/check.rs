//! What makes a plan one that can be carried out: ranges, names, addresses, sums.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use units::BitRate;

use super::{
    BridgePlan, MAX_INTERFACE, MAX_NAME, NetworkPlan, PlanError, Role, SharePlan, Traffic,
    UplinkPlan,
};
use crate::admission::{Link, Wanted};
use crate::share::Share;

/// The longest name of a bridge: its queues' names are made of it.
const MAX_BRIDGE: usize = MAX_INTERFACE - 3;
/// The least that IPv4 allows is 68; nothing useful works below this (RFC 791).
const MTU: std::ops::RangeInclusive<u16> = 576..=9000;
/// The greatest mark (six bits, RFC 2474).
pub(crate) const MAX_DSCP: u8 = 63;

pub(super) fn check(plan: &NetworkPlan) -> Result<(), PlanError> {
    if plan == &NetworkPlan::default() {
        return Err(PlanError::Missing {
            key: "[bridge]".to_owned(),
            fits: "a plan has a bridge, an uplink or routers; `chronovisor net plan --example` prints one"
                .to_owned(),
        });
    }
    if let Some(bridge) = &plan.bridge {
        check_bridge(bridge)?;
    }
    if let Some(uplink) = &plan.uplink {
        check_uplink("uplink", uplink)?;
    }
    check_routers(plan)?;
    check_shares(plan)?;
    check_sums(plan)
}

fn value(key: impl Display, value: impl Display, fits: impl Into<String>) -> PlanError {
    PlanError::Value {
        key: key.to_string(),
        value: value.to_string(),
        fits: fits.into(),
    }
}

fn check_bridge(bridge: &BridgePlan) -> Result<(), PlanError> {
    interface("bridge.name", &bridge.name)?;
    if bridge.name.len() > MAX_BRIDGE {
        let fits =
            format!("write at most {MAX_BRIDGE} characters: the names of its queues are longer");
        return Err(value("bridge.name", format!("{:?}", bridge.name), fits));
    }
    if !MTU.contains(&bridge.mtu) {
        let fits = format!("write {} to {}", MTU.start(), MTU.end());
        return Err(value("bridge.mtu", bridge.mtu, fits));
    }
    rate("bridge.broadcast", bridge.broadcast)?;
    room("bridge", &bridge.link())
}

fn check_uplink(key: &str, uplink: &UplinkPlan) -> Result<(), PlanError> {
    interfaces(&format!("{key}.interface"), &uplink.interfaces)?;
    if let Some(migration) = uplink.migration {
        rate(&format!("{key}.migration"), migration)?;
    }
    room(key, &uplink.link())
}

/// That a link is one, and has something to promise.
fn room(key: &str, link: &Link) -> Result<(), PlanError> {
    rate(&format!("{key}.capacity"), link.capacity)?;
    if link.promisable() < Share::LEAST {
        let fits = format!(
            "nothing of {} is left beside {} for {}; write less than {}",
            link.capacity,
            link.fixed,
            if key == "bridge" {
                "broadcast"
            } else {
                "migration"
            },
            BitRate::new(
                link.capacity
                    .bits_per_second()
                    .saturating_sub(link.fixed.bits_per_second())
            )
        );
        return Err(value(format!("{key}.headroom"), link.headroom, fits));
    }
    Ok(())
}

fn rate(key: &str, rate: BitRate) -> Result<(), PlanError> {
    if (Share::LEAST..=Share::GREATEST).contains(&rate) {
        return Ok(());
    }
    let fits = format!("write {} to {}", Share::LEAST, Share::GREATEST);
    Err(value(key, rate, fits))
}

fn interfaces(key: &str, names: &[String]) -> Result<(), PlanError> {
    if names.is_empty() {
        return Err(value(key, "[]", "name one interface at least"));
    }
    for (index, name) in names.iter().enumerate() {
        interface(key, name)?;
        if names[..index].contains(name) {
            return Err(value(key, format!("{name:?}"), "name every interface once"));
        }
    }
    Ok(())
}

/// What the kernel takes for a name (dev_valid_name of net/core/dev.c).
fn interface(key: &str, name: &str) -> Result<(), PlanError> {
    let is_usual = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '"' | '\\');
    let is_name = (1..=MAX_INTERFACE).contains(&name.len())
        && name.chars().all(is_usual)
        && !matches!(name, "." | "..");
    if is_name {
        return Ok(());
    }
    let fits = format!(
        "an interface's name has 1 to {MAX_INTERFACE} letters, digits and marks other than / : \" \\"
    );
    Err(value(key, format!("{name:?}"), fits))
}

fn name(key: &str, name: &str) -> Result<(), PlanError> {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && name.len() <= MAX_NAME && name.chars().all(is_usual) {
        return Ok(());
    }
    let fits = format!(
        "a name has 1 to {MAX_NAME} letters, digits, `-`, `_` or `.`, and starts with a letter or digit"
    );
    Err(value(key, format!("{name:?}"), fits))
}

fn check_routers(plan: &NetworkPlan) -> Result<(), PlanError> {
    for (index, router) in plan.routers.iter().enumerate() {
        name("router.name", &router.name)?;
        let key = format!("router {:?}", router.name);
        if plan.routers[..index]
            .iter()
            .any(|other| other.name == router.name)
        {
            return Err(value(
                "router.name",
                format!("{:?}", router.name),
                "every router has a name of its own",
            ));
        }
        if router.command.iter().all(String::is_empty) {
            return Err(value(
                format!("{key}.command"),
                "[]",
                "write how its agent is started, such as [\"ssh\", \"core\", \"chronovisor\", \"net\", \"agent\"]",
            ));
        }
        if plan.routers[..index]
            .iter()
            .any(|other| other.command == router.command)
        {
            return Err(value(
                format!("{key}.command"),
                format!("{:?}", router.command),
                "one agent has one plan; where a router has two roles, give each agent a --run-dir of its own",
            ));
        }
        match &router.role {
            Role::Edge { interfaces: names } => interfaces(&format!("{key}.interface"), names)?,
            Role::Core(core) => check_uplink(&key, core)?,
        }
    }
    Ok(())
}

fn check_shares(plan: &NetworkPlan) -> Result<(), PlanError> {
    let mut owners = BTreeMap::new();
    for (index, share) in plan.shares.iter().enumerate() {
        check_share(share)?;
        if plan.shares[..index]
            .iter()
            .any(|other| other.name == share.name)
        {
            return Err(value(
                "share.name",
                format!("{:?}", share.name),
                "every share has a name of its own",
            ));
        }
        let key = format!("share {:?}", share.name);
        check_place(&key, plan, share)?;
        for packets in share.traffic.kinds() {
            if let Some(owner) = owners.insert(packets.clone(), &share.name) {
                let fits = format!("share {owner:?} has it already; packets belong to one share");
                return Err(value(key, packets, fits));
            }
        }
    }
    Ok(())
}

/// A share by itself.
pub(super) fn check_share(share: &SharePlan) -> Result<(), PlanError> {
    name("share.name", &share.name)?;
    let key = format!("share {:?}", share.name);
    share.share.check().map_err(|source| PlanError::Share {
        key: key.clone(),
        source,
    })?;
    check_traffic(&key, share)
}

fn check_traffic(key: &str, share: &SharePlan) -> Result<(), PlanError> {
    match &share.traffic {
        Traffic::Destinations(hosts) if hosts.is_empty() => Err(value(
            format!("{key}.destinations"),
            "[]",
            "name one address at least",
        )),
        Traffic::Destinations(hosts) => hosts.iter().try_for_each(|host| check_host(key, *host)),
        Traffic::Cgroup(path) => {
            let parts: Vec<_> = path.trim_matches('/').split('/').collect();
            let is_path = !parts.iter().any(|part| matches!(*part, "" | "." | ".."))
                && path
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\'));
            if is_path {
                return Ok(());
            }
            Err(value(
                format!("{key}.cgroup"),
                format!("{path:?}"),
                "write a path below the mount point of the version 2 hierarchy, such as \"/jobs/gold\"",
            ))
        }
        Traffic::Dscp(dscp) if !(1..=MAX_DSCP).contains(dscp) => Err(value(
            format!("{key}.dscp"),
            dscp,
            format!("write 1 to {MAX_DSCP}"),
        )),
        Traffic::Uid(_) | Traffic::Dscp(_) => Ok(()),
    }
}

fn check_host(key: &str, host: IpAddr) -> Result<(), PlanError> {
    if host.is_unspecified() || host.is_multicast() {
        return Err(value(
            format!("{key}.destinations"),
            host,
            "write addresses of hosts",
        ));
    }
    Ok(())
}

/// That there is a link where the share's packets can be told from others.
fn check_place(key: &str, plan: &NetworkPlan, share: &SharePlan) -> Result<(), PlanError> {
    let on_routers = !plan.routers.is_empty() && share.is_known_to_routers();
    if plan.uplink.is_some() || on_routers {
        return Ok(());
    }
    Err(PlanError::Missing {
        key: "[uplink]".to_owned(),
        fits: format!("{key} is one of the uplink's; name its interface and capacity"),
    })
}

fn check_sums(plan: &NetworkPlan) -> Result<(), PlanError> {
    if let Some(uplink) = &plan.uplink {
        uplink.link().admit(&[], &plan.wanted())?;
    }
    let routed = plan
        .shares
        .iter()
        .filter(|share| share.is_known_to_routers());
    let routed: Vec<_> = routed
        .map(|share| Wanted::new(share.name.clone(), share.share))
        .collect();
    for router in &plan.routers {
        if let Role::Core(core) = &router.role {
            let mut link = core.link();
            link.name = format!("router {:?}", router.name);
            link.admit(&[], &routed)?;
        }
    }
    Ok(())
}
