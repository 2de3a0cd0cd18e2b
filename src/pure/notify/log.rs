//! Notification log of one receiver: what it was notified of, what it should be notified of, and when.
//!
//! The main type is `NotificationLog`. A key is pending while the two differ. However often an alarm changes, the
//! receiver gets only the current state, once the hold-down of the key has ended and a token is free; old states are
//! never queued. A flapping alarm is notified as flapping once. In a storm, alarms about single tests are held, and a
//! summary is sent instead.

mod delivery;
mod entry;
mod flapping;
mod jitter;
mod lost_records;
mod policy;
mod retry;
mod storm;
mod storm_summary;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::entry::{LogEntry, Rank, ScheduleEntry, ScheduleState};
pub use self::flapping::FlapSettings;
pub use self::lost_records::{LostRecords, RecordState};
pub use self::policy::{
    Aggregation, Completeness, DeliveryMode, HoldDown, InitialClear, NotificationPolicy, OnRemoval, Scope,
};
use self::retry::Reachability;
use self::storm::Storm;
pub use self::storm::StormSettings;
use self::storm_summary::STORM_DAMPING;
use crate::pure::alarm::cause::StormCounts;
use crate::pure::alarm::inventory::AlarmInventory;
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::alarm::list::retired;
use crate::pure::alarm::notification::{AlarmState, AlarmStatus, ClearReason, Notification, SuppressedBy};
use crate::pure::base::time::{Moment, Now, WallTime};
use crate::pure::base::token_bucket::TokenBucket;

/// Outbound message that is to be sent now.
#[derive(Clone, Debug, PartialEq)]
pub enum Outbound {
    /// Notification that the agent has started, like the coldStart trap of SNMP.
    ColdStart,
    /// Notification of the current state of one alarm.
    Alarm {
        /// State of the alarm at the time when the message was taken from the log.
        notification: Arc<Notification>,
        /// Relation of this message to the state that the receiver was last notified of.
        reason: NotifyReason,
        /// Another alarm that is still raised; set only with a clear that receivers of the original's traps would
        /// take for the clear of both alarms.
        still_raised: Option<Arc<Notification>>,
    },
}

/// Reason of a notification: how it relates to what the receiver was last notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyReason {
    /// First notification of the alarm to this receiver, as far as the records of this agent show.
    First,
    /// The state differs from the last notification, or the outcome of the last message is unconfirmed.
    Change,
    /// The receiver was already notified of this state, and the message repeats it.
    Again,
}

/// Notification log of one receiver, with its pending keys and their deadlines. Pure: every method takes the current
/// time as an argument.
#[derive(Debug)]
pub struct NotificationLog {
    agent: String,
    policy: NotificationPolicy,
    bucket: TokenBucket,
    cold_start: ColdStart,
    entries: BTreeMap<AlarmKey, LogEntry>,
    /// Entries to look at again later, ordered by the time at which they need attention.
    schedule: BTreeSet<(Moment, AlarmKey)>,
    /// Entries that can be notified at once, in the order in which they are sent.
    ready: BTreeSet<(Rank, AlarmKey)>,
    /// Number of alarms about single tests or documents that are to be notified, held or not.
    waiting: usize,
    storm: Storm,
    reachability: Reachability,
    /// Set if the next attempt belongs to a message that failed before; fresh and failed messages alternate.
    failed_next: bool,
    /// Inventory of the alarms that can exist, and whether it is complete; `None` until `retain` is called.
    valid: Option<(AlarmInventory, Completeness)>,
    /// Alarms of which the receiver may hold a raise although this agent has no record of it.
    lost_records: Option<LostRecords>,
    /// Earliest time of clears that are sent only because a record may be missing.
    clear_not_before: Moment,
}

/// Time after the start for which clears of possibly missing records are gathered, if one message carries many
/// alarms.
const CLEARS_GATHERED_FOR: Duration = Duration::from_secs(600);

