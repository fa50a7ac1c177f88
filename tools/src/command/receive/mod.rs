//! `receive`: takes guests that other hosts move here.

mod daemon;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use migration::drive::{Arrival, DestinationRemote, boot};
use migration::protocol::{DestinationSetup, Outcome as Session, Patience};
use migration::transport::{Listener, Settings};
use migration::wire::SPOKEN;
use nix::sys::signal::Signal;
use serde::Serialize;
use vmm::guest::Outcome;
use vmm::kernel::inherited;
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

/// Takes guests: one in this process, or any number in processes of their own.
pub fn receive(context: &Context, args: &ReceiveArgs) -> Result<u8, Failure> {
    std::fs::create_dir_all(&context.run_dir)?;
    // Whatever is wrong with it is told before anybody calls.
    let security = vmm::moving::security(args.security.certificates.as_deref())?;
    if !args.once {
        if args.show.records.is_some() {
            return Err(Failure::new(
                "the records of several guests do not go into one file: write --once, too",
            ));
        }
        return daemon::serve(context, args);
    }
    let place = Place::of(args)?;
    let listener = Listener::over(place.socket, security.clone(), Settings::default())?;
    if place.turn.is_none() {
        announce(context, listener.address())?;
    }
    let arrival = Arrival {
        setup: DestinationSetup {
            versions: SPOKEN,
            patience: Patience::default(),
        },
        security,
        transport: Settings::default(),
        folder: context.run_dir.clone(),
        boot: boot()?,
        remote: DestinationRemote::default(),
    };
    let show = Show::new(context, &args.show)?;
    let (running, arrived) = channel();
    let supervising = thread::Builder::new()
        .name("supervise".to_owned())
        .spawn(move || supervise(&arrived, show))?;
    let stayed = session(context, args, &arrival, (&listener, running))?;
    // The next one may wait.
    drop((listener, place.turn));
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

/// Says where guests are waited for.
fn announce(context: &Context, address: SocketAddr) -> Result<(), Failure> {
    let listening = address.to_string();
    if context.json {
        return super::say(&serde_json::to_string(&Listening { listening })?);
    }
    eprintln!("waiting for a guest at {listening}");
    Ok(())
}

/// Where this process waits.
struct Place {
    socket: TcpListener,
    /// Closed when the next one may wait there.
    turn: Option<OwnedFd>,
}

impl Place {
    fn of(args: &ReceiveArgs) -> Result<Self, Failure> {
        match args.inherited.as_slice() {
            [socket, turn] => {
                // Without the process that started this one nobody waits for a guest here.
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                Ok(Self {
                    socket: inherited(*socket)?.into(),
                    turn: Some(inherited(*turn)?),
                })
            }
            _ => Ok(Self {
                socket: bind(args.address)?,
                turn: None,
            }),
        }
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        Failure::from(error).while_doing(&format!("cannot accept connections at {address}"))
    })
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
            Ok(Some(Session::Moved)) => {
                // It is on its own now. Fails only for a signal that is none.
                let _ = nix::sys::prctl::set_pdeathsig(None);
                return Ok(None);
            }
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
