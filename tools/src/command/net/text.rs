//! The network, for people.

use std::fmt::Write;

use net::admission::Link;
use net::class::Counters;
use net::network::{BridgeStatus, NetworkStatus, UplinkStatus};
use net::plan::{NetworkPlan, Role, Traffic};
use net::share::Share;
use units::BitRate;

use super::Room;

/// What a plan would do.
pub fn plan(plan: &NetworkPlan, rooms: &[Room]) -> String {
    let mut text = String::from("fits\n");
    for room in rooms {
        let _ = write!(
            text,
            "{} {}: {}, head room {}",
            room.what, room.name, room.capacity, room.headroom
        );
        if room.fixed > BitRate::new(0) {
            let what = match room.what {
                "bridge" => "broadcast",
                _ => "migration",
            };
            let _ = write!(text, ", {what} {}", room.fixed);
        }
        let _ = writeln!(text, ", {} left", room.left);
    }
    for share in &plan.shares {
        let _ = writeln!(
            text,
            "share {}: {}, {}",
            share.name,
            share.share,
            traffic(&share.traffic)
        );
    }
    for router in &plan.routers {
        let does = match router.role {
            Role::Edge { .. } => "marks",
            Role::Core(_) => "queues",
        };
        let _ = writeln!(
            text,
            "router {}: {does}, asked by `{}`",
            router.name,
            router.command.join(" ")
        );
    }
    text
}

fn traffic(traffic: &Traffic) -> String {
    match traffic {
        Traffic::Destinations(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            format!("to {}", hosts.join(", "))
        }
        Traffic::Uid(uid) => format!("of user {uid}"),
        Traffic::Cgroup(path) => format!("of control group {path}"),
        Traffic::Dscp(dscp) => format!("marked {dscp}"),
    }
}

