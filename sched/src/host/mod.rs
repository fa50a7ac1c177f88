//! The host check: what of this host bears on its promises, and what to change.

mod cpu;

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_getres};
use serde::{Deserialize, Serialize};

pub use self::cpu::{CpuCheck, Frequency, IdleState};
use crate::admission::Limits;
use crate::cpus;
use crate::noise;
use crate::partition;
use crate::request::{Granted, Placement};
use crate::reservation::human;

/// Everything found out about a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostCheck {
    /// Identifies the host's start after which it was made: what was measured before another says nothing.
    pub boot_id: String,
    /// Release and build of the kernel.
    pub kernel: String,
    /// The preemption model.
    pub preemption: String,
    /// The scheduler tick, on which the kernel ends budgets.
    pub tick: Duration,
    /// Whether timers are finer than the tick: exact enforcement needs it.
    pub high_resolution_timers: bool,
    /// The clock source.
    pub clocksource: String,
    /// Whether the kernel shows a thread's remaining budget: exact enforcement needs it.
    pub remaining_budget_shown: bool,
    /// `sched_rt_runtime_us` and `sched_rt_period_us`; none if throttling is off.
    pub rt_throttling: Option<(Duration, Duration)>,
    /// What SCHED_DEADLINE may have.
    pub limits: Limits,
    /// CPUs that are prepared partitions.
    pub partitions: Vec<u32>,
    /// The kind of KVM, as the caller found it.
    pub kvm: String,
    /// The hypervisor this host itself runs under.
    pub hypervisor: Option<String>,
    /// The CPUs.
    pub cpus: Vec<CpuCheck>,
}

/// Something that weakens promises, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding(pub String);

impl HostCheck {
    /// Looks at the host; measures the noise of every online CPU for `noise` each, unless that is zero. Partitions with
    /// guests are left out: their budgets are no noise, and they are not to be disturbed.
    pub fn run(kvm: &str, noise: Duration) -> Self {
        let online = cpus::online();
        let partitions = partition::usable(&online);
        let mut quiet = online.clone();
        quiet.retain(|cpu| {
            let mut own = partitions.iter().filter(|partition| partition.cpu == *cpu);
            own.all(|partition| partition.threads().is_empty())
        });
        let measured = if noise.is_zero() {
            Vec::new()
        } else {
            noise::measure(&quiet, noise).unwrap_or_default()
        };
        let of = |cpu| measured.iter().find(|noise| noise.cpu == cpu).cloned();
        let interrupts = cpu::interrupts();
        Self {
            boot_id: boot_id(),
            kernel: text("/proc/version").unwrap_or_default(),
            preemption: preemption(),
            tick: resolution(ClockId::CLOCK_MONOTONIC_COARSE),
            high_resolution_timers: resolution(ClockId::CLOCK_MONOTONIC) == Duration::from_nanos(1),
            clocksource: text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .unwrap_or_default(),
            remaining_budget_shown: Path::new("/proc/thread-self/sched").exists(),
            rt_throttling: rt_throttling(),
            limits: crate::host_view::limits(),
            partitions: partitions.iter().map(|partition| partition.cpu).collect(),
            kvm: kvm.to_owned(),
            hypervisor: hypervisor(),
            cpus: online
                .iter()
                .map(|&cpu| CpuCheck::of(cpu, &interrupts, of(cpu)))
                .collect(),
        }
    }

    /// What weakens promises here.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut note = |applies: bool, text: String| {
            if applies {
                found.push(Finding(text));
            }
        };
        let tick = human(self.tick);
        note(
            !self.high_resolution_timers || !self.remaining_budget_shown,
            format!(
                "budgets end on the tick of {tick} only: exact enforcement needs high-resolution timers and CONFIG_SCHED_DEBUG"
            ),
        );
        note(
            self.partitions.is_empty(),
            "no CPU is a partition: promises need a passed global test; prepare the host"
                .to_owned(),
        );
        note(
            !["tsc", "kvm-clock", "arch_sys_counter"].contains(&self.clocksource.as_str()),
            format!(
                "clock source {} is slow to read: prefer tsc",
                self.clocksource
            ),
        );
        if let Some(hypervisor) = &self.hypervisor {
            note(
                true,
                format!(
                    "this host is itself a guest of {hypervisor}: what that takes no reservation can give back"
                ),
            );
        }
        for cpu in &self.cpus {
            cpu.findings(&mut note);
        }
        let partitions = self.partitions.iter().map(u32::to_string);
        let remedy = format!(
            "`chronovisor host prepare --cpus {}`",
            partitions.collect::<Vec<_>>().join(",")
        );
        let partitions = |check: &&CpuCheck| self.partitions.contains(&check.cpu);
        for cpu in self.cpus.iter().filter(partitions) {
            cpu.disturbances(&remedy, &mut note);
        }
        found
    }

    /// Whether the host was not started again since.
    pub fn is_of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }

    /// Refuses a promise that the measured noise of the CPU it was granted would break, or of any CPU outside partitions
    /// if it was granted none; passes where none was measured.
    ///
    /// # Errors
    /// [`noise::TooFine`].
    pub fn admits(&self, granted: &Granted) -> Result<(), noise::TooFine> {
        let Some(reservation) = granted.request.reservation else {
            return Ok(());
        };
        let cpus = match granted.placement {
            Placement::Partition { cpu } | Placement::Pinned { cpu } => vec![cpu],
            Placement::Global | Placement::Anywhere => outside_partitions(),
        };
        let mut noises = self
            .cpus
            .iter()
            .filter(|check| cpus.contains(&check.cpu))
            .filter_map(|check| check.noise.as_ref())
            // What an ordinary thread sees is other threads rather than noise.
            .filter(|noise| noise.real_time);
        noises.try_for_each(|noise| noise::check(reservation, noise))
    }
}

