//! The auth subrequest: how it is created, what it sends, and how it ends.

use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_headers_in_t, ngx_http_post_subrequest_pt, ngx_http_post_subrequest_t, ngx_http_request_t,
    ngx_http_subrequest, ngx_int_t, off_t, NGX_AGAIN, NGX_ERROR, NGX_HTTP_CLIENT_CLOSED_REQUEST,
    NGX_HTTP_CLOSE, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_REQUEST_TIME_OUT, NGX_HTTP_SUBREQUEST_WAITED,
    NGX_OK,
};

use crate::auth::{is_same_header, SentRequest};

use super::client_headers::restore_originals;
use super::conf::LocConf;
use super::context::{AuthContext, AuthStage};
use super::header_list::change_headers;
use super::indexed::Indexed;
use super::nested::{finish_in_background, limit_nested};
use super::variables::invalidate;
use crate::ffi::nginx::bits;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{get_field, set_field, Handle as _};
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::memory::or_fail;
use crate::ffi::nginx::request::Request;

/// Sends the auth subrequest with the client's body, whose size is `size`.
#[cold]
#[inline(never)]
pub(super) fn send_with_body(r: Request, ctx: &AuthContext, conf: &LocConf, size: u64) -> ngx_int_t {
    send(r, ctx, conf, Some(size))
}

/// Sends the auth subrequest; `body` is the size of the client's body if it is sent too.
#[inline(always)]
pub(super) fn send(r: Request, ctx: &AuthContext, conf: &LocConf, body: Option<u64>) -> ngx_int_t {
    if body.is_some() {
        ctx.sent.set(SentRequest { body, method: r.method() });
    }
    if create(r, ctx, conf, body).is_none() {
        // If the subrequest exists already, an error page would wait for it: the request ends without a response.
        let exists = ctx.sub.get().is_some();
        return if exists { NGX_ERROR as ngx_int_t } else { NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t };
    }
    ctx.start();
    NGX_AGAIN as ngx_int_t
}

/// Creates the auth subrequest. `None` if there is no memory, or nginx refuses it; `ctx.sub` says whether it exists.
#[inline(always)]
fn create(r: Request, ctx: &AuthContext, conf: &LocConf, body: Option<u64>) -> Option<()> {
    let data = NonNull::from(ctx).as_ptr().cast();
    let post = ctx.room.put_post(ngx_http_post_subrequest_t { handler: Some(auth_handler), data });
    let (path, args) = (&raw const ctx.uri.path, &raw const ctx.uri.args);
    let args = if ctx.uri.args.len > 0 { args } else { std::ptr::null() };
    let mut sub: *mut ngx_http_request_t = std::ptr::null_mut();
    let flags = NGX_HTTP_SUBREQUEST_WAITED as usize;
    // SAFETY: a handle points at a live request; nginx copies both strings and writes neither, their bytes live as long as the
    // cycle, and the context as long as the request.
    let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
        ngx_http_subrequest(r.as_ptr(), path.cast_mut(), args.cast_mut(), &raw mut sub, post, flags)
    });
    // SAFETY: null, or the subrequest that nginx has created, which lives as long as the main request.
    let sub = unsafe { Request::from_raw(sub) };
    ctx.sub.set(sub);
    let sub = sub.filter(|_| rc == NGX_OK as ngx_int_t)?;
    if conf.pass_body == 0 {
        sub.set_header_only();
    }
    copy_variables(sub, ctx, conf)?;
    if r.is_redirected() {
        restore_originals(sub)?;
    }
    prepare_headers(sub, r, ctx, body)
}

/// Gives the auth subrequest variables of its own, with the values of the request. The two have different headers, so values
/// that the subrequest evaluates must not reach the request; and the subrequest must not use what the request has evaluated
/// of its body.
#[inline(always)]
fn copy_variables(sub: Request, ctx: &AuthContext, conf: &LocConf) -> Option<()> {
    let indexed = Indexed::in_location(sub, conf)?;
    let own = ctx.room.variables();
    let shared = NonNull::new(get_field!(sub.variables))?;
    // SAFETY: a request has a value for each of the indexed variables, and `own` has room for as many.
    unsafe { own.copy_from_nonoverlapping(shared, indexed.count) };
    set_field!(sub.variables = own.as_ptr());
    for index in &indexed.of_message {
        invalidate(sub, *index);
    }
    Some(())
}

/// Sets the body of the auth subrequest, and removes the headers that ask for a part or a version of the client's resource.
#[inline(always)]
fn prepare_headers(sub: Request, r: Request, ctx: &AuthContext, body: Option<u64>) -> Option<()> {
    if body.is_some() {
        set_field!(sub.method = get_field!(r.method));
        set_field!(sub.method_name = get_field!(r.method_name));
    } else {
        // Without a body of its own nginx would read the client's, and close its file.
        set_field!(sub.request_body = ctx.room.put_empty_body());
    }
    set_field!(sub.headers_in.content_length_n = body.map_or(-1, |size| size as off_t));
    // SAFETY: a handle points at a live request, whose headers are its own copy; writes one bit.
    unsafe { (*sub.as_ptr()).headers_in.set_chunked(0) };
    let content_length = get_field!(sub.headers_in.content_length);
    if body.is_none() && !content_length.is_null() {
        set_field!(sub.headers_in.content_length = std::ptr::null_mut());
        remove(sub, &[b"content-length"])?;
    }
    // SAFETY: a handle points at a live request, whose headers are its own copy; the reference ends with this statement.
    if clear_pointers(unsafe { &mut (*sub.as_ptr()).headers_in }) {
        remove(sub, &REMOVED)?;
    }
    Some(())
}

