//! The denial that the client gets. nginx's core applies `satisfy`, `auth_delay` and `error_page`, and makes a page. That response
//! passes our filters, which add the headers of the auth subrequest's response, and replace nginx's page by its body.

use std::mem::offset_of;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_http_core_access_phase, ngx_http_finalize_request, ngx_http_headers_out_t,
    ngx_http_request_t, ngx_http_special_response_handler, ngx_int_t, ngx_table_elt_t, off_t, NGX_DONE,
    NGX_HTTP_SATISFY_ALL,
};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf, NgxHttpCoreModule};

use crate::auth::{closes_request, describes_body, error_page_status, is_repeatable, is_single};

use super::capture::CaptureState;
use super::conf::LocConf;
use super::context::{attached, AuthContext, RequestLocation};
use super::memory::allocate_zeroed_for;
use crate::ffi::nginx::handle::{field_ptr, get_field, set_field, Handle as _};
use crate::ffi::nginx::headers::{bytes, Header, Headers};
use crate::ffi::nginx::memory::push_to_list;
use crate::ffi::nginx::request::Request;

/// Headers that pass with each denial.
const PASSED: [&[u8]; 4] = [b"WWW-Authenticate", b"Location", b"Retry-After", b"Set-Cookie"];

/// A denial that the client gets.
#[derive(Clone, Copy)]
pub(super) struct Denial {
    status: u16,
    /// The configuration of the location that has denied the request.
    conf: &'static LocConf,
    /// The location that has denied the request.
    location: RequestLocation,
    /// Another module may still permit the request (`satisfy any`).
    may_be_overruled: bool,
    body: PageBody,
}

/// Which body the response to the client has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PageBody {
    /// nginx's page.
    Original,
    /// The body of the denial, which the response's header has announced.
    Announced,
    /// The body of the denial, which is sent.
    Replaced,
}

/// Records the denial for the filters. Returns what nginx's core does with the request.
pub(super) fn deny(r: Request, ctx: &AuthContext, conf: &'static LocConf, status: u16) -> ngx_int_t {
    if conf.pass_body > 0 && ctx.capture.body().is_none() {
        log_missing_body(r, ctx);
    }
    let location = RequestLocation::of(r, conf);
    let may_be_overruled = may_be_overruled(r);
    ctx.denial.set(Some(Denial { status, conf, location, may_be_overruled, body: PageBody::Original }));
    r.forget_old_browser();
    if !closes_request(status) {
        return status as ngx_int_t;
    }
    // For this status the core would close the connection. These two calls are what it does for other statuses.
    // SAFETY: a handle points at a live request, whose response has not begun.
    let rc = unsafe { ngx_http_special_response_handler(r.as_ptr(), status as ngx_int_t) };
    // SAFETY: making the page has not freed the request; the core does nothing more with it after `NGX_DONE`.
    unsafe { ngx_http_finalize_request(r.as_ptr(), rc) };
    NGX_DONE as ngx_int_t
}

/// Logs why the body of a denial is not passed.
fn log_missing_body(r: Request, ctx: &AuthContext) {
    match ctx.capture.state() {
        CaptureState::TooLarge => r.log_info(
            c"auth subrequest response body is larger than \"auth_subrequest_pass_body\", not passed",
        ),
        CaptureState::Incomplete => r.log_info(c"auth subrequest response body is incomplete, not passed"),
        CaptureState::Empty | CaptureState::Complete => {}
    }
}

/// Whether another access handler may permit the request after this one: with `satisfy any`, unless this is the last handler.
fn may_be_overruled(r: Request) -> bool {
    // SAFETY: a handle points at a live request; nginx is not called while the reference is in use.
    let request: &ngx_http_request_t = unsafe { &*r.as_ptr() };
    let conf = NgxHttpCoreModule::location_conf(request);
    if conf.is_none_or(|conf| conf.satisfy == NGX_HTTP_SATISFY_ALL as usize) {
        return false;
    }
    let Some(main) = NgxHttpCoreModule::main_conf(request) else { return true };
    let next = usize::try_from(request.phase_handler).map_or(usize::MAX, |handler| handler + 1);
    // SAFETY: the access phase is not the last one, so another handler follows this one in the array.
    let next = unsafe { main.phase_engine.handlers.add(next) };
    // SAFETY: a handler of the phase engine, which does not change after the configuration was read; reads one field.
    let checker = unsafe { (*next).checker };
    checker.map(|checker| checker as usize) == Some(ngx_http_core_access_phase as *const () as usize)
}

/// Whether a response to the client may follow a denial.
#[inline]
pub(super) fn may_have_denial(r: Request) -> bool {
    r.is_redirected() || attached(r).is_some_and(|ctx| ctx.denial.get().is_some())
}

