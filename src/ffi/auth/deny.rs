//! A denial, as the client gets it. nginx's core concludes: it applies `satisfy`, `auth_delay` and `error_page`, and makes
//! a page. What comes of that passes our filters, which add the headers of the answer, and put its body in the place
//! of nginx's page.

use std::mem::offset_of;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_http_core_access_phase, ngx_http_finalize_request, ngx_http_headers_out_t,
    ngx_http_request_t, ngx_http_special_response_handler, ngx_int_t, ngx_table_elt_t, off_t, NGX_DONE,
    NGX_HTTP_SATISFY_ALL,
};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf, NgxHttpCoreModule};

use crate::auth::{adds_up, ends_request, is_of_body, is_single, status_of_page};

use super::capture::State;
use super::conf::LocConf;
use super::context::{Auth, Place};
use super::module::module;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::headers::{bytes, Header, Headers};
use crate::ffi::nginx::memory::{allocate_zeroed, push_to_list};
use crate::ffi::nginx::request::Request;

/// Headers that belong to a denial.
const PASSED: [&[u8]; 4] = [b"WWW-Authenticate", b"Location", b"Retry-After", b"Set-Cookie"];

/// What the client is to be told.
#[derive(Clone, Copy)]
pub(super) struct Denial {
    status: u16,
    /// That of the location.
    conf: &'static LocConf,
    /// Where the request was denied.
    place: Place,
    /// Another module may permit the request after all (`satisfy any`).
    may_be_overruled: bool,
    body: Instead,
}

/// The body of the answer, in the place of nginx's page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Instead {
    No,
    /// The header says that it comes.
    Announced,
    Sent,
}

/// What nginx's core is told; the rest is for the filters.
pub(super) fn deny(r: Request, auth: &Auth, conf: &'static LocConf, status: u16) -> ngx_int_t {
    if conf.pass_body > 0 && auth.capture.body().is_none() {
        log_missing(r, auth);
    }
    let place = Place::of(r, conf);
    let may_be_overruled = may_be_overruled(r);
    auth.denial.set(Some(Denial { status, conf, place, may_be_overruled, body: Instead::No }));
    r.forget_old_browser();
    if !ends_request(status) {
        return status as ngx_int_t;
    }
    // The core would close the connection. This is what it does with other statuses.
    // SAFETY: a live request whose response has not begun.
    let rc = unsafe { ngx_http_special_response_handler(r.as_ptr(), status as ngx_int_t) };
    // SAFETY: that has not ended the request, and its phases end with this.
    unsafe { ngx_http_finalize_request(r.as_ptr(), rc) };
    NGX_DONE as ngx_int_t
}

/// Says why a body is not passed.
fn log_missing(r: Request, auth: &Auth) {
    match auth.capture.state() {
        State::TooLarge => r.log_info(
            c"auth subrequest response body is larger than \"auth_subrequest_pass_body\", not passed",
        ),
        State::Begun => r.log_info(c"auth subrequest response body is incomplete, not passed"),
        State::Nothing | State::Complete => {}
    }
}

/// Whether another module has a say after this one: with `satisfy any`, unless this is the last one.
fn may_be_overruled(r: Request) -> bool {
    // SAFETY: a live request.
    let request: &ngx_http_request_t = unsafe { &*r.as_ptr() };
    let conf = NgxHttpCoreModule::location_conf(request);
    if conf.is_none_or(|conf| conf.satisfy == NGX_HTTP_SATISFY_ALL as usize) {
        return false;
    }
    let Some(main) = NgxHttpCoreModule::main_conf(request) else { return true };
    let next = usize::try_from(request.phase_handler).map_or(usize::MAX, |handler| handler + 1);
    // SAFETY: behind the handlers of a phase there are others.
    let next = unsafe { main.phase_engine.handlers.add(next) };
    // SAFETY: one of those handlers; reads one field.
    let checker = unsafe { (*next).checker };
    checker.map(|checker| checker as usize) == Some(ngx_http_core_access_phase as *const () as usize)
}

/// Whether a response to the client may have to do with a denial.
#[inline]
pub(super) fn may_concern(r: Request) -> bool {
    r.is_redirected() || own(r).is_some_and(|auth| auth.denial.get().is_some())
}

