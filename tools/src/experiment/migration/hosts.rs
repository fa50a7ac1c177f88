//! Two hosts: network namespaces with a CPU and a run directory each, and the cable between them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use net::device;
use net::mac::Mac;
use net::namespace::Namespace;
use net::share::{Priority, Share};
use net::tree::Tree;
use sched::cpus;
use sched::ledger::Ledger;

use super::case::Link;
use super::error::MigrationError;
use crate::experiment::ExperimentError;
use crate::experiment::guest::path;
use crate::experiment::namespaces::{self, Plug};
use crate::experiment::part::owner;
use crate::experiment::process::Part;
use crate::experiment::stage::Stage;

/// The end of the cable in each of them.
const DEVICE: &str = "eth0";
const PREFIX: u8 = 24;

/// One of them.
#[derive(Debug)]
pub struct Host {
    /// Its network.
    pub namespace: Namespace,
    /// Its CPU.
    pub cpu: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its run directory.
    pub run_dir: PathBuf,
}

/// Both. Dropping them takes them away with what was promised there.
#[derive(Debug)]
pub struct Hosts {
    /// Where guests are at first.
    pub source: Host,
    /// Where they go.
    pub destination: Host,
    link: Link,
    trees: Vec<Tree>,
}

/// The first CPU that is not `cpu`.
pub fn other_cpu(cpu: u32) -> Result<u32, ExperimentError> {
    let mut others = cpus::online().into_iter().filter(|other| *other != cpu);
    let found = others.next().ok_or(MigrationError::OneCpu { cpu });
    Ok(found?)
}

impl Hosts {
    /// Makes them: the destination has the stage's CPU.
    pub fn build(stage: &Stage) -> Result<Self, ExperimentError> {
        let host = |name: &str, last: u8, cpu: u32| -> Result<Host, ExperimentError> {
            let run_dir = stage.folder.join(name);
            fs::create_dir_all(&run_dir)
                .map_err(ExperimentError::io(format!("create {}", run_dir.display())))?;
            Ok(Host {
                namespace: namespaces::create(name)?,
                cpu,
                address: Ipv4Addr::new(10, 77, 1, last),
                run_dir,
            })
        };
        let source = host("source", 1, other_cpu(stage.cpu)?)?;
        let destination = host("destination", 2, stage.cpu)?;
        let cable = device::add_veth(DEVICE, DEVICE, Some(&destination.namespace));
        source.namespace.netlink()?.apply(&[cable])?;
        for host in [&source, &destination] {
            let plug = Plug {
                device: DEVICE,
                mac: Mac::of_name(host.namespace.name()),
                address: (host.address, PREFIX),
            };
            namespaces::set_up(&host.namespace, &plug)?;
        }
        Ok(Self {
            source,
            destination,
            link: Link::UNLIMITED,
            trees: Vec::new(),
        })
    }

    /// Gives the cable a capacity, in both directions.
    pub fn join_by(&mut self, link: Link) -> Result<(), ExperimentError> {
        if self.link == link {
            return Ok(());
        }
        for tree in self.trees.drain(..) {
            tree.delete()?;
        }
        self.link = Link::UNLIMITED;
        if let Some(rate) = link.rate() {
            let all = Share::new(rate, rate, Priority::BestEffort)?;
            for host in [&self.source, &self.destination] {
                let tree = host.namespace.run(|| Tree::create(DEVICE, rate, &all))??;
                self.trees.push(tree);
            }
        }
        self.link = link;
        Ok(())
    }

    /// Bytes that the source has sent since it exists.
    pub fn sent(&self) -> Result<u64, ExperimentError> {
        let mut netlink = self.source.namespace.netlink()?;
        Ok(device::get(&mut netlink, DEVICE)?.counters.sent_bytes)
    }
}

impl Host {
    /// Starts a program there, on its CPU; `folder` takes its standard error.
    pub fn start(
        &self,
        name: &str,
        folder: &Path,
        words: &[String],
    ) -> Result<Part, ExperimentError> {
        let mut arguments: Vec<String> = ["experiment", "part", "program", "--namespace"]
            .map(str::to_owned)
            .to_vec();
        arguments.push(self.namespace.name().to_owned());
        arguments.extend(["--cpu".to_owned(), self.cpu.to_string()]);
        arguments.extend(owner());
        arguments.push("--".to_owned());
        arguments.extend_from_slice(words);
        Part::spawn(name, folder, &arguments)
    }

    /// The beginning of the words that start this program with the host's run directory.
    pub fn program(&self) -> Vec<String> {
        [
            "/proc/self/exe",
            "--json",
            "--run-dir",
            &path(&self.run_dir),
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Opening it removes what processes that were ended have left in it.
        drop(Ledger::open(&self.run_dir));
    }
}
