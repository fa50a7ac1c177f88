//! Two hosts, a guest that is moved between them again and again, and what a try is made of.

mod guest;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use super::*;
use crate::precopy::{PrecopySettings, Progress, RoundSent};
use crate::protocol::{DestinationEvent, DestinationSetup, Patience, SourceEvent, SourceSetup};
use crate::ram::fake::{FakeLog, FakeRam};
use crate::ram::{GuestRam, PageSet};
use crate::transport::authority::{Authority, Validity};
use crate::transport::relay::{Direction, Fault, Plan, Relay};
use crate::transport::{Identity, Listener, Security, Settings};
use crate::wire::{
    Accept, Boot, HEAD_BYTES, Kind, Offer, Refuse, SPOKEN, Session, TRAILER_BYTES, Token,
};
use guest::Steps;
pub(super) use guest::{FakeMachine, Guest, Step};

pub(super) const PAGES: usize = 150;
/// Where nobody answers.
const NOBODY: &str = "127.0.0.1:00009";
pub(super) const SOURCE: Boot = Boot([1; 16]);
pub(super) const DESTINATION: Boot = Boot([2; 16]);
pub(super) const SESSION: Session = Session([3; 16]);

/// Three rounds of everything dirty, then the switch-over.
struct ThreeRounds(Steps);

impl Planner for ThreeRounds {
    fn next(&mut self, dirty: &PageSet, last: Option<&RoundSent>) -> super::super::Step {
        match last.map(|last| last.progress.round) {
            Some(2) => {
                let _ = self.0.at(Side::Source, "switch");
                super::super::Step::Switch
            }
            round => {
                let step = round.map_or("first round", |_| "later round");
                let _ = self.0.at(Side::Source, step);
                super::super::Step::Round(vec![dirty.clone()])
            }
        }
    }
}

struct SourceSide {
    steps: Steps,
    notices: Vec<Notice>,
    rounds: Vec<Progress>,
    switch_over: Option<SwitchOver>,
    let_go: bool,
}

impl SourceHost for SourceSide {
    fn copy(&mut self, _: &Accept) -> Result<(PrecopySettings, Box<dyn Planner>), Failure> {
        self.steps.at(Side::Source, "copy")?;
        let planner = ThreeRounds(self.steps.clone());
        Ok((PrecopySettings::default(), Box::new(planner)))
    }

    fn let_go(&mut self) -> Result<(), Failure> {
        let _ = self.steps.at(Side::Source, "let go");
        self.let_go = true;
        Ok(())
    }

    fn report(&mut self, notice: &Notice) {
        self.notices.push(notice.clone());
    }

    fn measured(&mut self, measured: &Measured) {
        match *measured {
            Measured::Sending(_) => {}
            Measured::Round(round) => self.rounds.push(round),
            Measured::SwitchOver(times) => self.switch_over = Some(times),
        }
    }
}

pub(super) struct DestinationSide {
    pub(super) machine: FakeMachine,
    steps: Steps,
    inquiries: String,
    refuse: bool,
    admitted: bool,
    freed: bool,
    pub(super) notices: Vec<Notice>,
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
        let _ = self.steps.at(Side::Destination, "admit");
        self.admitted = true;
        let accept = Accept {
            token: Token([5; 16]),
            streams: offer.streams,
            features: 0,
            boot: DESTINATION,
            inquiries: self.inquiries.clone(),
            facts: Vec::new(),
        };
        let ram = self.machine.ram.clone();
        Ok(Admitted { accept, ram })
    }

    fn hold(&mut self) -> Result<(), Failure> {
        Ok(self.steps.at(Side::Destination, "hold")?)
    }

    fn machine(&mut self) -> &mut FakeMachine {
        &mut self.machine
    }

    fn free(&mut self) {
        self.freed = true;
    }

    fn report(&mut self, notice: &Notice) {
        self.notices.push(notice.clone());
    }
}

/// One try to move a guest.
#[derive(Clone)]
pub(super) struct Try {
    pub(super) plan: Option<Plan>,
    /// At which step, and which side cancels.
    pub(super) cancel: Option<(Step, Side)>,
    pub(super) fail: Option<Step>,
    pub(super) refuse: bool,
    pub(super) part_bytes: usize,
    pub(super) patience: Patience,
    pub(super) security: Security,
    /// How long the destination waits for somebody.
    pub(super) limit: Duration,
    /// Whether the sides reach each other's sessions with inquiries.
    pub(super) answers: bool,
}

