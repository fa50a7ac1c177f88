//! What a word of the shell may go on with: commands, VTMs, jobs.

use clap::{Command as Clap, CommandFactory};
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use sched::vtm::Status;

use super::lines::Grammar;

/// Completes the words of a line; `status` tells which VTMs and jobs there are.
pub struct Completion<F>(pub F);

impl<F: Fn() -> Option<Status>> Completer for Completion<F> {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..position).unwrap_or(line);
        let begin = typed.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (words, begun) = typed.split_at(begin);
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut found = candidates(&words, &self.0);
        found.retain(|candidate| candidate.starts_with(begun));
        for candidate in &mut found {
            candidate.push(' ');
        }
        Ok((begin, found))
    }
}

impl<F> Hinter for Completion<F> {
    type Hint = String;
}
impl<F> Highlighter for Completion<F> {}
impl<F> Validator for Completion<F> {}
impl<F: Fn() -> Option<Status>> Helper for Completion<F> {}

/// What may stand behind `words`.
fn candidates(words: &[&str], status: impl Fn() -> Option<Status>) -> Vec<String> {
    let grammar = Grammar::command();
    let (mut command, mut rest) = (&grammar, words);
    while let Some((first, after)) = rest.split_first() {
        // Of what help is wanted for is a command.
        if *first == "help" && command.get_name() == grammar.get_name() {
            rest = after;
            continue;
        }
        let Some(next) = command.find_subcommand(first) else {
            break;
        };
        (command, rest) = (next, after);
    }
    if command.has_subcommands() {
        return if rest.is_empty() {
            names(command)
        } else {
            Vec::new()
        };
    }
    if words.first() == Some(&"help") {
        return Vec::new();
    }
    let status = || status().map(|status| status.vtms).unwrap_or_default();
    match position(command, rest.len()) {
        Some("vtm") => status().into_iter().map(|vtm| vtm.name).collect(),
        Some("job") => {
            let vtms = status();
            let vtm = vtms
                .into_iter()
                .find(|vtm| Some(&vtm.name.as_str()) == rest.first());
            let jobs = vtm.map(|vtm| vtm.jobs).unwrap_or_default();
            jobs.into_iter().map(|job| job.name).collect()
        }
        _ => Vec::new(),
    }
}

/// The commands below this one; at the top also `help`, which is not in the grammar.
fn names(command: &Clap) -> Vec<String> {
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let mut names: Vec<String> = shown
        .flat_map(|sub| std::iter::once(sub.get_name()).chain(sub.get_visible_aliases()))
        .map(str::to_owned)
        .collect();
    if command.is_multicall_set() && !names.iter().any(|name| name == "help") {
        names.push("help".to_owned());
    }
    names
}

/// What kind of word stands at this position: `vtm` and `job` where there are such.
fn position(command: &Clap, at: usize) -> Option<&str> {
    let mut positional = command.get_positionals();
    let first = positional.next()?;
    // `adapt` takes a VTM and what it is to have, again and again.
    let group = first.get_num_args().map_or(1, |count| count.min_values());
    if group > 1 {
        return at.is_multiple_of(group).then_some("vtm");
    }
    // Nobody is asked for the name of what is to be made.
    if command.get_name() == "create" {
        return None;
    }
    let mut all = std::iter::once(first).chain(positional);
    all.nth(at).map(|argument| argument.get_id().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Option<Status> {
        let vtm = |name: &str, jobs: &[&str]| {
            let jobs: Vec<_> = jobs
                .iter()
                .map(|job| {
                    serde_json::json!({
                        "name": job, "source": {"process": 7}, "pid": 7, "processes": 1, "state": "waiting",
                        "means": "signals", "turns": 0, "cpu_time": {"secs": 0, "nanos": 0}
                    })
                })
                .collect();
            let time = serde_json::json!({"secs": 0, "nanos": 0});
            serde_json::json!({
                "name": name, "share": null, "promise": null, "suspended": false,
                "round_robin": {"quantum": time, "active": 1}, "slots": 0, "supplied": time,
                "dispatches": 0, "cpu_time": time, "ended": 0, "jobs": jobs
            })
        };
        let time = serde_json::json!({"secs": 0, "nanos": 0});
        let summary = serde_json::to_value(sched::histogram::Summary::default()).unwrap();
        let status = serde_json::json!({
            "cpu": 1, "slot": time, "rule": sched::vtm::Rule::default(), "hyperperiod": time, "utilisation": 0.0,
            "dispatching": false, "tables": 0, "tables_in_force": 0, "guardian": 7,
            "dispatches": {"since": time, "missed_slots": 0, "cost": summary, "lateness": summary},
            "vtms": [vtm("gold", &["71", "72"]), vtm("besteffort", &[])]
        });
        Some(serde_json::from_value(status).unwrap())
    }

    fn complete(line: &str) -> Vec<String> {
        let history = rustyline::history::MemHistory::new();
        let context = Context::new(&history);
        let (_, found) = Completion(status)
            .complete(line, line.len(), &context)
            .unwrap();
        found
            .iter()
            .map(|word| word.trim_end().to_owned())
            .collect()
    }

    #[test]
    fn commands_are_completed() {
        assert_eq!(complete("cr"), ["create"]);
        assert_eq!(complete("cpu_"), ["cpu_reservation", "cpu_adapt"]);
        assert_eq!(complete("hel"), ["help"]);
        assert_eq!(complete("help sch"), ["schedule"]);
        assert_eq!(complete("help schedule "), [""; 0]);
        assert_eq!(complete("network "), ["reserve", "adapt"]);
        assert!(complete("").contains(&"table".to_owned()));
        assert_eq!(complete("nothing "), [""; 0]);
    }

    #[test]
    fn vtms_and_jobs_are_completed_where_there_is_one_to_name() {
        for line in [
            "reserve ",
            "cpu_reservation ",
            "add ",
            "adapt gold 24ms 40ms ",
            "help ignored; release ",
        ] {
            let found = complete(line);
            let expected: &[&str] = if line.starts_with("help") {
                &[]
            } else {
                &["gold", "besteffort"]
            };
            assert_eq!(found, expected, "{line}");
        }
        assert_eq!(complete("release be"), ["besteffort"]);
        assert_eq!(complete("network reserve g"), ["gold"]);
        assert_eq!(complete("rm gold "), ["71", "72"]);
        assert_eq!(complete("suspend gold 72"), ["72"]);
        for line in [
            "create ",
            "reserve gold ",
            "adapt gold ",
            "rm nobody ",
            "status ",
        ] {
            assert_eq!(complete(line), [""; 0], "{line}");
        }
    }
}
