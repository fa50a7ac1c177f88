//! Many processes that do nothing: jobs that a scheduler has to handle, and that cost only their handling.

use std::process::{Child, Command, Stdio};

use super::{ExperimentError, interrupt};

/// They end by themselves after so many seconds, whatever becomes of who started them.
const LIFE: &str = "1800";

/// Processes, ended and waited for on drop.
#[derive(Debug, Default)]
pub struct Sleepers(Vec<Child>);

impl Sleepers {
    /// Starts one more; its id.
    pub fn start(&mut self) -> Result<i32, ExperimentError> {
        interrupt::check()?;
        let mut command = Command::new("sleep");
        command
            .arg(LIFE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let number = self.0.len() + 1;
        let child = command
            .spawn()
            .map_err(ExperimentError::io(format!("start process {number}")))?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        self.0.push(child);
        Ok(pid)
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        // All are told before the first is waited for: they end beside one another.
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_process_outlives_its_owner() {
        let mut sleepers = Sleepers::default();
        let pids: Vec<i32> = (0..20).map(|_| sleepers.start().unwrap()).collect();
        let exists = |pid: &i32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        assert!(pids.iter().all(exists));
        drop(sleepers);
        assert!(!pids.iter().any(exists), "they are waited for too");
    }
}
