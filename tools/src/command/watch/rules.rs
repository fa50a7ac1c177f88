//! The file of rules: as a user writes it, and the rules that it becomes.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use sched::qos::{Condition, Donor, LEAST_STEP, Quality, Rule, Strategy, Target};
use sched::reservation::LEAST_RUNTIME;
use serde::Deserialize;
use vmm::spec::is_name;
use vmm::units::Span;

use crate::failure::Failure;
use crate::written;

/// Rules with comments.
pub const EXAMPLE: &str = include_str!("example.toml");

const INTERVAL: Duration = Duration::from_millis(100);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(1);
/// What is seen in this time is kept.
const LONGEST_WITHIN: Duration = Duration::from_secs(600);
const COOL_DOWN: Duration = Duration::from_secs(2);
const SHORT_BY: f64 = 0.05;

/// What a file says.
#[derive(Debug)]
pub struct Rules {
    /// Time between two looks.
    pub interval: Duration,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sheet {
    interval: Option<Span>,
    #[serde(default, rename = "rule")]
    rules: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    #[serde(default)]
    kind: Kind,
    job: String,
    vcpu: Option<usize>,
    when: When,
    task: Option<String>,
    bound: Option<Span>,
    by: Option<String>,
    within: Option<Span>,
    count: Option<u64>,
    raise_by: Span,
    up_to: Span,
    from: Option<String>,
    from_vcpu: Option<usize>,
    down_to: Option<Span>,
    cool_down: Option<Span>,
    give_back_after: Option<Span>,
}

/// What the jobs of a rule are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Vm,
    Vtm,
}

