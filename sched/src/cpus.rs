//! Lists of CPUs as the kernel writes them: `0-3,7`.

use std::fs;

/// Reads a list such as `0-3,7`; `None` if it is not one.
pub fn parse(list: &str) -> Option<Vec<u32>> {
    let list = list.trim();
    if list.is_empty() {
        return Some(Vec::new());
    }
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // More CPUs than any kernel is built for: not a list of CPUs.
        if last < first || last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Writes a list with ranges: `0-3,7`.
pub fn format(cpus: &[u32]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|a, b| a + 1 == *b);
    let parts: Vec<_> = runs
        .map(|run| match run {
            [only] => only.to_string(),
            _ => format!("{}-{}", run[0], run[run.len() - 1]),
        })
        .collect();
    parts.join(",")
}

/// The CPUs that are online, as the kernel lists them; `None` where it does not.
pub fn listed_online() -> Option<Vec<u32>> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    parse(&list).filter(|cpus| !cpus.is_empty())
}

/// The CPUs that are online; the first one at least is.
pub fn online() -> Vec<u32> {
    listed_online().unwrap_or_else(|| vec![0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse("0-3,7\n"), Some(vec![0, 1, 2, 3, 7]));
        assert_eq!(parse(""), Some(vec![]));
        for wrong in ["a", "3-1", "1,", "0-99999999", "-1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_list_survives_being_written_and_read(cpus in prop::collection::btree_set(0u32..300, 0..40)) {
            let cpus: Vec<_> = cpus.into_iter().collect();
            prop_assert_eq!(parse(&format(&cpus)), Some(cpus));
        }
    }
}
