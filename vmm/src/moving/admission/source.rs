//! What the host that a guest leaves admits and holds.

use std::path::Path;
use std::time::Duration;

use migration::precopy::ThreadSetup;
use sched::backend::BackendError;
use sched::framework::Job;
use sched::ledger::{self, Ledger};
use sched::reservation::Reservation;

use super::super::contract::{self, Breach, Judgement, VcpuTerms, judge, works};
use super::super::facts::{Answer, HostBasis, HostFacts, Terms};
use super::super::promise::{Guest, Means, Promise, Refusal, TRACKED_WRITE, Wish, promise};
use super::MigrationClass;
use super::observed::{Observed, Watch};
use super::threads::{SwitchBudget, Threads};
use crate::dirty::{Beginning, DirtyPages, GuestPages};
use crate::guest::{Lender, RunningVm};
use crate::spec::VmPlan;
use crate::units::BitRate;

/// No stream's thread has more of a CPU, so that others have a part of it.
const MOST_OF_A_CPU: f64 = 0.9;
/// How often a promise is made anew with what the ledger has left.
const TRIES: usize = 3;
/// By how much less than the same share a vCPU may have at the destination: rounding.
const ROUNDING: Duration = Duration::from_micros(5);

/// A running guest that is to be moved, as far as admission needs it; the guest itself stays with its owner.
pub struct Subject {
    plan: VmPlan,
    ledger: Ledger,
    pages: GuestPages,
    log: DirtyPages,
}

impl Subject {
    /// What the guest is, and has now.
    #[must_use]
    pub fn of(vm: &RunningVm) -> Self {
        let mut plan = vm.plan().clone();
        for (request, now) in plan.requests.iter_mut().zip(vm.sched_param()) {
            request.reservation = now;
        }
        Self {
            plan,
            ledger: vm.ledger().clone(),
            pages: vm.pages(),
            log: vm.dirty_pages(Beginning::Clean),
        }
    }

    /// Its plan, with the reservations that are in force.
    #[must_use]
    pub fn plan(&self) -> &VmPlan {
        &self.plan
    }

    /// Watches how it writes.
    ///
    /// # Errors
    /// [`Refusal`] when it cannot be watched.
    pub fn observe(&mut self, watch: &Watch) -> Result<Observed, Refusal> {
        Observed::watch(&self.pages, &mut self.log, watch)
            .map_err(|error| Refusal::because(format!("its writes cannot be watched: {error}")))
    }

    /// Whether any vCPU has a reservation: where none has, nothing is reserved for its migration either.
    fn is_reserved(&self) -> bool {
        let mut requests = self.plan.requests.iter();
        requests.any(|request| request.reservation.is_some())
    }

    fn terms(&self) -> Vec<VcpuTerms> {
        let works = works(self.plan.tasks.as_deref(), self.plan.requests.len());
        let requests = self.plan.requests.iter().cloned();
        let pairs = requests.zip(works);
        pairs
            .map(|(request, work)| VcpuTerms { request, work })
            .collect()
    }
}

/// The host that a guest is to leave.
pub struct SourceSide {
    facts: HostFacts,
    class: MigrationClass,
}

/// What would be promised. Nothing is held.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The promise.
    pub promise: Promise,
    means: Means,
}

impl SourceSide {
    /// This host, of which `basis` was measured.
    ///
    /// # Errors
    /// [`Refusal`] when network or KVM do not answer.
    pub fn new(basis: HostBasis, run_dir: &Path) -> Result<Self, Refusal> {
        let class = MigrationClass::of(run_dir)?;
        Ok(Self {
            facts: HostFacts::of_this_host(basis, class.rate).map_err(Refusal::because)?,
            class,
        })
    }

    /// What the guest's vCPUs have to have.
    fn contract(&self, subject: &Subject, wish: &Wish, tracking: f64) -> Result<Judgement, Breach> {
        // A budget that follows the need pays by itself, within its envelope.
        let follows = subject.plan.feedback.is_some();
        let terms = contract::Terms {
            pause: wish.downtime,
            tracking: if follows { 0.0 } else { tracking },
            tracked_write: TRACKED_WRITE,
            overheads: self.facts.basis.overheads(),
        };
        match judge(&subject.terms(), &terms) {
            Err(breach) if wish.best_effort => Ok(Judgement {
                held: Vec::new(),
                unchecked: vec![breach.to_string()],
            }),
            judged => judged,
        }
    }

