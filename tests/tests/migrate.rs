//! Guests moved between two processes: each has a run directory of its own, as two hosts have.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use guest_images::pages::{Found, check};
use guest_images::taskset::TaskSet;
use serde_json::Value;
use system_tests::{Need, User, requires};

const MINUTE: Duration = Duration::from_secs(60);
/// No promise of CPU time: these tests share the machine with others.
const CPU: &str = "[cpu]\nbackend = \"other\"\n";
const WRITER: &str = "[guest]\nmemory = \"24MiB\"\nduration = \"60s\"\nseed = 5\n\
    [[guest.task]]\nname = \"w\"\nperiod = \"5ms\"\n\
    writes = { pages = 5, set = \"8MiB\", pattern = \"zipf\", content = \"random\" }\n";
const WRITER_LINE: &str = "seed=5 task=w,t=5ms,dirty=5,region=8M,pattern=zipf,content=random";

/// A port that nobody listens at for now.
fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

/// Two hosts of one user: the second has a run directory beside the first one's.
struct Hosts {
    user: User,
    address: String,
    /// How connections are protected, at each.
    security: RefCell<[Vec<String>; 2]>,
}

impl Hosts {
    fn plain() -> Self {
        let plain = || vec!["--plain".to_owned()];
        Self {
            user: User::new(),
            address: format!("127.0.0.1:{}", free_port()),
            security: RefCell::new([plain(), plain()]),
        }
    }

    /// With certificates of one authority, or of an authority each.
    fn protected(authorities: [&str; 2]) -> Self {
        let hosts = Self::plain();
        let security = authorities.map(|authority| {
            let made = hosts.user.run(&["certificates", authority, "127.0.0.1"]);
            made.expect(0);
            let own = hosts.user.path(authority).join("127.0.0.1");
            vec!["--certificates".to_owned(), own.display().to_string()]
        });
        Self {
            security: RefCell::new(security),
            ..hosts
        }
    }

    fn there(&self) -> PathBuf {
        self.user.path("there")
    }

    fn command_there(&self, arguments: &[&str]) -> Command {
        let mut command = self.user.command(arguments);
        command.env("CHRONOVISOR_RUN_DIR", self.there());
        command
    }

    /// Moves the guest, and says what came of it.
    fn moved(&self, more: &[&str], code: i32) -> Value {
        self.user
            .finish(self.migrate("cv-moved", more))
            .expect(code)
            .json()
    }

    fn receive(&self, more: &[&str]) -> system_tests::user::Guest<'_> {
        let security = self.security.borrow()[1].clone();
        let mut arguments = vec!["receive", &self.address];
        arguments.extend(security.iter().map(String::as_str));
        arguments.extend(more);
        let mut receiving = self.user.start(self.command_there(&arguments), "receiving");
        receiving.until("waiting", |receiving| {
            receiving.stderr().contains("waiting for a guest")
        });
        receiving
    }

    fn migrate(&self, name: &str, more: &[&str]) -> Command {
        let mut arguments = vec!["--json", "migrate", name, &self.address];
        let security = self.security.borrow()[0].clone();
        arguments.extend(security.iter().map(String::as_str));
        let limits = ["--downtime", "1s", "--finish", "30s"];
        arguments.extend(limits.iter().filter(|_| !more.contains(&"--downtime")));
        arguments.extend(more);
        self.user.command(&arguments)
    }

    /// Waits until the guest has done so many more jobs in its process at a host.
    fn work(&self, there: bool, jobs: u64) {
        let done = || {
            let status = ["--json", "status", "cv-moved"];
            let command = match there {
                true => self.command_there(&status),
                false => self.user.command(&status),
            };
            let status = self.user.finish(command);
            let jobs = (status.code() == 0).then(|| status.json());
            jobs?["records"]["tasks"]["0"]["jobs"].as_u64()
        };
        system_tests::process::until("there", || done().is_some());
        let before = done().unwrap_or(0);
        system_tests::process::until("at work", || done() >= Some(before + jobs));
    }
}

/// The jobs recorded in a file, by task.
fn jobs(records: &Path) -> BTreeMap<u64, Vec<u64>> {
    let mut jobs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for line in fs::read_to_string(records).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["event"] == "job" {
            let task = record["task"].as_u64().unwrap();
            jobs.entry(task)
                .or_default()
                .push(record["job"].as_u64().unwrap());
        }
    }
    jobs
}

