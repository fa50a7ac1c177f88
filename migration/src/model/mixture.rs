//! Which rates pages have, from how often they were seen dirty.
//!
//! A page seen dirty in k of n windows of length w has the maximum-likelihood rate -ln(1 - k/n) / w. Taken page by page that is useless for
//! long rounds: a page that was not seen yet would never be written. So the shares of the rate classes among all pages are estimated first,
//! by maximum likelihood (Kiefer and Wolfowitz, "Consistency of the maximum likelihood estimator in the presence of infinitely many
//! incidental parameters", 1956; by expectation maximisation), and a page's rate is what its own windows and these shares together say
//! (Robbins' empirical Bayes).
//!
//! Pages that are written in turn give themselves away by the lengths of windows: as many times as many of them are dirty in a longer one.

use super::class::{CLASSES, Class};
use super::writes::Rhythm;

/// How many lengths of windows are told apart.
pub(crate) const LENGTHS: usize = 4;

/// Windows of about one length: how many, older ones counting less, and their mean length in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Windows {
    pub(crate) count: f64,
    pub(crate) length: f64,
}

/// Pages that were seen dirty equally often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pattern {
    /// In how many windows of each length.
    pub(crate) seen: [f64; LENGTHS],
    /// How many pages.
    pub(crate) pages: f64,
}

/// Kinds of pages: every class in every rhythm.
const KINDS: usize = 2 * CLASSES;

/// Share of a pattern's pages per kind.
pub(crate) type Posterior = [f64; KINDS];

/// All kinds, as in a `Posterior`.
pub(crate) fn kinds() -> impl Iterator<Item = (Rhythm, Class)> + Clone {
    let rhythms = [Rhythm::Random, Rhythm::Periodic];
    rhythms
        .into_iter()
        .flat_map(|rhythm| Class::all().map(move |class| (rhythm, class)))
}

/// Where neither rhythm explains the windows better, this share of the pages is taken to be written periodically.
const PERIODIC: f64 = 0.2;
/// Not even of periodic pages is it certain that they are dirty.
const SURE: f64 = 1.0 - 1e-4;

const MOST_STEPS: usize = 400;
/// The shares are known well enough when no step changes one by more.
const STILL: f64 = 1e-6;

/// The chance of each pattern in each class, relative to its greatest.
fn likelihoods(patterns: &[Pattern], windows: &[Windows; LENGTHS]) -> Vec<Posterior> {
    // Logarithms of the chances to be dirty and to be clean in a window.
    let chances: Vec<[(f64, f64); LENGTHS]> = kinds()
        .map(|(rhythm, class)| {
            windows.map(|window| {
                let chance = rhythm.chance(class.rate(), window.length);
                let clean = match rhythm {
                    Rhythm::Random => -class.rate() * window.length,
                    Rhythm::Periodic => (-chance.min(SURE)).ln_1p(),
                };
                (chance.ln(), clean)
            })
        })
        .collect();
    let of_kind = |pattern: &Pattern, chances: &[(f64, f64); LENGTHS]| {
        let mut log = 0.0;
        for (at, (dirty, clean)) in chances.iter().enumerate() {
            let seen = pattern.seen[at].min(windows[at].count);
            if seen > 0.0 {
                log += seen * dirty;
            }
            log += (windows[at].count - seen) * clean;
        }
        log
    };
    let of_pattern = |pattern: &Pattern| {
        let mut logs = [0.0; KINDS];
        for (log, chances) in logs.iter_mut().zip(&chances) {
            *log = of_kind(pattern, chances);
        }
        let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        logs.map(|log| (log - greatest).exp())
    };
    patterns.iter().map(of_pattern).collect()
}

/// Multiplies by the shares and scales to the sum 1.
fn weigh(likelihood: &Posterior, shares: &Posterior) -> Posterior {
    let mut weighed = *likelihood;
    let mut sum = 0.0;
    for (weight, share) in weighed.iter_mut().zip(shares) {
        *weight *= share;
        sum += *weight;
    }
    if sum > 0.0 {
        weighed.map(|weight| weight / sum)
    } else {
        // All classes that could explain it have lost their share to rounding.
        let total: f64 = likelihood.iter().sum();
        likelihood.map(|weight| weight / total)
    }
}

/// Where the search begins: most pages that were not seen are idle, the others may be anything.
fn first_shares(patterns: &[Pattern], all: f64) -> Posterior {
    let unseen = |pattern: &&Pattern| pattern.seen.iter().all(|&seen| seen <= 0.0);
    let unseen: f64 = patterns.iter().filter(unseen).map(|p| p.pages).sum();
    let idle = 0.9 * unseen / all;
    let others = (1.0 - idle) / (CLASSES - 1) as f64;
    let mut shares = [0.0; KINDS];
    for (share, (rhythm, class)) in shares.iter_mut().zip(kinds()) {
        *share = match (rhythm, class) {
            (Rhythm::Random, Class::IDLE) => idle,
            (Rhythm::Periodic, Class::IDLE) => 0.0,
            (Rhythm::Random, _) => others * (1.0 - PERIODIC),
            (Rhythm::Periodic, _) => others * PERIODIC,
        };
    }
    shares
}

/// For every pattern the shares of the kinds among its pages.
pub(crate) fn fit(patterns: &[Pattern], windows: &[Windows; LENGTHS]) -> Vec<Posterior> {
    let all: f64 = patterns.iter().map(|pattern| pattern.pages).sum();
    let likelihoods = likelihoods(patterns, windows);
    let mut shares = first_shares(patterns, all);
    for _ in 0..MOST_STEPS {
        // By how much each kind's share grows: what it explains of the patterns, by what all kinds together do.
        let mut gains = [0.0; KINDS];
        for (pattern, likelihood) in patterns.iter().zip(&likelihoods) {
            let explained: f64 = likelihood.iter().zip(&shares).map(|(l, s)| l * s).sum();
            let weight = pattern.pages / (all * explained.max(f64::MIN_POSITIVE));
            for (gain, likelihood) in gains.iter_mut().zip(likelihood) {
                *gain += likelihood * weight;
            }
        }
        let mut sums = shares;
        for (sum, gain) in sums.iter_mut().zip(gains) {
            *sum *= gain;
        }
        let change = |(old, new): (&f64, &f64)| (old - new).abs();
        let moved = shares.iter().zip(&sums).map(change).fold(0.0, f64::max);
        shares = sums;
        if moved < STILL {
            break;
        }
    }
    likelihoods
        .iter()
        .map(|likelihood| weigh(likelihood, &shares))
        .collect()
}
