//! Which rates pages have, from how often they were seen dirty.
//!
//! A page seen dirty in k of n windows of length w has the maximum-likelihood rate -ln(1 - k/n) / w. Taken page by page that is useless for
//! long rounds: a page that was not seen yet would never be written. So the shares of the rate classes among all pages are estimated first,
//! by maximum likelihood (Kiefer and Wolfowitz, "Consistency of the maximum likelihood estimator in the presence of infinitely many
//! incidental parameters", 1956; by expectation maximisation), and a page's rate is what its own windows and these shares together say
//! (Robbins' empirical Bayes).

use super::class::{CLASSES, Class};

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

/// Share of a pattern's pages per class.
pub(crate) type Posterior = [f64; CLASSES];

const MOST_STEPS: usize = 400;
/// The shares are known well enough when no step changes one by more.
const STILL: f64 = 1e-7;

/// The chance of each pattern in each class, relative to its greatest.
fn likelihoods(patterns: &[Pattern], windows: &[Windows; LENGTHS]) -> Vec<Posterior> {
    let mut hit = [[0.0; LENGTHS]; CLASSES];
    for class in Class::all() {
        for (at, window) in windows.iter().enumerate() {
            hit[class.index()][at] = (-(-class.rate() * window.length).exp_m1()).ln();
        }
    }
    let of_class = |pattern: &Pattern, class: Class| {
        let mut log = 0.0;
        for (at, window) in windows.iter().enumerate() {
            let seen = pattern.seen[at].min(window.count);
            if seen > 0.0 {
                log += seen * hit[class.index()][at];
            }
            log -= (window.count - seen) * class.rate() * window.length;
        }
        log
    };
    let of_pattern = |pattern: &Pattern| {
        let mut logs = [0.0; CLASSES];
        for class in Class::all() {
            logs[class.index()] = of_class(pattern, class);
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
    let mut shares = [(1.0 - idle) / (CLASSES - 1) as f64; CLASSES];
    shares[0] = idle;
    shares
}

/// For every pattern the shares of the classes among its pages.
pub(crate) fn fit(patterns: &[Pattern], windows: &[Windows; LENGTHS]) -> Vec<Posterior> {
    let all: f64 = patterns.iter().map(|pattern| pattern.pages).sum();
    let likelihoods = likelihoods(patterns, windows);
    let mut shares = first_shares(patterns, all);
    for _ in 0..MOST_STEPS {
        let mut sums = [0.0; CLASSES];
        for (pattern, likelihood) in patterns.iter().zip(&likelihoods) {
            let posterior = weigh(likelihood, &shares);
            for (sum, share) in sums.iter_mut().zip(posterior) {
                *sum += share * pattern.pages / all;
            }
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
