//! Nested subrequests: those that the location of an auth subrequest makes in its turn, as Lua's `ngx.location.capture()` does.
//!
//! nginx sends the output of subrequests in their order. The connection to the client points at the *active* request, the first
//! one that has not ended, and the output of all others is postponed until they become active. An auth subrequest that is
//! aborted must not stay the active request.

use std::ptr::NonNull;

use nginx_sys::{ngx_http_postponed_request_t, ngx_http_request_t, ngx_msec_t};

use super::abort::alarm;
use super::body::{buffers, consume};
use super::conf::LocConf;
use super::context::AuthContext;
use crate::ffi::nginx::handle::{get_field, handle, set_field, Handle as _};
use crate::ffi::nginx::request::Request;

/// An entry of `r->postponed`: a subrequest, or output of the request itself.
///
/// # Invariants
/// Lies in the pool of a live request, which frees no entry before the main request ends.
#[derive(Clone, Copy)]
struct Postponed(NonNull<ngx_http_postponed_request_t>);

handle!(Postponed, ngx_http_postponed_request_t);

impl Postponed {
    /// The subrequest; `None` if the entry is output.
    fn request(self) -> Option<Request> {
        let request = get_field!(self.request);
        // SAFETY: null, or a subrequest, which lives as long as the main request.
        unsafe { Request::from_raw(request) }
    }
}

/// The entries of `r->postponed`.
fn postponed(r: Request) -> impl Iterator<Item = Postponed> {
    let mut next = get_field!(r.postponed);
    std::iter::from_fn(move || {
        let entry = NonNull::new(next).map(Postponed)?;
        next = get_field!(entry.next);
        Some(entry)
    })
}

/// Removes from `r->postponed` the entries for which `is_removed` returns true.
fn remove_postponed(r: Request, is_removed: impl Fn(Postponed) -> bool) {
    let mut previous: Option<Postponed> = None;
    for entry in postponed(r) {
        if !is_removed(entry) {
            previous = Some(entry);
            continue;
        }
        let next = get_field!(entry.next);
        match previous {
            Some(previous) => set_field!(previous.next = next),
            None => set_field!(r.postponed = next),
        }
    }
}

/// Removes a subrequest from the list of its request, which then does not wait for it.
pub(super) fn remove_subrequest(r: Request, sub: Request) {
    remove_postponed(r, |entry| entry.request() == Some(sub));
}

/// Drops the postponed output of a subrequest.
pub(super) fn drop_postponed_output(sub: Request) {
    remove_postponed(sub, |entry| {
        if entry.request().is_some() {
            return false;
        }
        let output = get_field!(entry.out);
        // SAFETY: a chain in the request's pool; nginx has left its buffers to the list.
        unsafe { buffers(output) }.for_each(consume);
        true
    });
}

/// Calls `abort` for each nested subrequest that has not ended and has no pending nested subrequests itself. Returns whether
/// there was any.
pub(super) fn abort_nested(sub: Request, abort: &dyn Fn(Request)) -> bool {
    let mut any = false;
    let mut abort_one = |nested: Request| {
        any = true;
        if !abort_nested(nested, abort) {
            abort(nested);
        }
    };
    // nginx removes a subrequest from the list when it becomes active.
    let is_listed = |nested: &Request| postponed(sub).any(|entry| entry.request() == Some(*nested));
    let active = active_nested(sub).filter(|nested| !is_listed(nested));
    if let Some(nested) = active.filter(|nested| !nested.is_done()) {
        abort_one(nested);
    }
    for entry in postponed(sub) {
        if let Some(nested) = entry.request().filter(|nested| !nested.is_done()) {
            abort_one(nested);
        }
    }
    any
}

/// Whether a subrequest has nested subrequests that nginx waits for.
pub(super) fn has_nested(sub: Request) -> bool {
    active_nested(sub).is_some() || postponed(sub).any(|entry| entry.request().is_some())
}

/// Limits the time of nested subrequests that are still under way when the answer has arrived, as nginx waits for them: the
/// timeout is the same as for the answer.
#[inline]
pub(super) fn limit_nested(ctx: &AuthContext, sub: Request) {
    let is_active = sub.client().data() == sub.as_ptr().cast();
    if !is_active || !get_field!(sub.postponed).is_null() {
        limit_all_nested(ctx, sub);
    }
}

#[cold]
#[inline(never)]
fn limit_all_nested(ctx: &AuthContext, sub: Request) {
    let timeout = LocConf::of(ctx.r).timeout;
    if timeout > 0 && has_nested(sub) {
        alarm(ctx).set(timeout.saturating_sub(ctx.duration().unwrap_or(0) as ngx_msec_t).max(1));
    }
}

/// Makes the main request the active one, if the active request is an aborted auth subrequest or nested in it. Returns whether
/// it was.
pub(super) fn activate_main(sub: Request) -> bool {
    let (main, client) = (sub.main(), sub.client());
    let is_active = client.data() == sub.as_ptr().cast() || active_nested(sub).is_some();
    if is_active {
        client.set_data(main.as_ptr().cast());
    }
    is_active
}

/// Called when an aborted auth subrequest ends in the background. It must not wait for nested subrequests that have ended; and
/// the main request goes on if a nested subrequest has become active meanwhile.
pub(super) fn finish_in_background(sub: Request) {
    let pending = postponed(sub).find(|entry| entry.request().is_some_and(|nested| !nested.is_done()));
    set_field!(sub.postponed = pending.map_or(std::ptr::null_mut(), Postponed::as_ptr));
    if activate_main(sub) {
        sub.main().post();
    }
}

/// The nested subrequest of `sub` that is active, or in which the active request is nested.
fn active_nested(sub: Request) -> Option<Request> {
    let active = sub.client().data().cast::<ngx_http_request_t>();
    // SAFETY: while a connection has requests, its `data` points at one of them.
    let mut nested = unsafe { Request::from_raw(active) }?;
    loop {
        let parent = nested.parent()?;
        if parent == sub {
            return Some(nested);
        }
        nested = parent;
    }
}
