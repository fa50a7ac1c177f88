//! What the ledger file holds, as data: entries of VMs, each with the process that owns it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kernel::Tid;
use crate::process::Process;
use crate::request::Granted;
use crate::zero_lag::Freeing;

/// The version of the file's form.
const VERSION: u32 = 1;

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

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    version: u32,
    pub(crate) entries: Vec<Entry>,
    /// What is given up and not free yet.
    #[serde(default, skip_serializing_if = "Freeing::is_empty")]
    pub(crate) freeing: Freeing,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            version: VERSION,
            entries: Vec::new(),
            freeing: Freeing::default(),
        }
    }
}

impl Book {
    /// Reads the file's bytes; `None` if they are torn or of another version.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let book: Self = serde_json::from_slice(bytes).ok()?;
        (book.version == VERSION).then_some(book)
    }

    /// The file's bytes: at least `length` of them, filled up with blanks, so that one write replaces all that was there.
    pub(crate) fn bytes(&self, length: usize) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        let padded = bytes.len().max(length);
        bytes.resize(padded, b' ');
        bytes
    }

    pub(crate) fn find(&self, vm: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.vm == vm)
    }

    pub(crate) fn vcpu_mut(&mut self, vm: &str, vcpu: usize) -> Option<&mut VcpuEntry> {
        let entry = self.entries.iter_mut().find(|entry| entry.vm == vm)?;
        entry.vcpus.get_mut(vcpu)
    }

    /// Everything granted, as admission wants it.
    pub(crate) fn granted(&self) -> Vec<Granted> {
        let vcpus = self.entries.iter().flat_map(|entry| &entry.vcpus);
        vcpus.map(|vcpu| vcpu.granted.clone()).collect()
    }

    /// Every thread some entry accounts for.
    pub(crate) fn knows(&self, tid: Tid) -> bool {
        let mut vcpus = self.entries.iter().flat_map(|entry| &entry.vcpus);
        vcpus.any(|vcpu| vcpu.tid == Some(tid))
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
    pub(crate) fn restore(&mut self, own: &[Entry]) -> bool {
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
            entries: entries.to_vec(),
            ..Book::default()
        }
    }

    #[test]
    fn a_shorter_book_overwrites_a_longer_one_completely() {
        let long = book(&[entry("a", 1), entry("b", 2)]).bytes(0);
        let short = book(&[]);
        let bytes = short.bytes(long.len());
        assert_eq!(bytes.len(), long.len());
        assert_eq!(Book::parse(&bytes), Some(short));
    }

    #[test]
    fn a_torn_file_is_not_taken_for_a_book() {
        let bytes = book(&[entry("a", 1)]).bytes(0);
        for cut in 0..bytes.len() - 1 {
            assert_eq!(Book::parse(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Book::parse(b"{\"version\":2,\"entries\":[]}"), None);
    }

    #[test]
    fn an_entry_lost_in_a_repair_comes_back_in_place_of_the_recovered_one() {
        let mut repaired = book(&[entry("recovered-5", 5), entry("b", 6)]);
        assert!(repaired.restore(&[entry("a", 5)]));
        assert_eq!(repaired, book(&[entry("b", 6), entry("a", 5)]));
        assert!(!repaired.restore(&[entry("a", 5)]));
    }

    #[test]
    fn a_file_without_deadlines_and_shares_that_become_free_is_a_book_still() {
        let file = r#"{"version":1,"entries":[{"vm":"a","process":{"pid":1,"started":7},"vcpus":[{"granted":{
            "vm":"a","vcpu":0,"request":{"reservation":{"runtime_ns":1000000,"period_ns":9000000},
            "backend":"deadline","enforcement":"exact","cpu":null,"fifo_priority":null},
            "placement":"global","surplus":{"secs":0,"nanos":900000},"test":"global-edf"},"tid":null}]}]}"#;
        let book = Book::parse(file.as_bytes()).unwrap();
        let reservation = book.granted()[0].request.reservation.unwrap();
        assert_eq!(reservation.deadline(), reservation.period());
    }

    #[test]
    fn only_entries_of_dead_processes_are_pruned() {
        let mut all = book(&[entry("a", 1), entry("b", 2)]);
        assert!(all.prune(Duration::ZERO, |process| process.pid == 2));
        assert_eq!(all, book(&[entry("b", 2)]));
    }
}
