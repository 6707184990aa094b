//! Memory for values that live as long as a pool of nginx, outside the pool.

use std::cell::Cell;
use std::ffi::c_void;
use std::mem::{needs_drop, MaybeUninit};
use std::ptr::{self, NonNull};

use nginx_sys::{ngx_alloc, ngx_pool_cleanup_t};

use super::memory::{or_fail, Pool};
use super::process::cycle_log;

/// Memory for values that live as long as a pool of nginx, each. When nginx destroys the pool, the memory is there for the
/// next value, so the pools need none for them. There is memory for so many values at the same time; others lie in their pools.
///
/// The memory is allocated with the first value, all at once: between the pools of a load, it would keep the system's allocator from
/// giving memory back after the load.
///
/// It does not move once it has a value, and lives as long as these pools.
pub(crate) struct Recycler<T> {
    /// The first block that has had a value, and has none.
    free: Cell<Option<NonNull<Block<T>>>>,
    /// All blocks, once there was a value.
    blocks: Cell<Option<NonNull<Block<T>>>>,
    /// How many of them have had a value.
    used: Cell<usize>,
}

/// The number of blocks.
const BLOCKS: usize = 256;

/// Memory for one value.
struct Block<T> {
    value: MaybeUninit<T>,
    /// In the list of the pool.
    cleanup: ngx_pool_cleanup_t,
    home: NonNull<Recycler<T>>,
    /// Without a value: the next block without one.
    next: Option<NonNull<Block<T>>>,
}

impl<T> Default for Recycler<T> {
    fn default() -> Self {
        const { assert!(!needs_drop::<T>() && align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
        Self { free: Cell::new(None), blocks: Cell::new(None), used: Cell::new(0) }
    }
}

impl<T> Recycler<T> {
    /// Memory for a value that lives as long as the pool, uninitialised; `None` if there is none.
    #[inline(always)]
    pub(crate) fn allocate(&self, pool: Pool) -> Option<NonNull<MaybeUninit<T>>> {
        let Some(block) = self.free.get() else { return self.allocate_first(pool) };
        // SAFETY: a block in the list of free ones is allocated, and has its `next`.
        self.free.set(unsafe { (*block.as_ptr()).next });
        Some(self.lend(block, pool))
    }

    /// No block is free that has had a value.
    #[cold]
    #[inline(never)]
    fn allocate_first(&self, pool: Pool) -> Option<NonNull<MaybeUninit<T>>> {
        match self.new_block() {
            Some(block) => Some(self.lend(block, pool)),
            None => pool.allocate(1),
        }
    }

    /// A block that has had no value. `None` if there is none, or no memory.
    fn new_block(&self) -> Option<NonNull<Block<T>>> {
        let number = self.used.get();
        if number == BLOCKS {
            return None;
        }
        let blocks = self.blocks.get().or_else(|| {
            let size = BLOCKS * size_of::<Block<T>>();
            // SAFETY: the log of the cycle is live.
            let memory = or_fail(ptr::null_mut(), || unsafe { ngx_alloc(size, cycle_log()) });
            NonNull::new(memory.cast())
        })?;
        self.blocks.set(Some(blocks));
        self.used.set(number + 1);
        // SAFETY: the number is below that of the blocks.
        let block = unsafe { blocks.add(number) };
        // SAFETY: within the memory of the blocks; makes no reference.
        let home = unsafe { &raw mut (*block.as_ptr()).home };
        // SAFETY: nobody else has used the block.
        unsafe { home.write(NonNull::from(self)) };
        Some(block)
    }

    /// Lends a block that nobody uses as long as the pool lives.
    #[inline(always)]
    fn lend(&self, block: NonNull<Block<T>>, pool: Pool) -> NonNull<MaybeUninit<T>> {
        let memory = block.as_ptr();
        // SAFETY: within the allocated block; makes no reference.
        let cleanup = unsafe { &raw mut (*memory).cleanup };
        // SAFETY: the record is in the block, which nobody else uses, or writes before the pool has called `release`.
        unsafe { pool.link_cleanup(cleanup, release::<T>, memory.cast()) };
        // SAFETY: within the allocated block; makes no reference.
        let value = unsafe { &raw mut (*memory).value };
        // SAFETY: within an allocated block.
        unsafe { NonNull::new_unchecked(value) }
    }
}

/// The pool is being destroyed: its value is not used any more. nginx still reads the `next` of the record, which stays as it is.
unsafe extern "C" fn release<T>(block: *mut c_void) {
    let memory = block.cast::<Block<T>>();
    // SAFETY: `lend` has registered this function for its block, whose `home` is set.
    let home = unsafe { (*memory).home };
    // SAFETY: it lives as long as the pool.
    let home = unsafe { home.as_ref() };
    // SAFETY: within the allocated block; makes no reference.
    let next = unsafe { &raw mut (*memory).next };
    // SAFETY: the block has no value any more; nobody else uses it.
    unsafe { next.write(home.free.get()) };
    home.free.set(NonNull::new(memory));
}

impl<T> Drop for Recycler<T> {
    fn drop(&mut self) {
        if let Some(blocks) = self.blocks.get() {
            // SAFETY: allocated by `ngx_alloc()`, which calls malloc; the pools with values are gone, as the type demands.
            unsafe { libc::free(blocks.as_ptr().cast()) };
        }
    }
}
