//! The command line, as a user meets it: what is done, what is refused, what is said.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use system_tests::requires::Capability;
use system_tests::user::Guest;
use system_tests::{Need, User, requires};

/// A guest that runs for a minute unless it is stopped, as an ordinary thread.
const ORDINARY: &str = "[guest]\nduration = \"60s\"\n[[guest.task]]\nname = \"t\"\n\
    execution = \"1ms\"\nperiod = \"20ms\"\n[cpu]\nbackend = \"other\"\n";

/// As `ORDINARY`, in a reservation.
fn reserved(runtime: &str, period: &str) -> String {
    let cpu = format!("runtime = \"{runtime}\"\nperiod = \"{period}\"");
    ORDINARY.replace("backend = \"other\"", &cpu)
}

fn with_cpu(keys: &str) -> String {
    ORDINARY.replace("backend = \"other\"", keys)
}

const NICE: Need = Need::Capability(Capability::SysNice);
const MINUTE: Duration = Duration::from_secs(60);

/// What the kernel enforces on a thread, by the words of another program.
fn policy(tid: i64) -> String {
    let told = Command::new("chrt")
        .args(["--pid", &tid.to_string()])
        .output()
        .unwrap();
    String::from_utf8_lossy(&told.stdout).into_owned()
}

/// That nothing of any guest is left: no entry, no socket, no group.
#[track_caller]
fn assert_nothing_left(user: &User) {
    let listed = user.run(&["--json", "ls"]).expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(0), "{listed}");
    let sockets: Vec<_> = fs::read_dir(user.run_dir())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.ends_with(".sock"))
        .collect();
    assert_eq!(sockets, [""; 0]);
}

#[test]
fn a_guest_is_listed_asked_paused_resumed_and_stopped() {
    requires!(Need::Kvm);
    let user = User::new();
    let mut guest = user.launch("cv-life", ORDINARY, &[]);
    let status = guest.status();
    assert_eq!(status["state"], "running", "{status}");
    assert_eq!(status["pid"], guest.pid(), "{status}");
    let text = user.run(&["status", "cv-life"]).expect(0).stdout;
    assert!(text.starts_with("cv-life: running"), "{text}");
    assert!(text.contains("no reservation, other"), "{text}");

    let listed = user.run(&["ls"]).expect(0).stdout;
    assert!(
        listed.contains("cv-life") && listed.contains("running"),
        "{listed}"
    );

    assert!(
        user.run(&["pause", "cv-life"])
            .expect(0)
            .stdout
            .contains("paused")
    );
    assert_eq!(guest.status()["state"], "paused");
    let jobs = |guest: &mut Guest| guest.status()["records"]["tasks"]["0"]["jobs"].as_u64();
    let standing = jobs(&mut guest);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(jobs(&mut guest), standing);
    let resumed = user.run(&["--json", "resume", "cv-life"]).expect(0).json();
    assert_eq!(resumed["done"], "resumed");
    guest.until("going on", |_| {
        let status = user.run(&["--json", "status", "cv-life"]).expect(0).json();
        status["records"]["tasks"]["0"]["jobs"].as_u64() > standing
    });

    let ended = guest.stop().expect(0);
    assert!(ended.stderr.contains("stopped on request"), "{ended:?}");
    assert!(ended.stdout.contains("rt-guest: ready"), "{ended:?}");
    assert_nothing_left(&user);
}

#[test]
fn with_json_standard_output_is_the_outcome_alone() {
    requires!(Need::Kvm);
    let user = User::new();
    let guest = user.launch("cv-json", &ORDINARY.replace("60s", "100ms"), &["--json"]);
    let ended = guest.wait(MINUTE).expect(0);
    let outcome = ended.json();
    assert_eq!(outcome["end"]["reason"], "debug-exit", "{outcome}");
    assert_eq!(outcome["status"]["records"]["tasks"]["0"]["name"], "t");
    assert!(ended.stderr.contains("rt-guest: ready"), "{ended:?}");
}

