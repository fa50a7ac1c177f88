//! Every job as a line of comma-separated values (RFC 4180), so that a reader can check each figure from the data.

use std::io::{self, Write};

/// One job of one task. Times are nanoseconds of the clock that the scenario says; what did not happen is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobRow {
    /// Which scenario or configuration it belongs to.
    pub scenario: String,
    /// The virtual CPU it ran on; for a task on the host, the host CPU.
    pub vcpu: u32,
    /// The task's name.
    pub task: String,
    /// The job's number within its task, from 0.
    pub job: u64,
    /// When it was released.
    pub release_ns: u64,
    /// When the timer that releases it was served.
    pub woken_ns: Option<u64>,
    /// When it first ran.
    pub start_ns: Option<u64>,
    /// When it finished.
    pub finish_ns: Option<u64>,
    /// Its absolute deadline.
    pub deadline_ns: u64,
    /// How long it executed.
    pub executed_ns: u64,
}

impl JobRow {
    /// Finish less release.
    pub fn response_ns(&self) -> Option<u64> {
        self.finish_ns
            .map(|finish| finish.saturating_sub(self.release_ns))
    }

    /// Whether it finished after its deadline, or not at all.
    pub fn is_missed(&self) -> bool {
        self.finish_ns
            .is_none_or(|finish| finish > self.deadline_ns)
    }
}

/// The head line.
pub const COLUMNS: &str = "scenario,vcpu,task,job,release_ns,woken_ns,start_ns,finish_ns,deadline_ns,executed_ns,response_ns,missed";

/// Writes the head line and one line per job; `missed` is 0 or 1, an absent time an empty field.
pub fn write_jobs(out: &mut impl Write, jobs: &[JobRow]) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for job in jobs {
        let time = |value: Option<u64>| value.map(|ns| ns.to_string()).unwrap_or_default();
        write!(
            out,
            "{},{},{},{},",
            quoted(&job.scenario),
            job.vcpu,
            quoted(&job.task),
            job.job
        )?;
        write!(
            out,
            "{},{},{},{},",
            job.release_ns,
            time(job.woken_ns),
            time(job.start_ns),
            time(job.finish_ns)
        )?;
        writeln!(
            out,
            "{},{},{},{}",
            job.deadline_ns,
            job.executed_ns,
            time(job.response_ns()),
            u8::from(job.is_missed())
        )?;
    }
    Ok(())
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(jobs: &[JobRow]) -> Vec<String> {
        let mut out = Vec::new();
        write_jobs(&mut out, jobs).unwrap();
        String::from_utf8(out)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_line_has_every_column_in_the_order_of_the_head() {
        let job = JobRow {
            scenario: "4, \"loaded\"".to_owned(),
            vcpu: 1,
            task: "t1".to_owned(),
            job: 7,
            release_ns: 100,
            woken_ns: Some(110),
            start_ns: Some(120),
            finish_ns: Some(400),
            deadline_ns: 399,
            executed_ns: 200,
        };
        assert_eq!(
            lines(&[job])[1],
            "\"4, \"\"loaded\"\"\",1,t1,7,100,110,120,400,399,200,300,1"
        );
    }

    #[test]
    fn a_job_that_never_finished_is_missed_and_has_no_response_time() {
        let job = JobRow {
            task: "t2".to_owned(),
            deadline_ns: 50,
            ..JobRow::default()
        };
        assert_eq!(lines(&[job])[1], ",0,t2,0,0,,,,50,0,,1");
        assert_eq!(COLUMNS.split(',').count(), 12);
    }
}
