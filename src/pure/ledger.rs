//! What one receiver was told, what it should be told, and when.
//!
//! A key is dirty while the two differ. However often an alarm changes, its receiver gets the
//! current state when the key's hold is over and there is a token for it: never a queue of old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alarm::{AlarmKey, Kind};
use super::bucket::Bucket;
use super::notification::Notification;
use super::time::{Moment, WallTime};
use super::truth::{NO_LONGER_WATCHED, retired};

/// How long an alarm is left alone after its receiver was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldDown {
    /// After the first telling.
    pub hold_down: Duration,
    /// Doubling ends here.
    pub hold_down_max: Duration,
}

/// Whether all that can be an alarm is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Every document was read.
    Whole,
    /// A document is bad, and no good version of it is known.
    Partial,
}

/// What becomes of the alarms that a receiver was told and will not be told any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The receiver is told that they are over, as far as it is concerned.
    Clear,
    /// Another sink tells the same receiver: what stands, it tells anew.
    HandOver,
}

/// Which alarms a receiver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of them.
    All,
    /// Only faults of the configuration: the bootstrap's sinks once the documents name others.
    Config,
    /// None: the sink is about to go.
    Nothing,
}

/// Whether good news of a test that was never told down is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstUp {
    /// As a console wants it.
    Told,
    /// As a receiver of alarms wants it.
    Silent,
}

/// How a receiver wants to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Manner {
    /// Messages per second.
    pub rate: f64,
    /// Messages at once.
    pub burst: u32,
    /// Which alarms.
    pub scope: Scope,
    /// Good news.
    pub first_up: FirstUp,
    /// What was told, and is not acknowledged by the protocol, is told again so long after.
    pub repeat: Vec<Duration>,
}

/// A message to send now.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// The agent has started.
    ColdStart,
    /// The current state of an alarm.
    Alarm {
        /// To be told.
        notification: Box<Notification>,
        /// Another alarm that stands, where this one is a clear and receivers of the original would
        /// take it for the clear of both.
        still_raised: Option<Box<Notification>>,
    },
}

/// One receiver's book.
#[derive(Debug)]
pub struct Ledger {
    manner: Manner,
    bucket: Bucket,
    cold_start: ColdStart,
    entries: BTreeMap<AlarmKey, Entry>,
}

#[derive(Debug, PartialEq)]
enum ColdStart {
    Due,
    InFlight,
    Told,
}

#[derive(Debug)]
struct Entry {
    /// The current state; nothing if it was told before this agent began and is not known yet.
    wanted: Option<Notification>,
    /// What the receiver has.
    told: Option<Notification>,
    /// What is on its way.
    in_flight: Option<Notification>,
    /// What failed to be delivered, and may have arrived all the same. Whatever the truth is then,
    /// it has to be told.
    in_doubt: Option<Notification>,
    hold_down: HoldDown,
    /// The hold that the last telling set.
    hold: Duration,
    held_until: Moment,
    /// When the receiver was told of this state first, and how often again.
    told_at: Moment,
    repeats: usize,
    /// Whether the last change came while the alarm was calm.
    calm: bool,
    /// Changes of state since the last telling began.
    changes: u64,
    /// Another sink tells it: forget it when what is on its way has left.
    handed_over: bool,
    /// Its subject is gone: forget it once nothing is left to tell.
    retired: bool,
}

/// A book's numbers for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerCounts {
    /// Alarms that the receiver knows to stand.
    pub told: usize,
    /// Alarms whose told state differs from the true one.
    pub dirty: usize,
    /// Of these, held back by `hold_down`.
    pub held: usize,
}

/// What is kept on disk of one alarm whose receiver may know it to stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldRecord {
    /// As it was told last.
    pub notification: Notification,
    /// Whether it is not known to have arrived: then it has to be told again, whatever is true.
    pub in_doubt: bool,
}

