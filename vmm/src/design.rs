//! The reservations that a guest's tasks need, where its specification gives no runtime.
//!
//! A specification becomes one in which every reservation is written ([`design`]), so that what is admitted and started
//! is the same whoever thought of the numbers. Nothing here looks at a host: what is known of one comes as a [`Basis`].

use std::time::Duration;

use rt_abi::policy::ranks;
use rt_abi::taskset::{Kind, Policy, TaskSet as GuestTasks};
use sched::analysis::design::{Periods, best_server};
use sched::analysis::overhead::Overheads;
use sched::analysis::task::Speed;
use sched::analysis::{
    Priorities, Scheduler, Supply, Task, TaskSet, TaskSetError, Verdict, least_budget,
};
use sched::budget::surplus_of;
use sched::request::{BackendKind, Enforcement};
use sched::reservation::{LEAST_RUNTIME, PeriodRange, Reservation};

use crate::spec::{BUILT_IN_IMAGE, GuestSpec, SpecError, TaskSpec, VcpuSpec, VmSpec};
use crate::speed::SpeedFigures;
use crate::units::Span;

/// What is known of the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Basis {
    /// What scheduling costs on it.
    pub overheads: Overheads,
    /// How fast it is, if that was measured.
    pub speed: Option<SpeedFigures>,
}

/// A specification with nothing left to design.
#[derive(Debug, Clone)]
pub struct Designed {
    /// It, with every reservation written and execution times as they are here.
    pub spec: VmSpec,
    /// What was designed, vCPU by vCPU; those whose runtime was written are left out.
    pub vcpus: Vec<VcpuDesign>,
    /// How execution times were changed for this host, if they were measured on another.
    pub speed: Option<Speed>,
}

/// The reservation of one vCPU, and why it is that.
#[derive(Debug, Clone)]
pub struct VcpuDesign {
    /// The vCPU.
    pub vcpu: u16,
    /// Its tasks, the highest priority first under fixed priorities. Execution times are those of this host, with what
    /// scheduling costs.
    pub tasks: TaskSet,
    /// How the guest schedules them.
    pub scheduler: Scheduler,
    /// What is reserved.
    pub reservation: Reservation,
    /// What of its runtime is lost when the CPU is switched to it and away from it.
    pub switch: Duration,
    /// Whether the period was chosen here, for the least bandwidth.
    pub chose_period: bool,
    /// The test, the supply bound, and the instants that show that deadlines are met.
    pub verdict: Verdict,
}

/// Why there is no design.
#[derive(Debug, thiserror::Error)]
pub enum DesignError {
    /// The specification itself is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The execution times were measured on another host, and this one's speed is not known.
    #[error(
        "guest.reference is given, and how fast this host is was not measured: measure it first"
    )]
    SpeedUnknown,
    /// The tasks are no set that can be analysed here, with execution times as they are on this host.
    #[error(
        "no reservation serves the tasks of vCPU {vcpu}, execution times {scaled}with {} for every release: {source}",
        Span::from(*.release)
    )]
    Overloaded {
        /// The vCPU.
        vcpu: u16,
        /// Whether and how they were changed.
        scaled: &'static str,
        /// What scheduling adds to each.
        release: Duration,
        /// What is wrong with them.
        source: TaskSetError,
    },
    /// Not even the whole of a period is enough.
    #[error(
        "no reservation serves the tasks of vCPU {vcpu}: with all of a period of {} it {verdict}",
        Span::from(*.period)
    )]
    Unserved {
        /// The vCPU.
        vcpu: u16,
        /// The period.
        period: Duration,
        /// What the test says about the whole period.
        verdict: Box<Verdict>,
    },
    /// What the tasks need leaves no room for what enforcing it takes.
    #[error(
        "no reservation of period {} serves the tasks of vCPU {vcpu} by its deadline of {}: they need {} of it, a budget switch takes {}, and exact enforcement {} more: try another period or deadline",
        Span::from(*.period), Span::from(*.deadline), Span::from(*.budget), Span::from(*.switch), Span::from(*.surplus)
    )]
    NoRoom {
        /// The vCPU.
        vcpu: u16,
        /// The period.
        period: Duration,
        /// When the budget has to have come, counted from the beginning of a period.
        deadline: Duration,
        /// What has to reach the guest.
        budget: Duration,
        /// What a switch takes.
        switch: Duration,
        /// The surplus that the kernel is given.
        surplus: Duration,
    },
}