/// Delivery state of the message that the agent has started.
#[derive(Debug)]
struct ColdStart {
    phase: ColdStartPhase,
    /// Number of failures in a row, time of the last attempt, and time of the next attempt.
    failures: u32,
    tried_at: Moment,
    retry_at: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColdStartPhase {
    /// The message was not tried yet; it is sent before everything else.
    Pending,
    InFlight,
    /// The message failed, and is sent again at `retry_at`, after all alarms.
    Failed,
    Told,
}

/// Figures of one notification log for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogCounts {
    /// Number of alarms that are raised at the receiver.
    pub notified: usize,
    /// Number of alarms whose notified state differs from the true one, those in flight included.
    pub pending: usize,
    /// Number of pending alarms that are still held by `hold_down`.
    pub held: usize,
    /// Number of alarms whose last notification was not acknowledged, and that will be repeated.
    pub unconfirmed: usize,
    /// Number of alarms that are flapping, and are notified as such instead of change by change.
    pub flapping: usize,
    /// Set while a storm lasts, in which notifications of single alarms are held until it ends.
    pub storm: bool,
}

/// Record on disk of one alarm that may be raised at the receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotifiedRecord {
    /// Notification that was sent last, or whose delivery was last attempted.
    pub notification: Arc<Notification>,
    /// Set if the delivery is unconfirmed; the alarm then has to be notified again, whatever its current state is.
    pub unconfirmed: bool,
}

/// State of one alarm at one receiver, as the API reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotifiedState {
    /// State that the receiver was last notified of; `None` if there was no notification.
    pub notified: Option<AlarmState>,
    /// Set while a message is in flight or has failed, so that the receiver may have a newer state than `notified`.
    pub unconfirmed: bool,
    /// Earliest time of the next notification; `None` if none is pending.
    pub held_until: Option<WallTime>,
    /// Number of state changes since the last notification was prepared, including a change that is still pending.
    pub suppressed: u64,
    /// Set while the alarm changes too often for each change to be notified.
    pub flapping: bool,
}

impl NotificationLog {
    /// Creates an empty notification log for a receiver of this agent.
    pub fn new(agent: impl Into<String>, policy: NotificationPolicy, now: Moment) -> Self {
        NotificationLog {
            agent: agent.into(),
            bucket: TokenBucket::new(policy.rate, policy.burst, now),
            storm: Storm::new(policy.storm),
            policy,
            cold_start: ColdStart {
                phase: ColdStartPhase::Told,
                failures: 0,
                tried_at: Moment::ZERO,
                retry_at: Moment::ZERO,
            },
            entries: BTreeMap::new(),
            schedule: BTreeSet::new(),
            ready: BTreeSet::new(),
            waiting: 0,
            reachability: Reachability::default(),
            failed_next: false,
            valid: None,
            lost_records: None,
            clear_not_before: Moment::ZERO,
        }
    }

    /// Loads the records of an earlier run. Unacknowledged notifications are repeated. If records may be missing, a
    /// clear of every alarm that is found good is sent once, at the end of the queue.
    pub fn load(&mut self, records: Vec<NotifiedRecord>, record_state: RecordState, hold_down: HoldDown, now: Now) {
        let forgets = matches!(self.policy.delivery_mode, DeliveryMode::Refreshed { .. });
        // An older copy of the records may name a raise that was cleared since: alarms that are still raised are sent
        // again.
        let outdated = record_state == RecordState::Incomplete;
        let lost_records = match record_state {
            RecordState::Complete(lost_records) => lost_records,
            RecordState::Incomplete => Some(LostRecords::new(now.wall)),
        };
        if !forgets && self.policy.initial_clear == InitialClear::Silent {
            self.lost_records = lost_records.filter(|lost_records| !lost_records.has_expired(now.wall));
            // A mail carries many alarms: one mail about all of them is better than ten about a few each.
            let gathers = if self.policy.batch > 1 { CLEARS_GATHERED_FOR } else { Duration::ZERO };
            self.clear_not_before = now.moment + gathers;
        }
        // A storm of an earlier run counts as ended. If it continues, a new one is detected.
        let over = self.storm_status(StormCounts::default(), Some(ClearReason::Restarted), now);
        for record in records {
            let key = record.notification.key.clone();
            let entry = self.entry(&key, hold_down);
            if record.unconfirmed {
                entry.unconfirmed = Some(record.notification);
            } else {
                // Unacknowledged messages are repeated at intervals from the restart on, not at once: many agents may
                // start together.
                (entry.notified_at, entry.sent_at, entry.repeats) = (now.moment, now.moment, 0);
                entry.notified = Some(record.notification);
                entry.again = outdated;
            }
            if key.kind == Kind::Storm {
                entry.hold_down = STORM_DAMPING;
                entry.wanted = Some(over.clone());
            }
            self.reschedule(&key, now.moment);
            // The scope of the sink may have been narrowed since the records were written.
            if !self.in_scope(&key) {
                self.retire(&key, ClearReason::OutOfScope, now);
            }
        }
    }

