//! Connections that were opened for one request, for the hint why a pool has little effect: see [`Hint`].

use nginx_sys::{ngx_log_error_core, NGX_LOG_ERR};

use crate::base::clock::Msec;
use crate::metrics::{Cause, End, Hint};

use crate::ffi::nginx::process::{cycle_log, now};

use super::upstream::Upstream;

/// A server that closes connections with its answer does so within this time, in milliseconds.
const WITH_ANSWER: Msec = 100;
/// A `keepalive_timeout` below this, in milliseconds, is too short for most clients.
const SHORT: Msec = 1000;

/// Notes that a connection was, or will be, of use for one request only. Logs the hint if it is certain by now.
#[cold]
#[inline(never)]
pub(crate) fn note(upstream: &Upstream, cause: Cause) {
    let hint = upstream.records.get().and_then(|records| records.note(cause, now() as u64));
    if let Some(hint) = hint {
        log(upstream, &hint);
    }
}

/// Notes the end of a connection that had served so many requests, and then been idle for `age` milliseconds.
#[cold]
pub(crate) fn note_end(upstream: &Upstream, served: usize, why: End, age: Msec) {
    if served > 1 {
        return;
    }
    match why {
        End::ServerClosed if age <= WITH_ANSWER => {
            let cause = upstream.closes_for.get().unwrap_or(Cause::ServerCloses);
            upstream.closes_for.set(Some(cause));
            note(upstream, cause);
        }
        End::Timeout if upstream.limits.is_some_and(|limits| limits.timeout < SHORT) => {
            note(upstream, Cause::KeepaliveTimeout);
        }
        _ => {}
    }
}

fn log(upstream: &Upstream, hint: &Hint) {
    let (name, text) = (upstream.name(), hint.cause.text());
    let format =
        c"keepalive of upstream \"%V\" has little effect: %uL of the last %uL requests reused a connection; %*s";
    // SAFETY: the log of the cycle; `%V` takes a string of nginx, `%uL` a number of 64 bits, `%*s` a length and the bytes.
    unsafe {
        ngx_log_error_core(
            NGX_LOG_ERR as usize,
            cycle_log(),
            0,
            format.as_ptr(),
            name,
            hint.reused,
            hint.requests,
            text.len(),
            text.as_ptr(),
        );
    }
}