impl Kind {
    /// The job called `name`, among jobs of all kinds.
    fn job(self, name: &str) -> String {
        match self {
            Self::Vm => name.to_owned(),
            Self::Vtm => format!("{}{name}", super::vtm::PREFIX),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum When {
    DeadlineMiss,
    ResponseOver,
    SupplyShort,
}

impl Rules {
    /// Reads a file; errors name it.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        written::read(path, Self::parse)
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let sheet: Sheet = toml::from_str(text)?;
        let interval = sheet.interval.map_or(INTERVAL, Span::duration);
        between("interval", interval, SHORTEST_INTERVAL, LONGEST_INTERVAL)?;
        if sheet.rules.is_empty() {
            return Err(Failure::new(
                "[[rule]] is missing: give one at least; `chronovisor watch --example` prints some",
            ));
        }
        let mut names = BTreeSet::new();
        for line in &sheet.rules {
            if line.name.is_empty() || !names.insert(&line.name) {
                let name = &line.name;
                return Err(unfit(
                    "name",
                    format!("{name:?}"),
                    "every rule has a name of its own",
                ));
            }
        }
        no_circle(&sheet.rules)?;
        let rule = |line: &Line| {
            let of_rule = |e: Failure| e.while_doing(&format!("rule {:?}", line.name));
            line.rule(interval).map_err(of_rule)
        };
        let rules = sheet.rules.iter().map(rule).collect::<Result<_, _>>()?;
        Ok(Self { interval, rules })
    }
}

impl Line {
    fn rule(&self, interval: Duration) -> Result<Rule, Failure> {
        name("job", &self.job)?;
        if self.kind == Kind::Vtm {
            self.suits_a_vtm()?;
        }
        let within = self.within.map_or(WITHIN, Span::duration);
        between("within", within, interval, LONGEST_WITHIN)?;
        let cool_down = self.cool_down.map_or(COOL_DOWN, Span::duration);
        at_least("cool_down", cool_down, interval)?;
        Ok(Rule {
            name: self.name.clone(),
            target: Target {
                job: self.kind.job(&self.job),
                vcpu: self.vcpu.unwrap_or(0),
            },
            condition: Condition {
                quality: self.quality()?,
                within,
                count: self.count()?,
            },
            strategy: self.strategy(within)?,
            cool_down,
        })
    }

    /// Of a VTM only the supply is known, and it has one share of one CPU.
    fn suits_a_vtm(&self) -> Result<(), Failure> {
        if self.when != When::SupplyShort {
            return Err(Failure::new(
                "when: the jobs of a VTM do not tell how they do: give when = \"supply-short\" for kind = \"vtm\"",
            ));
        }
        for (key, vcpu) in [("vcpu", self.vcpu), ("from_vcpu", self.from_vcpu)] {
            if let Some(vcpu) = vcpu {
                return Err(unfit(key, vcpu, "a VTM has no vCPUs: leave it away"));
            }
        }
        Ok(())
    }

    fn quality(&self) -> Result<Quality, Failure> {
        let superfluous = |key: &str, is_there: bool, when: &str| match is_there {
            true => Err(Failure::new(format!(
                "{key} belongs to when = {when}: leave it away"
            ))),
            false => Ok(()),
        };
        let over = "\"response-over\"";
        if self.when != When::ResponseOver {
            superfluous("bound", self.bound.is_some(), over)?;
        }
        if self.when != When::SupplyShort {
            superfluous("by", self.by.is_some(), "\"supply-short\"")?;
        }
        let task = self.task.clone();
        match self.when {
            When::DeadlineMiss => Ok(Quality::DeadlineMiss { task }),
            When::ResponseOver => {
                let missing = || {
                    Failure::new(
                        "bound is missing: give the longest response time, such as \"30ms\"",
                    )
                };
                let bound = self.bound.ok_or_else(missing)?.duration();
                at_least("bound", bound, Duration::from_nanos(1))?;
                Ok(Quality::ResponseOver { task, bound })
            }
            When::SupplyShort => {
                let jobs = "\"deadline-miss\" or \"response-over\"";
                superfluous("task", task.is_some(), jobs)?;
                superfluous("count", self.count.is_some(), jobs)?;
                let by = self.by.as_deref().map_or(Ok(SHORT_BY), part)?;
                let vcpu = self.vcpu.unwrap_or(0);
                Ok(Quality::SupplyShort { vcpu, by })
            }
        }
    }

    fn count(&self) -> Result<u64, Failure> {
        match self.count {
            Some(0) => Err(unfit("count", "0", "1 or more")),
            count => Ok(count.unwrap_or(1)),
        }
    }

    fn strategy(&self, within: Duration) -> Result<Strategy, Failure> {
        let step = self.raise_by.duration();
        at_least("raise_by", step, LEAST_STEP)?;
        let up_to = self.up_to.duration();
        at_least("up_to", up_to, LEAST_RUNTIME)?;
        let give_back_after = self.give_back_after.map(Span::duration);
        if let Some(after) = give_back_after {
            at_least("give_back_after", after, within)?;
        }
        Ok(Strategy {
            step,
            up_to,
            donor: self.donor()?,
            give_back_after,
        })
    }

    fn donor(&self) -> Result<Option<Donor>, Failure> {
        let Some(from) = &self.from else {
            let without =
                |key: &str| Failure::new(format!("{key} belongs to from: give both, or none"));
            return match (self.down_to, self.from_vcpu) {
                (Some(_), _) => Err(without("down_to")),
                (_, Some(_)) => Err(without("from_vcpu")),
                (None, None) => Ok(None),
            };
        };
        name("from", from)?;
        let missing = || {
            Failure::new(format!(
                "down_to is missing: give the runtime that {from} keeps at least"
            ))
        };
        let down_to = self.down_to.ok_or_else(missing)?.duration();
        at_least("down_to", down_to, LEAST_RUNTIME)?;
        Ok(Some(Donor {
            target: Target {
                job: self.kind.job(from),
                vcpu: self.from_vcpu.unwrap_or(0),
            },
            down_to,
        }))
    }
}

/// That nobody takes what was taken from it, directly or by others: they would take turns for ever.
fn no_circle(lines: &[Line]) -> Result<(), Failure> {
    let taken = |line: &Line| {
        let from = line.kind.job(line.from.as_deref()?);
        Some((from, line.kind.job(&line.job)))
    };
    let mut left: Vec<(String, String)> = lines.iter().filter_map(taken).collect();
    // Whoever only gives or only takes is in no circle.
    loop {
        let (givers, takers): (BTreeSet<_>, BTreeSet<_>) = left.iter().cloned().unzip();
        let before = left.len();
        left.retain(|(giver, taker)| takers.contains(giver) && givers.contains(taker));
        if left.len() == before {
            break;
        }
    }
    match left.first() {
        None => Ok(()),
        Some((giver, taker)) => Err(unfit(
            "from",
            format!("{giver:?}"),
            format!(
                "{taker} takes from {giver}, which takes from {taker} or from those that do: they would take turns; leave one of these rules away"
            ),
        )),
    }
}

/// `5%` as a part of 1.
fn part(text: &str) -> Result<f64, Failure> {
    let number = text.strip_suffix('%').map(str::trim);
    match number.and_then(|number| number.parse::<f64>().ok()) {
        Some(percent) if (0.0..100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(unfit(
            "by",
            format!("{text:?}"),
            "a part of the promise from 0% to below 100%, such as \"5%\"",
        )),
    }
}

fn name(key: &str, name: &str) -> Result<(), Failure> {
    match is_name(name) {
        true => Ok(()),
        false => Err(unfit(
            key,
            format!("{name:?}"),
            "the name of a guest has letters, digits, `-`, `_` or `.`, and starts with a letter or digit",
        )),
    }
}

fn at_least(key: &str, value: Duration, least: Duration) -> Result<(), Failure> {
    match value >= least {
        true => Ok(()),
        false => Err(unfit(
            key,
            quoted(value),
            format!("{} or more", Span::from(least)),
        )),
    }
}

fn between(key: &str, value: Duration, least: Duration, most: Duration) -> Result<(), Failure> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => {
            let (least, most) = (Span::from(least), Span::from(most));
            Err(unfit(
                key,
                quoted(value),
                format!("between {least} and {most}"),
            ))
        }
    }
}

fn quoted(value: Duration) -> String {
    format!("\"{}\"", Span::from(value))
}

fn unfit(key: &str, value: impl Display, fits: impl Display) -> Failure {
    Failure::new(format!("{key} = {value}: {fits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[[rule]]\nname = \"r\"\njob = \"gold\"\nwhen = \"deadline-miss\"\nraise_by = \"2ms\"\nup_to = \"32ms\"\n";

    #[test]
    fn the_example_is_read_with_everything_in_it() {
        let rules = Rules::parse(EXAMPLE).unwrap();
        assert_eq!(rules.interval, INTERVAL);
        assert_eq!(rules.rules.len(), 3);
        let donor = rules.rules[0].strategy.donor.as_ref().unwrap();
        assert_eq!(donor.target.job, "besteffort");
        assert_eq!(donor.down_to, Duration::from_millis(8));
        assert_eq!(rules.rules[0].condition.count, 2);
        let Quality::SupplyShort { by, .. } = rules.rules[2].condition.quality else {
            panic!("{rules:?}");
        };
        assert!((by - 0.05).abs() < 1e-12);
        // What is commented out is right too.
        let uncommented = EXAMPLE.replace("\n# interval", "\ninterval");
        let uncommented = uncommented
            .replace("\n# vcpu", "\nvcpu")
            .replace("\n# task", "\ntask");
        Rules::parse(&uncommented.replace("\n# from_vcpu", "\nfrom_vcpu")).unwrap();
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let rules = Rules::parse(LEAST).unwrap();
        let rule = &rules.rules[0];
        assert_eq!((rule.condition.within, rule.condition.count), (WITHIN, 1));
        assert_eq!(rule.cool_down, COOL_DOWN);
        assert_eq!(
            (&rule.strategy.donor, rule.strategy.give_back_after),
            (&None, None)
        );
    }

    #[test]
    fn errors_name_the_key_the_value_and_what_would_fit() {
        let with = |more: &str| format!("{LEAST}{more}\n");
        let instead = |from: &str, to: &str| LEAST.replace(from, to);
        let donor = "from = \"other\"\n";
        for (text, parts) in [
            (String::new(), &["[[rule]]", "--example"][..]),
            (with("colour = 3"), &["colour"]),
            (
                format!("interval = \"1ms\"\n{LEAST}"),
                &["interval", "1ms", "10ms"],
            ),
            (
                with("within = \"10ms\""),
                &["rule \"r\"", "within", "10ms", "100ms"],
            ),
            (with("within = \"5h\""), &["5h", "ms, s"]),
            (with("count = 0"), &["count", "0", "1 or more"]),
            (with("count = -1"), &["-1"]),
            (with("cool_down = \"0s\""), &["cool_down", "100ms"]),
            (
                with("give_back_after = \"500ms\""),
                &["give_back_after", "500ms", "1s"],
            ),
            (with("bound = \"30ms\""), &["bound", "response-over"]),
            (with("by = \"5%\""), &["by", "supply-short"]),
            (with("down_to = \"5ms\""), &["down_to", "from"]),
            (with("from_vcpu = 1"), &["from_vcpu", "from"]),
            (with(donor), &["down_to is missing", "other"]),
            (
                with("from = \"../x\"\ndown_to = \"5ms\""),
                &["from", "../x", "letters"],
            ),
            (
                with("from = \"gold\"\ndown_to = \"5ms\""),
                &["gold", "take turns"],
            ),
            (
                with(&format!("{donor}down_to = \"1us\"")),
                &["down_to", "1us", "1024ns"],
            ),
            (instead("2ms", "0ms"), &["raise_by", "0ns", "1us"]),
            (instead("32ms", "32"), &["32", "28ms"]),
            (instead("32ms", "0s"), &["up_to", "0ns", "1024ns"]),
            (instead("\"gold\"", "\"\""), &["job", "\"\""]),
            (
                instead("deadline-miss", "misses"),
                &["misses", "supply-short"],
            ),
            (
                instead("deadline-miss", "response-over"),
                &["bound is missing", "30ms"],
            ),
            (
                instead("deadline-miss", "supply-short") + "by = \"5\"",
                &["by", "\"5\"", "5%"],
            ),
            (
                instead("deadline-miss", "supply-short") + "by = \"100%\"",
                &["by", "100%", "below"],
            ),
            (
                instead("deadline-miss", "supply-short") + "count = 2",
                &["count"],
            ),
            (LEAST.repeat(2), &["name", "\"r\""]),
            (with("kind = \"vtm\""), &["when", "supply-short"]),
            (
                instead("deadline-miss", "supply-short") + "kind = \"vtm\"\nvcpu = 1",
                &["vcpu = 1", "leave it away"],
            ),
            (with("kind = \"process\""), &["process", "vtm"]),
        ] {
            let message = Rules::parse(&text).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }

    #[test]
    fn rules_that_would_take_turns_are_refused_and_a_chain_is_not() {
        let takes = |number: u8, job: &str, from: &str| {
            let rule = LEAST
                .replace("\"r\"", &format!("\"{number}\""))
                .replace("gold", job);
            format!("{rule}from = {from:?}\ndown_to = \"5ms\"\n")
        };
        let chain = takes(1, "a", "b") + &takes(2, "b", "c") + &takes(3, "a", "c");
        Rules::parse(&chain).unwrap();
        let circle = chain + &takes(4, "c", "a");
        let message = Rules::parse(&circle).unwrap_err().to_string();
        assert!(message.contains("take turns"), "{message}");
    }
}
