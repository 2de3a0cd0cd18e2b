//! Quality of the local clock as the kernel reports it, read with adjtimex(2).
//!
//! The clock actor calls [`clock_quality`] about once a second; some commands call it too.

use std::time::Duration;

use crate::pure::clock::error_estimate::{ClockQuality, UNSYNCHRONISED_ERROR};

/// Reads the clock's synchronization state and error bound from the kernel; needs no privilege.
///
/// The clock counts as synchronized when the call succeeds and `maxerror` is below 16 s. `STA_UNSYNC` is ignored,
/// because chrony without `rtcsync` leaves it set on a well-disciplined clock.
#[expect(unsafe_code, reason = "neither nix nor rustix offers adjtimex")]
pub fn clock_quality() -> ClockQuality {
    // SAFETY: `timex` is a plain C struct, for which all zeros is a valid value (`modes` 0 means read only).
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer refers to a live `timex` to which nothing else has access.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    let micros = |value: libc::c_long| Duration::from_micros(u64::try_from(value).unwrap_or(0));
    // Chrony and ntpd-rs fill `maxerror` and `esterror` differently; the sum is a safe bound for both.
    let error = micros(timex.maxerror) + micros(timex.esterror);
    if state < 0 || micros(timex.maxerror) >= UNSYNCHRONISED_ERROR {
        return ClockQuality::UNKNOWN;
    }
    ClockQuality { synchronized: true, error }
}
