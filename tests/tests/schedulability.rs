//! `experiment schedulability`, as a user meets it: a tiny run.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use system_tests::User;

/// For two sets of every utilisation, with a program that was not optimised, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn tiny(user: &User, folder: &Path) -> Value {
    let folder = folder.to_str().unwrap();
    let arguments = [
        "--json",
        "experiment",
        "schedulability",
        "--quick",
        "--sets",
        "2",
        "--output",
        folder,
    ];
    let ended = user.start(user.command(&arguments), "").wait(PATIENCE);
    ended.expect(0).json()["result"].clone()
}

/// The shares of all tests and policies at a point.
fn shares(point: &Value) -> BTreeMap<String, f64> {
    let of = |kind: &str| point[kind].as_object().unwrap().clone();
    let all = of("tests").into_iter().chain(of("policies"));
    all.map(|(name, share)| (name, share.as_f64().unwrap()))
        .collect()
}

#[test]
fn light_sets_are_accepted_overload_never_and_no_acceptance_is_refuted() {
    let user = User::new();
    let folder = user.path("schedulability");
    let result = tiny(&user, &folder);
    assert_eq!(
        result["violations"].as_array().unwrap().len(),
        0,
        "{result}"
    );
    assert!(result["checked"].as_u64().unwrap() > 100, "{result}");
    let configurations = result["configurations"].as_array().unwrap();
    assert_eq!(configurations.len(), 5);
    for configuration in configurations {
        let points = configuration["points"].as_array().unwrap();
        let (light, over) = (shares(&points[0]), shares(points.last().unwrap()));
        assert_eq!(points[0]["utilisation"], 0.1);
        assert!(light.values().all(|share| *share >= 1.0), "{configuration}");
        assert!(over.values().all(|share| *share <= 0.0), "{configuration}");
        // The linear bound supplies nowhere more than the bound itself.
        for point in points.iter().map(shares) {
            let at = |name: &str| point.get(name).copied().unwrap_or(1.0);
            assert!(at("linear-bound") <= at("periodic-resource"));
            assert!(at("periodic-resource") <= at("explicit-deadline"));
            assert!(at("deferrable-servers") <= at("fixed-priority-servers"));
            assert!(at("fixed-priority-servers") <= at("periodic-resource"));
            assert!(at("dispatch-table") <= at("table"));
        }
    }
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    // Eleven utilisations of every test and policy.
    assert_eq!(
        text("fractions.csv").lines().count(),
        1 + 11 * (14 + 14 + 15 + 14 + 9)
    );
    assert!(text("report.html").contains("<svg"));
    for key in ["edf", "rm", "avionics", "partitioned", "global"] {
        assert!(text(&format!("figures/{key}.svg")).len() > 1000);
    }
}

#[test]
fn a_number_of_sets_that_makes_no_sense_is_refused() {
    let user = User::new();
    for sets in ["0", "many", "100001"] {
        let ended = user.run(&["experiment", "schedulability", "--sets", sets]);
        assert!(ended.expect(2).stderr.contains("--sets"));
    }
}
