//! The same scenario with guests: gold is a VM whose tasks send the streams, best effort one that is busy.
//!
//! Their tasks are of the paper's need, so their reservations are the paper's; what a frame costs the guest besides (its
//! scheduler, its network) comes on top of that. The fifth stream is a task that is released for the first time later.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use net::Network as NetShares;
use net::plan::{BridgePlan, NetworkPlan};
use sched::reservation::Reservation;
use units::BitRate;
use vmm::control::{Reply, Request, Transfer, client, socket_path};
use vmm::units::Span;

use super::Timing;
use super::listening::{Listener, port};
use super::need::{PAPER, STREAMS};
use super::network::{BRIDGE_ADDRESS, BRIDGE_PREFIX, GOLD_TARGET, GUEST_ADDRESS, Network};
use super::quality::{BEST_EFFORT, GOLD, Pair};
use super::streams::{Senders, wait};
use super::vtms::{FRAME, SLOT};
use crate::experiment::ExperimentError;
use crate::experiment::guest::path;
use crate::experiment::namespaces::{failed, program};
use crate::experiment::process::Part;
use crate::experiment::stage::Stage;

/// What gold has for four streams, and what it gets for five.
const BUDGETS: (Duration, Duration) = (Duration::from_millis(24), Duration::from_millis(32));
/// What best effort has at first, at a period of its own: what gold's network device needs is not there for it.
const BEST_EFFORT_BUDGET: (Duration, Duration) =
    (Duration::from_millis(17), Duration::from_millis(80));
/// A guest's start until its first frame.
const BOOT: Duration = Duration::from_millis(500);
const BRIDGE: &str = "vod-bridge";

/// The guests. Dropping them ends them.
pub struct Guests<'a> {
    gold: Part,
    best_effort: Part,
    cpu: Pair,
    stage: &'a Stage,
    /// Of the source: the bridge.
    _bridge: NetShares,
}

/// What both have at first.
pub fn first() -> Result<Pair, ExperimentError> {
    Ok(Pair {
        gold: Reservation::new(BUDGETS.0, FRAME)?,
        best_effort: Reservation::new(BEST_EFFORT_BUDGET.0, BEST_EFFORT_BUDGET.1)?,
    })
}

/// What gold has at most.
pub fn greatest() -> Duration {
    BUDGETS.1
}

fn name(of: &str) -> String {
    format!("vod-{}-{of}", std::process::id())
}

impl<'a> Guests<'a> {
    /// Starts both; the fifth stream comes after the stretches that go before it.
    pub fn start(
        (stage, network): (&'a Stage, &Network),
        timing: Timing,
    ) -> Result<Self, ExperimentError> {
        let cpu = first()?;
        let bridge = bridge(stage, network)?;
        let length = BOOT + timing.whole_run();
        let fifth = BOOT + timing.settling + timing.before;
        let start = |of: &str, text: String| {
            let spec = stage.folder.join(format!("{of}.toml"));
            fs::write(&spec, text)
                .map_err(ExperimentError::io(format!("write {}", spec.display())))?;
            let folder = path(&stage.folder);
            let words = [
                "/proc/self/exe",
                "--run-dir",
                &folder,
                "run",
                &path(&spec),
                "--force",
            ];
            let command = program(&network.source, &words.map(str::to_owned));
            Part::start(&format!("the guest {of}"), &stage.folder, command)
        };
        let busy = spec(BEST_EFFORT, length) + "hogs = [0]\n";
        let best_effort = start(BEST_EFFORT, cpu_of(stage, busy, cpu.best_effort))?;
        let text = spec(GOLD, length) + &services(fifth);
        let gold = start(GOLD, cpu_of(stage, text, cpu.gold) + &device(stage))?;
        Ok(Self {
            gold,
            best_effort,
            cpu,
            stage,
            _bridge: bridge,
        })
    }

    async fn transfer(&self, after: Pair) -> Result<(), ExperimentError> {
        let folder = &self.stage.folder;
        let grows = after.gold.runtime() >= self.cpu.gold.runtime();
        let gold = (GOLD, self.cpu.gold, after.gold);
        let best_effort = (BEST_EFFORT, self.cpu.best_effort, after.best_effort);
        let (to, from) = if grows {
            (gold, best_effort)
        } else {
            (best_effort, gold)
        };
        let request = Request::Transfer(Transfer {
            vcpu: 0,
            before: to.1,
            reservation: to.2,
            from: name(from.0),
            from_socket: socket_path(folder, &name(from.0)),
            from_vcpu: 0,
            from_before: from.1,
            from_reservation: from.2,
        });
        match client::call(folder, &name(to.0), request).await? {
            Reply::Adapted { .. } => Ok(()),
            other => Err(ExperimentError::Shares {
                action: "move CPU time between guests",
                why: format!("the guest answered another question: {other:?}"),
            }),
        }
    }
}

impl Senders for Guests<'_> {
    /// The guest starts it.
    fn start(&mut self, _: u16) -> Result<(), ExperimentError> {
        Ok(())
    }

