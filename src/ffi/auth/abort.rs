//! How an auth subrequest ends before its time: its timeout is over, or the rest of its response is not needed.

use std::ptr::NonNull;

#[cfg(ngx_feature = "http_cache")]
use nginx_sys::{ngx_del_timer, ngx_http_cache_t};
use nginx_sys::{
    ngx_event_t, ngx_http_finalize_request, ngx_http_run_posted_requests, ngx_int_t, ngx_msec_t,
    NGX_HTTP_GATEWAY_TIME_OUT, NGX_OK,
};

use super::capture::CaptureState;
use super::context::{AuthContext, AuthStage};
use super::nested::{abort_nested, activate_main, has_nested, remove_subrequest};
use crate::ffi::nginx::bits;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::timer::Alarm;

#[cfg(ngx_feature = "http_cache")]
use crate::ffi::nginx::handle::{get_bit, get_field, handle, set_bit};

/// The alarm of a context, ready to be set or posted. Its handler aborts the auth subrequest, or those nested in it.
#[cold]
pub(super) fn alarm(ctx: &AuthContext) -> &Alarm {
    let alarm = ctx.alarm();
    alarm.prepare(abort_handler, NonNull::from(ctx).as_ptr().cast(), false);
    alarm
}

/// The handler of a context's alarm.
unsafe extern "C" fn abort_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx calls this with the event of the alarm, which the context cancels before it is dropped.
    let data = unsafe { (*event).data };
    guard((), || {
        // SAFETY: `alarm` has prepared it with its context, which lives as long as the alarm.
        abort(unsafe { &*data.cast::<AuthContext>() });
    });
}

/// Aborts the auth subrequest of a context whose time is over, or whose rest is not needed. If it has ended, aborts those nested
/// in it.
pub(super) fn abort(ctx: &AuthContext) {
    let (r, Some(sub)) = (ctx.r, ctx.sub.get()) else { return };
    // What follows may end the request and free its context; the connection stays until nginx's event loop has returned.
    let client = r.client();
    if ctx.stage.get() != AuthStage::Pending {
        if ctx.stage.get() == AuthStage::Done && !sub.is_done() {
            keep_aborting_nested(ctx, sub);
            run_posted_requests(client);
        }
        return;
    }
    r.set_logged();
    // An incomplete denial is a denial.
    let is_denied = ctx.capture.state() != CaptureState::Empty;
    ctx.record_status(sub, is_denied.then(|| sub.status()));
    ctx.timed_out.set(!is_denied);
    ctx.finish();
    if has_nested(sub) {
        keep_aborting_nested(ctx, sub);
    } else if !try_end(sub, r, NGX_OK as ngx_int_t) {
        // It waits for another module, which will call it.
        detach(sub, r);
    }
    run_posted_requests(client);
}

/// Each of nginx's own event handlers of a connection ends with this.
fn run_posted_requests(client: Conn) {
    // SAFETY: the caller runs in the handler of an event, and nginx frees no connection before that has returned.
    unsafe { ngx_http_run_posted_requests(client.as_ptr()) };
}

/// Aborts the nested subrequests of an auth subrequest, and sets the alarm for those that it makes later.
fn keep_aborting_nested(ctx: &AuthContext, sub: Request) {
    /// In milliseconds.
    const RETRY_AFTER: ngx_msec_t = 20;
    let r = ctx.r;
    abort_nested(sub, &|nested| {
        try_end(nested, r, NGX_HTTP_GATEWAY_TIME_OUT as ngx_int_t);
    });
    alarm(ctx).set(RETRY_AFTER);
}

/// Ends a subrequest that waits, with `rc`. Returns whether it did: one that waits for another module, or for a thread, cannot
/// be ended.
fn try_end(sub: Request, r: Request, rc: ngx_int_t) -> bool {
    let client = r.client();
    if r.is_blocked() && !is_waiting_for_cache(sub) {
        // A thread works for it.
        return false;
    }
    if sub.upstream().is_some_and(|u| u.is_under_way()) {
        end_upstream(sub, rc);
    } else if client.write().delayed() {
        // `limit_req` of the subrequest's location delays it.
        client.write().clear_delayed();
        client.write().clear_timer();
        finalize(sub, rc);
    } else if is_waiting_for_cache(sub) {
        stop_waiting_for_cache(sub, rc);
    } else {
        return false;
    }
    true
}

/// `r->cache`.
///
/// # Invariants
/// Points at the cache context of a live request, in the request's pool.
#[cfg(ngx_feature = "http_cache")]
#[derive(Clone, Copy)]
struct Cache(NonNull<ngx_http_cache_t>);

#[cfg(ngx_feature = "http_cache")]
handle!(Cache, ngx_http_cache_t);

/// The cache context of a request that waits for a lock of the cache (`proxy_cache_lock`).
#[cfg(ngx_feature = "http_cache")]
fn waiting_cache(sub: Request) -> Option<Cache> {
    let cache = NonNull::new(get_field!(sub.cache)).map(Cache)?;
    get_bit!(cache: ngx_http_cache_t::waiting_raw).then_some(cache)
}

#[cfg(ngx_feature = "http_cache")]
fn is_waiting_for_cache(sub: Request) -> bool {
    waiting_cache(sub).is_some()
}

#[cfg(not(ngx_feature = "http_cache"))]
fn is_waiting_for_cache(_: Request) -> bool {
    false
}

/// Ends the wait of a request for a lock of the cache, as `ngx_http_file_cache_lock_wait()` does.
fn stop_waiting_for_cache(sub: Request, rc: ngx_int_t) {
    #[cfg(ngx_feature = "http_cache")]
    if let Some(cache) = waiting_cache(sub) {
        use crate::ffi::nginx::handle::field_ptr;
        set_bit!(cache: ngx_http_cache_t::set_waiting_raw, 0);
        let wait = field_ptr!(cache.wait_event);
        // SAFETY: a field of the cache context, which the live request has; reads one bit.
        if unsafe { ngx_event_t::timer_set_raw(wait) } != 0 {
            // SAFETY: `timer_set` says that the event is in the timer tree.
            unsafe { ngx_del_timer(wait) };
        }
        sub.main().unblock();
    }
    finalize(sub, rc);
}

/// Ends a subrequest whose upstream request is under way.
fn end_upstream(sub: Request, rc: ngx_int_t) {
    let Some(u) = sub.upstream() else { return };
    // The end of the upstream request releases one reference to the request, `finalize` another.
    sub.retain();
    u.clean_up(sub);
    finalize(sub, rc);
}

fn finalize(sub: Request, rc: ngx_int_t) {
    // SAFETY: a handle points at a live request, and the callers have stopped what would have continued it.
    unsafe { ngx_http_finalize_request(sub.as_ptr(), rc) };
}

/// Lets the auth subrequest go on in the background, so that the request need not wait for it.
fn detach(sub: Request, r: Request) {
    remove_subrequest(r, sub);
    activate_main(sub);
    sub.forbid_parts();
    // SAFETY: a handle points at a live request; writes one bit.
    unsafe { bits::BACKGROUND.set(sub.as_ptr()) };
    r.post();
}
