//! Bits of nginx's requests, where the C compiler has them: bindgen is not to be trusted with those (see build.rs).

use nginx_sys::ngx_http_request_t;

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
        // SAFETY: within the request, as `new` has checked.
        let byte = unsafe { r.byte_add(self.byte) }.cast::<u8>();
        // SAFETY: live, says the caller.
        unsafe { *byte & self.mask != 0 }
    }

    /// # Safety
    /// `r` is live.
    #[inline]
    pub(crate) unsafe fn set(self, r: *mut ngx_http_request_t) {
        // SAFETY: within the request, as `new` has checked.
        let byte = unsafe { r.byte_add(self.byte) }.cast::<u8>();
        // SAFETY: live, says the caller.
        unsafe { *byte |= self.mask };
    }

    /// # Safety
    /// `r` is live.
    #[inline]
    pub(crate) unsafe fn clear(self, r: *mut ngx_http_request_t) {
        // SAFETY: within the request, as `new` has checked.
        let byte = unsafe { r.byte_add(self.byte) }.cast::<u8>();
        // SAFETY: live, says the caller.
        unsafe { *byte &= !self.mask };
    }
}

include!(concat!(env!("OUT_DIR"), "/bits.rs"));
