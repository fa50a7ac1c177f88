//! The report of `schedulability`.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::configuration::Configuration;
use super::schedule::{Kind, LENGTH};
use super::{Compared, Point, Results, Test, Violation};
use crate::cli::SchedulabilityArgs;
use crate::report::axis::percent;
use crate::report::curve_plot::{Curve, CurvePlot, Panel};
use crate::report::table::{Cell, Column, Table};
use crate::report::{Report, Section};

/// Utilisations of the tables, in per cent.
const COLUMNS: [u32; 5] = [50, 60, 70, 80, 90];
/// Violations that are listed.
const LISTED: usize = 20;

/// A test or a policy of a configuration.
struct Candidate<'a> {
    kind: &'static str,
    key: &'static str,
    name: &'static str,
    style: usize,
    passed: Box<dyn Fn(&Point) -> usize + 'a>,
}

/// Line styles, in every figure the same. What often coincides has dashes over another colour.
fn style_of_test(test: Test) -> usize {
    match test {
        Test::Periodic | Test::Global => 0,
        Test::Linear => 1,
        Test::Aligned => 3,
        Test::Table => 4,
        Test::FixedPriority | Test::Multiprocessor => 6,
        Test::ExplicitDeadline => 7,
        Test::Deferrable => 8,
    }
}

fn style_of_policy(kind: Kind) -> usize {
    match kind {
        Kind::Edf => 0,
        Kind::Deferrable => 1,
        Kind::Periodic => 2,
        Kind::Sporadic => 4,
        Kind::Credit => 5,
        Kind::ProportionalShare => 6,
        Kind::Table => 7,
        Kind::WorkConserving => 8,
    }
}

fn tests(configuration: &Configuration) -> Vec<Candidate<'_>> {
    let candidate = |(place, test): (usize, &Test)| Candidate {
        kind: "test",
        key: test.key(),
        name: test.name(),
        style: style_of_test(*test),
        passed: Box::new(move |point| point.accepted[place]),
    };
    configuration
        .tests
        .iter()
        .enumerate()
        .map(candidate)
        .collect()
}

fn policies(configuration: &Configuration) -> Vec<Candidate<'_>> {
    let candidate = |(place, kind): (usize, &Kind)| Candidate {
        kind: "policy",
        key: kind.key(),
        name: kind.name(),
        style: style_of_policy(*kind),
        passed: Box::new(move |point| point.met[place]),
    };
    configuration
        .policies
        .iter()
        .enumerate()
        .map(candidate)
        .collect()
}

impl Candidate<'_> {
    fn curve(&self, compared: &Compared, sets: usize) -> Curve {
        let share = |point: &Point| (self.passed)(point) as f64 / sets as f64;
        Curve {
            name: self.name.to_owned(),
            style: self.style,
            points: compared
                .points
                .iter()
                .map(|point| (point.utilisation, share(point)))
                .collect(),
        }
    }
}

/// The whole report.
pub fn report(results: &Results, args: &SchedulabilityArgs) -> Report {
    let compared = results.compared.iter();
    let sections = [checks(results)];
    Report {
        title: "Schedulability: which task sets each test accepts and each policy schedules"
            .to_owned(),
        summary: summary(results),
        command_line: command_line(args),
        host: Vec::new(),
        sections: compared
            .map(|compared| section(compared, results.sets))
            .chain(sections)
            .collect(),
        jobs: Vec::new(),
        raw: raw(results),
    }
}

fn command_line(args: &SchedulabilityArgs) -> String {
    let mut line = "chronovisor experiment schedulability".to_owned();
    if args.quick {
        line += " --quick";
    }
    if let Some(sets) = args.sets {
        line += &format!(" --sets {sets}");
    }
    line + &format!(" --seed {}", args.seed)
}

fn summary(results: &Results) -> String {
    let verdict = match results.violations.len() {
        0 => "None of these schedules missed a deadline.".to_owned(),
        count => {
            format!("{count} of these schedules missed a deadline: a test or a policy is wrong.")
        }
    };
    format!(
        "{} random task sets for every utilisation, split into VMs, each vCPU in the least server that a test designs. \
         What a test accepted was simulated for {} s under every policy for which it holds, with tasks released together \
         and apart: {} schedules. {verdict}",
        results.sets,
        LENGTH.as_secs(),
        results.checked,
    )
}

