//! The quick experiments, whole: what they find, and that their reports say it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::{Need, User, requires};

/// What `--quick` promises.
const QUICK: Duration = Duration::from_secs(90);

fn experiment(user: &User, name: &str) -> Value {
    let folder = user.path(name);
    let folder = folder.to_string_lossy();
    let arguments = ["--json", "experiment", name, "--quick", "--output", &folder];
    let ended = user
        .start(user.command(&arguments), "")
        .wait(QUICK)
        .expect(0);
    whole(Path::new(&*folder));
    ended.json()["result"].clone()
}

/// The report is all there, and the page needs nothing else.
fn whole(folder: &Path) {
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("preemption model"));
    assert!(!page.contains("<script src") && !page.contains("<link"));
    let result: Value =
        serde_json::from_slice(&fs::read(folder.join("result.json")).unwrap()).unwrap();
    for figure in result["figures"].as_array().unwrap() {
        let file = format!("figures/{}.svg", figure.as_str().unwrap());
        assert!(fs::metadata(folder.join(file)).unwrap().len() > 1000);
    }
}

/// Every job is in its file.
fn has_jobs(folder: &Path) {
    let jobs = fs::read_to_string(folder.join("jobs.csv")).unwrap();
    assert!(jobs.lines().count() > 100);
}

fn with_jobs(user: &User, name: &str) -> Value {
    let result = experiment(user, name);
    has_jobs(&user.path(name));
    result
}

#[test]
fn a_reservation_keeps_the_papers_deadlines_where_an_ordinary_guest_misses_them() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = with_jobs(&user, "cbs-kvm");
    let missed = |key: &str| -> u64 {
        let scenarios = result["scenarios"].as_array().unwrap();
        let scenario = scenarios.iter().find(|s| s["key"] == key).unwrap();
        let tasks = scenario["tasks"].as_array().unwrap();
        tasks
            .iter()
            .map(|task| task["misses"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(missed("1"), 0, "SCHED_FIFO on the host: {result}");
    assert!(
        missed("3") >= 20,
        "an ordinary guest beside the load: {result}"
    );
    // One job may fall to noise of a host that others use too.
    assert!(missed("4-loaded") <= 1, "a reservation: {result}");
}

#[test]
fn a_budget_that_follows_a_stepping_need_reserves_less_than_the_peak_and_misses_less_than_the_mean()
{
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = with_jobs(&user, "feedback");
    let figures = |key: &str| {
        let scenarios = result["scenarios"].as_array().unwrap();
        let scenario = scenarios.iter().find(|s| s["key"] == key).unwrap();
        let of = |name: &str| scenario["figures"][name].as_f64().unwrap();
        (of("over"), of("missed_share"))
    };
    let ((over, missed), peak, mean) = (figures("feedback"), figures("peak"), figures("mean"));
    // The targets are 10 % and 1 %; a host that others use too takes some of both.
    assert!(over > 0.0 && over < 0.3 && over < peak.0 / 2.0, "{result}");
    assert!(missed < 0.1 && missed < mean.1 / 4.0, "{result}");
    let predicted = &result["predicted"];
    assert!(predicted["over"].as_f64().unwrap() <= 0.1, "{predicted}");
    assert!(
        predicted["missed_share"].as_f64().unwrap() <= 0.01,
        "{predicted}"
    );
}

#[test]
fn deadlines_are_missed_below_the_predicted_budget_and_met_above_it() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = with_jobs(&user, "edge");
    for configuration in result["configurations"].as_array().unwrap() {
        let predicted = configuration["predicted_ms"].as_f64().unwrap();
        let lowest = configuration["points"][0]["misses"].as_u64().unwrap();
        for point in configuration["points"].as_array().unwrap() {
            let budget = point["budget_ms"].as_f64().unwrap();
            let (missed, jobs) = (&point["misses"], point["jobs"].as_u64().unwrap());
            let missed = missed.as_u64().unwrap();
            assert!(jobs >= 14, "{configuration}");
            if budget > predicted + 1.0 {
                // At 28 ms two milliseconds stolen from the host within 150 are enough for a miss: such noise may
                // take a job or two, but not as many as too small a budget does.
                assert!(
                    missed <= 1 || missed < lowest,
                    "{budget} ms: {configuration}"
                );
            }
            // A neighbour only makes a deadline missed if it hits the right moment: no certainty in a short run.
            if budget < predicted - 0.5 && configuration["key"] != "both" {
                assert!(missed > 0, "{budget} ms: {configuration}");
            }
        }
    }
}

#[test]
fn a_lock_across_vcpus_costs_little_with_aligned_budgets_and_most_where_they_take_turns() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = with_jobs(&user, "lock-holder");
    let runs = result["runs"].as_array().unwrap();
    for run in runs {
        assert_eq!(run["overlaps"], 0, "{run}");
        assert!(run["sections"].as_u64() > Some(100), "{run}");
    }
    // On more than two CPUs a second partition would have to be prepared for the runs with a CPU each.
    let spun = |key: &str| {
        let run = runs.iter().find(|run| run["key"] == key)?;
        run["spun_share"].as_f64()
    };
    let aligned = spun("apart-10-20ms-aligned");
    let in_turns = spun("apart-10-20ms-phase-10000us");
    if let (Some(aligned), Some(in_turns)) = (aligned, in_turns) {
        // Some 2 and 60 %; the host may take a CPU away from one of them for a while.
        assert!(aligned * 4.0 < in_turns, "{result}");
    }
}

