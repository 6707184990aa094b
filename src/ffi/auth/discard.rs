//! Drops the output of an auth subrequest and of the subrequests nested in it: it never goes to the client. Other modules take
//! the body of a nested subrequest (Lua's `ngx.location.capture()`), so the body passes their filters, and is dropped where nginx
//! would postpone it until the subrequest becomes active.

use nginx_sys::{ngx_chain_t, ngx_http_request_t, ngx_int_t, NGX_ERROR};

use super::context::is_in_auth_subrequest;
use super::filters::{chain_body_filter, BodyFilter, NextFilter};
use super::nested::drop_postponed_output;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

static NEXT_BODY_FILTER: NextFilter<BodyFilter> = NextFilter::new();

/// Puts the filter before all others.
pub(super) fn install() {
    chain_body_filter(body_filter, &NEXT_BODY_FILTER);
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: nginx calls its filters with a live request.
    if let Some(sub) = unsafe { Request::from_raw(r) }.filter(|r| r.main() != *r) {
        return filter_subrequest(sub, chain);
    }
    // SAFETY: the filter that nginx had before ours, with the arguments that nginx passes.
    NEXT_BODY_FILTER.get().map_or(NGX_ERROR as ngx_int_t, |next| unsafe { next(r, chain) })
}

#[inline(never)]
fn filter_subrequest(sub: Request, chain: *mut ngx_chain_t) -> ngx_int_t {
    let Some(next) = NEXT_BODY_FILTER.get() else { return NGX_ERROR as ngx_int_t };
    let r = sub.as_ptr();
    if chain.is_null() || !is_in_auth_subrequest(sub) {
        // SAFETY: the filter that nginx had before ours, with the arguments that nginx has passed.
        return unsafe { next(r, chain) };
    }
    guard(NGX_ERROR as ngx_int_t, || {
        let client = sub.client();
        let active = client.data();
        // nginx postpones the output of a request that is not the active one.
        client.set_data(sub.main().as_ptr().cast());
        // SAFETY: the filter that nginx had before ours, with the arguments that nginx passes.
        let rc = unsafe { next(r, chain) };
        if client.data() == sub.main().as_ptr().cast() {
            client.set_data(active);
        }
        drop_postponed_output(sub);
        rc
    })
}
