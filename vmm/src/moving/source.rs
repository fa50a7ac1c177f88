//! The source: a thread beside the guest's owner that watches, offers, sends, and borrows the guest for the switch-over.

mod session;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use migration::drive::{Departing, Departure, Route, SourceRemote, boot};
use migration::protocol::{Outcome, Patience, SourceEvent, SourceSetup};
use migration::ram::GuestRam;
use migration::transport::{Listener, Settings};
use migration::wire::{MOST_STREAMS, Offer, SPOKEN};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use serde_json::Value;

use self::session::{Borrowed, Host};
use super::admission::{HeldAtSource, SourceSide, Subject, Watch};
use super::facts;
use super::promise::{Promise, Refusal, Wish};
use super::{
    Measured, MigrationError, MigrationOutcome, MigrationRequest, MigrationStatus, PORT, Phase,
    in_full, new_session, own_address, security, travel,
};
use crate::dirty::{Beginning, DirtyPages, GuestPages};
use crate::guest::{Lender, RunningVm};

/// Status is asked for so often, at least, by who wants to know the end.
const ASKED_LATELY: Duration = Duration::from_secs(2);

/// A guest that is being moved away. Dropping it cancels what can be cancelled, and waits for the end.
pub struct Migration {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What is needed of a guest to move it.
pub(crate) struct Leaving {
    subject: Subject,
    run_dir: PathBuf,
    pages: GuestPages,
    log: DirtyPages,
    lender: Lender,
}

impl Leaving {
    /// Of a running guest.
    pub(crate) fn of(vm: &RunningVm, run_dir: PathBuf) -> Self {
        Self {
            subject: Subject::of(vm),
            run_dir,
            pages: vm.pages(),
            log: vm.dirty_pages(Beginning::Dirty),
            lender: vm.lender(),
        }
    }
}

/// Why a guest stays.
enum Stay {
    /// It was not tried.
    Refused(Refusal),
    /// It was only asked.
    Asked,
    /// It went wrong.
    Failed(String),
}

impl From<Refusal> for Stay {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<String> for Stay {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// What the thread and whoever asks share.
pub(super) struct Shared {
    status: Mutex<Told>,
    is_cancelled: AtomicBool,
    remote: SourceRemote,
}

struct Told {
    status: MigrationStatus,
    first_byte: Option<Instant>,
    paused: Option<Instant>,
    asked: Option<Instant>,
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self, phase: Phase) {
        self.told().status.phase = phase;
    }

    pub(super) fn first_byte(&self) -> Instant {
        *self.told().first_byte.get_or_insert_with(Instant::now)
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// The guest runs there, as of now.
    fn arrived(&self) {
        let now = Instant::now();
        let mut told = self.told();
        if told.status.measured.is_some() {
            return;
        }
        let since = |begun: Option<Instant>| {
            begun.map_or(0.0, |begun| now.duration_since(begun).as_secs_f64())
        };
        told.status.measured = Some(Measured {
            total_s: since(told.first_byte),
            downtime_s: since(told.paused),
            ..Measured::default()
        });
    }

    fn promised(&self, promise: &Promise) {
        let mut told = self.told();
        told.status.promise = Some(promise.json());
        told.status.said = Some(promise.to_string());
    }

    fn refused(&self, refusal: &Refusal) {
        let mut told = self.told();
        told.status.outcome = Some(MigrationOutcome::Refused);
        told.status.reason = Some(refusal.reason.clone());
        told.status.nearest = refusal.json().get_mut("nearest").map(Value::take);
        told.status.said = Some(refusal.to_string());
    }

    /// It is over, this way.
    fn over(&self, ended: Result<Outcome, Stay>) {
        let outcome = match ended {
            Ok(Outcome::Moved) => MigrationOutcome::Moved,
            Ok(Outcome::Stayed) => MigrationOutcome::Stayed,
            Err(Stay::Asked) => MigrationOutcome::Predicted,
            Err(Stay::Refused(refusal)) => {
                self.refused(&refusal);
                MigrationOutcome::Refused
            }
            Err(Stay::Failed(reason)) => {
                self.told().status.reason = Some(reason);
                MigrationOutcome::Stayed
            }
        };
        let mut told = self.told();
        let status = &mut told.status;
        status.phase = Phase::Over;
        // The destination may have refused it.
        status.outcome.get_or_insert(outcome);
        status.round = None;
        if let Some(measured) = &mut status.measured {
            let rounds = &status.rounds;
            measured.bytes = rounds.iter().map(|round| round.bytes).sum();
            measured.pages = rounds.iter().map(|round| round.pages).sum();
            measured.rounds = rounds.len();
        }
    }
}

/// Reaches a migration while its guest is lent.
#[derive(Clone)]
pub struct MigrationHandle(Arc<Shared>);

impl MigrationHandle {
    /// How it goes, for who wants to know the end, too.
    #[must_use]
    pub fn ask(&self) -> MigrationStatus {
        let mut told = self.0.told();
        told.asked = Some(Instant::now());
        told.status.clone()
    }

