//! `[cpu.feedback]`: budgets that follow the need.

use sched::feedback::Envelope;
use sched::request::{BackendKind, Enforcement};
use serde::Deserialize;

use super::{CpuSpec, SpecError, VcpuSpec};
use crate::units::Span;

/// Budgets that follow the need of each vCPU, between two that are both promised.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedbackSpec {
    /// Q at least.
    pub least: Span,
    /// Q at most: what is admitted.
    pub greatest: Span,
    /// Over how many periods need is measured; 1 if not written.
    pub span: Option<u32>,
}

impl CpuSpec {
    /// Where budgets follow the need.
    pub(super) fn envelope(&self) -> Result<Option<Envelope>, SpecError> {
        let Some(feedback) = self.feedback else {
            return Ok(None);
        };
        if (self.backend, self.enforcement) != (BackendKind::Deadline, Enforcement::Exact) {
            return Err(SpecError::Conflict {
                key: "cpu.feedback",
                other: "cpu.backend or cpu.enforcement",
                fits: "need is measured where exact deadline budgets end; leave both out",
            });
        }
        // The law measures over whole periods, and the kernel's wake-up rule cuts budgets that have a deadline of their own.
        let deadlines = self.each.iter().map(|vcpu| vcpu.deadline);
        if deadlines
            .chain([self.deadline])
            .any(|deadline| deadline.is_some())
        {
            return Err(SpecError::Conflict {
                key: "cpu.feedback",
                other: "a deadline",
                fits: "budgets that follow the need come by the period's end; leave the deadline out, or [cpu.feedback]",
            });
        }
        let differs = |vcpu: &VcpuSpec| vcpu.runtime.or(vcpu.period).is_some();
        if self.each.iter().any(differs) {
            return Err(SpecError::Conflict {
                key: "cpu.feedback",
                other: "runtime or period of a cpu.vcpu",
                fits: "each vCPU finds its own budget; leave them out",
            });
        }
        let period = self.period.ok_or_else(|| SpecError::Missing {
            key: "cpu.period".to_owned(),
            fits: "cpu.feedback needs it, such as period = \"50ms\"".to_owned(),
        })?;
        let (least, greatest) = (feedback.least.duration(), feedback.greatest.duration());
        let envelope = Envelope::new(least, greatest, period.duration())?;
        let envelope = envelope.measured_over(feedback.span.unwrap_or(1))?;
        Ok(Some(match self.runtime {
            Some(runtime) => envelope.beginning_with(runtime.duration())?,
            None => envelope,
        }))
    }

    /// The same with what is to be admitted: the greatest budget.
    pub(super) fn following(&self, envelope: Envelope) -> Self {
        Self {
            runtime: Some(Span::from(envelope.greatest())),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{VmPlan, VmSpec};
    use super::*;

    fn plan(cpu: &str) -> Result<VmPlan, SpecError> {
        VmSpec::parse(&format!("name = \"a\"\n[guest]\n[cpu]\n{cpu}"))?.plan()
    }

    const FEEDBACK: &str = "[cpu.feedback]\nleast = \"5ms\"\ngreatest = \"30ms\"\n";

    #[test]
    fn the_greatest_budget_is_what_is_asked_for_and_the_runtime_the_first() {
        let ms = Duration::from_millis;
        for (runtime, first) in [("", 30), ("runtime = \"10ms\"\n", 10)] {
            let plan = plan(&format!(
                "vcpus = 2\nperiod = \"50ms\"\n{runtime}{FEEDBACK}"
            ))
            .unwrap();
            let envelope = plan.feedback.unwrap();
            assert_eq!(envelope.initial(), ms(first));
            assert_eq!((envelope.least(), envelope.span()), (ms(5), 1));
            let asked = plan
                .requests
                .iter()
                .map(|request| request.reservation.unwrap());
            assert_eq!(asked.map(|r| r.runtime()).collect::<Vec<_>>(), [ms(30); 2]);
        }
    }

    #[test]
    fn what_cannot_follow_is_refused_by_name() {
        for (cpu, parts) in [
            (FEEDBACK.to_owned(), ["cpu.period", "50ms"]),
            (
                format!("period = \"50ms\"\nruntime = \"40ms\"\n{FEEDBACK}"),
                ["40ms", "30ms"],
            ),
            (
                format!("period = \"30ms\"\n{FEEDBACK}"),
                ["greatest", "no room"],
            ),
            (
                format!("period = \"20ms\"\n{FEEDBACK}"),
                ["greatest", "30 ms"],
            ),
            (
                format!("period = \"50ms\"\n{FEEDBACK}span = 0"),
                ["span", "at least 1"],
            ),
            (
                format!("period = \"50ms\"\nenforcement = \"tick\"\n{FEEDBACK}"),
                ["cpu.feedback", "cpu.enforcement"],
            ),
            (
                format!("period = \"50ms\"\nbackend = \"fifo\"\n{FEEDBACK}"),
                ["cpu.feedback", "cpu.backend"],
            ),
            (
                format!("period = \"50ms\"\n{FEEDBACK}[[cpu.vcpu]]\nruntime = \"6ms\""),
                ["cpu.feedback", "cpu.vcpu"],
            ),
            (
                format!("period = \"50ms\"\ndeadline = \"40ms\"\n{FEEDBACK}"),
                ["cpu.feedback", "deadline"],
            ),
            (
                format!("period = \"50ms\"\n{FEEDBACK}[[cpu.vcpu]]\ndeadline = \"40ms\""),
                ["cpu.feedback", "deadline"],
            ),
            (
                format!("period = \"50ms\"\n{FEEDBACK}most = 3"),
                ["most", "greatest"],
            ),
        ] {
            let message = plan(&cpu).unwrap_err().to_string();
            for part in parts {
                assert!(
                    message.contains(part),
                    "{message:?} does not mention {part:?}"
                );
            }
        }
    }
}
