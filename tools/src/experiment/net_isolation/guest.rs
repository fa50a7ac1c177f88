//! Gold once more as a real guest: its device behind a port of the host's network, its echo behind the device. Best effort
//! is a played guest behind another port.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::mac::Mac;
use net::plan::NetworkPlan;
use net::share::Priority;
use net::{Network, PortRequest};
use vmm::units::BitRate;

use super::case::{Case, Direction, Lengths, Link};
use super::fabric::{self, ECHO, HOST, SINK};
use super::load::host_end;
use super::measure::{RoundTrips, between};
use crate::command::Context;
use crate::experiment::guest::{Share, path, records};
use crate::experiment::part::owner;
use crate::experiment::process::Part;
use crate::experiment::progress::Progress;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt, namespaces};
use crate::traffic::flood::Flood;
use crate::traffic::played::Played;
use crate::traffic::{Worker, echo};

/// Ten Mbit/s for guests, and what is for everybody and nobody.
const BRIDGE: &str = "isolation1";
const PLAN: &str =
    "[bridge]\nname = \"isolation1\"\ncapacity = \"12Mbit/s\"\naddress = \"10.77.0.1/24\"\n";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const NAME: &str = "isolation-best";
const PATIENCE: Duration = Duration::from_secs(15);

/// Round trips of the guest in a namespace of its own, on `cpu`.
pub fn round_trips(
    context: &Context,
    cpu: u32,
    (lengths, progress): (&Lengths, &Progress),
) -> Result<Vec<RoundTrips>, ExperimentError> {
    let namespace = namespaces::create("guest")?;
    let inside = || {
        let stage = Stage::without_partition(context, cpu)?;
        let network = Network::apply(&stage.folder, &NetworkPlan::parse(PLAN)?)?;
        let trips = measured(&stage, &network, (lengths, progress));
        drop(network);
        let cleared = Network::clear(&stage.folder);
        stage.clear()?;
        let trips = trips?;
        cleared?;
        Ok(trips)
    };
    namespace.run(inside)?
}

fn measured(
    stage: &Stage,
    network: &Network,
    (lengths, progress): (&Lengths, &Progress),
) -> Result<Vec<RoundTrips>, ExperimentError> {
    let mut guest = start(stage)?;
    let mac = Mac::of_name(NAME);
    let share = |megabits: u64| BitRate::new(megabits * 1_000_000);
    let port = network.attach(&PortRequest {
        vm: NAME.to_owned(),
        mac,
        share: net::share::Share::new(share(4), share(12), Priority::BestEffort)?,
        mtu: 1500,
    })?;
    let other = Played::new(Arc::new(port), mac, SocketAddrV4::new(OTHER, SINK))
        .map_err(ExperimentError::io("play a guest behind a tap"))?;
    until_it_answers(&mut guest, progress)?;
    let mut trips = Vec::new();
    for flood in [None, Some(Direction::In), Some(Direction::Out)] {
        let _load = flood.map(|flood| Load::start(flood, &other)).transpose()?;
        interrupt::sleep(lengths.settle, || progress.tick())?;
        trips.push(RoundTrips {
            link: Link::SMALL,
            flood,
            is_guest: true,
            times: between(GUEST, (lengths, progress))?,
        });
    }
    Ok(trips)
}

/// A flood into the played guest or out of it.
struct Load {
    _into: Option<Flood>,
    _out: Option<(Worker, Worker)>,
}

impl Load {
    fn start(flood: Direction, other: &Played) -> Result<Self, ExperimentError> {
        let failed = || ExperimentError::io("flood with datagrams");
        let rate = Case::flood(&Link::SMALL);
        if flood == Direction::In {
            let socket = fabric::to(SocketAddrV4::new(OTHER, SINK)).map_err(failed())?;
            return Ok(Self {
                _into: Some(Flood::start(socket, rate).map_err(failed())?),
                _out: None,
            });
        }
        let sink = fabric::receive(SINK)
            .and_then(echo::sink)
            .map_err(failed())?;
        let to = host_end(BRIDGE)?;
        let flood = other.flood(to, rate, None).map_err(failed())?;
        Ok(Self {
            _into: None,
            _out: Some((flood, sink)),
        })
    }
}

fn start(stage: &Stage) -> Result<Part, ExperimentError> {
    let spec = stage.folder.join("gold.toml");
    let (pid, cpu) = (std::process::id(), stage.cpu);
    let table = stage.cpu_table(&Share::ORDINARY, &[]);
    let text = format!(
        "name = \"isolation-{pid}\"\n\n[guest]\nmemory = \"8MiB\"\ncommand_line = \"sched=rm duration=3600s net={GUEST}/24 echo={ECHO}\"\n\n{table}\n[network]\nassured = \"6Mbit/s\"\nceil = \"12Mbit/s\"\npriority = \"gold\"\nbackend = \"other\"\ncpu = {cpu}\n"
    );
    fs::write(&spec, text).map_err(ExperimentError::io(format!("write {}", spec.display())))?;
    let mut arguments = stage.arguments("guest");
    arguments.extend([path(&spec), "--records".to_owned(), path(&records(stage))]);
    arguments.extend(owner());
    Part::spawn("the guest", &stage.folder, &arguments)
}

fn until_it_answers(guest: &mut Part, progress: &Progress) -> Result<(), ExperimentError> {
    let failed = || ExperimentError::io("reach the guest");
    let socket = UdpSocket::bind((HOST, 0)).map_err(failed())?;
    socket
        .connect(SocketAddrV4::new(GUEST, ECHO))
        .map_err(failed())?;
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .map_err(failed())?;
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        if let Some(error) = guest.ended() {
            return Err(error);
        }
        progress.tick();
        // Until its device is up nobody takes the datagram.
        let answered = socket
            .send(&[0; 64])
            .and_then(|_| socket.recv(&mut [0; 64]));
        match answered {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > PATIENCE => return Err(failed()(error)),
            Err(_) => {}
        }
    }
}
