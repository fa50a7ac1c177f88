//! `adapt`: a change is in force at once, or nothing has changed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use system_tests::requires::Capability;
use system_tests::user::Guest;
use system_tests::{Need, User, requires};

const NICE: Need = Need::Capability(Capability::SysNice);

fn spec(runtime: &str, period: &str) -> String {
    format!(
        "[guest]\nduration = \"60s\"\nhogs = [0]\n[cpu]\nruntime = {runtime:?}\nperiod = {period:?}\nenforcement = \"tick\"\n"
    )
}

/// Runtime and period that the kernel enforces on a thread, in milliseconds, by the words of another program.
fn in_force(tid: i64) -> (u64, u64) {
    let told = Command::new("chrt")
        .args(["--pid", &tid.to_string()])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let numbers: Vec<u64> = told
        .lines()
        .filter_map(|line| line.split_once("runtime/deadline/period parameters:"))
        .flat_map(|(_, numbers)| numbers.split('/'))
        .filter_map(|number| number.trim().parse().ok())
        .collect();
    assert_eq!(numbers.len(), 3, "{told}");
    (numbers[0] / 1_000_000, numbers[2] / 1_000_000)
}

/// What `ls` says of a guest's reservation.
fn in_ledger(user: &User, name: &str) -> String {
    let listed = user.run(&["--json", "ls"]).expect(0).json();
    let row = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == name);
    row.map_or_else(String::new, |row| row["reservations"].to_string())
}

fn cpu_time(tid: i64) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/schedstat")).unwrap();
    let nanos = stat.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap())
}

/// The share of a CPU that a thread gets over `length`.
fn share(tid: i64, length: Duration) -> f64 {
    let (begun, before) = (Instant::now(), cpu_time(tid));
    std::thread::sleep(length);
    (cpu_time(tid) - before).as_secs_f64() / begun.elapsed().as_secs_f64()
}

#[test]
fn a_change_is_in_force_within_a_period() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let mut guest = user.launch("cv-adapt", &spec("10ms", "50ms"), &[]);
    let tid = guest.vcpu_thread(0);
    guest.until("busy", |_| cpu_time(tid) > Duration::from_millis(100));
    assert_eq!(in_force(tid), (10, 50));
    let before = share(tid, Duration::from_secs(1));
    assert!((0.17..0.23).contains(&before), "{before}");

    let text = user
        .run(&["adapt", "cv-adapt", "--runtime", "30ms"])
        .expect(0)
        .stdout;
    assert!(text.contains("cv-adapt: adapted"), "{text}");
    assert_eq!(in_force(tid), (30, 50));
    assert!(
        in_ledger(&user, "cv-adapt").contains("30"),
        "{}",
        in_ledger(&user, "cv-adapt")
    );
    let after = share(tid, Duration::from_secs(1));
    assert!((0.55..0.65).contains(&after), "{after}");

    let adapted = user
        .run(&[
            "--json",
            "adapt",
            "cv-adapt",
            "--vcpu",
            "0",
            "--runtime",
            "5ms",
            "--period",
            "20ms",
        ])
        .expect(0)
        .json();
    assert_eq!(
        adapted["granted"]["request"]["reservation"]["period_ns"],
        20_000_000
    );
    assert_eq!(in_force(tid), (5, 20));
    guest.stop().expect(0);
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let mut guest = user.launch("cv-refused", &spec("10ms", "50ms"), &[]);
    let mut ordinary = user.launch(
        "cv-ordinary",
        "[guest]\nduration = \"60s\"\n[cpu]\nbackend = \"other\"\n",
        &[],
    );
    let tid = guest.vcpu_thread(0);
    ordinary.status();
    let ledger = in_ledger(&user, "cv-refused");
    for (arguments, status, part) in [
        (&["cv-refused", "--runtime", "60ms"][..], 1, "60 ms"),
        (&["cv-refused", "--runtime", "49900us"], 3, "fit"),
        (&["cv-refused", "--period", "50us"], 1, "100 us"),
        (
            &["cv-refused", "--vcpu", "1", "--runtime", "5ms"],
            1,
            "no vCPU 1",
        ),
        (&["cv-refused"], 1, "nothing to change"),
        (
            &["cv-refused", "--runtime", "20ms", "--from", "cv-nobody"],
            1,
            "cv-nobody",
        ),
        (
            &["cv-refused", "--runtime", "14ms", "--from", "cv-refused"],
            3,
            "itself",
        ),
        (
            &["cv-refused", "--runtime", "20ms", "--from", "cv-ordinary"],
            1,
            "no reservation",
        ),
        (
            &["cv-ordinary", "--runtime", "20ms", "--period", "50ms"],
            1,
            "no reservation",
        ),
    ] {
        let arguments: Vec<&str> = ["adapt"].iter().chain(arguments).copied().collect();
        let ended = user.run(&arguments).expect(status);
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        assert_eq!(in_force(tid), (10, 50));
        assert_eq!(in_ledger(&user, "cv-refused"), ledger);
    }
    guest.stop().expect(0);
    ordinary.stop().expect(0);
}

