//! Entry of the notification log for one alarm at one receiver.
//!
//! `LogEntry` holds the current and the notified state, hold-down, flapping, failures and repeats of the alarm, and
//! derives from them when it needs attention.

use std::sync::Arc;
use std::time::Duration;

use super::flapping::Flaps;
use super::{Aggregation, DeliveryMode, HoldDown, InitialClear, NotificationPolicy, NotifiedRecord, jitter};
use crate::pure::alarm::key::{AlarmKey, Severity};
use crate::pure::alarm::notification::{AlarmState, AlarmStatus, Notification, SuppressedBy};
use crate::pure::base::time::{Moment, WallTime};

/// State of one alarm in the notification log of a receiver.
#[derive(Debug)]
pub(super) struct LogEntry {
    /// Current state; `None` while only an earlier run's record of the alarm is known.
    pub wanted: Option<AlarmStatus>,
    /// Notification that the receiver has, as far as its protocol confirms that.
    pub notified: Option<Arc<Notification>>,
    /// Notification that was handed to the transport and whose outcome is still to be reported.
    pub in_flight: Option<Arc<Notification>>,
    /// Notification whose delivery failed, and that may have arrived all the same. The current state must then be
    /// sent, whatever it is.
    pub unconfirmed: Option<Arc<Notification>>,
    /// Set if the alarm is to be notified again although its state did not change.
    pub again: bool,
    pub hold_down: HoldDown,
    /// Hold-down that the last notification started.
    pub hold: Duration,
    pub held_until: Moment,
    /// Number of times that this hold-down was doubled.
    hold_doublings: u32,
    /// Time of the first and of the last notification of this state, and the number of repeats; `usize::MAX` stands
    /// for no more repeats.
    pub notified_at: Moment,
    pub sent_at: Moment,
    pub repeats: usize,
    /// Number of failures in a row, time of the last attempt, and time of the next attempt.
    pub failures: u32,
    pub tried_at: Moment,
    pub retry_at: Moment,
    /// Set if the receiver took other messages while this one failed: if it fails again, the message itself is the
    /// problem.
    pub failed_alone: bool,
    /// Set if the receiver may hold a raise without a record here. If the alarm is good, one clear is sent, at this
    /// time at the earliest.
    pub lost_since: Option<Moment>,
    /// Seed that spreads the repeats of different agents and alarms over time.
    jitter: u64,
    /// Set if the last change came while the alarm was calm.
    pub calm: bool,
    /// Number of state changes since the last notification was prepared.
    pub changes: u64,
    pub flaps: Flaps,
    /// Set if another sink has taken over the alarm: the entry is removed once its message in flight has an outcome.
    pub handed_over: bool,
    /// Set if the subject of the alarm is gone, or out of scope: the entry is removed once nothing is left to send.
    pub retired: bool,
    /// Schedule position under which the log has filed the entry.
    pub noted: ScheduleEntry,
}

/// Record of where the log has filed an entry, so that it can be removed there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScheduleEntry {
    pub place: ScheduleState,
    /// Set if the entry is counted among those that are to be notified.
    pub waiting: bool,
}

/// Place of an entry in the schedule of the log: when it needs attention, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ScheduleState {
    /// Entry that needs no attention unless something changes.
    #[default]
    Nowhere,
    /// Entry that needs attention at this time.
    Later(Moment),
    /// Entry that can be sent now, in the order of its rank.
    Ready(Rank),
}

/// Order of sending: class; fresh before failed; raises before clears; then severity and age.
pub(super) type Rank = (Class, bool, bool, Severity, WallTime);

/// Class of a message, the first part of its rank; only `Wide` is sent during a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Alarms about more than one test: they are few, and explain others.
    Wide,
    /// Alarms about a single test or document.
    Single,
    /// Repeats without a change, and clears without a raise on record.
    Again,
}

impl Class {
    /// Classes in their order of sending.
    pub const ALL: [Class; 3] = [Class::Wide, Class::Single, Class::Again];
}

