//! The parts of a question: what the location that is asked asks in its turn, as Lua's `ngx.location.capture()` does. nginx
//! sends what requests say in their order: the first part that has not ended is what the connection to the client points at,
//! and all others wait for it. A question that is given up must leave that place to the request.

use std::ptr::NonNull;

use nginx_sys::{ngx_http_postponed_request_t, ngx_http_request_t, ngx_msec_t};

use super::conf::LocConf;
use super::context::Auth;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

/// Calls `stop` for each part of a question that has not ended and has no such parts itself. Returns whether there was any.
pub(super) fn stop_parts(sub: Request, stop: &dyn Fn(Request)) -> bool {
    let mut any = false;
    let mut stop_one = |part: Request| {
        any = true;
        if !stop_parts(part, stop) {
            stop(part);
        }
    };
    // nginx takes one from the list when it comes to it.
    let active = present_part(sub).filter(|part| !list(sub).any(|listed| listed.request == part.as_ptr()));
    if let Some(part) = active.filter(|part| !part.is_done()) {
        stop_one(part);
    }
    for listed in list(sub) {
        // SAFETY: null, or a part, which lives as long as the main request.
        if let Some(part) = unsafe { Request::from_raw(listed.request) }.filter(|part| !part.is_done()) {
            stop_one(part);
        }
    }
    any
}

/// Whether a question has parts that have not ended.
pub(super) fn has_parts(sub: Request) -> bool {
    present_part(sub).is_some() || list(sub).any(|listed| !listed.request.is_null())
}

/// The answer is there, but parts of the question may still be under way, and nginx waits for them: for no longer than for the
/// answer.
pub(super) fn limit_parts(auth: &Auth, sub: Request) {
    let timeout = LocConf::of(auth.r).timeout;
    if timeout > 0 && has_parts(sub) {
        auth.alarm.set(timeout.saturating_sub(auth.took().unwrap_or(0) as ngx_msec_t).max(1));
    }
}

/// Makes the connection to the client point at the request, if it points at a question that was given up, or at one of its
/// parts. Returns whether it did.
pub(super) fn give_back(sub: Request) -> bool {
    let (main, client) = (sub.main(), sub.client());
    let is_taken = client.data() == sub.as_ptr().cast() || present_part(sub).is_some();
    if is_taken {
        client.set_data(main.as_ptr().cast());
    }
    is_taken
}

/// Throws away what a part of a question has said, and nginx has put aside.
pub(super) fn take_back(part: Request) {
    // SAFETY: a live request; makes no reference.
    let mut place = unsafe { &raw mut (*part.as_ptr()).postponed };
    // SAFETY: a field of a live request, or of a record in its pool.
    while let Some(listed) = NonNull::new(unsafe { *place }) {
        // SAFETY: in the pool of the request; reads two fields.
        let ngx_http_postponed_request_t { request, out, next } = unsafe { listed.as_ptr().read() };
        if !request.is_null() {
            // SAFETY: as above; makes no reference.
            place = unsafe { &raw mut (*listed.as_ptr()).next };
            continue;
        }
        let mut out = out;
        // SAFETY: a chain in the same pool.
        while let Some(link) = unsafe { out.as_ref() } {
            // SAFETY: a link has its buffer, which nobody else has now.
            let buf = unsafe { &mut *link.buf };
            buf.pos = buf.last;
            buf.file_pos = buf.file_last;
            out = link.next;
        }
        // SAFETY: as above.
        unsafe { *place = next };
    }
}

/// A question that was given up ends, in the background: it must not wait for parts that have ended, and its request goes on
/// if a part of it has taken the connection to the client meanwhile.
pub(super) fn end_in_background(sub: Request) {
    let is_over = |listed: &&ngx_http_postponed_request_t| {
        // SAFETY: null, or a part, which lives as long as the main request.
        unsafe { Request::from_raw(listed.request) }.is_none_or(Request::is_done)
    };
    let left = list(sub).find(|listed| !is_over(listed));
    let left = left.map_or(std::ptr::null_mut(), |listed| std::ptr::from_ref(listed).cast_mut());
    // SAFETY: a live request; writes one field.
    unsafe { (*sub.as_ptr()).postponed = left };
    if give_back(sub) {
        sub.main().post();
    }
}

/// The part of a request to which that belongs at which the connection to the client points.
fn present_part(sub: Request) -> Option<Request> {
    let present = sub.client().data().cast::<ngx_http_request_t>();
    // SAFETY: while a connection has requests it points at one of them.
    let mut part = unsafe { Request::from_raw(present) }?;
    loop {
        let parent = part.parent()?;
        if parent == sub {
            return Some(part);
        }
        part = parent;
    }
}

/// What waits for its turn in a request: parts of it, and what it has said itself.
fn list<'a>(sub: Request) -> impl Iterator<Item = &'a ngx_http_postponed_request_t> {
    // SAFETY: a live request; reads one field.
    let mut next = unsafe { (*sub.as_ptr()).postponed };
    std::iter::from_fn(move || {
        // SAFETY: in the pool of the request, which frees none of them before it ends.
        let listed = unsafe { NonNull::new(next)?.as_ref() };
        next = listed.next;
        Some(listed)
    })
}
