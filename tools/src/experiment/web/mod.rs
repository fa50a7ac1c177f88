//! Experiment `web`: a CPU-bound web service on the host, in a guest, in a guest beside real-time load, and in a guest
//! inside a hard reservation beside the same load.
//!
//! After the macro benchmark of Cucinotta, Anastasi and Abeni, "Providing performance guarantees to virtual machines using
//! real-time scheduling": 10 clients with 10 requests each for an image rotated by 20 degrees, 20 runs, reservation
//! (3 ms, 5 ms). Beyond the paper, the guest in its reservation also without load.
//!
//! ```text
//! namespace of the experiment: client.rs (threads) ── bridge, shares ── tap ── guest on the CPU measured on
//!                                       └──────────── loopback ──────── server.rs, the host's own, on the same CPU
//! ```

mod client;
mod guest;
mod http;
mod report;
mod row;
mod server;
mod statistics;

pub use client::ClientError;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rt_abi::image;

use super::host::HostBefore;
use super::namespaces;
use super::progress::Progress;
use super::scenario::start_load;
use super::stage::{Promise, Stage, choose_cpu};
use super::{ExperimentError, interrupt};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use client::Job;
use guest::WebGuest;
use row::{Measured, Row};

/// At a time.
pub const CLIENTS: usize = 10;
/// Of each client.
pub const REQUESTS: usize = 10;
const RUNS: usize = 20;
const QUICK_RUNS: usize = 1;
const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);
/// About how long a hundred requests take, for the progress bar.
const RUN: Duration = Duration::from_secs(6);

/// All of the experiment.
pub struct Results {
    /// The CPU measured on.
    pub cpu: u32,
    /// What the reservation rested on.
    pub promise: Promise,
    /// Runs of each row.
    pub runs: usize,
    /// The rows in their order.
    pub measured: Vec<Measured>,
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let cpu = choose_cpu(args.cpu)?;
    let (runs, listen) = if args.quick {
        (QUICK_RUNS, QUICK_LISTEN)
    } else {
        (RUNS, LISTEN)
    };
    let all = u32::try_from(runs * Row::ALL.len()).unwrap_or(u32::MAX);
    let mut progress = Progress::new(RUN * all + listen * 2, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    namespaces::sweep();
    let namespace = namespaces::create("web")?;
    // Threads and processes started there are in it.
    let results = namespace.run(|| -> Result<_, ExperimentError> {
        let stage = Stage::set(context, cpu)?;
        let promise = stage.promise.clone();
        let measured = measure_all(&stage, runs, &mut progress);
        stage.clear()?;
        Ok(Results {
            cpu,
            promise,
            runs,
            measured: measured?,
        })
    })??;
    progress.step("listening to the CPU", listen);
    let host = host.after(cpu, &results.promise.to_string(), listen);
    Ok(report::report(&results, args, host))
}

fn measure_all(
    stage: &Stage,
    runs: usize,
    progress: &mut Progress,
) -> Result<Vec<Measured>, ExperimentError> {
    let mut measured = Vec::new();
    for row in Row::ALL {
        let outcome = match measure(row, stage, (runs, progress)) {
            Err(ExperimentError::Interrupted) => return Err(ExperimentError::Interrupted),
            other => other.map_err(|error| error.to_string()),
        };
        measured.push(Measured { row, runs: outcome });
    }
    Ok(measured)
}

/// All runs of a row, on one server.
fn measure(
    row: Row,
    stage: &Stage,
    (runs, progress): (usize, &mut Progress),
) -> Result<Vec<Vec<Duration>>, ExperimentError> {
    interrupt::check()?;
    let share = row.share()?;
    let name = format!("web: {}", row.name());
    let mut all = |server: SocketAddr| -> Result<_, ExperimentError> {
        let job = job(server);
        // Ends when it goes out of scope, also on an error.
        let _load = row.is_loaded().then(|| start_load(stage)).transpose()?;
        let run = |_| {
            progress.step(&name, RUN);
            job.run(|| progress.tick())
        };
        (0..runs).map(run).collect()
    };
    match share {
        None => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .map_err(ExperimentError::io("listen for HTTP"))?;
            let at = listener
                .local_addr()
                .map_err(ExperimentError::io("listen for HTTP"))?;
            let _server = server::serve(listener, stage.cpu, rotation())
                .map_err(ExperimentError::io("start a web server"))?;
            all(at)
        }
        Some(share) => {
            let guest = WebGuest::start(stage, share)?;
            all(guest.server())
        }
    }
}

fn job(server: SocketAddr) -> Job {
    Job {
        server,
        path: "/".to_owned(),
        is_right: |body| String::from_utf8_lossy(body).contains(&right_answer()),
        clients: CLIENTS,
        requests: REQUESTS,
    }
}

/// What stands in the answer to a request whose image was rotated as it should be.
fn right_answer() -> String {
    format!("{:08x}", image::ROTATED)
}

/// The job of the guest's server.
fn rotation() -> impl FnMut() -> Vec<u8> {
    let mut painted = vec![0; image::BYTES];
    image::paint(image::SIDE, &mut painted);
    let mut rotated = vec![0; image::BYTES];
    move || {
        image::rotate(image::SIDE, &painted, &mut rotated);
        format!("{:08x}\n", image::checksum(&rotated)).into_bytes()
    }
}
