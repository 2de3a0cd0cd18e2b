//! The two clocks: one that only grows, for timers, and the wall's, for stamps and people.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment on the monotonic clock, in nanoseconds since this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// When the process began.
    pub const ZERO: Moment = Moment(0);

    /// Never.
    pub const MAX: Moment = Moment(u64::MAX);

    /// The moment `after_start` after the process began.
    pub fn new(after_start: Duration) -> Self {
        Moment(saturating_nanos(after_start))
    }

    /// How long after the process began this is.
    pub fn after_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The next whole multiple of a duration since the process began.
    #[must_use]
    pub fn rounded_up(self, to: Duration) -> Moment {
        Moment(self.0.next_multiple_of(saturating_nanos(to).max(1)))
    }

    /// The whole multiple of a duration since the process began that comes after this one.
    #[must_use]
    pub fn next_multiple_of(self, of: Duration) -> Moment {
        Moment(self.0.saturating_add(1)).rounded_up(of)
    }

    /// In nanoseconds since the process began.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it is not earlier.
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

/// A moment on the wall's clock (UTC), in nanoseconds since 1970. It may step in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(u64);

/// Seconds from the NTP era's start (1900) to 1970, RFC 5905 figure 4.
const NTP_TO_UNIX: u64 = 2_208_988_800;
/// Seconds in one NTP era (2^32).
const NTP_ERA: u64 = 1 << 32;
/// NTP seconds below this are taken for era 1, which begins in 2036 (RFC 4330 section 3).
const NTP_ERA_PIVOT: u64 = 1 << 31;
const NANOS: u64 = 1_000_000_000;

impl WallTime {
    /// 1970.
    pub const ZERO: WallTime = WallTime(0);

    /// From nanoseconds since 1970.
    pub fn from_unix_nanos(nanos: u64) -> Self {
        WallTime(nanos)
    }

    /// Nanoseconds since 1970.
    pub fn unix_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds since 1970.
    pub fn unix_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// The 64-bit NTP timestamp (RFC 5905): seconds since 1900, and 2^-32 s.
    pub fn to_ntp(self) -> u64 {
        let seconds = (self.0 / NANOS + NTP_TO_UNIX) % NTP_ERA;
        // Rounded up, so that `from_ntp`, which rounds down, gives the same nanosecond back.
        let fraction = ((self.0 % NANOS) << 32).div_ceil(NANOS);
        (seconds << 32) | fraction
    }

    /// From a 64-bit NTP timestamp.
    pub fn from_ntp(ntp: u64) -> Self {
        let mut seconds = ntp >> 32;
        if seconds < NTP_ERA_PIVOT {
            seconds += NTP_ERA;
        }
        let fraction = ((ntp & 0xffff_ffff) * NANOS) >> 32;
        WallTime(seconds.saturating_sub(NTP_TO_UNIX) * NANOS + fraction)
    }

    /// From a 64-bit time stamp in the truncated format of PTP: seconds since 1970, and nanoseconds. Its seconds are
    /// those of TAI or of UTC, as its clock pleases: only differences of two such stamps mean something.
    pub fn from_ptp(ptp: u64) -> Self {
        WallTime((ptp >> 32) * NANOS + (ptp & 0xffff_ffff).min(NANOS - 1))
    }

    /// This minus `earlier`, in nanoseconds; negative if this is the earlier one.
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

/// RFC 3339 in UTC with milliseconds, as people and logs read it.
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

/// Both clocks, read once per event by the shell that handles it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timers and for judging silence.
    pub moment: Moment,
    /// For stamps.
    pub wall: WallTime,
}

impl Now {
    /// Both clocks when the monotonic one shows this later moment. The wall's is slewed by a two-thousandth at most.
    #[must_use]
    pub fn advanced_to(self, moment: Moment) -> Now {
        Now { moment, wall: self.wall + moment.since(self.moment) }
    }
}

/// In whole nanoseconds, up to what 64 bits hold.
pub fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Signed nanoseconds as seconds, for JSON and texts.
pub fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ntp_keeps_the_nanosecond(nanos in 0u64..4_200_000_000_000_000_000) {
            let wall = WallTime::from_unix_nanos(nanos);
            prop_assert_eq!(WallTime::from_ntp(wall.to_ntp()), wall);
        }

        #[test]
        fn any_ntp_stamp_is_readable(ntp: u64) {
            let _ = WallTime::from_ntp(ntp).to_string();
        }
    }

    #[test]
    fn ntp_epoch() {
        assert_eq!(WallTime::from_unix_nanos(0).to_ntp() >> 32, NTP_TO_UNIX);
        assert_eq!(WallTime::from_unix_nanos(1_500_000_000).to_ntp(), ((NTP_TO_UNIX + 1) << 32) | (1 << 31));
    }

    #[test]
    fn display_is_rfc3339() {
        assert_eq!(WallTime::from_unix_nanos(1_499_907_723_456_789_000).to_string(), "2017-07-13T01:02:03.456Z");
    }
}
