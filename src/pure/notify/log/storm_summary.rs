//! Storm summary: the alarm of kind `Storm` by which a receiver is notified of begin, course and end of a storm.

use std::sync::Arc;
use std::time::Duration;

use super::storm::StormTransition;
use super::{FlapSettings, HoldDown, NotificationLog, Scope};
use crate::pure::alarm::cause::{Cause, StormCounts};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::alarm::list::cleared_notification;
use crate::pure::alarm::notification::{AlarmState, AlarmStatus, ClearReason, Notification};
use crate::pure::base::time::Now;

/// Damping of the storm summary: no hold-down and no flapping, since `StormSettings` already sets its intervals.
pub(super) const STORM_DAMPING: HoldDown = HoldDown {
    hold_down: Duration::ZERO,
    hold_down_max: Duration::ZERO,
    flap: FlapSettings { flap_high: 0, flap_low: 0, flap_window: Duration::ZERO },
};

impl NotificationLog {
    /// Advances the storm state, and prepares a summary when a storm begins, continues or ends.
    pub(super) fn update_storm(&mut self, now: Now) {
        if self.policy.scope != Scope::All {
            return;
        }
        let since = self.storm.since();
        let Some(turn) = self.storm.on_time(self.waiting, now.moment) else { return };
        if turn == StormTransition::Opened {
            // In a storm everything changes, so that the flapping of a single alarm is not significant.
            let flapping: Vec<_> = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.flaps.is_flapping())
                .map(|(key, _)| key.clone())
                .collect();
            self.entries.values_mut().for_each(|entry| entry.flaps.forget());
            flapping.iter().for_each(|key| self.reschedule(key, now.moment));
        }
        let lasted = match turn {
            StormTransition::Opened => Duration::ZERO,
            StormTransition::Continued | StormTransition::Closed => {
                since.map_or(Duration::ZERO, |since| Duration::from_secs(now.moment.since(since).as_secs()))
            }
        };
        let counts = StormCounts { pending: self.waiting as u64, raised: self.standing_tests() as u64, lasted };
        let ended = (turn == StormTransition::Closed).then_some(ClearReason::StormEnded(counts));
        let alarm_status = self.storm_status(counts, ended, now);
        let key = alarm_status.notification.key.clone();
        let entry = self.entry(&key, STORM_DAMPING);
        entry.again = turn == StormTransition::Continued;
        entry.wanted = Some(alarm_status);
        // The end of a storm is not notified if its begin was not.
        if turn == StormTransition::Closed
            && entry.notified.is_none()
            && entry.in_flight.is_none()
            && entry.unconfirmed.is_none()
        {
            self.remove(&key);
            return;
        }
        self.reschedule(&key, now.moment);
    }

    /// Returns the storm's alarm with these counts; it is cleared if there is a reason for that.
    pub(super) fn storm_status(&self, counts: StormCounts, ended: Option<ClearReason>, now: Now) -> AlarmStatus {
        let key = AlarmKey::new(Kind::Storm, Subject::Agent);
        let state = if ended.is_some() { AlarmState::Cleared } else { AlarmState::Raised };
        let before = self.entries.get(&key).and_then(|entry| entry.wanted.as_ref()).map(|wanted| &wanted.notification);
        let since = before.filter(|before| before.state == state).map_or(now.wall, |before| before.since);
        let notification = Notification {
            state,
            since,
            cause: Some(Cause::Storm(counts)),
            clear_reason: ended,
            count: before.map_or(0, |before| before.count)
                + u64::from(before.is_none_or(|before| before.state != state)),
            ..cleared_notification(&self.agent, &key, now)
        };
        AlarmStatus { notification: Arc::new(notification), suppressed_by: None }
    }

    /// Returns the number of raised alarms of tests, whether the receiver was notified of them or not.
    fn standing_tests(&self) -> usize {
        let single = self.entries.iter().filter(|(key, _)| key.test().is_some());
        single.filter(|(_, entry)| entry.wanted_is_raised()).count()
    }
}
