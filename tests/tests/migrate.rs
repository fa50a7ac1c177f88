//! Guests moved between two processes: each has a run directory of its own, as two hosts have.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

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
    security: [Vec<String>; 2],
}

impl Hosts {
    fn plain() -> Self {
        let plain = || vec!["--plain".to_owned()];
        Self {
            user: User::new(),
            address: format!("127.0.0.1:{}", free_port()),
            security: [plain(), plain()],
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

    fn receive(&self, more: &[&str]) -> system_tests::user::Guest<'_> {
        let mut arguments = vec!["receive", &self.address, "--once"];
        arguments.extend(self.security[1].iter().map(String::as_str));
        arguments.extend(more);
        let mut receiving = self.user.start(self.command_there(&arguments), "receiving");
        receiving.until("waiting", |receiving| {
            receiving.stderr().contains("waiting for a guest")
        });
        receiving
    }

    fn migrate(&self, name: &str, more: &[&str]) -> Command {
        let mut arguments = vec!["--json", "migrate", name, &self.address];
        arguments.extend(self.security[0].iter().map(String::as_str));
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
            let status = self.user.finish(command).expect(0).json();
            status["records"]["tasks"]["0"]["jobs"]
                .as_u64()
                .unwrap_or(0)
        };
        let before = done();
        system_tests::process::until("at work", || done() >= before + jobs);
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
    let receiving = hosts.receive(&["--records", there.to_str().unwrap()]);
    let arguments = ["--records", here.to_str().unwrap()];
    let source = user.launch("cv-moved", &format!("{WRITER}{CPU}"), &arguments);
    hosts.work(false, 50);
    let answer = user.finish(hosts.migrate("cv-moved", &[])).expect(0).json();
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
