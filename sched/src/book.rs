//! What the ledger holds, as data: entries of VMs, each with the process that owns it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admission::Fit;
use crate::kernel::Tid;
use crate::process::Process;
use crate::request::Granted;
use crate::zero_lag::Freeing;

/// One VM's reservations and the process they belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The VM's name; `recovered-PID` where only the kernel knew of it.
    pub vm: String,
    /// The process.
    pub process: Process,
    /// Its vCPUs, by index.
    pub vcpus: Vec<VcpuEntry>,
}

/// One vCPU of an [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuEntry {
    /// What was granted.
    pub granted: Granted,
    /// Its thread, once there is one.
    pub tid: Option<Tid>,
}

/// All that is promised. Copies share their entries until one is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Book {
    /// Which partition is tried first for a vCPU.
    pub(crate) fit: Fit,
    pub(crate) entries: Vec<Arc<Entry>>,
    /// What is given up and not free yet.
    pub(crate) freeing: Freeing,
}

impl Book {
    pub(crate) fn find(&self, vm: &str) -> Option<&Entry> {
        let mut entries = self.entries.iter().map(Arc::as_ref);
        entries.find(|entry| entry.vm == vm)
    }

    pub(crate) fn vcpu_mut(&mut self, vm: &str, vcpu: usize) -> Option<&mut VcpuEntry> {
        let entry = self.entries.iter_mut().find(|entry| entry.vm == vm)?;
        Arc::make_mut(entry).vcpus.get_mut(vcpu)
    }

    /// Everything granted, as admission wants it.
    pub(crate) fn granted(&self) -> Vec<Granted> {
        let vcpus = self.entries.iter().flat_map(|entry| &entry.vcpus);
        vcpus.map(|vcpu| vcpu.granted.clone()).collect()
    }

    /// Every thread some entry accounts for.
    pub(crate) fn threads(&self) -> HashSet<Tid> {
        let vcpus = self.entries.iter().flat_map(|entry| &entry.vcpus);
        vcpus.filter_map(|vcpu| vcpu.tid).collect()
    }

    /// Removes the entries of dead processes; whether there were any.
    pub(crate) fn prune(&mut self, now: Duration, alive: impl Fn(Process) -> bool) -> bool {
        self.remove(now, |entry| !alive(entry.process))
    }

    /// Removes entries; whether there were any. What their threads had in the kernel is free only some time after `now`.
    pub(crate) fn remove(&mut self, now: Duration, which: impl Fn(&Entry) -> bool) -> bool {
        let gone: Vec<_> = self.entries.extract_if(.., |entry| which(entry)).collect();
        let vcpus = gone.iter().flat_map(|entry| &entry.vcpus);
        for vcpu in vcpus.filter(|vcpu| vcpu.tid.is_some()) {
            self.freeing.gone(&vcpu.granted, now);
        }
        !gone.is_empty()
    }

    /// Puts back the entries of this process that a repair has lost, in place of what was recovered for it.
    pub(crate) fn restore(&mut self, own: &[Arc<Entry>]) -> bool {
        let lost: Vec<_> = own
            .iter()
            .filter(|entry| self.find(&entry.vm).is_none())
            .cloned()
            .collect();
        if lost.is_empty() {
            return false;
        }
        let process = lost[0].process;
        let recovered = recovered_name(process);
        self.entries
            .retain(|entry| entry.vm != recovered || entry.process != process);
        self.entries.extend(lost);
        true
    }
}

/// The name of an entry made from the kernel's view alone.
pub(crate) fn recovered_name(process: Process) -> String {
    format!("recovered-{}", process.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(vm: &str, pid: i32) -> Entry {
        Entry {
            vm: vm.to_owned(),
            process: Process { pid, started: 7 },
            vcpus: Vec::new(),
        }
    }

    fn book(entries: &[Entry]) -> Book {
        Book {
            entries: entries.iter().cloned().map(Arc::new).collect(),
            ..Book::default()
        }
    }

    #[test]
    fn an_entry_lost_in_a_repair_comes_back_in_place_of_the_recovered_one() {
        let mut repaired = book(&[entry("recovered-5", 5), entry("b", 6)]);
        assert!(repaired.restore(&[Arc::new(entry("a", 5))]));
        assert_eq!(repaired, book(&[entry("b", 6), entry("a", 5)]));
        assert!(!repaired.restore(&[Arc::new(entry("a", 5))]));
    }

    #[test]
    fn only_entries_of_dead_processes_are_pruned() {
        let mut all = book(&[entry("a", 1), entry("b", 2)]);
        assert!(all.prune(Duration::ZERO, |process| process.pid == 2));
        assert_eq!(all, book(&[entry("b", 2)]));
    }
}
