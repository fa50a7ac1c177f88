//! Reads what the emulated host wrote to its results port (see `init.sh` for the format). The
//! length stands before each output, so that nothing a case prints can be taken for a marker.

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this exit status (128 + signal number when a signal ended it).
    Exit(u8),
    /// It was ended because its time was up.
    TimedOut,
}

/// What was found on the results port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    /// The host came up.
    pub ready: bool,
    /// How each finished case ended and what it printed, in order.
    pub finished: Vec<(Outcome, Vec<u8>)>,
    /// The last case began and did not end.
    pub in_case: bool,
    /// The host ran all its cases.
    pub done: bool,
}

/// Reads as far as the bytes make sense; what follows a broken line is as if it were not there,
/// which leaves `done` false.
pub(super) fn parse(mut bytes: &[u8]) -> Results {
    let mut results = Results::default();
    while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(&bytes[..end]);
        bytes = &bytes[end + 1..];
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["ready"] => results.ready = true,
            ["begin", index] if next(index, &results) => results.in_case = true,
            ["end", index, how, status, length] if next(index, &results) => {
                let Some((outcome, length)) = ending(how, status, length) else {
                    break;
                };
                let Some((output, rest)) = bytes.split_at_checked(length) else {
                    break;
                };
                results.finished.push((outcome, output.to_vec()));
                results.in_case = false;
                bytes = rest;
            }
            ["done"] => results.done = true,
            _ => break,
        }
    }
    results
}

fn next(index: &str, results: &Results) -> bool {
    index.parse() == Ok(results.finished.len())
}

fn ending(how: &str, status: &str, length: &str) -> Option<(Outcome, usize)> {
    let outcome = match how {
        "exit" => Outcome::Exit(status.parse().ok()?),
        "timeout" => Outcome::TimedOut,
        _ => return None,
    };
    Some((outcome, length.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(cases: &[(Outcome, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = b"ready\n".to_vec();
        for (index, (outcome, output)) in cases.iter().enumerate() {
            let (how, status) = match outcome {
                Outcome::Exit(status) => ("exit", *status),
                Outcome::TimedOut => ("timeout", 137),
            };
            let length = output.len();
            bytes.extend(format!("begin {index}\nend {index} {how} {status} {length}\n").bytes());
            bytes.extend(output);
        }
        bytes.extend(b"done\n");
        bytes
    }

    fn cases() -> impl Strategy<Value = Vec<(Outcome, Vec<u8>)>> {
        let outcome = prop_oneof![any::<u8>().prop_map(Outcome::Exit), Just(Outcome::TimedOut)];
        let line = prop_oneof![
            Just(b"end 0 exit 0 3\n".to_vec()),
            Just(b"done\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
        ];
        let output = prop::collection::vec(line, 0..4).prop_map(|lines| lines.concat());
        prop::collection::vec((outcome, output), 0..5)
    }

    proptest! {
        #[test]
        fn whatever_the_cases_print_each_outcome_is_read_back(cases in cases()) {
            let results = parse(&written(&cases));
            prop_assert!(results.ready && results.done && !results.in_case);
            prop_assert_eq!(results.finished, cases);
        }

        #[test]
        fn a_host_that_stops_early_is_never_taken_for_one_that_ran_all(
            (cases, cut) in (cases(), any::<prop::sample::Index>())
        ) {
            let bytes = written(&cases);
            let results = parse(&bytes[..cut.index(bytes.len())]);
            prop_assert!(!results.done);
            prop_assert_eq!(&results.finished[..], &cases[..results.finished.len()]);
        }
    }

    #[test]
    fn a_case_that_took_the_machine_down_is_told_from_one_that_had_not_begun() {
        assert!(!parse(b"ready\n").in_case);
        assert!(parse(b"ready\nbegin 0\n").in_case);
    }
}
