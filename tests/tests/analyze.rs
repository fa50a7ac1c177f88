//! `analyze`, as a user meets it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;

use system_tests::User;
use system_tests::host_figures::keep_figures;

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

/// What is found for the paper's tasks after this head: the JSON, and its first finding's runtime in microseconds.
fn found(user: &User, head: &str) -> (serde_json::Value, u64) {
    let file = tasks(user, head);
    let told = user.run(&["--json", "analyze", &file]).expect(0).json();
    let runtime = told["findings"][0]["runtime_ns"].as_u64().unwrap();
    (told, runtime / 1_000)
}

#[test]
fn the_example_is_explained_and_can_be_analysed() {
    let user = User::new();
    let example = user.run(&["analyze", "--example"]).expect(0).stdout;
    let file = user.file("example.toml", &example);
    let file = file.to_string_lossy();
    let ended = user.run(&["analyze", &file]).expect(0);
    assert!(
        ended.stdout.contains("(32ms, 50ms): schedulable"),
        "{ended:?}"
    );
    // What it has in comments can be written.
    let written = |example: &str, key: &str| {
        let (with, without) = (format!("\n{key} = "), format!("\n# {key} = "));
        assert!(example.contains(&without), "{key}: {example}");
        example.replacen(&without, &with, 1)
    };
    let keys = [
        "runtime",
        "deadline",
        "split",
        "pause",
        "blocking",
        "timer_latency",
        "exit",
        "budget_switch",
        "jitter",
        "offset",
    ];
    let mut all: Vec<String> = keys.iter().map(|key| written(&example, key)).collect();
    all.push(written(&written(&example, "reference"), "here"));
    for text in all {
        let file = user.file("example.toml", &text);
        let _ = user.run(&["analyze", &file.to_string_lossy()]).expect(0);
    }
    let _ = user.run(&["analyze"]).expect(2);
}