impl Default for Try {
    fn default() -> Self {
        Self {
            plan: None,
            cancel: None,
            fail: None,
            refuse: false,
            part_bytes: 70_000,
            patience: patience(),
            security: Security::Plain,
            limit: Duration::from_secs(10),
            answers: true,
        }
    }
}

impl Try {
    pub(super) fn over_tls() -> Self {
        Self {
            security: tls(),
            ..Self::default()
        }
    }
}

/// Longer than anything takes here, however busy the machine is.
pub(super) fn patience() -> Patience {
    let long = Duration::from_secs(20);
    Patience {
        greeting: long,
        admission: long,
        round: long,
        switching: long,
        pause: long,
        decision: long,
        inquiry: Duration::from_millis(50),
    }
}

/// For tries in which something does not come. Where it only comes late the try ends as well as any.
pub(super) fn hasty() -> Patience {
    let short = Duration::from_millis(1200);
    Patience {
        greeting: short,
        admission: short,
        round: short,
        switching: short,
        pause: Duration::from_millis(800),
        decision: Duration::from_millis(500),
        inquiry: Duration::from_millis(50),
    }
}

pub(super) fn tls() -> Security {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    let identity = IDENTITY.get_or_init(|| {
        let valid = Validity::starting(SystemTime::now(), Duration::from_secs(3600));
        let authority = Authority::new("two hosts", valid).unwrap();
        let own = authority.issue(&["127.0.0.1"], valid).unwrap();
        let (certificate, key) = (own.certificate.as_bytes(), own.key.as_bytes());
        Identity::from_pem(certificate, key, authority.certificate().as_bytes()).unwrap()
    });
    Security::Tls(identity.clone())
}

pub(super) fn transport() -> Settings {
    Settings {
        stall: Duration::from_secs(3),
        ..Settings::default()
    }
}

pub(super) fn listen(security: &Security) -> Listener {
    let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
    Listener::bind(anywhere, security.clone(), transport()).unwrap()
}

/// As long for every port, so that a message is always where it was.
fn address_of(listener: &Listener) -> String {
    let address = listener.address();
    format!("{}:{:05}", address.ip(), address.port())
}

fn setup(inquiries: String, patience: Patience) -> SourceSetup {
    SourceSetup {
        session: SESSION,
        name: "guest".into(),
        versions: SPOKEN,
        offer: Offer {
            spec: Vec::new(),
            memory_bytes: PAGES as u64 * 4096,
            downtime_ns: 20_000_000,
            finish_ns: 10_000_000_000,
            confidence_ppm: 950_000,
            streams: 2,
            features: 0,
            boot: SOURCE,
            inquiries,
        },
        patience,
    }
}

/// Both hosts, and where they listen.
pub(super) struct Hosts {
    pub(super) arrival: Arrival,
    pub(super) listener: Listener,
    /// The source's host takes guests, too, and so answers inquiries.
    pub(super) desk: Arrival,
    desk_listener: Listener,
    departing: Arc<Mutex<Option<SourceRemote>>>,
    source: tempfile::TempDir,
    destination: tempfile::TempDir,
}

impl Hosts {
    pub(super) fn new(tried: &Try) -> Self {
        let folder = || tempfile::tempdir().unwrap();
        let (source, destination) = (folder(), folder());
        let arrival = |folder: &tempfile::TempDir, boot| Arrival {
            setup: DestinationSetup {
                versions: SPOKEN,
                patience: tried.patience,
            },
            security: tried.security.clone(),
            transport: transport(),
            folder: folder.path().to_owned(),
            boot,
            remote: DestinationRemote::default(),
        };
        Self {
            arrival: arrival(&destination, DESTINATION),
            listener: listen(&tried.security),
            desk: arrival(&source, SOURCE),
            desk_listener: listen(&tried.security),
            departing: Arc::default(),
            source,
            destination,
        }
    }

    fn steps(&self, tried: &Try) -> Steps {
        Steps {
            fail: tried.fail,
            cancel: tried.cancel,
            source: self.departing.clone(),
            destination: self.arrival.remote.clone(),
        }
    }

