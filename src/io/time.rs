//! The one place where the clocks are read.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::pure::time::{Moment, Now, WallTime};

static START: OnceLock<Instant> = OnceLock::new();

/// When the process began, for all practical purposes. Called in `run` before the runtime begins.
pub fn start() -> Instant {
    *START.get_or_init(Instant::now)
}

/// Both clocks, now.
pub fn now() -> Now {
    Now { moment: moment(Instant::now()), wall: WallTime::from(SystemTime::now()) }
}

/// How long this machine has slept since it was started: the monotonic clock stands still meanwhile.
pub fn slept() -> Duration {
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    // In this order the difference is never too small by the time between the two readings.
    let monotonic = read(ClockId::CLOCK_MONOTONIC);
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

/// The monotonic clock's reading in this process's terms.
pub fn moment(instant: Instant) -> Moment {
    Moment::new(instant.saturating_duration_since(start()))
}

/// How long it is until the next whole multiple of a duration since the process began: whoever keeps to multiples of
/// `pace::LONGEST` is woken together with others.
pub fn until_next(every: Duration) -> Duration {
    let now = now().moment;
    now.next_multiple_of(every).since(now)
}

/// A deadline as the timers want it.
pub fn instant(moment: Moment) -> Instant {
    start() + moment.after_start()
}
