//! The loop: go to the next instant at which anything happens, let time pass until then, and dispatch anew.
//!
//! At one instant, in this order: jobs end and budgets run out; releases and answers; the policy's timers; vCPUs wake and
//! sleep; dispatch. A vCPU whose work ends at the instant at which new work comes does not sleep in between.

use std::time::Duration;

use super::Time;
use super::check::{Problem, SimError};
use super::dispatch::{Choice, Dispatcher};
use super::guest::{Guest, Stopped};
use super::model::{Host, Run, Vcpu};
use super::outcome::{CpuOutcome, Execution, Log, Outcome};
use super::policy::HostPolicy;
use super::queue::{Event, EventQueue, Kind};
use crate::reservation::nanos;

/// Simulates a description that was checked.
///
/// # Errors
/// When more happens than [`MOST_INSTANTS`].
pub fn run<P: HostPolicy>(host: &Host, run: &Run, policy: P) -> Result<Outcome, SimError> {
    Machine::new(host, run, policy).run(MOST_INSTANTS)
}

/// The most instants of a run: minutes of computing, and with every job kept a few gigabytes.
const MOST_INSTANTS: u64 = 1 << 25;

struct Machine<P> {
    now: Time,
    end: Time,
    policy: P,
    switch: Time,
    budget_switch: Time,
    queue: EventQueue,
    guests: Vec<Guest>,
    /// Whether a vCPU has work, as the policy knows it.
    awake: Vec<bool>,
    /// vCPUs that may have woken or gone to sleep at this instant.
    touched: Vec<usize>,
    cpus: Vec<Cpu>,
    dispatcher: Dispatcher,
    log: Log,
}

#[derive(Clone, Debug)]
struct Cpu {
    running: Option<usize>,
    /// When the policy wants to be asked again.
    slice_end: Time,
    /// When the running vCPU or the policy has something to say.
    until: Time,
    /// Overhead still to be worked off.
    debt: Time,
    supplied: Time,
    overhead: Time,
    idle: Time,
}

impl Cpu {
    const IDLE: Self = Self {
        running: None,
        slice_end: Time::MAX,
        until: Time::MAX,
        debt: 0,
        supplied: 0,
        overhead: 0,
        idle: 0,
    };
}

impl<P: HostPolicy> Machine<P> {
    fn new(host: &Host, run: &Run, policy: P) -> Self {
        let mut streams = 0;
        let guest = |vcpu: &Vcpu| {
            let guest = Guest::new(vcpu, run.seed, streams);
            streams += vcpu.tasks.len();
            guest
        };
        let guests: Vec<Guest> = host.vcpus().map(guest).collect();
        let mut queue = EventQueue::default();
        for (vcpu, description) in host.vcpus().enumerate() {
            for task in 0..description.tasks.len() {
                queue.push(Event {
                    at: guests[vcpu].next_release(task),
                    vcpu,
                    task,
                    kind: Kind::Release,
                });
            }
        }
        Self {
            now: 0,
            end: nanos(run.length),
            policy,
            switch: nanos(host.overheads.switch),
            budget_switch: nanos(host.overheads.budget_switch),
            queue,
            awake: vec![false; guests.len()],
            guests,
            touched: Vec::new(),
            cpus: vec![Cpu::IDLE; host.cpus],
            dispatcher: Dispatcher::new(host),
            log: Log::new(host, run),
        }
    }

    fn run(mut self, most: u64) -> Result<Outcome, SimError> {
        for _ in 0..most {
            let next = self.next_instant().min(self.end);
            self.advance(next);
            if self.now >= self.end {
                return Ok(self.finish());
            }
            self.happen();
            while self.policy.next_timer() <= self.now {
                self.policy.timer(self.now);
                self.log.events().timers += 1;
            }
            self.tell_wakes();
            self.dispatch();
        }
        Err(SimError {
            place: "run".to_owned(),
            problem: Problem::TooMuch {
                most,
                until: Duration::from_nanos(self.now),
                length: Duration::from_nanos(self.end),
            },
        })
    }

    fn next_instant(&self) -> Time {
        let known = self.queue.next_at().min(self.policy.next_timer());
        let known = known.min(self.dispatcher.holders_until());
        self.cpus.iter().map(|cpu| cpu.until).fold(known, Time::min)
    }

    /// Lets time pass; nothing happens before `to`.
    fn advance(&mut self, to: Time) {
        let (from, length) = (self.now, to - self.now);
        self.now = to;
        if length == 0 {
            return;
        }
        for number in 0..self.cpus.len() {
            let cpu = &mut self.cpus[number];
            let overhead = cpu.debt.min(length);
            cpu.debt -= overhead;
            cpu.overhead += overhead;
            let Some(vcpu) = cpu.running else {
                cpu.idle += length - overhead;
                continue;
            };
            cpu.supplied += length - overhead;
            if cpu.slice_end == to {
                self.log.events().budget_ends += 1;
            }
            // As in a kernel, a switch is at the expense of who is switched to.
            self.policy.ran(vcpu, to, length);
            self.execute(vcpu, number, from + overhead);
        }
        for (vcpu, _) in self.dispatcher.holders() {
            self.policy.ran(*vcpu, to, length);
        }
    }