impl DesignError {
    /// Whether everything was understood, and the tasks cannot be served.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Spec(_) | Self::SpeedUnknown)
    }
}

/// Writes every reservation that is left to be designed into the specification: the least budget for the period that is
/// given, or the period and budget with the least bandwidth.
///
/// The supply is that of the periodic resource model in the worst phase, or of the explicit-deadline one where a deadline
/// is written: a guest's releases know nothing of its server's periods.
///
/// # Errors
/// [`DesignError`].
pub fn design(spec: &VmSpec, basis: &Basis) -> Result<Designed, DesignError> {
    let mut designed = Designed {
        spec: spec.clone(),
        vcpus: Vec::new(),
        speed: speed(spec, basis)?,
    };
    if let Some(guest) = spec.tasks_to_serve()? {
        for vcpu in (0..guest.vcpus).filter(|vcpu| spec.leaves_open(*vcpu)) {
            let Some(tasks) = tasks_of(&guest, vcpu)? else {
                continue;
            };
            spec.check_that_supply_is_known()?;
            let costs = Costs {
                vcpu,
                overheads: basis.overheads,
                speed: designed.speed,
            };
            let charged = costs.charged(tasks, guest.policy)?;
            let server = costs.server(charged, spec.times_of(vcpu)?)?;
            designed.write(&server);
            designed.vcpus.push(server);
        }
        if !designed.vcpus.is_empty() {
            designed.leave_periods_alone(u32::from(guest.vcpus))?;
        }
    }
    designed.write_execution_times();
    Ok(designed)
}

fn speed(spec: &VmSpec, basis: &Basis) -> Result<Option<Speed>, DesignError> {
    let Some(reference) = &spec.guest.reference else {
        return Ok(None);
    };
    if spec.guest.command_line.is_some() {
        return Err(SpecError::Conflict {
            key: "guest.reference",
            other: "guest.command_line",
            fits: "write the tasks as tables, so that their execution times can be changed",
        }
        .into());
    }
    let here = basis.speed.ok_or(DesignError::SpeedUnknown)?;
    let speed = here.beside(reference).map_err(|error| SpecError::Value {
        key: "guest.reference".to_owned(),
        value: reference.to_string(),
        fits: error.to_string(),
    })?;
    Ok(Some(speed))
}

impl VmSpec {
    /// Whether [`design`] may have something to do, and a host's figures are needed.
    pub fn is_to_be_designed(&self) -> bool {
        let needs = self.cpu.backend.needs_reservation();
        let open = self.cpu.runtime.is_none() && self.cpu.feedback.is_none();
        self.guest.reference.is_some() || (needs && open)
    }

    /// The guest's tasks, if they are known and a reservation is to serve them.
    fn tasks_to_serve(&self) -> Result<Option<GuestTasks>, SpecError> {
        if self.guest.image != BUILT_IN_IMAGE || !self.cpu.backend.needs_reservation() {
            return Ok(None);
        }
        self.guest.parsed_tasks().map(Some)
    }

    fn own(&self, vcpu: u16) -> Option<&VcpuSpec> {
        self.cpu.each.get(usize::from(vcpu))
    }

    fn leaves_open(&self, vcpu: u16) -> bool {
        let own = self.own(vcpu).and_then(|own| own.runtime);
        // A budget that follows the need finds itself.
        own.or(self.cpu.runtime).is_none() && self.cpu.feedback.is_none()
    }

    /// The period and the deadline that are written for a vCPU.
    fn times_of(&self, vcpu: u16) -> Result<(Option<Duration>, Option<Duration>), SpecError> {
        let own = self.own(vcpu);
        let period = own.and_then(|own| own.period).or(self.cpu.period);
        let deadline = own.and_then(|own| own.deadline).or(self.cpu.deadline);
        if deadline.is_some() && period.is_none() {
            return Err(SpecError::Missing {
                key: "cpu.period".to_owned(),
                fits: "a deadline is one of a period: write both, or none".to_owned(),
            });
        }
        Ok((period.map(Span::duration), deadline.map(Span::duration)))
    }

