//! Memory in the block of a context, for what nginx needs while the auth subrequest exists. It is uninitialised, as not every auth
//! subrequest needs all of it.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use nginx_sys::{ngx_http_post_subrequest_t, ngx_http_request_body_t, ngx_http_variable_value_t};

use crate::ffi::nginx::memory::Zeroed as _;
use crate::ffi::nginx::timer::Alarm;

/// # Invariants
/// Points at memory for the parts, and behind them for as many values as the configuration has variables with an index. It lives
/// as long as the context.
pub(super) struct Room(NonNull<Parts>);

#[repr(C)]
struct Parts {
    /// What nginx calls at the end of the auth subrequest.
    post: MaybeUninit<ngx_http_post_subrequest_t>,
    /// The body of an auth subrequest that has none.
    empty_body: MaybeUninit<ngx_http_request_body_t>,
    /// The alarm of the context.
    alarm: MaybeUninit<Alarm>,
}

impl Room {
    /// The size in bytes for a configuration with `count` variables with an index.
    pub(super) fn size(count: usize) -> Option<usize> {
        const { assert!(align_of::<ngx_http_variable_value_t>() <= align_of::<Parts>()) };
        count.checked_mul(size_of::<ngx_http_variable_value_t>())?.checked_add(size_of::<Parts>())
    }

    /// # Safety
    /// `memory` has [`Self::size`] bytes, is aligned as a pointer, lives as long as the context, and nobody else uses it.
    #[inline]
    pub(super) unsafe fn new(memory: NonNull<u8>) -> Self {
        const { assert!(align_of::<Parts>() <= align_of::<usize>()) };
        Self(memory.cast())
    }

    /// Writes what nginx calls at the end of the auth subrequest.
    #[inline]
    pub(super) fn put_post(&self, post: ngx_http_post_subrequest_t) -> *mut ngx_http_post_subrequest_t {
        // SAFETY: points at the parts, by the type invariant; computes an address.
        let place: *mut MaybeUninit<_> = unsafe { &raw mut (*self.0.as_ptr()).post };
        // SAFETY: the place of such a structure, to which no reference exists.
        unsafe { place.write(MaybeUninit::new(post)) };
        place.cast()
    }

    /// Writes a body without content.
    #[inline]
    pub(super) fn put_empty_body(&self) -> *mut ngx_http_request_body_t {
        // SAFETY: points at the parts, by the type invariant; computes an address.
        let place: *mut MaybeUninit<_> = unsafe { &raw mut (*self.0.as_ptr()).empty_body };
        // SAFETY: the place of such a structure, to which no reference exists.
        unsafe { place.write(MaybeUninit::new(ngx_http_request_body_t::zeroed())) };
        place.cast()
    }

    /// The place of the alarm, which is not written yet.
    pub(super) fn alarm(&self) -> *mut Alarm {
        // SAFETY: points at the parts, by the type invariant; computes an address.
        unsafe { &raw mut (*self.0.as_ptr()).alarm }.cast()
    }

    /// The place of the variables of the auth subrequest, which are not written yet.
    #[inline]
    pub(super) fn variables(&self) -> NonNull<ngx_http_variable_value_t> {
        // SAFETY: the values are behind the parts, by the type invariant.
        unsafe { self.0.add(1) }.cast()
    }
}