    /// What can be promised to the guest that was watched.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn propose(
        &self,
        subject: &Subject,
        seen: &Observed,
        wish: &Wish,
    ) -> Result<Proposal, Refusal> {
        let most = f64::from(wish.streams.max(1)) * MOST_OF_A_CPU;
        let reserved = subject.is_reserved() && !wish.best_effort;
        let online = sched::cpus::online().len().max(1) as f64;
        let means = Means {
            assured: self.class.rate,
            cpus: [most.min(online); 2],
            reserved,
        };
        self.promised(subject, seen, wish, means)
    }

    fn promised(
        &self,
        subject: &Subject,
        seen: &Observed,
        wish: &Wish,
        means: Means,
    ) -> Result<Proposal, Refusal> {
        let guest = Guest {
            writes: &seen.writes,
            zero_pages: seen.zero_pages,
            ratio: seen.ratio,
        };
        let contract = |tracking| self.contract(subject, wish, tracking);
        let promise = promise(&guest, wish, &means, &contract)?;
        Ok(Proposal { promise, means })
    }

    /// Holds what was proposed, or less of it that does: CPU time for the threads, and the raised budgets of the guest, which is borrowed for that.
    /// All or nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn hold(
        self,
        (subject, seen): (Subject, Observed),
        mut proposal: Proposal,
        lender: &Lender,
    ) -> Result<HeldAtSource, Refusal> {
        let wish = proposal.promise.wish;
        let mut tries = 0;
        let threads = loop {
            let wanted = &proposal.promise.threads;
            match Threads::reserve(&subject.ledger, &subject.plan.name, wanted) {
                Ok(threads) => break threads,
                Err(refusal) => {
                    tries += 1;
                    let left = left(&refusal, wanted.len());
                    let means = Means {
                        cpus: left.map_or([0.0; 2], |left| [left, proposal.means.cpus[1]]),
                        ..proposal.means
                    };
                    if left.is_none() || tries > TRIES {
                        return Err(no_cpu(&refusal));
                    }
                    proposal = self
                        .promised(&subject, &seen, &wish, means)
                        .map_err(|_| no_cpu(&refusal))?;
                }
            }
        };
        let raise = raise(lender, &mut proposal.promise)?;
        Ok(HeldAtSource {
            side: self,
            subject,
            seen,
            proposal,
            raise,
            threads,
        })
    }
}

/// What a refusal leaves for the streams together, if it is a stream's that was refused.
fn left(refusal: &ledger::Refusal, threads: usize) -> Option<f64> {
    let streams = threads.checked_sub(1)?;
    if refusal.vcpu.is_some_and(|thread| thread >= streams) {
        return None;
    }
    let nearest = refusal.nearest.as_ref()?;
    // A little less: the one for the switch-over has to fit beside it.
    Some(nearest.utilisation() * streams as f64 * 0.9)
}

fn no_cpu(refusal: &ledger::Refusal) -> Refusal {
    Refusal::because(format!(
        "the threads of the migration get no CPU time here: {refusal}"
    ))
    .unless("a later end, a lower rate, or another guest's budget lowered (`chronovisor adapt`)")
}

/// The raised budgets of a guest. Dropping it lowers them again, if they still are those that were set.
struct Raise {
    /// None once the guest is gone, which has given everything back.
    lender: Option<Lender>,
    before: Vec<Option<Reservation>>,
    after: Vec<Option<Reservation>>,
}

/// Raises budgets as promised. Where that is not to be had, a promise of best effort says so, and others are refused.
fn raise(lender: &Lender, promise: &mut Promise) -> Result<Option<Raise>, Refusal> {
    let held = &promise.contract.held;
    if held.iter().all(|own| own.raised == own.now) {
        return Ok(None);
    }
    let gone = |error| Refusal::because(format!("{error}"));
    let mut loan = lender.borrow().map_err(gone)?;
    let vm = loan.guest().vm_mut();
    let before = vm.sched_param();
    let mut after = before.clone();
    for own in held {
        match after.get_mut(own.vcpu) {
            Some(place) if *place == Some(own.now) => *place = Some(own.raised),
            _ => {
                let why = format!(
                    "the reservation of vCPU {} was changed meanwhile: try again",
                    own.vcpu
                );
                return Err(Refusal::because(why));
            }
        }
    }
    match vm.set_sched_param(after.clone()) {
        Ok(()) => Ok(Some(Raise {
            lender: Some(lender.clone()),
            before,
            after,
        })),
        Err(error) => {
            let reason = format!(
                "tracking its writes takes {:.1} % of the guest's time, and the larger budget that pays for that is not to be had: {error}",
                promise.tracking * 100.0
            );
            if !promise.wish.best_effort {
                return Err(Refusal::because(reason));
            }
            promise.contract.held.clear();
            promise.contract.unchecked.push(reason);
            Ok(None)
        }
    }
}

impl Drop for Raise {
    fn drop(&mut self) {
        let loan = self.lender.as_ref().map(Lender::borrow);
        // One that has come to its end cannot be borrowed.
        let Some(Ok(mut loan)) = loan else { return };
        let vm = loan.guest().vm_mut();
        // What somebody has set since is theirs.
        if vm.sched_param() == self.after
            && let Err(error) = vm.set_sched_param(self.before.clone())
        {
            tracing::warn!("the budgets raised for a migration stay: {error}");
        }
    }
}

/// What the source holds. Dropping it gives everything back; not while the same thread has borrowed the guest, which it borrows itself.
pub struct HeldAtSource {
    // First the threads' promise ends, then the guest's.
    threads: Threads,
    raise: Option<Raise>,
    side: SourceSide,
    subject: Subject,
    seen: Observed,
    proposal: Proposal,
}

