//! Rules at work: every observation goes to the monitors, every violation to the first rule that may act on it.
//!
//! After a rule has given more to a job, nothing is done about the job for that rule's cool-down, and what was seen of it
//! until then counts for nothing. A rule whose action was refused rests for as long; the rules after it may act meanwhile.
//! What was given back in vain is taken again at once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::strategy::{Hold, Reservations, Steps, Strategy};
use super::{Action, Activator, Condition, Monitor, Observation, Presence, Target, Violation};

/// What is watched for, and what is done then.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name, for people.
    pub name: String,
    /// Whose reservation is changed. The violation is looked for in the same job.
    pub target: Target,
    /// When.
    pub condition: Condition,
    /// What is done.
    pub strategy: Strategy,
    /// How long nothing more is done after that, and how long the rule rests after a refusal.
    pub cool_down: Duration,
}

/// What happened in one step of a [`Watch`], in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A job is there, for the first time or again.
    Here {
        /// Its name.
        job: String,
    },
    /// A job is not there, or not there any more.
    Gone {
        /// Its name.
        job: String,
    },
    /// A job could not be asked. What is known of it stays.
    Silent {
        /// Its name.
        job: String,
        /// Why.
        reason: String,
    },
    /// A quality of service was not kept.
    Violation {
        /// The rule that looked for it.
        rule: String,
        /// Of this job.
        job: String,
        /// What was seen.
        #[serde(flatten)]
        violation: Violation,
        /// Whether nothing is done because the job or the rule is to rest.
        rests: bool,
    },
    /// Nothing can be done by a rule.
    Held {
        /// The rule.
        rule: String,
        /// Why.
        #[serde(flatten)]
        hold: Hold,
    },
    /// What is to be done.
    Decision {
        /// By this rule.
        rule: String,
        /// What.
        action: Action,
        /// Why.
        cause: Cause,
    },
    /// It is done.
    Done {
        /// By this rule.
        rule: String,
    },
    /// It was refused, and nothing has changed.
    Refused {
        /// The rule.
        rule: String,
        /// Why.
        reason: String,
    },
}

/// Why something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A violation.
    Violation,
    /// It was quiet for long enough to give something back.
    Quiet,
    /// A job has gone, and the donor gets back what it had given.
    Gone,
}

/// Rules at work.
#[derive(Debug)]
pub struct Watch {
    rules: Vec<Working>,
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug)]
struct Working {
    rule: Rule,
    monitor: Monitor,
    steps: Steps,
    /// After a refusal.
    rests_until: Duration,
}

#[derive(Debug, Default)]
struct Job {
    is_known: bool,
    is_silent: bool,
    life: Option<u64>,
    /// When a rule last acted on it or saw a violation.
    troubled: Duration,
    rests_until: Option<Duration>,
}

/// One step: when, what everybody has, who acts.
struct Step<'a> {
    now: Duration,
    current: Reservations,
    activator: &'a mut dyn Activator,
    events: Vec<Event>,
}