impl LogEntry {
    pub fn new(agent: &str, key: &AlarmKey, hold_down: HoldDown) -> Self {
        LogEntry {
            wanted: None,
            notified: None,
            in_flight: None,
            unconfirmed: None,
            again: false,
            hold_down,
            hold: Duration::ZERO,
            held_until: Moment::ZERO,
            hold_doublings: 0,
            notified_at: Moment::ZERO,
            sent_at: Moment::ZERO,
            repeats: usize::MAX,
            failures: 0,
            tried_at: Moment::ZERO,
            retry_at: Moment::ZERO,
            failed_alone: false,
            lost_since: None,
            jitter: jitter::seed(agent, key),
            calm: true,
            changes: 0,
            flaps: Flaps::default(),
            handed_over: false,
            retired: false,
            noted: ScheduleEntry::default(),
        }
    }

    /// Records that the receiver may hold a raise without a record here. A clear for that reason alone is not sent
    /// before `clear_not_before`.
    pub fn lost_records(&mut self, clear_not_before: Moment) {
        let nothing_known = self.notified.is_none() && self.unconfirmed.is_none() && self.in_flight.is_none();
        self.lost_since = nothing_known.then_some(clear_not_before);
    }

    /// Returns the earliest time of a message that is only sent because the receiver may hold a raise without a
    /// record here; `None` if there are other reasons.
    pub fn sends_clear_at(&self) -> Option<Moment> {
        let nothing_known = self.notified.is_none() && self.unconfirmed.is_none() && !self.wanted_is_raised();
        self.lost_since.filter(|_| nothing_known)
    }

    /// Returns the state that the receiver should be notified of; `None` if it is unknown, or raised but suppressed.
    pub fn target(&self, policy: &NotificationPolicy) -> Option<AlarmState> {
        let wanted = self.wanted.as_ref()?;
        let state = if self.flaps.is_flapping() { AlarmState::Flapping } else { wanted.notification.state };
        let kept_back = match (&wanted.suppressed_by, policy.detail) {
            (None, _) | (Some(SuppressedBy::Waiting | SuppressedBy::Group { .. }), Aggregation::Individually) => false,
            (Some(_), _) => true,
        };
        (!(kept_back && state.is_raised())).then_some(state)
    }

    /// Returns whether the receiver has to be notified of something now or later; false while a message is in flight.
    pub fn is_pending(&self, policy: &NotificationPolicy) -> bool {
        let Some(target) = self.target(policy) else { return false };
        if self.in_flight.is_some() {
            return false;
        }
        if self.unconfirmed.is_some() {
            return true;
        }
        match &self.notified {
            Some(notified) => notified.state != target,
            None => {
                let good_news =
                    policy.initial_clear == InitialClear::Told && self.wanted_is_connection() && !self.retired;
                target.is_raised() || good_news || self.lost_since.is_some()
            }
        }
    }

    /// Returns when to repeat the last notification, provided its state still applies: for `renotify`, or as
    /// unacknowledged.
    pub fn repeat_at(&self, policy: &NotificationPolicy) -> Option<Moment> {
        let notified = self.notified.as_ref().filter(|_| self.in_flight.is_none())?;
        if self.unconfirmed.is_some() || self.target(policy) != Some(notified.state) {
            return None;
        }
        let reminder = policy.renotify.filter(|_| notified.is_raised()).map(|every| self.sent_at + self.spread(every));
        [reminder, self.repeat_unacknowledged_at(policy)].into_iter().flatten().min()
    }

