//! What is promised of a migration, and what has to be reserved for it; or why it is refused, and what would be possible. Computes only.
//!
//! From how the guest writes, what is asked, and what can be had follow, by the model's inverse ([`migration::model::least`]), the least rate and the
//! least shares of CPUs; with what is then taken, the prediction is made anew. Where a rate is assured to migrations anyway, or was asked for, that one
//! is taken as far as the CPUs reach; otherwise the least.
//!
//! What a page costs was measured (SPECIFICATION.md, parts of live migration), with a release build.

mod rate;
mod text;

use std::time::Duration;

use migration::model::{
    CpuCost, Impossible, Limits, Need, Path, PathError, Prediction, Random, Requirement, Skewed,
    WhyNot, Writes, least, predict,
};
use sched::request::{BackendKind, Enforcement, VcpuRequest};
use sched::reservation::Reservation;

use super::contract::{Breach, Judgement};
use crate::units::{BitRate, ByteSize};

use rate::{CONTENT, UNLIMITED, content, greatest_rate, on_the_link, reached, scaled, taking};

pub use text::{Nearest, Refusal};

/// What a page takes of either host's CPU whatever its content: reading it, finding that it is zero.
const PER_PAGE: Duration = Duration::from_nanos(500);
/// What a MiB takes in one stream, sent and received: 9.35 Gbit/s with TLS are 0.9 ms.
const PER_MEBIBYTE: Duration = Duration::from_micros(800);
const PER_MEBIBYTE_PLAIN: Duration = Duration::from_micros(350);
/// What compressing a MiB takes in addition (Zstandard, level 1), and decompressing it.
const COMPRESSING: Duration = Duration::from_micros(2500);
const DECOMPRESSING: Duration = Duration::from_micros(900);
/// What the first write to a page whose bit was cleared costs a guest on the dearest kind of KVM known.
pub const TRACKED_WRITE: Duration = Duration::from_micros(27);
/// Pause, last look at the log, state saved and restored, resumption (135, 272, 461, 455 and 7 us), and four messages.
const SWITCH_OVER: Skewed = Skewed {
    median: Duration::from_micros(1500),
    p95: Duration::from_millis(3),
};
/// Between rounds no page travels.
const ROUND: Duration = Duration::from_millis(1);
/// From the decision to switch over to the pause.
const DELAY: Duration = Duration::from_millis(1);
/// Pages cleared at once, before they are read.
const PER_CLEAR: u32 = 256;
/// Reserved CPU time, in terms of what is expected to be used: pages do not come evenly.
const HEADROOM: f64 = 1.2;
/// Least budget of a stream's thread.
const LEAST_RUNTIME: Duration = Duration::from_micros(100);
/// CPU time of a switch-over in one piece, on either host.
const SWITCH_RUNTIME: Duration = Duration::from_millis(1);
/// Draws of the prediction; the same guest and wish get the same answer.
const RANDOM: Random = Random::new(5);

/// What is asked of a migration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wish {
    /// Longest time for which the guest may stand still.
    pub downtime: Duration,
    /// Longest time until it runs at the destination.
    pub finish: Duration,
    /// Share of all migrations that have to keep both, above 0 and below 1.
    pub confidence: f64,
    /// The rate to take on the link, headers included.
    pub rate: Option<BitRate>,
    /// Data streams.
    pub streams: u16,
    /// Whether pages are compressed.
    pub compress: bool,
    /// Whether the connections are encrypted.
    pub protected: bool,
    /// What cannot be reserved is left out and said, instead of being a reason to refuse; nothing is reserved for the threads.
    pub best_effort: bool,
}

/// What is known of the guest.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// How it writes.
    pub writes: &'a Writes,
    /// Pages of zeroes.
    pub zero_pages: u64,
    /// Bytes that compression leaves of a byte; 1 without.
    pub ratio: f64,
}

/// What can be had for a migration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Means {
    /// Rate that is assured to migrations on the link, the lesser of both hosts'.
    pub assured: Option<BitRate>,
    /// Largest shares of CPUs at source and destination for the streams together.
    pub cpus: [f64; 2],
    /// Whether threads are in reservations.
    pub reserved: bool,
}

/// A value that is kept in half of all cases, and one that is kept with the confidence asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<T> {
    /// In half of all cases.
    pub median: T,
    /// With the confidence.
    pub bound: T,
}

