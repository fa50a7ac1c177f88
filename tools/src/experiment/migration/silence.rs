//! How long a guest showed no sign of life: when its jobs began and ended, by its own clock. Pure.

use std::time::Duration;

use rt_abi::record::{Kind, Record};

/// What a guest recorded, from the first look at it on, wherever it was.
#[derive(Debug, Default)]
pub struct Life {
    records: Vec<Record>,
    /// Records that were overwritten before anybody looked.
    pub lost: u64,
}

impl Life {
    /// Adds what a look brought.
    pub fn extend(&mut self, records: Vec<Record>, lost: u64) {
        self.records.extend(records);
        self.lost += lost;
    }

    /// The latest instant that is known, in nanoseconds of the guest's time.
    pub fn latest(&self) -> u64 {
        self.records
            .iter()
            .map(|record| record.finish)
            .max()
            .unwrap_or(0)
    }

    /// The longest time without a sign of life that ended after `from` and began before `to`; nothing is known of less than
    /// two signs.
    pub fn silence(&self, from: u64, to: u64) -> Option<Duration> {
        let mut signs: Vec<u64> = self.records.iter().flat_map(signs).collect();
        signs.sort_unstable();
        let gaps = signs.windows(2).filter_map(|pair| {
            let (begin, end) = (pair[0], pair[1]);
            (end > from && begin < to).then_some(end - begin)
        });
        gaps.max().map(Duration::from_nanos)
    }

    /// Jobs of a task per second that were done between two instants.
    pub fn jobs_per_second(&self, task: u16, from: u64, to: u64) -> Option<f64> {
        let is_in = |record: &&Record| {
            record.kind == Kind::Job as u16
                && record.task == task
                && (from..to).contains(&record.finish)
        };
        let count = self.records.iter().filter(is_in).count();
        let span = to.checked_sub(from).filter(|span| *span > 0)?;
        Some(count as f64 * 1e9 / span as f64)
    }
}

/// When a record says that the guest ran.
fn signs(record: &Record) -> impl Iterator<Item = u64> {
    let is_job = record.kind == Kind::Job as u16;
    [record.woken, record.start, record.finish]
        .into_iter()
        .filter(move |at| is_job && *at > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn job(task: u16, start: u64, finish: u64) -> Record {
        Record {
            kind: Kind::Job as u16,
            task,
            start,
            finish,
            ..Record::default()
        }
    }

    fn life(records: Vec<Record>) -> Life {
        let mut life = Life::default();
        life.extend(records, 0);
        life
    }

    #[test]
    fn the_longest_silence_is_between_the_end_of_a_job_and_the_beginning_of_the_next_one() {
        let life = life(vec![
            job(0, MS, 2 * MS),
            job(0, 3 * MS, 4 * MS),
            // Away.
            job(0, 9 * MS, 10 * MS),
        ]);
        assert_eq!(life.silence(0, u64::MAX), Some(Duration::from_millis(5)));
        assert_eq!(life.latest(), 10 * MS);
    }

    #[test]
    fn a_job_that_was_preempted_is_no_silence_and_its_interrupt_is_a_sign() {
        let mut late = job(0, 8 * MS, 9 * MS);
        late.woken = 5 * MS;
        let life = life(vec![job(0, 3 * MS, 4 * MS), job(1, MS, 6 * MS), late]);
        assert_eq!(life.silence(0, u64::MAX), Some(Duration::from_millis(2)));
    }

    #[test]
    fn only_what_touches_the_span_counts() {
        let life = life(vec![
            job(0, MS, 2 * MS),
            job(0, 12 * MS, 13 * MS),
            job(0, 16 * MS, 17 * MS),
        ]);
        assert_eq!(
            life.silence(12 * MS, u64::MAX),
            Some(Duration::from_millis(3))
        );
        assert_eq!(life.silence(0, 12 * MS), Some(Duration::from_millis(10)));
        assert_eq!(life.silence(17 * MS, u64::MAX), None);
    }

    #[test]
    fn jobs_of_one_task_are_counted_per_second() {
        let records = (0..100).map(|i| job(i % 2, u64::from(i) * MS, u64::from(i) * MS + 1));
        let life = life(records.collect());
        let rate = life.jobs_per_second(1, 0, 100 * MS).unwrap();
        assert!((rate - 500.0).abs() < 1.0, "{rate}");
        assert_eq!(life.jobs_per_second(1, 5, 5), None);
    }
}