/// A response to the client is about to begin: adds what belongs to it. `None` if there is no memory.
pub(super) fn complete(r: Request) -> Option<()> {
    // SAFETY: a live request; reads one field.
    let error = unsafe { (*r.as_ptr()).err_status };
    let denials = || Auth::all(r).filter_map(|auth| Some((auth, auth.denial.get()?)));
    // An error page may have a status of its own, and so may have what comes after other modules: then it is no denial.
    let is_it = |denial: &Denial| {
        let status = usize::from(status_of_page(denial.status));
        error == status && usize::from(r.status()) == status
    };
    let Some((auth, denial)) = denials().find(|(_, denial)| is_it(denial)) else {
        let other = denials().next().filter(|(_, denial)| !denial.may_be_overruled);
        return other.map_or(Some(()), |(auth, denial)| pass_headers(r, auth.sub.get()?, &denial, false));
    };
    let sub = auth.sub.get()?;
    if denial.place == Place::of(r, LocConf::of(r)) {
        r.set_status(denial.status);
        if let Some(body) = auth.capture.body() {
            announce(r, sub, body.len())?;
            auth.denial.set(Some(Denial { body: Instead::Announced, ..denial }));
        }
    }
    pass_headers(r, sub, &denial, true)
}

/// Lets nginx's header be that of the body of the answer.
fn announce(r: Request, sub: Request, length: usize) -> Option<()> {
    // SAFETY: the question lives as long as the main request, and its response does not change any more.
    let mut sent = unsafe { Headers::of(sub.response_headers()) };
    let is_encoding = |it: &Header| it.is_there() && it.name().eq_ignore_ascii_case(b"Content-Encoding");
    if let Some(encoding) = sent.find(is_encoding) {
        pass_header(r, encoding)?;
    }
    // SAFETY: a live request; nobody else has its response now.
    let headers = unsafe { &mut (*r.as_ptr()).headers_out };
    // SAFETY: another live request, whose response does not change any more.
    let answer = unsafe { &(*sub.as_ptr()).headers_out };
    headers.content_type = answer.content_type;
    headers.content_type_len = answer.content_type_len;
    headers.charset = answer.charset;
    headers.content_type_lowcase = std::ptr::null_mut();
    headers.content_length_n = length as off_t;
    Some(())
}

/// The answer of which the body stands in the place of nginx's page.
#[inline]
pub(super) fn replaced<'a>(r: Request) -> Option<&'a Auth> {
    own(r).filter(|auth| auth.denial.get().is_some_and(|denial| denial.body != Instead::No))
}

/// What is attached to the request of a client.
#[inline]
fn own<'a>(r: Request) -> Option<&'a Auth> {
    // SAFETY: `Auth::begin` has attached it; it lies in the pool of the live request, and only its cells change.
    r.context_of(module()).map(|auth| unsafe { auth.cast().as_ref() })
}

/// What is sent for a part of nginx's page: once the body, and then nothing.
///
/// # Errors
/// There is no memory.
pub(super) fn body_instead(
    r: Request,
    auth: &Auth,
    page: *mut ngx_chain_t,
) -> Result<Option<NonNull<ngx_buf_t>>, ()> {
    let Some(denial) = auth.denial.get().filter(|it| it.body == Instead::Announced && !page.is_null()) else {
        return Ok(None);
    };
    auth.denial.set(Some(Denial { body: Instead::Sent, ..denial }));
    let body = auth.capture.body().unwrap_or(&[]);
    // SAFETY: the pool of a live request.
    let mut buf = unsafe { allocate_zeroed::<ngx_buf_t>(r.pool()) }.ok_or(())?;
    // SAFETY: zeros, which are a valid buffer; nobody else has it.
    let to = unsafe { buf.as_mut() };
    to.start = body.as_ptr().cast_mut();
    to.pos = to.start;
    to.last = to.start.wrapping_add(body.len());
    to.end = to.last;
    // nginx does not like buffers in memory that are empty.
    to.set_memory(u32::from(!body.is_empty()));
    to.set_last_buf(1);
    to.set_last_in_chain(1);
    Ok(Some(buf))
}

