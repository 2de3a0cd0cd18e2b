//! Shelving: maintenance windows, silences and drained hosts, whose alarms are suppressed.
//!
//! `Shelving` suppresses raises only: the clear of an alarm that was notified before is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::notification::Notification;
use crate::pure::alarm::key::Subject;
use crate::pure::base::time::WallTime;

/// Matcher of alarms by host, tag, test and set. An empty list matches everything, and `*` matches any text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Matcher {
    /// Names of hosts: either end of a test, the host that an alarm is about, or the agent where the alarm is about
    /// nothing else.
    pub hosts: Vec<String>,
    /// Tags of tests, or the tag that a group alarm is about.
    pub tags: Vec<String>,
    /// Ids or descriptions of tests.
    pub tests: Vec<String>,
    /// Names of the sets that the tests come from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<String>,
}

impl Matcher {
    fn write_lists(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, list) in [("host", &self.hosts), ("tag", &self.tags), ("test", &self.tests), ("set", &self.sets)] {
            if !list.is_empty() {
                write!(f, ", {name} {}", list.join(" or "))?;
            }
        }
        Ok(())
    }

    /// Returns whether this alarm matches every list.
    pub fn matches(&self, alarm: &Notification) -> bool {
        let any = |patterns: &[String], names: &[&str]| {
            patterns.is_empty()
                || patterns
                    .iter()
                    .map(|pattern| WildMatch::new(pattern))
                    .any(|p| names.iter().any(|name| p.matches(name)))
        };
        let (mut tags, mut tests, mut id) = (Vec::new(), Vec::new(), String::new());
        if let Some(test) = &alarm.test {
            tags.extend(test.tags.iter().map(String::as_str));
            id = test.id.to_string();
            tests.push(test.description.as_str());
        } else if let Subject::Tag(tag) = &alarm.key.subject {
            tags.push(tag.as_str());
        }
        tests.push(&id);
        let set: Vec<&str> = alarm.test.iter().filter_map(|test| test.set.as_deref()).collect();
        any(&self.sets, &set)
            && any(&self.hosts, &hosts_of(alarm))
            && any(&self.tags, &tags)
            && any(&self.tests, &tests)
    }
}

/// Time in which a maintenance window is open.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowTimes {
    /// Window that is open once, between two times.
    Once {
        /// Begin of the window, inclusive.
        from: WallTime,
        /// End of the window, exclusive.
        to: WallTime,
    },
    /// Window that recurs on certain days of the week.
    Recurring {
        /// Days on which the window begins; every day if empty.
        days: Vec<Weekday>,
        /// Time of day at which the window begins.
        from: Time,
        /// Time of day at which the window ends; on the following day if it is not later than `from`.
        to: Time,
        /// Time zone of both times of day.
        time_zone: TimeZone,
    },
}

impl WindowTimes {
    /// Returns whether the window is open at this time.
    pub fn is_open(&self, now: WallTime) -> bool {
        match self {
            WindowTimes::Once { from, to } => (*from..*to).contains(&now),
            WindowTimes::Recurring { days, from, to, time_zone } => {
                let Ok(now) = Timestamp::from_nanosecond(now.unix_nanos().into()) else { return false };
                let now = now.to_zoned(time_zone.clone());
                // A window that began yesterday may still be open.
                let yesterday = now.checked_sub(Span::new().days(1));
                [Some(now.clone()), yesterday.ok()].into_iter().flatten().any(|day| {
                    let listed = days.is_empty() || days.contains(&day.weekday());
                    listed && opened(&day, *from, *to).is_some_and(|(from, to)| from <= now && now < to)
                })
            }
        }
    }
}

/// Returns begin and end of the window that begins on this day. Where the clock skips its begin, it runs for its
/// length right after the gap, as cron does; an end that is skipped is as much later as the clock was set forward.
fn opened(day: &Zoned, from: Time, to: Time) -> Option<(Zoned, Zoned)> {
    let zone = day.time_zone();
    let last_day = if to > from { day.date() } else { day.date().tomorrow().ok()? };
    let (begin, end) = (day.date().to_datetime(from), last_day.to_datetime(to));
    let ambiguous = zone.to_ambiguous_zoned(begin);
    if !matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }) {
        return Some((begin.to_zoned(zone.clone()).ok()?, end.to_zoned(zone.clone()).ok()?));
    }
    let before_gap = zone.to_ambiguous_zoned(begin).earlier().ok()?.timestamp();
    let begun = zone.following(before_gap).next()?.timestamp().to_zoned(zone.clone());
    let length = end.duration_since(begin);
    let ended = begun.checked_add(length).ok()?;
    Some((begun, ended))
}

/// Maintenance window, as a document defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Human-readable name: the comment of the window, or its document and position if that is empty.
    pub name: String,
    /// Host in whose document the window is defined, and to whose alarms it is limited; `None` for the fleet's
    /// document.
    pub host: Option<String>,
    /// Alarms that the window suppresses.
    pub matcher: Matcher,
    /// Time in which the window is open.
    pub hours: WindowTimes,
}

