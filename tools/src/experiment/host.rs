//! What the host was like in an experiment: the host check, and the noise of the CPU measured on, before and after.

use std::fs;
use std::time::Duration;

use sched::host::{Finding, HostCheck};
use sched::noise::{self, CpuNoise};
use sched::reservation::Reservation;

use crate::report::{self, HostVerdict};

/// The host before an experiment.
pub struct HostBefore {
    check: HostCheck,
    noise: Option<CpuNoise>,
    stolen: Option<Duration>,
}

/// A gap that an ordinary timer interrupt does not explain.
const QUIET: Duration = Duration::from_micros(200);

impl HostBefore {
    /// Looks at the host, and listens to `cpu` for `listen`. Before a partition is made: the thread that listens is an
    /// ordinary one that moves there.
    pub fn look(cpu: u32, listen: Duration) -> Self {
        Self {
            check: HostCheck::run(&vmm::host::kvm_kind(), Duration::ZERO),
            noise: noise_of(cpu, listen),
            stolen: stolen(cpu),
        }
    }

    /// The deadline limit of one CPU.
    pub fn limits(&self) -> sched::admission::Limits {
        self.check.limits
    }

    /// The lines of the report, after the stage was cleared: listens once more.
    pub fn after(&self, cpu: u32, promise: &str, listen: Duration) -> Vec<report::HostCheck> {
        let mut lines = self.lines();
        lines.push(line("promises rest on", promise, HostVerdict::Ok));
        let reservation = Reservation::new(Duration::from_millis(28), Duration::from_millis(50));
        let noises = [
            ("before", self.noise.clone()),
            ("after", noise_of(cpu, listen)),
        ];
        for (when, noise) in noises {
            let name = format!("noise of CPU {cpu} {when} the runs");
            let Some(noise) = noise else {
                lines.push(line(&name, "could not be measured", HostVerdict::Warn));
                continue;
            };
            let too_fine = reservation
                .as_ref()
                .is_ok_and(|r| noise::check(*r, &noise).is_err());
            let verdict = if too_fine {
                HostVerdict::Bad
            } else if noise.gaps.max > QUIET {
                HostVerdict::Warn
            } else {
                HostVerdict::Ok
            };
            lines.push(line(&name, &noise.to_string(), verdict));
        }
        if let (Some(before), Some(after)) = (self.stolen, stolen(cpu)) {
            let lost = after.saturating_sub(before);
            let verdict = if lost.is_zero() {
                HostVerdict::Ok
            } else {
                HostVerdict::Warn
            };
            let text = format!(
                "{:.2} s in all, as this kernel counts it",
                lost.as_secs_f64()
            );
            lines.push(line(
                &format!("stolen from CPU {cpu} by a hypervisor"),
                &text,
                verdict,
            ));
        }
        lines
    }

    fn lines(&self) -> Vec<report::HostCheck> {
        let check = &self.check;
        let exact = check.high_resolution_timers && check.remaining_budget_shown;
        let exact = if exact {
            HostVerdict::Ok
        } else {
            HostVerdict::Bad
        };
        let throttling = check
            .rt_throttling
            .map_or("off".to_owned(), |(runtime, period)| {
                format!(
                    "{} ms in every {} ms",
                    runtime.as_millis(),
                    period.as_millis()
                )
            });
        let virtualised = match check.hypervisor {
            Some(_) => HostVerdict::Warn,
            None => HostVerdict::Ok,
        };
        let mut lines = vec![
            line("kernel", &check.kernel, HostVerdict::Ok),
            line("preemption model", &check.preemption, HostVerdict::Ok),
            line(
                "tick",
                &format!("{} ms", check.tick.as_millis()),
                HostVerdict::Ok,
            ),
            line(
                "budgets can be ended between ticks",
                yes(exact == HostVerdict::Ok),
                exact,
            ),
            line("clock source", &check.clocksource, HostVerdict::Ok),
            line("real-time throttling", &throttling, HostVerdict::Ok),
            line(
                "deadline limit of a CPU",
                &check.limits.per_cpu().to_string(),
                HostVerdict::Ok,
            ),
            line("KVM", &check.kvm, HostVerdict::Ok),
            line(
                "runs under",
                check.hypervisor.as_deref().unwrap_or("bare metal"),
                virtualised,
            ),
        ];
        for cpu in &check.cpus {
            let text = cpu.to_string();
            let text = text.split_once(' ').map_or("", |(_, rest)| rest);
            let text = text.trim_start_matches(|c: char| c.is_ascii_digit()).trim();
            lines.push(line(&format!("CPU {}", cpu.cpu), text, HostVerdict::Ok));
        }
        lines.extend(
            check
                .findings()
                .into_iter()
                .map(|Finding(text)| line("note", &text, HostVerdict::Warn)),
        );
        lines
    }
}

fn yes(held: bool) -> &'static str {
    if held { "yes" } else { "no" }
}

fn line(name: &str, value: &str, verdict: HostVerdict) -> report::HostCheck {
    report::HostCheck {
        name: name.to_owned(),
        value: value.to_owned(),
        verdict,
    }
}

fn noise_of(cpu: u32, listen: Duration) -> Option<CpuNoise> {
    noise::measure(&[cpu], listen).ok()?.into_iter().next()
}

/// Time taken from a CPU by a hypervisor.
fn stolen(cpu: u32) -> Option<Duration> {
    times(cpu)?.get(STEAL).copied()
}

/// Time a CPU was not idle, as far as the kernel's ticks tell.
pub fn busy(cpu: u32) -> Duration {
    let times = times(cpu).unwrap_or_default();
    let idle: Duration = times.iter().skip(IDLE).take(2).sum();
    // The last two, guests of this host, are in user time already.
    times.iter().take(STEAL + 1).sum::<Duration>() - idle
}

/// Places in a line of /proc/stat (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal, guest...
const IDLE: usize = 3;
const STEAL: usize = 7;

/// What a CPU spent its time on, in hundredths of a second (USER_HZ).
fn times(cpu: u32) -> Option<Vec<Duration>> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let name = format!("cpu{cpu}");
    let line = stat
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&name))?;
    let values = line.split_whitespace().skip(1).map(str::parse::<u64>);
    let times = values.map(|ticks| ticks.map(|ticks| Duration::from_millis(ticks * 10)));
    times.collect::<Result<_, _>>().ok()
}