impl Watch {
    /// Begins to watch by `rules`, the first before the others.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let working = |rule: Rule| Working {
            monitor: Monitor::new(rule.condition.clone()),
            steps: Steps::new(rule.strategy.clone(), rule.target.clone()),
            rests_until: Duration::ZERO,
            rule,
        };
        let rules: Vec<_> = rules.into_iter().map(working).collect();
        let donors = rules.iter().filter_map(|working| working.steps.donor());
        let targets = rules.iter().map(|working| working.steps.target());
        let names = targets.chain(donors).map(|target| target.job.clone());
        let jobs = names.map(|name| (name, Job::default())).collect();
        Self { rules, jobs }
    }

    /// The jobs that are to be observed.
    pub fn jobs(&self) -> impl Iterator<Item = &str> {
        self.jobs.keys().map(String::as_str)
    }

    /// Takes in what is seen of every job now, which is no earlier than the last time, and acts. A job that is not in
    /// `seen` counts as silent.
    pub fn step(
        &mut self,
        now: Duration,
        seen: &BTreeMap<String, Presence>,
        activator: &mut dyn Activator,
    ) -> Vec<Event> {
        let here = |(name, presence): (&String, &Presence)| match presence {
            Presence::Here(seen) => Some(seen.promises(name).collect::<Vec<_>>()),
            Presence::Silent { .. } | Presence::Gone => None,
        };
        let mut step = Step {
            now,
            current: seen.iter().filter_map(here).flatten().collect(),
            activator,
            events: Vec::new(),
        };
        self.meet(seen, &mut step);
        for number in 0..self.rules.len() {
            let job = &self.rules[number].rule.target.job;
            if let Some(Presence::Here(observation)) = seen.get(job) {
                self.observe(number, observation, &mut step);
            }
        }
        self.wake(now);
        for number in 0..self.rules.len() {
            self.ease(number, &mut step);
        }
        step.events
    }

    /// Notices who has come and gone.
    fn meet(&mut self, seen: &BTreeMap<String, Presence>, step: &mut Step<'_>) {
        for (name, job) in &mut self.jobs {
            let life = match seen.get(name) {
                Some(Presence::Here(observation)) => Some(observation.life),
                Some(Presence::Gone) => None,
                Some(Presence::Silent { reason }) => {
                    if !std::mem::replace(&mut job.is_silent, true) {
                        step.events.push(Event::Silent {
                            job: name.clone(),
                            reason: reason.clone(),
                        });
                    }
                    continue;
                }
                None => continue,
            };
            let was_silent = std::mem::take(&mut job.is_silent);
            if job.is_known && job.life == life {
                if was_silent && life.is_some() {
                    step.events.push(Event::Here { job: name.clone() });
                }
                continue;
            }
            if job.life.is_some() {
                for working in &mut self.rules {
                    working.steps.lost(name);
                }
            }
            let job_name = name.clone();
            if job.life.is_some() || life.is_none() {
                step.events.push(Event::Gone {
                    job: job_name.clone(),
                });
            }
            if life.is_some() {
                step.events.push(Event::Here { job: job_name });
            }
            *job = Job {
                is_known: true,
                is_silent: false,
                life,
                troubled: step.now,
                rests_until: None,
            };
        }
    }

    fn observe(&mut self, number: usize, seen: &Observation, step: &mut Step<'_>) {
        let working = &mut self.rules[number];
        let (rule, target) = (&working.rule.name, &working.rule.target);
        let violation = working.monitor.observe(step.now, seen);
        let job = self.jobs.entry(target.job.clone()).or_default();
        let rests = job.rests_until.is_some() || working.rests_until > step.now;
        let Some(violation) = violation else { return };
        job.troubled = step.now;
        step.events.push(Event::Violation {
            rule: rule.clone(),
            job: target.job.clone(),
            violation,
            rests,
        });
        if rests {
            return;
        }
        match working.steps.raise(&step.current) {
            Err(hold) => step.events.push(Event::Held {
                rule: rule.clone(),
                hold,
            }),
            Ok(action) if step.act(working, &action, Cause::Violation) => {
                working.steps.raised(&action);
                let until = step.now + working.rule.cool_down;
                self.acted(number, step.now, Some(until));
            }
            Ok(_) => {}
        }
    }

    /// Ends the rest of jobs. What was seen of them meanwhile says nothing about what they have now.
    fn wake(&mut self, now: Duration) {
        for (name, job) in &mut self.jobs {
            if job.rests_until.take_if(|until| *until <= now).is_none() {
                continue;
            }
            for working in &mut self.rules {
                if working.rule.target.job == *name {
                    working.monitor.forget();
                }
            }
        }
    }

    /// Gives back what is not needed any more.
    fn ease(&mut self, number: usize, step: &mut Step<'_>) {
        let now = step.now;
        let working = &mut self.rules[number];
        if working.rests_until > now {
            return;
        }
        if let Some(action) = working.steps.settle(&step.current)
            && step.act(working, &action, Cause::Gone)
        {
            working.steps.settled();
        }
        let Some(job) = self.jobs.get(&working.rule.target.job) else {
            return;
        };
        let quiet = now.saturating_sub(job.troubled);
        let is_due = (working.steps.patience()).is_some_and(|patience| quiet >= patience);
        if !is_due || job.rests_until.is_some() {
            return;
        }
        let Some(action) = working.steps.give_back(&step.current) else {
            return;
        };
        if step.act(working, &action, Cause::Quiet) {
            working.steps.gave_back();
            self.acted(number, now, None);
        }
    }

    /// A rule has changed what its job has.
    fn acted(&mut self, number: usize, now: Duration, rests_until: Option<Duration>) {
        let name = self.rules[number].rule.target.job.clone();
        for working in &mut self.rules {
            if working.rule.target.job == name {
                working.monitor.forget();
            }
        }
        let job = self.jobs.entry(name).or_default();
        job.troubled = now;
        job.rests_until = rests_until;
    }
}

impl Step<'_> {
    /// Has an action carried out; whether it was.
    fn act(&mut self, working: &mut Working, action: &Action, cause: Cause) -> bool {
        let rule = working.rule.name.clone();
        self.events.push(Event::Decision {
            rule: rule.clone(),
            action: action.clone(),
            cause,
        });
        match self.activator.activate(action) {
            Ok(()) => {
                for change in action.changes() {
                    (self.current).insert(change.target.clone(), change.after);
                }
                self.events.push(Event::Done { rule });
                true
            }
            Err(reason) => {
                working.rests_until = self.now + working.rule.cool_down;
                self.events.push(Event::Refused { rule, reason });
                false
            }
        }
    }
}
