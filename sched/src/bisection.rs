//! Where a property of numbers that holds on one side ends.

/// The value nearest to `fails` for which `holds` does, and does no more one step on; nothing unless it does for
/// `from`. It is not tried for `fails`, which may lie on either side.
pub(crate) fn last_that_holds(
    from: u64,
    mut fails: u64,
    holds: impl Fn(u64) -> bool,
) -> Option<u64> {
    if from == fails || !holds(from) {
        return None;
    }
    let mut last = from;
    while last.abs_diff(fails) > 1 {
        let middle = last.midpoint(fails);
        if holds(middle) {
            last = middle;
        } else {
            fails = middle;
        }
    }
    Some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_end_is_found_from_either_side(from in 0u64..200, fails in 0u64..200, end in 0u64..200) {
            let up = last_that_holds(from, fails.max(end + 1), |at| at <= end);
            prop_assert_eq!(up, (from <= end).then_some(end));
            let down = last_that_holds(from, fails.min(end), |at| at > end);
            prop_assert_eq!(down, (from > end).then_some(end + 1));
        }
    }
}