#[test]
fn what_scheduling_costs_comes_from_the_file_or_from_the_host_and_is_told() {
    let user = User::new();
    let period = "period = \"50ms\"";
    let (told, free) = found(&user, period);
    assert_eq!((free, &told["overheads"]["exit_ns"]), (32_000, &0.into()));
    let keys = "timer_latency = \"100us\"\nexit = \"300us\"\nbudget_switch = \"50us\"";
    let (told, given) = found(&user, &format!("{period}\n{keys}"));
    assert_eq!(told["overheads"]["source"], "as given");
    let finding = &told["findings"][0];
    let reaches = finding["reaches_guest_ns"].as_u64().unwrap() / 1_000;
    assert!(given == reaches + 50 && reaches > 32_000, "{told}");
    keep_figures(&user, |_| {});
    let (told, measured) = found(&user, period);
    assert_eq!(measured, given, "{told}");
    let source = told["overheads"]["source"].as_str().unwrap();
    assert!(
        source.contains("measured on CPU 0") && source.contains("2025-01-02"),
        "{told}"
    );
    let (told, less) = found(&user, &format!("{period}\nexit = \"0us\""));
    assert!(free < less && less < measured, "{told}");
    let file = tasks(&user, period);
    let text = user.run(&["analyze", &file]).expect(0).stdout;
    for part in [
        "add 400us to each execution time",
        "100us timer latency",
        "50us to each budget",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A reservation that is judged loses the switch: what was designed is just enough.
    let judged = |runtime: u64| {
        let file = tasks(&user, &format!("{period}\nruntime = \"{runtime}us\""));
        user.run(&["analyze", &file]).code()
    };
    assert_eq!((judged(measured), judged(measured - 1)), (0, 3));
}

#[test]
fn execution_times_of_another_host_are_changed_for_this_one() {
    let user = User::new();
    let figures =
        |ms: &str| format!("{{ integer = \"{ms}\", float = \"{ms}\", memory = \"{ms}\" }}");
    let head = |here: &str| format!("period = \"50ms\"\nreference = {}\n{here}", figures("10ms"));
    let here = |ms: &str| format!("here = {}", figures(ms));
    let runtime = |ms: &str| found(&user, &head(&here(ms))).1;
    let (slow, same, fast) = (runtime("12ms"), runtime("10ms"), runtime("5ms"));
    assert_eq!(same, 32_000);
    assert!(fast < 20_000 && slow > 36_000, "{fast} {slow}");
    let ended = user.run(&["analyze", &tasks(&user, &head(""))]).expect(1);
    assert!(
        ended.stderr.contains("`chronovisor host measure`"),
        "{ended:?}"
    );
    keep_figures(&user, |kept| {
        kept["figures"]["speed"]["memory"] = "5ms".into()
    });
    let ended = user.run(&["analyze", &tasks(&user, &head(""))]).expect(0);
    assert!(
        ended
            .stdout
            .contains("execution times are those of this host"),
        "{ended:?}"
    );
    let ended = user
        .run(&["analyze", &tasks(&user, &head(&here("30ms")))])
        .expect(3);
    assert!(
        ended.stderr.contains("as they are on this host"),
        "{ended:?}"
    );
}

#[test]
fn priorities_can_be_given_by_the_order_of_the_tasks() {
    let user = User::new();
    let urgent =
        "[[task]]\nname = \"t0\"\nexecution = \"1ms\"\nperiod = \"400ms\"\ndeadline = \"5ms\"";
    let judge = |scheduler: &str| {
        let head =
            format!("scheduler = \"{scheduler}\"\nruntime = \"40ms\"\nperiod = \"41ms\"\n{urgent}");
        user.run(&["analyze", &tasks(&user, &head)])
    };
    let given = judge("given").expect(0);
    assert!(given.stdout.contains("given priorities"), "{given:?}");
    assert_eq!((judge("dm").code(), judge("rm").code()), (0, 3));
}

#[test]
fn a_pause_or_a_later_budget_needs_more_and_an_earlier_one_less() {
    let user = User::new();
    let with = |key: &str| found(&user, &format!("period = \"50ms\"\n{key}"));
    let (plain, paused) = (with("").1, with("pause = \"5ms\""));
    let early = with("deadline = \"40ms\"");
    assert!(early.1 < plain && plain < paused.1, "{early:?} {paused:?}");
    let supply =
        |told: &serde_json::Value| told["findings"][0]["supply"].as_str().unwrap().to_owned();
    assert!(supply(&paused.0).contains("pause of 5 ms"), "{}", paused.0);
    assert!(
        supply(&early.0).contains("Easwaran, Anand and Lee 2007"),
        "{}",
        early.0
    );
    // Periods that begin with releases cannot be promised over a migration.
    assert_eq!(paused.0["findings"].as_array().unwrap().len(), 1);
    let file = tasks(&user, "period = \"50ms\"\npause = \"140ms\"");
    let ended = user.run(&["analyze", &file]).expect(3);
    assert!(ended.stdout.contains("misses deadlines"), "{ended:?}");
}

#[test]
fn tasks_are_split_over_vcpus_that_are_designed_one_by_one_beside_global_edf() {
    let user = User::new();
    let heavy = "[[task]]\nname = \"t3\"\nexecution = \"140ms\"\nperiod = \"200ms\"";
    let file = tasks(
        &user,
        &format!("scheduler = \"edf\"\nsplit = 2\nperiod = \"20ms\"\n{heavy}"),
    );
    let svg = user.path("plot.svg");
    let drawn = svg.to_string_lossy().into_owned();
    let told = user
        .run(&["--json", "analyze", &file, "--svg", &drawn])
        .expect(0)
        .json();
    let vcpus = told["vcpus"].as_array().unwrap();
    let mut names: Vec<&str> = vcpus
        .iter()
        .flat_map(|vcpu| vcpu["tasks"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!((vcpus.len(), names), (2, vec!["t1", "t2", "t3"]));
    let split: u64 = vcpus
        .iter()
        .map(|vcpu| vcpu["findings"][0]["runtime_ns"].as_u64().unwrap())
        .sum();
    let global = &told["global"];
    assert!(
        global["test"].as_str().unwrap().contains("global EDF"),
        "{told}"
    );
    assert!(split >= 23_000_000, "U is 1.15: {told}");
    assert!(
        global["runtime_ns"].as_u64().unwrap() >= 23_000_000,
        "{told}"
    );
    let svg = fs::read_to_string(svg).unwrap();
    for part in ["vCPU 0 (", "vCPU 1 (", "under global EDF"] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    let text = user.run(&["analyze", &file]).expect(0).stdout;
    assert!(
        text.contains("% of a CPU are reserved; for global EDF"),
        "{text}"
    );
    // One task fits on neither vCPU.
    let one_more = "[[task]]\nname = \"t4\"\nexecution = \"85ms\"\nperiod = \"100ms\"";
    let file = tasks(
        &user,
        &format!("scheduler = \"edf\"\nsplit = 2\n{heavy}\n{one_more}"),
    );
    let ended = user.run(&["analyze", &file]).expect(3);
    assert!(
        ended.stderr.contains("fits on none of 2 vCPUs"),
        "{ended:?}"
    );
}

#[test]
fn tasks_that_cannot_be_are_refused_with_the_value_and_what_would_do() {
    let user = User::new();
    let task = |c: &str, t: &str, more: &str| {
        format!("[[task]]\nname = \"bad\"\nexecution = {c:?}\nperiod = {t:?}\n{more}\n")
    };
    for (head, parts) in [
        (task("-5ms", "10ms", ""), ["-5ms", "28ms"]),
        (
            task("0ms", "10ms", ""),
            ["task bad: its execution time is 0", "1 ns"],
        ),
        (task("5ms", "0ms", ""), ["period is 0", "1 ns"]),
        (
            task("5ms", "10ms", "deadline = \"0s\""),
            ["deadline is 0", "1 ns"],
        ),
        (
            task("5ms", "99999999999999s", ""),
            ["99999999999999s", "ms"],
        ),
        (
            task("5ms", "18446744073s", ""),
            ["its period of 18446744073", "3600 s"],
        ),
        (
            task("18446744073s", "18446744073s", ""),
            ["too long", "3600 s"],
        ),
        (
            task("11ms", "10ms", ""),
            ["execution time of 11 ms", "deadline of 10 ms"],
        ),
        (
            task("5ms", "10ms", "deadline = \"4ms\""),
            ["execution time of 5 ms", "deadline of 4 ms"],
        ),
        (
            task("5ms", "10ms", "deadline = \"11ms\""),
            ["deadline of 11 ms", "at most the period"],
        ),
        (
            task("5ms", "10ms", "jitter = \"6ms\""),
            ["jitter of 6 ms", "at most 5 ms"],
        ),
        (task("7ms", "10ms", ""), ["115.00 %", "task bad"]),
        (task("1ms", "10ms", "vcpu = 1"), ["vcpu", "unknown field"]),
    ] {
        refused(&user, &head, parts);
    }
}

/// The paper's tasks after this head are wrong input, and the message has these parts.
fn refused(user: &User, head: &str, parts: [&str; 2]) {
    let ended = user.run(&["analyze", &tasks(user, head)]).expect(1);
    for part in parts {
        assert!(ended.stderr.contains(part), "{part}: {head}: {ended:?}");
    }
    assert!(ended.stderr.contains("tasks.toml"), "{ended:?}");
}

#[test]
fn reservations_that_cannot_be_are_refused_with_the_value_and_what_would_do() {
    let user = User::new();
    for (head, parts) in [
        ("period = \"0ms\"", ["period is 0", "50ms"]),
        ("period = \"5000h\"", ["5000h", "ms"]),
        (
            "period = \"18446744073s\"",
            ["period = \"18446744073s\" is too long", "3600s"],
        ),
        (
            "pause = \"18446744073s\"",
            ["pause = \"18446744073s\" is too long", "3600s"],
        ),
        (
            "exit = \"18446744073s\"",
            ["exit = \"18446744073s\" is too long", "3600s"],
        ),
        (
            "deadline = \"5ms\"",
            ["deadline stands without period", "design one"],
        ),
        (
            "period = \"5ms\"\ndeadline = \"6ms\"",
            ["deadline 6ms", "at most 5ms"],
        ),
        (
            "runtime = \"3ms\"\nperiod = \"5ms\"\ndeadline = \"2ms\"",
            ["runtime 3ms", "at most 2ms"],
        ),
        (
            "runtime = \"0ms\"\nperiod = \"5ms\"",
            ["runtime 0ns", "more than 0"],
        ),
        ("split = 0", ["split = 0", "between 1 and 64"]),
        (
            "split = 4294967295",
            ["split = 4294967295", "between 1 and 64"],
        ),
        ("split = -1", ["-1", "u32"]),
        (
            "here = { integer = \"1ms\", float = \"1ms\", memory = \"1ms\" }",
            ["here stands without reference", "figures"],
        ),
    ] {
        refused(&user, head, parts);
    }
    let ended = user.run(&["analyze", "nowhere.toml"]).expect(1);
    assert!(ended.stderr.contains("nowhere.toml"), "{ended:?}");
    // With what scheduling costs the tasks are more than there is: refused, not wrong.
    let file = tasks(&user, "exit = \"60ms\"\nperiod = \"50ms\"");
    let ended = user.run(&["analyze", &file]).expect(3);
    assert!(ended.stderr.contains("what scheduling costs"), "{ended:?}");
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
    let many = PAPER.repeat(101);
    let many = user.file("many.toml", many);
    let ended = user.run(&["analyze", &many.to_string_lossy()]).expect(1);
    let text = "there are 202 tasks: give at most 200";
    assert!(ended.stderr.contains(text), "{ended:?}");
    let none = user.file("none.toml", "scheduler = \"edf\"\n");
    let ended = user.run(&["analyze", &none.to_string_lossy()]).expect(1);
    assert!(ended.stderr.contains("give at least one"), "{ended:?}");
}
