//! What a test needs of the machine, and what happens when the machine has it not.
//!
//! A test names its needs in its first line with [`requires!`](crate::requires!). When one is
//! missing the test prints `skipped: <test>: needs <what>, <why it is missing>`, appends that line
//! to the file named by `CHRONOVISOR_SKIPS` (a test runner hides what a passing test prints), and
//! returns. Whether that skip is acceptable is not decided here: `.ci/run` looks at the machine
//! itself, and fails when the machine has what a skipped test said was missing.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::{env, thread};

use crate::{emulated_host, workspace};

/// Name of the environment variable that holds the path of the list of skipped tests.
pub const SKIPS: &str = "CHRONOVISOR_SKIPS";

/// Something a test cannot do without. Its `Display` form is one word that `.ci/run` knows how to
/// look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `/dev/kvm`, openable for reading and writing.
    Kvm,
    /// User id 0.
    Root,
    /// An effective capability of this process.
    Capability(Capability),
    /// At least so many CPUs that this process may use.
    Cpus(usize),
    /// A version 1 cgroup hierarchy with this controller.
    CgroupV1(&'static str),
    /// A version 2 cgroup hierarchy that offers this controller.
    CgroupV2(&'static str),
    /// An executable on `PATH`.
    Program(&'static str),
    /// A git checkout of the workspace, not an unpacked archive of it.
    Checkout,
    /// QEMU and a Debian kernel for [`EmulatedHost`](crate::EmulatedHost).
    EmulatedHost,
}

/// Capabilities that the project uses; the values are the bit numbers of `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Network configuration.
    NetAdmin = 12,
    /// Locking memory beyond the resource limit.
    IpcLock = 14,
    /// Mounts, cgroups, namespaces.
    SysAdmin = 21,
    /// Real-time policies.
    SysNice = 23,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Kvm => f.write_str("kvm"),
            Need::Root => f.write_str("root"),
            Need::Capability(capability) => f.write_str(capability.name()),
            Need::Cpus(count) => write!(f, "cpus:{count}"),
            Need::CgroupV1(controller) => write!(f, "cgroup1:{controller}"),
            Need::CgroupV2(controller) => write!(f, "cgroup2:{controller}"),
            Need::Program(name) => write!(f, "program:{name}"),
            Need::Checkout => f.write_str("checkout"),
            Need::EmulatedHost => f.write_str("emulated-host"),
        }
    }
}

impl Capability {
    /// The name by which manual pages know it, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Capability::NetAdmin => "cap_net_admin",
            Capability::IpcLock => "cap_ipc_lock",
            Capability::SysAdmin => "cap_sys_admin",
            Capability::SysNice => "cap_sys_nice",
        }
    }
}

impl Need {
    /// Why the machine does not offer this, or `None` when it does.
    #[must_use]
    pub fn why_missing(&self) -> Option<String> {
        match *self {
            Need::Kvm => cannot_open_kvm(),
            Need::Root => (status_field("Uid:", 1) != Some("0".to_owned()))
                .then(|| "this user is not root".to_owned()),
            Need::Capability(capability) => {
                (!has_capability(capability)).then(|| "this process does not hold it".to_owned())
            }
            Need::Cpus(count) => too_few_cpus(count),
            Need::CgroupV1(controller) => no_cgroup_v1(controller),
            Need::CgroupV2(controller) => no_cgroup_v2(controller),
            Need::Program(name) => find_program(name)
                .is_none()
                .then(|| format!("{name} is not on PATH")),
            Need::Checkout => (!workspace::root().join(".git").exists())
                .then(|| "the workspace has no .git".to_owned()),
            Need::EmulatedHost => emulated_host::ready().err().map(|error| error.to_string()),
        }
    }
}

/// Returns from the test, having said so, unless the machine offers every need listed.
///
/// ```no_run
/// use system_tests::{Need, requires};
/// # fn main() {
/// requires!(Need::Root, Need::Kvm);
/// # }
/// ```
#[macro_export]
macro_rules! requires {
    ($($need:expr),+ $(,)?) => {
        if !$crate::requires::met($crate::function_name!(), &[$($need),+]) {
            return;
        }
    };
}