    /// Takes over the records of another sink of the same receiver, whose last messages may still be in flight.
    /// Alarms that can no longer exist are cleared.
    pub fn adopt_records(&mut self, records: Vec<NotifiedRecord>, hold_down: HoldDown, now: Now) {
        for record in records {
            let key = record.notification.key.clone();
            let entry = self.entry(&key, hold_down);
            if entry.notified.is_none() && entry.in_flight.is_none() && entry.unconfirmed.is_none() {
                // An acknowledgement to the other sink counts here too, since both have the same receiver.
                let slot = if record.unconfirmed { &mut entry.unconfirmed } else { &mut entry.notified };
                *slot = Some(record.notification);
                (entry.notified_at, entry.sent_at, entry.repeats) = (now.moment, now.moment, 0);
            }
            self.reschedule(&key, now.moment);
        }
        if let Some((valid, completeness)) = self.valid.clone() {
            self.retain(&valid, completeness, now);
        }
    }

    /// Queues the message that the agent has just started; it is sent before everything else.
    pub fn on_cold_start(&mut self) {
        self.cold_start.phase = ColdStartPhase::Pending;
    }

    /// Applies another notification policy. Alarms that leave the scope are cleared at once, regardless of their
    /// hold-down, so that the clear precedes messages of a successor; or, with `OnRemoval::HandOver`, their records are
    /// returned.
    pub fn set_policy(&mut self, policy: NotificationPolicy, on_removal: OnRemoval, now: Now) -> Vec<NotifiedRecord> {
        if (policy.rate, policy.burst) != (self.policy.rate, self.policy.burst) {
            self.bucket = TokenBucket::new(policy.rate, policy.burst, now.moment);
        }
        self.policy = policy;
        self.storm.on_settings(self.policy.storm);
        if self.policy.scope != Scope::All {
            // A narrowed receiver gets its clears at once, not at the end of a storm.
            self.storm = Storm::new(self.policy.storm);
        }
        let mut handed_over = Vec::new();
        let keys: Vec<_> = self.entries.keys().cloned().collect();
        for key in keys {
            let in_scope = self.in_scope(&key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if in_scope {
                self.reschedule(&key, now.moment);
                continue;
            }
            entry.held_until = now.moment;
            if on_removal == OnRemoval::HandOver && key.kind != Kind::Storm {
                handed_over.extend(entry.record(&self.policy));
                entry.handed_over = true;
                if entry.in_flight.is_none() {
                    self.remove(&key);
                }
            } else {
                self.retire(&key, ClearReason::OutOfScope, now);
            }
        }
        handed_over
    }

    /// Takes in the current state of an alarm, and decides whether it has to be notified.
    pub fn on_change(&mut self, alarm_status: AlarmStatus, hold_down: HoldDown, now: Moment) {
        let key = alarm_status.notification.key.clone();
        if !self.in_scope(&key) {
            return;
        }
        let is_active = self.storm.is_active();
        let policy = self.policy.clone();
        let entry = self.entry(&key, hold_down);
        entry.set_damping(hold_down);
        entry.retired = false;
        entry.handed_over = false;
        let before = entry.wanted.as_ref().map(|wanted| wanted.notification.state);
        let flipped = before != Some(alarm_status.notification.state);
        let news = before.is_some() || alarm_status.notification.is_raised();
        if flipped {
            // Calm means: since the last hold-down ended, its length has passed once more without a change.
            entry.calm = now >= entry.held_until + entry.hold;
            entry.changes = if entry.calm { 1 } else { entry.changes + 1 };
            if news && !is_active {
                let was_flapping = entry.flaps.is_flapping();
                entry.flaps.on_change(hold_down.flap, now);
                if entry.flaps.is_flapping() && !was_flapping {
                    entry.held_until = now;
                }
            }
        }
        // A suppressed alarm does not count as flapping; an alarm that waits for its group may.
        if alarm_status.suppressed_by.as_ref().is_some_and(|suppressed_by| *suppressed_by != SuppressedBy::Waiting) {
            entry.flaps.forget();
        }
        let target = entry.target(&policy);
        entry.wanted = Some(alarm_status);
        let to_tell = entry.target(&policy) != target && entry.has_news(&policy) && entry.sends_clear_at().is_none();
        if key.is_single() {
            if to_tell {
                self.storm.on_news(now);
            }
            if flipped && news {
                self.storm.on_change(now);
            }
        }
        self.reschedule(&key, now);
    }

    /// Limits the log to the alarms that can still exist, and clears all others. While a bad document makes the
    /// inventory incomplete, alarms notified by an earlier run stay raised.
    pub fn retain(&mut self, valid: &AlarmInventory, completeness: Completeness, now: Now) {
        self.valid = Some((valid.clone(), completeness));
        if completeness == Completeness::Whole
            && let Some(lost_records) = &mut self.lost_records
            && lost_records.is_about(valid)
        {
            let found: Vec<AlarmKey> =
                self.entries.keys().filter(|key| lost_records.may_be_raised(key)).cloned().collect();
            let clear_not_before = self.clear_not_before;
            for key in found {
                self.entries.entry(key.clone()).and_modify(|entry| entry.lost_records(clear_not_before));
                self.reschedule(&key, now.moment);
            }
        }
        let stands = |entry: &LogEntry| completeness == Completeness::Partial && entry.wanted.is_none();
        let others = self.entries.iter().filter(|(key, _)| key.kind != Kind::Storm && !valid.contains(key));
        let gone: Vec<_> = others.filter(|(_, entry)| !stands(entry)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.retire(&key, ClearReason::NotWatched, now);
        }
    }

    /// Marks all alarms that are raised, notified and not suppressed for another notification. Returns their number.
    pub fn resync(&mut self, now: Moment) -> usize {
        let stands = |entry: &LogEntry| {
            entry.notified_is_raised() && entry.target(&self.policy).is_some_and(AlarmState::is_raised)
        };
        let notified: Vec<_> =
            self.entries.iter().filter(|(_, entry)| stands(entry)).map(|(key, _)| key.clone()).collect();
        for key in &notified {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.again = true;
            }
            self.reschedule(key, now);
        }
        notified.len()
    }

