//! The date and time of day, UTC, for the names of report folders.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// Now, as `2025-11-20T13-40-12Z`: sorts by time, and is a file name everywhere.
pub fn stamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    format(since.unwrap_or(Duration::ZERO).as_secs())
}

fn format(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / DAY);
    let time = seconds % DAY;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar (Howard Hinnant,
/// "chrono-compatible low-level date algorithms", `civil_from_days`, for days not before 1970).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01, where a year's leap day comes last
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_are_written_as_everybody_writes_them() {
        assert_eq!(format(0), "1970-01-01T00-00-00Z");
        assert_eq!(format(951_782_400), "2000-02-29T00-00-00Z");
        assert_eq!(format(1_763_646_012), "2025-11-20T13-40-12Z");
        assert_eq!(format(4_107_542_399), "2100-02-28T23-59-59Z");
    }
}
