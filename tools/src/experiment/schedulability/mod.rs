//! Experiment `schedulability`: the share of random task sets that each test accepts and each policy schedules, over the
//! utilisation, as the RT-Xen papers show it (Xi, Wilson, Lu and Gill, EMSOFT 2011; Lee, Xi and others, RTAS 2012; Xi and
//! others, EMSOFT 2014).
//!
//! ```text
//! configuration.rs: a set drawn, split into VMs and vCPUs
//!   ├ interface.rs: a test designs servers and asks whether the host carries them     accepted or not
//!   └ schedule.rs:  a policy is simulated with servers                                a deadline missed or not
//! ```
//!
//! Policies are compared with all tasks released together. What a test accepts is simulated with that test's own servers
//! under every policy for which it holds, released together and apart, and must not miss: the experiment fails otherwise.
//! The converse holds nowhere: a simulated schedule without a miss proves nothing beyond its length and its releases.
//! Nothing here costs time: no switch, no cache; nothing runs on this host.

mod configuration;
mod interface;
mod report;
mod schedule;

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use sched::random::Random;
use sched::sim::SimError;
use serde::Serialize;

use super::ExperimentError;
use super::progress::Progress;
use crate::cli::SchedulabilityArgs;
use crate::command::Context;
use crate::report::Report;
use configuration::{CONFIGURATIONS, Configuration};
use interface::{Interface, Test, usual};
use schedule::{Kind, Releases, meets_all};

/// Sets for every utilisation.
const SETS: usize = 300;
const QUICK_SETS: usize = 30;
/// Sets that one thread draws at a time.
const CHUNK: usize = 4;

/// What came of one set.
struct SetResult {
    /// By test, in the order of the configuration.
    accepted: Vec<bool>,
    /// By policy.
    met: Vec<bool>,
    /// Pairs of an acceptance and a policy that were held against each other.
    checked: usize,
    violations: Vec<Violation>,
}

/// A set that a test accepted and that missed a deadline.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    configuration: &'static str,
    utilisation: f64,
    set: usize,
    test: &'static str,
    policy: &'static str,
}

/// What came of all sets of one utilisation.
pub struct Point {
    /// Utilisation, as a fraction of all CPUs.
    pub utilisation: f64,
    /// Sets accepted by each test.
    pub accepted: Vec<usize>,
    /// Sets without a miss under each policy.
    pub met: Vec<usize>,
}

/// What came of a configuration.
pub struct Compared {
    /// Which.
    pub configuration: &'static Configuration,
    /// By utilisation.
    pub points: Vec<Point>,
}

/// All of the experiment.
pub struct Results {
    /// Task sets for every utilisation.
    pub sets: usize,
    /// Of everything random.
    pub seed: u64,
    /// The configurations.
    pub compared: Vec<Compared>,
    /// Pairs of an acceptance and a policy that were held against each other.
    pub checked: usize,
    /// Pairs that contradict each other.
    pub violations: Vec<Violation>,
}

/// Runs the experiment; its report, the fractions as CSV, and how many acceptances were contradicted by a schedule.
pub fn run(
    context: &Context,
    args: &SchedulabilityArgs,
) -> Result<(Report, String, usize), ExperimentError> {
    let default = if args.quick { QUICK_SETS } else { SETS };
    let sets = args.sets.unwrap_or(default).max(1);
    let utilisations = utilisations(args.quick);
    // Only the proportions count: a set on several CPUs takes that much longer.
    let expected =
        |configuration: &Configuration| Duration::from_millis(10) * weight(configuration);
    let whole: Duration = CONFIGURATIONS.iter().map(expected).sum();
    let steps = u32::try_from(utilisations.len()).unwrap_or(1);
    let mut progress = Progress::new(whole * steps, context.json);
    let mut results = Results {
        sets,
        seed: args.seed,
        compared: Vec::new(),
        checked: 0,
        violations: Vec::new(),
    };
    for configuration in &CONFIGURATIONS {
        let mut points = Vec::new();
        for (place, &utilisation) in utilisations.iter().enumerate() {
            let what = format!("{}: {:.0} %", configuration.key, utilisation * 100.0);
            progress.step(&what, expected(configuration));
            let at = At {
                configuration,
                utilisation,
                first_stream: place << 32,
            };
            let found = at.all_sets(args.seed, sets)?;
            results.checked += found.iter().map(|set| set.checked).sum::<usize>();
            points.push(at.counted(&found));
            let violations = found.into_iter().flat_map(|set| set.violations);
            results.violations.extend(violations);
        }
        results.compared.push(Compared {
            configuration,
            points,
        });
    }
    let violations = results.violations.len();
    Ok((
        report::report(&results, args),
        report::csv(&results),
        violations,
    ))
}

