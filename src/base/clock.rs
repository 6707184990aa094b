//! Time, as nginx counts it. Nothing here reads a clock: whoever needs the time is told.
#![forbid(unsafe_code)]

/// A point in time or a span in milliseconds, as nginx counts them (`ngx_msec_t`): it wraps around,
/// so differences are taken with `wrapping_sub`.
pub type Msec = usize;