/// A line that asks `cv-taker` for budget of `cv-giver`: what it has and wants, what the other has and keeps, each as
/// runtime and period in milliseconds.
fn transfer_request(
    user: &User,
    before: (u64, u64),
    after: (u64, u64),
    from_before: (u64, u64),
    from_after: (u64, u64),
) -> String {
    let reservation = |(runtime, period): (u64, u64)| serde_json::json!({"runtime_ns": runtime * 1_000_000, "period_ns": period * 1_000_000});
    let request = serde_json::json!({
        "kind": "transfer",
        "vcpu": 0,
        "before": reservation(before),
        "reservation": reservation(after),
        "from": "cv-giver",
        "from_socket": user.run_dir().join("cv-giver.sock"),
        "from_vcpu": 0,
        "from_before": reservation(from_before),
        "from_reservation": reservation(from_after),
    });
    format!(
        "{}\n",
        serde_json::json!({"version": 1, "request": request})
    )
}

/// Sends a line to a guest's control socket; the answer comes there.
fn ask_socket(user: &User, name: &str, line: &str) -> UnixStream {
    let socket = user.run_dir().join(format!("{name}.sock"));
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    stream
}

/// Two guests that leave no room for a third.
fn full_host(user: &User) -> (Guest<'_>, Guest<'_>, i64, i64) {
    let mut giver = user.launch("cv-giver", &spec("20ms", "50ms"), &[]);
    let mut taker = user.launch("cv-taker", &spec("20ms", "100ms"), &[]);
    let (from, to) = (giver.vcpu_thread(0), taker.vcpu_thread(0));
    (giver, taker, from, to)
}

#[test]
fn budget_moves_between_two_guests_all_or_nothing() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let (giver, taker, from, to) = full_host(&user);
    // 20 of 100 more are 10 of 50 less.
    user.run(&[
        "adapt",
        "cv-taker",
        "--runtime",
        "40ms",
        "--from",
        "cv-giver",
    ])
    .expect(0);
    assert_eq!((in_force(from), in_force(to)), ((10, 50), (40, 100)));
    let ledgers = || (in_ledger(&user, "cv-giver"), in_ledger(&user, "cv-taker"));
    let before = ledgers();
    // More than it has.
    let refused = user
        .run(&[
            "adapt",
            "cv-taker",
            "--runtime",
            "90ms",
            "--from",
            "cv-giver",
        ])
        .expect(3);
    assert!(refused.stderr.contains("cannot give"), "{refused:?}");
    assert_eq!((in_force(from), in_force(to)), ((10, 50), (40, 100)));
    assert_eq!(ledgers(), before);
    // Back again.
    user.run(&[
        "adapt",
        "cv-giver",
        "--runtime",
        "20ms",
        "--from",
        "cv-taker",
    ])
    .expect(0);
    assert_eq!((in_force(from), in_force(to)), ((20, 50), (20, 100)));
    taker.stop().expect(0);
    giver.stop().expect(0);
}

