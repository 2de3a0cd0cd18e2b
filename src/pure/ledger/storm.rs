//! Whether so many alarms change that their receiver is told in sum, until it calms.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::time::Moment;

/// When there is a storm, and how it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormSettings {
    /// More alarms than this that wait to be told are a storm; 0: never.
    pub storm_on: u32,
    /// It is calm once there were fewer changes than this in the last minute.
    pub storm_calm: u32,
    /// It is summed up this often.
    pub summary_interval: Duration,
    /// Single alarms wait for its end no longer than this; 10 s at least.
    pub storm_hold_max: Duration,
}

/// The time in which `storm_calm` is counted.
const CALM_WINDOW: Duration = Duration::from_secs(60);
/// What is told in sum is not told one by one in the same breath.
const SHORTEST: Duration = Duration::from_secs(10);

/// What a storm does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It begins.
    Opened,
    /// It goes on, and a summary is due.
    WentOn,
    /// It is over, or has lasted long enough: single alarms may be told.
    Closed,
}

/// The weather at one receiver.
#[derive(Debug)]
pub struct Storm {
    settings: StormSettings,
    phase: Phase,
    /// The newest changes, no more than decide.
    recent: VecDeque<Moment>,
    /// When the newest alarms had to be told, no more than decide.
    news: VecDeque<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Calm,
    Raging {
        since: Moment,
        summary_at: Moment,
    },
    /// The alarms that waited are told one by one. There is no other storm before.
    Settling {
        not_before: Moment,
    },
}

impl Storm {
    /// Calm.
    pub fn new(settings: StormSettings) -> Self {
        Storm { settings, phase: Phase::Calm, recent: VecDeque::new(), news: VecDeque::new() }
    }

    /// Other settings.
    pub fn on_settings(&mut self, settings: StormSettings) {
        self.settings = settings;
    }

    /// An alarm changed.
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

    /// Time has passed; `waiting` alarms wait to be told.
    pub fn on_time(&mut self, waiting: usize, now: Moment) -> Option<Turn> {
        // Alarms that are told as fast as they come wait for nothing, and are a storm all the same.
        let in_a_minute = self.news.len() >= self.too_many()
            && self.news.front().is_some_and(|first| now.since(*first) < CALM_WINDOW);
        let many = self.settings.storm_on > 0 && (waiting > self.settings.storm_on as usize || in_a_minute);
        match self.phase {
            Phase::Calm if many => self.open(now),
            Phase::Calm => None,
            Phase::Raging { since, .. } if self.closes_at(since) <= now => {
                // What waits has its time, unless it is calm.
                let time = if self.calm_at() > now { self.hold_max() } else { Duration::ZERO };
                self.phase = Phase::Settling { not_before: now + time };
                Some(Turn::Closed)
            }
            Phase::Raging { since, summary_at } if summary_at <= now => {
                self.phase = Phase::Raging { since, summary_at: now + self.interval() };
                Some(Turn::WentOn)
            }
            Phase::Raging { .. } => None,
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

    /// Whether single alarms wait for its end.
    pub fn rages(&self) -> bool {
        matches!(self.phase, Phase::Raging { .. })
    }

    /// Since when, if it does.
    pub fn since(&self) -> Option<Moment> {
        match self.phase {
            Phase::Raging { since, .. } => Some(since),
            Phase::Calm | Phase::Settling { .. } => None,
        }
    }

    /// When `on_time` may have something, if nothing changes before.
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Calm => None,
            Phase::Raging { since, summary_at } => Some(self.closes_at(since).min(summary_at)),
            Phase::Settling { not_before } => (self.calm_at() > not_before).then_some(not_before),
        }
    }

    fn open(&mut self, now: Moment) -> Option<Turn> {
        self.phase = Phase::Raging { since: now, summary_at: now + self.interval() };
        Some(Turn::Opened)
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

    /// When the last minute will have seen too few changes, if none comes.
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

    /// Ten changes a second until `last`, always with `waiting` alarms to tell.
    fn turns(last: u64, waiting: impl Fn(u64) -> usize) -> Vec<(u64, Turn)> {
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
    fn opens_sums_up_and_closes_after_a_calm_minute() {
        use Turn::{Closed, Opened, WentOn};
        let turns = turns(130, |second| if second < 195 { 100 } else { 0 });
        assert_eq!(turns, [(0, Opened), (60, WentOn), (120, WentOn), (180, WentOn), (188, Closed)]);
    }

    #[test]
    fn a_storm_without_end_lets_single_alarms_through_now_and_then() {
        let closed: Vec<u64> =
            turns(1999, |_| 100).into_iter().filter(|turn| turn.1 == Turn::Closed).map(|turn| turn.0).collect();
        assert_eq!(closed, [600, 1800]);
    }

    #[test]
    fn a_few_are_no_storm() {
        assert_eq!(turns(130, |_| 20), []);
    }
}
