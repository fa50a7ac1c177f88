//! CPU time that was given up and is not free yet.
//!
//! A server that leaves or shrinks may have run ahead of its bandwidth: what it has had of its budget is paid for only at
//! its 0-lag time, d - r P / Q with r left of the budget due at d (Abeni and Buttazzo, RTSS 1998; the kernel's inactive
//! timer, Documentation/scheduler/sched-deadline.rst, section 2.3). Until then a newcomer could make others late. The
//! instant is not known from outside, but it is at most the deadline of the current period, and so no more than a period
//! away.
//!
//! What a change moves among the vCPUs that it names passes on at once, as in the kernel (`dl_overflow` in
//! kernel/sched/deadline.c): the grown one gets more only from its next period on.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admission::{Bandwidth, density};
use crate::request::{BackendKind, Granted, Placement};

/// Shares that are held still, in the order in which they were given up. Copies share them until one is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freeing(pub(crate) Vec<Arc<Share>>);

/// A share of a CPU, as a density.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    /// The VM and vCPU that has shrunk, and may have it back; nothing where it has gone.
    of: Option<(String, usize)>,
    placement: Placement,
    share: Bandwidth,
    /// When it is free at the latest (CLOCK_MONOTONIC).
    until: Duration,
}

/// What a vCPU had and has, in one change.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    of: (String, usize),
    placement: Placement,
    before: Bandwidth,
    after: Bandwidth,
    /// The period it had.
    period: Duration,
}

impl Step {
    /// Nothing for what the kernel does not hold: other mechanisms than SCHED_DEADLINE.
    pub(crate) fn new(before: &Granted, after: &Granted) -> Option<Self> {
        if before.request.backend != BackendKind::Deadline {
            return None;
        }
        Some(Self {
            of: (before.vm.clone(), before.vcpu),
            placement: before.placement,
            before: density(&before.request),
            after: density(&after.request),
            period: before.request.reservation?.period(),
        })
    }
}

impl Freeing {
    /// Forgets what is free by now. Nothing is held for longer than `longest`: an instant beyond is of another boot.
    pub(crate) fn expire(&mut self, now: Duration, longest: Duration) {
        self.0
            .retain(|share| share.until > now && share.until <= now + longest);
    }

    /// Notes that a vCPU has gone.
    pub(crate) fn gone(&mut self, granted: &Granted, now: Duration) {
        let own = |share: &&mut Arc<Share>| share.is_of(&granted.vm, granted.vcpu);
        for share in self.0.iter_mut().filter(own) {
            Arc::make_mut(share).of = None;
        }
        if let Some(step) = Step::new(granted, granted) {
            self.hold(Share {
                of: None,
                placement: step.placement,
                share: step.before,
                until: now + step.period,
            });
        }
    }

    fn hold(&mut self, share: Share) {
        self.0.push(Arc::new(share));
    }

    /// Whether a change takes no more of any CPU than those that it changes hold together.
    pub(crate) fn covers(&self, steps: &[Step]) -> bool {
        steps
            .iter()
            .all(|step| self.covers_at(step.placement, steps))
    }

    fn covers_at(&self, placement: Placement, steps: &[Step]) -> bool {
        let here = || steps.iter().filter(|step| step.placement == placement);
        let held = self.0.iter().filter(|share| share.placement == placement);
        let held: Bandwidth = held
            .filter(|share| share.is_in(steps))
            .map(|share| share.share)
            .sum();
        let before: Bandwidth = here().map(|step| step.before).sum();
        here().map(|step| step.after).sum::<Bandwidth>() <= before + held
    }

    /// Notes a change.
    pub(crate) fn changed(&mut self, steps: &[Step], now: Duration) {
        let covered: Vec<bool> = steps
            .iter()
            .map(|step| self.covers_at(step.placement, steps))
            .collect();
        for step in steps.iter().filter(|step| step.after < step.before) {
            self.hold(Share {
                of: Some(step.of.clone()),
                placement: step.placement,
                share: step.before - step.after,
                until: now + step.period,
            });
        }
        for (step, covered) in steps.iter().zip(covered) {
            if covered {
                self.take(step.placement, steps, step.after - step.before);
            } else {
                let passed_on =
                    |share: &Arc<Share>| share.placement == step.placement && share.is_in(steps);
                self.0.retain(|share| !passed_on(share));
            }
        }
    }

    /// Takes `wanted` of what the changed ones hold, what would be free last first.
    fn take(&mut self, placement: Placement, steps: &[Step], mut wanted: Bandwidth) {
        let here = |share: &&mut Arc<Share>| share.placement == placement && share.is_in(steps);
        let mut held: Vec<_> = self.0.iter_mut().filter(here).collect();
        held.sort_by_key(|share| Reverse(share.until));
        for share in held {
            let taken = wanted.min(share.share);
            if taken > Bandwidth::ZERO {
                let share = Arc::make_mut(share);
                share.share = share.share - taken;
                wanted = wanted - taken;
            }
        }
        self.0.retain(|share| share.share > Bandwidth::ZERO);
    }

    /// What is held at an instant, but by those that a change is about.
    pub(crate) fn held(
        &self,
        at: Duration,
        steps: &[Step],
    ) -> impl Iterator<Item = (Placement, Bandwidth)> {
        self.0
            .iter()
            .filter(move |share| share.until > at && !share.is_in(steps))
            .map(|share| (share.placement, share.share))
    }