    /// A supply bound can only be claimed of what keeps it.
    fn check_that_supply_is_known(&self) -> Result<(), SpecError> {
        let (backend, enforcement) = (self.cpu.backend, self.cpu.enforcement);
        let (key, value) = match (backend, enforcement) {
            (BackendKind::Deadline, Enforcement::Exact) => return Ok(()),
            (BackendKind::Deadline, Enforcement::Tick) => ("cpu.enforcement", "tick".to_owned()),
            _ => ("cpu.backend", backend.to_string()),
        };
        Err(SpecError::Value {
            key: key.to_owned(),
            value: format!("\"{value}\""),
            fits: "budgets then end a tick late or come in other shapes, for which no reservation is designed: \
                   write runtime and period, or use backend = \"deadline\" with enforcement = \"exact\""
                .to_owned(),
        })
    }
}

impl GuestSpec {
    /// What the command line says to `rt-guest`.
    pub(crate) fn parsed_tasks(&self) -> Result<GuestTasks, SpecError> {
        let command_line = self.command_line()?;
        GuestTasks::parse(&command_line).map_err(|error| SpecError::Value {
            key: "guest.command_line".to_owned(),
            value: format!("{command_line:?}"),
            fits: error.to_string(),
        })
    }

    /// Priorities of the tasks, where they are not rate monotonic: by their places among all tasks.
    pub(crate) fn priorities(&self) -> Option<Vec<usize>> {
        let deadline = |task: &TaskSpec| task.deadline.unwrap_or(task.period);
        let mut order: Vec<usize> = (0..self.tasks.len()).collect();
        match self.scheduler.as_deref() {
            Some("dm") => order.sort_by_key(|&place| deadline(&self.tasks[place])),
            Some("given") => {}
            _ => return None,
        }
        let mut priorities = vec![0; order.len()];
        for (rank, place) in order.into_iter().enumerate() {
            priorities[place] = rank;
        }
        Some(priorities)
    }
}

/// The periodic tasks of one vCPU, in the order of their ranks; nothing if there are none.
fn tasks_of(guest: &GuestTasks, vcpu: u16) -> Result<Option<Vec<Task>>, SpecError> {
    if guest
        .tasks()
        .iter()
        .any(|task| task.vcpu == vcpu && task.kind.is_service())
    {
        return Err(SpecError::Missing {
            key: "cpu.runtime".to_owned(),
            fits: format!(
                "how long the network keeps vCPU {vcpu} busy is not known beforehand; write runtime and period"
            ),
        });
    }
    let ranks = ranks(guest.policy, guest.tasks());
    let mut own: Vec<_> = ranks
        .iter()
        .zip(guest.tasks())
        .filter(|(_, task)| task.vcpu == vcpu && task.kind == Kind::Periodic)
        .collect();
    own.sort_by_key(|(rank, _)| **rank);
    if let Some((_, task)) = own.iter().find(|(_, task)| task.dirty.is_some()) {
        return Err(SpecError::Missing {
            key: "cpu.runtime".to_owned(),
            fits: format!(
                "how long task {} takes to touch its memory is not known beforehand; write runtime and period",
                task.name
            ),
        });
    }
    if let Some((_, task)) = own.iter().find(|(_, task)| task.critical > 0) {
        return Err(SpecError::Missing {
            key: "cpu.runtime".to_owned(),
            fits: format!(
                "how long task {} spins for its lock is not known beforehand; write runtime and period",
                task.name
            ),
        });
    }
    let time = Duration::from_nanos;
    let task = |(_, task): (_, &rt_abi::taskset::Task)| {
        let longest = task.step.map_or(task.c_max, |step| step.c.max(task.c_max));
        Task::new(task.name.as_str(), time(longest), time(task.period))
            .with_deadline(time(task.deadline))
    };
    let tasks: Vec<Task> = own.into_iter().map(task).collect();
    Ok((!tasks.is_empty()).then_some(tasks))
}

