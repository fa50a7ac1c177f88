//! What was measured of a host for the analysis: what scheduling costs on it, and how fast it is. Kept in a run directory.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sched::analysis::overhead::Overheads;
use serde::{Deserialize, Serialize};
use vmm::design::Basis;
use vmm::moving::facts::HostBasis;
use vmm::speed::SpeedFigures;
use vmm::units::Span;

use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};

/// Kind and version of the file.
const KIND: &str = "host-figures";
const VERSION: u32 = 1;

/// What is charged where nothing was measured: half as much again and more than the 99th percentiles (80, 156 and 1 us)
/// on a virtual machine whose KVM has neither VMX nor SVM and emulates guest kernels, the dearest kind of host there is.
pub const ASSUMED: Overheads = Overheads {
    budget_switch: Duration::from_micros(100),
    timer_latency: Duration::from_micros(150),
    exit: Duration::from_micros(250),
};

/// What repeated measurements of one thing gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// How many there were.
    pub samples: usize,
    /// The median.
    pub median: Span,
    /// What 99 of 100 stay below. This is charged: what is rarer is the host's noise, which `host check` measures.
    pub p99: Span,
    /// The greatest.
    pub max: Span,
}

impl Cost {
    /// Of measurements, in whole microseconds, rounded up; nothing of none.
    pub fn of(times: &Distribution) -> Option<Self> {
        let whole = |time: Duration| {
            let micros = time.as_nanos().div_ceil(1_000);
            Span::from(Duration::from_micros(
                u64::try_from(micros).unwrap_or(u64::MAX),
            ))
        };
        let at = |quantile| times.quantile(quantile).map(whole);
        Some(Self {
            samples: times.count(),
            median: at(Quantile::MEDIAN)?,
            p99: at(Quantile::P99)?,
            max: whole(times.max()?),
        })
    }
}

/// What was measured, where and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFigures {
    /// When, UTC.
    pub date: String,
    /// On which CPU.
    pub cpu: u32,
    /// What the processor calls itself.
    pub cpu_model: String,
    /// The kernel.
    pub kernel: String,
    /// What kind of KVM it has.
    pub kvm: String,
    /// What of a budget the guest does not get.
    pub budget_switch: Cost,
    /// From the instant for which the guest set its timer to its handler.
    pub timer_latency: Cost,
    /// What a release takes from the task that runs, beside the job itself.
    pub exit: Cost,
    /// How fast the host is.
    pub speed: SpeedFigures,
    /// Whether the program that measured was built with optimisation; figures of others are slower.
    pub optimised: bool,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} for 99 of 100, median {}, at most {} ({} observed)",
            self.p99, self.median, self.max, self.samples
        )
    }
}

impl fmt::Display for HostFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "measured on     {}", self.origin())?;
        writeln!(f, "KVM             {}", self.kvm)?;
        writeln!(f, "timer latency   {}", self.timer_latency)?;
        writeln!(f, "exits, release  {}", self.exit)?;
        writeln!(f, "budget switch   {}", self.budget_switch)?;
        writeln!(f, "speed           {}", self.speed)?;
        if !self.optimised {
            writeln!(
                f,
                "note: this program was built without optimisation: its speed figures compare with no others"
            )?;
        }
        Ok(())
    }
}

/// How the figures lie on disk: what they are stands outside of them.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    kind: String,
    version: u32,
    figures: T,
}

impl HostFigures {
    /// What is charged.
    pub fn overheads(&self) -> Overheads {
        Overheads {
            budget_switch: self.budget_switch.p99.duration(),
            timer_latency: self.timer_latency.p99.duration(),
            exit: self.exit.p99.duration(),
        }
    }

    /// Where and when they were measured.
    pub fn origin(&self) -> String {
        format!("CPU {} ({}) at {}", self.cpu, self.cpu_model, self.date)
    }

    /// Keeps them for the commands that come.
    pub fn keep(&self, run_dir: &Path) -> Result<PathBuf, Failure> {
        let path = path(run_dir);
        let in_file = |e: std::io::Error| Failure::from(e).while_doing(&path.display().to_string());
        let kept = Kept {
            kind: KIND.to_owned(),
            version: VERSION,
            figures: self,
        };
        fs::create_dir_all(run_dir).map_err(in_file)?;
        // Aside and renamed: whoever reads it meanwhile reads all of one measurement.
        let aside = path.with_extension("new");
        fs::write(&aside, serde_json::to_vec_pretty(&kept)?).map_err(in_file)?;
        fs::rename(&aside, &path).map_err(in_file)?;
        Ok(path)
    }

    /// Those that were kept; none where none were, or where they are not of this host as it is now, which is told.
    pub fn kept(run_dir: &Path) -> Option<Self> {
        let path = path(run_dir);
        let told = |why: &str| {
            eprintln!(
                "note: the figures in {} {why} and are ignored; `chronovisor host measure` measures them again",
                path.display()
            );
            None
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return told(&format!("cannot be read ({error})")),
        };
        match read(&bytes) {
            Err(why) => told(&why),
            Ok(figures)
                if (figures.cpu_model.as_str(), figures.kernel.as_str())
                    != (cpu_model().as_str(), kernel().as_str()) =>
            {
                told("were measured on another processor or kernel")
            }
            Ok(figures) => Some(figures),
        }
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("host-figures.json")
}

fn read(bytes: &[u8]) -> Result<HostFigures, String> {
    let other = |_| "are of another kind or version".to_owned();
    let kept: Kept<serde_json::Value> = serde_json::from_slice(bytes).map_err(other)?;
    if (kept.kind.as_str(), kept.version) != (KIND, VERSION) {
        return Err(format!(
            "are `{}` of version {}, not `{KIND}` of version {VERSION},",
            kept.kind, kept.version
        ));
    }
    serde_json::from_value(kept.figures).map_err(|error| format!("make no sense ({error})"))
}

/// What the processor calls itself.
pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| "a processor without a name".to_owned())
}

/// Release and build of the kernel.
pub fn kernel() -> String {
    let text = fs::read_to_string("/proc/version").unwrap_or_default();
    text.trim().to_owned()
}

/// What the analysis charges on this host, and where that comes from.
pub struct HostCosts {
    /// What was measured.
    pub figures: Option<HostFigures>,
}

impl HostCosts {
    /// What was measured here and kept.
    pub fn of(run_dir: &Path) -> Self {
        Self {
            figures: HostFigures::kept(run_dir),
        }
    }

    /// What a design rests on: what was measured, or what is assumed.
    pub fn basis(&self) -> Basis {
        let figures = self.figures.as_ref();
        Basis {
            overheads: figures.map_or(ASSUMED, HostFigures::overheads),
            speed: figures.map(|figures| figures.speed),
        }
    }

    /// What another host is told before a guest moves.
    pub fn for_moving(&self) -> HostBasis {
        HostBasis::new(&self.basis(), cpu_model())
    }

    /// Where [`HostCosts::basis`] comes from.
    pub fn source(&self) -> String {
        match &self.figures {
            Some(figures) => format!("overheads measured on {}", figures.origin()),
            None => "overheads assumed, as none were measured here (`chronovisor host measure`)"
                .to_owned(),
        }
    }
}

/// What overheads add, in words.
pub fn added(overheads: &Overheads) -> String {
    let Overheads {
        budget_switch,
        timer_latency,
        exit,
    } = *overheads;
    format!(
        "add {} to each execution time ({} timer latency, {} exits) and {} to each budget (switch)",
        Span::from(timer_latency + exit),
        Span::from(timer_latency),
        Span::from(exit),
        Span::from(budget_switch)
    )
}