#[test]
fn budget_of_a_guest_that_does_not_answer_is_not_taken() {
    use nix::sys::signal::Signal;
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let (giver, taker, from, to) = full_host(&user);
    let ledger = in_ledger(&user, "cv-taker");
    giver.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let refused = user.run(&[
        "adapt",
        "cv-taker",
        "--runtime",
        "40ms",
        "--from",
        "cv-giver",
    ]);
    giver.signal(Signal::SIGCONT);
    assert!(refused.code() != 0, "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(35));
    assert_eq!((in_force(from), in_force(to)), ((20, 50), (20, 100)));
    assert_eq!(in_ledger(&user, "cv-taker"), ledger);
    // Both still work.
    user.run(&[
        "adapt",
        "cv-taker",
        "--runtime",
        "40ms",
        "--from",
        "cv-giver",
    ])
    .expect(0);
    assert_eq!((in_force(from), in_force(to)), ((10, 50), (40, 100)));
    taker.stop().expect(0);
    giver.stop().expect(0);
}

#[test]
fn a_taker_that_waits_for_its_giver_still_answers_and_when_it_ends_has_taken_nothing() {
    use nix::sys::signal::Signal;
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let (mut giver, mut taker, from, _) = full_host(&user);
    let ledger = granted(&user, "cv-giver");
    giver.signal(Signal::SIGSTOP);
    // Not by `adapt`, which asks the giver for its status first.
    let request = transfer_request(&user, (20, 100), (40, 100), (20, 50), (10, 50));
    let waiting = ask_socket(&user, "cv-taker", &request);
    taker.until("in the ledger", |_| granted(&user, "cv-giver") != ledger);
    let begun = Instant::now();
    assert_eq!(taker.status()["state"], "running");
    let second = user
        .run(&["adapt", "cv-taker", "--runtime", "40ms"])
        .expect(3);
    assert!(second.stderr.contains("try again"), "{second:?}");
    taker.stop().expect(0);
    assert!(begun.elapsed() < Duration::from_secs(4), "it waited");
    drop(waiting);
    assert_eq!(granted(&user, "cv-giver"), ledger);
    giver.signal(Signal::SIGCONT);
    giver.status();
    assert_eq!(in_force(from), (20, 50));
    giver.stop().expect(0);
}

/// Runtimes that the ledger grants to the vCPUs of a guest, in milliseconds.
fn granted(user: &User, name: &str) -> Vec<u64> {
    let ledger = std::fs::read(user.run_dir().join("ledger.json")).unwrap();
    let ledger: serde_json::Value = serde_json::from_slice(&ledger).unwrap();
    let mut entries = ledger["entries"].as_array().unwrap().iter();
    let entry = entries.find(|entry| entry["vm"] == name).unwrap();
    let vcpus = entry["vcpus"].as_array().unwrap().iter();
    vcpus
        .map(|vcpu| vcpu["granted"]["request"]["reservation"]["runtime_ns"].as_u64())
        .map(|runtime| runtime.unwrap() / 1_000_000)
        .collect()
}

#[test]
fn two_guests_that_ask_each_other_at_once_do_not_wait_for_each_other() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let two = spec("12ms", "50ms").replace("[cpu]\n", "[cpu]\nvcpus = 2\n");
    let names = ["cv-left", "cv-right"];
    let mut guests = names.map(|name| user.launch(name, &two, &[]));
    let tids = [0, 1].map(|i| [0, 1].map(|vcpu| guests[i].vcpu_thread(vcpu)));
    let mut done = 0;
    for round in 0..12 {
        // Every other round about the same two vCPUs.
        let vcpus = [0, round % 2];
        let asked = [0, 1].map(|i| {
            let runtime = granted(&user, names[i])[vcpus[i]] + 1;
            let (vcpu, runtime) = (vcpus[i].to_string(), format!("{runtime}ms"));
            let mut command = user.command(&["adapt", names[i], "--runtime", &runtime]);
            command.args([
                "--from",
                names[1 - i],
                "--vcpu",
                &vcpu,
                "--from-vcpu",
                &vcpu,
            ]);
            command
        });
        let begun = Instant::now();
        for ended in asked
            .map(|command| user.start(command, ""))
            .map(|running| running.wait(Duration::from_secs(30)))
        {
            let clear = ended.code() == 3 && ended.stderr.contains("try again");
            assert!(ended.code() == 0 || clear, "{ended:?}");
            done += usize::from(ended.code() == 0);
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(4), "round {round}: {took:?}");
        let ledger = names.map(|name| granted(&user, name));
        for vcpu in [0, 1] {
            assert_eq!(ledger[0][vcpu] + ledger[1][vcpu], 24, "{ledger:?}");
            for guest in [0, 1] {
                let enforced = in_force(tids[guest][vcpu]);
                assert_eq!(enforced, (ledger[guest][vcpu], 50), "round {round}");
            }
        }
    }
    assert!(done > 0);
    for guest in guests {
        guest.stop().expect(0);
    }
}

#[test]
fn budgets_survive_many_changes_in_a_row() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let exact = spec("10ms", "50ms").replace("enforcement = \"tick\"\n", "");
    let mut guest = user.launch("cv-many", &exact, &[]);
    let tid = guest.vcpu_thread(0);
    for round in 0..20_u64 {
        let (runtime, period) = (5 + round % 7, 20 + 10 * (round % 3));
        let (q, p) = (format!("{runtime}ms"), format!("{period}ms"));
        user.run(&["adapt", "cv-many", "--runtime", &q, "--period", &p])
            .expect(0);
        assert_eq!(in_force(tid).1, period);
    }
    user.run(&["adapt", "cv-many", "--runtime", "10ms", "--period", "40ms"])
        .expect(0);
    let got = share(tid, Duration::from_secs(1));
    assert!((0.22..0.285).contains(&got), "{got}");
    let status = guest.status();
    assert!(status["vcpus"][0]["in_force"]["Ok"].is_object(), "{status}");
    guest.stop().expect(0);
}
