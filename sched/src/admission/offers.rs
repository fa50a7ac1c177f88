//! What would fit in place of a refused reservation. Every offer has passed the test that the refused one failed.

use std::fmt;
use std::time::Duration;

use super::edf::Times;
use super::packing::{Id, Load, Member, Packing, Shortage, Wanted};
use super::{Bandwidth, Server};
use crate::bisection::last_that_holds;
use crate::reservation::{PeriodRange, nanos};

/// How many CPUs are looked at for one that has to move. Where D = P the first, which has most room, tells.
const DESTINATIONS: usize = 8;

/// The nearest that fit. Runtimes and periods are whole microseconds, as users write them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// The same with the greatest Q that fits.
    pub smaller: Option<Server>,
    /// The same with the shortest P that fits; a deadline at the end of the period moves with it.
    pub longer: Option<Server>,
    /// Another CPU, where it was asked for on one.
    pub cpu: Option<u32>,
    /// What makes room for it: the smallest reservation of another group that may leave a CPU for another one.
    pub moved: Option<Move>,
}

/// A reservation that changes its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which one.
    pub id: Id,
    /// Where it is. The refused one fits there afterwards.
    pub from: u32,
    /// Where it fits too.
    pub to: u32,
}

/// A CPU that was tried, and what it lacks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried {
    pub(super) at: usize,
    pub(super) shortage: Shortage,
}

impl Tried {
    /// The interval in which too much would be due. What does not mend that one need not be looked at further.
    fn witness(&self) -> Option<u64> {
        match self.shortage {
            Shortage::Demand { within, .. } => Some(nanos(within)),
            _ => None,
        }
    }
}

/// What was refused: on which CPUs, in place of what.
struct Refused<'a> {
    on: &'a [Tried],
    wanted: &'a Wanted,
    instead_of: Option<Id>,
}

impl Packing {
    /// What would fit in place of `wanted`, which does not on the CPUs `on` without `instead_of`.
    pub(super) fn offers(&self, on: &[Tried], wanted: &Wanted, instead_of: Option<Id>) -> Offers {
        let refused = Refused {
            on,
            wanted,
            instead_of,
        };
        Offers {
            smaller: self.smaller(&refused),
            longer: self.longer(&refused),
            cpu: self.elsewhere(&refused),
            moved: self.after_a_move(&refused),
        }
    }

    fn smaller(&self, refused: &Refused<'_>) -> Option<Server> {
        let server = refused.wanted.server;
        let with_runtime = |us| server.with_runtime(Duration::from_micros(us));
        let too_much = nanos(server.reservation().runtime()).div_ceil(1_000);
        let (mut best, mut greatest) = (None, 1);
        for tried in refused.on {
            let fits = |us| self.passes_there(tried, refused, with_runtime(us)?);
            if greatest + 1 >= too_much {
                break;
            }
            let more = last_that_holds(greatest + 1, too_much, |us| fits(us).is_some());
            if let Some(more) = more {
                greatest = more;
                best = with_runtime(more);
            }
        }
        best
    }

    fn longer(&self, refused: &Refused<'_>) -> Option<Server> {
        let server = refused.wanted.server;
        let with_period = |us| server.with_period(Duration::from_micros(us));
        let too_short = nanos(server.reservation().period()) / 1_000;
        let longest = nanos(PeriodRange::of_this_host().longest) / 1_000;
        let (mut best, mut shortest) = (None, longest + 1);
        for tried in refused.on {
            let fits = |us| self.passes_there(tried, refused, with_period(us)?);
            if shortest - 1 <= too_short {
                break;
            }
            let less = last_that_holds(shortest - 1, too_short, |us| fits(us).is_some());
            if let Some(less) = less {
                shortest = less;
                best = with_period(less);
            }
        }
        best
    }

    fn elsewhere(&self, refused: &Refused<'_>) -> Option<u32> {
        let mut others = self.roomiest(Some(refused.wanted.group));
        others.retain(|&at| refused.on.iter().all(|tried| tried.at != at));
        let found = others
            .into_iter()
            .find(|&at| self.passes(at, refused, refused.wanted.server).is_some());
        found.map(|at| self.cpus[at].number)
    }

