//! When a schedule runs: a cron expression in a time zone.
//!
//! Five fields, or six with seconds first, or a word such as `@daily`. What falls into the hour
//! that a change of clocks leaves out runs right after it; what falls into the hour that comes
//! twice runs once, unless it runs by the hour or more often. That is what the crate does.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::model::{Error, Result};

/// When something runs.
#[derive(Debug, Clone)]
pub struct Times {
    cron: Cron,
    zone: TimeZone,
}

/// A time zone by its name in the IANA database; empty: the machine's.
pub fn zone(name: &str) -> Result<TimeZone> {
    if name.is_empty() {
        return Ok(TimeZone::system());
    }
    TimeZone::get(name).map_err(|_| {
        Error::invalid(format!("timezone is {name:?}, which is not known; give a name such as Europe/Berlin or UTC"))
    })
}

impl Times {
    /// Reads an expression. One that never comes true is refused.
    pub fn parse(cron: &str, timezone: &str) -> Result<Self> {
        let zone = zone(timezone)?;
        let wrong = |why: String| {
            Error::invalid(format!(
                "cron is {cron:?}, which {why}; give five fields such as \"0 2 * * *\", six with seconds first, or @daily"
            ))
        };
        // The crate takes that for no second at all, and looks for it in every minute of thousands of years.
        if cron.split_whitespace().any(|field| field.split(',').any(str::is_empty)) {
            return Err(wrong("has a comma with nothing before or after it".into()));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let parsed = parser.parse(cron.trim()).map_err(|e| wrong(format!("is not a cron expression ({e})")))?;
        let times = Self { cron: parsed, zone };
        match times.next(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(times),
            None => Err(wrong("never comes true".into())),
        }
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = after.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&start, false).ok().map(|time| time.timestamp())
    }

    /// The last time that is not after `now`.
    pub fn last(&self, now: Timestamp) -> Option<Timestamp> {
        let start = now.to_zoned(self.zone.clone());
        self.cron.find_previous_occurrence(&start, true).ok().map(|time| time.timestamp())
    }

    /// The time zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(cron: &str, zone: &str, from: &str, to: &str) -> Vec<Timestamp> {
        let times = Times::parse(cron, zone).unwrap();
        let (mut at, end): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
        let mut found = Vec::new();
        while let Some(next) = times.next(at).filter(|next| *next < end) {
            assert!(next > at);
            found.push(next);
            at = next;
        }
        found
    }

    /// Every minute of a year looked at by itself: a fixed time of the day runs once on every day.
    #[test]
    fn a_year_of_nights_over_two_changes_of_clocks_and_a_leap_day() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        for cron in ["30 2 * * *", "0 3 * * *", "30 1 * * *", "0 30 2 * * *"] {
            let found = all(cron, "Europe/Berlin", "2023-12-31T23:00:00Z", "2024-12-31T23:00:00Z");
            assert_eq!(found.len(), 366, "{cron}");
            let days: std::collections::BTreeSet<_> =
                found.iter().map(|t| t.to_zoned(zone.clone()).date().to_string()).collect();
            assert_eq!(days.len(), 366, "{cron}: twice on some day");
        }
        // 02:30 does not exist on the last Sunday of March; it runs right after the gap.
        let march = all("30 2 * * *", "Europe/Berlin", "2024-03-30T12:00:00Z", "2024-03-31T12:00:00Z");
        assert_eq!(march, ["2024-03-31T01:00:00Z".parse::<Timestamp>().unwrap()]);
    }

    #[test]
    fn what_runs_by_the_hour_runs_every_hour_of_every_day() {
        let found = all("0 * * * *", "Europe/Berlin", "2023-12-31T22:59:00Z", "2024-12-31T22:59:00Z");
        assert_eq!(found.len(), 366 * 24);
        let found = all("*/15 * * * *", "America/New_York", "2024-11-02T23:59:00Z", "2024-11-04T23:59:00Z");
        assert_eq!(found.len(), 48 * 4);
    }

    #[test]
    fn a_leap_day_comes_every_four_years() {
        let found = all("0 0 29 2 *", "UTC", "2020-01-01T00:00:00Z", "2029-01-01T00:00:00Z");
        let days: Vec<String> = found.iter().map(|t| t.to_string()).collect();
        assert_eq!(days, ["2020-02-29T00:00:00Z", "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for cron in ["", "* * *", "61 * * * *", "0 2 * * * * *", "0 0 30 2 *", "never", "0 2 * * \u{0}", "@often"]
            .into_iter()
            .chain([", *  0 L * 0", ", * * * * *", "0 2,, * * *", "0 ,2 * * *", "* * * * * 1,"])
        {
            let Err(e) = Times::parse(cron, "UTC") else { panic!("{cron:?} was taken") };
            assert!(e.message.contains("cron is"), "{cron:?}: {e}");
        }
        assert!(Times::parse("0 2 * * *", "Atlantis/Capital").unwrap_err().message.contains("timezone"));
        for cron in ["@daily", "@hourly", "0 2 * * *", "0 0 2 * * *", "*/5 8-18 * * mon-fri"] {
            Times::parse(cron, "").unwrap();
        }
    }
}