/// How a guest with this policy schedules tasks that come in the order of their ranks.
pub(crate) fn scheduler_of(policy: Policy, ranked: &TaskSet) -> Scheduler {
    if policy == Policy::Edf {
        return Scheduler::EarliestDeadlineFirst;
    }
    // Called by the best-known name that gives the same order.
    let same = |priorities: &Priorities| priorities.order(ranked).is_sorted();
    let known = [Priorities::RateMonotonic, Priorities::DeadlineMonotonic];
    Scheduler::FixedPriority(known.into_iter().find(same).unwrap_or(Priorities::Given))
}

/// What the host makes of the tasks of one vCPU.
struct Costs {
    vcpu: u16,
    overheads: Overheads,
    speed: Option<Speed>,
}

impl Costs {
    /// The tasks with execution times as they are here, and what scheduling costs.
    fn charged(
        &self,
        tasks: Vec<Task>,
        policy: Policy,
    ) -> Result<(TaskSet, Scheduler), DesignError> {
        let charged = || {
            let written = TaskSet::new(tasks)?;
            let here = match self.speed {
                Some(speed) => written.scaled(speed)?,
                None => written,
            };
            let scheduler = scheduler_of(policy, &here);
            Ok((self.overheads.inflated(&here, scheduler)?, scheduler))
        };
        charged().map_err(|source| DesignError::Overloaded {
            vcpu: self.vcpu,
            scaled: match self.speed {
                Some(_) => "as they are on this host and ",
                None => "",
            },
            release: self.overheads.timer_latency + self.overheads.exit,
            source,
        })
    }

    fn server(
        &self,
        (tasks, scheduler): (TaskSet, Scheduler),
        (wanted, deadline): (Option<Duration>, Option<Duration>),
    ) -> Result<VcpuDesign, DesignError> {
        let (vcpu, switch) = (self.vcpu, self.overheads.budget_switch);
        let invalid = |source| SpecError::Reservation {
            key: format!("the period of vCPU {vcpu}"),
            source,
        };
        let period = match wanted {
            Some(period) => Reservation::new(period, period).map_err(invalid)?.period(),
            None => best_period(&tasks, scheduler, switch),
        };
        // A deadline at the end of the period gives the periodic resource model.
        let deadline = deadline.unwrap_or(period);
        let supply = |budget| Supply::explicit_deadline(budget, period, deadline);
        let budget = least_budget(&tasks, scheduler, period, supply).ok_or_else(|| {
            let verdict = scheduler.check(&tasks, &supply(period));
            DesignError::Unserved {
                vcpu,
                period,
                verdict: Box::new(verdict),
            }
        })?;
        let surplus = surplus_of(period);
        if budget + switch + surplus > deadline {
            return Err(DesignError::NoRoom {
                vcpu,
                period,
                deadline,
                budget,
                switch,
                surplus,
            });
        }
        let runtime = (budget + switch).max(LEAST_RUNTIME);
        Ok(VcpuDesign {
            vcpu,
            scheduler,
            reservation: Reservation::new(runtime, period)
                .and_then(|pair| pair.with_deadline(deadline))
                .map_err(invalid)?,
            switch,
            chose_period: wanted.is_none(),
            verdict: scheduler.check(&tasks, &supply(budget)),
            tasks,
        })
    }
}

/// The period with which the tasks take the least bandwidth, what is admitted for enforcing it included; the longest
/// one if there is none.
fn best_period(tasks: &TaskSet, scheduler: Scheduler, switch: Duration) -> Duration {
    let all = Periods::suited_to(tasks);
    let range = PeriodRange::of_this_host();
    let periods = Periods {
        shortest: all.shortest.max(range.least),
        longest: all.longest.min(range.longest),
        ..all
    };
    let cost = |period| switch + surplus_of(period);
    let best = best_server(tasks, scheduler, (periods, cost), Supply::worst_case);
    best.map_or(periods.longest, |best| best.period)
}

impl Designed {
    fn write(&mut self, design: &VcpuDesign) {
        let each = &mut self.spec.cpu.each;
        let place = usize::from(design.vcpu);
        each.resize_with(each.len().max(place + 1), VcpuSpec::default);
        each[place].runtime = Some(design.reservation.runtime().into());
        each[place].period = Some(design.reservation.period().into());
    }

