//! Drives every fuzz target for some seconds, with bytes that are nearly valid.
//!
//! Not guided by coverage, so that it runs with nothing but Rust; tests/fuzz/README.md tells how to do that for hours.
//! `CHRONOVISOR_FUZZ_SECONDS` makes it run longer, `CHRONOVISOR_FUZZ_SEED` repeats a run.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use system_tests::{Need, User, requires};
use targets::{TARGETS, Target};

/// For each target.
const SECONDS: u64 = 3;
/// No input, however malformed, may keep a target busy for longer, on a machine busy with other things.
const LONGEST: Duration = Duration::from_secs(2);
/// Inputs are kept shorter than this.
const MOST_BYTES: usize = 1 << 16;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Steele, Lea and Flood's SplitMix64 (2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which may be 0.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.next() % end).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A stretch of `bytes`, most often a short one.
    fn stretch(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let longest = if self.next() & 3 == 0 {
            bytes.len()
        } else {
            16
        };
        let length = self.below(longest.min(bytes.len() - start) + 1);
        start..start + length
    }
}

/// Changes `input` once, with the help of `other`.
fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(input.len());
    match random.below(9) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = random.byte(),
        2 if !input.is_empty() => {
            let interesting = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'"', b'\n', b'-', b'.'];
            input[at] = interesting[random.below(interesting.len())];
        }
        3 => drop(input.drain(random.stretch(input))),
        4 => {
            let copy = input[random.stretch(input)].to_vec();
            let at = random.below(input.len() + 1);
            input.splice(at..at, copy);
        }
        5 => {
            let (from, to) = (random.stretch(other), random.stretch(input));
            input.splice(to, other[from].iter().copied());
        }
        6 => {
            let number = u64::MAX >> random.below(64) << random.below(8);
            let width = 1 << random.below(4);
            let at = at.min(input.len().saturating_sub(width));
            for (to, from) in input[at..].iter_mut().zip(number.to_le_bytes()).take(width) {
                *to = from;
            }
        }
        7 => {
            let number = (u64::MAX >> random.below(64)).to_string();
            let at = random.stretch(input);
            input.splice(at, number.into_bytes());
        }
        _ => input.truncate(at),
    }
    input.truncate(MOST_BYTES);
}

/// Runs a target for its time; `more` are further bytes to start from.
fn drive(name: &str, more: Vec<Vec<u8>>) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = setting("CHRONOVISOR_FUZZ_SEED").unwrap_or(u64::from(since.subsec_nanos()));
    let limit = Duration::from_secs(setting("CHRONOVISOR_FUZZ_SECONDS").unwrap_or(SECONDS));
    println!("CHRONOVISOR_FUZZ_SEED={seed}");
    let mut corpus = (target.corpus)();
    corpus.extend(more);
    corpus.push(Vec::new());
    for input in &corpus {
        try_one(target, input, seed);
    }
    let mut random = Random(seed);
    let (begun, mut runs) = (Instant::now(), 0_u64);
    while begun.elapsed() < limit {
        let mut input = corpus[random.below(corpus.len())].clone();
        let other = &corpus[random.below(corpus.len())];
        for _ in 0..=random.below(6) {
            mutate(&mut random, &mut input, other);
        }
        try_one(target, &input, seed);
        runs += 1;
    }
    println!("{name}: {runs} inputs");
    assert!(runs > 100, "only {runs} inputs in {limit:?}");
}

fn try_one(target: &Target, input: &[u8], seed: u64) {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(
        outcome.is_ok() && begun.elapsed() < LONGEST,
        "{} fails or took {:?} (seed {seed}) with {}",
        target.name,
        begun.elapsed(),
        input.escape_ascii()
    );
}

#[test]
fn any_specification_is_a_plan_that_makes_sense_or_an_error() {
    drive("spec", Vec::new());
}

#[test]
fn any_command_line_of_the_guest_is_a_task_set_or_an_error() {
    drive("command_line", Vec::new());
}

#[test]
fn any_image_is_loaded_where_it_may_be_or_an_error() {
    drive("image", Vec::new());
}

#[test]
fn any_content_of_the_record_rings_is_read_or_counted_as_lost() {
    drive("records", Vec::new());
}

#[test]
fn any_saved_state_is_read_or_an_error() {
    drive("snapshot", Vec::new());
}

#[test]
fn any_damage_to_a_real_saved_state_is_read_or_an_error() {
    requires!(Need::Kvm);
    let user = User::new();
    let spec = "[guest]\nduration = \"60s\"\n[cpu]\nbackend = \"other\"\nvcpus = 2\n";
    let mut guest = user.launch("cv-fuzz", spec, &[]);
    guest.status();
    user.run(&["save", "cv-fuzz", "saved"]).expect(0);
    let state = std::fs::read(user.path("saved/state")).unwrap();
    drive("snapshot", vec![state]);
}

#[test]
fn any_line_over_the_control_socket_is_a_request_or_an_error() {
    drive("control", Vec::new());
}

#[test]
fn any_driver_of_the_network_device_stops_it_at_most() {
    drive("network_queues", Vec::new());
}

#[test]
fn anything_over_a_migration_connection_is_frames_or_an_error() {
    drive("migration", Vec::new());
}
