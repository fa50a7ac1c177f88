//! `aligned` and `phase`: where the periods of several vCPUs begin.

use std::time::Duration;

use sched::request::{BackendKind, VcpuRequest};

use super::{CpuSpec, SpecError};
use crate::units::Span;

impl CpuSpec {
    /// The phases of aligned vCPUs.
    ///
    /// Only periods of the length and the budget that they were begun with can be moved: they are left alone where budgets
    /// follow the need, and where the deadline comes before a period's end.
    pub(super) fn phases(
        &self,
        requests: &[VcpuRequest],
    ) -> Result<Option<Vec<Duration>>, SpecError> {
        let is_constrained = |request: &VcpuRequest| {
            let reservation = request.reservation;
            reservation.is_some_and(|reservation| reservation.is_constrained())
        };
        let movable = match self.feedback {
            Some(_) => Err((
                "cpu.feedback",
                "a budget that follows the need is left alone",
            )),
            None if requests.iter().any(is_constrained) => Err((
                "a deadline before the period's end",
                "after a sleep such periods do not begin anew",
            )),
            None => Ok(()),
        };
        if let (Some(key), Err((other, fits))) = (self.asks_for_alignment(), movable) {
            return Err(SpecError::Conflict { key, other, fits });
        }
        self.check_phases(requests)?;
        let phase = |index: usize| self.each.get(index).and_then(|own| own.phase);
        let phases =
            (0..requests.len()).map(|index| phase(index).map_or(Duration::ZERO, Span::duration));
        let aligned = self.aligned.unwrap_or(true) && movable.is_ok();
        Ok(aligned.then(|| phases.collect()))
    }

    /// The key that asks for it, if one does.
    pub(crate) fn asks_for_alignment(&self) -> Option<&'static str> {
        if self.each.iter().any(|own| own.phase.is_some()) {
            return Some("cpu.vcpu.phase");
        }
        (self.aligned == Some(true)).then_some("cpu.aligned = true")
    }

    fn check_phases(&self, requests: &[VcpuRequest]) -> Result<(), SpecError> {
        let given = self.each.iter().enumerate();
        for (index, phase) in given.filter_map(|(i, own)| Some((i, own.phase?))) {
            if self.aligned == Some(false) {
                return Err(SpecError::Conflict {
                    key: "cpu.vcpu.phase",
                    other: "cpu.aligned = false",
                    fits: "a phase is counted from the common instant; remove one of them",
                });
            }
            let reservation = requests.get(index).and_then(|request| request.reservation);
            let period = reservation.map_or(Duration::ZERO, |r| r.period());
            if phase.duration() >= period || self.backend != BackendKind::Deadline {
                return Err(SpecError::Value {
                    key: format!("cpu.vcpu {index}.phase"),
                    value: format!("\"{phase}\""),
                    fits: "less than the vCPU's period, with backend = \"deadline\"".to_owned(),
                });
            }
        }
        Ok(())
    }
}
