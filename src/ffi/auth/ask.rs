//! The question: a subrequest, what it is sent with, and how it ends before its time.

use std::ptr::NonNull;

#[cfg(ngx_feature = "http_cache")]
use nginx_sys::{ngx_del_timer, ngx_http_cache_t};
use nginx_sys::{
    ngx_event_t, ngx_http_finalize_request, ngx_http_headers_in_t, ngx_http_post_subrequest_pt,
    ngx_http_post_subrequest_t, ngx_http_postponed_request_t, ngx_http_request_body_t, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_http_subrequest, ngx_http_variable_value_t, ngx_int_t, ngx_msec_t,
    ngx_str_t, off_t, NGX_AGAIN, NGX_ERROR, NGX_HTTP_CLIENT_CLOSED_REQUEST, NGX_HTTP_CLOSE,
    NGX_HTTP_GATEWAY_TIME_OUT, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_REQUEST_TIME_OUT,
    NGX_HTTP_SUBREQUEST_WAITED, NGX_OK,
};

use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use crate::auth::{is_same_header, Sent};

use super::capture::State;
use super::client_headers::restore;
use super::conf::{LocConf, MainConf};
use super::context::{Auth, AuthStage};
use super::header_list::change_headers;
use super::parts::{end_in_background, give_back, has_parts, limit_parts, stop_parts};
use crate::ffi::nginx::bits;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::memory::{allocate, allocate_zeroed, or_fail};
use crate::ffi::nginx::request::Request;

/// Asks the location of `auth_subrequest`; `body` is the size of the client's body if it is sent along.
pub(super) fn ask(r: Request, auth: &Auth, conf: &LocConf, body: Option<u64>) -> ngx_int_t {
    auth.sent.set(Sent { body, method: r.method() });
    if send(r, auth, conf, body).is_none() {
        // A question that was made already would keep an error page waiting: the request ends without a response.
        let is_made = auth.sub.get().is_some();
        return if is_made { NGX_ERROR as ngx_int_t } else { NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t };
    }
    auth.start();
    auth.alarm.prepare(stop_handler, NonNull::from(auth).as_ptr().cast(), false);
    if conf.timeout > 0 {
        auth.alarm.set(conf.timeout);
    }
    NGX_AGAIN as ngx_int_t
}

fn send(r: Request, auth: &Auth, conf: &LocConf, body: Option<u64>) -> Option<()> {
    let mut uri = *conf.uri()?;
    // SAFETY: the pool of a live request.
    let post = unsafe { allocate::<ngx_http_post_subrequest_t>(r.pool(), 1) }?.cast();
    let data = NonNull::from(auth).as_ptr().cast();
    // SAFETY: allocated above.
    unsafe { post.write(ngx_http_post_subrequest_t { handler: Some(done), data }) };
    let args: *mut ngx_str_t = if uri.args.len > 0 { &raw mut uri.args } else { std::ptr::null_mut() };
    let mut sub: *mut ngx_http_request_t = std::ptr::null_mut();
    let flags = NGX_HTTP_SUBREQUEST_WAITED as usize;
    // SAFETY: a live request; nginx copies both strings, whose bytes are the cycle's.
    let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
        ngx_http_subrequest(r.as_ptr(), &raw mut uri.path, args, &raw mut sub, post.as_ptr(), flags)
    });
    // SAFETY: null, or nginx has made it.
    let sub = unsafe { Request::from_raw(sub) };
    auth.sub.set(sub);
    let sub = sub.filter(|_| rc == NGX_OK as ngx_int_t)?;
    if conf.pass_body == 0 {
        sub.set_header_only();
    }
    own_variables(sub)?;
    if r.is_redirected() {
        restore(sub)?;
    }
    prepare_headers(sub, r, body)
}

