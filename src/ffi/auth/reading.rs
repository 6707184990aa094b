//! The configuration while nginx reads it, and lists in its pool.

use std::ptr::NonNull;

use nginx_sys::{ngx_conf_t, ngx_http_get_variable_index, ngx_int_t, ngx_pool_t, ngx_str_t, NGX_ERROR};

use crate::ffi::nginx::handle::{get_field, handle, Handle as _};
use crate::ffi::nginx::memory::{allocate, or_fail};

/// The configuration being read.
///
/// # Invariants
/// Points at the `ngx_conf_t` that nginx has passed to the running callback. Its pool is the new cycle's, which outlives all
/// requests of the cycle.
#[derive(Clone, Copy)]
pub(super) struct ConfReader(NonNull<ngx_conf_t>);

handle!(ConfReader, ngx_conf_t);

impl ConfReader {
    /// # Safety
    /// `cf` is what nginx passes to the running callback, and the reader is not used after it.
    pub(super) unsafe fn from_ptr(cf: *mut ngx_conf_t) -> Self {
        // SAFETY: nginx passes its `ngx_conf_t`, which is not null, says the caller.
        Self(unsafe { NonNull::new_unchecked(cf) })
    }

    pub(super) fn pool(self) -> *mut ngx_pool_t {
        get_field!(self.pool)
    }

    /// Uninitialised memory for `count` values in the pool of the cycle; `None` if there is no memory.
    pub(super) fn allocate<T>(self, count: usize) -> Option<NonNull<T>> {
        // SAFETY: the pool of the new cycle is live while nginx reads the configuration.
        unsafe { allocate::<T>(self.pool(), count) }.map(NonNull::cast)
    }

    /// Moves a value without a destructor into the pool of the cycle; `None` if there is no memory.
    pub(super) fn place<T>(self, value: T) -> Option<NonNull<T>> {
        const { assert!(!std::mem::needs_drop::<T>()) };
        let memory = self.allocate::<T>(1)?;
        // SAFETY: just allocated for one `T`.
        unsafe { memory.write(value) };
        Some(memory)
    }

    /// The index of a variable, as `ngx_http_get_variable_index()`; `None` if there is no memory.
    pub(super) fn variable_index(self, mut name: ngx_str_t) -> Option<usize> {
        // SAFETY: nginx is reading this configuration; it copies the name.
        let index = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
            ngx_http_get_variable_index(self.as_ptr(), &raw mut name)
        });
        usize::try_from(index).ok()
    }
}

/// Values in the cycle's pool; nobody writes them after they were created.
pub(super) struct Slice<T> {
    first: NonNull<T>,
    length: usize,
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<T> {}

impl<T: Copy> Slice<T> {
    pub(super) const EMPTY: Self = Self { first: NonNull::dangling(), length: 0 };

    /// The values; they live as long as the cycle, which outlives its requests.
    pub(super) fn as_slice<'a>(self) -> &'a [T] {
        // SAFETY: `with` has written `length` values at `first`; without values any aligned pointer is valid.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }

    /// The values followed by one more; `None` if there is no memory.
    pub(super) fn with(self, cf: ConfReader, value: T) -> Option<Self> {
        let length = self.length + 1;
        let first = cf.allocate::<T>(length)?;
        for (at, value) in self.as_slice().iter().copied().chain([value]).enumerate() {
            // SAFETY: `at` is below `length`, for which the memory was just allocated.
            let place = unsafe { first.add(at) };
            // SAFETY: inside the memory just allocated, which nobody else uses.
            unsafe { place.write(value) };
        }
        Some(Self { first, length })
    }
}
