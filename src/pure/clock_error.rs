//! How far a clock may be off, and what a measured delay is worth in view of that.

use std::time::Duration;

use serde::Serialize;

use super::time::{Now, seconds};

/// The bound of a clock that is not known to be synchronised.
pub const UNSYNCHRONISED_ERROR: Duration = Duration::from_secs(16);

/// What the kernel says of the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockQuality {
    /// Whether something disciplines it.
    pub synchronised: bool,
    /// It is off by this at most.
    pub error: Duration,
}

impl ClockQuality {
    /// A clock that nothing is known of.
    pub const UNKNOWN: ClockQuality = ClockQuality { synchronised: false, error: UNSYNCHRONISED_ERROR };
}

/// The STAMP error estimate (RFC 8762 section 4.2.1, RFC 4656 section 4.1.2):
/// S, Z, a scale of 6 bits and a multiplier of 8; error = multiplier * 2^(scale - 32) s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEstimate(pub u16);

impl ErrorEstimate {
    const SYNCHRONISED: u16 = 0x8000;
    const PTP: u16 = 0x4000;

    /// Returns whether the packet's time stamps are in the truncated PTP format (Z bit, RFC 8186) instead of NTP's.
    pub fn is_ptp(self) -> bool {
        self.0 & Self::PTP != 0
    }

    /// Rounded up, never zero (a multiplier of zero means a corrupt packet).
    pub fn encode(quality: ClockQuality) -> Self {
        let mut multiplier = (quality.error.as_nanos() << 32).div_ceil(1_000_000_000).max(1);
        let mut scale = 0u16;
        while multiplier > 255 && scale < 63 {
            multiplier = multiplier.div_ceil(2);
            scale += 1;
        }
        let flag = if quality.synchronised { Self::SYNCHRONISED } else { 0 };
        ErrorEstimate(flag | (scale << 8) | multiplier.min(255) as u16)
    }

    /// Whether the field cannot be.
    pub fn is_corrupt(self) -> bool {
        self.0 & 0xff == 0
    }

    /// The bound, or nothing if the field is corrupt.
    pub fn decode(self) -> Option<ClockQuality> {
        if self.is_corrupt() {
            return None;
        }
        let multiplier = u128::from(self.0 & 0xff);
        let scale = (self.0 >> 8) & 0x3f;
        let nanos = ((multiplier << scale) * 1_000_000_000).div_ceil(1 << 32);
        let error = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(ClockQuality { synchronised: self.0 & Self::SYNCHRONISED != 0, error })
    }
}

/// A one-way delay as measured, with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Receive time minus send time; negative where a clock is off. Nanoseconds.
    pub nanos: i64,
    /// Both clocks' error bounds together; zero if one clock gave both stamps.
    pub uncertainty: Duration,
}

/// What is asked of a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayLimits {
    /// More than this is too late.
    pub max_latency: Option<Duration>,
    /// Once it was too late, only this or less is good again; more than `max_latency` means that.
    pub clear_latency: Duration,
    /// More than this is no delay at all but a wrong clock.
    pub egregious_latency: Duration,
}

/// What a delay says of the path or of the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DelayVerdict {
    /// Within the limit even if the clocks erred in its favour, or no limit is set.
    Good,
    /// Beyond the limit even if the clocks erred against it.
    Exceeded,
    /// The clocks are not good enough to tell.
    Undecidable,
    /// A clock is provably wrong: a delay below zero, or beyond `egregious_latency`.
    ClockWrong,
}

impl Delay {
    /// Judges this delay.
    pub fn judge(self, limits: DelayLimits) -> DelayVerdict {
        let (delay, uncertainty) = (i128::from(self.nanos), self.uncertainty.as_nanos() as i128);
        let egregious = limits.egregious_latency.as_nanos() as i128;
        if delay.abs() > egregious || delay < -uncertainty {
            return DelayVerdict::ClockWrong;
        }
        let Some(max_latency) = limits.max_latency.map(|limit| limit.as_nanos() as i128) else {
            return DelayVerdict::Good;
        };
        if delay - uncertainty > max_latency {
            DelayVerdict::Exceeded
        } else if delay + uncertainty <= max_latency {
            DelayVerdict::Good
        } else {
            DelayVerdict::Undecidable
        }
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        seconds(self.nanos)
    }
}

/// Finds steps of the wall clock by comparing it with the monotonic one, which stands still while the machine sleeps.
#[derive(Clone, Debug)]
pub struct StepDetector {
    last: Now,
    /// How long the machine had slept by then.
    slept: Duration,
}

/// Change of the wall clock since it was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// The clock ran on normally.
    Steady,
    /// The clock was set, by this number of nanoseconds.
    Stepped(i64),
    /// The machine slept for so long. Its clock was set by a hardware clock since, whose error nobody knows.
    Slept(Duration),
}

/// A clock that is disciplined is slewed by this at most, in parts per million.
const SLEW_PPM: i128 = 500;
/// Two readings of the clocks may be this far apart, in nanoseconds.
const READING_SLACK: i128 = 1_000_000;

impl StepDetector {
    /// From now on; the machine has slept for so long by now.
    pub fn new(now: Now, slept: Duration) -> Self {
        StepDetector { last: now, slept }
    }

