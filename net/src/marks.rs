//! Marks on packets, by nftables: the class of a local process's packets by its user or control group (a priority, which
//! HTB takes for a class), and DSCP by destination on packets that an edge router sends on.
//!
//! One table of our own, replaced as a whole in one transaction (nft(8), `--file`). It is set up once for a set of shares:
//! a change of rates does not touch it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::cgroup::{self, Group};
use crate::class::ClassId;
use crate::plan::{Mark, MarkingPlan};

/// Marks could not be set.
#[derive(Debug, thiserror::Error)]
pub enum MarksError {
    /// The program is not there.
    #[error(
        "cannot start nft: {0}; install nftables, or let shares have destinations on the uplink instead of users, control groups and edge routers"
    )]
    Start(io::Error),
    /// A control group that does not exist.
    #[error("there is no control group {path} (looked for {}): make it before it is to have a share", folder.display())]
    NoGroup {
        /// Its path below the hierarchy's root.
        path: String,
        /// Where it would be.
        folder: PathBuf,
    },
    /// No control groups that nft could find.
    #[error(
        "control group {path} cannot be found: nft looks below /sys/fs/cgroup, and no control groups of version 2 are mounted there (`mount -t cgroup2 none /sys/fs/cgroup/unified` mounts them; `ip netns exec` hides them, `nsenter --net` does not); or name a user or destinations instead"
    )]
    NoHierarchy {
        /// Its path below the hierarchy's root.
        path: String,
    },
    /// The kernel lacks something.
    #[error(
        "the kernel cannot tell packets by control group: load the module nft_socket or enable CONFIG_NFT_SOCKET, or let shares have users or destinations instead"
    )]
    NoGroups,
    /// It refused.
    #[error("nft refuses {what}: {reason}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Its own words.
        reason: String,
    },
}

/// Whose packets have a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A user's.
    Uid(u32),
    /// A control group's, and of those below it.
    Cgroup(String),
}

/// Everything that is to be marked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Packets that leave by these interfaces have classes by process.
    pub uplink: Vec<String>,
    /// Which.
    pub classes: Vec<(Whose, ClassId)>,
    /// Packets that leave by other interfaces have DSCPs by host.
    pub marking: Option<MarkingPlan>,
}

impl Marks {
    /// Puts them in force in place of those that `table` had.
    ///
    /// # Errors
    /// When nft is not there or refuses; the old ones stay then.
    pub fn apply(&self, table: &str) -> Result<(), MarksError> {
        let applied = run(&self.script(table, |path| cgroup::find(path).ok()), table);
        let is_group = |(whose, _): &(Whose, ClassId)| matches!(whose, Whose::Cgroup(_));
        match applied {
            Err(MarksError::Refused { .. })
                if self.classes.iter().any(is_group) && !can_tell_groups() =>
            {
                Err(MarksError::NoGroups)
            }
            applied => applied,
        }
    }

    /// Whether nothing is to be marked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty() && self.marking.as_ref().is_none_or(|all| all.marks.is_empty())
    }

    /// What nft is given. It would refuse everything because of one control group that it does not find: that one is left
    /// out.
    fn script(&self, table: &str, find: impl Fn(&str) -> Option<Group>) -> String {
        let mut text = removal(table);
        if self.is_empty() {
            return text;
        }
        let _ = writeln!(text, "table inet {table} {{");
        if !self.classes.is_empty() {
            self.write_classes(find, &mut text);
        }
        if let Some(marking) = &self.marking {
            write_marks(marking, &mut text);
        }
        text.push_str("}\n");
        text
    }

    fn write_classes(&self, find: impl Fn(&str) -> Option<Group>, text: &mut String) {
        let by = quoted(&self.uplink);
        text.push_str("chain output { type filter hook output priority mangle; policy accept;\n");
        for (whose, class) in &self.classes {
            let of = match whose {
                Whose::Uid(uid) => format!("meta skuid {uid}"),
                Whose::Cgroup(path) => {
                    let Some(Group { path, level }) = find(path) else {
                        continue;
                    };
                    format!("socket cgroupv2 level {level} \"{path}\"")
                }
            };
            let _ = writeln!(text, "oifname {{ {by} }} {of} meta priority set {class}");
        }
        text.push_str("}\n");
    }
}

/// A mark of ours that came from elsewhere is taken off first: nobody takes a share by writing it into a packet.
fn write_marks(marking: &MarkingPlan, text: &mut String) {
    let by = format!("oifname {{ {} }}", quoted(&marking.interfaces));
    let ours: Vec<String> = marking.marks.iter().map(|m| m.dscp.to_string()).collect();
    let ours = ours.join(", ");
    text.push_str("chain leaving { type filter hook postrouting priority mangle; policy accept;\n");
    let _ = writeln!(text, "{by} ip dscp {{ {ours} }} ip dscp set 0");
    let _ = writeln!(text, "{by} ip6 dscp {{ {ours} }} ip6 dscp set 0");
    for mark in &marking.marks {
        for (family, hosts) in [("ip", hosts(mark, false)), ("ip6", hosts(mark, true))] {
            if hosts.is_empty() {
                continue;
            }
            for end in ["daddr", "saddr"] {
                let dscp = mark.dscp;
                let _ = writeln!(
                    text,
                    "{by} {family} {end} {{ {hosts} }} {family} dscp set {dscp}"
                );
            }
        }
    }
    text.push_str("}\n");
}