fn section(compared: &Compared, sets: usize) -> Section {
    let configuration = compared.configuration;
    let (tests, policies) = (tests(configuration), policies(configuration));
    let curves = |of: &[Candidate]| of.iter().map(|one| one.curve(compared, sets)).collect();
    let plot = CurvePlot {
        title: format!("Task sets: {}", configuration.name),
        note: note(configuration, sets),
        axis: "utilisation of all CPUs; upwards the share of the sets".to_owned(),
        panels: vec![
            Panel {
                name: "Accepted by the analysis".to_owned(),
                curves: curves(&tests),
            },
            Panel {
                name: "Simulated without a deadline missed".to_owned(),
                curves: curves(&policies),
            },
        ],
    };
    let caption = "Above, what can be promised beforehand; below, what happened when all tasks were released together. \
                   The servers below are those of the periodic resource model, also where they do not fit; the \
                   table's periods are harmonic.";
    Section {
        heading: capitalised(configuration.name),
        prose: vec![note(configuration, sets)],
        tables: vec![
            table(compared, sets, &tests),
            table(compared, sets, &policies),
        ],
        figures: vec![plot.figure(configuration.key, caption)],
    }
}

fn note(configuration: &Configuration, sets: usize) -> String {
    use super::configuration::Family;
    let family = match configuration.family {
        Family::UUniFast => "12 tasks by UUniFast in 4 VMs, log-uniform periods of 10 to 200 ms",
        Family::RandFixedSum => {
            "24 tasks by Randfixedsum in 6 VMs of 2 vCPUs, log-uniform periods of 10 to 200 ms"
        }
        Family::Avionics => "4 partitions of 2 to 5 tasks, harmonic periods of 25 to 200 ms",
    };
    format!(
        "{sets} sets for every utilisation: {family}; a server's period is half of its VM's shortest."
    )
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

fn table(compared: &Compared, sets: usize, candidates: &[Candidate]) -> Table {
    let (title, caption) = match candidates.first().map(|candidate| candidate.kind) {
        Some("policy") => ("policy", "Simulated without a miss, in % of the sets."),
        _ => ("test", "Accepted by a test, in % of the sets."),
    };
    let heads = COLUMNS.map(|at| Column::new(&format!("at {at} %"), ""));
    let half = Column::new("half of them up to", "%");
    let rows = candidates.iter().map(|candidate| {
        let curve = candidate.curve(compared, sets);
        let at = |percent: u32| {
            let wanted = f64::from(percent) / 100.0;
            let point = curve
                .points
                .iter()
                .find(|(at, _)| (at - wanted).abs() < 1e-6);
            point.map_or(Cell::Missing, |(_, share)| Cell::number(share * 100.0, 0))
        };
        let half = curve
            .half()
            .map_or(Cell::Missing, |half| Cell::number(half * 100.0, 0));
        let name = Cell::text(candidate.name);
        [name]
            .into_iter()
            .chain(COLUMNS.map(at))
            .chain([half])
            .collect()
    });
    Table {
        caption: caption.to_owned(),
        columns: [Column::new(title, "")]
            .into_iter()
            .chain(heads)
            .chain([half])
            .collect(),
        rows: rows.collect(),
    }
}

/// What was held against what.
fn checks(results: &Results) -> Section {
    let line = |violation: &Violation| {
        format!(
            "Set {} of {} at {}: accepted by {}, missed under {}.",
            violation.set,
            violation.configuration,
            percent(violation.utilisation),
            violation.test,
            violation.policy,
        )
    };
    let held = "A test answers for its own policies: the EDF tests for hard constant bandwidth servers, the response times of \
                servers for periodic, work-conserving and sporadic servers, and for deferrable ones with the jitter that \
                keeping a budget costs, the table for its own slots. No test answers for credit and proportional share. The \
                multiprocessor model is for guests that move tasks among their vCPUs, which those of the simulator do \
                not: nothing was held against it.";
    let prose = [held.to_owned(), summary(results)];
    let listed = results.violations.iter().take(LISTED).map(line);
    Section {
        heading: "Acceptance held against schedules".to_owned(),
        prose: prose.into_iter().chain(listed).collect(),
        ..Section::default()
    }
}

/// All candidates of a configuration at a point.
fn candidates(configuration: &Configuration) -> impl Iterator<Item = Candidate<'_>> {
    tests(configuration)
        .into_iter()
        .chain(policies(configuration))
}

