//! Memory that is asked for: all that the shell wants of nginx goes through here, so that there is one place that tells
//! what a lack of memory looks like.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_array_push, ngx_array_t, ngx_list_push, ngx_list_t, ngx_palloc, ngx_pcalloc, ngx_pool_cleanup_add,
    ngx_pool_cleanup_t, ngx_pool_t,
};

#[cfg(feature = "fail-allocations")]
mod failing;

/// Whether there may be memory: always, but for the tests of a lack of it.
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

/// Uninitialised memory for `count` values from a pool of nginx; `None` if there is none.
///
/// # Safety
/// `pool` is live.
#[inline]
pub(crate) unsafe fn allocate<T>(pool: *mut ngx_pool_t, count: usize) -> Option<NonNull<MaybeUninit<T>>> {
    const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
    let size = size_of::<T>().checked_mul(count)?;
    // SAFETY: live, says the caller.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_palloc(pool, size) }).cast())
}

/// Memory filled with zeros, for a C structure of numbers and pointers.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn allocate_zeroed<T>(pool: *mut ngx_pool_t) -> Option<NonNull<T>> {
    const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
    // SAFETY: live, says the caller.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_pcalloc(pool, size_of::<T>()) }).cast())
}

/// A record of what is to be done when nginx destroys the pool, with so much memory of nginx's choosing.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn add_cleanup(pool: *mut ngx_pool_t, size: usize) -> Option<NonNull<ngx_pool_cleanup_t>> {
    // SAFETY: live, says the caller.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_pool_cleanup_add(pool, size) }))
}

/// A new element of a list.
///
/// # Safety
/// The list is live, and one of such elements.
pub(crate) unsafe fn push_to_list<T>(list: *mut ngx_list_t) -> Option<NonNull<T>> {
    // SAFETY: live, says the caller.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_list_push(list) }).cast())
}

/// A new element of an array.
///
/// # Safety
/// The array is live, and one of such elements.
pub(crate) unsafe fn push_to_array<T>(array: *mut ngx_array_t) -> Option<NonNull<T>> {
    // SAFETY: live, says the caller.
    NonNull::new(or_fail(std::ptr::null_mut(), || unsafe { ngx_array_push(array) }).cast())
}

/// Moves a value into a pool of nginx; it is dropped when nginx destroys the pool.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn place_in_pool<T>(pool: *mut ngx_pool_t, value: T) -> Option<NonNull<T>> {
    unsafe extern "C" fn drop_value<T>(data: *mut c_void) {
        // SAFETY: `data` is the value written below, which nobody else drops.
        unsafe { data.cast::<T>().drop_in_place() };
    }
    // SAFETY: live, says the caller.
    let memory = unsafe { allocate::<T>(pool, 1) }?.cast::<T>();
    // SAFETY: live, says the caller; no memory of nginx's choosing is asked for.
    let cleanup = unsafe { add_cleanup(pool, 0) }?;
    // SAFETY: freshly allocated for a `T`, and aligned, as `allocate` checks.
    unsafe { memory.write(value) };
    // SAFETY: a new cleanup record of the pool.
    unsafe { (*cleanup.as_ptr()).data = memory.as_ptr().cast() };
    // SAFETY: a new cleanup record of the pool.
    unsafe { (*cleanup.as_ptr()).handler = Some(drop_value::<T>) };
    Some(memory)
}
