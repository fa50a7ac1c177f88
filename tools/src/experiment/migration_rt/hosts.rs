//! The two hosts: a CPU, a run directory and a network namespace each, and the link between them.
//!
//! ```text
//! host A: CPU, ledger, 10.79.0.1 ===== link, shared out by HTB on both ends ===== host B: CPU, ledger, 10.79.0.2
//!                                 migration | a VM's share (gold) | the rest            10.79.0.3 takes that VM's traffic
//! ```
//!
//! Everything carries the number of this process ([`namespaces`]), or lies in the stage's folder.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use net::Network as NetShares;
use net::device;
use net::mac::Mac;
use net::namespace::Namespace;
use net::plan::{NetworkPlan, SharePlan, Traffic, UplinkPlan};
use net::share::{Priority, Share};
use sched::ledger::Ledger;
use units::BitRate;

use crate::experiment::ExperimentError;
use crate::experiment::guest::path;
use crate::experiment::namespaces::{self, Plug, failed, program};
use crate::experiment::process::Part;
use crate::experiment::stage::Stage;

/// What the link carries.
pub const LINK: BitRate = BitRate::new(1_000_000_000);
/// What is never promised of it.
const HEADROOM: BitRate = BitRate::new(10_000_000);
/// Assured for migrations.
pub const MIGRATION: BitRate = BitRate::new(500_000_000);
/// Assured for another VM on host A.
pub const NEIGHBOUR: BitRate = BitRate::new(50_000_000);
/// The share's name.
const NEIGHBOUR_SHARE: &str = "neighbour";
/// The end of the link in both namespaces.
const DEVICE: &str = "link";
const PREFIX: u8 = 24;
/// Where that VM's traffic goes, on host B.
pub const NEIGHBOUR_TARGET: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 3);
/// Where `receive` listens.
const PORT: u16 = 7420;

/// A host.
pub struct Host {
    /// Its CPU.
    pub cpu: u32,
    /// Its run directory.
    pub folder: PathBuf,
    /// Its network.
    pub namespace: Namespace,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its shares of the link.
    shares: Option<NetShares>,
}

/// Both. Dropping it removes what the stage does not.
pub struct Hosts<'a> {
    /// Where they are.
    pub stage: &'a Stage,
    /// Where the guest is first.
    pub a: Host,
    /// Where it goes.
    pub b: Host,
    /// Where the certificates are.
    certificates: PathBuf,
}

impl Host {
    fn create(
        stage: &Stage,
        (name, cpu): (&str, u32),
        address: Ipv4Addr,
    ) -> Result<Self, ExperimentError> {
        let folder = stage.folder.join(name);
        fs::create_dir_all(&folder)
            .map_err(ExperimentError::io(format!("create {}", folder.display())))?;
        Ok(Self {
            cpu,
            folder,
            namespace: namespaces::create(&format!("migration-{name}"))?,
            address,
            shares: None,
        })
    }

    /// `chronovisor --json WORDS` on this host.
    pub fn command(&self, words: &[&str]) -> Command {
        let folder = path(&self.folder);
        let mut all = ["/proc/self/exe", "--json", "--run-dir", &folder].to_vec();
        all.extend(words);
        let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
        program(&self.namespace, &all)
    }

    /// Where it receives guests.
    pub fn door(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    fn plug(&self) -> Plug<'static> {
        Plug {
            device: DEVICE,
            mac: Mac::of_name(&self.address.to_string()),
            address: (self.address, PREFIX),
        }
    }

    /// Shares the link out.
    fn share(&mut self) -> Result<(), ExperimentError> {
        let plan = NetworkPlan {
            uplink: Some(UplinkPlan {
                interfaces: vec![DEVICE.to_owned()],
                capacity: LINK,
                headroom: HEADROOM,
                migration: Some(MIGRATION),
            }),
            shares: vec![SharePlan {
                name: NEIGHBOUR_SHARE.to_owned(),
                share: Share {
                    assured: NEIGHBOUR,
                    ceil: NEIGHBOUR,
                    priority: Priority::Gold,
                },
                traffic: Traffic::Destinations(vec![NEIGHBOUR_TARGET.into()]),
            }],
            ..NetworkPlan::default()
        };
        let applied = self
            .namespace
            .run(|| NetShares::apply(&self.folder, &plan))?;
        self.shares = Some(applied.map_err(|error| failed("share the link out")(&error))?);
        Ok(())
    }

    /// Bytes that the other VM's class has sent so far.
    pub fn neighbour_bytes(&self) -> Option<u64> {
        let shares = self.shares.as_ref()?;
        let status = self.namespace.run(|| shares.status()).ok()?.ok()?;
        let uplink = status.uplink.into_iter().next()?;
        let mut of = uplink.shares.into_iter();
        let share = of.find(|share| share.name == NEIGHBOUR_SHARE)?;
        Some(share.counters.bytes)
    }
}

impl<'a> Hosts<'a> {
    /// Builds both, and the link.
    pub fn build(stage: &'a Stage, cpus: (u32, u32)) -> Result<Self, ExperimentError> {
        namespaces::sweep();
        let a = Host::create(stage, ("a", cpus.0), Ipv4Addr::new(10, 79, 0, 1))?;
        let b = Host::create(stage, ("b", cpus.1), Ipv4Addr::new(10, 79, 0, 2))?;
        let mut hosts = Self {
            certificates: stage.folder.join("certificates"),
            stage,
            a,
            b,
        };
        hosts.join()?;
        hosts.certify()?;
        Ok(hosts)
    }

    fn join(&mut self) -> Result<(), ExperimentError> {
        let (a, b) = (&self.a, &self.b);
        let cable = device::add_veth(DEVICE, DEVICE, Some(&b.namespace));
        a.namespace.netlink()?.apply(&[cable])?;
        namespaces::set_up(&a.namespace, &a.plug())?;
        namespaces::set_up(&b.namespace, &b.plug())?;
        let mut netlink = b.namespace.netlink()?;
        let link = device::get(&mut netlink, DEVICE)?;
        netlink.apply(&[device::add_address(&link, NEIGHBOUR_TARGET.into(), PREFIX)])?;
        self.a.share()?;
        self.b.share()
    }

    fn certify(&self) -> Result<(), ExperimentError> {
        let (a, b) = (self.a.address.to_string(), self.b.address.to_string());
        let words = ["certificates", &path(&self.certificates), &a, &b].map(str::to_owned);
        let mut command = Command::new("/proc/self/exe");
        command.args(words);
        let part = Part::start("certificates", &self.stage.folder, command)?;
        part.finish(PATIENCE, || {}).map(drop)
    }

    /// The folder of a host's certificate.
    pub fn certificate(&self, of: &Host) -> String {
        path(&self.certificates.join(of.address.to_string()))
    }
}

/// How long certificates may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

impl Drop for Hosts<'_> {
    fn drop(&mut self) {
        for host in [&self.a, &self.b] {
            // Opening it removes what guests that were ended have left.
            drop(Ledger::open(&host.folder));
        }
    }
}
