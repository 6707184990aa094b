//! What a question says, and the parts that it may have, never goes to the client. Other modules take a part's body for
//! themselves (Lua's `ngx.location.capture()`), so it must come as far as to them: it is thrown away where nginx would put
//! it aside until it is the part's turn.

use nginx_sys::{
    ngx_chain_t, ngx_http_output_body_filter_pt, ngx_http_request_t, ngx_http_top_body_filter, ngx_int_t,
    NGX_ERROR,
};

use super::context::is_part_of_question;
use super::parts::take_back;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

static mut NEXT_BODY_FILTER: ngx_http_output_body_filter_pt = None;

/// Puts the filter before all others.
pub(super) fn install() {
    // SAFETY: only this thread runs, and no request yet; nginx has chained all filters.
    let body = unsafe { ngx_http_top_body_filter };
    // SAFETY: as above.
    unsafe { NEXT_BODY_FILTER = body };
    // SAFETY: as above.
    unsafe { ngx_http_top_body_filter = Some(body_filter) };
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: written before the first request.
    let Some(next) = (unsafe { NEXT_BODY_FILTER }) else { return NGX_ERROR as ngx_int_t };
    // SAFETY: nginx passes a live request.
    let part = unsafe { Request::from_raw(r) }.filter(|r| r.main() != *r && is_part_of_question(*r));
    let Some(part) = part.filter(|_| !chain.is_null()) else {
        // SAFETY: what nginx would have called.
        return unsafe { next(r, chain) };
    };
    guard(NGX_ERROR as ngx_int_t, || {
        let client = part.client();
        let present = client.data();
        // Whose turn it is not has what it says put aside.
        client.set_data(part.main().as_ptr().cast());
        // SAFETY: as above.
        let rc = unsafe { next(r, chain) };
        if client.data() == part.main().as_ptr().cast() {
            client.set_data(present);
        }
        take_back(part);
        rc
    })
}
