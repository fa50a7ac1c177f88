//! What the host that a guest comes to admits and holds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use migration::precopy::ThreadSetup;
use migration::wire::Offer;
use sched::analysis::task::Speed;
use sched::backend::BackendError;
use sched::feedback::Envelope;
use sched::framework::Factory;
use sched::ledger::Ledger;
use sched::request::VcpuRequest;
use sched::reservation::Reservation;

use super::super::contract::{self, Breach, VcpuTerms, judge, works};
use super::super::facts::{Answer, HostBasis, HostFacts, Terms, split};
use super::super::promise::{Refusal, TRACKED_WRITE};
use super::MigrationClass;
use super::threads::{SwitchBudget, Threads};
use crate::guest::{AdmittedVm, Vms};
use crate::memory;
use crate::spec::VmPlan;
use crate::units::{ByteSize, Span};

/// What a guest's process takes beside the guest's memory.
const MONITOR: ByteSize = ByteSize::mebibytes(16);
/// Features that are named at most; the rest is counted.
const NAMED: usize = 12;

/// The host that a guest is to come to.
pub struct DestinationSide {
    facts: HostFacts,
    run_dir: PathBuf,
}

/// What the destination holds. Dropping it gives everything back, but a guest that was taken.
pub struct HeldAtDestination {
    vm: Option<AdmittedVm>,
    threads: Threads,
    answer: Answer,
    downtime: Duration,
    finish: Duration,
}

/// What a host without these features says.
pub(super) fn lacks(host: &str, missing: &[String]) -> Refusal {
    let mut named = missing[..missing.len().min(NAMED)].join(", ");
    if missing.len() > NAMED {
        named = format!("{named} and {} more", missing.len() - NAMED);
    }
    Refusal::because(format!("{host} has no {named}, which the guest may use"))
        .unless("a destination that has them, or a guest that was started on a host without")
}

impl DestinationSide {
    /// This host, of which `basis` was measured.
    ///
    /// # Errors
    /// [`Refusal`] when network or KVM do not answer.
    pub fn new(basis: HostBasis, run_dir: &Path) -> Result<Self, Refusal> {
        let class = MigrationClass::of(run_dir)?;
        Ok(Self {
            facts: HostFacts::of_this_host(basis, class.rate).map_err(Refusal::because)?,
            run_dir: run_dir.to_owned(),
        })
    }

    /// Admits a guest, which is to be what `plan` says, and holds all that it needs here, or nothing.
    ///
    /// # Errors
    /// [`Refusal`], with what would be possible.
    pub fn admit(&self, offer: &Offer, mut plan: VmPlan) -> Result<HeldAtDestination, Refusal> {
        let unreadable = |error| Refusal::because(format!("{error}"));
        let (_, terms) = split(&offer.spec).map_err(unreadable)?;
        let terms = Terms::decode(terms).map_err(unreadable)?;
        let missing = terms.source.missing_at(&self.facts);
        if !missing.is_empty() {
            return Err(lacks("this host", &missing));
        }
        check_memory(offer, &plan)?;
        let downtime = Duration::from_nanos(offer.downtime_ns);
        let unchecked = self.redesign(&mut plan, &terms, downtime)?;
        let (name, vcpus) = (plan.name.clone(), plan.requests.len());
        let vm = Vms {
            run_dir: &self.run_dir,
        }
        .make(plan)
        .map_err(|error| Refusal::because(format!("at the destination: {error}")))?;
        let threads = self.threads(&name, &terms)?;
        let granted = vm.admitted().vcpus()[..vcpus].iter();
        let answer = Answer {
            destination: self.facts.clone(),
            vcpus: granted.map(|own| own.request.reservation).collect(),
            threads: threads.reservations(),
            unchecked,
        };
        Ok(HeldAtDestination {
            vm: Some(vm),
            threads,
            answer,
            downtime,
            finish: Duration::from_nanos(offer.finish_ns),
        })
    }

    fn threads(&self, vm: &str, terms: &Terms) -> Result<Threads, Refusal> {
        let ledger = Ledger::open(&self.run_dir);
        let ledger = ledger.map_err(|error| Refusal::because(error.to_string()))?;
        match Threads::reserve(&ledger, vm, &terms.threads) {
            Ok(threads) => Ok(threads),
            Err(_) if terms.best_effort => Ok(Threads::unreserved()),
            Err(refusal) => Err(Refusal::because(format!(
                "the threads of the migration get no CPU time at the destination: {refusal}"
            ))
            .unless("a later end, a lower rate, or another guest's budget lowered there")),
        }
    }

    /// Makes the reservations those that the guest needs here; what could not be checked.
    fn redesign(
        &self,
        plan: &mut VmPlan,
        terms: &Terms,
        downtime: Duration,
    ) -> Result<Vec<String>, Refusal> {
        let speed = self.facts.beside(&terms.source);
        let speed = speed.map_err(Refusal::because)?;
        let change = Change {
            speed,
            there: terms.source.basis.overheads().budget_switch,
            here: self.facts.basis.overheads().budget_switch,
        };
        if let Some(envelope) = plan.feedback {
            plan.feedback = Some(change.envelope(envelope)?);
        }
        for (vcpu, request) in plan.requests.iter_mut().enumerate() {
            change.request(request, &format!("vCPU {vcpu}"))?;
        }
        if let Some(network) = &mut plan.network {
            change.request(&mut network.thread, "the network device's thread")?;
        }
        self.keep_contract(plan, speed, (downtime, terms.best_effort))
    }

