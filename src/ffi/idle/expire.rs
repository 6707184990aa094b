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

use super::close::{close_in_slot, close_lost};

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
    let next = guard(Some(AFTER_PANIC), || close_expired(upstream));
    if let Some(after) = next {
        set_timer(upstream, after);
    }
}

/// When the handler is called again if a panic has ended it, in milliseconds.
const AFTER_PANIC: Msec = 1000;

/// Closes those whose time is over. Returns after how many milliseconds the next one is to be looked at, if there is one.
fn close_expired(upstream: &Upstream) -> Option<Msec> {
    upstream.expiry.timed_out();
    loop {
        match upstream.idle.with(|idle| idle.next_due(now())) {
            Some(Due::Expired(slot, idle)) => close_in_slot(upstream, slot, idle.conn, End::Timeout),
            Some(Due::Left(idle, left)) => idle.conn.read().set_timer(left),
            Some(Due::Later(left)) => return Some(left),
            Some(Due::Never) => return None,
            None => {
                close_lost(upstream);
                return None;
            }
        }
    }
}