#[test]
fn the_overhead_of_vtms_is_measured_in_every_row_and_nothing_is_left() {
    requires!(
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Cpus(2)
    );
    let user = User::new();
    let before = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let result = experiment(&user, "vtm-overhead");
    for row in result["dispatches"].as_array().unwrap() {
        assert!(row["not_measured"].is_null(), "{row}");
        assert!(row["dispatches"].as_u64().unwrap() > 100, "{row}");
        assert!(row["mean_us"].as_f64().unwrap() > 0.0, "{row}");
    }
    let adaptations = result["adaptations"].as_array().unwrap();
    let vtms: Vec<_> = adaptations.iter().map(|row| row["vtms"].as_u64()).collect();
    assert_eq!(vtms, [Some(1), Some(2), Some(20), Some(200)]);
    assert!(adaptations.iter().all(|row| row["changes"] == 30));
    let after = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    assert_eq!(before, after);
}

#[test]
fn shares_of_a_link_hold_beside_floods_many_flows_spoofed_addresses_and_storms() {
    requires!(
        Need::Root,
        Need::Capability(Capability::NetAdmin),
        Need::Capability(Capability::SysAdmin),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = experiment(&user, "net-isolation");
    let cases = result["cases"].as_array().unwrap();
    let mut judged = 0;
    for case in cases {
        assert!(case["not_measured"].is_null(), "{case}");
        let slow = case["bits_per_second"] == 10_000_000;
        if case["load"] == "spoofed" {
            assert!(case["foreign_dropped"].as_f64() > Some(100.0), "{case}");
        }
        // Gigabits need processors that others may be taking; ten megabits are always there.
        if !slow || case["loaded"] == false {
            continue;
        }
        judged += 1;
        for who in ["gold_off_percent", "best_effort_off_percent"] {
            // The target is 1 % over a whole run; this one is short.
            assert!(case[who].as_f64().unwrap().abs() < 4.0, "{case}");
        }
    }
    assert!(judged >= 4, "{result}");
    for trips in result["round_trips"].as_array().unwrap() {
        let times = &trips["times"];
        assert!(times["count"].as_u64() > Some(20), "{trips}");
        // A full queue of its own class would be 100 ms.
        if trips["bits_per_second"] == 10_000_000 && trips["guest"] == false {
            assert!(times["median_us"].as_f64() < Some(10_000.0), "{trips}");
        }
    }
    assert!(result["calls"]["median_us"].as_f64() < Some(2_000.0));
    nothing_is_left();
}

#[test]
fn a_web_server_in_a_reservation_answers_beside_load_as_without_it() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Capability(Capability::NetAdmin),
        Need::Capability(Capability::SysAdmin),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = experiment(&user, "web");
    let mean = |key: &str| {
        let rows = result["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["key"] == key).unwrap();
        assert!(row["not_measured"].is_null(), "{row}");
        assert_eq!(row["count"], 100, "{row}");
        row["avg_s"].as_f64().unwrap()
    };
    let (reserved, loaded) = (mean("reserved"), mean("reserved-loaded"));
    // The target is 1.1; others may use this host too.
    assert!(loaded < reserved * 1.5, "{result}");
    assert!(mean("guest-loaded") > loaded, "{result}");
    assert!(mean("host") > 0.0 && mean("guest") > 0.0);
    nothing_is_left();
}

#[test]
fn migrations_of_recorded_guests_take_what_the_model_says() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = experiment(&user, "migration-model");
    let guests = result["guests"].as_array().unwrap();
    assert_eq!(guests.len(), 6);
    for guest in guests {
        let cost = &guest["cost"];
        assert!(cost["faults"].as_u64() > Some(1000), "{cost}");
        assert!(cost["recorder"].as_f64() < Some(0.3), "{cost}");
        for rate in guest["rates"].as_array().unwrap() {
            let off = |figure: &str| rate["off"][figure]["off"].as_f64().unwrap();
            // The targets are 10 and 20 % of long runs, for guests that stay the same.
            assert!(off("total_s").abs() < 0.15, "{guest}");
            assert!(off("mebibytes").abs() < 0.15, "{guest}");
            let is_steady = guest["is_steady"].as_bool().unwrap();
            assert!(!is_steady || off("downtime_ms").abs() < 0.5, "{guest}");
        }
    }
    // A rate that keeps a promise, and less does not; who is held up while it is watched seems to write less.
    let mean = |key: &str| {
        let kept = guests.iter().map(|guest| guest["inverse"][key].as_f64());
        kept.map(Option::unwrap).sum::<f64>() / guests.len() as f64
    };
    assert!(mean("kept") > 0.5, "{result}");
    assert!(mean("kept_at_less") < mean("kept") / 2.0, "{result}");
    for figure in ["total_s", "downtime_ms"] {
        let coverage = &result["coverage"][figure];
        let count = |key: &str| coverage[key].as_f64().unwrap();
        assert!(
            count("held") >= 0.8 * count("migrations"),
            "{figure}: {coverage}"
        );
        assert!(count("width") < 2.0, "{figure}: {coverage}");
    }
    let order = &result["order_of_skewed"];
    let pages = |key: &str| order[key].as_f64().unwrap();
    assert!(pages("again") < 0.9 * pages("by_address"), "{order}");
}