fn outside_partitions() -> Vec<u32> {
    let mut online = cpus::online();
    let partitions = partition::usable(&online);
    online.retain(|cpu| partitions.iter().all(|partition| partition.cpu != *cpu));
    online
}

impl fmt::Display for HostCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |held| if held { "yes" } else { "no" };
        writeln!(f, "kernel          {}", self.kernel)?;
        writeln!(f, "preemption      {}", self.preemption)?;
        let timers = yes(self.high_resolution_timers);
        writeln!(
            f,
            "tick            {}, high-resolution timers: {timers}",
            human(self.tick)
        )?;
        writeln!(f, "clock source    {}", self.clocksource)?;
        let shown = yes(self.remaining_budget_shown);
        writeln!(f, "exact budgets   remaining budget shown: {shown}")?;
        match self.rt_throttling {
            Some((runtime, period)) => writeln!(
                f,
                "RT throttling   {} in every {}",
                human(runtime),
                human(period)
            )?,
            None => writeln!(f, "RT throttling   off")?,
        }
        writeln!(f, "deadline limit  {} of each CPU", self.limits.per_cpu())?;
        let partitions = if self.partitions.is_empty() {
            "none".to_owned()
        } else {
            cpus::format(&self.partitions)
        };
        writeln!(f, "partitions      {partitions}")?;
        writeln!(f, "KVM             {}", self.kvm)?;
        writeln!(
            f,
            "runs under      {}",
            self.hypervisor.as_deref().unwrap_or("bare metal")
        )?;
        for cpu in &self.cpus {
            writeln!(f, "{cpu}")?;
        }
        for Finding(text) in self.findings() {
            writeln!(f, "note: {text}")?;
        }
        Ok(())
    }
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn resolution(clock: ClockId) -> Duration {
    clock_getres(clock).map_or(Duration::ZERO, Duration::from)
}

