//! TCP throughput and UDP round trips of a guest, beside the same image under QEMU's microvm machine.
//!
//! Both guests run at once, each behind a port of the same bridge with the same share, all of their threads that carry
//! traffic ordinary ones on the measured CPU, and are measured in turns; the other one sleeps then. The load is made
//! elsewhere. QEMU's tap has the header for offloads, as ours.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use net::mac::Mac;
use net::plan::NetworkPlan;
use net::share::{Priority, Share};
use net::{Network, Port, PortRequest};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use vmm::units::BitRate;

use super::guest::{Guest, GuestPlan};
use super::outcome::{Check, Row, Target};
use super::peer::Qemu;
use super::scratch::Scratch;
use super::supply::SupplyRuns;
use super::{Bench, wait};
use crate::experiment::load::enter;
use crate::experiment::{interrupt, namespaces};
use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};
use crate::traffic::echo::{self, EchoError};
use crate::traffic::{Worker, stream};

const PLAN: &str =
    "[bridge]\nname = \"bench0\"\ncapacity = \"40Gbit/s\"\naddress = \"10.77.0.1/24\"\n";
const OWN: &str = "bench-net";
const PEER: &str = "bench-net-peer";
const MEMORY: &str = "16MiB";
/// Services of both guests, which end by themselves should nobody end them.
const SERVICES: &str = "echo=7 sink=9 source=19";
const ECHO: u16 = 7;
const SINK: u16 = 9;
const SOURCE: u16 = 19;
/// Until a connection has found its rate.
const SETTLE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let Some(qemu) = Qemu::find() else {
        return Err(Failure::new(
            "QEMU is not installed (package qemu-system-x86)",
        ));
    };
    namespaces::sweep();
    let namespace = namespaces::create("bench")?;
    let (folder, cpu) = (bench.scratch.path("network"), bench.cpu);
    let rounds = bench.pick(7, 3);
    let length = bench.pick(Duration::from_secs(2), Duration::from_millis(500));
    let quick = bench.quick;
    // Threads and processes started there are in it.
    let inside = || -> Result<Row, Failure> {
        let own = Bench {
            scratch: Scratch::new(&folder)?,
            run_dir: folder,
            cpu,
            quick,
            qemu: Some(qemu),
            supplies: SupplyRuns::default(),
        };
        let network = Network::apply(&own.run_dir, &NetworkPlan::parse(PLAN)?)?;
        let row = compare(&own, &network, (rounds, length));
        drop(network);
        let cleared = Network::clear(&own.run_dir);
        let row = row?;
        cleared?;
        Ok(row)
    };
    namespace.run(inside)?
}

/// What is measured of one of them.
#[derive(Default)]
struct Figures {
    /// Bits per second that the guest took.
    taken: Vec<f64>,
    /// Bits per second that the guest gave.
    given: Vec<f64>,
    /// Medians of round trips, seconds.
    trips: Vec<f64>,
}

fn compare(
    bench: &Bench,
    network: &Network,
    (rounds, length): (usize, Duration),
) -> Result<Row, Failure> {
    let ours = start_own(bench)?;
    let theirs = Peer::start(bench, network)?;
    let places = [address(2), address(3)];
    for place in places {
        until_it_answers(place)?;
    }
    let mut figures = [Figures::default(), Figures::default()];
    for _ in 0..rounds {
        for (place, figures) in places.iter().zip(&mut figures) {
            figures.taken.push(taken(*place, length)?);
            figures.given.push(given(*place, length)?);
            figures.trips.push(trips(*place, length)?);
        }
    }
    drop(theirs);
    ours.stop()?;
    let [own, peer] = figures;
    Ok(row(&own, &peer))
}

fn row(own: &Figures, peer: &Figures) -> Row {
    let throughput = |label: &str, own: &[f64], peer: &[f64]| {
        Check::new(label, (ratio(own, peer), "x"), Target::AtLeast(1.3)).beside(format!(
            "{:.2} against {:.2} Gbit/s",
            median(own) / 1e9,
            median(peer) / 1e9
        ))
    };
    let times = (ratio(&own.trips, &peer.trips), "x");
    let trips = Check::new("UDP echo against QEMU", times, Target::AtMost(0.8)).beside(format!(
        "{:.1} against {:.1} us",
        median(&own.trips) * 1e6,
        median(&peer.trips) * 1e6
    ));
    let spread = |values: &[f64], scale: f64| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min) / scale;
        let most = values.iter().copied().fold(0.0, f64::max) / scale;
        format!("{least:.2} to {most:.2}")
    };
    let told = |name: &str, figures: &Figures| {
        format!(
            "{name}: takes {} Gbit/s, gives {} Gbit/s, round trips of {} us",
            spread(&figures.taken, 1e9),
            spread(&figures.given, 1e9),
            spread(&figures.trips, 1e-6)
        )
    };
    Row::new(vec![
        throughput("TCP into the guest, against QEMU", &own.taken, &peer.taken),
        throughput(
            "TCP out of the guest, against QEMU",
            &own.given,
            &peer.given,
        ),
        trips,
    ])
    .note(told("this program", own))
    .note(told("QEMU", peer))
}