    /// The clocks were read again.
    pub fn on_reading(&mut self, now: Now, slept: Duration) -> ClockEvent {
        let monotonic = now.moment.since(self.last.moment).as_nanos() as i128;
        let wall = i128::from(now.wall.nanos_since(self.last.wall));
        let asleep = slept.saturating_sub(self.slept);
        (self.last, self.slept) = (now, slept);
        if asleep.as_nanos() as i128 > READING_SLACK {
            return ClockEvent::Slept(asleep);
        }
        let step = wall - monotonic;
        let slew = monotonic * SLEW_PPM / 1_000_000;
        match step.abs() > READING_SLACK + slew {
            true => ClockEvent::Stepped(step.clamp(i64::MIN.into(), i64::MAX.into()) as i64),
            false => ClockEvent::Steady,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::time::{Moment, WallTime};
    use proptest::prelude::*;

    #[test]
    fn a_step_is_told_from_a_slew() {
        let at = |monotonic: u64, wall: u64| Now {
            moment: Moment::new(Duration::from_micros(monotonic)),
            wall: WallTime::from_unix_nanos(wall * 1_000),
        };
        let mut detector = StepDetector::new(at(0, 5_000_000), Duration::ZERO);
        let awake = Duration::ZERO;
        assert_eq!(detector.on_reading(at(1_000_000, 6_000_400), awake), ClockEvent::Steady);
        assert_eq!(detector.on_reading(at(2_000_000, 7_010_400), awake), ClockEvent::Stepped(10_000_000));
        assert_eq!(detector.on_reading(at(3_000_000, 7_010_400), awake), ClockEvent::Stepped(-1_000_000_000));
        assert_eq!(detector.on_reading(at(4_000_000, 8_010_400), awake), ClockEvent::Steady);
        // A night in a closed laptop.
        let night = Duration::from_secs(8 * 3600);
        let morning = at(4_100_000, 8_110_400 + 28_800_000_000);
        assert_eq!(detector.on_reading(morning, night), ClockEvent::Slept(night));
        assert_eq!(detector.on_reading(at(5_100_000, 9_110_400 + 28_800_000_000), night), ClockEvent::Steady);
    }

    #[test]
    fn unsynchronised_is_multiplier_128_scale_29() {
        assert_eq!(ErrorEstimate::encode(ClockQuality::UNKNOWN), ErrorEstimate((29 << 8) | 128));
    }

    #[test]
    fn a_zero_multiplier_is_corrupt() {
        assert_eq!(ErrorEstimate(0x8000).decode(), None);
    }

    #[test]
    fn verdicts() {
        let ms = Duration::from_millis;
        let limits = DelayLimits {
            max_latency: Some(ms(5)),
            clear_latency: Duration::MAX,
            egregious_latency: Duration::from_secs(10),
        };
        let judge = |micros: i64, uncertainty: Duration| Delay { nanos: micros * 1_000, uncertainty }.judge(limits);
        assert_eq!(judge(3_000, ms(0)), DelayVerdict::Good);
        assert_eq!(judge(5_001, ms(0)), DelayVerdict::Exceeded);
        assert_eq!(judge(3_000, ms(3)), DelayVerdict::Undecidable);
        assert_eq!(judge(9_000, ms(3)), DelayVerdict::Exceeded);
        assert_eq!(judge(-1_000, ms(3)), DelayVerdict::Good);
        assert_eq!(judge(-3_001, ms(3)), DelayVerdict::ClockWrong);
        assert_eq!(judge(10_000_001, ms(0)), DelayVerdict::ClockWrong);
        assert_eq!(judge(-10_000_001, Duration::from_secs(32)), DelayVerdict::ClockWrong);
    }

    proptest! {
        #[test]
        fn the_estimate_never_promises_more_than_is_known(nanos in 0u64..20_000_000_000) {
            let error = Duration::from_nanos(nanos);
            let decoded = ErrorEstimate::encode(ClockQuality { synchronised: true, error }).decode().unwrap();
            prop_assert!(decoded.error >= error);
            prop_assert!(decoded.error <= error.mul_f64(1.02) + Duration::from_nanos(2));
        }

        #[test]
        fn any_estimate_decodes(raw: u16) { let _ = ErrorEstimate(raw).decode(); }

        /// With true clock errors within the claimed bound, no verdict is ever wrong.
        #[test]
        fn no_false_verdict(true_delay in 0i64..50_000_000, offset in -20_000_000i64..20_000_000, limit in 0u64..50) {
            let delay = Delay { nanos: true_delay + offset, uncertainty: Duration::from_millis(20) };
            let max_latency = Duration::from_millis(limit);
            let limits = DelayLimits {
                max_latency: Some(max_latency),
                clear_latency: max_latency,
                egregious_latency: Duration::from_secs(10),
            };
            let late = i128::from(true_delay) > max_latency.as_nanos() as i128;
            match delay.judge(limits) {
                DelayVerdict::Exceeded => prop_assert!(late),
                DelayVerdict::Good => prop_assert!(!late),
                DelayVerdict::Undecidable => {}
                DelayVerdict::ClockWrong => prop_assert!(false, "the clocks are within their bounds"),
            }
        }
    }
}