/// Drawn by the kernel at every start (random(4)).
fn boot_id() -> String {
    text("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// From the kernel's own switch where debugfs shows it, otherwise from what it was built with.
fn preemption() -> String {
    if let Some(modes) = text("/sys/kernel/debug/sched/preempt") {
        return modes;
    }
    let version = text("/proc/sys/kernel/version").unwrap_or_default();
    let built = version
        .split_whitespace()
        .find(|word| word.starts_with("PREEMPT"));
    let chosen = text("/proc/cmdline").and_then(|line| {
        let words = line.split_whitespace();
        words
            .filter_map(|word| word.strip_prefix("preempt="))
            .next_back()
            .map(str::to_owned)
    });
    match (built, chosen) {
        (Some(built), Some(chosen)) => format!("{built}, preempt={chosen}"),
        (Some(built), None) => format!("{built}, boot default"),
        (None, _) => "none or voluntary".to_owned(),
    }
}

fn rt_throttling() -> Option<(Duration, Duration)> {
    let sysctl = |name| {
        text(&format!("/proc/sys/kernel/{name}"))?
            .parse::<u64>()
            .ok()
    };
    // A runtime of -1 is no u64: throttling is off.
    let us = Duration::from_micros;
    Some((
        us(sysctl("sched_rt_runtime_us")?),
        us(sysctl("sched_rt_period_us")?),
    ))
}

/// Xen tells in /sys/hypervisor; others by the CPU's hypervisor flag and what the firmware calls itself.
fn hypervisor() -> Option<String> {
    if let Some(kind) = text("/sys/hypervisor/type") {
        return Some(kind);
    }
    let flagged = fs::read_to_string("/proc/cpuinfo")
        .ok()?
        .lines()
        .any(|line| {
            line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
        });
    let name = |file| text(&format!("/sys/class/dmi/id/{file}")).filter(|name| !name.is_empty());
    flagged.then(|| {
        let names: Vec<_> = [name("sys_vendor"), name("product_name")]
            .into_iter()
            .flatten()
            .collect();
        if names.is_empty() {
            "a hypervisor that does not name itself".to_owned()
        } else {
            names.join(" ")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::CpuNoise;
    use crate::request::{AdmissionTest, VcpuRequest};
    use crate::reservation::Reservation;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn the_check_of_this_host_is_complete_and_survives_being_written_down() {
        let check = HostCheck::run("test", Duration::ZERO);
        assert!(
            check.tick >= ms(1) && check.tick <= ms(10),
            "{:?}",
            check.tick
        );
        assert_eq!(check.cpus.len(), cpus::online().len());
        assert!(check.cpus.iter().all(|cpu| cpu.siblings.contains(&cpu.cpu)));
        let text = serde_json::to_string(&check).unwrap();
        assert_eq!(serde_json::from_str::<HostCheck>(&text).unwrap(), check);
        assert!(check.to_string().contains("deadline limit"));
    }

    #[test]
    fn a_promise_is_held_against_the_noise_of_the_cpu_it_was_granted() {
        let mut check = HostCheck::run("test", Duration::ZERO);
        let fine = |placement| Granted {
            vm: "test".to_owned(),
            vcpu: 0,
            request: VcpuRequest {
                reservation: Some(Reservation::new(ms(1), ms(5)).unwrap()),
                ..VcpuRequest::default()
            },
            placement,
            surplus: Duration::ZERO,
            test: AdmissionTest::None,
        };
        let cpu = check.cpus[0].cpu;
        let here = Placement::Partition { cpu };
        assert_eq!(check.admits(&fine(here)), Ok(()));
        check.cpus[0].noise = Some(CpuNoise {
            cpu,
            observed: ms(1000),
            real_time: true,
            gaps: crate::histogram::Summary::default(),
            longest: vec![ms(3)],
        });
        assert!(check.admits(&fine(here)).is_err());
        assert!(check.admits(&fine(Placement::Pinned { cpu })).is_err());
        assert!(
            check.admits(&fine(Placement::Global)).is_err(),
            "it might run there"
        );
        let elsewhere = Placement::Partition { cpu: cpu + 1 };
        assert_eq!(check.admits(&fine(elsewhere)), Ok(()));
        let mut unreserved = fine(here);
        unreserved.request.reservation = None;
        assert_eq!(check.admits(&unreserved), Ok(()));
    }

    #[test]
    fn what_was_measured_before_another_start_of_the_host_is_known_as_such() {
        let mut check = HostCheck::run("test", Duration::ZERO);
        assert!(check.is_of_this_boot());
        check.boot_id = "00000000-0000-0000-0000-000000000000".to_owned();
        assert!(!check.is_of_this_boot());
    }

    #[test]
    fn what_may_disturb_a_partition_is_told_with_the_remedy() {
        let mut check = HostCheck::run("test", Duration::ZERO);
        let cpu = &mut check.cpus[0];
        cpu.interrupts_allowed = vec![24, 25, 29];
        cpu.packets_steered = vec!["eth0/rx-0".to_owned()];
        cpu.deep_idle_allowed = true;
        cpu.idle_states = vec![IdleState {
            name: "C1".to_owned(),
            latency: Duration::from_micros(2),
        }];
        let number = cpu.cpu;
        let told = |check: &HostCheck| {
            let found = check.findings().into_iter().map(|Finding(text)| text);
            let remedy = format!("`chronovisor host prepare --cpus {number}`");
            found
                .filter(|text| text.contains(&remedy))
                .collect::<Vec<_>>()
        };
        check.partitions.clear();
        assert_eq!(told(&check), [""; 0], "it is no partition");
        check.partitions = vec![number];
        let found = told(&check);
        assert_eq!(found.len(), 3, "{found:?}");
        for (text, part) in found.iter().zip(["24-25,29", "eth0/rx-0", "C1"]) {
            assert!(text.contains(part), "{text}");
        }
        let cpu = &mut check.cpus[0];
        cpu.interrupts_allowed.clear();
        cpu.packets_steered.clear();
        cpu.deep_idle_allowed = false;
        assert_eq!(told(&check), [""; 0]);
    }

    #[test]
    fn a_slow_clock_and_a_shared_core_are_found() {
        let mut check = HostCheck::run("test", Duration::ZERO);
        check.clocksource = "hpet".to_owned();
        check.cpus[0].siblings = vec![0, 4];
        let text = format!("{:?}", check.findings());
        assert!(
            text.contains("hpet") && text.contains("shares its core with 0,4"),
            "{text}"
        );
    }
}
