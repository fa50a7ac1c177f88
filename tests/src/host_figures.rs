//! Figures of this host in a run directory, as if `chronovisor host measure` had found them.

use std::fs;

use serde_json::{Value, json};

use crate::User;

/// Keeps such figures: 100 us and 300 us for each release, 50 us for each budget; `change` may make others of them.
///
/// # Panics
/// When they cannot be written.
pub fn keep_figures(user: &User, change: impl FnOnce(&mut Value)) {
    let cost =
        |us: u64| json!({"samples": 9, "median": "1us", "p99": format!("{us}us"), "max": "9ms"});
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("a processor without a name");
    let mut kept = json!({
        "kind": "host-figures",
        "version": 1,
        "figures": {
            "date": "2025-01-02T03-04-05Z",
            "cpu": 0,
            "cpu_model": model.trim_start_matches(['\t', ' ', ':']).trim(),
            "kernel": read("/proc/version").trim(),
            "kvm": "any",
            "budget_switch": cost(50),
            "timer_latency": cost(100),
            "exit": cost(300),
            "speed": {"integer": "10ms", "float": "12ms", "memory": "20ms"},
            "optimised": true,
        },
    });
    change(&mut kept);
    fs::write(user.run_dir().join("host-figures.json"), kept.to_string())
        .expect("a file can be written");
}
