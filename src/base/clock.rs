//! Time, as nginx counts it. The core reads no clock: the caller passes the time.
#![forbid(unsafe_code)]

/// A point in time or a duration in milliseconds, as nginx counts them (`ngx_msec_t`). It wraps around,
/// so differences are computed with `wrapping_sub`.
pub type Msec = usize;
