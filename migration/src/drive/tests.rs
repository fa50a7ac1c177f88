//! Two hosts on loopback: a guest that writes goes over, and whatever is cut on the way, one copy is left and runs.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use super::*;
use crate::precopy::{PrecopySettings, RoundSent};
use crate::protocol::{DestinationSetup, Notice, Outcome, Patience, SourceEvent, SourceSetup};
use crate::ram::fake::{FakeLog, FakeRam};
use crate::ram::{GuestRam, Machine, PageSet, Part};
use crate::transport::authority::{Authority, Validity};
use crate::transport::relay::{Direction, Fault, Plan, Relay};
use crate::transport::{Identity, Listener, Security, Settings};
use crate::wire::{Accept, Boot, Offer, Refuse, SPOKEN, Session, Token};

const PAGES: usize = 150;

/// How many copies run, and whether two ever did.
#[derive(Default)]
struct Copies {
    running: AtomicUsize,
    twice: AtomicBool,
}

/// A guest on one host: a thread that writes while it runs.
struct FakeMachine {
    ram: Arc<FakeRam>,
    copies: Arc<Copies>,
    writer: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    state: Vec<u8>,
}

impl FakeMachine {
    fn new(ram: Arc<FakeRam>, copies: &Arc<Copies>, state: &[u8]) -> Self {
        Self {
            ram,
            copies: copies.clone(),
            writer: None,
            state: state.to_vec(),
        }
    }

    fn runs(&self) -> bool {
        self.writer.is_some()
    }
}

impl Machine for FakeMachine {
    type Error = Infallible;

