//! `writes` of `[[guest.task]]`: memory that the jobs of a task of `rt-guest` write.
//!
//! It becomes words of the guest's command line (rt_abi::taskset::Dirty).

use serde::Deserialize;

use super::{GuestSpec, SpecError};
use crate::units::{ByteSize, Span};

/// Memory of the guest that its image, stacks and boot data take at least.
const GUEST_ITSELF: u64 = 1 << 20;

/// What the jobs of a task write.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WritesSpec {
    /// Pages each job writes.
    pub pages: u32,
    /// Memory that these are of.
    pub set: ByteSize,
    /// Which of them: `seq`, `random` (all equally likely), `hot` (nine of ten in a tenth of the set) or `zipf`; `seq` if not given.
    pub pattern: Option<String>,
    /// What is written: `count` (a counter, the rest is zero), `random`, or `half`, which compresses 2:1; `count` if not given.
    pub content: Option<String>,
    /// How often the pages that the pattern prefers change; never if not given.
    pub phase: Option<Span>,
}

impl WritesSpec {
    /// The words of the task that they belong to, each after a comma.
    pub(super) fn words(&self) -> String {
        let mut words = format!(",dirty={},region={}", self.pages, bytes(self.set));
        for (key, value) in [
            ("pattern", self.pattern.clone()),
            ("content", self.content.clone()),
            ("phase", self.phase.map(|phase| phase.to_string())),
        ] {
            if let Some(value) = value {
                words.push_str(&format!(",{key}={value}"));
            }
        }
        words
    }
}

/// A size as the guest reads it: in whole KiB, or in bytes, which it then says are no whole pages.
fn bytes(size: ByteSize) -> String {
    let bytes = size.bytes();
    match bytes % 1024 {
        0 => format!("{}K", bytes / 1024),
        _ => bytes.to_string(),
    }
}

impl GuestSpec {
    /// Checks what the guest itself would not say by the key that was written.
    pub(super) fn check_writes(&self) -> Result<(), SpecError> {
        for task in &self.tasks {
            if task.execution.is_none() && task.writes.is_none() {
                return Err(SpecError::Missing {
                    key: format!("execution of guest.task `{}`", task.name),
                    fits: "write the processor time of a job, such as execution = \"30ms\", or what it writes".to_owned(),
                });
            }
        }
        let sets = self.tasks.iter().filter_map(|task| task.writes.as_ref());
        let needed = sets.fold(0_u64, |sum, writes| sum.saturating_add(writes.set.bytes()));
        if needed == 0 || needed.saturating_add(GUEST_ITSELF) <= self.memory.bytes() {
            return Ok(());
        }
        Err(SpecError::Value {
            key: "guest.memory".to_owned(),
            value: format!("\"{}\"", self.memory),
            fits: format!(
                "the tasks write sets of {} in all; give the guest that and {} more",
                ByteSize::new(needed),
                ByteSize::new(4 * GUEST_ITSELF)
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::VmSpec;

    fn plan(memory: &str, task: &str) -> Result<String, String> {
        let text = format!(
            "name = \"w\"\n[guest]\nmemory = \"{memory}\"\nseed = 5\n[[guest.task]]\nname = \"w\"\nperiod = \"1ms\"\n{task}\n\
             [cpu]\nbackend = \"other\"\n"
        );
        let spec = VmSpec::parse(&text).map_err(|e| e.to_string())?;
        let plan = spec.plan().map_err(|e| e.to_string())?;
        Ok(plan.command_line)
    }

    #[test]
    fn what_a_task_writes_becomes_words_that_the_guest_reads() {
        let writes = "writes = { pages = 20, set = \"32MiB\", pattern = \"zipf\", content = \"half\", phase = \"5s\" }";
        let line = plan("48MiB", writes).unwrap();
        assert_eq!(
            line,
            "seed=5 task=w,t=1ms,dirty=20,region=32768K,pattern=zipf,content=half,phase=5s"
        );
        let line = plan(
            "48MiB",
            "execution = \"300us\"\nwrites = { pages = 100, set = \"1MiB\" }",
        );
        assert_eq!(
            line.unwrap(),
            "seed=5 task=w,c=300us,t=1ms,dirty=100,region=1024K"
        );
    }

    #[test]
    fn a_set_that_does_not_fit_and_a_job_without_work_are_refused_by_name() {
        let large = plan("32MiB", "writes = { pages = 1, set = \"32MiB\" }").unwrap_err();
        assert!(
            large.contains("guest.memory = \"32MiB\": the tasks write sets of 32MiB"),
            "{large}"
        );
        let idle = plan("32MiB", "").unwrap_err();
        assert!(
            idle.contains("execution of guest.task `w` is missing"),
            "{idle}"
        );
        let odd = plan(
            "32MiB",
            "writes = { pages = 1, set = \"1MiB\", content = \"noise\" }",
        );
        assert!(
            odd.unwrap_err()
                .contains("content=noise is not count, random or half")
        );
        let few = plan("32MiB", "writes = { pages = 257, set = \"1MiB\" }").unwrap_err();
        assert!(
            few.contains("dirty=257 is above the pages of its region, 256"),
            "{few}"
        );
    }
}
