//! Memory for values that live as long as a pool of nginx, outside the pool.

use std::cell::Cell;
use std::ffi::c_void;
use std::mem::needs_drop;
use std::ptr::NonNull;

use nginx_sys::{ngx_alloc, ngx_pool_cleanup_t};

use super::memory::{or_fail, Pool};
use super::process::cycle_log;

/// Memory for values that live as long as a pool of nginx, each. When nginx destroys the pool, the memory is there for the
/// next value: so many are allocated as there were values at the same time, and the pools need no memory for them.
///
/// It does not move once it has a value, and lives as long as these pools.
pub(crate) struct Recycler<T> {
    /// The first block without a value.
    free: Cell<Option<NonNull<Block<T>>>>,
}

/// Memory for one value.
struct Block<T> {
    value: T,
    /// In the list of the pool.
    cleanup: ngx_pool_cleanup_t,
    home: NonNull<Recycler<T>>,
    /// Without a value: the next block without one.
    next: Option<NonNull<Block<T>>>,
}

impl<T> Recycler<T> {
    pub(crate) fn new() -> Self {
        const { assert!(!needs_drop::<T>() && align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
        Self { free: Cell::new(None) }
    }

    /// A value that lives as long as the pool; `None` if there is no memory.
    #[inline(always)]
    pub(crate) fn put(&self, pool: Pool, value: T) -> Option<NonNull<T>> {
        let block = match self.free.get() {
            Some(block) => block,
            None => self.add_block()?,
        };
        let memory = block.as_ptr();
        // SAFETY: a block in the list of free ones is allocated, and has its `next`.
        self.free.set(unsafe { (*memory).next });
        // SAFETY: within the allocated block; makes no reference.
        let place = unsafe { &raw mut (*memory).value };
        // SAFETY: nobody else has a free block.
        unsafe { place.write(value) };
        // SAFETY: within the allocated block; makes no reference.
        let cleanup = unsafe { &raw mut (*memory).cleanup };
        // SAFETY: the record is in the block, which nobody else uses, or writes before the pool has called `release`.
        unsafe { pool.link_cleanup(cleanup, release::<T>, memory.cast()) };
        NonNull::new(place)
    }

    /// Adds a block without a value to the empty list. `None` if there is no memory.
    #[cold]
    #[inline(never)]
    fn add_block(&self) -> Option<NonNull<Block<T>>> {
        // SAFETY: the log of the cycle is live.
        let memory =
            or_fail(std::ptr::null_mut(), || unsafe { ngx_alloc(size_of::<Block<T>>(), cycle_log()) });
        let block = NonNull::new(memory.cast::<Block<T>>())?;
        // SAFETY: within the memory for a block, allocated just now; makes no reference.
        let home = unsafe { &raw mut (*block.as_ptr()).home };
        // SAFETY: allocated just now.
        unsafe { home.write(NonNull::from(self)) };
        // SAFETY: within the memory for a block, allocated just now; makes no reference.
        let next = unsafe { &raw mut (*block.as_ptr()).next };
        // SAFETY: allocated just now.
        unsafe { next.write(None) };
        Some(block)
    }
}

/// The pool is being destroyed: its value is not used any more. nginx still reads the `next` of the record, which stays as it is.
unsafe extern "C" fn release<T>(block: *mut c_void) {
    let memory = block.cast::<Block<T>>();
    // SAFETY: `put` has registered this function for its block, whose `home` is set.
    let home = unsafe { (*memory).home };
    // SAFETY: it lives as long as the pool.
    let home = unsafe { home.as_ref() };
    // SAFETY: the block has no value any more; nobody else refers to it.
    unsafe { (*memory).next = home.free.get() };
    home.free.set(NonNull::new(memory));
}

impl<T> Drop for Recycler<T> {
    fn drop(&mut self) {
        while let Some(block) = self.free.get() {
            // SAFETY: a block in the list of free ones is allocated, and has its `next`.
            self.free.set(unsafe { (*block.as_ptr()).next });
            // SAFETY: allocated by `ngx_alloc()`, which calls malloc, and in no list any more.
            unsafe { libc::free(block.as_ptr().cast()) };
        }
    }
}
