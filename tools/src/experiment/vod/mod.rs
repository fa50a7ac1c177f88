//! Experiment `vod`: the video-on-demand scenario of Duran-Limon et al. with real parts.
//!
//! ```text
//! need.rs     what a stream of ffmpeg needs of the CPU; what the VTMs are given
//! run.rs      four streams, then a fifth; monitors, rules, adaptations
//!   listening.rs --> course.rs    packets at both ends --> loss and jitter
//!   monitor.rs --> quality.rs     the same while it runs --> sched::qos
//! network.rs  hosts and routers; shares.rs: the bottleneck
//! ```

mod course;
mod ffmpeg;
mod flood;
mod guests;
mod listening;
mod monitor;
mod need;
mod network;
mod quality;
mod raw;
mod report;
mod rtp;
mod run;
mod shares;
mod streams;
mod vtms;

use std::path::PathBuf;
use std::time::Duration;

use super::ExperimentError;
use super::host::HostBefore;
use super::progress::Progress;
use super::stage::{Promise, Stage, choose_cpu};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use need::Need;
use network::Network;
use quality::Held;
use run::{Hosts, Ran};

/// Who sends the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Processes, as jobs of a VTM.
    Vtms,
    /// A guest.
    Guests,
}

impl Mode {
    /// Its name in tables and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vtms => "VTMs",
            Self::Guests => "guests",
        }
    }

    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Vtms => "vtms",
            Self::Guests => "guests",
        }
    }
}

/// What is adapted in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adaptation {
    /// Nothing.
    Neither,
    /// The network.
    Network,
    /// The CPU.
    Cpu,
    /// Both.
    Both,
}

impl Adaptation {
    /// The four scenarios, in the paper's order.
    pub const ALL: [Self; 4] = [Self::Neither, Self::Network, Self::Cpu, Self::Both];

    /// Its name in tables and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neither => "neither",
            Self::Network => "network only",
            Self::Cpu => "CPU only",
            Self::Both => "both",
        }
    }

    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Neither => "neither",
            Self::Network => "network",
            Self::Cpu => "cpu",
            Self::Both => "both",
        }
    }

    /// Whether this is adapted.
    pub fn adapts(self, held: Held) -> bool {
        match held {
            Held::Cpu => matches!(self, Self::Cpu | Self::Both),
            Held::Link => matches!(self, Self::Network | Self::Both),
        }
    }
}

/// How long everything takes.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    listen: Duration,
    /// Each measurement of the need, and how many there are at most.
    need: (Duration, u32),
    /// Until streams run evenly, and until queues are empty.
    settling: Duration,
    /// With four streams.
    before: Duration,
    /// With five.
    after: Duration,
    /// Whether guests run all four scenarios.
    all_with_guests: bool,
}

const FULL: Timing = Timing {
    listen: Duration::from_secs(2),
    need: (Duration::from_secs(4), 4),
    settling: Duration::from_secs(2),
    before: Duration::from_secs(10),
    after: Duration::from_secs(40),
    all_with_guests: true,
};
const QUICK: Timing = Timing {
    listen: Duration::from_millis(500),
    need: (Duration::from_millis(1_400), 2),
    settling: Duration::from_millis(500),
    before: Duration::from_millis(1_500),
    after: Duration::from_secs(6),
    all_with_guests: false,
};
/// What a run takes beyond its stretches: processes that start and end.
const OVERHEAD: Duration = Duration::from_millis(2_500);

impl Timing {
    /// All of a scenario, but for its start and end.
    fn whole_run(&self) -> Duration {
        self.settling * 2 + self.before + self.after + OVERHEAD
    }

    fn finding(&self) -> Duration {
        (self.need.0 + Duration::from_secs(1)) * self.need.1
    }

    fn whole(&self) -> Duration {
        let count = u32::try_from(scenarios(*self).len()).unwrap_or(u32::MAX);
        self.listen * 2 + self.finding() + self.whole_run() * count
    }
}

/// All of the experiment.
pub struct Results {
    /// The CPU.
    pub cpu: u32,
    /// What the VTMs rested on.
    pub promise: Promise,
    /// What a stream needs.
    pub need: Need,
    /// The four scenarios.
    pub ran: Vec<Ran>,
    /// Those that could not be run, and why.
    pub not_run: Vec<(String, String)>,
}

/// The file that is transcoded.
fn film(stage: &Stage) -> PathBuf {
    stage.folder.join("film.ts")
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    ffmpeg::check()?;
    let cpu = choose_cpu(args.cpu)?;
    let timing = if args.quick { QUICK } else { FULL };
    let mut progress = Progress::new(timing.whole(), context.json);
    progress.step("listening to the CPU", timing.listen);
    let host = HostBefore::look(cpu, timing.listen);
    let stage = Stage::set(context, cpu)?;
    let results = carry_out(&stage, timing, &mut progress);
    stage.clear()?;
    let results = results?;
    progress.step("listening to the CPU", timing.listen);
    let host = host.after(cpu, &results.promise.to_string(), timing.listen);
    Ok(report::report(&results, args, host))
}

/// All four with VTMs and with guests; in a hurry only one with guests.
fn scenarios(timing: Timing) -> Vec<(Mode, Adaptation)> {
    let guests: &[Adaptation] = match timing.all_with_guests {
        true => &Adaptation::ALL,
        false => &[Adaptation::Both],
    };
    let vtms = Adaptation::ALL.iter().map(|one| (Mode::Vtms, *one));
    vtms.chain(guests.iter().map(|one| (Mode::Guests, *one)))
        .collect()
}

fn carry_out(
    stage: &Stage,
    timing: Timing,
    progress: &mut Progress,
) -> Result<Results, ExperimentError> {
    let network = Network::build()?;
    progress.step("measuring what a stream needs", timing.finding());
    ffmpeg::make_file(&film(stage))?;
    let found = need::find((stage, &network), timing.need, progress)?;
    let hosts = Hosts {
        stage,
        network: &network,
    };
    let mut need = found;
    let mut ran = Vec::new();
    let mut not_run = Vec::new();
    for scenario in scenarios(timing) {
        let (mode, adaptation) = scenario;
        let what = format!("{}, adapting {}", mode.name(), adaptation.name());
        progress.step(&what, timing.whole_run());
        match run::run(scenario, &hosts, (need, timing), progress) {
            Ok(one) => {
                if mode == Mode::Vtms {
                    // The next one begins with what was learnt: the machine may be busier by now.
                    let frame = one.need;
                    need = Need { frame, ..need }.corrected();
                }
                ran.push(one);
            }
            Err(ExperimentError::Interrupted) => return Err(ExperimentError::Interrupted),
            // Guests need more of the host than VTMs do.
            Err(error) if mode == Mode::Guests => not_run.push((what, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    Ok(Results {
        not_run,
        cpu: stage.cpu,
        promise: stage.promise.clone(),
        need: found,
        ran,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_takes_less_than_90_seconds() {
        let whole = QUICK.whole();
        assert!(whole < Duration::from_secs(85), "{whole:?}");
    }
}
