//! `analyze`, as a user meets it.

use std::fs;

use system_tests::User;

/// The task set of Cucinotta, Anastasi and Abeni.
const PAPER: &str = "[[task]]\nname = \"t1\"\nexecution = \"30ms\"\nperiod = \"150ms\"\n\
    [[task]]\nname = \"t2\"\nexecution = \"50ms\"\nperiod = \"200ms\"\n";

fn tasks(user: &User, head: &str) -> String {
    let path = user.file("tasks.toml", format!("{head}\n{PAPER}"));
    path.to_string_lossy().into_owned()
}

#[test]
fn the_least_budget_for_a_period_is_told_with_its_bound_and_its_witness() {
    let user = User::new();
    let file = tasks(&user, "scheduler = \"rm\"\nperiod = \"50ms\"");
    let told = user.run(&["--json", "analyze", &file]).expect(0).json();
    let findings = told["findings"].as_array().unwrap();
    assert_eq!(findings[0]["runtime_ns"], 32_000_000, "{told}");
    assert_eq!(findings[1]["runtime_ns"], 26_667_000, "{told}");
    let supply = findings[0]["supply"].as_str().unwrap();
    assert!(supply.contains("Shin and Lee 2003"), "{told}");
    for witness in findings[0]["witnesses"].as_array().unwrap() {
        let time = |key: &str| witness[key].as_u64().unwrap();
        assert!(time("supply_ns") >= time("demand_ns"), "{told}");
    }
    let text = user.run(&["analyze", &file]).expect(0).stdout;
    for part in [
        "(32ms, 50ms): schedulable",
        "rate monotonic",
        "t2",
        "Joseph and Pandya",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_reservation_that_is_too_small_is_refused_with_what_is_missing_and_drawn() {
    let user = User::new();
    for (scheduler, panels) in [("rm", 2), ("dm", 2), ("edf", 1)] {
        let head = format!("scheduler = \"{scheduler}\"\nruntime = \"24ms\"\nperiod = \"50ms\"");
        let file = tasks(&user, &head);
        let svg = user.path("plot.svg");
        let drawn = svg.to_string_lossy().into_owned();
        let ended = user.run(&["analyze", &file, "--svg", &drawn]).expect(3);
        assert!(ended.stdout.contains("misses deadlines"), "{ended:?}");
        assert!(ended.stdout.contains("too little"), "{ended:?}");
        let svg = fs::read_to_string(svg).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"), "{svg}");
        assert_eq!(svg.matches("class=\"strong\"").count(), panels, "{svg}");
        assert!(svg.contains("too little at"), "{svg}");
    }
}

#[test]
fn without_a_reservation_the_best_one_is_found() {
    let user = User::new();
    let share = |switch: &str| {
        let file = tasks(
            &user,
            &format!("scheduler = \"edf\"\nbudget_switch = \"{switch}\""),
        );
        let told = user.run(&["--json", "analyze", &file]).expect(0).json();
        let first = &told["findings"][0];
        assert_eq!(first["schedulable"], true, "{told}");
        let time = |key: &str| first[key].as_f64().unwrap();
        (time("runtime_ns") / time("period_ns"), time("period_ns"))
    };
    let (cheap, dear) = (share("1us"), share("2ms"));
    assert!(cheap.0 >= 0.45 && cheap.0 <= dear.0, "{cheap:?} {dear:?}");
    assert!(cheap.1 < dear.1, "{cheap:?} {dear:?}");
}

#[test]
fn a_file_that_makes_no_sense_is_refused_with_what_would() {
    let user = User::new();
    for (head, parts) in [
        (
            "runtime = \"28ms\"",
            ["runtime stands without period", "tasks.toml"],
        ),
        ("scheduler = \"fifo\"", ["fifo", "edf"]),
        ("period = \"50\"", ["50", "ms"]),
        (
            "runtime = \"60ms\"\nperiod = \"50ms\"",
            ["runtime 60ms", "at most 50ms"],
        ),
        (
            "[[task]]\nname = \"big\"\nexecution = \"6ms\"\nperiod = \"10ms\"",
            ["105.00 %", "task big"],
        ),
        ("blocking = \"3h\"", ["3h", "ms"]),
    ] {
        let file = tasks(&user, head);
        let ended = user.run(&["analyze", &file]).expect(1);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
    }
    let none = user.file("none.toml", "scheduler = \"edf\"\n");
    let ended = user.run(&["analyze", &none.to_string_lossy()]).expect(1);
    assert!(ended.stderr.contains("give at least one"), "{ended:?}");
}