    /// Whether somebody has asked lately, and so will once more.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        let asked = self.0.told().asked;
        asked.is_some_and(|asked| asked.elapsed() < ASKED_LATELY)
    }

    /// Gives it up, if the guest is still this host's.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Release);
        self.0.remote.hand_in(SourceEvent::Cancel);
    }

    /// Whether it has come to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.told().status.phase == Phase::Over
    }
}

impl Migration {
    /// Begins to move a guest.
    ///
    /// # Errors
    /// [`MigrationError`]; nothing has been done then.
    pub(crate) fn begin(
        request: MigrationRequest,
        leaving: Leaving,
    ) -> Result<Self, MigrationError> {
        check(&request)?;
        let departure = Departure::default();
        let status = MigrationStatus {
            name: leaving.subject.plan().name.clone(),
            to: request.to.clone(),
            ..MigrationStatus::default()
        };
        let shared = Arc::new(Shared {
            status: Mutex::new(Told {
                status,
                first_byte: None,
                paused: None,
                asked: None,
            }),
            is_cancelled: AtomicBool::new(false),
            remote: departure.remote(),
        });
        let own = Arc::clone(&shared);
        let run = move || {
            // Signals are for others.
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
            own.over(migrate(&request, leaving, departure, &own));
        };
        let thread = std::thread::Builder::new()
            .name("migrate".to_owned())
            .spawn(run)
            .map_err(MigrationError::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What reaches it.
    #[must_use]
    pub fn handle(&self) -> MigrationHandle {
        MigrationHandle(Arc::clone(&self.shared))
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        self.handle().cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}

fn check(request: &MigrationRequest) -> Result<(), MigrationError> {
    let value = |what, value: String, fits| Err(MigrationError::Value { what, value, fits });
    if !(0.5..1.0).contains(&request.confidence) {
        return value(
            "the confidence",
            request.confidence.to_string(),
            "from 0.5 to below 1",
        );
    }
    if !(1..=MOST_STREAMS).contains(&request.streams) {
        return value(
            "the number of streams",
            request.streams.to_string(),
            "from 1 to 64",
        );
    }
    if request.downtime.is_zero() || request.finish < request.downtime {
        return value(
            "the downtime",
            format!("{:?}", request.downtime),
            "above 0 and at most the time to finish",
        );
    }
    Ok(())
}

/// Moves the guest, or leaves it as it was.
fn migrate(
    request: &MigrationRequest,
    leaving: Leaving,
    departure: Departure,
    shared: &Arc<Shared>,
) -> Result<Outcome, Stay> {
    let Leaving {
        mut subject,
        run_dir,
        pages,
        mut log,
        lender,
    } = leaving;
    let wish = wish(request);
    let side = SourceSide::new(request.basis.clone(), &run_dir)?;
    let seen = subject.observe(&Watch {
        compress: request.compress,
        ..Watch::default()
    })?;
    let proposal = side.propose(&subject, &seen, &wish)?;
    shared.promised(&proposal.promise);
    if request.predict {
        return Err(Stay::Asked);
    }
    // What cannot be had is told before anything is held.
    let mut route = route(request, run_dir)?;
    if shared.is_cancelled() {
        return Err(Stay::Failed("cancelled".to_owned()));
    }
    shared.phase(Phase::Offering);
    let held = side.hold((subject, seen), proposal, &lender)?;
    route.transport.priority = held.priority();
    let listener = listener(&route)?;
    let setup = setup(request, &held, (&pages, listener.address()))?;
    let held = Arc::new(Mutex::new(held));
    let loan = Arc::new(Mutex::new(None));
    let mut machine = Borrowed {
        lender,
        loan: Arc::clone(&loan),
        held: Arc::clone(&held),
        shared: Arc::clone(shared),
    };
    let mut host = Host {
        request,
        held,
        loan,
        shared,
    };
    let guest = Departing {
        machine: &mut machine,
        ram: Arc::new(pages),
        log: &mut log,
    };
    let departure = departure.answering(listener);
    let outcome = departure.migrate(guest, &route, setup, &mut host);
    outcome.map_err(|error| Stay::Failed(in_full(&error)))
}

fn wish(request: &MigrationRequest) -> Wish {
    Wish {
        downtime: request.downtime,
        finish: request.finish,
        confidence: request.confidence,
        rate: request.rate,
        streams: request.streams,
        compress: request.compress,
        protected: request.certificates.is_some(),
        best_effort: request.best_effort,
    }
}

fn route(request: &MigrationRequest, run_dir: PathBuf) -> Result<Route, String> {
    let (host, _) = request
        .to
        .rsplit_once(':')
        .ok_or_else(|| format!("{} has no port", request.to))?;
    let name = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Route {
        address: resolve(&request.to)?,
        name: request.host_name.clone().unwrap_or_else(|| name.to_owned()),
        security: security(request.certificates.as_deref()).map_err(|error| in_full(&error))?,
        transport: Settings::default(),
        folder: run_dir,
    })
}

/// Where the destination can ask how the session stands.
fn listener(route: &Route) -> Result<Listener, String> {
    let failed = |error: std::io::Error| format!("cannot reach {}: {error}", route.address);
    let own = own_address(route.address).map_err(failed)?;
    Listener::bind(
        SocketAddr::new(own, 0),
        route.security.clone(),
        route.transport,
    )
    .map_err(|error| in_full(&error))
}

fn resolve(to: &str) -> Result<SocketAddr, String> {
    let unknown = |reason: String| format!("{to} is no address of a host and a port: {reason}");
    let mut addresses = to
        .to_socket_addrs()
        .map_err(|error| unknown(error.to_string()))?;
    addresses
        .next()
        .ok_or_else(|| unknown("nothing is known of it".to_owned()))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn setup(
    request: &MigrationRequest,
    held: &HeldAtSource,
    (pages, here): (&GuestPages, SocketAddr),
) -> Result<SourceSetup, String> {
    // First the session itself, then whoever answers for the dead.
    let desk = request.desk.clone();
    let desk = desk.unwrap_or_else(|| SocketAddr::new(here.ip(), PORT).to_string());
    let failed = |error: std::io::Error| format!("cannot begin a session: {error}");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a probability in millionths"
    )]
    let confidence_ppm = (request.confidence * 1e6).round() as u32;
    Ok(SourceSetup {
        session: new_session().map_err(failed)?,
        name: held.plan().name.clone(),
        versions: SPOKEN,
        offer: Offer {
            spec: facts::join(&travel::encode(held.plan()), &held.terms()),
            memory_bytes: pages.pages() * crate::memory::PAGE,
            downtime_ns: nanos(request.downtime),
            finish_ns: nanos(request.finish),
            confidence_ppm,
            streams: request.streams,
            features: 0,
            boot: boot().map_err(failed)?,
            inquiries: format!("{here},{desk}"),
        },
        patience: Patience::default(),
    })
}
