//! A lack of memory, made for tests: which of the module's allocations fail is said in a file, while nginx runs.
//!
//! The environment variable `KEEPALIVE_FAIL_ALLOCATIONS` names the file, four numbers of 8 bytes in the order of the
//! machine: the first allocation that fails (from 1 on, 0 for none), the last one, how many there were, and how many of
//! them failed. Master and workers share it; whoever writes the third number starts counting anew.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};

use nginx_sys::{ngx_log_error_core, NGX_LOG_EMERG};

use super::super::idle::cycle_log;
use crate::ffi::nginx::handle::Handle as _;

/// What the file has.
#[repr(C)]
struct Order {
    first: AtomicU64,
    last: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// Null until the file was looked for, and `NONE` if there is none.
static ORDER: AtomicPtr<Order> = AtomicPtr::new(ptr::null_mut());

static NONE: Order = Order {
    first: AtomicU64::new(0),
    last: AtomicU64::new(0),
    asked: AtomicU64::new(0),
    failed: AtomicU64::new(0),
};

/// Counts what nginx is asked for, and says whether it is to succeed. If it is not, the log tells as nginx's own does.
pub(crate) fn is_granted() -> bool {
    SPARE.store(0, SeqCst);
    let granted = is_next_granted();
    if !granted {
        // SAFETY: asks for the calling thread's own.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        unsafe { *errno = libc::ENOMEM };
        let line = c"malloc() failed, as a test wants it";
        // SAFETY: the line has no formats.
        unsafe { ngx_log_error_core(NGX_LOG_EMERG as usize, cycle_log(), libc::ENOMEM, line.as_ptr()) };
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
    // SAFETY: set above, to memory that stays.
    unsafe { &*ORDER.load(SeqCst) }
}

/// Without any allocation.
fn open() -> Option<*mut Order> {
    // SAFETY: the name ends with a null byte.
    let path = unsafe { libc::getenv(c"KEEPALIVE_FAIL_ALLOCATIONS".as_ptr()) };
    if path.is_null() {
        return None;
    }
    // SAFETY: a string of the environment.
    let fd = unsafe { libc::open(path, libc::O_RDWR | libc::O_CLOEXEC) };
    let (size, access) = (size_of::<Order>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: new memory at an address of the system's choice; of no file it is refused.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size, access, libc::MAP_SHARED, fd, 0) };
    // SAFETY: opened above, or none.
    unsafe { libc::close(fd) };
    (memory != libc::MAP_FAILED).then_some(memory.cast())
}

/// Rust's memory.
struct Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// How much of what [`crate::base::memory::is_spare`] has given back is left: the C library serves small requests from that first.
static SPARE: AtomicUsize = AtomicUsize::new(0);

fn may_have(size: usize) -> bool {
    let left = SPARE.load(SeqCst);
    if size <= left {
        SPARE.store(left - size, SeqCst);
        return true;
    }
    is_next_granted()
}

// SAFETY: memory is the system's; where it is refused null is returned, as it may be.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !may_have(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() == crate::base::memory::SPARE {
            SPARE.store(layout.size(), SeqCst);
        }
        // SAFETY: as the caller says.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && !may_have(size) {
            return ptr::null_mut();
        }
        // SAFETY: as the caller says.
        unsafe { System.realloc(memory, layout, size) }
    }
}
