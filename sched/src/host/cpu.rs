//! What of one CPU bears on the promises made on it.

use std::fmt;
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text;
use crate::cpus;
use crate::noise::CpuNoise;
use crate::prepare::quiet::Kernel;
use crate::reservation::human;

/// What bears on the promises of one CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuCheck {
    /// The CPU.
    pub cpu: u32,
    /// The cpufreq governor with its range in kHz; none where frequency is not under the kernel's control.
    pub frequency: Option<Frequency>,
    /// Idle states with their wake-up latency.
    pub idle_states: Vec<IdleState>,
    /// CPUs of the same core, itself included.
    pub siblings: Vec<u32>,
    /// Interrupts that are delivered to this CPU.
    pub interrupts: u32,
    /// Numbers of the interrupts that may be delivered to it, now or later.
    pub interrupts_allowed: Vec<u32>,
    /// Network queues whose packets are steered to it, such as `eth0/rx-0`.
    pub packets_steered: Vec<String>,
    /// Whether it may enter idle states that take time to leave, where it has any.
    pub deep_idle_allowed: bool,
    /// Its measured noise, if that was asked for.
    pub noise: Option<CpuNoise>,
}

/// Frequency scaling of one CPU. The kernel scales SCHED_DEADLINE runtime with it
/// (Documentation/scheduler/sched-deadline.rst, section 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frequency {
    /// The governor.
    pub governor: String,
    /// The lowest frequency, kHz.
    pub least_khz: u64,
    /// The highest frequency, kHz.
    pub greatest_khz: u64,
}

/// One idle state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleState {
    /// Its name.
    pub name: String,
    /// The time to leave it.
    pub latency: Duration,
}

impl CpuCheck {
    pub(super) fn of(cpu: u32, interrupts: &[Vec<u32>], noise: Option<CpuNoise>) -> Self {
        let directory = format!("/sys/devices/system/cpu/cpu{cpu}");
        let siblings = text(&format!("{directory}/topology/thread_siblings_list"));
        let here = interrupts.iter().filter(|cpus| cpus.contains(&cpu)).count();
        let disturbances = Kernel::running().disturbances(cpu);
        Self {
            cpu,
            frequency: frequency(&directory),
            idle_states: idle_states(&directory),
            siblings: siblings
                .and_then(|list| cpus::parse(&list))
                .unwrap_or_else(|| vec![cpu]),
            interrupts: u32::try_from(here).unwrap_or(u32::MAX),
            interrupts_allowed: disturbances.interrupts,
            packets_steered: disturbances.queues,
            deep_idle_allowed: disturbances.deep_idle,
            noise,
        }
    }

    pub(super) fn findings(&self, note: &mut impl FnMut(bool, String)) {
        let cpu = self.cpu;
        if let Some(Frequency {
            governor,
            least_khz,
            greatest_khz,
        }) = &self.frequency
        {
            note(
                governor != "performance" && least_khz != greatest_khz,
                format!(
                    "CPU {cpu}: governor {governor} changes its speed, and with it what a budget is worth: use performance"
                ),
            );
        }
        if let Some(deepest) = self.idle_states.iter().max_by_key(|state| state.latency) {
            note(
                self.deep_idle_allowed && deepest.latency > Duration::from_micros(100),
                format!(
                    "CPU {cpu}: idle state {} takes {} to leave: limit it through /dev/cpu_dma_latency",
                    deepest.name,
                    human(deepest.latency)
                ),
            );
        }
        note(
            self.siblings.len() > 1,
            format!(
                "CPU {cpu} shares its core with {}: what runs there slows it down; switch SMT off or leave the sibling idle",
                cpus::format(&self.siblings)
            ),
        );
    }

    /// What a partition's CPU should be spared; `remedy` is the command for that.
    pub(super) fn disturbances(&self, remedy: &str, note: &mut impl FnMut(bool, String)) {
        let cpu = self.cpu;
        note(
            !self.interrupts_allowed.is_empty(),
            format!(
                "CPU {cpu}: interrupts {} may come to this partition: {remedy} steers away those that the kernel lets move and that have another CPU",
                cpus::format(&self.interrupts_allowed)
            ),
        );
        note(
            !self.packets_steered.is_empty(),
            format!(
                "CPU {cpu}: packets of {} are received on this partition: {remedy} steers them away",
                self.packets_steered.join(", ")
            ),
        );
        let waits = |state: &&IdleState| !state.latency.is_zero();
        if let Some(state) = self.idle_states.iter().find(waits) {
            note(
                self.deep_idle_allowed,
                format!(
                    "CPU {cpu}: this partition may idle in {}, which delays wake-ups: {remedy} lets it poll instead",
                    state.name
                ),
            );
        }
    }
}

impl fmt::Display for CpuCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16}", format!("CPU {}", self.cpu))?;
        match &self.frequency {
            Some(Frequency {
                governor,
                least_khz,
                greatest_khz,
            }) => {
                write!(
                    f,
                    "{governor} {}-{} MHz",
                    least_khz / 1000,
                    greatest_khz / 1000
                )?;
            }
            None => write!(f, "frequency not exposed")?,
        }
        let deepest = self.idle_states.iter().max_by_key(|state| state.latency);
        match deepest {
            Some(state) => write!(f, ", idle to {} ({})", state.name, human(state.latency))?,
            None => write!(f, ", idle states not exposed")?,
        }
        write!(
            f,
            ", core {}, {} interrupts",
            cpus::format(&self.siblings),
            self.interrupts
        )?;
        if let Some(noise) = &self.noise {
            write!(f, "\n  noise         {noise}")?;
        }
        Ok(())
    }
}

fn frequency(directory: &str) -> Option<Frequency> {
    let value = |file| text(&format!("{directory}/cpufreq/{file}"));
    Some(Frequency {
        governor: value("scaling_governor")?,
        least_khz: value("scaling_min_freq")?.parse().ok()?,
        greatest_khz: value("scaling_max_freq")?.parse().ok()?,
    })
}

fn idle_states(directory: &str) -> Vec<IdleState> {
    let states = (0..16).map(|state| format!("{directory}/cpuidle/state{state}"));
    states
        .map_while(|state| {
            let latency = text(&format!("{state}/latency"))?.parse().ok()?;
            Some(IdleState {
                name: text(&format!("{state}/name"))?,
                latency: Duration::from_micros(latency),
            })
        })
        .collect()
}

/// For every interrupt, the CPUs it is delivered to.
pub(super) fn interrupts() -> Vec<Vec<u32>> {
    let directories = fs::read_dir("/proc/irq").into_iter().flatten().flatten();
    directories
        .filter_map(|directory| {
            let path = directory.path().join("effective_affinity_list");
            cpus::parse(&text(path.to_str()?)?)
        })
        .filter(|cpus| !cpus.is_empty())
        .collect()
}