    /// Returns when to refresh a raise at a receiver where alarms expire; suppressed alarms, and those whose state is
    /// not known yet, are refreshed too.
    fn refresh_at(&self, policy: &NotificationPolicy) -> Option<Moment> {
        // A clear that may have arrived must not be undone by a repeated raise.
        let cleared = self.unconfirmed.as_ref().is_some_and(|unconfirmed| !unconfirmed.is_raised());
        if !self.notified_is_raised() || self.in_flight.is_some() || cleared {
            return None;
        }
        match policy.delivery_mode {
            DeliveryMode::Refreshed { every, .. } if self.target(policy) != Some(AlarmState::Cleared) => {
                Some(self.sent_at + self.spread(every))
            }
            DeliveryMode::Refreshed { .. } | DeliveryMode::Acknowledged | DeliveryMode::Repeated(_) => None,
        }
    }

    /// Returns when to repeat a notification that is not acknowledged, or expires at the receiver; `None` after the
    /// last repeat.
    pub fn repeat_unacknowledged_at(&self, policy: &NotificationPolicy) -> Option<Moment> {
        let notified = self.notified.as_ref()?;
        match &policy.delivery_mode {
            DeliveryMode::Acknowledged => None,
            DeliveryMode::Repeated(after) => {
                let after = repeat_after(after, self.repeats, policy.renotify)?;
                Some(self.notified_at + self.spread(after))
            }
            DeliveryMode::Refreshed { every, cleared_for } => {
                let next = self.sent_at + self.spread(*every);
                let repeats =
                    !notified.is_raised() && self.repeats != usize::MAX && next <= self.notified_at + *cleared_for;
                repeats.then_some(next)
            }
        }
    }

    /// Returns where the log is to file the entry: ready to send by rank, later, or nowhere.
    pub fn place(&self, policy: &NotificationPolicy, now: Moment) -> ScheduleState {
        if self.in_flight.is_some() {
            return ScheduleState::Nowhere;
        }
        // The first clear of an alarm whose record was lost can wait for all other messages.
        let (own, not_before) = match self.sends_clear_at() {
            Some(clear_not_before) => (Class::Again, clear_not_before),
            None => (self.class(), self.held_until),
        };
        // A repeat about a single test waits for the end of a storm. The storm summary is repeated in a storm, and
        // alarms that expire at the receiver are refreshed in one.
        let reminder = if own == Class::Wide { Class::Wide } else { Class::Again };
        let repeat_at = match &self.wanted {
            // An alarm that was suppressed since is not repeated either.
            Some(_) if self.again && self.target(policy).is_some() => Some(now),
            Some(_) => self.repeat_at(policy),
            None => None,
        };
        let candidates = [
            (own, self.is_pending(policy).then_some(not_before.max(self.retry_at))),
            (reminder, repeat_at.map(|at| at.max(self.retry_at))),
            (Class::Wide, self.refresh_at(policy).map(|at| at.max(self.retry_at))),
        ];
        let candidate = candidates.into_iter().filter_map(|(class, at)| Some((at?, class))).min();
        let calm = self.flaps.calm_at(self.hold_down.flap);
        match (candidate, calm) {
            // The end of flapping is processed first, since it changes the state to send.
            (_, Some(calm)) if calm <= now => ScheduleState::Later(calm),
            (Some((at, class)), _) if at <= now => ScheduleState::Ready(self.rank(class)),
            (Some((at, _)), Some(calm)) => ScheduleState::Later(at.min(calm)),
            (Some((at, _)), None) | (None, Some(at)) => ScheduleState::Later(at),
            (None, None) => ScheduleState::Nowhere,
        }
    }

    /// Applies other damping settings at once, also to a hold-down that is running.
    pub fn set_damping(&mut self, hold_down: HoldDown) {
        if hold_down == self.hold_down {
            return;
        }
        self.hold_down = hold_down;
        let running = self.hold.min(hold_down.hold_down_max.max(hold_down.hold_down));
        // A hold-down that has not doubled yet takes the new setting.
        let shorter = if self.hold_doublings == 0 { running.min(hold_down.hold_down) } else { running };
        if shorter < self.hold {
            self.hold = shorter;
            self.held_until = self.held_until.min(self.notified_at + shorter);
        }
    }

