//! What the kernel says of the local clock (adjtimex(2)).

use std::time::Duration;

use crate::pure::clock_error::{ClockQuality, UNSYNCHRONISED_ERROR};

/// Reads it. Needs no privilege.
///
/// Synchronised means that the call says so and that `maxerror` is below 16 s. `STA_UNSYNC` is not
/// asked: chrony without `rtcsync` leaves it set on a good clock.
#[expect(unsafe_code, reason = "neither nix nor rustix offers adjtimex")]
pub fn clock_quality() -> ClockQuality {
    // SAFETY: `timex` is a plain C struct, for which all zeros is a valid value (modes 0: only read).
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live and exclusive `timex`.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    let micros = |value: libc::c_long| Duration::from_micros(u64::try_from(value).unwrap_or(0));
    // chrony and ntpd-rs fill the two differently; the sum is safe for both.
    let error = micros(timex.maxerror) + micros(timex.esterror);
    if state < 0 || micros(timex.maxerror) >= UNSYNCHRONISED_ERROR {
        return ClockQuality::UNKNOWN;
    }
    ClockQuality { synchronised: true, error }
}