/// The writing task's pages in the memory of a guest that was saved.
fn check_memory(folder: &Path) -> Found {
    let memory = fs::read(folder.join("memory")).unwrap();
    check(&TaskSet::parse(WRITER_LINE).unwrap(), 0, &memory).unwrap()
}

/// Not a job is missing, and none is there twice.
fn assert_one_sequence(lives: [BTreeMap<u64, Vec<u64>>; 2]) -> u64 {
    let [here, there] = lives.map(|mut life| life.remove(&0).unwrap());
    assert!(!here.is_empty() && !there.is_empty());
    let all = [here, there].concat();
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    *all.last().unwrap()
}

#[test]
fn a_guest_that_writes_moves_to_another_process_with_every_page_and_job() {
    requires!(Need::Kvm);
    let hosts = Hosts::plain();
    let user = &hosts.user;
    let [here, there] = ["here.json", "there.json"].map(|name| user.path(name));
    let receiving = hosts.receive(&["--once", "--records", there.to_str().unwrap()]);
    let arguments = ["--records", here.to_str().unwrap()];
    let source = user.launch("cv-moved", &format!("{WRITER}{CPU}"), &arguments);
    hosts.work(false, 50);
    let answer = hosts.moved(&[], 0);
    assert_eq!(answer["outcome"], "moved", "{answer}");
    let measured = &answer["measured"];
    let (total, downtime) = (
        measured["total_s"].as_f64().unwrap(),
        measured["downtime_s"].as_f64().unwrap(),
    );
    assert!(0.0 < downtime && downtime < total, "{answer}");
    let rounds = answer["rounds"].as_array().unwrap();
    assert!(rounds.len() >= 2, "{answer}");
    assert_eq!(
        rounds[0]["pages"],
        24 << 8,
        "all of memory goes first: {answer}"
    );
    let ended = source.wait(MINUTE).expect(0);
    assert!(ended.stderr.contains("moved, and ended here"), "{ended:?}");
    let status = user.run(&["status", "cv-moved"]);
    assert!(status.stderr.contains("no guest `cv-moved`"), "{status:?}");
    hosts.work(true, 100);
    let saved = hosts.command_there(&["save", "cv-moved", "saved"]);
    user.finish(saved).expect(0);
    let received = receiving.wait(MINUTE).expect(0);
    assert!(
        !received.stdout.contains("rt-guest: ready"),
        "booted again: {received:?}"
    );
    let last = assert_one_sequence([jobs(&here), jobs(&there)]);
    let found = check_memory(&user.path("saved"));
    let least = last * 5;
    assert!(
        (least..=least + 50).contains(&found.writes),
        "{found:?} of {last}"
    );
}

/// Whether the guest does its work at the first host, as if nothing had been.
fn assert_unharmed(hosts: &Hosts) {
    hosts.work(false, 20);
    let ledger = fs::read_to_string(hosts.user.run_dir().join("ledger.json")).unwrap();
    assert!(!ledger.contains("cv-moved.migration"), "{ledger}");
    let left = fs::read_dir(hosts.user.run_dir()).unwrap();
    let left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    let records: Vec<_> = left.filter(|name| name.starts_with("migration-")).collect();
    assert!(records.is_empty(), "{records:?}");
}

#[test]
fn a_guest_moves_between_hosts_that_know_each_other_and_stays_with_others() {
    requires!(Need::Kvm);
    let hosts = Hosts::protected(["ours", "theirs"]);
    let receiving = hosts.receive(&["--once"]);
    let spec = format!("{WRITER}{CPU}");
    let file = hosts.user.spec("cv-moved", &spec);
    let mut source = hosts.user.command(&["run", &file]).spawn().unwrap();
    hosts.work(false, 20);
    let answer = hosts.moved(&[], 1);
    assert_eq!(answer["outcome"], "stayed", "{answer}");
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.contains("certificates of one authority"), "{reason}");
    assert_unharmed(&hosts);
    hosts.security.borrow_mut()[0] = vec!["--plain".to_owned()];
    assert_eq!(hosts.moved(&[], 1)["outcome"], "stayed");
    // Whoever could not show a certificate kept nobody else out.
    let theirs = hosts.security.borrow()[1].clone();
    hosts.security.borrow_mut()[0] = theirs;
    assert_eq!(hosts.moved(&[], 0)["outcome"], "moved");
    assert!(source.wait().unwrap().success());
    hosts.work(true, 20);
    hosts
        .user
        .finish(hosts.command_there(&["stop", "cv-moved"]))
        .expect(0);
    receiving.wait(MINUTE).expect(0);
}

