//! A table of slots for every CPU, repeated for ever: how a virtual task machine is scheduled (Duran-Limon and others, "Using
//! lightweight virtual machines to achieve resource adaptation in middleware"). Where the table comes from is not decided
//! here. A slot whose owner has no work, or which has no owner, leaves the CPU idle.

use super::{Claim, HostPolicy};
use crate::reservation::nanos;
use crate::sim::{Host, Slot, Time};

/// The policy.
#[derive(Clone, Debug)]
pub struct DispatchTable {
    /// The CPU of every vCPU, and whether it has work.
    vcpus: Vec<(usize, bool)>,
    tables: Vec<Table>,
}

#[derive(Clone, Debug)]
struct Table {
    slots: Vec<(Option<usize>, Time)>,
    current: usize,
    slot_end: Time,
}

impl Table {
    fn new(slots: &[Slot]) -> Self {
        let slots: Vec<_> = slots
            .iter()
            .map(|slot| (slot.owner, nanos(slot.length)))
            .collect();
        Self {
            slot_end: slots.first().map_or(Time::MAX, |(_, length)| *length),
            current: 0,
            slots,
        }
    }

    fn owner(&self) -> Option<usize> {
        self.slots.get(self.current).and_then(|(owner, _)| *owner)
    }

    fn go_on(&mut self) {
        self.current = (self.current + 1) % self.slots.len();
        self.slot_end = self.slot_end.saturating_add(self.slots[self.current].1);
    }
}

impl DispatchTable {
    /// The vCPUs of `host` by one table for each CPU.
    pub fn new(host: &Host, tables: &[Vec<Slot>]) -> Self {
        Self {
            // An unbound vCPU is refused before.
            vcpus: host
                .vcpus()
                .map(|vcpu| (vcpu.cpu.unwrap_or(0), false))
                .collect(),
            tables: tables.iter().map(|slots| Table::new(slots)).collect(),
        }
    }
}

impl HostPolicy for DispatchTable {
    fn wake(&mut self, vcpu: usize, _now: Time) {
        self.vcpus[vcpu].1 = true;
    }

    fn sleep(&mut self, vcpu: usize, _now: Time) {
        self.vcpus[vcpu].1 = false;
    }

    fn ran(&mut self, _vcpu: usize, _now: Time, _length: Time) {}

    fn next_timer(&self) -> Time {
        let ends = self.tables.iter().map(|table| table.slot_end);
        ends.min().unwrap_or(Time::MAX)
    }

    fn timer(&mut self, now: Time) {
        for table in self.tables.iter_mut().filter(|table| table.slot_end <= now) {
            table.go_on();
        }
    }

    fn claim(&self, vcpu: usize, now: Time) -> Option<Claim> {
        let (cpu, has_work) = self.vcpus[vcpu];
        let table = &self.tables[cpu];
        (has_work && table.owner() == Some(vcpu)).then(|| Claim {
            order: 0,
            most: table.slot_end - now,
        })
    }
}
