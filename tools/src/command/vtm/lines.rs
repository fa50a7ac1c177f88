//! A line of the shell or of a script.

use std::time::Duration;

use chronovisor::vtm::Command;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use vmm::units::Span;

use super::words::Word;
use crate::failure::Failure;

/// The grammar of a line.
#[derive(Debug, Parser)]
#[command(multicall = true, about = "Commands:", disable_help_flag = true)]
pub struct Grammar {
    #[command(subcommand)]
    word: LineWord,
}

#[derive(Debug, Subcommand)]
enum LineWord {
    #[command(flatten)]
    Word(Word),
    /// Let time pass.
    Wait {
        /// How long, such as 10s.
        #[arg(allow_hyphen_values = true)]
        time: Span,
    },
}

/// What a line says.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// Nothing: an empty line, or a comment.
    Nothing,
    /// An order to the machine.
    Order(Command),
    /// To wait.
    Wait(Duration),
    /// A text to be shown.
    Help(String),
}

impl Line {
    /// Reads a line: words as in a shell, `#` before a comment.
    pub fn read(line: &str) -> Result<Self, Failure> {
        let wrong = |reason: &str| Failure::new(reason).with_status(2);
        let words = shlex::split(line).ok_or_else(|| wrong("a quote is not closed"))?;
        if words.is_empty() {
            return Ok(Self::Nothing);
        }
        match Grammar::try_parse_from(words) {
            Ok(Grammar {
                word: LineWord::Word(word),
            }) => word.command().map(Self::Order),
            Ok(Grammar {
                word: LineWord::Wait { time },
            }) => Ok(Self::Wait(time.duration())),
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                Ok(Self::Help(error.to_string()))
            }
            Err(error) => {
                let text = error.to_string();
                Err(wrong(
                    text.strip_prefix("error: ").unwrap_or(&text).trim_end(),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use chronovisor::vtm::{NetworkShare, Share};
    use net::share::Priority;
    use proptest::prelude::*;
    use sched::vtm::JobSource;

    use super::*;

    fn order(line: &str) -> Command {
        match Line::read(line) {
            Ok(Line::Order(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn wrong(line: &str) -> String {
        match Line::read(line) {
            Err(failure) => {
                assert_eq!(failure.status(), 2);
                failure.to_string()
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    fn share(vtm: &str, need: &str, period: &str) -> Share {
        Share {
            vtm: vtm.to_owned(),
            need: need.parse().unwrap(),
            period: period.parse().unwrap(),
            max_delay: None,
        }
    }

    #[test]
    fn the_names_of_the_paper_ask_for_the_same() {
        let reserve = Command::Reserve(share("gold", "16ms", "40ms"));
        assert_eq!(order("reserve gold 16ms 40ms"), reserve);
        assert_eq!(order("cpu_reservation gold 16ms 40ms"), reserve);
        let adapt = Command::Adapt {
            changes: vec![share("gold", "24ms", "40ms"), share("be", "10%", "80ms")],
        };
        for name in ["adapt", "cpu_adapt"] {
            assert_eq!(order(&format!("{name} gold 24ms 40ms be 10% 80ms")), adapt);
        }
        assert_eq!(order("add gold 7"), order("add_resource gold 7"));
        assert_eq!(order("rm gold 7"), order("remove_resource gold 7"));
        let network = Command::NetworkReserve(NetworkShare {
            vtm: "gold".to_owned(),
            bandwidth: "6Mbit/s".parse().unwrap(),
            ceil: None,
            priority: Priority::BestEffort,
            targets: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))],
            uid: None,
            cgroup: None,
        });
        assert_eq!(order("network reserve gold 6Mbit/s 10.0.0.1"), network);
        assert_eq!(order("network_reserve gold 6Mbit/s 10.0.0.1"), network);
        assert_eq!(
            order("network adapt gold 6Mbit/s be 4Mbit/s"),
            order("network_adapt gold 6Mbit/s be 4Mbit/s")
        );
    }

    #[test]
    fn words_are_quoted_as_in_a_shell() {
        let words = ["sh", "-c", "while :; do :; done"];
        let source = JobSource::Command(words.map(str::to_owned).to_vec());
        let add = Command::Add {
            vtm: "gold".to_owned(),
            source,
        };
        assert_eq!(order("add gold -- sh -c 'while :; do :; done' # busy"), add);
        assert_eq!(Line::read("  # nothing").unwrap(), Line::Nothing);
        assert!(wrong("add gold -- 'sh").contains("not closed"));
    }

    #[test]
    fn a_wrong_line_is_answered_with_what_would_be_right() {
        assert!(wrong("craete gold").contains("'create'"));
        assert!(wrong("network reserv gold 1bit/s").contains("'reserve'"));
        for (line, named) in [
            ("reserve gold -16ms 40ms", "-16ms"),
            ("reserve gold 16 40ms", "`16`"),
            (
                "reserve gold 16ms 99999999999999999999ms",
                "99999999999999999999ms",
            ),
            ("adapt gold 24ms 40ms be 8ms", "`be`"),
            ("adapt gold 24ms -40ms", "-40ms"),
            ("create gold --quantum -1ms", "-1ms"),
            ("create gold --active 0", "0"),
            ("add gold seven", "seven"),
            ("add gold 99999999999", "99999999999"),
            ("add gold 7 -- true", "cannot be used with"),
            ("add gold", "required"),
            ("network adapt gold -6Mbit/s", "-6Mbit/s"),
            ("wait -1s", "-1s"),
        ] {
            let error = wrong(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn every_command_has_help() {
        let Line::Help(all) = Line::read("help").unwrap() else {
            panic!("help is help");
        };
        use clap::CommandFactory;
        for command in Grammar::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.is_hide_set() || all.contains(name), "{name}: {all}");
            let help = Line::read(&format!("help {name}")).unwrap();
            assert!(
                matches!(help, Line::Help(text) if text.contains("Usage")),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line: String) {
            let _ = Line::read(&line);
        }
    }
}
