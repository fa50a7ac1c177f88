//! Which capabilities this thread has, to say which is missing.

use std::fs;

/// CAP_SYS_NICE (capabilities(7)).
const SYS_NICE: u32 = 23;

/// Whether the calling thread may set real-time policies.
pub fn has_sys_nice() -> bool {
    has(SYS_NICE)
}

fn has(capability: u32) -> bool {
    fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|status| effective(&status))
        .is_some_and(|set| set & (1 << capability) != 0)
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_from_its_own_line() {
        let status = "CapPrm:\t0000000000000000\nCapEff:\t0000000000800000\n";
        assert_eq!(effective(status), Some(1 << SYS_NICE));
        assert_eq!(effective("Name: x\n"), None);
    }
}