#[test]
fn a_signal_stops_the_guest_and_is_a_success() {
    requires!(Need::Kvm);
    let user = User::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut guest = user.launch("cv-signal", ORDINARY, &[]);
        guest.status();
        guest.signal(signal);
        let ended = guest.wait(MINUTE).expect(0);
        assert!(ended.stderr.contains("stopped on request"), "{ended:?}");
        assert_nothing_left(&user);
    }
}

#[test]
fn a_reservation_in_force_is_the_one_asked_for_and_more_than_is_left_is_refused() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let mut guest = user.launch("cv-first", &reserved("10ms", "40ms"), &[]);
    let tid = guest.vcpu_thread(0);
    let told = policy(tid);
    assert!(told.contains("SCHED_DEADLINE"), "{told}");
    // Exact enforcement gives the kernel a millisecond more at this period.
    assert!(told.contains("11000000/40000000/40000000"), "{told}");

    for command in ["check", "run"] {
        let spec = user.spec(
            "cv-second",
            &with_cpu("vcpus = 2\nruntime = \"38ms\"\nperiod = \"40ms\""),
        );
        let ended = user.run(&[command, &spec]).expect(3);
        for part in ["error:", "cv-second", "fit"] {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
    }
    let listed = user.run(&["--json", "ls"]).expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert!(!user.run_dir().join("cv-second.sock").exists());
    assert_eq!(policy(tid), told);
    guest.stop().expect(0);
    assert_nothing_left(&user);
}

#[test]
fn check_tells_what_would_be_reserved_and_reserves_nothing() {
    requires!(NICE);
    let user = User::new();
    let spec = user.spec("cv-check", &reserved("5ms", "50ms"));
    let text = user.run(&["check", &spec]).expect(0).stdout;
    assert!(text.contains("cv-check: fits"), "{text}");
    assert!(text.contains("by deadline"), "{text}");
    let told = user.run(&["--json", "check", &spec]).expect(0).json();
    assert_eq!(
        told["vcpus"][0]["request"]["reservation"]["runtime_ns"],
        5_000_000
    );
    assert_nothing_left(&user);
}

