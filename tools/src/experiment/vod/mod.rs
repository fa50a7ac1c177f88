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
mod listening;
mod monitor;
mod need;
mod network;
mod quality;
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
    /// The measurement of the need.
    need: Duration,
    /// Until streams run evenly, and until queues are empty.
    settling: Duration,
    /// With four streams.
    before: Duration,
    /// With five.
    after: Duration,
}

const FULL: Timing = Timing {
    listen: Duration::from_secs(2),
    need: Duration::from_secs(4),
    settling: Duration::from_secs(1),
    before: Duration::from_secs(10),
    after: Duration::from_secs(40),
};
const QUICK: Timing = Timing {
    listen: Duration::from_millis(500),
    need: Duration::from_millis(1_600),
    settling: Duration::from_millis(500),
    before: Duration::from_secs(2),
    after: Duration::from_secs(9),
};
/// What a run takes beyond its stretches: processes that start and end.
const OVERHEAD: Duration = Duration::from_secs(3);

impl Timing {
    fn each_run(&self) -> Duration {
        self.settling * 2 + self.before + self.after + OVERHEAD
    }

    fn finding(&self) -> Duration {
        (self.need + Duration::from_secs(1)) * 3
    }

    fn whole(&self) -> Duration {
        self.listen * 2 + self.finding() + self.each_run() * 4
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

fn carry_out(
    stage: &Stage,
    timing: Timing,
    progress: &mut Progress,
) -> Result<Results, ExperimentError> {
    let network = Network::build()?;
    progress.step("measuring what a stream needs", timing.finding());
    ffmpeg::make_file(&film(stage))?;
    let need = need::find((stage, &network), timing.need, progress)?;
    let hosts = Hosts {
        stage,
        network: &network,
    };
    let mut ran = Vec::new();
    for adaptation in Adaptation::ALL {
        let what = format!("adapting {}", adaptation.name());
        progress.step(&what, timing.each_run());
        ran.push(run::run(adaptation, &hosts, (need, timing), progress)?);
    }
    Ok(Results {
        cpu: stage.cpu,
        promise: stage.promise.clone(),
        need,
        ran,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_takes_less_than_90_seconds() {
        let whole = QUICK.whole();
        assert!(whole < Duration::from_secs(80), "{whole:?}");
    }
}