/// Adds the headers of a denial to a response that is about to be sent to the client. `None` if there is no memory.
pub(super) fn complete_response(r: Request) -> Option<()> {
    let error = get_field!(r.err_status);
    let denials = || AuthContext::all(r).filter_map(|ctx| Some((ctx, ctx.denial.get()?)));
    // With another status the response is no denial: an error page can have one of its own, and so can the response of other
    // modules.
    let is_sent = |denial: &Denial| {
        let status = usize::from(error_page_status(denial.status));
        error == status && usize::from(r.status()) == status
    };
    let Some((ctx, denial)) = denials().find(|(_, denial)| is_sent(denial)) else {
        let other = denials().next().filter(|(_, denial)| !denial.may_be_overruled);
        return other.map_or(Some(()), |(ctx, denial)| pass_headers(r, ctx.sub.get()?, &denial, false));
    };
    let sub = ctx.sub.get()?;
    if denial.location == RequestLocation::of(r, LocConf::of(r)) {
        r.set_status(denial.status);
        if let Some(body) = ctx.capture.body() {
            announce(r, sub, body.len())?;
            ctx.denial.set(Some(Denial { body: PageBody::Announced, ..denial }));
        }
    }
    pass_headers(r, sub, &denial, true)
}

/// Sets the headers that describe the body to those of the denial's body. `None` if there is no memory.
fn announce(r: Request, sub: Request, length: usize) -> Option<()> {
    let mut sent = sent_headers(sub);
    let is_encoding = |it: &Header| it.is_there() && it.name().eq_ignore_ascii_case(b"Content-Encoding");
    if let Some(encoding) = sent.find(is_encoding) {
        pass_header(r, encoding)?;
    }
    set_field!(r.headers_out.content_type = get_field!(sub.headers_out.content_type));
    set_field!(r.headers_out.content_type_len = get_field!(sub.headers_out.content_type_len));
    set_field!(r.headers_out.charset = get_field!(sub.headers_out.charset));
    set_field!(r.headers_out.content_type_lowcase = std::ptr::null_mut());
    set_field!(r.headers_out.content_length_n = length as off_t);
    Some(())
}

/// The context of a denial whose body replaces nginx's page.
#[inline]
pub(super) fn replaces_page<'a>(r: Request) -> Option<&'a AuthContext> {
    let is_replaced = |denial: Denial| denial.body != PageBody::Original;
    attached(r).filter(|ctx| ctx.denial.get().is_some_and(is_replaced))
}

/// What is sent instead of a part of nginx's page: once the body of the denial, and then nothing.
///
/// # Errors
/// There is no memory.
pub(super) fn replacement_body(
    r: Request,
    ctx: &AuthContext,
    page: *mut ngx_chain_t,
) -> Result<Option<NonNull<ngx_buf_t>>, ()> {
    let Some(denial) = ctx.denial.get().filter(|it| it.body == PageBody::Announced && !page.is_null()) else {
        return Ok(None);
    };
    ctx.denial.set(Some(Denial { body: PageBody::Replaced, ..denial }));
    let body = ctx.capture.body().unwrap_or(&[]);
    let mut buf = allocate_zeroed_for::<ngx_buf_t>(r).ok_or(())?;
    // SAFETY: just allocated, and zeros are a valid buffer; nobody else uses it.
    let to = unsafe { buf.as_mut() };
    to.start = body.as_ptr().cast_mut();
    to.pos = to.start;
    to.last = to.start.wrapping_add(body.len());
    to.end = to.last;
    // nginx logs an alert for an empty buffer in memory.
    to.set_memory(u32::from(!body.is_empty()));
    to.set_last_buf(1);
    to.set_last_in_chain(1);
    Ok(Some(buf))
}

/// Adds headers of the auth subrequest's response to the response of the client: the headers of a denial, or only those that the
/// client gets with any response. `None` if there is no memory.
fn pass_headers(r: Request, sub: Request, denial: &Denial, is_denial: bool) -> Option<()> {
    let response = sent_headers(sub);
    let is = |header: &Header, name: &[u8]| header.name().eq_ignore_ascii_case(name);
    // The response of the auth subrequest may be an error page with another status.
    let is_answer = sub.status() == denial.status;
    let is_passed = |header: &Header| match is_denial {
        _ if !header.is_there() || describes_body(header.name()) => false,
        true if !is_answer => is(header, b"WWW-Authenticate"),
        true => {
            PASSED.iter().any(|name| is(header, name))
                || denial.conf.pass_header().iter().any(|name| is(header, name.as_bytes()))
        }
        false => is_answer && is(header, b"Set-Cookie"),
    };
    let before = sent_headers(r).count();
    for header in response.clone().filter(is_passed) {
        if !is_in_response(r, header.name(), before) {
            pass_header(r, header)?;
        }
    }
    // Like auth_request, for the case that the location hides the header.
    let hidden = is_denial && !response.clone().any(|header| is(&header, b"WWW-Authenticate"));
    let is_from_server = |status| status == usize::from(denial.status);
    if let Some(u) = sub.upstream().filter(|u| hidden && is_from_server(u.response_status())) {
        // SAFETY: the auth subrequest and its upstream request live as long as the main request, and the latter has ended.
        let sent = unsafe { Headers::of(u.response_headers()) };
        for header in sent.filter(|header| header.is_there() && is(header, b"WWW-Authenticate")) {
            pass_header(r, header)?;
        }
    }
    Some(())
}