impl HeldAtSource {
    /// What is promised, so far.
    #[must_use]
    pub fn promise(&self) -> &Promise {
        &self.proposal.promise
    }

    /// How the guest was seen to write.
    #[must_use]
    pub fn seen(&self) -> &Observed {
        &self.seen
    }

    /// The guest's plan, with the reservations in force before they were raised.
    #[must_use]
    pub fn plan(&self) -> &VmPlan {
        &self.subject.plan
    }

    /// The guest lives somewhere else: its budgets here are not lowered again.
    pub fn guest_is_gone(&mut self) {
        self.raise.iter_mut().for_each(|raise| raise.lender = None);
    }

    /// Whether budgets are raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raise.is_some()
    }

    /// What the destination is told beside the plan.
    #[must_use]
    pub fn terms(&self) -> Vec<u8> {
        let promise = self.promise();
        let terms = Terms {
            source: self.side.facts.clone(),
            threads: promise.threads.clone(),
            rate: promise.rate,
            best_effort: promise.wish.best_effort,
        };
        terms.encode()
    }

    /// `SO_PRIORITY` of all connections.
    #[must_use]
    pub fn priority(&self) -> Option<u32> {
        self.side.class.priority
    }

    /// What pages are paced to.
    #[must_use]
    pub fn rate(&self) -> Option<BitRate> {
        self.promise().rate
    }

    /// Within this time no more goes out than the rate allows: the period of the streams' threads.
    #[must_use]
    pub fn pace(&self) -> Duration {
        let stream = self.promise().threads.first();
        stream.map_or(Duration::from_millis(2), Reservation::period)
    }

    /// What each stream's thread does first.
    #[must_use]
    pub fn thread_setup(&self) -> ThreadSetup {
        self.threads.setup()
    }

    /// Puts the calling thread into what is reserved for the switch-over.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn enter_switch_over(&self) -> Result<SwitchBudget, BackendError> {
        self.threads.enter_switch_over()
    }

    /// Holds the destination's answer against what is promised; the promise is of both hosts then.
    ///
    /// # Errors
    /// [`Refusal`]: the guest is to stay.
    pub fn agree(&mut self, answer: &[u8]) -> Result<&Promise, Refusal> {
        let answer = Answer::decode(answer).map_err(|error| Refusal::because(error.to_string()))?;
        let missing = self.side.facts.missing_at(&answer.destination);
        if !missing.is_empty() {
            return Err(super::destination::lacks("the destination", &missing));
        }
        self.check_vcpus(&answer)?;
        let promised = &self.proposal.promise;
        if answer.threads.len() < promised.threads.len() && !promised.wish.best_effort {
            let why = "the destination has reserved no CPU time for the migration's threads";
            return Err(Refusal::because(why));
        }
        let slower = answer
            .destination
            .migration
            .filter(|theirs| promised.rate.is_some_and(|rate| rate > *theirs));
        if let Some(theirs) = slower {
            let wish = Wish {
                rate: promised.wish.rate.map(|rate| rate.min(theirs)),
                ..promised.wish
            };
            let means = Means {
                assured: Some(theirs),
                ..self.proposal.means
            };
            let (threads, held) = (promised.threads.clone(), promised.contract.clone());
            self.proposal = self
                .side
                .promised(&self.subject, &self.seen, &wish, means)?;
            // A lower rate needs no more than is held.
            self.proposal.promise.threads = threads;
            self.proposal.promise.contract = held;
        }
        let unchecked = &mut self.proposal.promise.contract.unchecked;
        unchecked.extend(
            answer
                .unchecked
                .iter()
                .map(|why| format!("at the destination, {why}")),
        );
        Ok(self.promise())
    }

    /// Whether every vCPU has there what it has here, for a host of that speed.
    fn check_vcpus(&self, answer: &Answer) -> Result<(), Refusal> {
        let here = &self.subject.plan.requests;
        if answer.vcpus.len() != here.len() {
            let why = format!(
                "the destination has given reservations to {} vCPUs of {}",
                answer.vcpus.len(),
                here.len()
            );
            return Err(Refusal::because(why));
        }
        let speed = answer.destination.beside(&self.side.facts);
        let speed = speed.map_err(Refusal::because)?;
        let switch = self.side.facts.basis.overheads().budget_switch;
        for (vcpu, (own, theirs)) in here.iter().zip(&answer.vcpus).enumerate() {
            let Some(own) = own.reservation else { continue };
            let needed = own.runtime().saturating_sub(switch);
            let needed = speed.map_or(needed, |speed| speed.of(needed));
            let enough = theirs.is_some_and(|theirs| {
                theirs.period() == own.period() && theirs.runtime() + ROUNDING >= needed
            });
            if !enough {
                let has = theirs.map_or_else(|| "nothing".to_owned(), |theirs| theirs.to_string());
                let why =
                    format!("the destination has {has} for vCPU {vcpu}, which has {own} here");
                return Err(Refusal::because(why));
            }
        }
        Ok(())
    }
}