#[test]
fn a_guest_that_cannot_be_moved_is_told_so_and_goes_on() {
    requires!(Need::Kvm);
    let hosts = Hosts::plain();
    let user = &hosts.user;
    let spec = format!("{WRITER}{CPU}");
    let source = user.launch("cv-moved", &spec, &[]);
    hosts.work(false, 20);
    let answer = hosts.moved(&["--predict"], 0);
    assert_eq!(answer["outcome"], "predicted", "{answer}");
    assert!(
        answer["promise"]["total_s"]["median"].as_f64() > Some(0.0),
        "{answer}"
    );
    let answer = hosts.moved(&[], 1);
    let reason = answer["reason"].as_str().unwrap();
    assert!(
        reason.contains("does `chronovisor receive` run there"),
        "{reason}"
    );
    let answer = hosts.moved(&["--rate", "100kbit/s"], 3);
    assert_eq!(answer["outcome"], "refused", "{answer}");
    assert!(!answer["nearest"].is_null(), "{answer}");
    // One of its name is there.
    let mut command = hosts.command_there(&["run"]);
    command.arg(user.spec("cv-moved", &spec));
    let taken = user.start(command, "cv-moved");
    hosts.work(true, 5);
    let receiving = hosts.receive(&["--once"]);
    let answer = hosts.moved(&[], 3);
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.contains("cv-moved"), "{reason}");
    let ended = receiving.wait(MINUTE).expect(1);
    assert!(ended.stderr.contains("refused"), "{ended:?}");
    drop(taken);
    user.run(&["pause", "cv-moved"]).expect(0);
    let paused = user.finish(hosts.migrate("cv-moved", &[])).expect(1);
    assert!(paused.stderr.contains("resume it first"), "{paused:?}");
    user.run(&["resume", "cv-moved"]).expect(0);
    let nothing = user.run(&["migrate", "cv-moved", "--cancel"]);
    assert!(
        nothing.code() == 0 || nothing.stderr.contains("not being moved"),
        "{nothing:?}"
    );
    assert_unharmed(&hosts);
    source.stop().expect(0);
}

#[test]
fn a_migration_that_is_cancelled_leaves_the_guest_and_the_next_one_is_right() {
    requires!(Need::Kvm);
    let hosts = Hosts::plain();
    let user = &hosts.user;
    let receiving = hosts.receive(&[]);
    let source = user.launch("cv-moved", &format!("{WRITER}{CPU}"), &[]);
    hosts.work(false, 50);
    let slow = hosts.migrate("cv-moved", &["--rate", "20Mbit/s"]);
    let moving = user.start(slow, "moving");
    // A guest that is not being moved cannot be saved there either, and goes on.
    system_tests::process::until("being moved", || {
        let busy = user.run(&["save", "cv-moved", "nowhere/saved"]).expect(1);
        busy.stderr.contains("is being moved")
    });
    let again = user.finish(hosts.migrate("cv-moved", &[])).expect(1);
    assert!(again.stderr.contains("is being moved already"), "{again:?}");
    std::thread::sleep(Duration::from_millis(1500));
    user.run(&["migrate", "cv-moved", "--cancel"]).expect(0);
    let answer = moving.wait(MINUTE).expect(1).json();
    assert_eq!(answer["outcome"], "stayed", "{answer}");
    assert_eq!(answer["reason"], "cancelled", "{answer}");
    assert_unharmed(&hosts);
    let answer = hosts.moved(&["--compress", "--streams", "2"], 0);
    assert_eq!(answer["outcome"], "moved", "{answer}");
    source.wait(MINUTE).expect(0);
    hosts.work(true, 20);
    user.finish(hosts.command_there(&["save", "cv-moved", "saved"]))
        .expect(0);
    assert!(check_memory(&user.path("saved")).writes > 0);
    // Whoever receives is there for the next guest.
    let other = user.launch("cv-other", &format!("{WRITER}{CPU}"), &[]);
    system_tests::process::until("moved", || {
        user.finish(hosts.migrate("cv-other", &[])).code() == 0
    });
    other.wait(MINUTE).expect(0);
    user.finish(hosts.command_there(&["stop", "cv-other"]))
        .expect(0);
    receiving.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(receiving.wait(MINUTE).code(), 128 + 15);
}