impl Ledger {
    /// An empty book.
    pub fn new(manner: Manner, now: Moment) -> Self {
        Ledger {
            bucket: Bucket::new(manner.rate, manner.burst, now),
            manner,
            cold_start: ColdStart::Told,
            entries: BTreeMap::new(),
        }
    }

    /// Takes in what the receiver was told by an earlier run.
    pub fn load(&mut self, records: Vec<ToldRecord>, hold_down: HoldDown) {
        for record in records {
            let entry = self.entry(record.notification.key.clone(), hold_down);
            if record.in_doubt {
                entry.in_doubt = Some(record.notification);
            } else {
                entry.told = Some(record.notification);
            }
        }
    }

    /// The agent has just started: the receiver is told so before anything else.
    pub fn on_cold_start(&mut self) {
        self.cold_start = ColdStart::Due;
    }

    /// The receiver wants to be told in another manner. What it will not be told any more is
    /// settled with it at once, hold or no hold, so that it comes before the word of a successor.
    pub fn on_manner(&mut self, manner: Manner, parting: Parting, now: Moment, wall: WallTime) {
        if (manner.rate, manner.burst) != (self.manner.rate, self.manner.burst) {
            self.bucket = Bucket::new(manner.rate, manner.burst, now);
        }
        self.manner = manner;
        let outside: Vec<_> = self.entries.keys().filter(|key| !self.in_scope(key)).cloned().collect();
        for key in outside {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.held_until = now;
            let stands = entry.wanted.as_ref().is_some_and(Notification::is_raised);
            if parting == Parting::HandOver && stands {
                entry.handed_over = true;
                if entry.in_flight.is_none() {
                    self.entries.remove(&key);
                }
            } else {
                self.retire(&key, "told to other receivers from now on", wall);
            }
        }
    }

    /// An alarm is in this state now.
    pub fn on_change(&mut self, notification: Notification, hold_down: HoldDown, now: Moment) {
        if !self.in_scope(&notification.key) {
            return;
        }
        let entry = self.entry(notification.key.clone(), hold_down);
        entry.hold_down = hold_down;
        entry.retired = false;
        entry.handed_over = false;
        let flipped = entry.wanted.as_ref().is_none_or(|wanted| wanted.state != notification.state);
        if flipped {
            // Calm means: since the last hold ended, another such time has passed without change.
            entry.calm = now >= entry.held_until + entry.hold;
            entry.changes = if entry.calm { 1 } else { entry.changes + 1 };
        }
        entry.wanted = Some(notification);
    }

    /// Only these alarms can still be; what was told of others is taken back. Where not everything
    /// is known, because a document is bad, what an earlier run told stands.
    pub fn retain(&mut self, valid: &BTreeSet<AlarmKey>, knowledge: Knowledge, wall: WallTime) {
        let stands = |entry: &Entry| knowledge == Knowledge::Partial && entry.wanted.is_none();
        let others = self.entries.iter().filter(|(key, _)| !valid.contains(key));
        let gone: Vec<_> = others.filter(|(_, entry)| !stands(entry)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.retire(&key, NO_LONGER_WATCHED, wall);
        }
    }

    /// What to send now: downs first, then the worse, then the older. All of it is on its way until
    /// `on_delivered` or `on_failed` says what became of it.
    pub fn take_due(&mut self, now: Moment) -> Vec<Due> {
        let mut due = Vec::new();
        if self.cold_start == ColdStart::Due {
            if self.bucket.take(now).is_err() {
                return due;
            }
            self.cold_start = ColdStart::InFlight;
            due.push(Due::ColdStart);
        }
        let mut ready: Vec<&AlarmKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_dirty(self.manner.first_up) && entry.held_until <= now)
            .map(|(key, _)| key)
            .collect();
        ready.sort_by_key(|key| self.entries[*key].urgency());
        let again = self.entries.iter().filter(|(_, entry)| entry.repeat_at(&self.manner).is_some_and(|at| at <= now));
        let ready: Vec<AlarmKey> = ready.into_iter().chain(again.map(|(key, _)| key)).cloned().collect();
        for key in ready {
            if self.bucket.take(now).is_err() {
                break;
            }
            let still_raised = self.sibling_raised(&key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Some(mut notification) = entry.wanted.clone() else { continue };
            notification.suppressed = entry.changes.saturating_sub(1);
            entry.in_flight = Some(notification.clone());
            let still_raised = still_raised.filter(|_| !notification.is_raised());
            due.push(Due::Alarm { notification: Box::new(notification), still_raised });
        }
        due
    }

