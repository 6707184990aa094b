//! Memory in the pool of a request, and records in it that outlive a redirect.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use nginx_sys::ngx_pool_cleanup_t;

use crate::ffi::nginx::memory::{allocate, allocate_zeroed};
use crate::ffi::nginx::request::Request;

/// Uninitialised memory for `count` values in the pool of a request; `None` if there is no memory.
pub(super) fn allocate_for<T>(r: Request, count: usize) -> Option<NonNull<T>> {
    // SAFETY: a handle points at a live request, whose pool is live too.
    unsafe { allocate::<T>(r.pool(), count) }.map(NonNull::cast)
}

/// A C structure of numbers and pointers in the pool of a request, filled with zeros; `None` if there is no memory.
pub(super) fn allocate_zeroed_for<T>(r: Request) -> Option<NonNull<T>> {
    // SAFETY: a handle points at a live request, whose pool is live too.
    unsafe { allocate_zeroed::<T>(r.pool()) }
}

/// What a cleanup handler of a pool is called with: the record.
pub(super) type CleanupHandler = unsafe extern "C" fn(data: *mut c_void);

/// The mark of the records of one type: their cleanup handler. An internal redirect clears what modules have attached to a
/// request, but not its pool, so records are found among the pool's cleanups.
pub(super) struct Mark<T>(CleanupHandler, PhantomData<fn() -> T>);

/// A value in a pool, and the pool's record of it.
struct Record<T> {
    cleanup: ngx_pool_cleanup_t,
    value: T,
}

impl<T> Mark<T> {
    /// # Safety
    /// No other cleanup handler has the same address, and `handler` may be called once with a pointer to a `T`.
    pub(super) const unsafe fn new(handler: CleanupHandler) -> Self {
        Self(handler, PhantomData)
    }

    /// Moves a value into the pool of a request, under this mark. `None` if there is no memory.
    pub(super) fn record(&self, r: Request, value: T) -> Option<NonNull<T>> {
        self.record_with(r, 0, |_| value)
    }

    /// As [`Self::record`], with `more` bytes of uninitialised memory, which are aligned as the record is.
    #[inline]
    pub(super) fn record_with(
        &self,
        r: Request,
        more: usize,
        value: impl FnOnce(NonNull<u8>) -> T,
    ) -> Option<NonNull<T>> {
        let record = allocate_for::<u8>(r, size_of::<Record<T>>() + more)?.cast::<Record<T>>();
        // SAFETY: behind the record there is the other memory.
        let room = unsafe { record.add(1) }.cast::<u8>();
        let record = record.as_ptr();
        // SAFETY: just allocated for one such record; computes an address.
        let place = NonNull::new(unsafe { &raw mut (*record).value })?;
        // SAFETY: the place of the value, which nobody else uses.
        unsafe { place.write(value(room)) };
        // SAFETY: just allocated for one such record; computes an address.
        let cleanup = unsafe { &raw mut (*record).cleanup };
        // SAFETY: it lies in the pool of the request, and only the pool uses it from now on.
        unsafe { r.memory().link_cleanup(cleanup, self.0, place.as_ptr().cast()) };
        Some(place)
    }

    /// The records with this mark in the pool of a request, the latest first. They live as long as the pool.
    pub(super) fn records<'a>(&'static self, r: Request) -> impl Iterator<Item = &'a T>
    where
        T: 'a,
    {
        let pool = r.pool();
        // SAFETY: a handle points at a live request, whose pool is live too; reads one field.
        let mut next = unsafe { (*pool).cleanup };
        std::iter::from_fn(move || loop {
            let cleanup = NonNull::<ngx_pool_cleanup_t>::new(next)?;
            // SAFETY: a cleanup in the pool of the live request; nothing else runs between this line and the last use.
            let cleanup = unsafe { cleanup.as_ref() };
            next = cleanup.next;
            if cleanup.handler.map(|handler| handler as usize) == Some(self.0 as usize) {
                // SAFETY: the handler is this mark's, so that `record` has put a `T` there.
                return unsafe { cleanup.data.cast::<T>().as_ref() };
            }
        })
    }
}