    /// Returns the earliest time at which `take_due` may return a message, if nothing changes before.
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        let later = self.schedule.first().map(|(at, _)| *at);
        let try_at = |is_fresh| if self.reachability.is_away() { self.reachability.next_try(is_fresh) } else { now };
        let fresh = self.first_ready(false).map(|_| try_at(true));
        let failed = self.first_ready(true).map(|_| try_at(false));
        let cold_start = match self.cold_start.phase {
            ColdStartPhase::Pending => Some(now),
            ColdStartPhase::Failed => Some(self.cold_start.retry_at.max(try_at(false))),
            ColdStartPhase::InFlight | ColdStartPhase::Told => None,
        };
        let sendable = [fresh, failed, cold_start].into_iter().flatten().min();
        let token = |at: Moment| at.max(self.bucket.clone().take(now).err().unwrap_or(now));
        [later, sendable.map(token), self.storm.next_deadline()].into_iter().flatten().min()
    }

    /// Returns whether no notification and no repeat is left to send.
    pub fn is_settled(&self) -> bool {
        let open = |entry: &LogEntry| entry.in_flight.is_some() || entry.is_pending(&self.policy) || entry.again;
        let repeats = |entry: &LogEntry| entry.repeat_at(&self.policy).is_some();
        self.cold_start.phase == ColdStartPhase::Told
            && !self.entries.values().any(|entry| open(entry) || repeats(entry))
    }

    /// Returns the records that must be on disk before the messages of `take_due` leave: every alarm that the
    /// receiver was or is about to be notified of, unless its clear is confirmed.
    pub fn records(&self) -> Vec<NotifiedRecord> {
        self.entries.values().filter_map(|entry| entry.record(&self.policy)).collect()
    }

    /// Returns the doubt that has to be on disk together with `records`.
    pub fn lost_records(&self, now: WallTime) -> Option<LostRecords> {
        self.lost_records.clone().filter(|lost_records| !lost_records.has_expired(now))
    }

    /// Returns for each alarm its current or last notified form, and its state at the receiver.
    pub fn notified(&self, now: Now) -> impl Iterator<Item = (Arc<Notification>, NotifiedState)> {
        self.entries.values().filter_map(move |entry| {
            let wanted = entry.wanted.as_ref().map(|wanted| &wanted.notification);
            let known = [wanted, entry.notified.as_ref(), entry.unconfirmed.as_ref(), entry.in_flight.as_ref()];
            Some((known.into_iter().flatten().next()?.clone(), self.notified_state(entry, now)))
        })
    }

    fn notified_state(&self, entry: &LogEntry, now: Now) -> NotifiedState {
        let held = entry.is_pending(&self.policy).then(|| entry.held_until.since(now.moment));
        NotifiedState {
            notified: entry.notified.as_ref().map(|notified| notified.state),
            unconfirmed: entry.in_flight.is_some() || entry.unconfirmed.is_some(),
            held_until: held.map(|held| now.wall + held),
            suppressed: entry.changes,
            flapping: entry.flaps.is_flapping(),
        }
    }

    /// Counts the entries by state, for the status page.
    pub fn counts(&self, now: Moment) -> LogCounts {
        let mut counts = LogCounts { storm: self.storm.is_active(), ..LogCounts::default() };
        for entry in self.entries.values() {
            counts.notified += usize::from(entry.notified_is_raised());
            counts.unconfirmed += usize::from(entry.repeat_unacknowledged_at(&self.policy).is_some());
            counts.flapping += usize::from(entry.flaps.is_flapping());
            if entry.in_flight.is_some() || entry.is_pending(&self.policy) {
                counts.pending += 1;
                counts.held += usize::from(entry.held_until > now);
            }
        }
        counts
    }

    /// Updates the entries whose time in `schedule` has come.
    fn on_timer(&mut self, now: Moment) {
        while let Some((_, key)) = self.schedule.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.flaps.on_time(entry.hold_down.flap, now);
            }
            self.reschedule(&key, now);
        }
    }

    /// Files an entry under the time or rank at which it needs attention. Must be called after every change to the
    /// entry.
    fn reschedule(&mut self, key: &AlarmKey, now: Moment) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let waiting = key.is_single() && entry.has_news(&self.policy);
        let noted = ScheduleEntry { place: entry.place(&self.policy, now), waiting };
        let before = std::mem::replace(&mut entry.noted, noted);
        self.unschedule(key, before);
        self.waiting += usize::from(noted.waiting);
        match noted.place {
            ScheduleState::Nowhere => {}
            ScheduleState::Later(at) => {
                self.schedule.insert((at, key.clone()));
            }
            ScheduleState::Ready(rank) => {
                self.ready.insert((rank, key.clone()));
            }
        }
    }

    fn unschedule(&mut self, key: &AlarmKey, noted: ScheduleEntry) {
        self.waiting -= usize::from(noted.waiting);
        match noted.place {
            ScheduleState::Nowhere => {}
            ScheduleState::Later(at) => {
                self.schedule.remove(&(at, key.clone()));
            }
            ScheduleState::Ready(rank) => {
                self.ready.remove(&(rank, key.clone()));
            }
        }
    }

    fn remove(&mut self, key: &AlarmKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.unschedule(key, entry.noted);
        }
    }

    fn in_scope(&self, key: &AlarmKey) -> bool {
        match self.policy.scope {
            Scope::All => true,
            Scope::Config => key.kind == Kind::Config,
            Scope::Nothing => false,
        }
    }

    fn entry(&mut self, key: &AlarmKey, hold_down: HoldDown) -> &mut LogEntry {
        let lost_since = self.lost_records.as_ref().is_some_and(|lost_records| lost_records.may_be_raised(key));
        self.entries.entry(key.clone()).or_insert_with(|| {
            let mut entry = LogEntry::new(&self.agent, key, hold_down);
            if lost_since {
                entry.lost_records(self.clear_not_before);
            }
            entry
        })
    }

    fn retire(&mut self, key: &AlarmKey, reason: ClearReason, now: Now) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.retired = true;
        // The alarm will not change any more, so that it cannot be flapping either.
        entry.flaps.forget();
        let wanted = entry.wanted.as_ref().map(|wanted| &wanted.notification);
        let shown = [entry.in_flight.as_ref(), entry.unconfirmed.as_ref(), entry.notified.as_ref(), wanted]
            .into_iter()
            .flatten()
            .next();
        if let Some(shown) = shown
            && (entry.wanted.is_none() || entry.wanted_is_raised())
        {
            let notification = Arc::new(retired(shown, reason, now.wall));
            entry.wanted = Some(AlarmStatus { notification, suppressed_by: None });
        }
        self.reschedule(key, now.moment);
        self.forget_if_settled(key);
    }

    /// Removes a retired entry once the receiver neither holds nor may hold a raise of it.
    fn forget_if_settled(&mut self, key: &AlarmKey) {
        let Some(entry) = self.entries.get(key) else { return };
        let unsure = entry.in_flight.is_some() || entry.unconfirmed.is_some();
        let last_known = entry.notified_is_raised()
            || entry.lost_since.is_some()
            || unsure
            || entry.repeat_at(&self.policy).is_some();
        if entry.retired && !last_known {
            self.remove(key);
        }
    }

    /// Returns another raised alarm that the original did not distinguish from this one: it reported the latency of a
    /// test as its connection, and all configuration faults as one alarm.
    fn sibling_raised(&self, key: &AlarmKey) -> Option<Arc<Notification>> {
        // An alarm that the receiver was not notified of is left out: its own notification is still to come.
        let raised = |entry: &LogEntry| {
            let wanted = entry.wanted.as_ref().map(|wanted| wanted.notification.clone());
            wanted.filter(|wanted| wanted.is_raised() && entry.notified_is_raised())
        };
        let sibling = match key.kind {
            Kind::Connection => Kind::Latency,
            Kind::Latency => Kind::Connection,
            Kind::Config => {
                let all = self.entries.range(AlarmKey::new(Kind::Config, Subject::Agent)..);
                let mut others =
                    all.take_while(|(other, _)| other.kind == Kind::Config).filter(|(other, _)| *other != key);
                return others.find_map(|(_, entry)| raised(entry));
            }
            Kind::Sender
            | Kind::Loss
            | Kind::Jitter
            | Kind::Path
            | Kind::Clock
            | Kind::UnknownPacket
            | Kind::Isolated
            | Kind::Storm
            | Kind::Test => {
                return None;
            }
        };
        self.entries.get(&AlarmKey::new(sibling, key.subject.clone())).and_then(raised)
    }
}

#[cfg(test)]
mod tests;
