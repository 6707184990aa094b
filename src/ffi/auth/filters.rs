//! The header filter and the body filter, before all others: they capture the response of an auth subrequest, and turn nginx's
//! response to a denied request into the denial.

use std::cell::Cell;

use nginx_sys::{
    ngx_chain_t, ngx_http_request_t, ngx_http_top_body_filter, ngx_http_top_header_filter, ngx_int_t,
    NGX_ERROR, NGX_OK,
};

use super::context::AuthContext;
use super::{capture, deny, known_filters};
use crate::ffi::nginx::bits;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::process::Cycle;
use crate::ffi::nginx::request::Request;

/// `ngx_http_output_body_filter_pt`.
pub(super) type BodyFilter =
    unsafe extern "C" fn(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t;

/// `ngx_http_output_header_filter_pt`.
type HeaderFilter = unsafe extern "C" fn(r: *mut ngx_http_request_t) -> ngx_int_t;

/// The filter that ours calls, as nginx's `ngx_http_next_body_filter`.
pub(super) struct NextFilter<F>(Cell<Option<F>>);

// SAFETY: a worker runs its filters, and starts its modules, in one thread.
unsafe impl<F> Sync for NextFilter<F> {}

impl<F: Copy> NextFilter<F> {
    pub(super) const fn new() -> Self {
        Self(Cell::new(None))
    }

    /// The filter; `None` if ours is not installed.
    #[inline]
    pub(super) fn get(&self) -> Option<F> {
        self.0.get()
    }
}

static NEXT_HEADER_FILTER: NextFilter<HeaderFilter> = NextFilter::new();
static NEXT_BODY_FILTER: NextFilter<BodyFilter> = NextFilter::new();

/// Puts a body filter before all others.
pub(super) fn chain_body_filter(filter: BodyFilter, next: &NextFilter<BodyFilter>) {
    // SAFETY: nginx has chained all filters, and a worker starts its modules one after the other, in one thread.
    next.0.set(unsafe { ngx_http_top_body_filter });
    // SAFETY: a worker starts its modules one after the other, in one thread, and serves no request yet.
    unsafe { ngx_http_top_body_filter = Some(filter) };
}

/// Whether permissions can pass without the header filters; see [`known_filters`].
static MAY_PASS: Flag = Flag(Cell::new(false));

struct Flag(Cell<bool>);

// SAFETY: a worker runs its filters, and starts its modules, in one thread.
unsafe impl Sync for Flag {}

/// Puts the filters before all others; the body filter only if bodies are passed. `sets` says that some location sets variables: it
/// may be another one than that of the subrequest, which reuses the decision.
pub(super) fn install(cycle: Cycle, bodies: bool, sets: bool) {
    MAY_PASS.0.set(!sets && known_filters::all_known(cycle));
    // SAFETY: nginx has chained all filters, and a worker starts its modules one after the other, in one thread.
    NEXT_HEADER_FILTER.0.set(unsafe { ngx_http_top_header_filter });
    // SAFETY: a worker starts its modules one after the other, in one thread, and serves no request yet.
    unsafe { ngx_http_top_header_filter = Some(header_filter) };
    if bodies {
        chain_body_filter(body_filter, &NEXT_BODY_FILTER);
    }
}

/// nginx calls this for each response, so the rare cases are in functions of their own.
unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx calls its filters with a live request.
    if let Some(request) = unsafe { Request::from_raw(r) } {
        if request.main() == request {
            if deny::may_have_denial(request) && !complete(request) {
                return NGX_ERROR as ngx_int_t;
            }
        } else if let Some(ctx) = AuthContext::of_subrequest(request) {
            if ctx.capture.is_wanted() {
                return capture_header(request, ctx);
            }
            if MAY_PASS.0.get() && known_filters::needs_none(request) {
                // What nginx's last filter does for a subrequest.
                request.set_bit(bits::HEADER_SENT);
                return NGX_OK as ngx_int_t;
            }
        }
    }
    // SAFETY: the filter that nginx had before ours, with the argument that nginx passes.
    NEXT_HEADER_FILTER.get().map_or(NGX_ERROR as ngx_int_t, |next| unsafe { next(r) })
}

#[cold]
#[inline(never)]
fn complete(r: Request) -> bool {
    guard(None, || deny::complete_response(r)).is_some()
}

#[inline(never)]
fn capture_header(sub: Request, ctx: &AuthContext) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || capture::capture_header(sub, ctx))
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    let next = NEXT_BODY_FILTER.get();
    // SAFETY: the filter that nginx had before ours, with the request that nginx passes.
    let next = |chain| next.map_or(NGX_ERROR as ngx_int_t, |next| unsafe { next(r, chain) });
    // SAFETY: nginx calls its filters with a live request.
    let Some(request) = (unsafe { Request::from_raw(r) }) else { return next(chain) };
    if request.main() != request {
        // Without a chain nginx only lets the next nested subrequest become active.
        return match capture::capturing(request).filter(|_| !chain.is_null()) {
            // SAFETY: nginx has passed the chain to this filter.
            Some(ctx) => guard(NGX_ERROR as ngx_int_t, || unsafe { capture::capture_body(ctx, chain) }),
            None => next(chain),
        };
    }
    let Some(ctx) = deny::replaces_page(request) else { return next(chain) };
    let mut link = ngx_chain_t { buf: std::ptr::null_mut(), next: std::ptr::null_mut() };
    // nginx's page is dropped; without a chain the next filter still flushes what was sent before.
    match guard(Err(()), || deny::replacement_body(request, ctx, chain)) {
        Ok(Some(buf)) => {
            link.buf = buf.as_ptr();
            next(&raw mut link)
        }
        Ok(None) => next(std::ptr::null_mut()),
        Err(()) => NGX_ERROR as ngx_int_t,
    }
}