/// What is promised, and needed for it.
#[derive(Debug, Clone)]
pub struct Promise {
    /// What was asked.
    pub wish: Wish,
    /// From the first byte until the guest runs at the destination.
    pub total: Bounded<Duration>,
    /// For how long it stands still.
    pub downtime: Bounded<Duration>,
    /// Bytes on the link, headers included.
    pub bytes: Bounded<u64>,
    /// Rate on the link, headers included, to which it is paced; none where nothing paces it.
    pub rate: Option<BitRate>,
    /// The least rate that keeps what is asked.
    pub need: BitRate,
    /// Whether the rate is assured by the link's queues.
    pub assured: bool,
    /// Reservations of the threads on each host: one for each stream, and the last for who switches over. Empty where nothing is reserved.
    pub threads: Vec<Reservation>,
    /// Share of the guest's time that tracking takes at most, at the confidence.
    pub tracking: f64,
    /// What its vCPUs have to have meanwhile.
    pub contract: Judgement,
    /// What pages travel on, as it was predicted for.
    pub path: Path,
}

impl Wish {
    /// What the model is asked to keep.
    #[must_use]
    pub fn requirement(&self) -> Requirement {
        Requirement {
            downtime: self.downtime,
            finish: self.finish,
            confidence: self.confidence,
        }
    }

    /// # Errors
    /// Names the value that makes no sense.
    pub fn check(&self) -> Result<(), Refusal> {
        let refused = |what: &str, fits: &str| Err(Refusal::because(format!("{what}: {fits}")));
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            let what = format!("a confidence of {} is none", self.confidence);
            return refused(&what, "write one above 0 and below 1, such as 0.95");
        }
        if self.downtime.is_zero() || self.finish <= self.downtime {
            let what = format!(
                "a downtime of {:?} within {:?} cannot be",
                self.downtime, self.finish
            );
            return refused(
                &what,
                "both have to be above 0, and the downtime the shorter one",
            );
        }
        if !(1..=migration::wire::message::MOST_STREAMS).contains(&self.streams) {
            let what = format!("{} streams cannot be", self.streams);
            return refused(&what, "ask for 1 to 64");
        }
        Ok(())
    }

    fn costs(&self) -> [CpuCost; 2] {
        let content = match self.protected {
            true => PER_MEBIBYTE,
            false => PER_MEBIBYTE_PLAIN,
        };
        let more = match self.compress {
            true => [COMPRESSING, DECOMPRESSING],
            false => [Duration::ZERO; 2],
        };
        more.map(|more| CpuCost {
            per_page: PER_PAGE,
            per_mebibyte: content + more,
            share: 1.0,
        })
    }

    fn path(&self, guest: &Guest<'_>) -> Path {
        let [source, destination] = self.costs();
        Path {
            rate: UNLIMITED,
            rate_spread: 0.03,
            // Headers are counted in the rate: those of pages come once for many.
            page_overhead: ByteSize::new(1),
            zero_pages: guest.zero_pages,
            compression: guest.ratio,
            compression_again: guest.ratio,
            round_cost: ROUND,
            pages_per_clear: PER_CLEAR,
            switch_delay: DELAY,
            switch_over: SWITCH_OVER,
            source,
            destination,
            tracked_write: TRACKED_WRITE,
        }
    }
}

/// What is promised with what can be had. `contract` says what the vCPUs have to have if tracking takes so much of the guest's time.
///
/// # Errors
/// [`Refusal`], with what would be possible.
pub fn promise(
    guest: &Guest<'_>,
    wish: &Wish,
    means: &Means,
    contract: &dyn Fn(f64) -> Result<Judgement, Breach>,
) -> Result<Promise, Refusal> {
    wish.check()?;
    let most = greatest_rate(wish, means)?;
    let path = wish.path(guest);
    let requirement = wish.requirement();
    let headroom = if means.reserved { HEADROOM } else { 1.0 };
    let [source, destination] = means.cpus.map(|share| share / headroom);
    let limits = Limits {
        rate: content(most),
        source,
        destination,
    };
    let need = least(guest.writes, &path, &requirement, &limits, &RANDOM)
        .map_err(|impossible| refused(impossible, wish))?;
    let taken = match (means.reserved, wish.rate.or(means.assured)) {
        (true, None) => need.rate,
        (true, Some(rate)) => reached(&path, content(rate), &limits).max(need.rate),
        (false, rate) => content(rate.unwrap_or(UNLIMITED)),
    };
    let (taken, path, prediction) = predicted((guest, wish), &path, (taken, &limits), need.clone());
    let tracking = prediction.tracking.peak.quantile(wish.confidence) as f64 / 1e5;
    let contract = contract(tracking).map_err(|breach| Refusal::of(&breach, wish))?;
    let paced = means.reserved || wish.rate.or(means.assured).is_some();
    let mut promise = promised((wish, path), &prediction, (tracking, contract));
    promise.need = on_the_link(need.rate).min(most);
    promise.rate = paced.then(|| on_the_link(taken).min(most));
    promise.assured = means.assured.is_some();
    if means.reserved {
        promise.threads = threads(wish, &promise.path)?;
    }
    Ok(promise)
}

