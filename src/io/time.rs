//! Reads the monotonic clock and the wall clock, and converts the runtime's instants to [`Moment`] and back.
//!
//! Pure code takes the time as an argument; actors and I/O code call [`now`].

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::pure::base::time::{Moment, Now, WallTime};

static START: OnceLock<Instant> = OnceLock::new();

/// Returns the start of the process, from which every [`Moment`] counts. Called in `run` before the runtime starts.
pub fn start() -> Instant {
    *START.get_or_init(Instant::now)
}

/// Returns the current readings of both clocks.
pub fn now() -> Now {
    Now { moment: moment(Instant::now()), wall: WallTime::from(SystemTime::now()) }
}

/// Returns the time for which this machine was suspended since its boot; the monotonic clock does not advance then.
pub fn slept() -> Duration {
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    // With this order of readings, the time between them can only increase the difference.
    let monotonic = read(ClockId::CLOCK_MONOTONIC);
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

/// Converts an instant of the runtime to a [`Moment`], which counts from the start of the process.
pub fn moment(instant: Instant) -> Moment {
    Moment::new(instant.saturating_duration_since(start()))
}

/// Returns the time until the next multiple of `every` since the start of the process. Timers at multiples of
/// `polling::LONGEST` expire together, which saves wake-ups.
pub fn until_next(every: Duration) -> Duration {
    let now = now().moment;
    now.next_multiple_of(every).since(now)
}

/// Converts a deadline to an instant, as the runtime's timers take it.
pub fn instant(moment: Moment) -> Instant {
    start() + moment.after_start()
}
