//! `check`: what `run` would do.

use std::fmt::Write;
use std::path::Path;

use net::mac::Mac;
use net::share::Share;
use net::{Network, PortRequest};
use sched::feedback::Envelope;
use sched::framework::Manager;
use sched::ledger::Ledger;
use sched::request::Granted;
use serde::Serialize;

use super::Context;
use super::plan::{DesignAnswer, Planned, read_plan};
use crate::failure::Failure;

#[derive(Serialize)]
struct Answer {
    name: String,
    memory: String,
    command_line: String,
    vcpus: Vec<Granted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    design: Option<DesignAnswer>,
    /// Where budgets follow the need.
    feedback: Option<Envelope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkAnswer>,
}

/// The network device.
#[derive(Serialize)]
struct NetworkAnswer {
    share: Share,
    mac: Mac,
    mtu: u16,
    thread: Granted,
}

impl NetworkAnswer {
    fn new(port: &PortRequest, thread: Granted) -> Self {
        Self {
            share: port.share,
            mac: port.mac,
            mtu: port.mtu,
            thread,
        }
    }
}

/// Says what would be reserved, and whether it fits.
pub fn check(context: &Context, spec: &Path) -> Result<u8, Failure> {
    let planned = read_plan(context, spec)?;
    let ledger = Ledger::open(&context.run_dir)?;
    let checked = ledger.admit(&planned.plan.name, &planned.plan.threads());
    let vcpus = checked.map_err(|refusal| {
        planned.tell();
        Failure::from(refusal).refused()
    })?;
    let Planned { plan, design } = planned;
    super::host::admits(context, &vcpus)?;
    let mut vcpus = vcpus;
    let network = match plan.network {
        Some(network) => {
            Network::open(&context.run_dir)
                .and_then(|shares| shares.admit(&network.port))
                .map_err(super::net::failure)?;
            let thread = vcpus.pop();
            thread.map(|thread| NetworkAnswer::new(&network.port, thread))
        }
        None => None,
    };
    let answer = Answer {
        name: plan.name,
        memory: plan.memory.size.to_string(),
        command_line: plan.command_line,
        vcpus,
        design,
        feedback: plan.feedback,
        network,
    };
    context.print(&answer, text)?;
    Ok(0)
}

fn text(answer: &Answer) -> String {
    let mut text = format!(
        "{}: fits, with {} of locked memory\n",
        answer.name, answer.memory
    );
    if let Some(envelope) = &answer.feedback {
        let (least, first) = (envelope.least(), envelope.initial());
        let _ = writeln!(
            text,
            "  budgets follow the need, from {first:?} on and down to {least:?}; the greatest is what is admitted"
        );
    }
    for granted in &answer.vcpus {
        let _ = writeln!(text, "  vCPU {}: {}", granted.vcpu, describe(granted));
    }
    if let Some(network) = &answer.network {
        let NetworkAnswer {
            share, mac, mtu, ..
        } = network;
        let _ = writeln!(
            text,
            "  network: {share}, {mac}, packets of up to {mtu} bytes"
        );
        let _ = writeln!(text, "  network thread: {}", describe(&network.thread));
    }
    if let Some(design) = &answer.design {
        text += "designed:\n";
        text += &design.text("  ");
    }
    text
}

/// One vCPU's grant in a line.
pub fn describe(granted: &Granted) -> String {
    let backend = granted.request.backend;
    let what = match granted.request.reservation {
        Some(reservation) => format!("{reservation} by {backend}"),
        None => format!("no reservation, {backend}"),
    };
    let surplus = if granted.surplus.is_zero() {
        String::new()
    } else {
        format!(", {:?} more for the kernel's backstop", granted.surplus)
    };
    format!(
        "{what}{surplus}, {}; test: {}",
        granted.placement, granted.test
    )
}