/// No namespace of an experiment that is over.
fn nothing_is_left() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix("chronovisor-experiment-");
        let pid = pid.and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid {
            assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "{name}");
        }
    }
}

#[test]
fn a_vtm_keeps_its_share_where_a_plain_process_does_not() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Cpus(2)
    );
    let user = User::new();
    let result = with_jobs(&user, "vtm-vs-guest");
    let share = |candidate: &str, condition: &str| {
        let runs = result["runs"].as_array().unwrap();
        let is_it = |run: &&Value| run["candidate"] == candidate && run["condition"] == condition;
        let run = runs.iter().find(is_it).unwrap();
        assert!(run["not_measured"].is_null(), "{run}");
        run["share"].as_f64().unwrap()
    };
    for condition in ["idle", "loaded", "bomb", "fifo"] {
        for candidate in ["vtm", "guest"] {
            let share = share(candidate, condition);
            assert!(
                (share - 0.25).abs() < 0.04,
                "{candidate}, {condition}: {share}"
            );
        }
    }
    // How much of it the kernel leaves to an ordinary process in so short a run is the kernel's affair.
    let alone = share("plain", "idle");
    for condition in ["bomb", "fifo"] {
        let share = share("plain", condition);
        assert!(
            share < alone / 2.0,
            "plain, {condition}: {share}, alone {alone}"
        );
    }
    for handling in result["handling"].as_array().unwrap() {
        assert!(handling["not_handled"].is_null(), "{handling}");
        assert!(handling["memory_kib"].as_u64().unwrap() > 0);
    }
    let groups = fs::read_dir("/sys/fs/cgroup/pids").into_iter().flatten();
    let names = groups.map(|group| group.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names
        .filter(|name| name.starts_with("chronovisor."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_fifth_stream_arrives_whole_where_monitors_move_cpu_time_and_bandwidth_and_nowhere_else() {
    requires!(
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Capability(Capability::NetAdmin),
        Need::Capability(Capability::SysAdmin),
        Need::Cpus(2),
        Need::Program("ffmpeg"),
        Need::Program("nft")
    );
    let user = User::new();
    let result = experiment(&user, "vod");
    let scenario = |key: &str| {
        let scenarios = result["scenarios"].as_array().unwrap();
        let is_it = |s: &&Value| s["mode"] == "vtms" && s["key"] == key;
        scenarios.iter().find(is_it).unwrap()
    };
    let loss = |key: &str| {
        scenario(key)["five_streams_adapted"]["loss"]
            .as_f64()
            .unwrap()
    };
    // Five streams need 6.07 Mbit/s: of 6 little is lost, of 5 a sixth. A host that others use too takes some of both.
    assert!(loss("cpu") > 0.1, "{result}");
    assert!(loss("both") < loss("cpu") / 2.0, "{result}");
    let received = |key: &str| {
        let figures = &scenario(key)["five_streams_adapted"]["figures"];
        figures["received"].as_f64().unwrap()
    };
    assert!(received("both") > received("neither") * 1.05, "{result}");
    let adapted = |key: &str| {
        ["cpu", "network"].map(|held| !scenario(key)[format!("{held}_adapted_after_ms")].is_null())
    };
    assert_eq!(adapted("neither"), [false, false], "{result}");
    // What the CPU is too short to send cannot get lost.
    assert!(!adapted("network")[0], "{result}");
    assert_eq!(adapted("cpu"), [true, false], "{result}");
    assert_eq!(adapted("both"), [true, true], "{result}");
    // The rate of four streams, as the class at the bottleneck counts it, where none was held up.
    let wires = ["neither", "network", "cpu", "both"].map(|key| {
        let wire = &scenario(key)["wire_bits_per_second"][0];
        wire.as_f64().unwrap()
    });
    let wire = wires.into_iter().fold(0.0, f64::max) / 4.0;
    assert!((wire / 1_214_000.0 - 1.0).abs() < 0.08, "{wire}");
    let local = &result["adaptation_cost"]["local"];
    let remote = &result["adaptation_cost"]["remote"];
    assert!(local["count"] == 30 && remote["count"] == 30, "{result}");
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten();
    let names = namespaces.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names
        .filter(|name| name.starts_with("chronovisor-experiment-") && name.contains("-vod-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn guests_move_by_this_program_and_by_qemu_and_the_report_says_what_they_saw_of_it() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::Capability(Capability::SysNice),
        Need::Capability(Capability::NetAdmin),
        Need::Capability(Capability::SysAdmin),
        Need::Cpus(2),
        Need::Program("qemu-system-x86_64")
    );
    let user = User::new();
    let result = experiment(&user, "migration");
    let runs = result["runs"].as_array().unwrap();
    let moved = |run: &&Value| run["outcome"] == "moved";
    let by = |mover: &str| {
        runs.iter()
            .filter(|run| run["mover"] == mover)
            .collect::<Vec<_>>()
    };
    for mover in ["own", "plain", "multifd"] {
        let runs = by(mover);
        assert_eq!(runs.len(), 3, "{result}");
        // On a host that others use too one of them may not end in time, or be refused.
        assert!(runs.iter().any(&moved), "{mover}: {result}");
    }
    for run in runs.iter().filter(moved) {
        let number = |key: &str| run[key].as_f64().unwrap();
        // All of a guest's 32 MiB of random numbers, and no two copies of them.
        let bytes = number("bytes");
        assert!((33e6..90e6).contains(&bytes), "{run}");
        assert!(
            number("total_s") > 0.02 && number("waited_s") + 0.01 >= number("total_s"),
            "{run}"
        );
        let writes = run["writes_per_s"][0].as_f64().unwrap();
        let wanted = if run["guest"] == "10k" {
            10_000.0
        } else {
            1_000.0
        };
        assert!((writes / wanted - 1.0).abs() < 0.2, "{run}");
        // The guest cannot have seen less of it than the time between two signs of its life.
        if let Some(silence) = run["silence_s"].as_f64() {
            assert!((0.000_1..5.0).contains(&silence), "{run}");
        }
    }
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten();
    let names = namespaces.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names
        .filter(|name| {
            name.starts_with("chronovisor-experiment-") && name.ends_with("-destination")
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
