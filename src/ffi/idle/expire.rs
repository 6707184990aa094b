//! The timer of a pool: closes connections that were idle for `keepalive_timeout`. Those that have less time, and those that were used
//! when the timer expired, have timers of their own.

use std::ptr::NonNull;

use nginx_sys::ngx_event_t;

use crate::base::clock::Msec;
use crate::metrics::End;
use crate::pool::Due;

use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::process::now;
use crate::ffi::state::upstream::Upstream;

use super::close::close_in_slot;

/// A connection that may be idle for `keepalive_timeout` is in the pool: sees to it that the timer is set. If it is set already, it
/// expires earlier, and will be set anew then.
#[inline(always)]
pub(super) fn keep_time(upstream: &Upstream) {
    if !upstream.expiry.is_set() {
        begin(upstream);
    }
}

#[cold]
#[inline(never)]
fn begin(upstream: &Upstream) {
    if let Some(period) = upstream.idle.with(|idle| idle.period()) {
        set_timer(upstream, period);
    }
}

fn set_timer(upstream: &Upstream, after: Msec) {
    // A worker that exits has its connections closed by nginx, and need not wait.
    upstream.expiry.prepare(expiry_handler, NonNull::from(upstream).as_ptr().cast(), true);
    upstream.expiry.set(after);
}

unsafe extern "C" fn expiry_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event that `set_timer` has prepared; reads one field.
    let upstream = unsafe { (*event).data }.cast::<Upstream>();
    // SAFETY: `set_timer` has put the upstream there; the timer is cancelled when the upstream is dropped.
    let upstream = unsafe { &*upstream };
    guard((), || close_expired(upstream));
}

/// Closes those whose time is over, and sets the timer for the next one.
fn close_expired(upstream: &Upstream) {
    upstream.expiry.timed_out();
    loop {
        match upstream.idle.with(|idle| idle.next_due(now())) {
            Some(Due::Expired(slot, idle)) => close_in_slot(upstream, slot, idle.conn, End::Timeout),
            Some(Due::Left(idle, left)) => idle.conn.read().set_timer(left),
            Some(Due::Later(left)) => return set_timer(upstream, left),
            Some(Due::Never) | None => return,
        }
    }
}
