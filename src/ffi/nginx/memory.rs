//! Memory of nginx. All that the shell allocates goes through here, so that one place says how a lack of memory shows.

use std::ffi::c_void;
use std::mem::{needs_drop, zeroed, MaybeUninit};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_array_push, ngx_array_t, ngx_connection_t, ngx_destroy_pool, ngx_event_t, ngx_http_request_body_t,
    ngx_list_push, ngx_list_t, ngx_palloc, ngx_pcalloc, ngx_pool_cleanup_add, ngx_pool_cleanup_t, ngx_pool_t,
    sockaddr,
};

use super::handle::{get_field, handle, set_field, Handle, Live};

#[cfg(feature = "fail-allocations")]
mod failing;

/// Whether an allocation may succeed: always, except in the tests for a lack of memory.
#[inline(always)]
fn is_granted() -> bool {
    #[cfg(feature = "fail-allocations")]
    return failing::is_granted();
    #[cfg(not(feature = "fail-allocations"))]
    true
}

/// Calls a function of nginx, or of the system, that fails if there is no memory.
#[inline(always)]
pub(crate) fn or_fail<T>(failure: T, function: impl FnOnce() -> T) -> T {
    if is_granted() {
        function()
    } else {
        failure
    }
}

/// A memory pool of nginx.
///
/// # Invariants
/// Points at an `ngx_pool_t` that is not destroyed as long as the handle is used: the pool of a live request, of an open
/// connection, or of a live cycle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool(NonNull<ngx_pool_t>);

handle!(Pool, ngx_pool_t);

impl Pool {
    /// # Safety
    /// `ptr` is null, or points at a pool that is not destroyed as long as the handle is used.
    #[inline]
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_pool_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    /// # Safety
    /// `ptr` points at a pool that is not destroyed as long as the handle is used.
    #[inline]
    pub(crate) unsafe fn from_non_null(ptr: *mut ngx_pool_t) -> Self {
        // SAFETY: the caller says that the pointer is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// Uninitialised memory for `count` values; `None` if there is none. Mirrors `ngx_palloc()`.
    #[inline]
    pub(crate) fn allocate<T>(self, count: usize) -> Option<NonNull<MaybeUninit<T>>> {
        const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
        let size = size_of::<T>().checked_mul(count)?;
        // SAFETY: not destroyed, by the type invariant.
        NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_palloc(self.as_ptr(), size) }).cast())
    }

    /// Moves a value that has no destructor into the pool; `None` if there is no memory.
    #[inline]
    pub(crate) fn put<T>(self, value: T) -> Option<NonNull<T>> {
        const { assert!(!needs_drop::<T>()) };
        let memory = self.allocate::<T>(1)?.cast::<T>();
        // SAFETY: allocated for one `T`, and aligned, as `allocate` checks.
        unsafe { memory.write(value) };
        Some(memory)
    }

    /// A copy of some bytes; `None` if there is no memory.
    pub(crate) fn put_bytes(self, bytes: &[u8]) -> Option<NonNull<u8>> {
        let memory = self.allocate::<u8>(bytes.len().max(1))?.cast::<u8>();
        // SAFETY: allocated for at least as many bytes, and new.
        unsafe { memory.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(memory)
    }

    /// Moves a value into the pool; it is dropped when nginx destroys the pool. `None` if there is no memory.
    pub(crate) fn place<T>(self, value: T) -> Option<NonNull<T>> {
        unsafe extern "C" fn drop_value<T>(data: *mut c_void) {
            // SAFETY: `place` has written the value there, and nothing else drops it.
            unsafe { data.cast::<T>().drop_in_place() };
        }
        let memory = self.allocate::<T>(1)?.cast::<T>();
        self.on_destroy(drop_value::<T>, memory.as_ptr().cast())?;
        // SAFETY: allocated for one `T`, and aligned, as `allocate` checks.
        unsafe { memory.write(value) };
        Some(memory)
    }

    /// Calls `handler` with `data` when nginx destroys the pool. `None` if there is no memory.
    pub(crate) fn on_destroy(
        self,
        handler: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
    ) -> Option<()> {
        let cleanup = self.add_cleanup(0)?;
        set_field!(cleanup.data = data);
        set_field!(cleanup.handler = Some(handler));
        Some(())
    }

    /// Calls `handler` with `data` when nginx destroys the pool. Mirrors `ngx_pool_cleanup_add()`, but for the allocation.
    ///
    /// # Safety
    /// `record` is memory for a record, which is there, and which nobody but the pool uses, until the pool has read it while it is
    /// destroyed.
    #[inline]
    pub(crate) unsafe fn link_cleanup(
        self,
        record: *mut ngx_pool_cleanup_t,
        handler: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
    ) {
        let link = ngx_pool_cleanup_t { handler: Some(handler), data, next: get_field!(self.cleanup) };
        // SAFETY: the caller lets the pool have the record.
        unsafe { record.write(link) };
        set_field!(self.cleanup = record);
    }

    /// A cleanup record, with `size` bytes of memory at its `data`. Mirrors `ngx_pool_cleanup_add()`.
    fn add_cleanup(self, size: usize) -> Option<Live<ngx_pool_cleanup_t>> {
        // SAFETY: not destroyed, by the type invariant.
        let record = or_fail(std::ptr::null_mut(), || unsafe { ngx_pool_cleanup_add(self.as_ptr(), size) });
        // SAFETY: null, or a record that lies in the pool.
        unsafe { Live::from_ptr(record) }
    }

    /// Destroys the pool.
    ///
    /// # Safety
    /// Nothing in it is used any more.
    pub(crate) unsafe fn destroy(self) {
        // SAFETY: not destroyed before, by the type invariant; the caller says that it can be now.
        unsafe { ngx_destroy_pool(self.as_ptr()) };
    }
}