    /// The instants at which something becomes free, the earliest first.
    pub(crate) fn instants(&self) -> Vec<Duration> {
        let mut instants: Vec<_> = self.0.iter().map(|share| share.until).collect();
        instants.sort_unstable();
        instants.dedup();
        instants
    }
}

impl Share {
    fn is_of(&self, vm: &str, vcpu: usize) -> bool {
        let of = self.of.as_ref();
        of.is_some_and(|of| (of.0.as_str(), of.1) == (vm, vcpu))
    }

    fn is_in(&self, steps: &[Step]) -> bool {
        steps.iter().any(|step| self.is_of(&step.of.0, step.of.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{AdmissionTest, VcpuRequest};
    use crate::reservation::Reservation;
    use proptest::prelude::*;

    const HERE: Placement = Placement::Partition { cpu: 1 };
    const LONGEST: Duration = Duration::from_secs(5);

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn granted(vcpu: usize, runtime: u64, period: u64) -> Granted {
        let request = VcpuRequest {
            reservation: Reservation::new(ms(runtime), ms(period)).ok(),
            enforcement: crate::request::Enforcement::Tick,
            ..VcpuRequest::default()
        };
        Granted {
            vm: "a".to_owned(),
            vcpu,
            request,
            placement: HERE,
            surplus: Duration::ZERO,
            test: AdmissionTest::PartitionedEdf,
        }
    }

    fn share(granted: &Granted) -> Bandwidth {
        density(&granted.request)
    }

    fn held(freeing: &Freeing, at: Duration) -> Bandwidth {
        freeing.held(at, &[]).map(|(_, share)| share).sum()
    }

    #[test]
    fn what_moves_within_a_change_passes_on_at_once_and_the_rest_later() {
        let mut freeing = Freeing::default();
        let (giver, taker) = (granted(0, 20, 50), granted(1, 20, 100));
        let steps = [
            Step::new(&giver, &granted(0, 10, 50)).unwrap(),
            Step::new(&taker, &granted(1, 35, 100)).unwrap(),
        ];
        assert!(freeing.covers(&steps));
        freeing.changed(&steps, ms(1000));
        let rest = Bandwidth::ratio(ms(5), ms(100));
        let left = held(&freeing, ms(1000));
        assert!((left.as_f64() - rest.as_f64()).abs() < 1e-5, "{left}");
        assert_eq!(freeing.instants(), [ms(1050)]);
        freeing.expire(ms(1050), LONGEST);
        assert_eq!(freeing, Freeing::default());
    }

    #[test]
    fn an_instant_of_another_boot_holds_nothing() {
        let mut freeing = Freeing::default();
        freeing.gone(&granted(0, 10, 50), ms(1_000_000));
        freeing.expire(ms(1000), LONGEST);
        assert_eq!(freeing, Freeing::default());
    }

    /// One vCPU's shares: since when, how much, with which period; the last one is in force.
    type History = Vec<(Duration, Bandwidth, Duration)>;

    /// The most it has had in force at any time up to one period before `now`, by looking at all of its life.
    fn most(history: &History, now: Duration) -> Bandwidth {
        let ends = history.iter().skip(1).map(|&(since, ..)| since);
        let past = history
            .iter()
            .zip(ends)
            .filter(|((_, _, period), end)| *end + *period > now)
            .map(|((_, share, _), _)| *share);
        past.chain(history.last().map(|last| last.1))
            .max()
            .unwrap_or_default()
    }

    proptest! {
        #[test]
        fn held_is_what_was_in_force_within_the_last_period(
            steps in prop::collection::vec((0usize..3, 0u64..40, 0u64..60), 1..40),
        ) {
            let periods = [20, 50, 130];
            let mut freeing = Freeing::default();
            let mut histories: [History; 3] = Default::default();
            let mut all: [Option<Granted>; 3] = Default::default();
            let mut now = ms(1000);
            for (vcpu, runtime, pause) in steps {
                now += ms(pause);
                freeing.expire(now, LONGEST);
                let period = periods[vcpu];
                let new = granted(vcpu, runtime.min(period), period);
                let lives = new.request.reservation.is_some();
                match (all[vcpu].take(), lives) {
                    (Some(old), true) => {
                        freeing.changed(&[Step::new(&old, &new).unwrap()], now);
                        all[vcpu] = Some(new.clone());
                    }
                    (Some(old), false) => freeing.gone(&old, now),
                    // A newcomer may have nothing of what one of its name has left.
                    (None, true) if most(&histories[vcpu], now) == Bandwidth::ZERO => {
                        all[vcpu] = Some(new.clone());
                    }
                    (None, _) => continue,
                }
                let share = if lives { share(&new) } else { Bandwidth::ZERO };
                histories[vcpu].push((now, share, ms(period)));
                for later in [0, 7, 19, 20, 49, 50, 129, 130].map(|later| now + ms(later)) {
                    let granted: Bandwidth = all.iter().flatten().map(self::share).sum();
                    let oracle: Bandwidth = histories.iter().map(|history| most(history, later)).sum();
                    prop_assert_eq!(granted + held(&freeing, later), oracle);
                }
            }
        }
    }
}
