//! Selects the messages to send, and handles the outcome of each.
//!
//! The methods of `NotificationLog` here pick pending alarms by rank and token, take back those that failed, and keep
//! one failing message from holding up others.

use std::sync::Arc;

use super::entry::Class;
use super::retry::{Failed, message_wait};
use super::{ColdStartPhase, NotificationLog, NotifyReason, Outbound, jitter};
use crate::pure::alarm::key::{AlarmKey, Severity};
use crate::pure::alarm::notification::{AlarmState, ClearReason};
use crate::pure::base::time::{Moment, Now, WallTime};

/// Messages to attempt next: alarms by key, or the coldStart that failed before.
enum Next {
    Alarms(Vec<AlarmKey>),
    ColdStart,
}

impl NotificationLog {
    /// Takes the messages to send now, at most `most`: explaining alarms first, then raises, by severity and age.
    /// Each counts as in flight until `on_delivered`, `on_failed`, `on_refused` or `on_not_tried` reports its
    /// outcome. A message that failed before is sent alone, so that it holds up no other.
    pub fn take_due(&mut self, now: Now, most: usize) -> Vec<Outbound> {
        let mut due = Vec::new();
        self.on_timer(now.moment);
        if self.cold_start.phase == ColdStartPhase::Pending {
            if self.bucket.take(now.moment).is_err() {
                return due;
            }
            self.cold_start.phase = ColdStartPhase::InFlight;
            self.cold_start.tried_at = now.moment;
            due.push(Outbound::ColdStart);
        }
        self.update_storm(now);
        let next = match self.reachability.is_away() {
            true => self.pick_one(now.moment),
            false => self.pick(most.saturating_sub(due.len()), now.moment),
        };
        let keys = match next {
            Next::Alarms(keys) => keys,
            Next::ColdStart => {
                if self.bucket.take(now.moment).is_ok() {
                    self.cold_start.phase = ColdStartPhase::InFlight;
                    self.cold_start.tried_at = now.moment;
                    due.push(Outbound::ColdStart);
                }
                return due;
            }
        };
        for key in keys {
            let still_raised = self.sibling_raised(&key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let wanted = entry.wanted.as_ref().map(|wanted| wanted.notification.clone());
            // An alarm whose current state is not known yet is sent again as it was last notified.
            let Some(mut notification) = wanted.or_else(|| entry.notified.clone()) else { continue };
            entry.tried_at = now.moment;
            let suppressed = entry.changes.saturating_sub(1);
            let flapping = entry.flaps.is_flapping();
            if entry.lost_since.is_some()
                && entry.notified.is_none()
                && entry.unconfirmed.is_none()
                && !notification.is_raised()
            {
                Arc::make_mut(&mut notification).clear_reason = Some(ClearReason::NoRecord);
            }
            if notification.suppressed != suppressed || flapping {
                let notified = Arc::make_mut(&mut notification);
                notified.suppressed = suppressed;
                if flapping {
                    notified.state = AlarmState::Flapping;
                }
            }
            let reason = match entry.notified.as_ref().or(entry.unconfirmed.as_ref()) {
                None => NotifyReason::First,
                Some(notified) if notified.state == notification.state && entry.unconfirmed.is_none() => {
                    NotifyReason::Again
                }
                Some(_) => NotifyReason::Change,
            };
            entry.in_flight = Some(notification.clone());
            let still_raised = still_raised.filter(|_| !notification.is_raised());
            due.push(Outbound::Alarm { notification, reason, still_raised });
            self.reschedule(&key, now.moment);
        }
        due
    }

    /// Picks messages while the receiver answers: fresh alarms, as many as there are tokens for, or one that failed
    /// before, in alternation.
    fn pick(&mut self, most: usize, now: Moment) -> Next {
        let failed = self.first_ready(true);
        if let Some(key) = failed.filter(|_| self.failed_next || self.first_ready(false).is_none()) {
            self.failed_next = false;
            let has_token = most > 0 && self.bucket.take(now).is_ok();
            return Next::Alarms(has_token.then_some(key).into_iter().collect());
        }
        self.failed_next = true;
        let singles_wait = self.storm.is_active();
        let (mut keys, mut room, mut messages) = (Vec::new(), 0, 0);
        let ready = self.ready.iter().filter(|((_, failed, ..), _)| !failed);
        for (_, key) in ready.take_while(|((class, ..), _)| !singles_wait || *class == Class::Wide) {
            if room == 0 {
                if messages >= most || self.bucket.take(now).is_err() {
                    break;
                }
                messages += 1;
                room = self.policy.batch.max(1);
            }
            room -= 1;
            keys.push(key.clone());
        }
        if keys.is_empty() && self.cold_start.phase == ColdStartPhase::Failed && self.cold_start.retry_at <= now {
            return Next::ColdStart;
        }
        Next::Alarms(keys)
    }

    /// Picks one message while the receiver is away, and on each call another: fresh ones first, then the one tried
    /// longest ago.
    fn pick_one(&mut self, now: Moment) -> Next {
        let fresh = self.first_ready(false).filter(|_| self.reachability.next_try(true) <= now);
        if let Some(key) = fresh.filter(|_| self.bucket.take(now).is_ok()) {
            return Next::Alarms(vec![key]);
        }
        if self.reachability.next_try(false) > now {
            return Next::Alarms(Vec::new());
        }
        let singles_wait = self.storm.is_active();
        let ready = self.ready.iter().take_while(|((class, ..), _)| !singles_wait || *class == Class::Wide);
        let tried_at = |key: &AlarmKey| self.entries.get(key).map_or(Moment::ZERO, |entry| entry.tried_at);
        let oldest = ready.map(|(_, key)| (tried_at(key), key)).min_by_key(|(tried_at, _)| *tried_at);
        let cold_start = &self.cold_start;
        let again = cold_start.phase == ColdStartPhase::Failed && cold_start.retry_at <= now;
        if again && oldest.is_none_or(|(tried_at, _)| cold_start.tried_at < tried_at) {
            return Next::ColdStart;
        }
        let oldest = oldest.map(|(_, key)| key.clone());
        Next::Alarms(oldest.filter(|_| self.bucket.take(now).is_ok()).into_iter().collect())
    }

    /// Returns the alarm of highest rank that can be sent now, among those that failed before or among the others.
    pub(super) fn first_ready(&self, failed: bool) -> Option<AlarmKey> {
        let classes: &[Class] = if self.storm.is_active() { &[Class::Wide] } else { &Class::ALL };
        classes.iter().find_map(|class| {
            let first = ((*class, failed, false, Severity::Critical, WallTime::ZERO), AlarmKey::FIRST);
            let ((found, has_failed, ..), key) = self.ready.range(first..).next()?;
            (found == class && *has_failed == failed).then(|| key.clone())
        })
    }

    /// Records that the receiver took the message, as far as its protocol can confirm that.
    pub fn on_delivered(&mut self, due: &Outbound, now: Moment) {
        self.on_reached(&failed_of(due), now);
        let Outbound::Alarm { notification, .. } = due else {
            self.cold_start.phase = ColdStartPhase::Told;
            return;
        };
        let key = &notification.key;
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.handed_over {
            self.remove(key);
            return;
        }
        let initial_clear = entry.notified.is_none() && !notification.is_raised() && entry.unconfirmed.is_none();
        let again = entry.unconfirmed.is_none()
            && entry.notified.as_ref().is_some_and(|notified| notified.state == notification.state);
        entry.lost_since = None;
        if let Some(lost_records) = &mut self.lost_records {
            lost_records.settle(key);
        }
        entry.notified = entry.in_flight.take();
        entry.unconfirmed = None;
        entry.again = false;
        entry.failures = 0;
        entry.failed_alone = false;
        entry.retry_at = Moment::ZERO;
        entry.sent_at = now;
        if again {
            entry.repeats = entry.repeats.saturating_add(1);
        } else {
            entry.notified_at = now;
            entry.repeats = if initial_clear { usize::MAX } else { 0 };
            // A first clear, without a raise before it, starts no hold-down.
            if !initial_clear {
                entry.hold_down(notification.suppressed, now);
            }
        }
        self.reschedule(key, now);
        self.forget_if_settled(key);
    }

    /// Records that the receiver answered and is not away. Messages that failed together did so because it was away,
    /// and are retried at once; a message that failed alone, or fails again, is itself the problem.
    fn on_reached(&mut self, by: &Failed, now: Moment) {
        let failed = self.reachability.on_reached();
        let was_away = failed.len() > 1;
        for key in failed.into_iter().filter(|key| key != by) {
            let Some(key) = key else {
                if was_away {
                    self.cold_start.retry_at = now;
                }
                continue;
            };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if was_away && !entry.failed_alone {
                entry.retry_at = now;
            }
            entry.failed_alone = true;
            self.reschedule(&key, now);
        }
    }

    /// Records that the message probably did not arrive: the key stays pending and is retried after a wait of its
    /// own.
    pub fn on_failed(&mut self, due: &Outbound, now: Moment) {
        let failed = failed_of(due);
        let jitter = jitter::factor((&self.agent, &failed, now.nanos()));
        self.reachability.on_failure(failed, jitter, now);
        self.put_back(due, false, now);
    }

    /// Records that the receiver answered and refused the message, which is retried at growing intervals.
    pub fn on_refused(&mut self, due: &Outbound, now: Moment) {
        self.on_reached(&failed_of(due), now);
        self.put_back(due, true, now);
    }

    /// Defers all attempts until the time that the receiver asked for, as with `Retry-After`.
    pub fn postpone(&mut self, until: Moment) {
        self.reachability.postpone(until);
    }

    /// Returns whether the receiver counts as away.
    pub fn is_away(&self) -> bool {
        self.reachability.is_away()
    }

    fn put_back(&mut self, due: &Outbound, is_refused: bool, now: Moment) {
        match due {
            Outbound::ColdStart => {
                let cold_start = &mut self.cold_start;
                cold_start.phase = ColdStartPhase::Failed;
                cold_start.failures = cold_start.failures.saturating_add(1);
                cold_start.retry_at = now + message_wait(cold_start.failures, is_refused);
            }
            Outbound::Alarm { notification, .. } => {
                let Some(entry) = self.entries.get_mut(&notification.key) else { return };
                if entry.handed_over {
                    self.remove(&notification.key);
                    return;
                }
                entry.unconfirmed = entry.in_flight.take();
                entry.again &= !is_refused;
                entry.failures = entry.failures.saturating_add(1);
                entry.retry_at = now + message_wait(entry.failures, is_refused || entry.failed_alone);
                self.reschedule(&notification.key, now);
            }
        }
    }

    /// Puts back a message that was not sent because one before it failed, as if it had not been taken.
    pub fn on_not_tried(&mut self, due: &Outbound, now: Moment) {
        match due {
            Outbound::ColdStart => self.cold_start.phase = ColdStartPhase::Pending,
            Outbound::Alarm { notification, .. } => {
                let Some(entry) = self.entries.get_mut(&notification.key) else { return };
                if entry.handed_over {
                    self.remove(&notification.key);
                    return;
                }
                entry.in_flight = None;
                self.reschedule(&notification.key, now);
            }
        }
    }
}

/// Returns the key under which a failed message is recorded.
fn failed_of(due: &Outbound) -> Failed {
    match due {
        Outbound::ColdStart => None,
        Outbound::Alarm { notification, .. } => Some(notification.key.clone()),
    }
}
