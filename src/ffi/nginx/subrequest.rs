//! A request and its parts: what a question needs to know of both, besides what [`super::request`] has.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_array_t, ngx_http_post_request, ngx_http_request_t, ngx_http_upstream_state_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_list_t, ngx_msec_t, NGX_OK,
};

use crate::ffi::nginx::bits;
use crate::ffi::nginx::handle::{field_ptr, get_field, set_bit, set_field, Handle};
use crate::ffi::nginx::headers::Headers;
use crate::ffi::nginx::request::{HttpUpstream, Request};

impl Request {
    /// Whether it has ended, but for what it may wait to say.
    pub(crate) fn is_done(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { bits::DONE.is_set(self.as_ptr()) }
    }

    /// Lets nginx refuse it any further parts.
    pub(crate) fn forbid_parts(self) {
        for bit in [
            bits::SUBREQUESTS_1,
            bits::SUBREQUESTS_2,
            bits::SUBREQUESTS_4,
            bits::SUBREQUESTS_8,
            bits::SUBREQUESTS_16,
            bits::SUBREQUESTS_32,
            bits::SUBREQUESTS_64,
            bits::SUBREQUESTS_128,
        ] {
            // SAFETY: live by the type invariant; writes one bit.
            unsafe { bit.clear(self.as_ptr()) };
        }
    }

    /// The headers that the client has sent.
    pub(crate) fn headers(self) -> Headers {
        let list = field_ptr!(self.headers_in.headers);
        // SAFETY: the list of a live request.
        unsafe { Headers::of(list) }
    }

    /// The request for which this one is a part.
    pub(crate) fn parent(self) -> Option<Self> {
        let parent = NonNull::new(get_field!(self.parent))?;
        // SAFETY: a parent lives as long as its parts.
        Some(unsafe { Self::from_ptr(parent) })
    }

    /// What servers have answered, if they have refused: in each location through which the request has come, the
    /// last one. An `X-Accel-Redirect` hides it from all but this.
    pub(crate) fn answers(self) -> impl Iterator<Item = u16> {
        let states: *const ngx_array_t = get_field!(self.upstream_states);
        // SAFETY: null, or an array in the request's pool.
        let states = unsafe { states.as_ref() };
        // SAFETY: what the array holds; it does not change while this is used.
        let states: &[ngx_http_upstream_state_t] = states.map_or(&[], |it| unsafe { it.as_slice() });
        let before = states.windows(2).filter(|pair| is_separator(&pair[1])).map(|pair| &pair[0]);
        let before = before.filter(|state| is_complete(state)).map(|state| state.status);
        let present = self.upstream().and_then(HttpUpstream::whole_response_status);
        before.chain(present).filter_map(|status| u16::try_from(status).ok()).filter(|status| *status >= 300)
    }

    /// The status of its response, 0 if there is none.
    pub(crate) fn status(self) -> u16 {
        u16::try_from(get_field!(self.headers_out.status)).unwrap_or(0)
    }

    /// For an old browser (`msie_refresh`) nginx makes a page of a redirect, and reads its Location unchecked: there may be none.
    pub(crate) fn forget_old_browser(self) {
        // SAFETY: live by the type invariant; nobody else has its headers now.
        unsafe { (*self.as_ptr()).headers_in.set_msie(0) };
    }

    /// Sets the status of its response, with nginx's reason phrase.
    pub(crate) fn set_status(self, status: u16) {
        set_field!(self.headers_out.status = status.into());
        set_field!(self.headers_out.status_line.len = 0);
    }

    /// The headers of its response.
    pub(crate) fn response_headers(self) -> *mut ngx_list_t {
        field_ptr!(self.headers_out.headers)
    }

    /// Whether the response ends with its header.
    pub(crate) fn set_header_only(self) {
        // SAFETY: live by the type invariant; writes one bit.
        unsafe { bits::HEADER_ONLY.set(self.as_ptr()) };
    }

    /// Whether its parent goes on without it.
    pub(crate) fn is_in_background(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { bits::BACKGROUND.is_set(self.as_ptr()) }
    }

    /// Whether nobody wants more of its response than the header.
    pub(crate) fn ends_with_header(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { bits::HEADER_ONLY.is_set(self.as_ptr()) }
    }

    /// How often its location may still change.
    pub(crate) fn changes_left(self) -> u32 {
        let bits = [bits::URI_CHANGES_1, bits::URI_CHANGES_2, bits::URI_CHANGES_4, bits::URI_CHANGES_8];
        bits.iter().rev().fold(0, |number, bit| {
            // SAFETY: live by the type invariant; reads one bit.
            number << 1 | u32::from(unsafe { bit.is_set(self.as_ptr()) })
        })
    }

    /// Whether it was redirected, and has lost what modules have attached to it.
    pub(crate) fn is_redirected(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { bits::INTERNAL.is_set(self.as_ptr()) }
    }

    /// The value of an indexed variable, which all parts of a request share.
    pub(crate) fn variable(self, index: usize) -> *mut ngx_http_variable_value_t {
        let values = get_field!(self.variables);
        // SAFETY: nginx has made room for each index that it has given.
        unsafe { values.add(index) }
    }

    /// Lets the request go on, once the present handler has returned.
    pub(crate) fn post(self) {
        // SAFETY: live by the type invariant; nginx allocates what it needs.
        let rc = unsafe { ngx_http_post_request(self.as_ptr(), std::ptr::null_mut()) };
        if rc != NGX_OK as ngx_int_t {
            self.log_error(c"no memory to go on");
        }
    }

    /// Whether a thread, or a lock of the cache, has to be waited for.
    pub(crate) fn is_blocked(self) -> bool {
        // SAFETY: live by the type invariant; reads some bits.
        unsafe { ngx_http_request_t::blocked_raw(self.main().as_ptr()) != 0 }
    }

    /// One less has to be waited for.
    #[cfg(ngx_feature = "http_cache")]
    pub(crate) fn unblock(self) {
        // SAFETY: live by the type invariant; reads some bits.
        let blocked = unsafe { ngx_http_request_t::blocked_raw(self.as_ptr()) };
        set_bit!(self: ngx_http_request_t::set_blocked_raw, blocked.saturating_sub(1));
    }
}

/// Between the attempts of one location and those of the next one, nginx has an empty record
/// (`ngx_http_upstream_init_request()`).
fn is_separator(state: &ngx_http_upstream_state_t) -> bool {
    state.peer.is_null() && state.header_time == 0
}

/// Whether a header has come to its end: before, nginx has -1 there (`ngx_http_upstream_connect()`).
fn is_complete(state: &ngx_http_upstream_state_t) -> bool {
    state.header_time != ngx_msec_t::MAX
}

impl HttpUpstream {
    /// The status that the server has sent, with a whole header; or one of the cache.
    fn whole_response_status(self) -> Option<usize> {
        let state = get_field!(self.state);
        // SAFETY: null, or the present state of a live request.
        let state = unsafe { state.as_ref() };
        state.is_none_or(is_complete).then(|| self.response_status())
    }

    /// The status that the server has sent, 0 if it has not.
    pub(crate) fn response_status(self) -> usize {
        get_field!(self.headers_in.status_n)
    }

    /// The headers that the server has sent.
    pub(crate) fn response_headers(self) -> *mut ngx_list_t {
        field_ptr!(self.headers_in.headers)
    }

    /// Whether it has begun and not ended.
    pub(crate) fn is_under_way(self) -> bool {
        !get_field!(self.cleanup).is_null()
    }
}