/// Puts the headers of the answer into the response: those of a denial, or only those that are for the client
/// whatever its response is.
fn pass_headers(r: Request, sub: Request, denial: &Denial, is_denial: bool) -> Option<()> {
    // SAFETY: the question lives as long as the main request, and its response does not change any more.
    let answer = unsafe { Headers::of(sub.response_headers()) };
    let is = |header: &Header, name: &[u8]| header.name().eq_ignore_ascii_case(name);
    // The response to the question may be that of an error page.
    let is_answer = sub.status() == denial.status;
    let is_passed = |header: &Header| match is_denial {
        _ if !header.is_there() || is_of_body(header.name()) => false,
        true if !is_answer => is(header, b"WWW-Authenticate"),
        true => {
            PASSED.iter().any(|name| is(header, name))
                || denial.conf.pass_header().iter().any(|name| is(header, name.as_bytes()))
        }
        false => is_answer && is(header, b"Set-Cookie"),
    };
    // SAFETY: of a live request; what is added comes behind them.
    let before = unsafe { Headers::of(r.response_headers()) }.count();
    for header in answer.clone().filter(is_passed) {
        if !is_in_response(r, header.name(), before) {
            pass_header(r, header)?;
        }
    }
    // As auth_request, should the location hide it.
    let hidden = is_denial && !answer.clone().any(|header| is(&header, b"WWW-Authenticate"));
    let is_from_server = |status| status == usize::from(denial.status);
    if let Some(u) = sub.upstream().filter(|u| hidden && is_from_server(u.response_status())) {
        // SAFETY: the question lives as long as the main request, and so does its upstream part, which has ended.
        let sent = unsafe { Headers::of(u.response_headers()) };
        for header in sent.filter(|header| header.is_there() && is(header, b"WWW-Authenticate")) {
            pass_header(r, header)?;
        }
    }
    Some(())
}

/// Whether the response has a header already that does not bear another one. `before` is how many headers it had of its
/// own.
fn is_in_response(r: Request, name: &[u8], before: usize) -> bool {
    if adds_up(name) {
        return false;
    }
    let count = if is_single(name) { usize::MAX } else { before };
    // SAFETY: of a live request, and complete for now.
    let mut present = unsafe { Headers::of(r.response_headers()) }.take(count);
    present.any(|header| header.is_there() && header.name().eq_ignore_ascii_case(name))
}

fn pass_header(r: Request, header: Header) -> Option<()> {
    // SAFETY: the list of a live response.
    let new = unsafe { push_to_list::<ngx_table_elt_t>(r.response_headers()) }?.as_ptr();
    // SAFETY: a header of a live list.
    let copy: ngx_table_elt_t = unsafe { header.as_ptr().read() };
    // SAFETY: a new element of the list.
    let place = unsafe { &mut *new };
    *place = copy;
    #[cfg(nginx_header_chains)]
    {
        place.next = std::ptr::null_mut();
    }
    // SAFETY: a live request; makes no reference.
    let headers = unsafe { &raw mut (*r.as_ptr()).headers_out };
    if let Some(known) = known_place(headers, &header) {
        // SAFETY: nginx's pointer, or the link of a header in the list.
        unsafe { *known = new };
    }
    Some(())
}

/// Where nginx itself looks for a header: without that it would add one of its own.
fn known_place(headers: *mut ngx_http_headers_out_t, header: &Header) -> Option<*mut *mut ngx_table_elt_t> {
    let is = |name: &[u8]| header.name().eq_ignore_ascii_case(name);
    let offset = match () {
        // nginx would make an absolute one of a relative one that it points at.
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
    // SAFETY: the field of the structure, which is a part of a live request.
    let place = unsafe { headers.byte_add(offset) }.cast();
    Some(if is(b"WWW-Authenticate") { end_of_chain(place) } else { place })
}

/// Where the next header of a name is linked.
#[cfg(nginx_header_chains)]
fn end_of_chain(first: *mut *mut ngx_table_elt_t) -> *mut *mut ngx_table_elt_t {
    let mut place = first;
    // SAFETY: nginx's pointer, or the link of a header in the list.
    while let Some(header) = NonNull::new(unsafe { *place }) {
        // SAFETY: as above; makes no reference.
        place = unsafe { &raw mut (*header.as_ptr()).next };
    }
    place
}

#[cfg(not(nginx_header_chains))]
fn end_of_chain(first: *mut *mut ngx_table_elt_t) -> *mut *mut ngx_table_elt_t {
    first
}
