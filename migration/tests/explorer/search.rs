//! Breadth first through all worlds, and what must hold in each and at each end.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;

use migration::protocol::{Destination, DestinationSetup, Outcome, Patience, Source, SourceSetup};
use migration::wire::{Boot, Offer, SPOKEN, Session};
use xxhash_rust::xxh3::Xxh3;

use super::moves::{Move, is_busy, is_in_doubt, moves};
use super::world::{
    Broken, Copy, DestinationProcess, File, Host, Loss, Owner, Side2, SourceProcess, World,
};

/// More are a mistake of the model.
const MOST_STATES: u32 = 5_000_000;

/// What was seen.
#[derive(Debug, Default)]
pub struct Report {
    pub states: usize,
    pub moves: usize,
    pub ends: usize,
    pub moved: usize,
    pub stayed: usize,
    pub in_doubt: usize,
    /// Ends without a copy.
    pub losses: BTreeMap<Loss, usize>,
}

/// Something that must not be, and how it comes about.
#[derive(Debug)]
pub struct Found {
    pub wrong: String,
    pub how: Vec<String>,
    pub world: World,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after", self.wrong)?;
        self.how
            .iter()
            .try_for_each(|what| writeln!(f, "  {what}"))?;
        writeln!(
            f,
            "  source {:?}, destination {:?}, {:?}",
            self.world.source_host, self.world.destination_host, self.world.letters
        )
    }
}

fn begin() -> World {
    let patience = Patience::default();
    let (machine, first) = Source::start(SourceSetup {
        session: Session([1; 16]),
        name: "guest".to_owned(),
        versions: SPOKEN,
        offer: Offer {
            spec: Vec::new(),
            memory_bytes: 0,
            downtime_ns: 0,
            finish_ns: 0,
            confidence_ppm: 0,
            streams: 1,
            features: 0,
            boot: Boot([0; 16]),
            inquiries: "s".to_owned(),
        },
        patience,
    });
    let source = SourceProcess {
        machine,
        todo: first.into(),
        coming: VecDeque::new(),
        ended: None,
        open: true,
    };
    let destination = DestinationProcess {
        machine: Destination::start(DestinationSetup {
            versions: SPOKEN,
            patience,
        }),
        todo: VecDeque::new(),
        coming: VecDeque::new(),
        ended: None,
        open: true,
    };
    let host = Host {
        boot: 0,
        file: File::default(),
        copy: None,
    };
    let guest = Copy {
        age: 0,
        runs: true,
        complete: true,
    };
    World {
        source: Some(source),
        destination: Some(destination),
        source_host: Host {
            copy: Some(guest),
            ..host.clone()
        },
        destination_host: host,
        to_destination: VecDeque::new(),
        to_source: VecDeque::new(),
        connection: true,
        round_on_its_way: false,
        letters: BTreeSet::new(),
        newest: 0,
        owner: Owner::Undecided,
        loss: None,
        either_way: false,
        word: false,
        wrong: None,
    }
}

/// A world that was reached.
struct Reached {
    /// From which, and by which of its moves.
    parent: u32,
    by: u32,
}

/// Worlds are known by 128 bits of their hash, and kept only until they have been looked at.
struct Search {
    broken: Broken,
    known: HashMap<u128, u32>,
    reached: Vec<Reached>,
    waiting: VecDeque<World>,
    /// Moves without faults: to, from.
    healthy: Vec<(u32, u32)>,
    ends: Vec<u32>,
    report: Report,
}

/// Goes through everything.
pub fn explore(broken: Broken) -> Result<Report, Box<Found>> {
    let mut search = Search {
        broken,
        known: HashMap::new(),
        reached: Vec::new(),
        waiting: VecDeque::new(),
        healthy: Vec::new(),
        ends: Vec::new(),
        report: Report::default(),
    };
    search.number(begin(), 0, 0);
    let mut at = 0;
    while let Some(world) = search.waiting.pop_front() {
        search.expand(&world, at)?;
        at += 1;
        assert!(at < MOST_STATES, "the model has no end");
    }
    search.judge()
}

fn fingerprint(world: &World) -> u128 {
    let mut hasher = Xxh3::new();
    world.hash(&mut hasher);
    hasher.digest128()
}

impl Search {
    fn expand(&mut self, world: &World, at: u32) -> Result<(), Box<Found>> {
        if let Some(wrong) = world.wrong {
            return Err(self.found(at, wrong));
        }
        let mut is_end = true;
        for (by, step) in (0..).zip(moves(world, self.broken, false)) {
            self.report.moves += 1;
            if step.to == *world {
                continue;
            }
            let to = self.number(step.to, at, by);
            if !step.fault {
                is_end = false;
                self.healthy.push((to, at));
            }
        }
        if is_end || waits_for_a_word(world) {
            self.ends.push(at);
            let judged = judge_end(world, &mut self.report);
            judged.map_err(|wrong| self.found(at, wrong))?;
            let speechless =
                self.broken == Broken::Nothing && waits_for_a_word(world) && !world.word;
            let words = |step: &Move| step.to.word;
            if speechless && !moves(world, self.broken, false).iter().any(words) {
                return Err(self.found(at, "no true word of an operator helps"));
            }
        }
        Ok(())
    }

