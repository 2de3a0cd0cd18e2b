//! Reads maintenance windows from their documents. [`windows`] resolves time zones and returns the valid windows;
//! invalid ones become findings.

use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::Deserialize;

use super::findings::Findings;
use crate::pure::alarm::shelving::{Matcher, Window, WindowTimes};
use crate::pure::base::time::WallTime;

/// Time window in which matching alarms are suppressed. An alarm that was notified before the window and clears
/// during it is still notified as cleared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceDocument {
    /// Human-readable name of the window, shown where alarms are suppressed by it.
    pub comment: String,
    /// Host names to which the window is limited; `*` matches any text, also in `tags` and `tests`. An empty list
    /// matches everything.
    pub hosts: Vec<String>,
    /// Tags to which the window is limited: a test needs at least one of them.
    pub tags: Vec<String>,
    /// Ids or descriptions of the tests to which the window is limited.
    pub tests: Vec<String>,
    /// Names of the sets to whose tests the window is limited.
    pub sets: Vec<String>,
    /// Begin of the window: a date and time, or a time of day for a recurring window.
    pub from: String,
    /// End of the window, in the same form as `from`.
    pub to: String,
    /// IANA time zone of the window, such as `Europe/Berlin`. Defaults to UTC.
    pub time_zone: String,
    /// Weekdays on which a recurring window begins. An empty list means every day.
    pub days: Vec<Day>,
}

/// Days of the week, in the abbreviations that documents use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "days of the week")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// Reads the maintenance windows of the document at `place`. A window of a host's document has that name in `host`
/// and applies to alarms about that host only.
pub fn windows(
    documents: &[MaintenanceDocument],
    place: &str,
    host: Option<&str>,
    findings: &mut Findings,
) -> Vec<Window> {
    let read = |(n, document): (usize, &MaintenanceDocument)| {
        let field = format!("maintenance[{n}]");
        let hours = hours(document, &field, findings)?;
        let name = if document.comment.is_empty() { format!("{place} {field}") } else { document.comment.clone() };
        let matcher = Matcher {
            hosts: document.hosts.clone(),
            tags: document.tags.clone(),
            tests: document.tests.clone(),
            sets: document.sets.clone(),
        };
        Some(Window { name, host: host.map(str::to_owned), matcher, hours })
    };
    documents.iter().enumerate().filter_map(read).collect()
}

fn hours(document: &MaintenanceDocument, field: &str, findings: &mut Findings) -> Option<WindowTimes> {
    let time_zone = match document.time_zone.as_str() {
        "" => TimeZone::UTC,
        name => match TimeZone::get(name) {
            Ok(time_zone) => time_zone,
            Err(_) => {
                let problem = format!("`{name}` is not a time zone known to this host");
                findings.error(
                    &format!("{field}.time_zone"),
                    problem,
                    "write one such as \"Europe/Berlin\" or \"UTC\"",
                );
                return None;
            }
        },
    };
    let time_of_day = |text: &str| text.parse::<Time>().ok().filter(|_| !text.contains('-'));
    let begins_with_time = |text: &str| text.get(..5).is_some_and(|start| time_of_day(start).is_some());
    let recurs = !document.days.is_empty() || begins_with_time(&document.from);
    if recurs {
        let mut read = |name: &str, text: &str| {
            let time = time_of_day(text);
            if text.contains(['+', 'Z', 'z']) {
                let problem = format!("`{text}` has an offset: a recurring window would move with daylight saving");
                let help = "write the time without it, and time_zone, such as \"Europe/Berlin\" or \"UTC\"";
                findings.error(&format!("{field}.{name}"), problem, help);
                return None;
            }
            if time.is_none() {
                let problem = format!("`{text}` is not a time of day");
                findings.error(
                    &format!("{field}.{name}"),
                    problem,
                    "write a time of day such as \"22:00\" in both from and to",
                );
            }
            time
        };
        let (from, to) = (read("from", &document.from), read("to", &document.to));
        let days = document.days.iter().map(|day| weekday(*day)).collect();
        return Some(WindowTimes::Recurring { days, from: from?, to: to?, time_zone });
    }
    let mut read = |name: &str, text: &str| {
        let moment = moment(text, &time_zone);
        if moment.is_none() {
            let problem =
                if text.is_empty() { "missing".to_owned() } else { format!("`{text}` is not a date and time") };
            let help = "write a date and a time such as \"2026-11-22T22:00\", or times of day in both from and to";
            findings.error(&format!("{field}.{name}"), problem, help);
        }
        moment
    };
    let (from, to) = (read("from", &document.from), read("to", &document.to));
    let (from, to) = (from?, to?);
    if from >= to {
        findings.error(&format!("{field}.to"), "not after from", "write an end that is after the start");
        return None;
    }
    Some(WindowTimes::Once { from, to })
}

/// Parses a date and time with its own offset or, without one, in UTC.
pub fn moment_in_utc(text: &str) -> Option<WallTime> {
    moment(text, &TimeZone::UTC)
}