/// What is expected at a rate that is no less than the least; at the least where that does better.
fn predicted(
    (guest, wish): (&Guest<'_>, &Wish),
    path: &Path,
    (taken, limits): (BitRate, &Limits),
    need: Need,
) -> (BitRate, Path, Prediction) {
    if taken > need.rate {
        let path = taking(path, taken, limits);
        let found = predict(guest.writes, &path, &wish.requirement(), &RANDOM);
        if let Ok(found) = found
            && found.converges.is_ok()
        {
            return (taken, path, found);
        }
    }
    let path = taking(path, need.rate, limits);
    (need.rate, path, need.prediction)
}

fn promised(
    (wish, path): (&Wish, Path),
    prediction: &Prediction,
    (tracking, contract): (f64, Judgement),
) -> Promise {
    let times = |times: &migration::model::Outcomes<Duration>| Bounded {
        median: times.median(),
        bound: times.quantile(wish.confidence),
    };
    let bytes = |bytes: u64| scaled(bytes, 1.0 / CONTENT);
    Promise {
        wish: *wish,
        total: times(&prediction.total),
        downtime: times(&prediction.downtime),
        bytes: Bounded {
            median: bytes(prediction.bytes.median()),
            bound: bytes(prediction.bytes.quantile(wish.confidence)),
        },
        rate: None,
        need: UNLIMITED,
        assured: false,
        threads: Vec::new(),
        tracking,
        contract,
        path,
    }
}

/// Reservations of the threads of one host; the same on both, as the dearer one needs them.
fn threads(wish: &Wish, path: &Path) -> Result<Vec<Reservation>, Refusal> {
    let ms = Duration::from_millis;
    let period = (wish.downtime / 5).clamp(ms(1), ms(4));
    let share = path.source.share.max(path.destination.share) * HEADROOM;
    let share = share / f64::from(wish.streams);
    let runtime = period.mul_f64(share.min(1.0)).max(LEAST_RUNTIME);
    let switch_period = (wish.downtime / 2).clamp(ms(2), ms(10));
    let one = |runtime, period| {
        Reservation::new(runtime, period).map_err(|error| Refusal::because(error.to_string()))
    };
    let stream = one(whole_micros(runtime).min(period), period)?;
    let mut all = vec![stream; usize::from(wish.streams)];
    all.push(one(SWITCH_RUNTIME, switch_period)?);
    Ok(all)
}

fn whole_micros(time: Duration) -> Duration {
    let micros = time.as_nanos().div_ceil(1_000);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// What these threads ask of a host's CPUs. They are paced below their budgets, so that the kernel's tick need not end these.
#[must_use]
pub fn requests(threads: &[Reservation]) -> Vec<VcpuRequest> {
    let request = |reservation: &Reservation| VcpuRequest {
        reservation: Some(*reservation),
        backend: BackendKind::Deadline,
        enforcement: Enforcement::Tick,
        ..VcpuRequest::default()
    };
    threads.iter().map(request).collect()
}

fn refused(impossible: Impossible, wish: &Wish) -> Refusal {
    match impossible {
        Impossible::Path(PathError::Nonsense { what, value, valid }) => {
            Refusal::because(format!("{what} would be {value}, which has to be {valid}"))
        }
        Impossible::Path(error) => Refusal::because(error.to_string()),
        Impossible::NotKept { why, nearest, .. } => {
            let mut refusal = not_kept(&why, wish);
            refusal.nearest = Some(Nearest {
                downtime: Some(nearest.downtime).filter(|time| *time > wish.downtime),
                finish: Some(nearest.finish).filter(|time| *time > wish.finish),
                ..Nearest::default()
            });
            refusal
        }
    }
}

/// What the model says, in words that name no part of the model.
fn not_kept(why: &WhyNot, wish: &Wish) -> Refusal {
    let reason = match why {
        WhyNot::WritesTooFast { dirtied, sent, .. } => format!(
            "the guest writes {dirtied} pages/s while {sent} pages/s can be sent, so that it would stand still for longer than {:?}",
            wish.downtime
        ),
        WhyNot::SwitchOverAlone { takes, .. } => format!(
            "pausing it, its state and the switch-over alone take {takes:?} of {:?}",
            wish.downtime
        ),
        WhyNot::Late { .. } => format!("it would not be over within {:?}", wish.finish),
        WhyNot::TooSeldom {
            kept, confidence, ..
        } => format!(
            "only {:.0} of 100 such migrations keep a downtime of {:?} within {:?}, and {:.0} have to",
            kept * 100.0,
            wish.downtime,
            wish.finish,
            confidence * 100.0
        ),
    };
    Refusal::because(reason)
}

#[cfg(test)]
mod tests;