#[test]
fn a_warning_is_a_line_on_standard_error_unless_warnings_are_off() {
    let user = User::new();
    let warned = |level| {
        let _ = user.file("run/ledger.json", "damaged");
        let mut command = user.command(&["ls"]);
        command.env("RUST_LOG", level);
        user.finish(command).expect(0).stderr
    };
    let text = warned("");
    let line = text.strip_prefix("warning: ledger is damaged");
    assert!(line.unwrap().ends_with("ledger.json\n"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(warned("off"), "");
}

#[test]
fn a_second_guest_of_a_name_is_refused_and_the_first_goes_on() {
    requires!(Need::Kvm);
    let user = User::new();
    let mut first = user.launch("cv-twin", ORDINARY, &[]);
    first.status();
    let second = user.launch("cv-twin", ORDINARY, &[]).wait(MINUTE).expect(3);
    assert!(second.stderr.contains("cv-twin"), "{second:?}");
    assert!(
        second.stderr.contains(&first.pid().to_string()),
        "{second:?}"
    );
    assert_eq!(first.status()["state"], "running");
    first.stop().expect(0);
    assert_nothing_left(&user);
}

#[test]
fn what_a_killed_monitor_leaves_is_cleaned_by_the_next_start() {
    requires!(Need::Kvm, Need::Root, NICE, Need::Program("chrt"));
    let user = User::new();
    for keys in [
        "runtime = \"20ms\"\nperiod = \"50ms\"",
        "runtime = \"20ms\"\nperiod = \"50ms\"\nbackend = \"cfs-quota\"",
        "runtime = \"20ms\"\nperiod = \"50ms\"\nbackend = \"rt-cgroup\"",
    ] {
        let spec = with_cpu(keys);
        let mut guest = user.launch("cv-killed", &spec, &[]);
        if keys.contains("rt-cgroup") && Need::CgroupV1("cpu").why_missing().is_some() {
            continue;
        }
        let groups = groups_of(guest.vcpu_thread(0));
        guest.signal(Signal::SIGKILL);
        assert_eq!(guest.wait(MINUTE).code(), 128 + 9);

        let mut again = user.launch("cv-killed", &spec, &[]);
        again.status();
        let now = groups_of(again.vcpu_thread(0));
        for group in groups.iter().filter(|group| !now.contains(group)) {
            assert!(!group.exists(), "{} is left", group.display());
        }
        again.stop().expect(0);
        assert_nothing_left(&user);
    }
}

/// The control groups of our making that a thread is in.
fn groups_of(tid: i64) -> Vec<std::path::PathBuf> {
    let listed = fs::read_to_string(format!("/proc/{tid}/cgroup")).unwrap_or_default();
    let of_line = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let hierarchy = if controllers.is_empty() {
            "unified"
        } else {
            controllers
        };
        let folder = format!("/sys/fs/cgroup/{hierarchy}{path}");
        path.contains("chronovisor").then(|| folder.into())
    };
    listed.lines().filter_map(of_line).collect()
}

#[test]
fn a_specification_that_cannot_be_is_refused_with_the_key_and_what_would_fit() {
    let user = User::new();
    let runtime = |q: &str, p: &str| with_cpu(&format!("runtime = {q:?}\nperiod = {p:?}"));
    let long_name = "x".repeat(108);
    for (name, spec, status, parts) in [
        (
            "cv/bad",
            ORDINARY.to_owned(),
            1,
            &["name", "cv/bad", "letters"][..],
        ),
        (&long_name, ORDINARY.to_owned(), 1, &["name", "48"]),
        ("cv-a", with_cpu("speed = 3"), 1, &["speed", "runtime"]),
        (
            "cv-a",
            with_cpu("bakend = \"other\""),
            1,
            &["bakend", "backend"],
        ),
        ("cv-a", runtime("28", "50ms"), 1, &["28", "ms"]),
        ("cv-a", runtime("28 parsecs", "50ms"), 1, &["parsecs", "ms"]),
        ("cv-a", runtime("2us", "5us"), 1, &["5 us", "100 us"]),
        ("cv-a", runtime("1s", "5s"), 1, &["5", "4194"]),
        ("cv-a", runtime("500ns", "10ms"), 1, &["500 ns", "1024 ns"]),
        ("cv-a", runtime("60ms", "50ms"), 1, &["60 ms", "50 ms"]),
        (
            "cv-a",
            with_cpu("vcpus = 65\nbackend = \"other\""),
            1,
            &["vcpus", "64"],
        ),
        (
            "cv-a",
            with_cpu("cpu = 4000\nbackend = \"other\""),
            3,
            &["CPU 4000", "online"],
        ),
        (
            "cv-a",
            "[guest]\nmemory = \"1KiB\"\n".to_owned(),
            1,
            &["guest.memory", "2MiB"],
        ),
        (
            "cv-a",
            "[guest]\ncommand_line = \"tusk=1\"\n".to_owned(),
            1,
            &["tusk"],
        ),
    ] {
        let spec = user.spec(name, &spec);
        for command in ["check", "run"] {
            let ended = user.run(&[command, &spec]).expect(status);
            assert!(ended.stderr.starts_with("error: "), "{ended:?}");
            for part in parts {
                assert!(ended.stderr.contains(part), "{part}: {ended:?}");
            }
        }
    }
    assert_nothing_left(&user);
}

#[test]
fn a_command_that_does_not_exist_or_has_no_object_is_an_error_as_users_know_it() {
    let user = User::new();
    let _ = user.run(&["rnu"]).expect(2);
    let _ = user.run(&["adapt", "x", "--runtime", "5"]).expect(2);
    let _ = user.run(&["--help"]).expect(0);
    let version = user.run(&["--version"]).expect(0);
    assert!(version.stdout.starts_with("chronovisor "), "{version:?}");
    let missing = user.run(&["run", "no-such.toml"]).expect(1);
    assert!(missing.stderr.contains("no-such.toml"), "{missing:?}");
    for arguments in [
        &["status", "cv-nobody"][..],
        &["pause", "cv-nobody"],
        &["resume", "cv-nobody"],
        &["stop", "cv-nobody"],
        &["adapt", "cv-nobody", "--runtime", "5ms"],
        &["save", "cv-nobody", "folder"],
        // No path leads out of the run directory.
        &["status", "../cv-nobody"],
        &["stop", "/etc/passwd"],
    ] {
        let ended = user.run(arguments).expect(1);
        assert!(
            ended.stderr.starts_with("error: no guest `"),
            "{arguments:?}: {ended:?}"
        );
    }
    assert!(!user.path("folder").exists());
}

#[test]
fn the_example_that_is_printed_runs_as_it_is() {
    requires!(Need::Kvm, NICE);
    let user = User::new();
    let example = user.run(&["spec", "--example"]).expect(0).stdout;
    let shorter = example.replace("duration = \"5s\"", "duration = \"600ms\"");
    assert_ne!(shorter, example);
    let path = user.file("example.toml", shorter);
    let command = user.command(&["run", &path.to_string_lossy()]);
    let ended = user.start(command, "example").wait(MINUTE).expect(0);
    assert!(ended.stdout.contains("task t1 jobs"), "{ended:?}");
}

#[test]
fn a_guest_may_have_more_vcpus_than_the_host_has_cpus() {
    requires!(Need::Kvm);
    let user = User::new();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let count = (cpus + 2).min(16);
    let spec = with_cpu(&format!("vcpus = {count}\nbackend = \"other\""));
    let mut guest = user.launch("cv-many", &spec, &[]);
    let status = guest.status();
    assert_eq!(
        status["vcpus"].as_array().map(Vec::len),
        Some(count),
        "{status}"
    );
    guest.stop().expect(0);
}

#[test]
fn records_that_cannot_be_written_are_an_error_after_the_guest_has_run_to_its_end() {
    requires!(Need::Kvm);
    let user = User::new();
    let spec = ORDINARY.replace("60s", "500ms");
    let guest = user.launch("cv-full", &spec, &["--records", "/dev/full"]);
    let ended = guest.wait(MINUTE).expect(1);
    assert!(ended.stdout.contains("task t jobs"), "{ended:?}");
    assert!(ended.stderr.contains("cv-full: guest ended"), "{ended:?}");
    for part in ["error: ", "/dev/full", "No space left"] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    let guest = user.launch("cv-full", &spec, &["--records", "no/such/folder"]);
    let ended = guest.wait(MINUTE).expect(1);
    assert!(ended.stderr.contains("no/such/folder"), "{ended:?}");
    assert!(!ended.stdout.contains("rt-guest"), "{ended:?}");
}

#[test]
fn a_refused_guest_leaves_the_records_of_an_earlier_one_alone() {
    let user = User::new();
    let records = user.file("records", "of an earlier run\n");
    let spec = with_cpu("cpu = 4000\nbackend = \"other\"");
    let path = records.to_string_lossy().into_owned();
    let _ = user
        .launch("cv-refused", &spec, &["--records", &path])
        .wait(MINUTE)
        .expect(3);
    assert_eq!(fs::read_to_string(records).unwrap(), "of an earlier run\n");
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_guest() {
    requires!(Need::Kvm, Need::Program("sh"));
    let user = User::new();
    let spec = user.spec("cv-pipe", &ORDINARY.replace("60s", "300ms"));
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("{ \"$0\" run \"$1\"; echo status $? >&2; } | true")
        .arg(user.program())
        .arg(spec)
        .env("CHRONOVISOR_RUN_DIR", user.run_dir());
    let ended = user.finish(command);
    assert!(ended.stderr.contains("status 0"), "{ended:?}");
}

#[test]
fn without_root_the_message_names_what_is_missing() {
    requires!(Need::Kvm, Need::Root, Need::Program("setpriv"));
    let user = User::new();
    // Everybody may look into the folder and run the program; only root may use KVM and promise CPU time.
    let everybody = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(user.path("."), everybody(0o755)).unwrap();
    fs::set_permissions(user.run_dir(), everybody(0o777)).unwrap();
    let program = user.path("chronovisor");
    fs::copy(user.program(), &program).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&program)
            .args(arguments)
            .env("CHRONOVISOR_RUN_DIR", user.run_dir());
        user.finish(command)
    };
    let private = fs::metadata("/dev/kvm").unwrap().permissions().mode() & 0o006 == 0;
    if private {
        let spec = user.spec("cv-nobody", ORDINARY);
        let ended = nobody(&["run", &spec]).expect(1);
        assert!(ended.stderr.contains("/dev/kvm"), "{ended:?}");
        assert!(ended.stderr.contains("run as root"), "{ended:?}");
    }
    let ended = nobody(&["host", "prepare", "--cpus", "1"]);
    assert_ne!(ended.code(), 0);
    assert!(ended.stderr.contains("root"), "{ended:?}");
    let mut command = Command::new("setpriv");
    let spec = user.spec("cv-unable", &reserved("5ms", "50ms"));
    command
        .args(["--bounding-set=-sys_nice", "--inh-caps=-sys_nice", "--"])
        .args([program.as_os_str(), "run".as_ref(), spec.as_ref()])
        .env("CHRONOVISOR_RUN_DIR", user.path("run-2"));
    let ended = user.finish(command).expect(1);
    assert!(
        ended.stderr.to_lowercase().contains("cap_sys_nice"),
        "{ended:?}"
    );
}