    /// [`Packing::passes`] where the witness is looked at first.
    fn passes_there(&self, tried: &Tried, refused: &Refused<'_>, server: Server) -> Option<Server> {
        let at = tried.at;
        if let Some(length) = tried.witness() {
            let others = self.due(at, refused.instead_of, length);
            if self.overloads(at, others + Times::of(&server).demand(length), length) {
                return None;
            }
        }
        self.passes(at, refused, server)
    }

    fn passes(&self, at: usize, refused: &Refused<'_>, server: Server) -> Option<Server> {
        let verdict = self.check(
            at,
            refused.instead_of.as_slice(),
            &server,
            Load::of(&server),
        );
        verdict.is_ok().then_some(server)
    }

    fn after_a_move(&self, refused: &Refused<'_>) -> Option<Move> {
        let destinations = self.roomiest(None);
        let mut best: Option<(Bandwidth, Move)> = None;
        for tried in refused.on {
            let below = best.map(|(size, _)| size);
            best = self
                .smallest_move(tried, refused, below, &destinations)
                .or(best);
        }
        best.map(|(_, smallest)| smallest)
    }

    /// The smallest reservation on a CPU, smaller than `below`, that makes room by leaving and fits elsewhere.
    fn smallest_move(
        &self,
        tried: &Tried,
        refused: &Refused<'_>,
        below: Option<Bandwidth>,
        destinations: &[usize],
    ) -> Option<(Bandwidth, Move)> {
        let at = tried.at;
        let size = |member: &Member| member.load.bandwidth;
        let mends = self.mending(tried, refused);
        let may_move = |member: &&Member| {
            let bound = member.wanted.cpu.is_some() || !member.settled;
            !bound && member.wanted.group != refused.wanted.group
        };
        let members = self.cpus[at].members.iter();
        let mut members: Vec<(Id, &Member)> = members
            .filter(|&&id| Some(id) != refused.instead_of)
            .filter_map(|&id| Some((id, self.member(id).filter(may_move)?)))
            .filter(|(_, member)| below.is_none_or(|below| size(member) < below))
            .filter(|(_, member)| mends(member))
            .collect();
        members.sort_by_key(|(_, member)| size(member));
        let load = Load::of(&refused.wanted.server);
        let makes_room = |id: Id| {
            let gone = [Some(id), refused.instead_of];
            let gone: Vec<Id> = gone.into_iter().flatten().collect();
            self.check(at, &gone, &refused.wanted.server, load).is_ok()
        };
        members.into_iter().find_map(|(id, member)| {
            if !makes_room(id) {
                return None;
            }
            let to = self.destination(at, member, destinations)?;
            let from = self.cpus[at].number;
            Some((size(member), Move { id, from, to }))
        })
    }

    /// Whether a reservation of the CPU mends the witness by leaving.
    fn mending<'a>(
        &'a self,
        tried: &Tried,
        refused: &Refused<'_>,
    ) -> impl Fn(&Member) -> bool + 'a {
        let at = tried.at;
        let witness = tried.witness().map(|length| {
            let others = self.due(at, refused.instead_of, length);
            let wanted = Times::of(&refused.wanted.server).demand(length);
            (length, others + wanted)
        });
        move |member| {
            witness.is_none_or(|(length, due)| {
                !self.overloads(at, due - member.times.demand(length), length)
            })
        }
    }

    fn destination(&self, from: usize, member: &Member, roomiest: &[usize]) -> Option<u32> {
        let (server, load) = (&member.wanted.server, member.load);
        let others = roomiest.iter().filter(|&&at| at != from);
        let mut others = others.take(DESTINATIONS);
        let found = others.find(|&&at| self.check(at, &[], server, load).is_ok());
        found.map(|&at| self.cpus[at].number)
    }
}

/// What to do instead, each with a semicolon before it.
impl fmt::Display for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(smaller) = self.smaller {
            write!(f, "; {smaller} fits")?;
        }
        if let Some(longer) = self.longer {
            write!(f, "; {longer} fits")?;
        }
        if let Some(cpu) = self.cpu {
            write!(f, "; it fits on CPU {cpu}")?;
        }
        if let Some(Move { from, to, .. }) = self.moved {
            write!(
                f,
                "; it fits on CPU {from} once another has moved to CPU {to}"
            )?;
        }
        if *self == Self::default() {
            write!(f, "; nothing near it fits, remove a reservation")?;
        }
        Ok(())
    }
}