/// 10 to 100 %, and 110, where nothing can be schedulable.
fn utilisations(quick: bool) -> Vec<f64> {
    let step = if quick { 10 } else { 5 };
    let percents = (10..=100).step_by(step).chain([110]);
    percents
        .map(|percent: u32| f64::from(percent) / 100.0)
        .collect()
}

fn weight(configuration: &Configuration) -> u32 {
    if configuration.cpus == 1 { 1 } else { 4 }
}

/// One utilisation of one configuration.
#[derive(Clone, Copy)]
struct At {
    configuration: &'static Configuration,
    utilisation: f64,
    /// Configurations draw the same sets where they draw from the same family.
    first_stream: usize,
}

impl At {
    /// All sets, on all CPUs of this host; their results do not depend on who computes them.
    fn all_sets(self, seed: u64, sets: usize) -> Result<Vec<SetResult>, ExperimentError> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let waiting = Mutex::new((0..sets).step_by(CHUNK));
        let next = || waiting.lock().ok().and_then(|mut chunks| chunks.next());
        let work = || {
            let mut done = Vec::new();
            while let Some(first) = next() {
                for set in first..(first + CHUNK).min(sets) {
                    done.push((set, self.one_set(seed, set)?));
                }
            }
            Ok::<_, SimError>(done)
        };
        let mut all = Vec::with_capacity(sets);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                // A panic aborts the process: joining does not fail.
                all.extend(worker.join().unwrap_or_else(|_| Ok(Vec::new()))?);
            }
            Ok::<_, SimError>(())
        })?;
        all.sort_unstable_by_key(|(set, _)| *set);
        Ok(all.into_iter().map(|(_, result)| result).collect())
    }

    fn one_set(self, seed: u64, set: usize) -> Result<SetResult, SimError> {
        let configuration = self.configuration;
        let mut random = Random::stream(seed, self.first_stream + set);
        let workload = configuration.workload(&mut random, self.utilisation);
        let interfaces: Vec<Option<Interface>> = configuration
            .tests
            .iter()
            .map(|test| test.accept(configuration, &workload))
            .collect();
        let mut result = SetResult {
            accepted: interfaces.iter().map(Option::is_some).collect(),
            met: vec![false; configuration.policies.len()],
            checked: 0,
            violations: Vec::new(),
        };
        let Some(guests) = &workload.guests else {
            return Ok(result);
        };
        let simulated = |interface: &Interface, kind: Kind, releases: Releases| {
            meets_all(configuration, (guests, interface), (kind, releases))
        };
        let usual = |kind: &Kind| usual(configuration, guests, *kind);
        let usual: Vec<Interface> = configuration.policies.iter().map(usual).collect();
        for (place, kind) in configuration.policies.iter().enumerate() {
            result.met[place] = simulated(&usual[place], *kind, Releases::Together)?;
        }
        let apart = random.between(0, u64::MAX);
        for (test, interface) in configuration.tests.iter().zip(&interfaces) {
            let Some(interface) = interface else { continue };
            for (kind, releases) in test.schedules(apart) {
                let place = configuration
                    .policies
                    .iter()
                    .position(|known| *known == kind);
                let known = place
                    .filter(|&place| releases == Releases::Together && *interface == usual[place]);
                let met = match known {
                    Some(place) => result.met[place],
                    None => simulated(interface, kind, releases)?,
                };
                result.checked += 1;
                if !met {
                    result.violations.push(self.violation(set, *test, kind));
                }
            }
        }
        Ok(result)
    }

    fn violation(self, set: usize, test: Test, kind: Kind) -> Violation {
        Violation {
            configuration: self.configuration.key,
            utilisation: self.utilisation,
            set,
            test: test.key(),
            policy: kind.key(),
        }
    }

    fn counted(self, sets: &[SetResult]) -> Point {
        let count = |of: &dyn Fn(&SetResult) -> &Vec<bool>, places: usize| {
            let passed = |place: usize| sets.iter().filter(|set| of(set)[place]).count();
            (0..places).map(passed).collect()
        };
        Point {
            utilisation: self.utilisation,
            accepted: count(&|set| &set.accepted, self.configuration.tests.len()),
            met: count(&|set| &set.met, self.configuration.policies.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_result_whoever_computes_it() {
        for configuration in &CONFIGURATIONS {
            let at = At {
                configuration,
                utilisation: 0.7,
                first_stream: 0,
            };
            let counted = |results: &[SetResult]| {
                let point = at.counted(results);
                (point.accepted, point.met)
            };
            let all = at.all_sets(5, 6).unwrap();
            let alone: Vec<_> = (0..6).map(|set| at.one_set(5, set).unwrap()).collect();
            assert_eq!(counted(&all), counted(&alone), "{}", configuration.key);
            assert!(all.iter().all(|set| set.violations.is_empty()));
        }
    }
}