/// Uninitialised memory for `count` values from a pool of nginx; `None` if there is none.
///
/// # Safety
/// `pool` is live.
#[inline]
pub(crate) unsafe fn allocate<T>(pool: *mut ngx_pool_t, count: usize) -> Option<NonNull<MaybeUninit<T>>> {
    // SAFETY: the caller says that the pool is live.
    unsafe { Pool::from_ptr(pool) }?.allocate(count)
}

/// Memory filled with zeros, for a C structure of numbers and pointers.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn allocate_zeroed<T>(pool: *mut ngx_pool_t) -> Option<NonNull<T>> {
    const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
    // SAFETY: the caller says that the pool is live.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_pcalloc(pool, size_of::<T>()) }).cast())
}

/// A record of what is to be done when nginx destroys the pool, with `size` bytes of memory at its `data`.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn add_cleanup(pool: *mut ngx_pool_t, size: usize) -> Option<NonNull<ngx_pool_cleanup_t>> {
    // SAFETY: the caller says that the pool is live.
    let record = unsafe { Pool::from_ptr(pool) }?.add_cleanup(size)?;
    NonNull::new(record.as_ptr())
}

/// A new element of a list.
///
/// # Safety
/// The list is live, and its elements are of type `T`.
pub(crate) unsafe fn push_to_list<T>(list: *mut ngx_list_t) -> Option<NonNull<T>> {
    // SAFETY: the caller says that the list is live.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_list_push(list) }).cast())
}

/// A new element of an array.
///
/// # Safety
/// The array is live, and its elements are of type `T`.
pub(crate) unsafe fn push_to_array<T>(array: *mut ngx_array_t) -> Option<NonNull<T>> {
    // SAFETY: the caller says that the array is live.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_array_push(array) }).cast())
}

/// Moves a value into a pool of nginx; it is dropped when nginx destroys the pool.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn place_in_pool<T>(pool: *mut ngx_pool_t, value: T) -> Option<NonNull<T>> {
    // SAFETY: the caller says that the pool is live.
    unsafe { Pool::from_ptr(pool) }?.place(value)
}

/// A C structure that is valid when all its bytes are zero.
///
/// # Safety
/// It consists of numbers, bit-fields and pointers that may be null.
pub(crate) unsafe trait Zeroed: Sized {
    /// The structure with all bytes zero.
    #[inline]
    fn zeroed() -> Self {
        // SAFETY: all bytes zero is a valid value, as the trait demands.
        unsafe { zeroed() }
    }
}

// SAFETY: numbers, bit-fields, pointers and optional functions (ngx_event.h).
unsafe impl Zeroed for ngx_event_t {}

// SAFETY: numbers, bit-fields, pointers, optional functions and structures of these (ngx_connection.h).
unsafe impl Zeroed for ngx_connection_t {}

// SAFETY: numbers, bit-fields, pointers and an optional function (ngx_http_request.h).
unsafe impl Zeroed for ngx_http_request_body_t {}

// SAFETY: a number and an array of numbers.
unsafe impl Zeroed for sockaddr {}