    pub(super) fn arriving(&self, guest: &Guest, tried: &Try) -> DestinationSide {
        let there = FakeRam::new(PAGES);
        let mut machine = FakeMachine::new(Side::Destination, there, &guest.copies);
        machine.steps = Some(self.steps(tried));
        DestinationSide {
            machine,
            steps: self.steps(tried),
            inquiries: if tried.answers {
                address_of(&self.listener)
            } else {
                NOBODY.to_owned()
            },
            refuse: tried.refuse,
            admitted: false,
            freed: false,
            notices: Vec::new(),
        }
    }

    /// The source's host answers for sessions that are over, until it is cancelled.
    pub(super) fn keep_desk(&self, nobody: &mut DestinationSide) {
        let received = self
            .desk
            .receive(&self.desk_listener, nobody, Duration::MAX);
        assert_eq!(received.unwrap(), None);
    }

    pub(super) fn tell_source(&self, event: &SourceEvent) {
        let source = self.departing.lock().unwrap();
        source.iter().for_each(|it| it.hand_in(event.clone()));
    }

    /// Files that are left of sessions.
    pub(super) fn files(&self) -> usize {
        let folders = [&self.source, &self.destination];
        let count = |folder: &&tempfile::TempDir| std::fs::read_dir(folder.path()).unwrap().count();
        folders.iter().map(count).sum()
    }

    /// Moves a guest from the source to `address`.
    pub(super) fn depart(&self, guest: &mut Guest, address: SocketAddr, tried: &Try) -> Departed {
        let route = Route {
            address,
            name: "127.0.0.1".into(),
            security: tried.security.clone(),
            transport: transport(),
            folder: self.source.path().to_owned(),
        };
        let mut departure = Departure::default();
        let own = tried.answers.then(|| listen(&tried.security));
        let mut inquiries = vec![NOBODY.to_owned()];
        inquiries.extend(own.as_ref().map(address_of));
        inquiries.push(address_of(&self.desk_listener));
        let own_address = own.as_ref().map(Listener::address);
        if let Some(own) = own {
            departure = departure.answering(own);
        }
        *self.departing.lock().unwrap() = Some(departure.remote());
        let steps = self.steps(tried);
        guest.machine.part_bytes = tried.part_bytes;
        guest.machine.steps = Some(steps.clone());
        let mut leaving = SourceSide {
            steps,
            notices: Vec::new(),
            rounds: Vec::new(),
            switch_over: None,
            let_go: false,
        };
        let ram = guest.machine.ram.clone();
        let mut log = FakeLog(ram.clone());
        let departing = Departing {
            machine: &mut guest.machine,
            ram: ram as Arc<dyn GuestRam>,
            log: &mut log,
        };
        let setup = setup(inquiries.join(","), tried.patience);
        let outcome = departure.migrate(departing, &route, setup, &mut leaving);
        guest.machine.steps = None;
        Departed {
            outcome: outcome.ok(),
            leaving,
            own_address,
        }
    }
}

/// What the source's side came to.
pub(super) struct Departed {
    pub(super) outcome: Option<Outcome>,
    leaving: SourceSide,
    /// Where it answered inquiries.
    own_address: Option<SocketAddr>,
}

/// How a try ended.
pub(super) struct Ended {
    pub(super) source: Option<Outcome>,
    pub(super) destination: Option<Outcome>,
    pub(super) notices: Vec<Notice>,
    pub(super) rounds: Vec<Progress>,
    pub(super) switch_over: Option<SwitchOver>,
    pub(super) source_runs: bool,
    pub(super) destination_runs: bool,
    let_go: bool,
    admitted: bool,
    pub(super) freed: bool,
    /// Where the source answered inquiries.
    pub(super) answered_at: Option<SocketAddr>,
    same_guest: bool,
    files: usize,
    /// What passed, by connection and direction.
    pub(super) tapes: BTreeMap<(usize, Direction), Vec<u8>>,
}