    /// The receiver has it, as far as its protocol can tell.
    pub fn on_delivered(&mut self, due: &Due, now: Moment) {
        let Due::Alarm { notification, .. } = due else {
            self.cold_start = ColdStart::Told;
            return;
        };
        let Some(entry) = self.entries.get_mut(&notification.key) else { return };
        if entry.handed_over {
            self.entries.remove(&notification.key);
            return;
        }
        let first_up = entry.told.is_none() && !notification.is_raised();
        let again =
            entry.in_doubt.is_none() && entry.told.as_ref().is_some_and(|told| told.state == notification.state);
        entry.told = entry.in_flight.take();
        entry.in_doubt = None;
        if again {
            entry.repeats += 1;
            self.forget_if_settled(&notification.key);
            return;
        }
        entry.told_at = now;
        entry.repeats = if first_up { usize::MAX } else { 0 };
        if first_up {
            // Good news that nobody waited for holds nothing back.
            return;
        }
        entry.hold = if entry.calm {
            entry.hold_down.hold_down
        } else {
            entry
                .hold
                .saturating_mul(2)
                .clamp(entry.hold_down.hold_down, entry.hold_down.hold_down_max.max(entry.hold_down.hold_down))
        };
        entry.held_until = now + entry.hold;
        entry.changes = entry.changes.saturating_sub(notification.suppressed + 1);
        // What changed while it was on its way is a change in the new hold, not in a calm.
        entry.calm = false;
        self.forget_if_settled(&notification.key);
    }

    /// It did not get there: the key stays dirty.
    pub fn on_failed(&mut self, due: &Due) {
        match due {
            Due::ColdStart => self.cold_start = ColdStart::Due,
            Due::Alarm { notification, .. } => {
                if let Some(entry) = self.entries.get_mut(&notification.key) {
                    entry.in_doubt = entry.in_flight.take();
                }
            }
        }
    }