/// How everything stands; with what was seen some seconds before, also the rates since.
pub fn status(status: &NetworkStatus, before: Option<(&NetworkStatus, f64)>) -> String {
    let mut text = String::new();
    if let Some(bridge) = &status.bridge {
        bridge_text(&mut text, bridge, before);
    }
    for (index, uplink) in status.uplink.iter().enumerate() {
        let earlier =
            before.and_then(|(before, seconds)| Some((before.uplink.get(index)?, seconds)));
        uplink_text(&mut text, uplink, earlier);
    }
    for (share, dscp, hosts) in &status.marks {
        let hosts = match hosts {
            1 => "1 host".to_owned(),
            _ => format!("{hosts} hosts"),
        };
        let _ = writeln!(
            text,
            "marks packets to and from {hosts} of share {share} with {dscp}"
        );
    }
    for (index, router) in status.routers.iter().enumerate() {
        let _ = writeln!(text, "router {}", router.name);
        let earlier = before.and_then(|(before, seconds)| {
            let earlier = before.routers.get(index)?.status.as_ref().ok()?;
            Some((earlier, seconds))
        });
        let of_router = match &router.status {
            Ok(of_router) => self::status(of_router, earlier),
            Err(reason) => format!("cannot be asked: {reason}\n"),
        };
        for line in of_router.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn head(text: &mut String, what: &str, name: &str, link: &Link, left: BitRate) {
    let _ = writeln!(
        text,
        "{what} {name}: {}, head room {}, {left} left to promise",
        link.capacity, link.headroom
    );
    let _ = writeln!(
        text,
        "  {:<16} {:<4} {:>12} {:>12} {:<11} {:>10} {:>10} {:>8} {:>9}  LOST ELSEWHERE",
        "NAME", "WAY", "ASSURED", "CEIL", "PRIORITY", "RATE", "BYTES", "DROPS", "QUEUED"
    );
}

/// A line of the table.
struct Line<'a> {
    name: &'a str,
    way: &'static str,
    share: Option<&'a Share>,
    now: Counters,
    before: Option<(Counters, f64)>,
    lost: String,
}

impl Line<'_> {
    fn write(&self, text: &mut String) {
        let (assured, ceil, priority) = match self.share {
            Some(share) => (
                share.assured.to_string(),
                share.ceil.to_string(),
                share.priority.to_string(),
            ),
            None => Default::default(),
        };
        let rate = self.before.map_or(String::new(), |(before, seconds)| {
            rate(self.now.bytes.saturating_sub(before.bytes), seconds)
        });
        let line = format!(
            "  {:<16} {:<4} {assured:>12} {ceil:>12} {priority:<11} {rate:>10} {:>10} {:>8} {:>9}  {}",
            self.name,
            self.way,
            bytes(self.now.bytes),
            self.now.drops,
            bytes(self.now.backlog),
            self.lost
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn bridge_text(text: &mut String, bridge: &BridgeStatus, before: Option<(&NetworkStatus, f64)>) {
    head(text, "bridge", &bridge.link.name, &bridge.link, bridge.left);
    if bridge.ports.is_empty() {
        text.push_str("  (no VM: [network] in its specification gives one a port)\n");
    }
    for port in &bridge.ports {
        let earlier = before.and_then(|(before, seconds)| {
            let ports = &before.bridge.as_ref()?.ports;
            let earlier = ports.iter().find(|one| one.port == port.port)?;
            Some((earlier.counters, seconds))
        });
        let counters = port.counters;
        Line {
            name: &port.vm,
            way: "out",
            share: Some(&port.share),
            now: counters.out,
            before: earlier.map(|(earlier, seconds)| (earlier.out, seconds)),
            lost: lost(counters.foreign_mac_drops, "from a foreign MAC"),
        }
        .write(text);
        Line {
            name: "",
            way: "in",
            share: None,
            now: counters.into,
            before: earlier.map(|(earlier, seconds)| (earlier.into, seconds)),
            lost: lost(counters.link_drops, "not read by the guest"),
        }
        .write(text);
        for (way, now) in [
            ("out", counters.broadcast_out),
            ("in", counters.broadcast_into),
        ] {
            if now == Counters::default() {
                continue;
            }
            Line {
                name: "  (broadcast)",
                way,
                share: None,
                now,
                before: None,
                lost: String::new(),
            }
            .write(text);
        }
    }
}

fn lost(count: u64, why: &str) -> String {
    if count == 0 {
        return String::new();
    }
    format!("{count} {why}")
}

fn uplink_text(text: &mut String, uplink: &UplinkStatus, before: Option<(&UplinkStatus, f64)>) {
    head(text, "uplink", &uplink.interface, &uplink.link, uplink.left);
    for share in &uplink.shares {
        let earlier = before.and_then(|(before, seconds)| {
            let earlier = before.shares.iter().find(|one| one.name == share.name)?;
            Some((earlier.counters, seconds))
        });
        Line {
            name: &share.name,
            way: "out",
            share: Some(&share.share),
            now: share.counters,
            before: earlier,
            lost: share.gone.clone().unwrap_or_default(),
        }
        .write(text);
    }
    let migration = uplink.migration.map(|now| {
        let earlier = before.and_then(|(before, seconds)| Some((before.migration?, seconds)));
        ("(migration)", now, earlier)
    });
    let others = before.map(|(before, seconds)| (before.others, seconds));
    for (name, now, before) in migration
        .into_iter()
        .chain([("(others)", uplink.others, others)])
    {
        Line {
            name,
            way: "out",
            share: None,
            now,
            before,
            lost: String::new(),
        }
        .write(text);
    }
}

/// A number with three digits that count, and its unit.
fn short(value: f64, units: [&str; 4]) -> String {
    let mut value = value;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit])
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn rate(bytes: u64, seconds: f64) -> String {
    let bits = bytes as f64 * 8.0 / seconds.max(f64::MIN_POSITIVE);
    short(bits, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"])
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn bytes(bytes: u64) -> String {
    short(bytes as f64, ["B", "kB", "MB", "GB"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown_with_their_unit() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1_234), "1.23kB");
        assert_eq!(bytes(98_765_432), "98.8MB");
        assert_eq!(rate(750_000, 1.0), "6.00Mbit/s");
    }
}