/// The question has variables of its own, with the present values: what it evaluates is not for the request, whose
/// headers are others; and what the request has evaluated of its body is not for the question.
fn own_variables(sub: Request) -> Option<()> {
    // SAFETY: a live request.
    let request = unsafe { &*sub.as_ptr() };
    let count = NgxHttpCoreModule::main_conf(request)?.variables.nelts;
    // SAFETY: the pool of a live request.
    let own = unsafe { allocate::<ngx_http_variable_value_t>(sub.pool(), count) }?.cast();
    // SAFETY: a live request has a value for each variable with an index.
    unsafe { own.copy_from_nonoverlapping(NonNull::new(request.variables)?, count) };
    // SAFETY: a live request; writes one field.
    unsafe { (*sub.as_ptr()).variables = own.as_ptr() };
    for index in MainConf::of(sub)?.of_message.get().as_slice() {
        // SAFETY: made above, and nobody else has it now.
        let value = unsafe { &mut *sub.variable(*index) };
        value.set_valid(0);
        value.set_not_found(0);
    }
    Some(())
}

/// The question has the client's body or none, and is not about a part or a version of what the client wants.
fn prepare_headers(sub: Request, r: Request, body: Option<u64>) -> Option<()> {
    if body.is_some() {
        // SAFETY: a live request; reads one field.
        let (method, name) = unsafe { method_of(r) };
        // SAFETY: a live request; writes one field.
        unsafe { (*sub.as_ptr()).method = method };
        // SAFETY: as above.
        unsafe { (*sub.as_ptr()).method_name = name };
    } else {
        // nginx would read the real one, and close its file.
        // SAFETY: the pool of a live request.
        let none = unsafe { allocate_zeroed::<ngx_http_request_body_t>(r.pool()) }?;
        // SAFETY: a live request; writes one field.
        unsafe { (*sub.as_ptr()).request_body = none.as_ptr() };
    }
    // SAFETY: a live request; the headers are its own copy, and nobody else has them now.
    let headers = unsafe { &mut (*sub.as_ptr()).headers_in };
    headers.content_length_n = body.map_or(-1, |size| size as off_t);
    headers.set_chunked(0);
    if body.is_none() && !headers.content_length.is_null() {
        headers.content_length = std::ptr::null_mut();
        remove(sub, &[b"content-length"])?;
    }
    // SAFETY: as above.
    let headers = unsafe { &mut (*sub.as_ptr()).headers_in };
    if forget(headers) {
        remove(sub, &REMOVED)?;
    }
    Some(())
}

const REMOVED: [&[u8]; 7] = [
    b"transfer-encoding",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-match",
    b"if-none-match",
    b"if-range",
    b"range",
];

/// Returns whether there is any of [`REMOVED`].
fn forget(headers: &mut ngx_http_headers_in_t) -> bool {
    let all = [
        &mut headers.transfer_encoding,
        &mut headers.if_modified_since,
        &mut headers.if_unmodified_since,
        &mut headers.if_match,
        &mut headers.if_none_match,
        &mut headers.if_range,
        &mut headers.range,
    ];
    all.into_iter().fold(false, |any, header| {
        let is_there = !std::mem::replace(header, std::ptr::null_mut()).is_null();
        any || is_there
    })
}

fn remove(sub: Request, names: &[&[u8]]) -> Option<()> {
    change_headers(sub, |name| names.iter().any(|removed| is_same_header(removed, name)), [].into_iter())
}

/// # Safety
/// A live request.
unsafe fn method_of(r: Request) -> (usize, ngx_str_t) {
    // SAFETY: live, says the caller; reads one field.
    let method = unsafe { (*r.as_ptr()).method };
    // SAFETY: as above.
    (method, unsafe { (*r.as_ptr()).method_name })
}

/// Whether a subrequest tells us of its end.
pub(super) fn is_ours(handler: ngx_http_post_subrequest_pt) -> bool {
    handler.map(|handler| handler as usize) == Some(done as *const () as usize)
}