/// A frame on a tape.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnTape {
    pub(super) kind: u16,
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Ended {
    /// The frames that passed, where nothing protected them.
    pub(super) fn frames(&self, connection: usize, direction: Direction) -> Vec<OnTape> {
        let tape = &self.tapes[&(connection, direction)];
        let (mut frames, mut at) = (Vec::new(), 0);
        while at < tape.len() {
            let payload = u32::from_le_bytes(tape[at + 16..at + 20].try_into().unwrap());
            let length = HEAD_BYTES + TRAILER_BYTES + usize::try_from(payload).unwrap();
            frames.push(OnTape {
                kind: u16::from_le_bytes(tape[at + 6..at + 8].try_into().unwrap()),
                start: at as u64,
                length: length as u64,
            });
            at += length;
        }
        frames
    }

    /// Something goes wrong on the control connection in the first message of `kind`: in its head, as messages before it may be a little longer or shorter
    /// the next time.
    pub(super) fn within(&self, direction: Direction, kind: Kind, fault: Fault) -> Plan {
        let frames = self.frames(0, direction);
        let first = frames.iter().find(|frame| frame.kind == kind.number());
        Plan {
            connection: 0,
            direction,
            after: first.expect("it was said").start + 8,
            fault,
        }
    }

    /// One copy is left, whole, and nothing else.
    pub(super) fn assert_one(&self, what: &str) {
        let Self {
            source,
            destination,
            notices,
            ..
        } = self;
        let told = format!("{what}: {source:?}, {destination:?}, {notices:?}");
        assert!(self.source_runs != self.destination_runs, "{told}");
        assert_eq!(self.files, 0, "no record is left; {told}");
        assert_eq!(self.let_go, self.destination_runs, "{told}");
        let holds = self.admitted && !self.freed;
        assert_eq!(holds, self.destination_runs, "{told}");
        assert!(self.same_guest, "memory or state differs; {told}");
    }

    pub(super) fn assert_stayed(&self, what: &str) {
        self.assert_one(what);
        assert!(self.source_runs, "{what}");
    }

    pub(super) fn assert_moved(&self) {
        self.assert_one("it moves");
        let moved = Some(Outcome::Moved);
        assert_eq!(
            (self.source, self.destination),
            (moved, moved),
            "{:?}",
            self.notices
        );
    }
}

pub(super) fn run(guest: &mut Guest, tried: &Try) -> Ended {
    run_between(&Hosts::new(tried), guest, tried, || {})
}

/// `before` is done once the destination waits for somebody.
pub(super) fn run_between(
    hosts: &Hosts,
    guest: &mut Guest,
    tried: &Try,
    before: impl FnOnce(),
) -> Ended {
    let relay = Relay::start(hosts.listener.address(), tried.plan).unwrap();
    let mut arriving = hosts.arriving(guest, tried);
    let (departed, destination) = thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let Hosts {
                arrival, listener, ..
            } = hosts;
            arrival.receive(listener, &mut arriving, tried.limit)
        });
        before();
        let mut nobody = hosts.arriving(guest, tried);
        scope.spawn(move || hosts.keep_desk(&mut nobody));
        let departed = hosts.depart(guest, relay.address(), tried);
        let received = receiving.join().unwrap().ok().flatten();
        hosts.desk.remote.hand_in(DestinationEvent::Cancel);
        (departed, received)
    });
    let copies = &guest.copies;
    assert!(!copies.twice.load(Ordering::SeqCst), "two copies ran");
    let mut same_guest = true;
    let (source_runs, destination_runs) = (guest.machine.runs(), arriving.machine.runs());
    if destination_runs {
        let began = arriving.machine.began_with.take();
        same_guest = began == Some(guest.machine.ram.content());
        arriving.machine.halt();
        same_guest &= arriving.machine.count >= guest.machine.count;
    }
    let every = (0..3).flat_map(|connection| {
        [Direction::FromCaller, Direction::ToCaller].map(|direction| (connection, direction))
    });
    Ended {
        source: departed.outcome,
        destination,
        notices: departed.leaving.notices,
        rounds: departed.leaving.rounds,
        switch_over: departed.leaving.switch_over,
        source_runs,
        destination_runs,
        let_go: departed.leaving.let_go,
        admitted: arriving.admitted,
        freed: arriving.freed,
        answered_at: departed.own_address,
        same_guest,
        files: hosts.files(),
        tapes: every.map(|key| (key, relay.tape(key.0, key.1))).collect(),
    }
}
