//! Namespaces with traffic in them.

#![allow(dead_code, reason = "each test uses a part")]

pub mod traffic;

use net::namespace::Namespace;
use system_tests::Need;
use system_tests::requires::Capability;

/// What making namespaces and queues takes.
pub const NEEDS: [Need; 2] = [
    Need::Capability(Capability::SysAdmin),
    Need::Capability(Capability::NetAdmin),
];

/// A namespace of this test's own.
pub fn namespace(what: &str) -> Namespace {
    let name = format!("chronovisor-{what}-{}", std::process::id());
    Namespace::create(&name).unwrap_or_else(|error| panic!("{error}"))
}

/// What a command prints inside.
pub fn printed(namespace: &Namespace, command: &[&str]) -> String {
    let output = namespace
        .command(command[0])
        .unwrap_or_else(|error| panic!("{error}"))
        .args(&command[1..])
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
