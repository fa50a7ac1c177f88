//! From a specification to a plan: what `run`, `restore` and `check` have in common, and what they say about reservations
//! that were designed on the way.

use std::fmt::Write;
use std::path::Path;

use sched::analysis::Witness;
use sched::reservation::Reservation;
use serde::Serialize;
use vmm::design::{DesignError, Designed, VcpuDesign, design};
use vmm::spec::{VmPlan, VmSpec};

use super::Context;
use super::analyze::WitnessAnswer;
use crate::failure::Failure;
use crate::host_figures::{HostCosts, added};
use crate::written;

/// A plan, and what of it was designed or changed.
pub struct Planned {
    /// The plan.
    pub plan: VmPlan,
    /// The designs, if there are any.
    pub design: Option<DesignAnswer>,
}

/// The designs of a guest's reservations.
#[derive(Serialize)]
pub struct DesignAnswer {
    /// Where the overheads come from.
    overheads: String,
    /// What they add.
    added: String,
    /// Whether execution times were measured on another host and changed for this one.
    scaled: bool,
    /// Whether the speed that they were changed by compares with nothing: this program was not optimised.
    incomparable: bool,
    vcpus: Vec<VcpuAnswer>,
}

#[derive(Serialize)]
struct VcpuAnswer {
    vcpu: u16,
    scheduler: &'static str,
    reservation: Reservation,
    period_chosen: bool,
    test: &'static str,
    supply: String,
    witnesses: Vec<WitnessAnswer>,
    #[serde(skip)]
    shown: Vec<Witness>,
}

/// Reads and checks a specification and designs what it leaves open; errors name the file.
pub fn read_plan(context: &Context, path: &Path) -> Result<Planned, Failure> {
    let in_file = |failure: Failure| failure.while_doing(&path.display().to_string());
    let spec = written::read(path, |text| Ok(VmSpec::parse(text)?))?;
    if !spec.is_to_be_designed() {
        let plan = spec.plan().map_err(|e| in_file(e.into()))?;
        return Ok(Planned { plan, design: None });
    }
    let costs = HostCosts::of(&context.run_dir);
    let designed = design(&spec, &costs.basis()).map_err(|error| in_file(failure(error)))?;
    let plan = designed.spec.plan().map_err(|e| in_file(e.into()))?;
    let changed = !designed.vcpus.is_empty() || designed.speed.is_some();
    let design = changed.then(|| DesignAnswer::new(&costs, &designed));
    Ok(Planned { plan, design })
}

fn failure(error: DesignError) -> Failure {
    let (is_refusal, unmeasured) = (
        error.is_refusal(),
        matches!(error, DesignError::SpeedUnknown),
    );
    let failure = Failure::from(error);
    match (is_refusal, unmeasured) {
        (true, _) => failure.refused(),
        (_, true) => failure.with_hint("`chronovisor host measure` does"),
        _ => failure,
    }
}

impl Planned {
    /// Says on standard error what was designed: standard output is the guest's.
    pub fn tell(&self) {
        if let Some(design) = &self.design {
            eprint!("{}", design.text("note: "));
        }
    }
}

impl DesignAnswer {
    fn new(costs: &HostCosts, designed: &Designed) -> Self {
        Self {
            overheads: costs.source(),
            added: added(&costs.basis().overheads),
            scaled: designed.speed.is_some(),
            incomparable: designed.speed.is_some()
                && costs
                    .figures
                    .as_ref()
                    .is_some_and(|figures| !figures.optimised),
            vcpus: designed.vcpus.iter().map(VcpuAnswer::new).collect(),
        }
    }

    /// The designs for people, each line after `indent`.
    pub fn text(&self, indent: &str) -> String {
        let mut text = String::new();
        for own in &self.vcpus {
            let least = match own.period_chosen {
                true => "the least bandwidth for its tasks",
                false => "the least runtime with this period for its tasks",
            };
            let _ = writeln!(
                text,
                "{indent}vCPU {}: {} is {least}: schedulable under {} by {} on the {}",
                own.vcpu, own.reservation, own.scheduler, own.test, own.supply
            );
            for witness in &own.shown {
                let _ = writeln!(text, "{indent}  {witness}");
            }
        }
        if !self.vcpus.is_empty() {
            let _ = writeln!(text, "{indent}{} {}", self.overheads, self.added);
        }
        if self.scaled {
            let _ = writeln!(
                text,
                "{indent}execution times are those of this host, not those written"
            );
        }
        if self.incomparable {
            let _ = writeln!(
                text,
                "{indent}its speed was measured without optimisation and compares with no other: let a release build measure it"
            );
        }
        text
    }
}

impl VcpuAnswer {
    fn new(design: &VcpuDesign) -> Self {
        let verdict = &design.verdict;
        Self {
            vcpu: design.vcpu,
            scheduler: design.scheduler.name(),
            reservation: design.reservation,
            period_chosen: design.chose_period,
            test: verdict.test,
            supply: verdict.supply.clone(),
            witnesses: verdict.witnesses.iter().map(Into::into).collect(),
            shown: verdict.witnesses.clone(),
        }
    }
}