/// The headers to which [`clear_pointers`] clears nginx's pointers.
const REMOVED: [&[u8]; 7] = [
    b"transfer-encoding",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-match",
    b"if-none-match",
    b"if-range",
    b"range",
];

/// Clears nginx's pointers to the headers in [`REMOVED`]. Returns whether there was any.
#[inline]
fn clear_pointers(headers: &mut ngx_http_headers_in_t) -> bool {
    let all = [
        &mut headers.transfer_encoding,
        &mut headers.if_modified_since,
        &mut headers.if_unmodified_since,
        &mut headers.if_match,
        &mut headers.if_none_match,
        &mut headers.if_range,
        &mut headers.range,
    ];
    // Most requests have none.
    if all.iter().fold(0, |any, header| any | header.addr()) == 0 {
        return false;
    }
    for header in all {
        *header = std::ptr::null_mut();
    }
    true
}

#[cold]
#[inline(never)]
fn remove(sub: Request, names: &[&[u8]]) -> Option<()> {
    change_headers(sub, |name| names.iter().any(|removed| is_same_header(removed, name)), [].into_iter())
}

/// Whether nginx calls our handler at the end of the subrequest: then it is an auth subrequest.
pub(super) fn is_auth_handler(handler: ngx_http_post_subrequest_pt) -> bool {
    handler.map(|handler| handler as usize) == Some(auth_handler as *const () as usize)
}

/// nginx finalizes the auth subrequest with `rc`; mirrors `ngx_http_auth_request_done()`. If `rc` is a status for which nginx
/// makes an error page, or redirects to one (`error_page`), nginx calls this again at the end of the page: the status that
/// was recorded first stays.
unsafe extern "C" fn auth_handler(r: *mut ngx_http_request_t, data: *mut c_void, rc: ngx_int_t) -> ngx_int_t {
    let ends = rc != NGX_OK as ngx_int_t && ends_request(rc);
    guard((), || {
        // SAFETY: `create` has put the context there; it lies in the pool of the live main request.
        let ctx = unsafe { &*data.cast::<AuthContext>() };
        // SAFETY: nginx calls this with the live subrequest.
        let sub = unsafe { Request::from_raw(r) }.filter(|_| ctx.stage.get() == AuthStage::Pending);
        let Some(sub) = sub else { return };
        if continues_with_page(rc) && !ends {
            note_page(sub, ctx, rc);
            return;
        }
        debug(sub.log(), c"auth subrequest done");
        ctx.record_status(sub, Some(if ends { rc as u16 } else { sub.status() }));
        ctx.finish();
        limit_nested(ctx, sub);
    });
    guard((), || {
        // SAFETY: nginx calls this with the live subrequest.
        if let Some(sub) = unsafe { Request::from_raw(r) }.filter(|sub| sub.is_in_background()) {
            finish_in_background(sub);
        }
    });
    // A response that breaks off, or is missing, must not end the client's request. (If the client has closed the connection,
    // nginx ends the request all the same.)
    if rc == NGX_ERROR as ngx_int_t || ends {
        return NGX_OK as ngx_int_t;
    }
    rc
}

/// nginx goes on with an error page for `rc`.
#[cold]
#[inline(never)]
fn note_page(sub: Request, ctx: &AuthContext, rc: ngx_int_t) {
    ctx.record_status(sub, u16::try_from(rc).ok());
    // No error page of it can be passed, and making one could have effects.
    if ctx.is_refused() && !ctx.is_denied() {
        sub.set_bit(bits::ERROR_PAGE);
        sub.forget_old_browser();
    }
}

/// Whether `ngx_http_finalize_request()` goes on with an error page for `rc`, unless [`ends_request`].
fn continues_with_page(rc: ngx_int_t) -> bool {
    rc >= 300 || rc == 201 || rc == 204
}

/// Whether `ngx_http_finalize_request()` ends the main request for `rc`, without a response.
fn ends_request(rc: ngx_int_t) -> bool {
    const TIMED_OUT: ngx_int_t = NGX_HTTP_REQUEST_TIME_OUT as ngx_int_t;
    const CLIENT_HAS_CLOSED: ngx_int_t = NGX_HTTP_CLIENT_CLOSED_REQUEST as ngx_int_t;
    const NO_RESPONSE: ngx_int_t = NGX_HTTP_CLOSE as ngx_int_t;
    matches!(rc, TIMED_OUT | CLIENT_HAS_CLOSED | NO_RESPONSE)
}
