//! Clock quality, and the evaluation of measured delays in view of it.
//!
//! [`ClockQuality`] bounds the error of a clock, [`ErrorEstimate`] is its form in STAMP packets, [`Delay::judge`]
//! compares a delay with its limits, and [`StepDetector`] finds steps of the local wall clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::base::time::{Now, seconds};

/// Error bound that is assumed for a clock that is not known to be synchronized.
pub const UNSYNCHRONISED_ERROR: Duration = Duration::from_secs(16);

/// Quality of a clock, as reported by the kernel for the local clock or by a packet for a remote one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockQuality {
    /// True if the clock is disciplined by a time source, such as NTP or PTP.
    pub synchronized: bool,
    /// Upper bound of the absolute error of the clock.
    pub error: Duration,
}

impl ClockQuality {
    /// Quality of a clock about which no information is available.
    pub const UNKNOWN: ClockQuality = ClockQuality { synchronized: false, error: UNSYNCHRONISED_ERROR };
}

/// STAMP error estimate (RFC 8762 section 4.2.1, RFC 4656 section 4.1.2): S bit, Z bit, 6 bits of scale, and 8 bits
/// of multiplier. The error is multiplier * 2^(scale - 32) seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEstimate(pub u16);

impl ErrorEstimate {
    const SYNCHRONISED: u16 = 0x8000;
    const PTP: u16 = 0x4000;

    /// Returns whether the packet's time stamps are in the truncated PTP format (Z bit, RFC 8186) instead of NTP's.
    pub fn is_ptp(self) -> bool {
        self.0 & Self::PTP != 0
    }

    /// Encodes a clock quality. The error is rounded up and never zero, since a multiplier of zero denotes a corrupt
    /// packet.
    pub fn encode(quality: ClockQuality) -> Self {
        let mut multiplier = (quality.error.as_nanos() << 32).div_ceil(1_000_000_000).max(1);
        let mut scale = 0u16;
        while multiplier > 255 && scale < 63 {
            multiplier = multiplier.div_ceil(2);
            scale += 1;
        }
        let flag = if quality.synchronized { Self::SYNCHRONISED } else { 0 };
        ErrorEstimate(flag | (scale << 8) | multiplier.min(255) as u16)
    }

    /// Returns whether the field is invalid, which is the case for a multiplier of zero.
    pub fn is_corrupt(self) -> bool {
        self.0 & 0xff == 0
    }

    /// Decodes the clock quality, or returns `None` if the field is corrupt.
    pub fn decode(self) -> Option<ClockQuality> {
        if self.is_corrupt() {
            return None;
        }
        let multiplier = u128::from(self.0 & 0xff);
        let scale = (self.0 >> 8) & 0x3f;
        let nanos = ((multiplier << scale) * 1_000_000_000).div_ceil(1 << 32);
        let error = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(ClockQuality { synchronized: self.0 & Self::SYNCHRONISED != 0, error })
    }
}

/// Measured delay of a probe with its measurement uncertainty; one-way, or of the round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// Receive time minus send time in nanoseconds; negative if a clock is wrong by more than the real delay.
    pub nanos: i64,
    /// Sum of the error bounds of both clocks; zero if one clock gave both timestamps.
    pub uncertainty: Duration,
}

/// Limits that a delay is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayLimits {
    /// Longest acceptable delay, or `None` if the test has no latency limit.
    pub max_latency: Option<Duration>,
    /// Delay at or below which a raised latency alarm counts as good again. A value above `max_latency` has the
    /// effect of `max_latency`. `Delay::judge` does not use this field.
    pub clear_latency: Duration,
    /// Absolute delay above which the measurement is attributed to a wrong clock rather than to the path.
    pub egregious_latency: Duration,
}

/// Result of comparing one delay with its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DelayVerdict {
    /// The delay is within the limit even under the worst clock error, or no limit is set.
    Good,
    /// The delay exceeds the limit even under the most favourable clock error.
    Exceeded,
    /// The clock uncertainty is too large to decide on which side of the limit the delay lies.
    Undecidable,
    /// A clock is provably wrong: the delay is negative by more than its uncertainty, or its absolute value exceeds
    /// `egregious_latency`.
    ClockWrong,
}

impl Delay {
    /// Compares the delay with its limits, taking its uncertainty into account.
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

    /// Returns the delay in seconds, ignoring its uncertainty.
    pub fn seconds(self) -> f64 {
        seconds(self.nanos)
    }
}

/// Detects steps of the wall clock by comparing it with the monotonic clock, which stops while the machine is
/// suspended.
#[derive(Clone, Debug)]
pub struct StepDetector {
    last: Now,
    /// Total time that the machine had spent in suspension at the last reading.
    slept: Duration,
}

/// Change of the wall clock between two consecutive readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// The wall clock advanced normally, within the tolerance for slewing and reading.
    Steady,
    /// The wall clock was set by this number of nanoseconds; negative if it was set back.
    Stepped(i64),
    /// The machine was suspended for this duration. The wall clock has since been set from the hardware clock, whose
    /// error is unknown.
    Slept(Duration),
}

/// Largest rate at which a disciplined clock is slewed, in parts per million.
const SLEW_PPM: i128 = 500;
/// Tolerance in nanoseconds for the interval between reading one clock and reading the other.
const READING_SLACK: i128 = 1_000_000;

impl StepDetector {
    /// Creates a detector with a first reading; `slept` is the total time that the machine has been suspended so far.
    pub fn new(now: Now, slept: Duration) -> Self {
        StepDetector { last: now, slept }
    }

    /// Compares a new reading of both clocks with the previous one and returns the change between them.
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
    use crate::pure::base::time::{Moment, WallTime};
    use proptest::prelude::*;

    #[test]
    fn steps_are_distinguished_from_slew_and_suspension() {
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
        // A laptop was closed for eight hours.
        let night = Duration::from_secs(8 * 3600);
        let morning = at(4_100_000, 8_110_400 + 28_800_000_000);
        assert_eq!(detector.on_reading(morning, night), ClockEvent::Slept(night));
        assert_eq!(detector.on_reading(at(5_100_000, 9_110_400 + 28_800_000_000), night), ClockEvent::Steady);
    }

    #[test]
    fn unknown_clock_is_encoded_as_multiplier_128_scale_29() {
        assert_eq!(ErrorEstimate::encode(ClockQuality::UNKNOWN), ErrorEstimate((29 << 8) | 128));
    }

    #[test]
    fn estimate_with_zero_multiplier_is_corrupt() {
        assert_eq!(ErrorEstimate(0x8000).decode(), None);
    }

    #[test]
    fn verdict_depends_on_delay_uncertainty_and_limits() {
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
        fn encoded_estimate_is_never_smaller_than_the_error(nanos in 0u64..20_000_000_000) {
            let error = Duration::from_nanos(nanos);
            let decoded = ErrorEstimate::encode(ClockQuality { synchronized: true, error }).decode().unwrap();
            prop_assert!(decoded.error >= error);
            prop_assert!(decoded.error <= error.mul_f64(1.02) + Duration::from_nanos(2));
        }

        #[test]
        fn any_estimate_decodes_without_panic(raw: u16) { let _ = ErrorEstimate(raw).decode(); }

        /// Property: while the true clock errors stay within the claimed bound, no verdict is wrong.
        #[test]
        fn no_verdict_is_wrong_within_the_clock_error_bounds(true_delay in 0i64..50_000_000, offset in -20_000_000i64..20_000_000, limit in 0u64..50) {
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
