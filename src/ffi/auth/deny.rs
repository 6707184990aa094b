//! A denial, as the client gets it.

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_http_core_access_phase, ngx_http_core_loc_conf_t,
    ngx_http_discard_request_body, ngx_http_err_page_t, ngx_http_finalize_request, ngx_http_output_filter,
    ngx_http_request_t, ngx_http_send_header, ngx_int_t, ngx_str_t, ngx_table_elt_t, off_t, NGX_DONE,
    NGX_ERROR, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_SATISFY_ALL, NGX_OK,
};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf, NgxHttpCoreModule};

use super::super::bits;
use super::super::headers::{bytes, Header, Headers};
use super::super::memory::{allocate_zeroed, push_to_list};
use super::super::request::Request;
use super::answer::Auth;
use super::capture::State;
use super::conf::LocConf;

/// Headers that belong to a denial.
const PASSED: [&[u8]; 4] = [b"WWW-Authenticate", b"Location", b"Retry-After", b"Set-Cookie"];

/// What nginx itself makes a page of, or the response of the server.
pub(super) fn deny(r: Request, auth: &Auth, conf: &LocConf, status: u16) -> ngx_int_t {
    let Some(sub) = auth.sub.get() else { return NGX_ERROR as ngx_int_t };
    let body = auth.capture.body().filter(|_| is_last_word(r, status));
    if conf.pass_body > 0 && body.is_none() {
        log_missing(r, auth);
    }
    if !auth.denied.replace(true) && pass_headers(r, sub, conf).is_none() {
        return NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;
    }
    match body {
        None => status as ngx_int_t,
        Some(body) => respond(r, sub, status, body),
    }
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

/// Puts the headers of the answer that belong to a denial into the response.
fn pass_headers(r: Request, sub: Request, conf: &LocConf) -> Option<()> {
    // SAFETY: the question lives as long as the main request, and its response does not change any more.
    let answer = unsafe { Headers::of(sub.response_headers()) };
    let is = |header: &Header, name: &[u8]| header.name().eq_ignore_ascii_case(name);
    let is_passed = |header: &Header| {
        PASSED.iter().any(|name| is(header, name))
            || conf.pass_header().iter().any(|name| is(header, name.as_bytes()))
    };
    for header in answer.clone().filter(|header| header.is_there() && is_passed(header)) {
        pass_header(r, header)?;
    }
    // As auth_request, should the location hide it.
    let hidden = !answer.clone().any(|header| is(&header, b"WWW-Authenticate"));
    if let Some(u) = sub.upstream().filter(|_| hidden) {
        // SAFETY: as above.
        let sent = unsafe { Headers::of(u.response_headers()) };
        for header in sent.filter(|header| header.is_there() && is(header, b"WWW-Authenticate")) {
            pass_header(r, header)?;
        }
    }
    Some(())
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
    // nginx would make an absolute one of a relative one that it points at.
    let known = if header.name().eq_ignore_ascii_case(b"Location") && !bytes(header.value()).starts_with(b"/")
    {
        // SAFETY: as above.
        unsafe { &raw mut (*headers).location }
    } else if header.name().eq_ignore_ascii_case(b"Content-Encoding") {
        // SAFETY: as above.
        unsafe { &raw mut (*headers).content_encoding }
    } else if header.name().eq_ignore_ascii_case(b"WWW-Authenticate") {
        // SAFETY: as above.
        end_of_chain(unsafe { &raw mut (*headers).www_authenticate })
    } else {
        return Some(());
    };
    // SAFETY: nginx's pointer, or the link of a header in the list.
    unsafe { *known = new };
    Some(())
}

/// Where the next header of a name is linked.
#[cfg(nginx_header_chains)]
fn end_of_chain(first: *mut *mut ngx_table_elt_t) -> *mut *mut ngx_table_elt_t {
    let mut place = first;
    // SAFETY: nginx's pointer, or the link of a header in the list.
    while let Some(header) = std::ptr::NonNull::new(unsafe { *place }) {
        // SAFETY: as above; makes no reference.
        place = unsafe { &raw mut (*header.as_ptr()).next };
    }
    place
}

#[cfg(not(nginx_header_chains))]
fn end_of_chain(first: *mut *mut ngx_table_elt_t) -> *mut *mut ngx_table_elt_t {
    first
}

/// Whether nothing comes after the denial that could change it: neither an `error_page` nor, with `satisfy any`,
/// another module that permits the request.
fn is_last_word(r: Request, status: u16) -> bool {
    // SAFETY: a live request.
    let request: &ngx_http_request_t = unsafe { &*r.as_ptr() };
    let Some(conf) = NgxHttpCoreModule::location_conf(request) else { return false };
    if has_error_page(conf, status) || status == 401 && conf.auth_delay > 0 {
        return false;
    }
    if conf.satisfy == NGX_HTTP_SATISFY_ALL as usize {
        return true;
    }
    // An earlier one has asked for a password: that is what the client gets.
    let decided = request.access_code == 401 && status == 403;
    !decided && is_last_handler(request)
}

fn is_last_handler(request: &ngx_http_request_t) -> bool {
    let Some(main) = NgxHttpCoreModule::main_conf(request) else { return false };
    let next = usize::try_from(request.phase_handler).map_or(usize::MAX, |handler| handler + 1);
    // SAFETY: behind the handlers of a phase there are others.
    let next = unsafe { main.phase_engine.handlers.add(next) };
    // SAFETY: as above.
    let checker = unsafe { (*next).checker };
    checker.map(|checker| checker as usize) != Some(ngx_http_core_access_phase as *const () as usize)
}

fn has_error_page(conf: &ngx_http_core_loc_conf_t, status: u16) -> bool {
    // SAFETY: null, or an array of the configuration.
    let Some(pages) = (unsafe { conf.error_pages.as_ref() }) else { return false };
    // SAFETY: what the array holds.
    let pages: &[ngx_http_err_page_t] = unsafe { pages.as_slice() };
    pages.iter().any(|page| page.status == status as ngx_int_t)
}

/// Sends the response of the server to the client.
fn respond(r: Request, sub: Request, status: u16, body: &[u8]) -> ngx_int_t {
    // SAFETY: a live request; writes one bit.
    unsafe { bits::EXPECT_TESTED.set(r.as_ptr()) };
    // SAFETY: a live request.
    let rc = unsafe { ngx_http_discard_request_body(r.as_ptr()) };
    if rc != NGX_OK as ngx_int_t {
        return rc;
    }
    if prepare(r, sub, status, body.len()).is_none() {
        return NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;
    }
    // SAFETY: a live request whose response has not begun.
    let mut rc = unsafe { ngx_http_send_header(r.as_ptr()) };
    // SAFETY: a live request; reads one bit.
    let header_only = unsafe { bits::HEADER_ONLY.is_set(r.as_ptr()) };
    if rc == NGX_OK as ngx_int_t && !header_only {
        rc = send_body(r, body).unwrap_or(NGX_ERROR as ngx_int_t);
    }
    // SAFETY: as the core does after a content handler.
    unsafe { ngx_http_finalize_request(r.as_ptr(), rc) };
    NGX_DONE as ngx_int_t
}

fn prepare(r: Request, sub: Request, status: u16, length: usize) -> Option<()> {
    // SAFETY: the question lives as long as the main request, and its response does not change any more.
    let mut sent = unsafe { Headers::of(sub.response_headers()) };
    let is_encoding = |it: &Header| it.is_there() && it.name().eq_ignore_ascii_case(b"Content-Encoding");
    if let Some(encoding) = sent.find(is_encoding) {
        pass_header(r, encoding)?;
    }
    // That of an error page on which it has come here would be sent instead.
    // SAFETY: a live request; writes one field.
    unsafe { (*r.as_ptr()).err_status = 0 };
    // SAFETY: a live request; nobody else has its response now.
    let headers = unsafe { &mut (*r.as_ptr()).headers_out };
    // SAFETY: another live request, whose response does not change any more.
    let answer = unsafe { &(*sub.as_ptr()).headers_out };
    headers.status = status.into();
    headers.status_line = ngx_str_t::empty();
    headers.content_type = answer.content_type;
    headers.content_type_len = answer.content_type_len;
    headers.charset = answer.charset;
    headers.content_type_lowcase = std::ptr::null_mut();
    headers.content_length_n = length as off_t;
    if length == 0 {
        r.set_header_only();
    }
    Some(())
}

fn send_body(r: Request, body: &[u8]) -> Option<ngx_int_t> {
    // SAFETY: the pool of a live request.
    let mut buf = unsafe { allocate_zeroed::<ngx_buf_t>(r.pool()) }?;
    // SAFETY: zeros, which are a valid buffer; nobody else has it.
    let to = unsafe { buf.as_mut() };
    to.start = body.as_ptr().cast_mut();
    to.pos = to.start;
    to.last = to.start.wrapping_add(body.len());
    to.end = to.last;
    to.set_memory(1);
    to.set_last_buf(1);
    to.set_last_in_chain(1);
    let mut chain = ngx_chain_t { buf: buf.as_ptr(), next: std::ptr::null_mut() };
    // SAFETY: a live request whose header was sent; nginx copies the chain.
    Some(unsafe { ngx_http_output_filter(r.as_ptr(), &raw mut chain) })
}