    fn number(&mut self, world: World, parent: u32, by: u32) -> u32 {
        let next = u32::try_from(self.reached.len()).unwrap();
        let number = *self.known.entry(fingerprint(&world)).or_insert(next);
        if number == next {
            self.reached.push(Reached { parent, by });
            self.waiting.push_back(world);
        }
        number
    }

    fn found(&self, at: u32, wrong: impl Into<String>) -> Box<Found> {
        let reached = |at: u32| &self.reached[usize::try_from(at).unwrap()];
        let (mut path, mut here) = (Vec::new(), at);
        while here != 0 {
            path.push(reached(here).by);
            here = reached(here).parent;
        }
        let (mut how, mut world) = (Vec::new(), begin());
        for by in path.into_iter().rev() {
            let mut steps = moves(&world, self.broken, true);
            let step = steps.swap_remove(usize::try_from(by).unwrap());
            how.push(step.what);
            world = step.to;
        }
        Box::new(Found {
            wrong: wrong.into(),
            how,
            world,
        })
    }

    /// Every world comes to an end without further faults.
    fn judge(mut self) -> Result<Report, Box<Found>> {
        self.report.states = self.reached.len();
        self.report.ends = self.ends.len();
        self.healthy.sort_unstable();
        let mut ending = vec![false; self.reached.len()];
        let mut todo = self.ends.clone();
        while let Some(at) = todo.pop() {
            let place = usize::try_from(at).unwrap();
            if !std::mem::replace(&mut ending[place], true) {
                let first = self.healthy.partition_point(|(to, _)| *to < at);
                let here = self.healthy[first..].iter();
                todo.extend(here.take_while(|(to, _)| *to == at).map(|(_, from)| from));
            }
        }
        match (0..).zip(&ending).find(|(_, ends)| !**ends) {
            Some((at, _)) => Err(self.found(at, "no way leads to an end")),
            None => Ok(self.report),
        }
    }
}

/// A side is in doubt for good: nobody is left at the other host, which has started anew and knows nothing.
fn waits_for_a_word(world: &World) -> bool {
    [Side2::Source, Side2::Destination].into_iter().any(|side| {
        let other = world.peek(side.other());
        let silent = !world.lives(side.other()) && !other.file.written && other.boot != 0;
        silent && is_in_doubt(world, side) && !is_busy(world, side)
    })
}

fn judge_end(world: &World, report: &mut Report) -> Result<(), String> {
    let sides = [Side2::Source, Side2::Destination];
    let doubtful = sides.iter().any(|side| is_in_doubt(world, *side));
    if doubtful {
        report.in_doubt += 1;
        if sides.iter().all(|side| world.peek(*side).boot == 0) {
            return Err("a side stays in doubt although both hosts remember all".to_owned());
        }
        return Ok(());
    }
    for side in sides {
        if world.lives(side) {
            return Err(format!("the session of {side:?} does not end"));
        }
        if world.peek(side).file.written {
            return Err(format!("the record of {side:?} stays"));
        }
    }
    let running = |side| world.peek(side).copy.is_some_and(|copy| copy.runs);
    let held = |side: &&Side2| world.peek(**side).copy.is_some();
    let running: Vec<_> = sides.iter().filter(|side| running(**side)).collect();
    if sides.iter().filter(held).count() > running.len() {
        return Err("a copy is held that does not run".to_owned());
    }
    // An operator who knows better may undo what was decided for a process that died.
    let undone = (world.word || world.either_way) && !running.is_empty();
    let loss = world.loss.filter(|_| !undone);
    match (running.as_slice(), loss) {
        ([Side2::Source], None) => report.stayed += 1,
        ([Side2::Destination], None) => report.moved += 1,
        ([], Some(loss)) => *report.losses.entry(loss).or_default() += 1,
        ([], None) => return Err("no copy is left, although a complete one was".to_owned()),
        (_, Some(loss)) => return Err(format!("a copy runs although {loss:?}")),
        _ => return Err("two copies run".to_owned()),
    }
    outcomes_agree(world)
}

fn outcomes_agree(world: &World) -> Result<(), String> {
    let source = world.source.as_ref().and_then(|p| p.ended);
    let destination = world.destination.as_ref().and_then(|p| p.ended);
    match (source, destination) {
        (Some(Outcome::Stayed), Some(Outcome::Moved))
        | (Some(Outcome::Moved), Some(Outcome::Stayed)) => Err(format!(
            "the source says {source:?}, the destination {destination:?}"
        )),
        _ => Ok(()),
    }
}