/// Parses a date and time with its own offset or, without one, in `time_zone`.
fn moment(text: &str, time_zone: &TimeZone) -> Option<WallTime> {
    let timestamp = match (text.parse::<Zoned>(), text.parse::<Timestamp>(), text.parse::<DateTime>()) {
        (Ok(zoned), _, _) => zoned.timestamp(),
        (_, Ok(timestamp), _) => timestamp,
        // A date without a time means the start of that day.
        (_, _, Ok(civil)) => civil.to_zoned(time_zone.clone()).ok()?.timestamp(),
        _ => return None,
    };
    u64::try_from(timestamp.as_nanosecond()).ok().map(WallTime::from_unix_nanos)
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> (Vec<Window>, Vec<String>) {
        let documents: Vec<MaintenanceDocument> = serde_json::from_str(json).unwrap();
        let mut findings = Findings::about("config.json");
        let windows = windows(&documents, "config.json", None, &mut findings);
        (windows, findings.into_vec().iter().map(ToString::to_string).collect())
    }

    fn is_open(window: &Window, at: &str) -> bool {
        window.hours.is_open(moment(at, &TimeZone::UTC).unwrap())
    }

    #[test]
    fn one_time_window_is_open_in_its_time_zone() {
        let (windows, findings) = read(
            r#"[{"from":"2026-11-22T22:00","to":"2026-11-23T02:00","time_zone":"Europe/Berlin","hosts":["db*"]}]"#,
        );
        assert_eq!(findings, [""; 0]);
        assert!(!is_open(&windows[0], "2026-11-22T20:59:59Z"));
        assert!(is_open(&windows[0], "2026-11-22T21:00:00Z"));
        assert!(is_open(&windows[0], "2026-11-23T00:59:59Z"));
        assert!(!is_open(&windows[0], "2026-11-23T01:00:00Z"));
    }

    /// A window from Saturday night to Sunday morning, in summer time and in winter time.
    #[test]
    fn weekly_window_crosses_midnight_in_summer_and_winter_time() {
        let (windows, findings) = read(r#"[{"days":["sat"],"from":"23:00","to":"01:30","time_zone":"Europe/Berlin"}]"#);
        assert_eq!(findings, [""; 0]);
        for (at, open) in [
            ("2026-11-21T21:59:59Z", false),
            ("2026-11-21T22:00:00Z", true),
            ("2026-11-22T00:29:59Z", true),
            ("2026-11-22T00:30:00Z", false),
            ("2026-11-22T22:30:00Z", false),
            ("2026-07-18T21:00:00Z", true),
            ("2026-07-18T23:30:00Z", false),
            // In this night the clock is set back at 03:00, after the end of the window at 01:30.
            ("2026-10-24T23:29:00Z", true),
            ("2026-10-24T23:30:00Z", false),
        ] {
            assert_eq!(is_open(&windows[0], at), open, "{at}");
        }
    }

    /// In Berlin the clock jumps from 02:00 to 03:00 on 29 March 2026. A window within that hour runs after the jump.
    #[test]
    fn window_in_the_hour_that_daylight_saving_skips_runs_after_the_gap() {
        for (from, to, begin, end) in [
            ("02:00", "03:00", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"),
            ("02:30", "02:45", "2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z"),
            ("02:30", "04:00", "2026-03-29T01:00:00Z", "2026-03-29T02:30:00Z"),
            ("01:30", "02:30", "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"),
        ] {
            let window = format!(r#"[{{"from":"{from}","to":"{to}","time_zone":"Europe/Berlin"}}]"#);
            let (windows, findings) = read(&window);
            assert_eq!(findings, [""; 0]);
            let at = |text: &str, seconds: i64| {
                let nanos = moment(text, &TimeZone::UTC).unwrap().unix_nanos() as i64 + seconds * 1_000_000_000;
                windows[0].hours.is_open(WallTime::from_unix_nanos(nanos as u64))
            };
            let open = [at(begin, -1), at(begin, 0), at(end, -1), at(end, 0)];
            assert_eq!(open, [false, true, true, false], "{from} to {to}");
        }
    }

    #[test]
    fn offset_in_a_recurring_window_is_refused_with_a_pointer_to_the_time_zone() {
        for text in ["01:00+02:00", "01:00Z", "01:00:00+01:00"] {
            let (windows, findings) = read(&format!(r#"[{{"from":"{text}","to":"03:00"}}]"#));
            assert_eq!(windows, []);
            assert!(findings.len() == 1 && findings[0].contains("time_zone"), "{findings:?}");
        }
    }

    #[test]
    fn recurring_window_without_days_is_open_every_day() {
        let (windows, _) = read(r#"[{"from":"02:00","to":"04:00"}]"#);
        assert!(is_open(&windows[0], "2026-11-22T03:00:00Z"));
        assert!(!is_open(&windows[0], "2026-11-22T04:00:00Z"));
    }

    #[test]
    fn invalid_windows_are_reported_with_their_location() {
        let (windows, findings) = read(
            r#"[{"from":"2026-11-22T22:00","to":"2026-11-22T21:00"},{"from":"soon","to":"later"},{"days":["mon"],"from":"25:00","to":"26:00"},
                {"from":"22:00","to":"23:00","time_zone":"Berlin"},{}]"#,
        );
        assert_eq!(windows, []);
        insta::assert_snapshot!(findings.join("\n"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_and_time_do_not_panic(from: String, to: String, zone: String, at: u64) {
            let document = MaintenanceDocument { from, to, time_zone: zone, ..MaintenanceDocument::default() };
            for window in windows(&[document], "x", None, &mut Findings::about("x")) {
                window.hours.is_open(WallTime::from_unix_nanos(at));
            }
        }
    }
}
