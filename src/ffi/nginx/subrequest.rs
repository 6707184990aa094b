//! What the authorisation helper needs to know of a request and its subrequests, besides what [`super::request`] has.

use nginx_sys::{
    ngx_array_t, ngx_http_headers_in_t, ngx_http_post_request, ngx_http_request_t, ngx_http_upstream_state_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_list_t, ngx_msec_t, NGX_OK,
};

use crate::ffi::nginx::bits;
use crate::ffi::nginx::handle::{field_ptr, get_bits, get_field, set_bit, set_field, Handle as _};
use crate::ffi::nginx::headers::Headers;
use crate::ffi::nginx::request::{HttpUpstream, Request};

impl Request {
    /// Whether it has ended; its output may still have to be sent.
    pub(crate) fn is_done(self) -> bool {
        self.has_bit(bits::DONE)
    }

    /// Makes nginx refuse it any further subrequests.
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
            self.clear_bit(bit);
        }
    }

    /// The headers that the client has sent.
    pub(crate) fn headers(self) -> Headers {
        let list = field_ptr!(self.headers_in.headers);
        // SAFETY: the list of a live request; a caller that changes it has finished reading before.
        unsafe { Headers::of(list) }
    }

    /// The request whose subrequest this is.
    pub(crate) fn parent(self) -> Option<Self> {
        let parent = get_field!(self.parent);
        // SAFETY: null, or the parent, which lives as long as its subrequests.
        unsafe { Self::from_raw(parent) }
    }

    /// The statuses of at least 300 that servers have answered: for each location through which the request has come, the
    /// last one. After an `X-Accel-Redirect` only this list still has them.
    pub(crate) fn answers(self) -> impl Iterator<Item = u16> {
        let before =
            self.upstream_states().windows(2).filter(|pair| is_separator(&pair[1])).map(|pair| &pair[0]);
        let before = before.filter(|state| is_complete(state)).map(|state| state.status);
        let present = self.upstream().and_then(HttpUpstream::whole_response_status);
        before.chain(present).filter_map(|status| u16::try_from(status).ok()).filter(|status| *status >= 300)
    }

    /// Whether [`Self::answers`] may have any. Without a second record nothing was before the present upstream request.
    #[inline]
    pub(crate) fn may_have_refusals(self) -> bool {
        self.attempts() > 1 || self.upstream().is_some_and(|u| u.response_status() >= 300)
    }

    /// The last refusal (3xx or 4xx) of a server in the present location that nginx has passed over, for another server
    /// to answer (`proxy_next_upstream`).
    pub(crate) fn passed_over(self) -> Option<u16> {
        let of_location = self.upstream_states().iter().rev().take_while(|state| !is_separator(state));
        let refusals = of_location.filter(|state| is_complete(state)).map(|state| state.status);
        refusals.filter_map(|status| u16::try_from(status).ok()).find(|status| (300..500).contains(status))
    }

    /// `r->upstream_states`: a record for each attempt to get a response from a server, in their order.
    fn upstream_states<'a>(self) -> &'a [ngx_http_upstream_state_t] {
        let states: *const ngx_array_t = get_field!(self.upstream_states);
        // SAFETY: null, or an array in the pool of the live request.
        let states = unsafe { states.as_ref() };
        // SAFETY: the array is one of such records, and does not change while the slice is used.
        states.map_or(&[], |it| unsafe { it.as_slice() })
    }

    /// The status of its response, 0 if there is none.
    pub(crate) fn status(self) -> u16 {
        u16::try_from(get_field!(self.headers_out.status)).unwrap_or(0)
    }

    /// Makes nginx forget that the client is an old browser. For such a client (`msie_refresh`) nginx makes a page of a
    /// redirect, and reads the header `Location` without checking that there is one.
    pub(crate) fn forget_old_browser(self) {
        set_bit!(self.headers_in: ngx_http_headers_in_t::set_msie_raw, 0);
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

    /// Makes the response end with its header.
    pub(crate) fn set_header_only(self) {
        self.set_bit(bits::HEADER_ONLY);
    }

    /// Whether it is a background subrequest: its parent does not wait for it.
    pub(crate) fn is_in_background(self) -> bool {
        self.has_bit(bits::BACKGROUND)
    }

    /// Whether its response ends with the header.
    pub(crate) fn ends_with_header(self) -> bool {
        self.has_bit(bits::HEADER_ONLY)
    }

    /// How many more times its location may change (`r->uri_changes`).
    pub(crate) fn changes_left(self) -> u32 {
        let bits = [bits::URI_CHANGES_1, bits::URI_CHANGES_2, bits::URI_CHANGES_4, bits::URI_CHANGES_8];
        bits.into_iter().rev().fold(0, |number, bit| (number << 1) | u32::from(self.has_bit(bit)))
    }

    /// Whether it was redirected internally, and has lost the contexts of modules.
    pub(crate) fn is_redirected(self) -> bool {
        self.has_bit(bits::INTERNAL)
    }

    /// The value of an indexed variable, which a request and its subrequests share (an auth subrequest has its own).
    pub(crate) fn variable(self, index: usize) -> *mut ngx_http_variable_value_t {
        let values = get_field!(self.variables);
        // SAFETY: `r->variables` has an element for each index that `ngx_http_get_variable_index()` has returned.
        unsafe { values.add(index) }
    }

    /// Runs the request again once the present handler has returned. Mirrors `ngx_http_post_request()`.
    pub(crate) fn post(self) {
        // SAFETY: live by the type invariant; for a null pointer nginx allocates the record itself.
        let rc = unsafe { ngx_http_post_request(self.as_ptr(), std::ptr::null_mut()) };
        if rc != NGX_OK as ngx_int_t {
            self.log_error(c"no memory to go on");
        }
    }

    /// Whether the request waits for a thread, or for a lock of the cache.
    pub(crate) fn is_blocked(self) -> bool {
        let main = self.main();
        get_bits!(main: ngx_http_request_t::blocked_raw) != 0
    }

    /// Waits for one thread or lock less.
    #[cfg(ngx_feature = "http_cache")]
    pub(crate) fn unblock(self) {
        let blocked = get_bits!(self: ngx_http_request_t::blocked_raw);
        set_bit!(self: ngx_http_request_t::set_blocked_raw, blocked.saturating_sub(1));
    }
}

/// Whether a record separates the attempts of two locations: nginx adds an empty one between them
/// (`ngx_http_upstream_init_request()`).
fn is_separator(state: &ngx_http_upstream_state_t) -> bool {
    state.peer.is_null() && state.header_time == 0
}

/// Whether the header of the response is complete: until then `header_time` is -1 (`ngx_http_upstream_connect()`).
fn is_complete(state: &ngx_http_upstream_state_t) -> bool {
    state.header_time != ngx_msec_t::MAX
}

impl HttpUpstream {
    /// The status of a complete header, of the server or of the cache.
    fn whole_response_status(self) -> Option<usize> {
        self.state().is_none_or(|state| is_complete(&state.copy())).then(|| self.response_status())
    }

    /// The status that the server has sent, 0 if it has sent none.
    pub(crate) fn response_status(self) -> usize {
        get_field!(self.headers_in.status_n)
    }

    /// The list of the headers that the server has sent.
    pub(crate) fn response_headers(self) -> *mut ngx_list_t {
        field_ptr!(self.headers_in.headers)
    }

    /// Whether the upstream part has begun and not ended.
    pub(crate) fn is_under_way(self) -> bool {
        !get_field!(self.cleanup).is_null()
    }
}