/// Every fraction, one in a line.
pub fn csv(results: &Results) -> String {
    let mut text = "configuration,utilisation,kind,name,sets,passed\n".to_owned();
    for compared in &results.compared {
        let configuration = compared.configuration;
        for candidate in candidates(configuration) {
            for point in &compared.points {
                // Writing into a String cannot fail.
                let _ = writeln!(
                    text,
                    "{},{},{},{},{},{}",
                    configuration.key,
                    point.utilisation,
                    candidate.kind,
                    candidate.key,
                    results.sets,
                    (candidate.passed)(point),
                );
            }
        }
    }
    text
}

fn raw(results: &Results) -> Value {
    let share = |candidate: &Candidate, point: &Point| {
        let passed = (candidate.passed)(point) as f64;
        (
            candidate.key.to_owned(),
            json!(passed / results.sets as f64),
        )
    };
    let shares = |candidates: &[Candidate], point: &Point| {
        let of = candidates.iter().map(|candidate| share(candidate, point));
        Value::Object(of.collect::<Map<String, Value>>())
    };
    let compared = |compared: &Compared| {
        let configuration = compared.configuration;
        let (tests, policies) = (tests(configuration), policies(configuration));
        let point = |point: &Point| {
            json!({
                "utilisation": point.utilisation,
                "tests": shares(&tests, point),
                "policies": shares(&policies, point),
            })
        };
        json!({
            "key": configuration.key,
            "name": configuration.name,
            "cpus": configuration.cpus,
            "points": compared.points.iter().map(point).collect::<Vec<_>>(),
        })
    };
    json!({
        "experiment": "schedulability",
        "seed": results.seed,
        "sets": results.sets,
        "simulated_seconds": LENGTH.as_secs_f64(),
        "checked": results.checked,
        "violations": results.violations,
        "configurations": results.compared.iter().map(compared).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::configuration::CONFIGURATIONS;
    use super::*;

    fn results(violations: Vec<Violation>) -> Results {
        let configuration = &CONFIGURATIONS[0];
        Results {
            sets: 2,
            seed: 7,
            compared: vec![Compared {
                configuration,
                points: vec![Point {
                    utilisation: 0.5,
                    accepted: vec![1; configuration.tests.len()],
                    met: vec![2; configuration.policies.len()],
                }],
            }],
            checked: 3,
            violations,
        }
    }

    fn report_of(results: &Results) -> Report {
        let args = SchedulabilityArgs {
            quick: true,
            output: None,
            sets: Some(2),
            seed: 7,
        };
        report(results, &args)
    }

    #[test]
    fn a_refuted_acceptance_is_named_with_what_repeats_it() {
        let violation = Violation {
            configuration: "edf",
            utilisation: 0.7,
            set: 11,
            test: "linear-bound",
            policy: "deadline",
        };
        let report = report_of(&results(vec![violation]));
        assert!(report.summary.contains("1 of these schedules missed"));
        let checks = report.sections.last().unwrap();
        let last = checks.prose.last().unwrap();
        assert_eq!(
            last,
            "Set 11 of edf at 70 %: accepted by linear-bound, missed under deadline."
        );
        assert!(report.command_line.ends_with("--quick --sets 2 --seed 7"));
        assert_eq!(report.raw["violations"][0]["set"], 11);
    }

    #[test]
    fn fractions_are_the_same_in_table_file_and_result() {
        let results = results(Vec::new());
        let report = report_of(&results);
        assert!(report.summary.contains("None of these schedules"));
        let point = &report.raw["configurations"][0]["points"][0];
        assert_eq!(point["tests"]["linear-bound"], 0.5);
        assert_eq!(point["policies"]["credit"], 1.0);
        let csv = csv(&results);
        assert!(csv.contains("\nedf,0.5,test,linear-bound,2,1\n"));
        assert!(csv.contains("\nedf,0.5,policy,credit,2,2\n"));
        assert_eq!(
            report.sections[0].tables[0].rows[0][1],
            Cell::number(50.0, 0)
        );
    }
}