    fn begin(&mut self, number: u16, at: (&Listener, &dyn Fn())) -> Result<(), ExperimentError> {
        wait(number, &mut self.gold, at)?;
        self.best_effort.ended().map_or(Ok(()), Err)
    }

    fn cpu(&self) -> Pair {
        self.cpu
    }

    /// As `chronovisor adapt --from` does it, connecting included.
    fn adapt(&mut self, cpu: Pair) -> Result<Duration, ExperimentError> {
        let begin = Instant::now();
        if cpu != self.cpu {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(ExperimentError::io("set up a client"))?;
            runtime.block_on(self.transfer(cpu))?;
        }
        self.cpu = cpu;
        Ok(begin.elapsed())
    }

    /// That of its vCPU's thread (Documentation/scheduler/sched-stats.rst).
    fn used(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.gold.pid()));
        let mut threads = threads.into_iter().flatten().flatten();
        let time = threads.find_map(|thread| {
            let name = fs::read_to_string(thread.path().join("comm")).ok()?;
            let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let nanos = stat.split_whitespace().next()?.parse().ok()?;
            (name.trim() == "vcpu0").then_some(Duration::from_nanos(nanos))
        });
        time.unwrap_or_default()
    }
}

/// The bridge that the gold guest has its port on, in the source's namespace.
fn bridge(stage: &Stage, network: &Network) -> Result<NetShares, ExperimentError> {
    let capacity = BitRate::new(100_000_000);
    let plan = NetworkPlan {
        bridge: Some(BridgePlan {
            name: BRIDGE.to_owned(),
            capacity,
            headroom: BitRate::new(1_000_000),
            broadcast: BitRate::new(1_000_000),
            mtu: 1_500,
            address: format!("{BRIDGE_ADDRESS}/{BRIDGE_PREFIX}").parse().ok(),
        }),
        ..NetworkPlan::default()
    };
    let applied = network
        .source
        .run(|| NetShares::apply(&stage.folder, &plan));
    let applied = applied.map_err(|error| failed("enter a network namespace")(&error))?;
    applied.map_err(|error| failed("make a bridge for a guest")(&error))
}

fn spec(of: &str, length: Duration) -> String {
    format!(
        "name = \"{}\"\n[guest]\nmemory = \"16MiB\"\nscheduler = \"edf\"\nduration = \"{}\"\n",
        name(of),
        Span::from(Duration::from_secs(length.as_secs() + 5)),
    )
}

fn cpu_of(stage: &Stage, text: String, reservation: Reservation) -> String {
    format!(
        "{text}\n[cpu]\nruntime = \"{}\"\nperiod = \"{}\"\naligned = false\ncpu = {}\n",
        Span::from(reservation.runtime()),
        Span::from(reservation.period()),
        stage.cpu
    )
}

/// The guest's network, and its streams: the last one later than the others.
fn services(fifth: Duration) -> String {
    let prefix = BRIDGE_PREFIX;
    let gateway: IpAddr = BRIDGE_ADDRESS.into();
    let mut text =
        format!("[guest.net]\naddress = \"{GUEST_ADDRESS}/{prefix}\"\ngateway = \"{gateway}\"\n");
    for number in 0..STREAMS {
        let offset = if number + 1 == STREAMS {
            fifth
        } else {
            Duration::ZERO
        };
        // Whole slots between the first frames: streams that all come at once would only wait for one another.
        let offset = offset + SLOT * u32::from(number);
        text += &format!(
            "[[guest.rtp]]\nto = \"{GOLD_TARGET}:{}\"\nexecution = \"{}\"\nperiod = \"{}\"\noffset = \"{}\"\n",
            port(number),
            Span::from(PAPER),
            Span::from(FRAME),
            Span::from(offset),
        );
    }
    text
}

fn device(stage: &Stage) -> String {
    let share = "assured = \"20Mbit/s\"
ceil = \"90Mbit/s\"
priority = \"gold\"";
    let thread = "runtime = \"2ms\"
period = \"40ms\"";
    format!(
        "[network]
{share}
{thread}
cpu = {}
",
        stage.cpu
    )
}