/// The path of the function it is used in.
#[macro_export]
macro_rules! function_name {
    () => {{
        fn here() {}
        let name = ::std::any::type_name_of_val(&here);
        name.strip_suffix("::here").unwrap_or(name)
    }};
}

/// Whether the machine offers all `needs`; says on standard error and in the list of skips what is
/// missing for `test` when it does not. Tests use [`requires!`](crate::requires!).
#[must_use]
pub fn met(test: &str, needs: &[Need]) -> bool {
    let missing = needs
        .iter()
        .find_map(|need| need.why_missing().map(|why| skip_line(test, *need, &why)));
    if let Some(line) = &missing {
        announce(line);
    }
    missing.is_none()
}

fn skip_line(test: &str, need: Need, why: &str) -> String {
    let why = why.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    format!("skipped: {test}: needs {need}, {why}\n")
}

/// A list that cannot be written makes the test fail: an unrecorded skip would look like a pass.
fn announce(line: &str) {
    // Not by `eprint!`, which the standard test harness hides when the test then passes. A closed
    // standard error loses nothing: the list is what counts.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(path) = env::var_os(SKIPS) {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut list| list.write_all(line.as_bytes()))
            .unwrap_or_else(|error| panic!("cannot record a skip in {}: {error}", path.display()));
    }
}

fn cannot_open_kvm() -> Option<String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .err()
        .map(|error| format!("/dev/kvm cannot be opened: {error}"))
}

fn too_few_cpus(count: usize) -> Option<String> {
    let usable = thread::available_parallelism().map_or(1, usize::from);
    (usable < count).then(|| format!("{usable} can be used"))
}

/// Word number `word` of the line of /proc/self/status that begins with `name`.
fn status_field(name: &str, word: usize) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(word).map(str::to_owned)
}

fn has_capability(capability: Capability) -> bool {
    status_field("CapEff:", 1)
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_some_and(|mask| mask & (1 << capability as u8) != 0)
}

/// Mount points of file systems of type `kind`, with their options.
fn mounts(kind: &str) -> Vec<(PathBuf, String)> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let place = words.next()?;
            (words.next()? == kind).then_some((PathBuf::from(place), words.next()?.to_owned()))
        })
        .collect()
}

fn no_cgroup_v1(controller: &str) -> Option<String> {
    let mounted = mounts("cgroup")
        .iter()
        .any(|(_, options)| options.split(',').any(|option| option == controller));
    (!mounted).then(|| format!("no version 1 hierarchy with {controller} is mounted"))
}

fn no_cgroup_v2(controller: &str) -> Option<String> {
    let offered = mounts("cgroup2").iter().any(|(place, _)| {
        fs::read_to_string(place.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_whitespace().any(|word| word == controller))
    });
    (!offered).then(|| format!("no version 2 hierarchy offers {controller}"))
}

/// The first file called `name` in the folders of `PATH`.
#[must_use]
pub fn find_program(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name.as_ref()))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_one_line_that_names_test_need_and_reason() {
        let line = skip_line("a::b", Need::CgroupV1("cpuset"), "first\n  second");
        assert_eq!(line, "skipped: a::b: needs cgroup1:cpuset, first second\n");
    }

    #[test]
    fn a_program_that_nobody_has_is_missing_and_the_shell_is_not() {
        assert!(
            Need::Program("no-such-program-anywhere")
                .why_missing()
                .is_some()
        );
        assert_eq!(Need::Program("sh").why_missing(), None);
    }

    #[test]
    fn the_macro_names_the_test_it_stands_in() {
        assert!(
            function_name!().ends_with("tests::the_macro_names_the_test_it_stands_in"),
            "{}",
            function_name!()
        );
    }

    #[test]
    fn more_cpus_than_any_machine_has_are_missing() {
        assert_eq!(Need::Cpus(1).why_missing(), None);
        assert!(Need::Cpus(1 << 20).why_missing().is_some());
    }
}
