//! From what each vCPU claims to who runs on which CPU.
//!
//! Bound vCPUs compete for their own CPU. Free ones compete for all: the m first run, each where it ran already, or else
//! where it ran last, or else on any CPU that is left.

use super::Time;
use super::model::Host;
use super::policy::{Claim, HostPolicy};

/// Who runs on a CPU, and for how long until the policy wants to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The vCPU.
    pub vcpu: usize,
    /// The most it may run.
    pub most: Time,
}

/// A claim that stands: order, vCPU, most. Compared in this order, so ties go to the vCPU with the smaller number.
type Candidate = (u64, usize, Time);

/// Decides, and remembers where everyone ran.
#[derive(Debug)]
pub struct Dispatcher {
    /// The CPU of every vCPU, if vCPUs are bound.
    bound: Option<Vec<usize>>,
    /// Where every vCPU ran last.
    last: Vec<Option<usize>>,
    /// Who runs on every CPU.
    chosen: Vec<Option<Choice>>,
    /// Sleeping vCPUs whose budgets drain, and until when they last.
    holders: Vec<(usize, Time)>,
    /// The first of all candidates for every CPU, and the first that has work.
    first: Vec<[Option<Candidate>; 2]>,
    candidates: Vec<Candidate>,
    unseated: Vec<Choice>,
}

impl Dispatcher {
    /// Nobody runs.
    pub fn new(host: &Host) -> Self {
        Self {
            // Either all are bound or none is.
            bound: host.vcpus().map(|vcpu| vcpu.cpu).collect(),
            last: vec![None; host.vcpus().count()],
            chosen: vec![None; host.cpus],
            holders: Vec::new(),
            first: vec![[None; 2]; host.cpus],
            candidates: Vec::new(),
            unseated: Vec::new(),
        }
    }

    /// Who runs on a CPU.
    pub fn chosen(&self, cpu: usize) -> Option<Choice> {
        self.chosen[cpu]
    }

    /// Sleeping vCPUs whose budgets drain.
    pub fn holders(&self) -> &[(usize, Time)] {
        &self.holders
    }

    /// When the first of their budgets is gone.
    pub fn holders_until(&self) -> Time {
        let ends = self.holders.iter().map(|(_, until)| *until);
        ends.min().unwrap_or(Time::MAX)
    }

    /// A vCPU comes to a CPU; whether it ran on another before.
    pub fn seat(&mut self, vcpu: usize, cpu: usize) -> bool {
        self.last[vcpu]
            .replace(cpu)
            .is_some_and(|before| before != cpu)
    }

    /// Decides for this instant.
    pub fn choose<P: HostPolicy>(&mut self, policy: &P, awake: &[bool], now: Time) {
        self.holders.clear();
        match &self.bound {
            Some(_) => self.choose_bound(policy, awake, now),
            None => self.choose_free(policy, awake, now),
        }
    }

    fn choose_bound<P: HostPolicy>(&mut self, policy: &P, awake: &[bool], now: Time) {
        let Some(bound) = &self.bound else { return };
        self.first.fill([None; 2]);
        for (vcpu, cpu) in bound.iter().enumerate() {
            let Some(candidate) = candidate(policy, vcpu, now) else {
                continue;
            };
            let [first, first_awake] = &mut self.first[*cpu];
            offer(first, candidate);
            if awake[vcpu] {
                offer(first_awake, candidate);
            }
        }
        for (chosen, [first, first_awake]) in self.chosen.iter_mut().zip(&self.first) {
            let holder = first.filter(|(_, vcpu, _)| !awake[*vcpu]);
            if let Some((_, vcpu, most)) = holder {
                self.holders.push((vcpu, now.saturating_add(most)));
            }
            let is_held = holder.is_some() && !policy.lends_idle_budget();
            let runs = first_awake.filter(|_| !is_held);
            *chosen = runs.map(|(_, vcpu, most)| Choice { vcpu, most });
        }
    }

    fn choose_free<P: HostPolicy>(&mut self, policy: &P, awake: &[bool], now: Time) {
        let all = (0..awake.len()).filter_map(|vcpu| candidate(policy, vcpu, now));
        self.candidates.clear();
        self.candidates.extend(all);
        self.candidates.sort_unstable();
        self.unseated.clear();
        let cpus = self.chosen.len();
        for (place, (_, vcpu, most)) in self.candidates.iter().copied().enumerate() {
            let is_first = place < cpus;
            if awake[vcpu] && (is_first || policy.lends_idle_budget()) && self.unseated.len() < cpus
            {
                self.unseated.push(Choice { vcpu, most });
            } else if is_first && !awake[vcpu] {
                self.holders.push((vcpu, now.saturating_add(most)));
            }
        }
        self.place();
    }

    /// Gives every one of `unseated` a CPU.
    fn place(&mut self) {
        let (last, unseated) = (&self.last, &mut self.unseated);
        // Who runs stays.
        for chosen in &mut self.chosen {
            let runs = chosen.map(|choice| choice.vcpu);
            let stays = unseated.iter().position(|choice| Some(choice.vcpu) == runs);
            *chosen = stays.map(|place| unseated.swap_remove(place));
        }
        // Who ran here last comes back, if the place is free.
        unseated.retain(|choice| {
            let home = last[choice.vcpu].filter(|cpu| self.chosen[*cpu].is_none());
            if let Some(cpu) = home {
                self.chosen[cpu] = Some(*choice);
            }
            home.is_none()
        });
        let free = self.chosen.iter_mut().filter(|chosen| chosen.is_none());
        for (chosen, choice) in free.zip(unseated.drain(..)) {
            *chosen = Some(choice);
        }
    }
}

fn candidate<P: HostPolicy>(policy: &P, vcpu: usize, now: Time) -> Option<Candidate> {
    let Claim { order, most } = policy.claim(vcpu, now)?;
    debug_assert!(most > 0, "a claim to nothing would stop time");
    Some((order, vcpu, most))
}

fn offer(first: &mut Option<Candidate>, candidate: Candidate) {
    if first.is_none_or(|first| candidate < first) {
        *first = Some(candidate);
    }
}
