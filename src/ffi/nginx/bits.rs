//! Bits of `ngx_http_request_t`, at the places where the C compiler puts them: bindgen's are not reliable (see build.rs).

use nginx_sys::ngx_http_request_t;

use super::handle::Handle as _;
use super::request::Request;

/// A bit of an `ngx_http_request_t`.
#[derive(Clone, Copy)]
pub(crate) struct Bit {
    byte: usize,
    mask: u8,
}

impl Bit {
    const fn new(byte: usize, mask: u8) -> Self {
        assert!(byte < size_of::<ngx_http_request_t>() && mask.is_power_of_two());
        Self { byte, mask }
    }

    /// # Safety
    /// `r` is live.
    #[inline]
    pub(crate) unsafe fn is_set(self, r: *mut ngx_http_request_t) -> bool {
        // SAFETY: `new` has checked that the byte is within the request.
        let byte = unsafe { r.byte_add(self.byte) }.cast::<u8>();
        // SAFETY: a byte of the request, which the caller says is live.
        unsafe { *byte & self.mask != 0 }
    }

    /// # Safety
    /// `r` is live.
    #[inline]
    pub(crate) unsafe fn set(self, r: *mut ngx_http_request_t) {
        // SAFETY: `new` has checked that the byte is within the request.
        let byte = unsafe { r.byte_add(self.byte) }.cast::<u8>();
        // SAFETY: a byte of the request, which the caller says is live.
        unsafe { *byte |= self.mask };
    }

    /// # Safety
    /// `r` is live.
    #[inline]
    pub(crate) unsafe fn clear(self, r: *mut ngx_http_request_t) {
        // SAFETY: `new` has checked that the byte is within the request.
        let byte = unsafe { r.byte_add(self.byte) }.cast::<u8>();
        // SAFETY: a byte of the request, which the caller says is live.
        unsafe { *byte &= !self.mask };
    }
}

impl Request {
    #[inline]
    pub(crate) fn has_bit(self, bit: Bit) -> bool {
        // SAFETY: the request is live by the type invariant.
        unsafe { bit.is_set(self.as_ptr()) }
    }

    #[inline]
    pub(crate) fn set_bit(self, bit: Bit) {
        // SAFETY: the request is live by the type invariant.
        unsafe { bit.set(self.as_ptr()) };
    }

    #[inline]
    pub(crate) fn clear_bit(self, bit: Bit) {
        // SAFETY: the request is live by the type invariant.
        unsafe { bit.clear(self.as_ptr()) };
    }
}

include!(concat!(env!("OUT_DIR"), "/bits.rs"));
