//! Reads what the guest's tasks record, while it runs, from memory that the guest owns.
//!
//! Everything there is a claim of the guest: heads may jump, records may be torn or senseless. A claim becomes a
//! [`Job`] or a [`Gap`] only when it is consistent in itself; what is not is counted and dropped.

use rt_abi::record::{Kind, Record, ring_size};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use crate::boot::{BootLayout, RING_CAPACITY};
use crate::memory::Ram;

/// Offset of `head` in a ring's header.
const HEAD_AT: u64 = 24;
/// Size of header and record.
const RECORD: u64 = 64;

/// A job of a guest's task, times in nanoseconds of guest time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// vCPU.
    pub vcpu: u16,
    /// Task, in the order of the task set.
    pub task: u16,
    /// Number of the job, from 0.
    pub job: u64,
    /// Release.
    pub release: u64,
    /// First instruction of the timer interrupt for this release; 0 if none was needed.
    pub woken: u64,
    /// First instruction of the job.
    pub start: u64,
    /// Completion.
    pub finish: u64,
    /// Absolute deadline.
    pub deadline: u64,
    /// Processor time used.
    pub executed: u64,
}

impl Job {
    /// Response time in nanoseconds.
    #[must_use]
    pub fn response(&self) -> u64 {
        self.finish - self.release
    }

    /// Whether the job was done after its deadline.
    #[must_use]
    pub fn missed(&self) -> bool {
        self.finish > self.deadline
    }
}

/// A stretch in which a busy guest task did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// vCPU.
    pub vcpu: u16,
    /// Task that saw it.
    pub task: u16,
    /// Start in nanoseconds of guest time.
    pub start: u64,
    /// End in nanoseconds of guest time.
    pub end: u64,
}

/// A critical section of a guest's task, times in nanoseconds of guest time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// vCPU.
    pub vcpu: u16,
    /// Task.
    pub task: u16,
    /// How many sections there were before, of all tasks.
    pub before: u64,
    /// When the lock was asked for.
    pub asked: u64,
    /// When it was got.
    pub got: u64,
    /// When it was given back.
    pub back: u64,
    /// Processor time that was spun away.
    pub spun: u64,
}

impl Section {
    /// From asking for the lock to getting it: spinning, and what interrupted it.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.got - self.asked
    }
}

/// A checked record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A job ended.
    Job(Job),
    /// A gap was seen.
    Gap(Gap),
    /// A critical section ended.
    Section(Section),
    /// The guest says that its run is over.
    End {
        /// When, in nanoseconds of guest time.
        at: u64,
    },
}

/// Counts of what could not be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Records overwritten before they were read.
    pub overwritten: u64,
    /// Records that made no sense.
    pub senseless: u64,
}

/// The reader of all rings of a guest.
#[derive(Debug)]
pub struct Reader {
    layout: BootLayout,
    read: Vec<u64>,
    losses: Losses,
}

impl Reader {
    /// A reader that starts at the beginning of every ring.
    #[must_use]
    pub fn new(layout: BootLayout) -> Self {
        let rings = usize::try_from(layout.rings).unwrap_or(0);
        Self {
            layout,
            read: vec![0; rings],
            losses: Losses::default(),
        }
    }

    /// A reader that starts behind what is there already: a restored guest's records up to now have been read.
    #[must_use]
    pub fn from_now_on(layout: BootLayout, ram: &Ram) -> Self {
        let mut reader = Self::new(layout);
        for (ring, read) in (0u64..).zip(&mut reader.read) {
            let base = layout.records + ring * ring_size(RING_CAPACITY);
            *read = ram.read_obj(GuestAddress(base + HEAD_AT)).unwrap_or(0);
        }
        reader
    }

    /// What could not be used so far.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// Hands every new record to `take`. Never reads more than one ring's worth per ring.
    pub fn poll(&mut self, ram: &Ram, mut take: impl FnMut(Event)) {
        for (ring, read) in (0u64..).zip(&mut self.read) {
            let base = self.layout.records + ring * ring_size(RING_CAPACITY);
            let Ok(head) = ram.read_obj::<u64>(GuestAddress(base + HEAD_AT)) else {
                continue;
            };
            let Some(new) = head.checked_sub(*read) else {
                // A head that goes backwards is a guest's mistake or malice; start again from there.
                self.losses.senseless += 1;
                *read = head;
                continue;
            };
            let lost = new.saturating_sub(RING_CAPACITY);
            self.losses.overwritten = self.losses.overwritten.saturating_add(lost);
            for number in head - new.min(RING_CAPACITY)..head {
                let at = GuestAddress(base + RECORD + (number % RING_CAPACITY) * RECORD);
                let mut bytes = [0; 64];
                let event = ram
                    .read_slice(&mut bytes, at)
                    .ok()
                    .and_then(|()| check(&Record::from_bytes(&bytes)));
                match event {
                    Some(event) => take(event),
                    None => self.losses.senseless += 1,
                }
            }
            *read = head;
        }
    }
}

