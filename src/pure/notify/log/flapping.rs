//! Detection of flapping: an alarm that is raised and cleared too often for each change to be notified.
//!
//! `Flaps` counts the changes of one alarm within a sliding window, with a high and a low threshold as hysteresis.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pure::base::time::Moment;

/// Thresholds of flapping, with the window in which changes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlapSettings {
    /// Number of changes within `flap_window` from which the alarm is flapping; 0 disables the detection.
    pub flap_high: u32,
    /// Number of changes within `flap_window` at or below which the alarm is calm again.
    pub flap_low: u32,
    /// Length of the sliding window in which changes are counted.
    pub flap_window: Duration,
}

/// Recent changes of one alarm, with its flapping state.
#[derive(Debug, Default)]
pub struct Flaps {
    recent: VecDeque<Moment>,
    flapping: bool,
}

impl Flaps {
    /// Counts a change of the alarm, which may start flapping.
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

    /// Ends flapping once enough changes have left the window.
    pub fn on_time(&mut self, settings: FlapSettings, now: Moment) {
        if self.calm_at(settings).is_some_and(|calm| calm <= now) {
            self.flapping = false;
        }
    }

    /// Clears the flapping state and the recorded changes.
    pub fn forget(&mut self) {
        *self = Flaps::default();
    }

    /// Returns whether the alarm is flapping.
    pub fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// Returns when flapping will end if the alarm does not change again; `None` if it is not flapping.
    pub fn calm_at(&self, settings: FlapSettings) -> Option<Moment> {
        if !self.flapping {
            return None;
        }
        // `flap_low` changes may stay within the window; the one before them has to leave it.
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
    fn six_changes_in_ten_minutes_start_flapping_and_two_end_it() {
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
    fn infrequent_changes_are_not_flapping() {
        let mut flaps = Flaps::default();
        (0..100).for_each(|n| flaps.on_change(SETTINGS, at(n * 121)));
        assert!(!flaps.is_flapping());
    }

    #[test]
    fn detection_is_off_when_flap_high_is_zero() {
        let mut flaps = Flaps::default();
        (0..100).for_each(|n| flaps.on_change(FlapSettings { flap_high: 0, ..SETTINGS }, at(n)));
        assert!(!flaps.is_flapping());
    }
}