/// The question has ended, as `ngx_http_auth_request_done()`. With a status nginx goes on to make a page for it, or asks
/// for one elsewhere (`error_page`), and calls this again: what was heard first stays.
unsafe extern "C" fn done(
    r: *mut ngx_http_request_t,
    data: *mut std::ffi::c_void,
    rc: ngx_int_t,
) -> ngx_int_t {
    guard((), || {
        // SAFETY: `send` has put it there; it lies in the pool of the live main request.
        let auth = unsafe { &*data.cast::<Auth>() };
        // SAFETY: nginx passes a live request.
        let sub = unsafe { Request::from_raw(r) }.filter(|_| auth.stage.get() == AuthStage::Asking);
        if let Some(sub) = sub.filter(|_| goes_on(rc)) {
            auth.hear(sub, u16::try_from(rc).ok());
            // Nothing of an error page could be passed, and it could do something.
            if auth.is_decided() && !auth.is_passed() {
                // SAFETY: the live request that nginx passes; writes one bit.
                unsafe { bits::ERROR_PAGE.set(r) };
                sub.forget_old_browser();
            }
        } else if let Some(sub) = sub {
            debug(sub.log(), c"auth subrequest done");
            auth.hear(sub, Some(if ends(rc) { rc as u16 } else { sub.status() }));
            auth.finish();
            limit_parts(auth, sub);
        }
    });
    guard((), || {
        // SAFETY: nginx passes a live request.
        if let Some(sub) = unsafe { Request::from_raw(r) }.filter(|sub| sub.is_in_background()) {
            end_in_background(sub);
        }
    });
    // An answer that breaks off, or ends without a response, must not end the request of the client. (If the client has
    // gone, nginx ends it all the same.)
    if rc == NGX_ERROR as ngx_int_t || ends(rc) {
        return NGX_OK as ngx_int_t;
    }
    rc
}

/// Whether `ngx_http_finalize_request()` goes on with a status.
fn goes_on(rc: ngx_int_t) -> bool {
    (rc >= 300 || rc == 201 || rc == 204) && !ends(rc)
}

/// Whether with a status `ngx_http_finalize_request()` ends the whole request, without a response.
fn ends(rc: ngx_int_t) -> bool {
    const TIMED_OUT: ngx_int_t = NGX_HTTP_REQUEST_TIME_OUT as ngx_int_t;
    const CLIENT_IS_GONE: ngx_int_t = NGX_HTTP_CLIENT_CLOSED_REQUEST as ngx_int_t;
    const NO_RESPONSE: ngx_int_t = NGX_HTTP_CLOSE as ngx_int_t;
    matches!(rc, TIMED_OUT | CLIENT_IS_GONE | NO_RESPONSE)
}

/// Its time is over, or nobody wants the rest of its answer.
unsafe extern "C" fn stop_handler(event: *mut ngx_event_t) {
    // SAFETY: the alarm of an answer, which ends before the answer does.
    let auth = unsafe { (*event).data }.cast::<Auth>();
    guard((), || {
        // SAFETY: put there when the alarm was prepared.
        stop(unsafe { &*auth });
    });
}

fn stop(auth: &Auth) {
    let (r, Some(sub)) = (auth.r, auth.sub.get()) else { return };
    if auth.stage.get() != AuthStage::Asking {
        if auth.stage.get() == AuthStage::Done && !sub.is_done() {
            press_on(auth, sub);
            // SAFETY: as below.
            unsafe { ngx_http_run_posted_requests(r.client().as_ptr()) };
        }
        return;
    }
    r.set_logged();
    // Whatever is missing of a denial, it is one.
    let is_denied = auth.capture.state() != State::Nothing;
    auth.hear(sub, is_denied.then(|| sub.status()));
    auth.timed_out.set(!is_denied);
    auth.finish();
    // What follows may end the request, and the answer with it; the connection stays until nginx has returned.
    let client = r.client();
    if has_parts(sub) {
        press_on(auth, sub);
    } else if !end_now(sub, r, NGX_OK as ngx_int_t) {
        // It waits for something of another module, which will call it.
        detach(sub, r);
    }
    // SAFETY: as nginx's own handlers, which end with this whatever has become of the request.
    unsafe { ngx_http_run_posted_requests(client.as_ptr()) };
}

/// Ends the parts of a question for which nothing is left but to end, as they come.
fn press_on(auth: &Auth, sub: Request) {
    /// In milliseconds.
    const LOOK_AGAIN: ngx_msec_t = 20;
    let r = auth.r;
    stop_parts(sub, &|part| {
        end_now(part, r, NGX_HTTP_GATEWAY_TIME_OUT as ngx_int_t);
    });
    auth.alarm.set(LOOK_AGAIN);
}

