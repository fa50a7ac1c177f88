//! `vtm`: virtual task machines by script and as a service, on real processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Deserializer, Value};
use system_tests::process::{LIMIT, until};
use system_tests::requires::Capability;
use system_tests::user::{Ended, Guest};
use system_tests::{Busy, Need, User, requires};

const NICE: Need = Need::Capability(Capability::SysNice);

/// The last CPU, on which the tests' VTMs are.
fn cpu() -> String {
    let count = std::thread::available_parallelism().unwrap().get();
    (count - 1).to_string()
}

/// Runs a script to its end.
#[track_caller]
fn script(user: &User, options: &[&str], lines: &[&str]) -> Ended {
    let file = user.file("script", lines.join("\n"));
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"script=$1; shift; exec "$@" < "$script""#, "sh"])
        .arg(file)
        .arg(user.program())
        .args(options)
        .args(["vtm", "--cpu", &cpu()])
        .args(["--slot", "8ms"])
        .env("CHRONOVISOR_RUN_DIR", user.run_dir());
    user.finish(command)
}

/// `vtm` with lines given one by one.
struct Session {
    child: Child,
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Session {
    fn start(user: &User) -> Self {
        let mut command = user.command(&["vtm", "--cpu", &cpu(), "--slot", "8ms"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            lines: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.lines, "{line}").unwrap();
    }

    /// Waits for a line of the answers.
    #[track_caller]
    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        while !line.contains(expected) {
            line.clear();
            let length = self.answers.read_line(&mut line).unwrap();
            assert!(length > 0, "no line with {expected}");
        }
    }

    /// Gives a process to a VTM that has a fifth of the CPU.
    #[track_caller]
    fn take(&mut self, busy: &Busy) {
        self.say("create gold");
        self.say("reserve gold 8ms 40ms");
        self.say(&format!("add gold {}", busy.pid()));
        self.say("schedule");
        self.hear("job ");
        until("stopped in its turn", || busy.is_stopped());
    }

    /// Its exit status; above 128 a signal's.
    #[track_caller]
    fn end(mut self) -> i32 {
        let mut status = None;
        until("ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_script_draws_the_table_of_the_paper() {
    requires!(NICE);
    let user = User::new();
    let lines = [
        "# Duran-Limon et al., Table 3",
        "create gold",
        "create besteffort",
        "cpu_reservation gold 16ms 40ms",
        "cpu_reservation besteffort 10% 80ms",
        "table",
        "quit",
        "this is not read any more",
    ];
    let drawn = script(&user, &[], &lines).expect(0).stdout;
    let rows: Vec<Vec<&str>> = drawn
        .lines()
        .filter(|line| line.contains(" - "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["1-2", "0", "-", "16ms", "gold"],
            ["3-5", "16ms", "-", "40ms", "idle"],
            ["6-7", "40ms", "-", "56ms", "gold"],
            ["8-9", "56ms", "-", "72ms", "idle"],
            ["10", "72ms", "-", "80ms", "besteffort"],
        ],
        "{drawn}"
    );
    assert!(drawn.contains("gold        ##...##..."), "{drawn}");
}

#[test]
fn of_vtms_with_the_same_period_the_one_reserved_first_comes_first() {
    requires!(NICE);
    let user = User::new();
    let lines = [
        "create one",
        "create other",
        "reserve other 8ms 32ms",
        "reserve one 8ms 32ms",
        "table",
        "release other",
        "create other",
        "reserve other 8ms 32ms",
        "table",
    ];
    let drawn = script(&user, &[], &lines).expect(0).stdout;
    let bars: Vec<&str> = drawn.lines().filter(|line| line.contains('#')).collect();
    let (other, one) = ("  other  #...", "  one    ...#");
    assert_eq!(bars[..2], [other, one], "{drawn}");
    assert_eq!(bars[2..], ["  one    #...", "  other  ...#"], "{drawn}");
}

#[test]
fn a_command_that_is_always_busy_gets_its_share_and_no_more() {
    requires!(NICE);
    let user = User::new();
    let lines = [
        "create gold",
        "reserve gold 40% 40ms",
        "add gold -- sh -c 'while :; do :; done'",
        "schedule",
        "wait 200ms",
        "status",
        "wait 3s",
        "status",
    ];
    let ended = script(&user, &["--json"], &lines);
    let answers = Deserializer::from_str(&ended.stdout).into_iter();
    let answers: Vec<Value> = answers.map(Result::unwrap).collect();
    let job = answers.iter().find(|answer| answer["kind"] == "added");
    // It is released, and runs on.
    let job: Option<i32> = job.and_then(|job| job["data"]["job"].as_str()?.parse().ok());
    kill(Pid::from_raw(job.unwrap()), Signal::SIGKILL).unwrap();
    ended.expect(0);

    let statuses: Vec<_> = answers
        .iter()
        .filter(|answer| answer["kind"] == "status")
        .map(|answer| &answer["data"])
        .collect();
    let seconds = |value: &Value| {
        let nanos = value["nanos"].as_f64().unwrap();
        value["secs"].as_f64().unwrap() + nanos / 1e9
    };
    let between = |what: &dyn Fn(&Value) -> f64| what(statuses[1]) - what(statuses[0]);
    let used = between(&|status| seconds(&status["vtms"][0]["cpu_time"]));
    let length = between(&|status| seconds(&status["dispatches"]["since"]));
    let share = used / length;
    assert!(length > 2.9 && (0.36..0.44).contains(&share), "{share}");
}

#[test]
fn a_script_ends_at_its_first_wrong_line_and_says_which() {
    requires!(NICE);
    let user = User::new();
    let begin = ["create gold", ""];
    for (line, code, reason) in [
        ("craete silver", 2, "'create'"),
        ("reserve gold -8ms 40ms", 2, "-8ms"),
        ("create gold", 3, "there is a VTM called 'gold' already"),
    ] {
        let ended = script(&user, &[], &[begin[0], begin[1], line, "status"]).expect(code);
        assert!(
            ended.stderr.contains(&format!("line 3, `{line}`")) && ended.stderr.contains(reason),
            "{ended:?}"
        );
        assert_eq!(ended.stdout, "", "{line}");
    }
}

#[test]
fn whichever_way_it_ends_no_process_stays_stopped() {
    requires!(NICE, Need::Program("chrt"));
    let user = User::new();
    let signals = [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGKILL,
    ];
    for signal in signals {
        let busy = Busy::start();
        let mut session = Session::start(&user);
        session.take(&busy);
        assert!(!busy.is_ordinary());
        // In the middle of a command, too.
        session.say("wait 60s");
        kill(
            Pid::from_raw(session.child.id().try_into().unwrap()),
            signal,
        )
        .unwrap();
        assert_eq!(session.end(), 128 + signal as i32);
        busy.assert_free();
    }
    let busy = Busy::start();
    let mut session = Session::start(&user);
    session.take(&busy);
    session.say("release gold");
    session.say("status");
    session.hear("0.0 % promised");
    busy.assert_free();
    session.say("quit");
    assert_eq!(session.end(), 0);
}

/// `vtm serve`, once it serves.
#[track_caller]
fn serve(user: &User) -> Guest<'_> {
    let command = user.command(&["vtm", "serve", "--cpu", &cpu(), "--slot", "8ms"]);
    let mut service = user.start(command, "the service");
    service.until("serving", |service| service.stdout().contains("served at"));
    service
}

#[track_caller]
fn ask(user: &User, words: &[&str]) -> Ended {
    let mut command = vec!["vtm"];
    command.extend(words);
    user.run(&command)
}

#[test]
fn a_service_obeys_commands_and_programs_until_it_is_told_to_quit() {
    requires!(NICE, Need::Program("chrt"));
    let user = User::new();
    let nobody = ask(&user, &["status"]).expect(1);
    assert!(
        nobody.stderr.contains("chronovisor vtm serve"),
        "{nobody:?}"
    );

    let service = serve(&user);
    let socket = user.run_dir().join(format!("vtm/cpu{}.sock", cpu()));
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let busy = Busy::start();
    let pid = busy.pid().to_string();
    ask(&user, &["create", "gold"]).expect(0);
    let promised = ask(&user, &["reserve", "gold", "20%", "40ms"]).expect(0);
    assert!(
        promised.stdout.contains("gold: 8ms of every 40ms (20.0 %)"),
        "{promised:?}"
    );
    ask(&user, &["add", "gold", &pid]).expect(0);
    ask(&user, &["schedule"]).expect(0);
    ask(&user, &["adapt", "gold", "16ms", "40ms"]).expect(0);
    let table = ask(&user, &["table", "--cpu", &cpu()]).expect(0).stdout;
    assert!(table.contains("1-2"), "{table}");
    until("dispatched", || {
        let status = user.run(&["--json", "vtm", "status"]).expect(0).json();
        status["data"]["vtms"][0]["jobs"][0]["turns"].as_u64() > Some(2)
    });

    let exchange = |line: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        writeln!(stream, "{line}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let adapt = r#"{"kind":"adapt","changes":[{"vtm":"gold","need":"24ms","period":"40ms"}]}"#;
    let answer = exchange(&format!(r#"{{"version":1,"request":{adapt}}}"#));
    assert!(answer.contains(r#""execution":"24ms""#), "{answer}");
    let answer = exchange(&format!(r#"{{"version":2,"request":{adapt}}}"#));
    assert!(answer.contains("version 2 is not known"), "{answer}");
    let answer = exchange(r#"{"version":1,"request":{"kind":"schedule","now":true}}"#);
    assert!(answer.contains("unknown field `now`"), "{answer}");

    let quit = ask(&user, &["quit"]).expect(0);
    assert!(!busy.is_stopped(), "{quit:?}");
    service.wait(LIMIT).expect(0);
    busy.assert_free();
    assert!(!socket.exists());
}

#[test]
fn the_socket_of_a_dead_service_is_replaced_and_that_of_a_live_one_is_not() {
    requires!(NICE, Need::Program("chrt"));
    let user = User::new();
    let first = serve(&user);
    let busy = Busy::start();
    ask(&user, &["create", "gold"]).expect(0);
    ask(&user, &["reserve", "gold", "8ms", "40ms"]).expect(0);
    ask(&user, &["add", "gold", &busy.pid().to_string()]).expect(0);
    let second = ask(&user, &["serve", "--cpu", &cpu()]).expect(1);
    assert!(second.stderr.contains("a process that lives"), "{second:?}");
    ask(&user, &["status"]).expect(0);

    first.signal(Signal::SIGKILL);
    first.wait(LIMIT).expect(128 + Signal::SIGKILL as i32);
    busy.assert_free();
    ask(&user, &["status"]).expect(1);
    let third = serve(&user);
    let status = ask(&user, &["status"]).expect(0).stdout;
    assert!(!status.contains("gold"), "{status}");
    third.signal(Signal::SIGTERM);
    third.wait(LIMIT).expect(0);
}

#[test]
fn a_partition_is_not_taken_away_from_the_vtms_on_it() {
    requires!(NICE, Need::Root, Need::Cpus(2));
    let user = User::new();
    let _ = user.run(&["host", "prepare", "--cpus", &cpu()]).expect(0);
    let service = serve(&user);
    let refused = user.run(&["host", "restore"]);
    ask(&user, &["quit"]).expect(0);
    service.wait(LIMIT).expect(0);
    let _ = user.run(&["host", "restore"]).expect(0);
    let refused = refused.expect(1);
    assert!(
        refused.stderr.contains("`chronovisor vtm quit`"),
        "{refused:?}"
    );
}

/// Words, the exit status, and what is said.
const WRONG: &[(&[&str], i32, &str)] = &[
    (&["craete", "silver"], 2, "'create'"),
    (
        &["create", "gold"],
        3,
        "there is a VTM called 'gold' already",
    ),
    (&["create", "../gold"], 3, "'../gold' is no usable name"),
    (&["reserve", "rest", "-8ms", "40ms"], 2, "-8ms"),
    (
        &["reserve", "rest", "0ms", "40ms"],
        3,
        "execution time of 'rest' is zero",
    ),
    (
        &["reserve", "rest", "8ms", "0ms"],
        3,
        "period of 'rest' is zero",
    ),
    (
        &["reserve", "rest", "8ms", "99999999999999999999s"],
        2,
        "99999999999999999999s",
    ),
    (
        &["reserve", "rest", "8ms", "18446744073s"],
        3,
        "longer than",
    ),
    (
        &["reserve", "rest", "9ms", "40ms"],
        3,
        "not a multiple of the slot of 8 ms",
    ),
    (&["reserve", "rest", "140%", "40ms"], 3, "140 %"),
    (&["reserve", "rest", "-1%", "40ms"], 3, "-1 %"),
    (&["reserve", "rest", "NaN%", "40ms"], 3, "NaN %"),
    (
        &["reserve", "rest", "48ms", "40ms"],
        3,
        "longer than its period",
    ),
    (&["reserve", "rest", "24ms", "40ms"], 3, "does not fit"),
    (
        &["reserve", "silver", "8ms", "40ms"],
        3,
        "no VTM is called 'silver': use one of gold, rest",
    ),
    (
        &["adapt", "gold", "16ms", "40ms", "rest", "40ms", "40ms"],
        3,
        "rest",
    ),
    (&["add", "gold", "2147483647"], 3, "no process 2147483647"),
    (&["add", "gold", "-7"], 3, "-7"),
    (&["add", "gold", "1"], 3, "1 is no id"),
    (
        &["add", "gold", "--", "/no/such/program"],
        3,
        "/no/such/program",
    ),
    (&["add", "silver", "--", "true"], 3, "silver"),
    (&["rm", "gold", "7"], 3, "no job called '7'"),
    (
        &["network", "reserve", "gold", "6Mbit/s"],
        3,
        "addresses of hosts",
    ),
    (
        &["network", "reserve", "gold", "6Mbit/s", "192.0.2.1"],
        3,
        "net apply",
    ),
    (
        &["network_adapt", "gold", "6Mbit/s", "rest", "4Mbit/s"],
        3,
        "net apply",
    ),
];

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    requires!(NICE);
    let user = User::new();
    let service = serve(&user);
    ask(&user, &["create", "gold"]).expect(0);
    ask(&user, &["create", "rest"]).expect(0);
    ask(&user, &["reserve", "gold", "24ms", "40ms"]).expect(0);
    let shares = || {
        let status = user.run(&["--json", "vtm", "status"]).expect(0).json();
        status["data"]["vtms"].clone()
    };
    let before = shares();
    for (words, code, reason) in WRONG {
        let ended = ask(&user, words).expect(*code);
        assert!(ended.stderr.contains(reason), "{words:?}: {ended:?}");
    }
    assert_eq!(shares(), before);
    service.signal(Signal::SIGINT);
    service.wait(LIMIT).expect(0);
}