    /// Starts the hold-down after a notification, and doubles it while the alarm keeps changing.
    pub fn hold_down(&mut self, suppressed: u64, now: Moment) {
        let (shortest, longest) =
            (self.hold_down.hold_down, self.hold_down.hold_down_max.max(self.hold_down.hold_down));
        self.hold = if self.calm { shortest } else { self.hold.saturating_mul(2).clamp(shortest, longest) };
        self.hold_doublings = if self.calm { 0 } else { self.hold_doublings.saturating_add(1) };
        self.held_until = now + self.hold;
        self.changes = self.changes.saturating_sub(suppressed + 1);
        // A change while the message was in flight belongs to the new hold-down, not to a calm period.
        self.calm = false;
    }

    /// Returns the record that must be on disk: what the receiver was, or is about to be, notified of; `None` once
    /// its clear is confirmed or will not be repeated.
    pub fn record(&self, policy: &NotificationPolicy) -> Option<NotifiedRecord> {
        let record = |notification: &Arc<Notification>, unconfirmed| NotifiedRecord {
            notification: notification.clone(),
            unconfirmed,
        };
        match (self.in_flight.as_ref().or(self.unconfirmed.as_ref()), &self.notified) {
            (Some(unsure), _) => Some(record(unsure, true)),
            // A raise that is to be sent again is unconfirmed: a restart before that must not forget it.
            (None, Some(notified)) if notified.is_raised() => Some(record(notified, self.again)),
            (None, Some(notified)) if self.repeat_unacknowledged_at(policy).is_some() => Some(record(notified, false)),
            (None, _) => None,
        }
    }

    /// Returns whether the target state differs from the one that the receiver has, or may have. A first clear,
    /// without a raise, does not count.
    pub fn has_news(&self, policy: &NotificationPolicy) -> bool {
        let Some(target) = self.target(policy).filter(|_| self.in_flight.is_none()) else { return false };
        match self.unconfirmed.as_ref().or(self.notified.as_ref()) {
            Some(last_known) => last_known.state != target,
            None => target.is_raised(),
        }
    }

    pub fn wanted_is_raised(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.notification.is_raised())
    }

    pub fn notified_is_raised(&self) -> bool {
        self.notified.as_ref().is_some_and(|notified| notified.is_raised())
    }

    fn wanted_is_connection(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.notification.is_connection())
    }

    fn class(&self) -> Class {
        let single = |wanted: &AlarmStatus| wanted.notification.key.is_single();
        if self.wanted.as_ref().is_some_and(single) { Class::Single } else { Class::Wide }
    }

    fn rank(&self, class: Class) -> Rank {
        let wanted = self.wanted.as_ref().map(|wanted| &wanted.notification);
        let severity = wanted.map_or(Severity::Warning, |wanted| wanted.severity);
        let since = wanted.map_or(WallTime::default(), |wanted| wanted.since);
        (class, self.failures > 0, !self.wanted_is_raised(), severity, since)
    }

    /// Returns the interval of this alarm's next repeat, lengthened or shortened by up to 30 %.
    fn spread(&self, interval: Duration) -> Duration {
        jitter::spread(interval, (self.jitter, self.repeats))
    }
}

/// Factor by which the interval grows with each repeat after the configured ones.
const REPEAT_GROWTH: u32 = 3;

/// Returns when an unacknowledged notification is repeated for the `n`-th time, counted from the first one: as
/// configured, then at growing intervals, and for the last time when `renotify` has passed.
fn repeat_after(configured: &[Duration], n: usize, renotify: Option<Duration>) -> Option<Duration> {
    if let Some(after) = configured.get(n) {
        return Some(*after);
    }
    let (last, until) = (*configured.last()?, renotify?);
    let more = u32::try_from(n - configured.len()).ok()?;
    let before = last.checked_mul(REPEAT_GROWTH.checked_pow(more)?)?;
    (before < until).then(|| before.saturating_mul(REPEAT_GROWTH).min(until))
}