    /// When `take_due` may have something, if nothing changes before.
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        let held_until = self
            .entries
            .values()
            .filter_map(|entry| match entry.is_dirty(self.manner.first_up) {
                true => Some(entry.held_until),
                false => entry.repeat_at(&self.manner),
            })
            .min();
        let ready = if self.cold_start == ColdStart::Due { Some(now) } else { held_until }?;
        match self.bucket.clone().take(ready.max(now)) {
            Ok(()) => Some(ready),
            Err(token) => Some(token),
        }
    }

    /// What must be on disk before the messages of `take_due` leave: every alarm that the receiver
    /// was told, or is about to be told, and not yet told over.
    pub fn records(&self) -> Vec<ToldRecord> {
        let record =
            |notification: &Notification, in_doubt| ToldRecord { notification: notification.clone(), in_doubt };
        self.entries
            .values()
            .filter_map(|entry| match (entry.in_flight.as_ref().or(entry.in_doubt.as_ref()), &entry.told) {
                (Some(unsure), _) => Some(record(unsure, true)),
                (None, Some(told)) if entry.repeat_at(&self.manner).is_some() => Some(record(told, true)),
                (None, Some(told)) if told.is_raised() => Some(record(told, false)),
                (None, _) => None,
            })
            .collect()
    }

    /// Numbers for the status page.
    pub fn counts(&self, now: Moment) -> LedgerCounts {
        let mut counts = LedgerCounts::default();
        for entry in self.entries.values() {
            counts.told += usize::from(entry.told.as_ref().is_some_and(Notification::is_raised));
            if entry.in_flight.is_some() || entry.is_dirty(self.manner.first_up) {
                counts.dirty += 1;
                counts.held += usize::from(entry.held_until > now);
            }
        }
        counts
    }

    fn in_scope(&self, key: &AlarmKey) -> bool {
        match self.manner.scope {
            Scope::All => true,
            Scope::Config => key.kind == Kind::Config,
            Scope::Nothing => false,
        }
    }

    fn entry(&mut self, key: AlarmKey, hold_down: HoldDown) -> &mut Entry {
        self.entries.entry(key).or_insert_with(|| Entry {
            wanted: None,
            told: None,
            in_flight: None,
            in_doubt: None,
            hold_down,
            hold: Duration::ZERO,
            held_until: Moment::ZERO,
            told_at: Moment::ZERO,
            repeats: usize::MAX,
            calm: true,
            changes: 0,
            handed_over: false,
            retired: false,
        })
    }

    fn retire(&mut self, key: &AlarmKey, text: &str, wall: WallTime) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.retired = true;
        let shown =
            [&entry.in_flight, &entry.in_doubt, &entry.told, &entry.wanted].into_iter().find_map(Option::as_ref);
        if let Some(shown) = shown
            && entry.wanted.as_ref().is_none_or(Notification::is_raised)
        {
            entry.wanted = Some(retired(shown.clone(), text, wall));
        }
        self.forget_if_settled(key);
    }

    /// Drops an entry whose subject is gone and of which the receiver believes nothing bad.
    fn forget_if_settled(&mut self, key: &AlarmKey) {
        let Some(entry) = self.entries.get(key) else { return };
        let told = entry.told.as_ref().is_some_and(Notification::is_raised);
        let unsure = entry.in_flight.is_some() || entry.in_doubt.is_some();
        let believed = told || unsure || entry.repeat_at(&self.manner).is_some();
        if entry.retired && !believed {
            self.entries.remove(key);
        }
    }

    /// Another alarm that stands and that the original had no notification of its own for: it told
    /// a test's latency as its connection, and all faults of the configuration as one.
    fn sibling_raised(&self, key: &AlarmKey) -> Option<Box<Notification>> {
        let raised = |entry: &Entry| entry.wanted.clone().filter(Notification::is_raised).map(Box::new);
        let sibling = match key.kind {
            Kind::Connection => Kind::Latency,
            Kind::Latency => Kind::Connection,
            Kind::Config => {
                let mut others = self.entries.iter().filter(|(other, _)| other.kind == Kind::Config && *other != key);
                return others.find_map(|(_, entry)| raised(entry));
            }
            Kind::Sender | Kind::Clock | Kind::UnknownPacket => return None,
        };
        self.entries.get(&AlarmKey::new(sibling, key.subject.clone())).and_then(raised)
    }
}

impl Entry {
    fn is_dirty(&self, first_up: FirstUp) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        if self.in_flight.is_some() {
            return false;
        }
        if self.in_doubt.is_some() {
            return true;
        }
        match &self.told {
            Some(told) => told.state != wanted.state,
            None => wanted.is_raised() || (first_up == FirstUp::Told && wanted.is_connection() && !self.retired),
        }
    }

    /// When to tell again what was told, if it still is so.
    fn repeat_at(&self, manner: &Manner) -> Option<Moment> {
        let (told, wanted) = (self.told.as_ref()?, self.wanted.as_ref()?);
        let settled = told.state == wanted.state && self.in_flight.is_none() && self.in_doubt.is_none();
        let after = manner.repeat.get(self.repeats).filter(|_| settled)?;
        Some(self.told_at + *after)
    }

    fn urgency(&self) -> impl Ord {
        self.wanted.as_ref().map(|wanted| (!wanted.is_raised(), wanted.severity, wanted.since))
    }
}

#[cfg(test)]
mod tests;
