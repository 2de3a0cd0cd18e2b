//! Whether an alarm comes and goes too often to be told each time.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::time::Moment;

/// When an alarm is flapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlapSettings {
    /// So many changes within `flap_window`; 0: never.
    pub flap_high: u32,
    /// It is calm again once there are no more than so many.
    pub flap_low: u32,
    /// The time in which changes are counted.
    pub flap_window: Duration,
}

/// The newest changes of one alarm.
#[derive(Debug, Default)]
pub struct Flaps {
    recent: VecDeque<Moment>,
    flapping: bool,
}

impl Flaps {
    /// It changed.
    pub fn on_change(&mut self, settings: FlapSettings, now: Moment) {
        if settings.flap_high == 0 {
            self.forget();
            return;
        }
        let most = settings.flap_high.max(settings.flap_low.saturating_add(1)) as usize;
        while self.recent.len() >= most {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        self.flapping |= self.within(settings, now) >= settings.flap_high as usize;
    }

    /// Time has passed.
    pub fn on_time(&mut self, settings: FlapSettings, now: Moment) {
        if self.calm_at(settings).is_some_and(|calm| calm <= now) {
            self.flapping = false;
        }
    }

    /// Begins to count anew.
    pub fn forget(&mut self) {
        *self = Flaps::default();
    }

    /// Whether it is flapping.
    pub fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// When it will be calm, if it is flapping and does not change again.
    pub fn calm_at(&self, settings: FlapSettings) -> Option<Moment> {
        if !self.flapping {
            return None;
        }
        // So many of the newest may stay within the window; the one before them has to leave it.
        let low = settings.flap_low.min(settings.flap_high.saturating_sub(1)) as usize;
        let newest = self.recent.iter().rev().nth(low);
        Some(newest.map_or(Moment::ZERO, |changed| *changed + settings.flap_window))
    }

    fn within(&self, settings: FlapSettings, now: Moment) -> usize {
        self.recent.iter().filter(|changed| **changed + settings.flap_window > now).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: FlapSettings = FlapSettings { flap_high: 6, flap_low: 2, flap_window: Duration::from_secs(600) };

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    #[test]
    fn six_changes_in_ten_minutes_until_two() {
        let mut flaps = Flaps::default();
        for n in 0..5 {
            flaps.on_change(SETTINGS, at(n * 100));
            assert!(!flaps.is_flapping());
        }
        flaps.on_change(SETTINGS, at(500));
        assert!(flaps.is_flapping());
        // The changes at 400 and 500 may stay; that at 300 leaves the window at 900.
        assert_eq!(flaps.calm_at(SETTINGS), Some(at(900)));
        flaps.on_time(SETTINGS, at(899));
        assert!(flaps.is_flapping());
        flaps.on_time(SETTINGS, at(900));
        assert!(!flaps.is_flapping());
    }

    #[test]
    fn seldom_changes_are_none() {
        let mut flaps = Flaps::default();
        (0..100).for_each(|n| flaps.on_change(SETTINGS, at(n * 121)));
        assert!(!flaps.is_flapping());
    }

    #[test]
    fn nobody_asked() {
        let mut flaps = Flaps::default();
        (0..100).for_each(|n| flaps.on_change(FlapSettings { flap_high: 0, ..SETTINGS }, at(n)));
        assert!(!flaps.is_flapping());
    }
}
