//! `tree`: the levels of the host, from the CPUs up.

use std::collections::HashMap;
use std::fmt::Write;

use sched::admission::{Bandwidth, demand};
use sched::framework::{Kind, Manager, Resource};
use sched::ledger::{Ledger, VcpuEntry};
use sched::request::Granted;
use serde::Serialize;

use super::Context;
use super::check::describe;
use crate::failure::Failure;

/// A resource, and what stands on it.
#[derive(Serialize)]
struct Node {
    kind: String,
    name: String,
    /// What a thread was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    granted: Option<Granted>,
    /// Of a CPU: the share of it that is promised, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    promised: Option<f64>,
    above: Vec<Node>,
}

/// What threads were granted, by their ids.
type Grants = HashMap<String, Granted>;

/// Shows what stands on every CPU.
pub fn tree(context: &Context) -> Result<u8, Failure> {
    let ledger = Ledger::open(&context.run_dir)?;
    let levels = ledger.resources()?;
    let entries = ledger.entries()?;
    let vcpus = entries.iter().flat_map(|entry| &entry.vcpus);
    let granted = |vcpu: &VcpuEntry| Some((vcpu.tid?.to_string(), vcpu.granted.clone()));
    let grants: Grants = vcpus.filter_map(granted).collect();
    let cpus = levels.lowest.iter();
    let promised = |cpu: &Resource| -> Bandwidth {
        let vcpus = entries.iter().flat_map(|entry| &entry.vcpus);
        let here =
            |vcpu: &&VcpuEntry| Resource::cpu(vcpu.granted.placement.cpu()).name() == cpu.name();
        let here = vcpus.filter(here);
        here.map(|vcpu| demand(&vcpu.granted.request)).sum()
    };
    let cpu = |cpu: &Resource| Node {
        promised: Some(promised(cpu).as_f64() * 100.0),
        ..Node::new(cpu, &grants)
    };
    let cpus: Vec<_> = cpus.map(cpu).collect();
    context.print(&cpus, |cpus| text(cpus))?;
    Ok(0)
}

impl Node {
    fn new(resource: &Resource, grants: &Grants) -> Self {
        let is_thread = resource.kind() == Kind::THREAD;
        let granted = grants.get(resource.name()).filter(|_| is_thread);
        let above = resource.above();
        Self {
            kind: resource.kind().to_string(),
            name: resource.name().to_owned(),
            granted: granted.cloned(),
            promised: None,
            above: above.iter().map(|above| Self::new(above, grants)).collect(),
        }
    }

    fn write(&self, depth: usize, text: &mut String) {
        let _ = write!(text, "{:1$}{2} {3}", "", 2 * depth, self.kind, self.name);
        if let Some(granted) = &self.granted {
            let _ = write!(text, ": {}", describe(granted));
        }
        if let Some(percent) = self.promised {
            let _ = write!(text, ": {percent:.2} % promised");
        }
        text.push('\n');
        self.above
            .iter()
            .for_each(|above| above.write(depth + 1, text));
    }
}

fn text(cpus: &[Node]) -> String {
    if cpus.is_empty() {
        return "nothing is promised, and no CPU is a partition".to_owned();
    }
    let mut text = String::new();
    cpus.iter().for_each(|cpu| cpu.write(0, &mut text));
    text
}