/// `auth_subrequest_pass_cookies`: adds the cookies of a permission to the response of the client, once for all its internal
/// redirects. `None` if there is no memory.
#[cold]
#[inline(never)]
pub(super) fn pass_cookies(r: Request, ctx: &AuthContext) -> Option<()> {
    if ctx.cookies_passed.replace(true) {
        return Some(());
    }
    let is_cookie = |header: &Header| header.is_there() && header.name().eq_ignore_ascii_case(b"Set-Cookie");
    sent_headers(ctx.sub.get()?).filter(is_cookie).try_for_each(|header| pass_header(r, header))
}

/// The headers of a request's response. The callers do not change the list while they use them.
fn sent_headers(r: Request) -> Headers {
    // SAFETY: the list of a live request; an auth subrequest lives as long as its main request.
    unsafe { Headers::of(r.response_headers()) }
}

/// Whether the response already has a header of this name, and cannot have another one. `before` is the number of headers that
/// it had before any were added.
fn is_in_response(r: Request, name: &[u8], before: usize) -> bool {
    if is_repeatable(name) {
        return false;
    }
    let count = if is_single(name) { usize::MAX } else { before };
    let mut present = sent_headers(r).take(count);
    present.any(|header| header.is_there() && header.name().eq_ignore_ascii_case(name))
}

/// Adds a copy of a header to the response of the client. `None` if there is no memory.
fn pass_header(r: Request, header: Header) -> Option<()> {
    // SAFETY: the list of headers in a live request.
    let new = unsafe { push_to_list::<ngx_table_elt_t>(r.response_headers()) }?.as_ptr();
    // SAFETY: a header in the list of the auth subrequest, which lives as long as the main request.
    let copy: ngx_table_elt_t = unsafe { header.as_ptr().read() };
    // SAFETY: the new element of the list, which nobody else uses.
    let place = unsafe { &mut *new };
    *place = copy;
    #[cfg(nginx_header_chains)]
    {
        place.next = std::ptr::null_mut();
    }
    if let Some(known) = known_place(field_ptr!(r.headers_out), &header) {
        // SAFETY: nginx's pointer in the live request, or the link of a header in its list.
        unsafe { *known = new };
    }
    Some(())
}

/// Where nginx has its pointer to a header: without the pointer it would add a header of its own.
fn known_place(headers: *mut ngx_http_headers_out_t, header: &Header) -> Option<*mut *mut ngx_table_elt_t> {
    let is = |name: &[u8]| header.name().eq_ignore_ascii_case(name);
    let offset = match () {
        // nginx would make a relative URI absolute if it had a pointer to the header.
        () if is(b"Location") && bytes(header.value()).starts_with(b"/") => return None,
        () if is(b"Location") => offset_of!(ngx_http_headers_out_t, location),
        () if is(b"Content-Encoding") => offset_of!(ngx_http_headers_out_t, content_encoding),
        () if is(b"WWW-Authenticate") => offset_of!(ngx_http_headers_out_t, www_authenticate),
        () if is(b"Server") => offset_of!(ngx_http_headers_out_t, server),
        () if is(b"Date") => offset_of!(ngx_http_headers_out_t, date),
        () if is(b"Last-Modified") => offset_of!(ngx_http_headers_out_t, last_modified),
        () if is(b"Expires") => offset_of!(ngx_http_headers_out_t, expires),
        () if is(b"ETag") => offset_of!(ngx_http_headers_out_t, etag),
        () => return None,
    };
    // SAFETY: the offset of a field in `headers_out` of the live request.
    let place = unsafe { headers.byte_add(offset) }.cast();
    Some(if is(b"WWW-Authenticate") { end_of_chain(place) } else { place })
}

/// Where the next header of the same name is linked.
#[cfg(nginx_header_chains)]
fn end_of_chain(first: *mut *mut ngx_table_elt_t) -> *mut *mut ngx_table_elt_t {
    let mut place = first;
    // SAFETY: nginx's pointer in the live request, or the link of a header in its list.
    while let Some(header) = NonNull::new(unsafe { *place }) {
        // SAFETY: a header in the list of the live request; tells an address, and makes no reference.
        place = unsafe { &raw mut (*header.as_ptr()).next };
    }
    place
}

#[cfg(not(nginx_header_chains))]
fn end_of_chain(first: *mut *mut ngx_table_elt_t) -> *mut *mut ngx_table_elt_t {
    first
}