    /// The tasks of a vCPU execute from `from` until now.
    fn execute(&mut self, vcpu: usize, cpu: usize, from: Time) {
        let guest = &mut self.guests[vcpu];
        let Some(task) = guest.first().filter(|_| from < self.now) else {
            return;
        };
        let to = self.now;
        let stretch = Execution {
            from,
            to,
            cpu,
            task,
        };
        self.log.executed(vcpu, stretch);
        match guest.advance(to - from) {
            None => return,
            Some(Stopped::Turn) => self.log.events().quanta += 1,
            Some(Stopped::Done { task, arrival }) => {
                self.log.events().completions += 1;
                self.log.done((vcpu, task), arrival, to);
            }
            Some(Stopped::Blocked { task, length }) => {
                self.log.events().blockings += 1;
                self.queue.push(Event {
                    at: to.saturating_add(length),
                    vcpu,
                    task,
                    kind: Kind::Answered,
                });
            }
        }
        self.touched.push(vcpu);
    }

    /// What is queued for this instant happens.
    fn happen(&mut self) {
        while let Some(event) = self.queue.pop_due(self.now) {
            let Event { vcpu, task, .. } = event;
            let guest = &mut self.guests[vcpu];
            match event.kind {
                Kind::Release => {
                    guest.release(task);
                    self.log.events().releases += 1;
                    self.queue.push(Event {
                        at: guest.next_release(task),
                        ..event
                    });
                }
                Kind::Answered => {
                    guest.answered(task);
                    self.log.events().answers += 1;
                }
            }
            self.touched.push(vcpu);
        }
    }

    fn tell_wakes(&mut self) {
        for vcpu in self.touched.drain(..) {
            let has_work = self.guests[vcpu].has_work();
            if self.awake[vcpu] == has_work {
                continue;
            }
            self.awake[vcpu] = has_work;
            match has_work {
                true => self.policy.wake(vcpu, self.now),
                false => self.policy.sleep(vcpu, self.now),
            }
        }
    }

    fn dispatch(&mut self) {
        self.dispatcher.choose(&self.policy, &self.awake, self.now);
        // All leave before any comes: a policy sees no vCPU on two CPUs.
        for number in 0..self.cpus.len() {
            self.leave(number);
        }
        for number in 0..self.cpus.len() {
            let choice = self.dispatcher.chosen(number);
            self.enter(number, choice);
        }
    }

    fn leave(&mut self, number: usize) {
        let next = self.dispatcher.chosen(number).map(|choice| choice.vcpu);
        let cpu = &mut self.cpus[number];
        let Some(vcpu) = cpu.running.filter(|running| next != Some(*running)) else {
            return;
        };
        let is_over = cpu.slice_end == self.now;
        if is_over {
            cpu.debt = cpu.debt.saturating_add(self.budget_switch);
        }
        cpu.running = None;
        self.policy.stop(vcpu, self.now);
        let is_preempted = self.awake[vcpu] && !is_over && next.is_some();
        self.log.events().preemptions += u64::from(is_preempted);
    }

    fn enter(&mut self, number: usize, choice: Option<Choice>) {
        let cpu = &mut self.cpus[number];
        let Some(Choice { vcpu, most }) = choice else {
            cpu.slice_end = Time::MAX;
            cpu.until = Time::MAX;
            return;
        };
        if cpu.running != Some(vcpu) {
            cpu.running = Some(vcpu);
            cpu.debt = cpu.debt.saturating_add(self.switch);
            self.policy.start(vcpu, self.now);
            self.log.events().switches += 1;
            let moved = self.dispatcher.seat(vcpu, number);
            self.log.events().migrations += u64::from(moved);
        }
        let work = self.guests[vcpu].until_event();
        cpu.slice_end = self.now.saturating_add(most);
        let event = self.now.saturating_add(cpu.debt).saturating_add(work);
        cpu.until = cpu.slice_end.min(event);
    }

    fn finish(mut self) -> Outcome {
        for (vcpu, guest) in self.guests.iter().enumerate() {
            for task in 0..guest.tasks() {
                for arrival in guest.unfinished(task) {
                    self.log.unfinished((vcpu, task), arrival);
                }
            }
        }
        let of_cpu = |cpu: &Cpu| CpuOutcome {
            supplied: Duration::from_nanos(cpu.supplied),
            overhead: Duration::from_nanos(cpu.overhead),
            idle: Duration::from_nanos(cpu.idle),
        };
        let cpus = self.cpus.iter().map(of_cpu).collect();
        self.log.finish(cpus)
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{GuestPolicy, Policy, Server, Task, Vm};
    use super::super::policy::Deadline;
    use super::*;

    #[test]
    fn a_run_in_which_too_much_happens_is_refused_with_how_far_it_can_go() {
        let ms = Duration::from_millis;
        let tasks = vec![Task::new(ms(1), ms(4))];
        let server = Server::new(ms(2), ms(4));
        let vcpu = Vcpu::new(server, GuestPolicy::RateMonotonic, tasks);
        let host = Host::new(1, Policy::Deadline, vec![Vm::single(vcpu)]);
        let after = |most| {
            let run = Run::of(ms(1000));
            Machine::new(&host, &run, Deadline::new(&host)).run(most)
        };
        let why = after(100).unwrap_err().to_string();
        assert!(why.starts_with("run: 100 instants take it to "), "{why}");
        assert!(why.contains("of 1s: simulate no longer"), "{why}");
        assert!(after(2_000).is_ok());
    }
}