    fn pause(&mut self) -> Result<(), Infallible> {
        if let Some((stop, writer)) = self.writer.take() {
            stop.store(true, Ordering::SeqCst);
            writer.join().unwrap();
            self.copies.running.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Infallible> {
        if self.copies.running.fetch_add(1, Ordering::SeqCst) > 0 {
            self.copies.twice.store(true, Ordering::SeqCst);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (ram, stopped) = (self.ram.clone(), stop.clone());
        let writer = thread::spawn(move || {
            let mut count = 1u64;
            while !stopped.load(Ordering::SeqCst) {
                ram.poke(
                    count * 7 % PAGES as u64,
                    usize::try_from(count % 512).unwrap(),
                    count,
                );
                count += 1;
                count
                    .is_multiple_of(32)
                    .then(|| thread::sleep(Duration::from_micros(100)));
            }
        });
        self.writer = Some((stop, writer));
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<Part>, Infallible> {
        let part = |kind: &str, bytes: Vec<u8>| Part {
            kind: kind.to_owned(),
            version: 1,
            bytes,
        };
        Ok(vec![
            part("vcpu", self.state.clone()),
            part("clock", vec![9; 70_000]),
        ])
    }

    fn restore(&mut self, parts: &[Part]) -> Result<(), Infallible> {
        self.state.clone_from(&parts[0].bytes);
        Ok(())
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        let _ = self.pause();
    }
}

/// Three rounds of everything dirty, then the switch-over.
struct ThreeRounds;

impl Planner for ThreeRounds {
    fn next(&mut self, dirty: &PageSet, last: Option<&RoundSent>) -> Step {
        match last {
            Some(last) if last.progress.round == 2 => Step::Switch,
            _ => Step::Round(vec![dirty.clone()]),
        }
    }
}

struct SourceSide {
    notices: Vec<Notice>,
    let_go: bool,
    cancel_at_copy: Option<SourceRemote>,
}

impl SourceHost for SourceSide {
    fn copy(&mut self, _: &Accept) -> Result<(PrecopySettings, Box<dyn Planner>), Failure> {
        if let Some(remote) = self.cancel_at_copy.take() {
            remote.hand_in(SourceEvent::Cancel);
        }
        Ok((PrecopySettings::default(), Box::new(ThreeRounds)))
    }

    fn let_go(&mut self) -> Result<(), Failure> {
        self.let_go = true;
        Ok(())
    }

    fn report(&mut self, notice: &Notice) {
        self.notices.push(notice.clone());
    }
}

struct DestinationSide {
    machine: FakeMachine,
    inquiries: String,
    refuse: bool,
    freed: bool,
}

impl DestinationHost for DestinationSide {
    type Machine = FakeMachine;

    fn admit(&mut self, _: Session, offer: &Offer) -> Result<Admitted, Refuse> {
        if self.refuse {
            return Err(Refuse {
                reason: "no CPU left".into(),
                nearest: vec![1],
            });
        }
        let accept = Accept {
            token: Token([5; 16]),
            streams: offer.streams,
            features: 0,
            boot: Boot([2; 16]),
            inquiries: self.inquiries.clone(),
            facts: Vec::new(),
        };
        let ram = self.machine.ram.clone();
        Ok(Admitted { accept, ram })
    }

    fn hold(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn machine(&mut self) -> &mut FakeMachine {
        &mut self.machine
    }

    fn free(&mut self) {
        self.freed = true;
    }

    fn report(&mut self, _: &Notice) {}
}

fn patience() -> Patience {
    Patience {
        greeting: Duration::from_secs(3),
        admission: Duration::from_secs(3),
        round: Duration::from_secs(3),
        switching: Duration::from_secs(2),
        pause: Duration::from_secs(2),
        decision: Duration::from_secs(1),
        inquiry: Duration::from_millis(100),
    }
}

fn security() -> Security {
    let valid = Validity::starting(SystemTime::now(), Duration::from_secs(3600));
    let authority = Authority::new("two hosts", valid).unwrap();
    let own = authority.issue(&["127.0.0.1"], valid).unwrap();
    let identity = Identity::from_pem(
        own.certificate.as_bytes(),
        own.key.as_bytes(),
        authority.certificate().as_bytes(),
    );
    Security::Tls(identity.unwrap())
}

fn setup(streams: u16) -> SourceSetup {
    SourceSetup {
        session: Session([3; 16]),
        name: "guest".into(),
        versions: SPOKEN,
        offer: Offer {
            spec: Vec::new(),
            memory_bytes: PAGES as u64 * 4096,
            downtime_ns: 20_000_000,
            finish_ns: 10_000_000_000,
            confidence_ppm: 950_000,
            streams,
            features: 0,
            boot: Boot([1; 16]),
            // Nobody answers there: the source itself asks.
            inquiries: "127.0.0.1:9".into(),
        },
        patience: patience(),
    }
}

/// How a try ended.
struct Ended {
    source: Option<Outcome>,
    destination: Option<Outcome>,
    notices: Vec<Notice>,
    source_runs: bool,
    destination_runs: bool,
    let_go: bool,
    freed: bool,
    memory_equal: bool,
    files: usize,
}

#[derive(Default, Clone, Copy)]
struct Try {
    plan: Option<Plan>,
    cancel: bool,
    refuse: bool,
}

fn run(ram: &Arc<FakeRam>, tried: Try) -> Ended {
    let (copies, folder) = (Arc::new(Copies::default()), tempfile::tempdir().unwrap());
    let (security, transport) = (
        security(),
        Settings {
            stall: Duration::from_secs(2),
            ..Settings::default()
        },
    );
    let listener =
        Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), security.clone(), transport).unwrap();
    let relay = Relay::start(listener.address(), tried.plan).unwrap();
    let arrival = Arrival {
        setup: DestinationSetup {
            versions: SPOKEN,
            patience: patience(),
        },
        security: security.clone(),
        transport,
        folder: folder.path().to_owned(),
        boot: Boot([2; 16]),
        remote: DestinationRemote::default(),
    };
    let route = Route {
        address: relay.address(),
        name: "127.0.0.1".into(),
        security,
        transport,
        folder: folder.path().to_owned(),
    };
    let there = FakeRam::new(PAGES);
    let mut arriving = DestinationSide {
        machine: FakeMachine::new(there.clone(), &copies, b"nothing"),
        inquiries: listener.address().to_string(),
        refuse: tried.refuse,
        freed: false,
    };
    let mut machine = FakeMachine::new(ram.clone(), &copies, b"registers");
    machine.resume().unwrap();
    let departure = Departure::default();
    let mut leaving = SourceSide {
        notices: Vec::new(),
        let_go: false,
        cancel_at_copy: tried.cancel.then(|| departure.remote()),
    };
    let equal = Mutex::new(false);
    let (source, destination) = thread::scope(|scope| {
        let receiving =
            scope.spawn(|| arrival.receive(&listener, &mut arriving, Duration::from_secs(5)));
        let mut log = FakeLog(ram.clone());
        let guest = Departing {
            machine: &mut machine,
            ram: ram.clone() as Arc<dyn GuestRam>,
            log: &mut log,
        };
        let source = departure.migrate(guest, &route, setup(2), &mut leaving);
        (source.ok(), receiving.join().unwrap().ok().flatten())
    });
    let (source_runs, destination_runs) = (machine.runs(), arriving.machine.runs());
    assert!(!copies.twice.load(Ordering::SeqCst), "two copies ran");
    arriving.machine.pause().unwrap();
    if destination_runs {
        assert_eq!(arriving.machine.state, b"registers");
        // What the guest wrote since it arrived is the only difference.
        *equal.lock().unwrap() = only_writes_differ(&ram.content(), &there.content());
    }
    Ended {
        source,
        destination,
        notices: leaving.notices,
        source_runs,
        destination_runs,
        let_go: leaving.let_go,
        freed: arriving.freed,
        memory_equal: equal.into_inner().unwrap(),
        files: std::fs::read_dir(folder.path()).unwrap().count(),
    }
}

/// The fake guest begins again to count at one when it arrives, so what it wrote since is less than so many.
fn only_writes_differ(before: &[u64], after: &[u64]) -> bool {
    before
        .iter()
        .zip(after)
        .all(|(before, after)| before == after || *after < 1_000_000)
}

fn guest() -> Arc<FakeRam> {
    let ram = FakeRam::new(PAGES);
    (50..100).for_each(|page| ram.fill(page, |word| (page << 32) + 1_000_000 + word as u64));
    ram
}

#[test]
fn a_guest_moves_and_nothing_is_left_of_the_session() {
    let ended = run(&guest(), Try::default());
    assert_eq!(
        (ended.source, ended.destination),
        (Some(Outcome::Moved), Some(Outcome::Moved)),
        "{:?}",
        ended.notices
    );
    assert!(ended.destination_runs && !ended.source_runs && ended.let_go && ended.memory_equal);
    assert_eq!(ended.files, 0, "no record is left");
}

#[test]
fn a_refusal_leaves_the_guest_running_where_it_was() {
    let ended = run(
        &guest(),
        Try {
            refuse: true,
            ..Try::default()
        },
    );
    assert_eq!(ended.source, Some(Outcome::Stayed));
    assert!(ended.source_runs && !ended.destination_runs);
    let refused = |notice: &Notice| matches!(notice, Notice::Refused(refuse) if refuse.reason == "no CPU left");
    assert!(ended.notices.iter().any(refused), "{:?}", ended.notices);
}

#[test]
fn a_cancelled_guest_stays_and_moves_the_next_time() {
    let ram = guest();
    let ended = run(
        &ram,
        Try {
            cancel: true,
            ..Try::default()
        },
    );
    assert_eq!(
        (ended.source, ended.destination),
        (Some(Outcome::Stayed), Some(Outcome::Stayed))
    );
    assert!(ended.source_runs && !ended.destination_runs && ended.freed);
    assert_eq!(ended.files, 0, "no record is left");
    let ended = run(&ram, Try::default());
    assert!(
        ended.destination_runs && ended.memory_equal,
        "{:?}",
        ended.notices
    );
}

#[test]
fn whatever_is_cut_on_the_way_one_copy_is_left_and_runs() {
    let ram = guest();
    let control = [
        0, 1500, 2500, 3000, 3200, 3300, 50_000, 73_000, 73_300, 73_400, 73_500,
    ]
    .map(|after| (0, Direction::FromCaller, after));
    let answers = [1500, 2000, 2300, 2360, 2420, 2480, 2540, 2600, 2700]
        .map(|after| (0, Direction::ToCaller, after));
    let streams = [
        (1, Direction::FromCaller, 2500),
        (2, Direction::FromCaller, 100_000),
    ];
    let (mut moved, mut stayed) = (0, 0);
    for (connection, direction, after) in control.into_iter().chain(answers).chain(streams) {
        let plan = Plan {
            connection,
            direction,
            after,
            fault: Fault::Cut,
        };
        let ended = run(
            &ram,
            Try {
                plan: Some(plan),
                ..Try::default()
            },
        );
        assert_eq!(
            ended.source_runs, !ended.destination_runs,
            "{plan:?}: {:?}",
            ended.notices
        );
        assert_eq!(ended.files, 0, "{plan:?} leaves no record");
        if ended.destination_runs {
            assert!(ended.memory_equal && ended.let_go, "{plan:?}");
            moved += 1;
        } else {
            stayed += 1;
        }
    }
    assert!(moved > 0 && stayed > 0, "{moved} moved, {stayed} stayed");
}
