//! A lack of memory, made for tests: while nginx runs, a file says which of the module's allocations fail.
//!
//! The environment variable `KEEPALIVE_FAIL_ALLOCATIONS` names the file. It has four numbers of 8 bytes in the machine's byte
//! order: the first allocation that fails (from 1 on, 0 for none), the last one that fails, how many there were, and how
//! many of them failed. Master and workers share the file; writing the third number restarts the count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};

use nginx_sys::NGX_LOG_EMERG;

use crate::ffi::nginx::log::write_line;
use crate::ffi::nginx::process::cycle_log;

/// The contents of the file.
#[repr(C)]
struct Order {
    first: AtomicU64,
    last: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// Null until the file was looked for; points at `NONE` if there is none.
static ORDER: AtomicPtr<Order> = AtomicPtr::new(ptr::null_mut());

static NONE: Order = Order {
    first: AtomicU64::new(0),
    last: AtomicU64::new(0),
    asked: AtomicU64::new(0),
    failed: AtomicU64::new(0),
};

/// Counts an allocation by nginx, and returns whether it is to succeed. If not, the log says so, as nginx's own line does.
pub(crate) fn is_granted() -> bool {
    SPARE.store(0, SeqCst);
    let granted = is_next_granted();
    if !granted {
        // SAFETY: takes nothing, and returns where the calling thread has its errno.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: points at the errno of the calling thread.
        unsafe { *errno = libc::ENOMEM };
        write_line(cycle_log(), NGX_LOG_EMERG, libc::ENOMEM, c"malloc() failed, as a test wants it");
    }
    granted
}

fn is_next_granted() -> bool {
    let order = order();
    let number = order.asked.fetch_add(1, SeqCst) + 1;
    let fails = (order.first.load(SeqCst)..=order.last.load(SeqCst)).contains(&number);
    if fails {
        order.failed.fetch_add(1, SeqCst);
    }
    !fails
}

fn order() -> &'static Order {
    if ORDER.load(SeqCst).is_null() {
        ORDER.store(open().unwrap_or((&raw const NONE).cast_mut()), SeqCst);
    }
    // SAFETY: stored above: a static, or a mapping that is never removed.
    unsafe { &*ORDER.load(SeqCst) }
}

/// Maps the file, without allocating.
fn open() -> Option<*mut Order> {
    // SAFETY: the name of the variable ends with a null byte.
    let path = unsafe { libc::getenv(c"KEEPALIVE_FAIL_ALLOCATIONS".as_ptr()) };
    if path.is_null() {
        return None;
    }
    // SAFETY: `getenv` returned it, and it is not null: a string of the environment that ends with a null byte.
    let fd = unsafe { libc::open(path, libc::O_RDWR | libc::O_CLOEXEC) };
    let (size, access) = (size_of::<Order>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: maps new memory at an address of the system's choice; without an open file the call fails.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size, access, libc::MAP_SHARED, fd, 0) };
    // SAFETY: the descriptor was opened above, or is -1, which is refused.
    unsafe { libc::close(fd) };
    (memory != libc::MAP_FAILED).then_some(memory.cast())
}

/// Allocates for Rust's collections.
struct Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// How many of the bytes that [`crate::base::memory::is_spare`] has freed are left: the C library serves small requests from
/// them first.
static SPARE: AtomicUsize = AtomicUsize::new(0);

fn may_have(size: usize) -> bool {
    let left = SPARE.load(SeqCst);
    if size <= left {
        SPARE.store(left - size, SeqCst);
        return true;
    }
    is_next_granted()
}

// SAFETY: passes each call on to the system's allocator, or returns null, as an allocator may.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !may_have(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller keeps the promises of `alloc`, which are the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() == crate::base::memory::SPARE {
            SPARE.store(layout.size(), SeqCst);
        }
        // SAFETY: the caller keeps the promises of `dealloc`, which are the same here.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && !may_have(size) {
            return ptr::null_mut();
        }
        // SAFETY: the caller keeps the promises of `realloc`, which are the same here.
        unsafe { System.realloc(memory, layout, size) }
    }
}
