//! Points in time on two clocks: [`Moment`] on the monotonic clock, for timers, and [`WallTime`] on the wall clock,
//! for timestamps and display.
//!
//! [`Now`] is a reading of both, which actors pass to pure code.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Point in time on the monotonic clock, in nanoseconds since the start of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// Start of this process.
    pub const ZERO: Moment = Moment(0);

    /// Latest representable time, used for "never".
    pub const MAX: Moment = Moment(u64::MAX);

    /// Creates the point in time `after_start` after the start of this process.
    pub fn new(after_start: Duration) -> Self {
        Moment(saturating_nanos(after_start))
    }

    /// Returns the time that has passed since the start of this process.
    pub fn after_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Returns the smallest multiple of `to`, counted from the start of this process, that is not before this time.
    #[must_use]
    pub fn rounded_up(self, to: Duration) -> Moment {
        Moment(self.0.next_multiple_of(saturating_nanos(to).max(1)))
    }

    /// Returns the smallest multiple of `of`, counted from the start of this process, that is after this time.
    #[must_use]
    pub fn next_multiple_of(self, of: Duration) -> Moment {
        Moment(self.0.saturating_add(1)).rounded_up(of)
    }

    /// Returns the number of nanoseconds since the start of this process.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// Returns the time that has passed since `earlier`, or zero if `earlier` is later than this.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, later: Duration) -> Moment {
        Moment(self.0.saturating_add(saturating_nanos(later)))
    }
}

impl std::ops::Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, earlier: Duration) -> Moment {
        Moment(self.0.saturating_sub(saturating_nanos(earlier)))
    }
}

/// Point in time on the wall clock (UTC), in nanoseconds since 1970. The wall clock may step in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(u64);

/// Seconds from the start of the NTP era (1900) to 1970 (RFC 5905 figure 4).
const NTP_TO_UNIX: u64 = 2_208_988_800;
/// Length of an NTP era in seconds (2^32).
const NTP_ERA: u64 = 1 << 32;
/// Value below which NTP seconds belong to era 1, which starts in 2036 (RFC 4330 section 3).
const NTP_ERA_PIVOT: u64 = 1 << 31;
const NANOS: u64 = 1_000_000_000;

impl WallTime {
    /// Start of the Unix epoch: 1 January 1970, 00:00 UTC.
    pub const ZERO: WallTime = WallTime(0);

    /// Creates a time from nanoseconds since 1970.
    pub fn from_unix_nanos(nanos: u64) -> Self {
        WallTime(nanos)
    }

    /// Returns the number of nanoseconds since 1970.
    pub fn unix_nanos(self) -> u64 {
        self.0
    }

    /// Returns the number of whole microseconds since 1970.
    pub fn unix_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Converts to a 64-bit NTP timestamp (RFC 5905): 32 bits of seconds since 1900, and 32 bits of fraction.
    pub fn to_ntp(self) -> u64 {
        let seconds = (self.0 / NANOS + NTP_TO_UNIX) % NTP_ERA;
        // Round up, so that `from_ntp`, which rounds down, restores the same nanosecond.
        let fraction = ((self.0 % NANOS) << 32).div_ceil(NANOS);
        (seconds << 32) | fraction
    }

    /// Converts from a 64-bit NTP timestamp; seconds below `NTP_ERA_PIVOT` are in the era that starts in 2036.
    pub fn from_ntp(ntp: u64) -> Self {
        let mut seconds = ntp >> 32;
        if seconds < NTP_ERA_PIVOT {
            seconds += NTP_ERA;
        }
        let fraction = ((ntp & 0xffff_ffff) * NANOS) >> 32;
        WallTime(seconds.saturating_sub(NTP_TO_UNIX) * NANOS + fraction)
    }

    /// Converts from a 64-bit timestamp in the truncated PTP format: seconds since 1970, and nanoseconds. The
    /// timescale is TAI or UTC, depending on the sending clock, so that only differences between two such timestamps
    /// are meaningful.
    pub fn from_ptp(ptp: u64) -> Self {
        WallTime((ptp >> 32) * NANOS + (ptp & 0xffff_ffff).min(NANOS - 1))
    }

    /// Returns the signed difference to `earlier` in nanoseconds, which is negative if this time is before `earlier`.
    pub fn nanos_since(self, earlier: WallTime) -> i64 {
        let difference = i128::from(self.0) - i128::from(earlier.0);
        difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }
}

impl std::ops::Add<Duration> for WallTime {
    type Output = WallTime;
    fn add(self, later: Duration) -> WallTime {
        WallTime(self.0.saturating_add(saturating_nanos(later)))
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        WallTime(saturating_nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl From<WallTime> for SystemTime {
    fn from(time: WallTime) -> Self {
        UNIX_EPOCH + Duration::from_nanos(time.0)
    }
}

/// Formats the time according to RFC 3339, in UTC with milliseconds.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(SystemTime::from(*self)).fmt(f)
    }
}

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(WallTime::from).map_err(serde::de::Error::custom)
    }
}

/// Reading of both clocks, taken once per event by the actor that handles it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Reading of the monotonic clock, used for timers and timeouts.
    pub moment: Moment,
    /// Reading of the wall clock, used for timestamps.
    pub wall: WallTime,
}

impl Now {
    /// Returns the reading at the later monotonic time `moment`. The wall time is extrapolated; slewing changes it by
    /// at most 1/2000 of the difference.
    #[must_use]
    pub fn advanced_to(self, moment: Moment) -> Now {
        Now { moment, wall: self.wall + moment.since(self.moment) }
    }
}

/// Returns the duration in whole nanoseconds, saturating at `u64::MAX`.
pub fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Converts signed nanoseconds to seconds, for JSON and texts.
pub fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ntp_conversion_preserves_nanoseconds(nanos in 0u64..4_200_000_000_000_000_000) {
            let wall = WallTime::from_unix_nanos(nanos);
            prop_assert_eq!(WallTime::from_ntp(wall.to_ntp()), wall);
        }

        #[test]
        fn any_ntp_timestamp_is_displayed_without_panic(ntp: u64) {
            let _ = WallTime::from_ntp(ntp).to_string();
        }
    }

    #[test]
    fn unix_epoch_is_ntp_second_2208988800() {
        assert_eq!(WallTime::from_unix_nanos(0).to_ntp() >> 32, NTP_TO_UNIX);
        assert_eq!(WallTime::from_unix_nanos(1_500_000_000).to_ntp(), ((NTP_TO_UNIX + 1) << 32) | (1 << 31));
    }

    #[test]
    fn display_is_rfc3339_in_utc_with_milliseconds() {
        assert_eq!(WallTime::from_unix_nanos(1_499_907_723_456_789_000).to_string(), "2017-07-13T01:02:03.456Z");
    }
}