/// Ends a request that waits, with `rc`. Returns whether it did: what waits for something of another module, or of a thread,
/// cannot be ended.
fn end_now(sub: Request, r: Request, rc: ngx_int_t) -> bool {
    let client = r.client();
    if r.is_blocked() && !is_waiting_for_cache(sub) {
        // A thread works for it.
        return false;
    }
    if sub.upstream().is_some_and(|u| u.is_under_way()) {
        abort(sub, rc);
    } else if client.write().delayed() {
        // `limit_req` of the location that was asked.
        client.write().clear_delayed();
        client.write().clear_timer();
        end(sub, rc);
    } else if is_waiting_for_cache(sub) {
        stop_waiting_for_cache(sub, rc);
    } else {
        return false;
    }
    true
}

/// Whether a request waits for a lock of the cache (`proxy_cache_lock`).
#[cfg(ngx_feature = "http_cache")]
fn is_waiting_for_cache(sub: Request) -> bool {
    // SAFETY: a live request; reads one field.
    let cache = NonNull::new(unsafe { (*sub.as_ptr()).cache });
    // SAFETY: lies in the request's pool; reads one bit.
    cache.is_some_and(|cache| unsafe { ngx_http_cache_t::waiting_raw(cache.as_ptr()) != 0 })
}

#[cfg(not(ngx_feature = "http_cache"))]
fn is_waiting_for_cache(_: Request) -> bool {
    false
}

/// Takes a request from those that wait for a lock of the cache, as `ngx_http_file_cache_lock_wait()` does.
fn stop_waiting_for_cache(sub: Request, rc: ngx_int_t) {
    #[cfg(ngx_feature = "http_cache")]
    {
        // SAFETY: a live request; reads one field.
        let cache = unsafe { (*sub.as_ptr()).cache };
        // SAFETY: it waits, so that it has one, in its pool; writes one bit.
        unsafe { ngx_http_cache_t::set_waiting_raw(cache, 0) };
        // SAFETY: as above; makes no reference.
        let wait = unsafe { &raw mut (*cache).wait_event };
        // SAFETY: as above; reads one bit.
        if unsafe { ngx_event_t::timer_set_raw(wait) } != 0 {
            // SAFETY: `timer_set` says that the event is in the timer tree.
            unsafe { ngx_del_timer(wait) };
        }
        sub.main().unblock();
    }
    end(sub, rc);
}

/// Ends a request whose upstream part is under way.
fn abort(sub: Request, rc: ngx_int_t) {
    let Some(u) = sub.upstream() else { return };
    // The end of the upstream part ends it once.
    sub.retain();
    u.clean_up(sub);
    end(sub, rc);
}

fn end(sub: Request, rc: ngx_int_t) {
    // SAFETY: alive, and nothing is under way that would call it.
    unsafe { ngx_http_finalize_request(sub.as_ptr(), rc) };
}

/// Makes a part of the request one that goes on in the background, so that the request need not wait for it.
fn detach(sub: Request, r: Request) {
    // SAFETY: a live request; makes no reference.
    let mut place: *mut *mut ngx_http_postponed_request_t = unsafe { &raw mut (*r.as_ptr()).postponed };
    // SAFETY: a field of a live request, or of a record in its pool.
    while let Some(postponed) = NonNull::new(unsafe { *place }) {
        // SAFETY: as above; makes no reference.
        let next = unsafe { &raw mut (*postponed.as_ptr()).next };
        // SAFETY: as above.
        if unsafe { (*postponed.as_ptr()).request } == sub.as_ptr() {
            // SAFETY: as above.
            let next = unsafe { *next };
            // SAFETY: as above.
            unsafe { *place = next };
            break;
        }
        place = next;
    }
    give_back(sub);
    sub.forbid_parts();
    // SAFETY: a live request; writes one bit.
    unsafe { bits::BACKGROUND.set(sub.as_ptr()) };
    r.post();
}