/// The hosts of one family, with commas.
fn hosts(mark: &Mark, six: bool) -> String {
    let hosts = mark.hosts.iter().filter(|host| host.is_ipv6() == six);
    let hosts: Vec<String> = hosts.map(IpAddr::to_string).collect();
    hosts.join(", ")
}

/// Removes a table of marks; one that is not there is no error.
///
/// # Errors
/// When nft is not there or refuses.
pub fn remove(table: &str) -> Result<(), MarksError> {
    run(&removal(table), table)
}

/// Removing needs that it is there.
fn removal(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// The name of the table that belongs to `interface`.
#[must_use]
pub fn table_of(interface: &str) -> String {
    let usual = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!(
        "chronovisor_{}",
        interface.chars().map(usual).collect::<String>()
    )
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    names.join(", ")
}

fn run(script: &str, table: &str) -> Result<(), MarksError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MarksError::Start)?;
    // It may end before it has read everything; what it says then tells more.
    let written = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(MarksError::Start)?;
    if output.status.success() && matches!(written, Some(Ok(()))) {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let reason: Vec<_> = reason.lines().take(2).map(str::trim).collect();
    Err(MarksError::Refused {
        what: format!("table {table}"),
        reason: reason.join(": "),
    })
}

/// Whether the kernel can tell packets by control group, tried in a network namespace that ends with the attempt.
fn can_tell_groups() -> bool {
    const RULE: &str = "table inet probe {\n\
         chain output { type filter hook output priority mangle; policy accept;\n\
         socket cgroupv2 level 1 \".\" meta priority set 1:1\n}\n}\n";
    let attempt = || unshare(CloneFlags::CLONE_NEWNET).is_ok() && run(RULE, "probe").is_ok();
    thread::scope(|scope| scope.spawn(attempt).join().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use system_tests::{Need, requires};

    #[test]
    fn a_kernel_that_can_tell_control_groups_is_told_from_one_that_cannot() {
        requires!(
            Need::Program("nft"),
            Need::Capability(system_tests::requires::Capability::SysAdmin)
        );
        // The machine that runs the tests of shares can.
        assert!(can_tell_groups());
        assert!(
            MarksError::NoGroups
                .to_string()
                .contains("CONFIG_NFT_SOCKET")
        );
    }

    #[test]
    fn a_table_is_replaced_in_one_transaction() {
        let marks = Marks {
            uplink: vec!["eth0".to_owned()],
            classes: vec![
                (Whose::Uid(1000), ClassId::new(0x20).unwrap()),
                (
                    Whose::Cgroup("/jobs/gold".to_owned()),
                    ClassId::new(0x21).unwrap(),
                ),
                (
                    Whose::Cgroup("/gone".to_owned()),
                    ClassId::new(0x22).unwrap(),
                ),
            ],
            marking: Some(MarkingPlan {
                interfaces: vec!["eth1".to_owned(), "eth2".to_owned()],
                marks: vec![Mark {
                    share: "gold".to_owned(),
                    dscp: 3,
                    hosts: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
                }],
            }),
        };
        let find = |path: &str| {
            let level = path.split('/').count() - 1;
            let path = format!("unified{path}");
            (path != "unified/gone").then_some(Group { path, level })
        };
        assert_eq!(
            marks.script("t", find),
            "add table inet t\n\
             delete table inet t\n\
             table inet t {\n\
             chain output { type filter hook output priority mangle; policy accept;\n\
             oifname { \"eth0\" } meta skuid 1000 meta priority set 4356:20\n\
             oifname { \"eth0\" } socket cgroupv2 level 2 \"unified/jobs/gold\" meta priority set 4356:21\n\
             }\n\
             chain leaving { type filter hook postrouting priority mangle; policy accept;\n\
             oifname { \"eth1\", \"eth2\" } ip dscp { 3 } ip dscp set 0\n\
             oifname { \"eth1\", \"eth2\" } ip6 dscp { 3 } ip6 dscp set 0\n\
             oifname { \"eth1\", \"eth2\" } ip daddr { 10.0.0.1 } ip dscp set 3\n\
             oifname { \"eth1\", \"eth2\" } ip saddr { 10.0.0.1 } ip dscp set 3\n\
             oifname { \"eth1\", \"eth2\" } ip6 daddr { fd00::1 } ip6 dscp set 3\n\
             oifname { \"eth1\", \"eth2\" } ip6 saddr { fd00::1 } ip6 dscp set 3\n\
             }\n\
             }\n"
        );
        let none = Marks::default();
        assert_eq!(
            none.script("t", find),
            "add table inet t\ndelete table inet t\n"
        );
    }

    #[test]
    fn a_tables_name_is_one_whatever_the_interface_is_called() {
        assert_eq!(table_of("eth0.7-a"), "chronovisor_eth0_7_a");
    }
}
