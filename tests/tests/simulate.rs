//! `simulate`, as a user meets it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;

use system_tests::User;

/// The task set of Cucinotta, Anastasi and Abeni in a reservation.
fn paper(runtime: &str) -> String {
    format!(
        "policy = \"deadline\"\nlength = \"6s\"\n[[vm]]\nname = \"paper\"\nruntime = \"{runtime}\"\nperiod = \"50ms\"\n\
         task = [{{ name = \"t1\", execution = \"30ms\", period = \"150ms\" }}, {{ name = \"t2\", execution = \"50ms\", period = \"200ms\" }}]\n"
    )
}

/// The path of a new file of the user with this text.
fn written(user: &User, text: &str) -> String {
    let path = user.file("simulation.toml", text);
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_papers_task_set_misses_in_26_ms_and_not_in_28() {
    let user = User::new();
    let missed = |runtime: &str| {
        let spec = written(&user, &paper(runtime));
        let told = user.run(&["--json", "simulate", &spec]).expect(0).json();
        let tasks = told["tasks"].as_array().unwrap().clone();
        assert_eq!(tasks.len(), 2);
        assert_eq!(tasks[1]["task"], "t2");
        tasks
            .iter()
            .map(|task| task["missed"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(missed("28ms"), 0);
    assert!(missed("26ms") > 0);
}

#[test]
fn a_simulation_is_shown_as_a_table_and_drawn() {
    let user = User::new();
    let spec = written(&user, &paper("28ms"));
    let figure = user.path("schedule.svg");
    let ended = user
        .run(&["simulate", &spec, "--gantt", figure.to_str().unwrap()])
        .expect(0);
    for part in ["paper", "t1", "t2", "124.000", "idle"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let svg = fs::read_to_string(figure).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("paper t1"), "{svg}");
}

#[test]
fn several_vcpus_a_table_and_load_without_end_can_be_described() {
    let user = User::new();
    let spec = "policy = \"table\"\nlength = \"800ms\"\ncpus = 2\n\
        slot = [{ vm = \"gold\", length = \"16ms\" }, { length = \"24ms\" }, { cpu = 1, vm = \"gold\", vcpu = 1, length = \"8ms\" }]\n\
        [[vm]]\nname = \"gold\"\nvcpus = 2\ncpus = [0, 1]\nscheduler = \"round-robin\"\nquantum = \"5ms\"\n\
        task = [{ name = \"load\" }, { name = \"short\", vcpu = 1, execution = \"2ms\", period = \"20ms\" }]\n";
    let spec = written(&user, spec);
    let told = user.run(&["--json", "simulate", &spec]).expect(0).json();
    assert_eq!(told["cpus"][0]["supplied_ns"], 320_000_000);
    assert_eq!(told["tasks"][1]["longest_ns"], 2_000_000);
}

#[test]
fn what_cannot_be_simulated_is_refused_with_its_place() {
    let user = User::new();
    for (text, parts) in [
        ("policy = \"best\"", &["best", "deferrable"][..]),
        (&paper("60ms"), &["vCPU 0", "60ms", "50ms"]),
        (
            &paper("28ms").replace("150ms", "0ms"),
            &["task 0 of vCPU 0", "period"],
        ),
        (&paper("28ms").replace("runtime", "budget"), &["budget"]),
        (
            &paper("28ms").replace("deadline", "table"),
            &["dispatch table 0"],
        ),
        (
            &paper("28ms").replace("execution = \"30ms\", ", ""),
            &["t1", "execution and period"],
        ),
        (
            &format!("cpus = {}\n{}", usize::MAX / 2, paper("28ms")),
            &["cpus", "at most 4096"],
        ),
        (
            &paper("28ms").replace("runtime", "vcpus = 999999999999\nruntime"),
            &["vcpus", "999999999999", "at most 4096"],
        ),
    ] {
        let spec = written(&user, text);
        let ended = user.run(&["simulate", &spec]).expect(1);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    }
    let ended = user.run(&["simulate", "/nowhere.toml"]).expect(1);
    assert!(ended.stderr.contains("/nowhere.toml"), "{ended:?}");
}
