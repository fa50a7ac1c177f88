//! `receive`: takes guests that other hosts move here.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use migration::drive::{Arrival, DestinationRemote, boot};
use migration::protocol::{DestinationSetup, Outcome as Session, Patience};
use migration::transport::{Listener, Settings};
use migration::wire::SPOKEN;
use serde::Serialize;
use vmm::guest::Outcome;
use vmm::moving::destination::{Arrived, Host};

use super::Context;
use super::run::{Show, supervise_here, tell};
use crate::cli::ReceiveArgs;
use crate::failure::Failure;
use crate::host_figures::HostCosts;

/// How long one wait for somebody lasts; then the next begins.
const WAIT: Duration = Duration::from_secs(3600);

#[derive(Serialize)]
struct Listening {
    listening: String,
}

/// Takes a guest, and supervises it as `run` does.
pub fn receive(context: &Context, args: &ReceiveArgs) -> Result<u8, Failure> {
    let security = vmm::moving::security(args.security.certificates.as_deref())?;
    let transport = Settings::default();
    let listener = Listener::bind(args.address, security.clone(), transport)?;
    let arrival = Arrival {
        setup: DestinationSetup {
            versions: SPOKEN,
            patience: Patience::default(),
        },
        security,
        transport,
        folder: context.run_dir.clone(),
        boot: boot()?,
        remote: DestinationRemote::default(),
    };
    std::fs::create_dir_all(&context.run_dir)?;
    let listening = listener.address().to_string();
    if context.json {
        super::say(&serde_json::to_string(&Listening { listening })?)?;
    } else {
        eprintln!("waiting for a guest at {listening}");
    }
    let show = Show::new(context, &args.show)?;
    let (running, arrived) = channel();
    let supervising = thread::Builder::new()
        .name("supervise".to_owned())
        .spawn(move || supervise(&arrived, show))?;
    let stayed = session(context, args, &arrival, (&listener, running))?;
    let supervised = supervising
        .join()
        .map_err(|_| Failure::new("the guest's supervisor has panicked"))?;
    match supervised {
        Some(ended) => {
            let (outcome, show) = ended?;
            tell(context, &outcome, show)
        }
        None => {
            Err(Failure::new(stayed.unwrap_or_else(|| {
                "the guest stays where it was".to_owned()
            })))
        }
    }
}

/// Takes part in one session; why no guest is here, if none is.
fn session(
    context: &Context,
    args: &ReceiveArgs,
    arrival: &Arrival,
    (listener, running): (&Listener, std::sync::mpsc::Sender<Arrived>),
) -> Result<Option<String>, Failure> {
    let objection = |vm: &vmm::guest::AdmittedVm| {
        if args.show.force {
            return None;
        }
        let objection = super::host::admits(context, vm.admitted().vcpus()).err();
        objection.map(|failure| failure.to_string())
    };
    let mut host = Host {
        run_dir: &context.run_dir,
        basis: HostCosts::of(&context.run_dir).for_moving(),
        listening: listener.address(),
        objection: &objection,
        running,
        guest: None,
        reason: None,
        stretched: args.stretch_pause.map(|length| length.duration()),
    };
    loop {
        match arrival.receive(listener, &mut host, WAIT) {
            Ok(Some(Session::Moved)) => return Ok(None),
            Ok(Some(Session::Stayed)) => return Ok(host.reason),
            // Who came had no guest to give.
            Ok(None) => {}
            Err(error) => tracing::warn!("{}", Failure::from(error)),
        }
    }
}

/// Supervises the guest that comes; none if none does.
fn supervise(
    arrived: &Receiver<Arrived>,
    mut show: Show,
) -> Option<Result<(Outcome, Show), Failure>> {
    let Arrived { vm, reception } = arrived.recv().ok()?;
    let outcome = supervise_here(vm, reception, &mut show);
    Some(outcome.map(|outcome| (outcome, show)))
}