/// The median of the ratios of rounds: what was measured one after the other shares the state of the host.
fn ratio(own: &[f64], peer: &[f64]) -> f64 {
    let ratios = own.iter().zip(peer).map(|(own, peer)| own / peer);
    median(&ratios.collect::<Vec<_>>())
}

/// The middle one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn line(last: u8) -> String {
    format!("sched=rm duration=600s net={}/24 {SERVICES}", address(last))
}

fn start_own(bench: &Bench) -> Result<Guest, Failure> {
    let cpu = bench.cpu;
    let plan = GuestPlan {
        name: OWN.to_owned(),
        line: line(2),
        cpu: format!(
            "backend = \"other\"\ncpu = {cpu}\n[network]\nassured = \"10Gbit/s\"\nceil = \"40Gbit/s\"\nbackend = \"other\"\ncpu = {cpu}\n"
        ),
        memory: Some(MEMORY),
    };
    bench.start(&plan)
}

/// QEMU with a port of its own. Dropping it ends it.
struct Peer {
    child: Child,
    _port: Port,
}

impl Peer {
    fn start(bench: &Bench, network: &Network) -> Result<Self, Failure> {
        let port = network.attach(&PortRequest {
            vm: PEER.to_owned(),
            mac: Mac::of_name(PEER),
            share: Share::new(
                BitRate::new(10_000_000_000),
                BitRate::new(40_000_000_000),
                Priority::BestEffort,
            )?,
            mtu: 1500,
        })?;
        let Some(qemu) = &bench.qemu else {
            return Err(Failure::new("QEMU is not installed"));
        };
        let image = bench.scratch.write("rt-guest", guest_images::RT_GUEST)?;
        // A copy that it inherits.
        let tap = port.tap.as_fd().try_clone_to_owned()?;
        fcntl(&tap, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let command = qemu.with_network(&image, (&line(3), "16"), (&tap, Mac::of_name(PEER)));
        let cpu = bench.cpu;
        // A thread's processor and group are those of the processes that it starts.
        let started = std::thread::scope(|scope| {
            let start = || -> Result<Child, Failure> {
                enter(cpu)?;
                spawned(command)
            };
            scope.spawn(start).join()
        });
        let child = started.unwrap_or_else(|_| Err(Failure::new("starting QEMU panicked")))?;
        Ok(Self { child, _port: port })
    }
}

fn spawned(mut command: Command) -> Result<Child, Failure> {
    Ok(command.stdout(Stdio::null()).spawn()?)
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_it_answers(place: Ipv4Addr) -> Result<(), Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddrV4::new(place, ECHO))?;
    let answered = wait::wait_for(PATIENCE, || {
        let span = (Duration::from_millis(1), Duration::ZERO);
        let times = round_trips(&socket, span)?;
        Ok((times.unfinished() < times.count()).then_some(()))
    })?;
    answered.ok_or_else(|| {
        Failure::new(format!(
            "the guest at {place} answers no datagram within {PATIENCE:?}"
        ))
    })
}

fn trips(place: Ipv4Addr, length: Duration) -> Result<f64, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddrV4::new(place, ECHO))?;
    let times = round_trips(&socket, (length, Duration::from_micros(200)))?;
    let median = times.quantile(Quantile::MEDIAN);
    let median = median.ok_or_else(|| Failure::new(format!("{place} lost most datagrams")))?;
    Ok(median.as_secs_f64())
}

fn round_trips(socket: &UdpSocket, span: (Duration, Duration)) -> Result<Distribution, Failure> {
    echo::round_trips(socket, span, interrupt::check).map_err(|error| match error {
        EchoError::Socket(error) => error.into(),
        EchoError::Ended(error) => error.into(),
    })
}

fn taken(place: Ipv4Addr, length: Duration) -> Result<f64, Failure> {
    let stream = stream::connect(SocketAddrV4::new(place, SINK), stream::PATIENCE)?;
    rate(&stream::write(stream)?, length)
}

fn given(place: Ipv4Addr, length: Duration) -> Result<f64, Failure> {
    let stream = stream::connect(SocketAddrV4::new(place, SOURCE), stream::PATIENCE)?;
    rate(&stream::read(stream)?, length)
}

/// Bits per second that a connection carries once it has found its rate.
fn rate(worker: &Worker, length: Duration) -> Result<f64, Failure> {
    wait::sleep(SETTLE)?;
    let (begin, before) = (Instant::now(), worker.count());
    wait::sleep(length)?;
    let bytes = worker.count() - before;
    Ok(bytes as f64 * 8.0 / begin.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_on_a_busy_host_does_not_decide() {
        assert!((ratio(&[9.0, 1.0, 6.0], &[6.0, 8.0, 4.0]) - 1.5).abs() < 1e-12);
        assert!(ratio(&[], &[]).is_nan());
    }
}
