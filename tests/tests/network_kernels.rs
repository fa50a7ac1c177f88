//! Shares of a link on a stock kernel whose modules are not there.

use std::fs;
use std::time::Duration;

use system_tests::emulated_host::EmulatedHost;
use system_tests::{Need, built, requires};

const SHORT: Duration = Duration::from_secs(60);

const PLAN: &str = "[bridge]\nname = \"vms\"\ncapacity = \"1Gbit/s\"\n";

fn host(plan: &tempfile::NamedTempFile) -> EmulatedHost {
    let program = built::chronovisor().unwrap_or_else(|error| panic!("{error}"));
    EmulatedHost::new()
        .cpus(1)
        .file(plan.path(), "/plan.toml")
        .executable(program)
}

fn plan() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), PLAN).expect("a file can be written");
    file
}

#[test]
fn a_kernel_without_modules_is_told_which_it_lacks() {
    requires!(Need::EmulatedHost);
    let plan = plan();
    let report = host(&plan)
        .case(
            "apply",
            SHORT,
            "mkdir /run/c && chronovisor --run-dir /run/c net apply /plan.toml 2>&1",
        )
        .case("left", SHORT, "ls /sys/class/net")
        .boot()
        .unwrap();
    let apply = report.case("apply");
    for wanted in [
        "CONFIG_BRIDGE (module bridge)",
        "module ifb",
        "module sch_htb",
        "module sch_ingress",
    ] {
        assert!(apply.output.contains(wanted), "no `{wanted}` in {apply:?}");
    }
    assert_eq!(report.case("left").assert_success().trim(), "lo");
}
