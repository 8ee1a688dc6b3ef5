//! Whether the kernel holds the clock to be synchronised.
#![allow(unsafe_code, reason = "adjtimex(2) has no safe wrapper")]

use nix::libc;

/// What adjtimex(2) says; `None` where it can't be asked, as in some containers.
pub(super) fn is_synchronised() -> Option<bool> {
    // SAFETY: all zeroes is a valid timex, and says that nothing is to be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is valid and outlives the call.
    match unsafe { libc::adjtimex(&raw mut state) } {
        ..0 => None,
        libc::TIME_ERROR => Some(false),
        _ => Some(true),
    }
}