    /// Gives vCPUs what their deadlines need here, scheduling costs of this host included.
    fn keep_contract(
        &self,
        plan: &mut VmPlan,
        speed: Option<Speed>,
        (pause, best_effort): (Duration, bool),
    ) -> Result<Vec<String>, Refusal> {
        let terms = contract::Terms {
            pause,
            tracking: 0.0,
            tracked_write: TRACKED_WRITE,
            overheads: self.facts.basis.overheads(),
        };
        // Each time one more vCPU has enough.
        for _ in 0..=plan.requests.len() {
            let works = works(plan.tasks.as_deref(), plan.requests.len());
            let vcpus: Vec<_> = plan
                .requests
                .iter()
                .cloned()
                .zip(works)
                .map(|(request, work)| VcpuTerms {
                    request,
                    work: match speed {
                        Some(speed) => work.scaled(speed),
                        None => work,
                    },
                })
                .collect();
            let breach = match judge(&vcpus, &terms) {
                Ok(judgement) => return Ok(judgement.unchecked),
                Err(breach) if best_effort => return Ok(vec![breach.to_string()]),
                Err(breach) => breach,
            };
            let Breach::Budget {
                vcpu, now, least, ..
            } = &breach
            else {
                return Err(broken(&breach));
            };
            let raised = now.with_runtime(*least).map_err(|_| broken(&breach))?;
            plan.requests[*vcpu].reservation = Some(raised);
        }
        Err(Refusal::because(
            "its deadlines cannot be kept at the destination",
        ))
    }
}

fn broken(breach: &Breach) -> Refusal {
    let mut refusal = Refusal::because(format!("at the destination: {breach}"));
    if let Some(pause) = breach.longest() {
        refusal = refusal.unless(format!("a downtime of {}", Span::from(pause)));
    }
    refusal
}

fn check_memory(offer: &Offer, plan: &VmPlan) -> Result<(), Refusal> {
    let size = plan.memory.size;
    if offer.memory_bytes != size.bytes() {
        let told = ByteSize::new(offer.memory_bytes);
        let why = format!("the offer says {told} of memory, and the guest's plan {size}");
        return Err(Refusal::because(why));
    }
    if plan.memory.hugepages {
        // The kernel says at once whether it has them, when memory is made.
        return Ok(());
    }
    let needed = size.bytes().saturating_add(MONITOR.bytes());
    match memory::available() {
        Some(available) if available < needed => {
            let has = ByteSize::new(available >> 20 << 20);
            let why = format!("the destination has {has} of memory left for a guest of {size}");
            Err(Refusal::because(why).unless("a smaller guest, or another destination"))
        }
        _ => Ok(()),
    }
}

/// From what was enough there to what is enough here.
struct Change {
    /// How much longer work takes here; none if about as long.
    speed: Option<Speed>,
    /// What a budget switch costs there.
    there: Duration,
    /// And here.
    here: Duration,
}

impl Change {
    fn budget(&self, budget: Duration) -> Duration {
        match self.speed {
            None => budget,
            Some(speed) => speed.of(budget.saturating_sub(self.there)) + self.here,
        }
    }

    fn request(&self, request: &mut VcpuRequest, whose: &str) -> Result<(), Refusal> {
        let Some(there) = request.reservation else {
            return Ok(());
        };
        request.reservation = Some(self.reservation(there, whose)?);
        Ok(())
    }

    fn reservation(&self, there: Reservation, whose: &str) -> Result<Reservation, Refusal> {
        let here = self.budget(there.runtime());
        if here > there.deadline() {
            let why = format!(
                "{whose} has {there}, and would need Q = {} at the destination, which is slower",
                Span::from(here)
            );
            return Err(Refusal::because(why).unless("a faster destination, or a longer period"));
        }
        there.with_runtime(here).map_err(|error| {
            Refusal::because(format!("{whose} has {there}, at the destination {error}"))
        })
    }

    fn envelope(&self, there: Envelope) -> Result<Envelope, Refusal> {
        let [least, greatest, initial] =
            [there.least(), there.greatest(), there.initial()].map(|budget| self.budget(budget));
        Envelope::new(least, greatest, there.period())
            .and_then(|envelope| envelope.beginning_with(initial))
            .and_then(|envelope| envelope.measured_over(there.span()))
            .map_err(|error| {
                Refusal::because(format!(
                    "its budgets that follow the need are too large for the destination, which is slower: {error}"
                ))
            })
    }
}

impl HeldAtDestination {
    /// What the source is told.
    #[must_use]
    pub fn facts(&self) -> Vec<u8> {
        self.answer.encode()
    }

    /// The admitted guest, to be built; once.
    pub fn take_vm(&mut self) -> Option<AdmittedVm> {
        self.vm.take()
    }

    /// The promised downtime, and the promised end.
    #[must_use]
    pub fn promise_bounds(&self) -> (Duration, Duration) {
        (self.downtime, self.finish)
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
}