/// The event a record claims, if it is consistent in itself.
fn check(record: &Record) -> Option<Event> {
    let ordered = record.release <= record.start && record.start <= record.finish;
    match Kind::from_raw(record.kind)? {
        Kind::Job => {
            let possible = fits(record.executed, record.finish.wrapping_sub(record.start));
            (ordered && possible && record.deadline >= record.release).then_some(Event::Job(Job {
                vcpu: record.vcpu,
                task: record.task,
                job: record.job,
                release: record.release,
                woken: record.woken,
                start: record.start,
                finish: record.finish,
                deadline: record.deadline,
                executed: record.executed,
            }))
        }
        Kind::Gap => (record.start <= record.finish).then_some(Event::Gap(Gap {
            vcpu: record.vcpu,
            task: record.task,
            start: record.start,
            end: record.finish,
        })),
        Kind::End => Some(Event::End { at: record.finish }),
        Kind::Section => {
            let possible = fits(record.executed, record.start.wrapping_sub(record.release));
            (ordered && possible).then_some(Event::Section(Section {
                vcpu: record.vcpu,
                task: record.task,
                before: record.job,
                asked: record.release,
                got: record.start,
                back: record.finish,
                spun: record.executed,
            }))
        }
    }
}

/// Whether processor time fits into a stretch; a guest that takes its time from a slower clock may be a little off.
fn fits(used: u64, stretch: u64) -> bool {
    used <= stretch.saturating_add(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guest() -> (Ram, BootLayout) {
        let layout = BootLayout::new(4 << 20, 1).unwrap();
        let ram = Ram::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        (ram, layout)
    }

    fn put(ram: &Ram, layout: &BootLayout, number: u64, bytes: &[u8; 64]) {
        let at = layout.records + RECORD + (number % RING_CAPACITY) * RECORD;
        ram.write_slice(bytes, GuestAddress(at)).unwrap();
        ram.write_obj(number + 1, GuestAddress(layout.records + HEAD_AT))
            .unwrap();
    }

    fn job(number: u64) -> Record {
        Record {
            kind: 1,
            job: number,
            release: 10,
            start: 20,
            finish: 50,
            deadline: 40,
            executed: 30,
            ..Record::default()
        }
    }

    #[test]
    fn records_come_out_once_and_in_order() {
        let (ram, layout) = guest();
        let mut reader = Reader::new(layout);
        let mut seen = Vec::new();
        for number in 0..10 {
            put(&ram, &layout, number, &job(number).to_bytes());
            if number % 3 == 0 {
                reader.poll(&ram, |event| seen.push(event));
            }
        }
        reader.poll(&ram, |event| seen.push(event));
        let numbers: Vec<u64> = seen
            .iter()
            .map(|event| match event {
                Event::Job(job) => {
                    assert!(job.missed());
                    assert_eq!(job.response(), 40);
                    job.job
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        assert_eq!(reader.losses(), Losses::default());
    }

    #[test]
    fn overwritten_records_are_counted() {
        let (ram, layout) = guest();
        let mut reader = Reader::new(layout);
        for number in 0..RING_CAPACITY + 7 {
            put(&ram, &layout, number, &job(number).to_bytes());
        }
        let mut count = 0;
        reader.poll(&ram, |_| count += 1);
        assert_eq!(count, RING_CAPACITY);
        assert_eq!(reader.losses().overwritten, 7);
    }

    #[test]
    fn what_was_read_before_a_guest_was_saved_is_not_read_again() {
        let (ram, layout) = guest();
        for number in 0..5 {
            put(&ram, &layout, number, &job(number).to_bytes());
        }
        let mut reader = Reader::from_now_on(layout, &ram);
        put(&ram, &layout, 5, &job(5).to_bytes());
        let mut seen = Vec::new();
        reader.poll(&ram, |event| seen.push(event));
        assert!(
            matches!(seen[..], [Event::Job(Job { job: 5, .. })]),
            "{seen:?}"
        );
    }

    #[test]
    fn a_section_is_taken_for_one_only_if_its_times_are_in_order_and_hold_the_spinning() {
        let claim = Record {
            kind: 4,
            job: 7,
            release: 10_000_000,
            start: 30_000_000,
            finish: 32_000_000,
            executed: 15_000_000,
            ..Record::default()
        };
        match check(&claim) {
            Some(Event::Section(section)) => {
                assert_eq!((section.before, section.spun), (7, 15_000_000));
                assert_eq!(section.waited(), 20_000_000);
            }
            other => panic!("{other:?}"),
        }
        for senseless in [
            Record {
                start: 9_000_000,
                ..claim
            },
            Record {
                finish: 29_000_000,
                ..claim
            },
            Record {
                executed: 21_000_001,
                ..claim
            },
            Record {
                executed: u64::MAX,
                ..claim
            },
            Record { kind: 5, ..claim },
        ] {
            assert_eq!(check(&senseless), None, "{senseless:?}");
        }
    }

    proptest! {
        #[test]
        fn no_content_of_the_rings_panics_or_yields_an_impossible_job(
            heads in proptest::collection::vec(any::<u64>(), 1..5),
            record in proptest::collection::vec(any::<u8>(), 64),
        ) {
            let (ram, layout) = guest();
            let mut reader = Reader::new(layout);
            let bytes: [u8; 64] = record.try_into().unwrap();
            for head in heads {
                put(&ram, &layout, 0, &bytes);
                ram.write_obj(head, GuestAddress(layout.records + HEAD_AT)).unwrap();
                reader.poll(&ram, |event| match event {
                    Event::Job(job) => assert!(job.release <= job.finish),
                    Event::Section(section) => {
                        assert!(section.got <= section.back && section.spun <= section.waited().saturating_add(1_000_000));
                    }
                    Event::Gap(_) | Event::End { .. } => {}
                });
            }
        }
    }
}
