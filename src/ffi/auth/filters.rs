//! The two filters, before all others: what a question is answered is taken, and a denial is made of nginx's own response.

use nginx_sys::{
    ngx_chain_t, ngx_http_output_body_filter_pt, ngx_http_output_header_filter_pt, ngx_http_request_t,
    ngx_http_top_body_filter, ngx_http_top_header_filter, ngx_int_t, NGX_ERROR,
};

use super::context::Auth;
use super::{capture, deny};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::request::Request;

static mut NEXT_HEADER_FILTER: ngx_http_output_header_filter_pt = None;
static mut NEXT_BODY_FILTER: ngx_http_output_body_filter_pt = None;

/// Puts the filters before all others; that of bodies only if bodies are passed.
pub(super) fn install(bodies: bool) {
    // SAFETY: only this thread runs, and no request yet; nginx has chained all filters.
    let header = unsafe { ngx_http_top_header_filter };
    // SAFETY: a worker has one thread, and has not begun to serve.
    unsafe { NEXT_HEADER_FILTER = header };
    // SAFETY: nginx's pointer, which only modules that start, one after the other, write.
    unsafe { ngx_http_top_header_filter = Some(header_filter) };
    if !bodies {
        return;
    }
    // SAFETY: only this thread runs, and no request yet; nginx has chained all filters.
    let body = unsafe { ngx_http_top_body_filter };
    // SAFETY: a worker has one thread, and has not begun to serve.
    unsafe { NEXT_BODY_FILTER = body };
    // SAFETY: nginx's pointer, which only modules that start, one after the other, write.
    unsafe { ngx_http_top_body_filter = Some(body_filter) };
}

/// Called for each response: what concerns few of them is elsewhere.
unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request.
    if let Some(request) = unsafe { Request::from_raw(r) } {
        if request.main() == request {
            if deny::may_concern(request) && !complete(request) {
                return NGX_ERROR as ngx_int_t;
            }
        } else if captures_bodies() {
            if let Some(auth) = capture::captures(request) {
                return begin(request, auth);
            }
        }
    }
    // SAFETY: written before the first request.
    let next = unsafe { NEXT_HEADER_FILTER };
    // SAFETY: what nginx would have called.
    next.map_or(NGX_ERROR as ngx_int_t, |next| unsafe { next(r) })
}

fn captures_bodies() -> bool {
    // SAFETY: written before the first request.
    let next = unsafe { NEXT_BODY_FILTER };
    next.is_some()
}

#[cold]
#[inline(never)]
fn complete(r: Request) -> bool {
    guard(None, || deny::complete(r)).is_some()
}

#[inline(never)]
fn begin(sub: Request, auth: &Auth) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || capture::begin(sub, auth))
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: written before the first request.
    let next = unsafe { NEXT_BODY_FILTER };
    // SAFETY: what nginx would have called.
    let next = |chain| next.map_or(NGX_ERROR as ngx_int_t, |next| unsafe { next(r, chain) });
    // SAFETY: nginx passes a live request.
    let Some(request) = (unsafe { Request::from_raw(r) }) else { return next(chain) };
    if request.main() != request {
        // Without a chain the next part of the question gets its turn.
        return match capture::captures(request).filter(|_| !chain.is_null()) {
            Some(auth) => guard(NGX_ERROR as ngx_int_t, || capture::take(auth, chain)),
            None => next(chain),
        };
    }
    let Some(auth) = deny::replaced(request) else { return next(chain) };
    let mut link = ngx_chain_t { buf: std::ptr::null_mut(), next: std::ptr::null_mut() };
    // Of nginx's page nothing goes on; what was sent before may have to be flushed.
    match guard(Err(()), || deny::body_instead(request, auth, chain)) {
        Ok(Some(buf)) => {
            link.buf = buf.as_ptr();
            next(&raw mut link)
        }
        Ok(None) => next(std::ptr::null_mut()),
        Err(()) => NGX_ERROR as ngx_int_t,
    }
}