    /// The supply that was designed for is that of servers whose periods nobody shortens ([`sched::alignment`]).
    fn leave_periods_alone(&mut self, used: u32) -> Result<(), SpecError> {
        let cpu = &mut self.spec.cpu;
        if cpu.vcpus.unwrap_or(used) < 2 {
            return Ok(());
        }
        if let Some(key) = cpu.asks_for_alignment() {
            return Err(SpecError::Conflict {
                key,
                other: "a runtime that is left out",
                fits: "aligning vCPUs delays some of the supply that is designed for; write runtime and period",
            });
        }
        cpu.aligned = Some(false);
        Ok(())
    }

    fn write_execution_times(&mut self) {
        let Some(speed) = self.speed else { return };
        for task in &mut self.spec.guest.tasks {
            task.execution = task.execution.map(|own| speed.of(own.duration()).into());
            task.critical = task.critical.map(|own| speed.of(own.duration()).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn designed(guest: &str, cpu: &str) -> (VmSpec, Designed) {
        let text = format!("name = \"a\"\n[guest]\n{guest}\n[cpu]\n{cpu}\n");
        let spec = VmSpec::parse(&text).unwrap();
        let designed = design(&spec, &Basis::default()).unwrap();
        (spec, designed)
    }

    #[test]
    fn a_budget_that_follows_the_need_is_not_designed() {
        let tasks = "[[guest.task]]\nname = \"t\"\nexecution = \"4ms\"\nperiod = \"40ms\"";
        let feedback = "period = \"20ms\"\n[cpu.feedback]\nleast = \"1ms\"\ngreatest = \"8ms\"";
        let (spec, designed) = designed(tasks, feedback);
        assert!(!spec.is_to_be_designed());
        assert!(designed.vcpus.is_empty());
        let plan = designed.spec.plan().unwrap();
        assert_eq!(
            plan.feedback.unwrap().initial(),
            Duration::from_millis(8),
            "the greatest"
        );
    }

    #[test]
    fn vcpus_whose_supply_was_designed_for_are_not_aligned() {
        let task = |name, vcpu| {
            format!(
                "[[guest.task]]\nname = \"{name}\"\nexecution = \"4ms\"\nperiod = \"40ms\"\nvcpu = {vcpu}\n"
            )
        };
        let two = task("a", 0) + &task("b", 1);
        let phases = |guest: &str, cpu| designed(guest, cpu).1.spec.plan().unwrap().phases;
        assert_eq!(phases(&two, ""), None);
        let written = "runtime = \"8ms\"\nperiod = \"20ms\"";
        assert_eq!(phases(&two, written), Some(vec![Duration::ZERO; 2]));
        let spec = format!("name = \"a\"\n[guest]\n{two}[cpu]\naligned = true");
        let spec = VmSpec::parse(&spec).unwrap();
        let why = design(&spec, &Basis::default()).unwrap_err().to_string();
        assert!(why.contains("cpu.aligned = true and a runtime"), "{why}");
    }

    #[test]
    fn nothing_is_designed_for_a_task_that_spins() {
        let guest = "[[guest.task]]\nname = \"t\"\nexecution = \"4ms\"\nperiod = \"40ms\"\ncritical = \"1ms\"";
        let spec = VmSpec::parse(&format!("name = \"a\"\n[guest]\n{guest}")).unwrap();
        let why = design(&spec, &Basis::default()).unwrap_err().to_string();
        assert!(why.contains("task t spins"), "{why}");
    }

    #[test]
    fn a_task_that_steps_is_designed_for_with_the_longer_of_its_two_times() {
        let runtime = |times: &str| {
            let line = format!("command_line = \"task=t,{times},t=40ms\"");
            let (_, designed) = designed(&line, "period = \"10ms\"");
            designed.vcpus[0].reservation.runtime()
        };
        let (short, long) = (runtime("c=4ms"), runtime("c=16ms"));
        assert!(short < long);
        assert_eq!(runtime("c=4ms,c2=16ms,step=1s"), long);
        assert_eq!(runtime("c=16ms,c2=4ms,step=1s"), long);
    }
}