/// Renders the window for log and page: its name, hours and matchers.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        match &self.hours {
            WindowTimes::Once { from, to } => write!(f, ", {from} to {to}")?,
            WindowTimes::Recurring { days, from, to, time_zone } => {
                let days: Vec<String> = days.iter().map(|day| format!("{day:?}").to_lowercase()).collect();
                let days = if days.is_empty() { "every day".to_owned() } else { days.join(", ") };
                let zone = time_zone.iana_name().unwrap_or("UTC");
                write!(f, ", {days} {from} to {to} {zone}")?;
            }
        }
        match &self.host {
            Some(host) => write!(f, ", about host {host}")?,
            None if self.matcher == Matcher::default() => f.write_str(", all alarms")?,
            None => {}
        }
        self.matcher.write_lists(f)
    }
}

/// Silence that an operator made, with its matchers and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Identifier by which the silence can be ended.
    pub id: String,
    /// Alarms that the silence suppresses.
    #[serde(flatten)]
    pub matcher: Matcher,
    /// Time at which the silence was made and begins.
    pub from: WallTime,
    /// Time at which the silence ends, exclusive.
    pub until: WallTime,
    /// Human-readable reason for the silence.
    pub comment: String,
    /// Name of the person who made the silence.
    pub author: String,
}

/// Renders one line of `peerpair silence list`.
impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} until {}", self.id, self.until)?;
        self.matcher.write_lists(f)?;
        write!(f, "; {} {}", self.author, self.comment)
    }
}

/// Time for which an expired silence is kept, in case the clock is set back.
const KEEP_EXPIRED_FOR: Duration = Duration::from_secs(3600);

/// Set of everything that suppresses raises: maintenance windows, drained hosts and silences.
#[derive(Debug, Default)]
pub struct Shelving {
    windows: Vec<Window>,
    drained: BTreeSet<String>,
    silences: BTreeMap<String, Silence>,
    /// Open windows, by position, and active silences, by id, at the last call of `on_time`.
    open: (Vec<bool>, BTreeSet<String>),
    /// Set if something was added or removed since the last call of `on_time`.
    touched: bool,
}

impl Shelving {
    /// Replaces the maintenance windows and the drained hosts by those of the current documents.
    pub fn on_documents(&mut self, windows: Vec<Window>, drained: BTreeSet<String>) {
        self.windows = windows;
        self.drained = drained;
        self.touched = true;
    }

    /// Loads the silences of an earlier run from disk.
    pub fn load(&mut self, silences: Vec<Silence>) {
        self.silences = silences.into_iter().map(|silence| (silence.id.clone(), silence)).collect();
        self.touched = true;
    }

    /// Adds a silence, or replaces the one of the same id.
    pub fn add(&mut self, silence: Silence) {
        self.silences.insert(silence.id.clone(), silence);
        self.touched = true;
    }

    /// Ends a silence and returns it; `None` if there is none of this id.
    pub fn expire(&mut self, id: &str) -> Option<Silence> {
        self.touched = true;
        self.silences.remove(id)
    }

    /// Returns the silences that have not ended. A silence is active as soon as it is made, even if the clock is set
    /// back before its begin.
    pub fn silences(&self, now: WallTime) -> impl Iterator<Item = &Silence> {
        self.silences.values().filter(move |silence| silence.until > now)
    }

    /// Updates which windows and silences are active. Returns whether that changed, so that alarms have to be
    /// evaluated again.
    pub fn on_time(&mut self, now: WallTime) -> bool {
        // Expired silences are kept for a while: a clock that was set forward by mistake may be set back.
        self.silences.retain(|_, silence| silence.until + KEEP_EXPIRED_FOR > now);
        let silences = self.silences(now).map(|silence| silence.id.clone()).collect();
        let open = (self.windows.iter().map(|window| window.hours.is_open(now)).collect(), silences);
        let changed = open != self.open || self.touched;
        self.open = open;
        self.touched = false;
        changed
    }

    /// Returns a description of what suppresses this alarm; `None` if nothing does.
    pub fn shelves(&self, alarm: &Notification, now: WallTime) -> Option<String> {
        let hosts = hosts_of(alarm);
        let of_host = |host: &str| hosts.contains(&host);
        if let Some(host) = hosts.iter().find(|host| self.drained.contains(**host)) {
            return Some(format!("host {host} is drained"));
        }
        let window = self.windows.iter().zip(&self.open.0).find(|(window, open)| {
            **open && window.host.as_deref().is_none_or(of_host) && window.matcher.matches(alarm)
        });
        if let Some((window, _)) = window {
            return Some(format!("maintenance {}", window.name));
        }
        let silence = self.silences(now).find(|silence| silence.matcher.matches(alarm))?;
        Some(format!("silence {} until {}", silence.id, silence.until))
    }
}

/// Returns the hosts of an alarm: the one that it is about, both ends of its test, or else the agent.
fn hosts_of(alarm: &Notification) -> Vec<&str> {
    match (&alarm.test, &alarm.key.subject) {
        (_, Subject::Host(host)) => vec![host],
        (Some(test), _) => vec![&test.from_host, &test.to_host],
        (None, _) => vec![&alarm.agent],
    }
}
