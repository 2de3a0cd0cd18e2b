//! What is known to be away and raises no alarm: windows of maintenance, silences, drained hosts.
//!
//! They keep raises back. What was told before, and ends meanwhile, is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::alarm::Subject;
use super::notification::Notification;
use super::time::WallTime;

/// Which alarms. Lists that are empty match everything; `*` stands for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Matcher {
    /// Names of hosts: of either end of a test, of the host that an alarm is about, of the agent
    /// where it is about nothing else.
    pub hosts: Vec<String>,
    /// Tags of tests.
    pub tags: Vec<String>,
    /// Ids or descriptions of tests.
    pub tests: Vec<String>,
    /// Sets of tests.
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

    /// Whether this alarm is meant.
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

/// When a window is open.
#[derive(Clone, Debug, PartialEq)]
pub enum Hours {
    /// Once.
    Once {
        /// From this on.
        from: WallTime,
        /// Until this.
        to: WallTime,
    },
    /// Again and again.
    Recurring {
        /// On these days, by their begin; empty: every day.
        days: Vec<Weekday>,
        /// From this time of day on.
        from: Time,
        /// Until this one; if it is not later than `from`, on the day after.
        to: Time,
        /// In this time zone.
        time_zone: TimeZone,
    },
}

impl Hours {
    /// Whether it is open.
    pub fn is_open(&self, now: WallTime) -> bool {
        match self {
            Hours::Once { from, to } => (*from..*to).contains(&now),
            Hours::Recurring { days, from, to, time_zone } => {
                let Ok(now) = Timestamp::from_nanosecond(now.unix_nanos().into()) else { return false };
                let now = now.to_zoned(time_zone.clone());
                // One that began yesterday may still be open.
                let yesterday = now.checked_sub(Span::new().days(1));
                [Some(now.clone()), yesterday.ok()].into_iter().flatten().any(|day| {
                    let listed = days.is_empty() || days.contains(&day.weekday());
                    listed && opened(&day, *from, *to).is_some_and(|(from, to)| from <= now && now < to)
                })
            }
        }
    }
}

/// The window that begins on this day. Where the clock skips its begin, it runs for its length right after the gap, as
/// cron does; an end that is skipped is as much later as the clock was set forward.
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

/// A window of maintenance, from the documents.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Which document it is from, and what it says of itself.
    pub name: String,
    /// The host in whose document it is: only alarms about that one.
    pub host: Option<String>,
    /// Which alarms.
    pub matcher: Matcher,
    /// When.
    pub hours: Hours,
}

/// For people.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        match &self.hours {
            Hours::Once { from, to } => write!(f, ", {from} to {to}")?,
            Hours::Recurring { days, from, to, time_zone } => {
                let days: Vec<String> = days.iter().map(|day| format!("{day:?}").to_lowercase()).collect();
                let days = if days.is_empty() { "every day".to_owned() } else { days.join(", ") };
                let zone = time_zone.iana_name().unwrap_or("UTC");
                write!(f, ", {days} {from} to {to} {zone}")?;
            }
        }
        match &self.host {
            Some(host) => write!(f, ", about host {host}")?,
            None if self.matcher == Matcher::default() => f.write_str(", about everything")?,
            None => {}
        }
        self.matcher.write_lists(f)
    }
}

/// A silence, made by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its name.
    pub id: String,
    /// Which alarms.
    #[serde(flatten)]
    pub matcher: Matcher,
    /// Since when.
    pub from: WallTime,
    /// Until when.
    pub until: WallTime,
    /// Why, for people.
    pub comment: String,
    /// Who made it.
    pub author: String,
}

/// A line of `peerpair silence list`.
impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} until {}", self.id, self.until)?;
        self.matcher.write_lists(f)?;
        write!(f, "; {} {}", self.author, self.comment)
    }
}

/// A silence that has ended is forgotten after so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// All that keeps raises back.
#[derive(Debug, Default)]
pub struct Shelf {
    windows: Vec<Window>,
    drained: BTreeSet<String>,
    silences: BTreeMap<String, Silence>,
    /// Which windows are open, and which silences.
    open: (Vec<bool>, BTreeSet<String>),
    /// Something was added or taken away since time last passed.
    touched: bool,
}

impl Shelf {
    /// Other documents.
    pub fn on_documents(&mut self, windows: Vec<Window>, drained: BTreeSet<String>) {
        self.windows = windows;
        self.drained = drained;
        self.touched = true;
    }

    /// The silences of an earlier run.
    pub fn load(&mut self, silences: Vec<Silence>) {
        self.silences = silences.into_iter().map(|silence| (silence.id.clone(), silence)).collect();
        self.touched = true;
    }

    /// A new silence, or another of the same id.
    pub fn add(&mut self, silence: Silence) {
        self.silences.insert(silence.id.clone(), silence);
        self.touched = true;
    }

    /// Ends a silence.
    pub fn expire(&mut self, id: &str) -> Option<Silence> {
        self.touched = true;
        self.silences.remove(id)
    }

    /// The silences that have not ended. They begin when they are made, whatever the clock said.
    pub fn silences(&self, now: WallTime) -> impl Iterator<Item = &Silence> {
        self.silences.values().filter(move |silence| silence.until > now)
    }

    /// Time has passed. Says whether anything opened or ended, so that alarms have to be looked at.
    pub fn on_time(&mut self, now: WallTime) -> bool {
        // A clock that was set forward by mistake is set back.
        self.silences.retain(|_, silence| silence.until + FORGOTTEN_AFTER > now);
        let silences = self.silences(now).map(|silence| silence.id.clone()).collect();
        let open = (self.windows.iter().map(|window| window.hours.is_open(now)).collect(), silences);
        let changed = open != self.open || self.touched;
        self.open = open;
        self.touched = false;
        changed
    }

    /// What keeps this alarm back.
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

/// Either end of a test, the host that an alarm is about, or else the agent.
fn hosts_of(alarm: &Notification) -> Vec<&str> {
    match (&alarm.test, &alarm.key.subject) {
        (_, Subject::Host(host)) => vec![host],
        (Some(test), _) => vec![&test.from_host, &test.to_host],
        (None, _) => vec![&alarm.agent],
    }
}
