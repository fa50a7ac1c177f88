//! Prints what changing the shares of a pair costs: the kernel's part, through [`Network`] alone and beside many ports, and
//! on two remote routers at once. In network namespaces of its own; as root.

use std::error::Error;
use std::io::{stdin, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use net::class::ClassId;
use net::mac::Mac;
use net::namespace::Namespace;
use net::plan::NetworkPlan;
use net::share::{Priority, Share};
use net::tree::Tree;
use net::{Network, Port, PortRequest, agent, device};
use units::BitRate;

type Failure = Box<dyn Error + Send + Sync>;

const ROUNDS: u64 = 2000;
const PORTS: u64 = 200;

fn main() -> Result<(), Failure> {
    if let Some(run_dir) = std::env::args().nth(1) {
        // A router's agent.
        return Ok(agent::serve(
            Path::new(&run_dir),
            stdin().lock(),
            stdout().lock(),
        )?);
    }
    let host = host("host")?;
    let routers = [router("core1")?, router("core2")?];
    let dir = tempfile::tempdir()?;
    host.run(|| local(&dir.path().join("local")))??;
    host.run(|| remote(dir.path(), &routers))??;
    Ok(())
}

/// A namespace with an interface `up0`.
fn host(role: &str) -> Result<Namespace, Failure> {
    let name = format!("chronovisor-cost-{role}-{}", std::process::id());
    let namespace = Namespace::create(&name)?;
    let mut netlink = namespace.netlink()?;
    netlink.apply(&[device::add_ifb("up0")])?;
    let link = device::get(&mut netlink, "up0")?;
    netlink.apply(&[device::set_up(&link, true)])?;
    Ok(namespace)
}

fn router(role: &str) -> Result<Namespace, Failure> {
    host(role)
}

fn rate(megabits: u64) -> BitRate {
    BitRate::new(megabits * 1_000_000)
}

fn local(run_dir: &Path) -> Result<(), Failure> {
    let plan = NetworkPlan::parse(
        "[bridge]\nname='vms'\ncapacity='10Gbit/s'\n[uplink]\ninterface='up0'\ncapacity='10Mbit/s'\nheadroom='0bit/s'\n
        [[share]]\nname='gold'\nassured='6Mbit/s'\ndestinations=['192.0.2.1']\n
        [[share]]\nname='rest'\nassured='3Mbit/s'\ndestinations=['192.0.2.2']\n",
    )?;
    let network = Network::apply(run_dir, &plan)?;
    call()?;
    let uplink = |round: u64| pair(&network, ["gold", "rest"], round);
    print("API, two shares of the uplink", uplink)?;
    let attach = |number: u64| -> Result<Port, Failure> {
        let vm = format!("vm{number}");
        let request = PortRequest {
            mac: Mac::of_name(&vm),
            vm,
            share: Share::new(rate(6), rate(100), Priority::BestEffort)?,
            mtu: 1500,
        };
        Ok(network.attach(&request)?)
    };
    let two = (0..2).map(attach).collect::<Result<Vec<_>, _>>()?;
    let ports = |round: u64| pair(&network, ["vm0", "vm1"], round);
    print("API, two ports, both directions", ports)?;
    let more = (2..PORTS).map(attach).collect::<Result<Vec<_>, _>>()?;
    print(&format!("API, two of {PORTS} ports"), ports)?;
    let other = Network::open(run_dir)?;
    let turns = |round: u64| {
        let who = if round % 2 == 0 { &network } else { &other };
        pair(who, ["vm0", "vm1"], round)
    };
    print(
        &format!("API, two of {PORTS} ports, two processes in turn"),
        turns,
    )?;
    drop((two, more));
    Network::clear(run_dir)?;
    Ok(())
}

/// The kernel's part.
fn call() -> Result<(), Failure> {
    let mut tree = Tree::open("up0")?;
    let class = |minor| ClassId::new(minor).ok_or("a class");
    let (gold, rest) = (class(0x11)?, class(0x12)?);
    let mut change = |round: u64| {
        let share = |assured| Share::new(rate(assured), rate(10), Priority::BestEffort);
        let step = round % 2;
        Ok(tree.change(&[(gold, share(6 + step)?), (rest, share(3 - step)?)])?)
    };
    print("call, two classes", &mut change)
}

fn remote(dir: &Path, routers: &[Namespace]) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let mut text = String::new();
    for (number, router) in routers.iter().enumerate() {
        let run_dir = dir.join(format!("r{number}"));
        text += &format!(
            "[[router]]\nname='r{number}'\nrole='core'\ninterface='up0'\ncapacity='10Mbit/s'\nheadroom='0bit/s'\n
            command=['nsenter','--net=/run/netns/{}','{}','{}']\n",
            router.name(), program.display(), run_dir.display()
        );
    }
    text += "[[share]]\nname='gold'\nassured='6Mbit/s'\ndestinations=['192.0.2.1']\n
        [[share]]\nname='rest'\nassured='3Mbit/s'\ndestinations=['192.0.2.2']\n";
    let run_dir = dir.join("remote");
    let network = Network::apply(&run_dir, &NetworkPlan::parse(&text)?)?;
    let change = |round: u64| pair(&network, ["gold", "rest"], round);
    print("API, two shares on two remote routers", change)?;
    drop(network);
    Network::clear(&run_dir)?;
    Ok(())
}

fn pair(network: &Network, names: [&str; 2], round: u64) -> Result<(), Failure> {
    let step = round % 2;
    let [one, other] = names.map(str::to_owned);
    network.adapt_assured(&[(one, rate(6 + step)), (other, rate(3 - step))])?;
    Ok(())
}

fn print(what: &str, mut change: impl FnMut(u64) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        change(round)?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 1000];
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{what}: median {:.1} us, 99 % {:.1} us, most {:.1} us",
        micros(at(500)),
        micros(at(990)),
        micros(at(999))
    );
    Ok(())
}