/// Has the run directory's host check say that every CPU loses 3 ms in a second, as of the start of the host given.
fn noisy_host(user: &User, boot_id: Option<&str>) {
    let path = user.run_dir().join("host-check.json");
    if !path.exists() {
        let _ = user.run(&["host", "check", "--seconds", "1"]).expect(0);
    }
    let mut check: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let length = |ns: u64| serde_json::to_value(Duration::from_nanos(ns)).unwrap();
    for cpu in check["cpus"].as_array_mut().unwrap() {
        cpu["noise"]["observed"] = length(1_000_000_000);
        cpu["noise"]["longest"] = vec![length(3_000_000)].into();
    }
    if let Some(boot_id) = boot_id {
        check["boot_id"] = boot_id.into();
    }
    fs::write(path, check.to_string()).unwrap();
}

#[test]
fn a_promise_finer_than_the_noise_is_refused_unless_forced_or_measured_before_a_reboot() {
    requires!(Need::Kvm, NICE);
    let user = User::new();
    noisy_host(&user, None);
    let fine = user.spec("cv-fine", &reserved("1ms", "20ms").replace("60s", "100ms"));
    for command in ["check", "run"] {
        let ended = user.run(&[command, &fine]).expect(3);
        for part in ["finer than the noise of CPU", "3 ms", "--force"] {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
    }
    assert_nothing_left(&user);
    let _ = user.run(&["run", &fine, "--force"]).expect(0);

    let mut guest = user.launch("cv-coarse", &reserved("10ms", "40ms"), &[]);
    let mut giver = user.launch("cv-giver", &reserved("8ms", "40ms"), &[]);
    let _ = (guest.status(), giver.status());
    let listed = || user.run(&["--json", "ls"]).expect(0).json();
    let before = listed();
    for change in [
        &["--runtime", "2ms"][..],
        // The giver would keep 2 ms.
        &["--runtime", "16ms", "--from", "cv-giver"],
    ] {
        let arguments = [&["adapt", "cv-coarse"], change].concat();
        let ended = user.run(&arguments).expect(3);
        assert!(ended.stderr.contains("finer than the noise"), "{ended:?}");
        assert_eq!(listed(), before);
    }
    let transfer = [
        "adapt",
        "cv-coarse",
        "--runtime",
        "16ms",
        "--from",
        "cv-giver",
    ];
    let _ = user.run(&[&transfer[..], &["--force"]].concat()).expect(0);

    noisy_host(&user, Some("00000000-0000-0000-0000-000000000000"));
    let ended = user
        .run(&["adapt", "cv-coarse", "--runtime", "2ms"])
        .expect(0);
    assert!(
        ended.stderr.contains("before the host was last started"),
        "{ended:?}"
    );
    let ended = user.run(&["check", &fine]).expect(0);
    assert!(
        ended.stderr.contains("`chronovisor host check`"),
        "{ended:?}"
    );
    guest.stop().expect(0);
    giver.stop().expect(0);
    assert_nothing_left(&user);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let user = User::new();
    for arguments in [
        ["spec", "--example"].as_slice(),
        &["--json", "ls"],
        &["host", "check", "--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = user.command(arguments).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(
            (ended.status.code(), said.as_ref()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}
