//! Storm detection: when many alarms change, their receiver gets summaries instead of single notifications.
//!
//! `Storm` is a state machine per receiver. It opens by the number of alarms to notify, closes after a calm minute or
//! after `storm_hold_max`, and then lets the single alarms through.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pure::base::time::Moment;

/// Thresholds of a storm, and the times of its summaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormSettings {
    /// Number of alarms to notify above which a storm begins; 0 disables storms.
    pub storm_on: u32,
    /// Number of changes within the last minute below which the storm is calm.
    pub storm_calm: u32,
    /// Interval between two summaries of a storm.
    pub summary_interval: Duration,
    /// Longest time for which a storm holds single alarms; at least 10 s.
    pub storm_hold_max: Duration,
}

/// Window in which changes are counted for `storm_calm`.
const CALM_WINDOW: Duration = Duration::from_secs(60);
/// Shortest duration of a storm, so that alarms are not sent one by one right after their summary.
const SHORTEST: Duration = Duration::from_secs(10);

/// Transition of a storm that its receiver is to be notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StormTransition {
    /// A storm begins: single alarms are held, and a summary is sent.
    Opened,
    /// The storm continues, and another summary is due.
    Continued,
    /// The storm has ended or reached its longest duration: single alarms may be sent.
    Closed,
}

/// Storm state of one receiver, driven by changes, by alarms to notify, and by time.
#[derive(Debug)]
pub struct Storm {
    settings: StormSettings,
    phase: Phase,
    /// Times of the latest changes, only as many as decide whether the storm is calm.
    recent: VecDeque<Moment>,
    /// Times at which the latest alarms became due for notification, only as many as decide whether a storm begins.
    news: VecDeque<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Calm,
    Active {
        since: Moment,
        summary_at: Moment,
    },
    /// The alarms that were held are sent one by one; no other storm begins before `not_before`.
    Settling {
        not_before: Moment,
    },
}

impl Storm {
    /// Creates the calm state.
    pub fn new(settings: StormSettings) -> Self {
        Storm { settings, phase: Phase::Calm, recent: VecDeque::new(), news: VecDeque::new() }
    }

    /// Applies other settings from now on, also to a storm that lasts.
    pub fn on_settings(&mut self, settings: StormSettings) {
        self.settings = settings;
    }

    /// Counts a state change of an alarm.
    pub fn on_change(&mut self, now: Moment) {
        while self.recent.len() >= self.enough() {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
    }

    /// Counts an alarm that has to be notified, now or later.
    pub fn on_news(&mut self, now: Moment) {
        while self.news.len() >= self.too_many() {
            self.news.pop_front();
        }
        self.news.push_back(now);
    }

    /// Advances the state to `now`, with `waiting` alarms still to be notified. Returns a transition, if there is
    /// one.
    pub fn on_time(&mut self, waiting: usize, now: Moment) -> Option<StormTransition> {
        // Alarms that are sent as fast as they come are not waiting, but count as a storm all the same.
        let in_a_minute = self.news.len() >= self.too_many()
            && self.news.front().is_some_and(|first| now.since(*first) < CALM_WINDOW);
        let many = self.settings.storm_on > 0 && (waiting > self.settings.storm_on as usize || in_a_minute);
        match self.phase {
            Phase::Calm if many => self.open(now),
            Phase::Calm => None,
            Phase::Active { since, .. } if self.closes_at(since) <= now => {
                // Unless it is calm, the alarms that were held get this time to be sent before another storm can
                // begin.
                let time = if self.calm_at() > now { self.hold_max() } else { Duration::ZERO };
                self.phase = Phase::Settling { not_before: now + time };
                Some(StormTransition::Closed)
            }
            Phase::Active { since, summary_at } if summary_at <= now => {
                self.phase = Phase::Active { since, summary_at: now + self.interval() };
                Some(StormTransition::Continued)
            }
            Phase::Active { .. } => None,
            Phase::Settling { .. } if !many => {
                self.phase = Phase::Calm;
                None
            }
            Phase::Settling { not_before } if not_before <= now => {
                if self.calm_at() > now {
                    return self.open(now);
                }
                self.phase = Phase::Settling { not_before: now };
                None
            }
            Phase::Settling { .. } => None,
        }
    }

    /// Returns whether a storm lasts, and single alarms are held.
    pub fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active { .. })
    }

    /// Returns the begin of the storm, if one lasts.
    pub fn since(&self) -> Option<Moment> {
        match self.phase {
            Phase::Active { since, .. } => Some(since),
            Phase::Calm | Phase::Settling { .. } => None,
        }
    }

    /// Returns the earliest time at which `on_time` may cause a transition, if nothing changes before.
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Calm => None,
            Phase::Active { since, summary_at } => Some(self.closes_at(since).min(summary_at)),
            Phase::Settling { not_before } => (self.calm_at() > not_before).then_some(not_before),
        }
    }

    fn open(&mut self, now: Moment) -> Option<StormTransition> {
        self.phase = Phase::Active { since: now, summary_at: now + self.interval() };
        Some(StormTransition::Opened)
    }

    fn hold_max(&self) -> Duration {
        self.settings.storm_hold_max.max(SHORTEST)
    }

    fn interval(&self) -> Duration {
        self.settings.summary_interval.max(Duration::from_secs(1))
    }

    fn closes_at(&self, since: Moment) -> Moment {
        self.calm_at().max(since + SHORTEST).min(since + self.hold_max())
    }

    /// Returns when fewer than `storm_calm` changes will lie within the last minute, if no other change comes.
    fn calm_at(&self) -> Moment {
        match self.recent.front() {
            Some(first) if self.recent.len() >= self.enough() => *first + CALM_WINDOW,
            Some(_) | None => Moment::ZERO,
        }
    }

    /// Number of alarms within a minute that makes a storm: above `storm_on`, and above `storm_calm`.
    fn too_many(&self) -> usize {
        self.settings.storm_on.max(self.settings.storm_calm) as usize + 1
    }

    fn enough(&self) -> usize {
        self.settings.storm_calm.max(1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: StormSettings = StormSettings {
        storm_on: 20,
        storm_calm: 30,
        summary_interval: Duration::from_secs(60),
        storm_hold_max: Duration::from_secs(600),
    };

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    /// Runs ten changes a second until second `last`, with `waiting` alarms to notify at each second, and returns the
    /// transitions.
    fn turns(last: u64, waiting: impl Fn(u64) -> usize) -> Vec<(u64, StormTransition)> {
        let mut storm = Storm::new(SETTINGS);
        let mut turns = Vec::new();
        for second in 0..2000 {
            if second <= last {
                (0..10).for_each(|_| storm.on_change(at(second)));
            }
            turns.extend(storm.on_time(waiting(second), at(second)).map(|turn| (second, turn)));
        }
        turns
    }

    #[test]
    fn storm_opens_sends_summaries_and_closes_after_a_calm_minute() {
        use StormTransition::{Closed, Continued, Opened};
        let turns = turns(130, |second| if second < 195 { 100 } else { 0 });
        assert_eq!(turns, [(0, Opened), (60, Continued), (120, Continued), (180, Continued), (188, Closed)]);
    }

    #[test]
    fn endless_storm_closes_after_storm_hold_max() {
        let closed: Vec<u64> = turns(1999, |_| 100)
            .into_iter()
            .filter(|turn| turn.1 == StormTransition::Closed)
            .map(|turn| turn.0)
            .collect();
        assert_eq!(closed, [600, 1800]);
    }

    #[test]
    fn no_storm_at_storm_on_alarms() {
        assert_eq!(turns(130, |_| 20), []);
    }
}
