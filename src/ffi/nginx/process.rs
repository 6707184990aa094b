//! The process and its cycle: the time, the log, which worker this is, and which processes are alive.

use std::cell::Cell;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_core_conf_t, ngx_core_module, ngx_current_msec, ngx_cycle, ngx_cycle_t, ngx_event_conf_t,
    ngx_event_core_module, ngx_events_module, ngx_log_t, ngx_process, ngx_worker, NGX_PROCESS_SINGLE,
    NGX_PROCESS_WORKER,
};

use crate::base::clock::Msec;
use crate::base::memory::push;

use super::conn::Conn;
use super::handle::{get_field, handle};

/// The present time, in milliseconds. Mirrors `ngx_current_msec`.
pub(crate) fn now() -> Msec {
    // SAFETY: nginx's cached time; only this thread writes it.
    unsafe { ngx_current_msec }
}

/// How many milliseconds are left until a point in time, at least 1.
pub(crate) fn remaining(until: Msec) -> Msec {
    let left = until.wrapping_sub(now());
    if (left as isize) > 0 {
        left
    } else {
        1
    }
}

/// The time since `since`, in milliseconds.
pub(crate) fn elapsed(since: Msec) -> Msec {
    now().wrapping_sub(since)
}

/// The time of the system's monotonic clock, in nanoseconds.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a variable of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// How many descriptors this process may have.
pub(crate) fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a variable of the right type.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// A cycle: nginx's name for a configuration that is in use, and all that belongs to it.
///
/// # Invariants
/// Points at an `ngx_cycle_t` that is alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cycle(NonNull<ngx_cycle_t>);

handle!(Cycle, ngx_cycle_t);

impl Cycle {
    /// # Safety
    /// `ptr` points at a cycle that is alive as long as the handle is used.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_cycle_t) -> Self {
        // SAFETY: the caller says that the pointer is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// The cycle of this process.
    #[inline]
    pub(crate) fn current() -> Self {
        // SAFETY: a global of nginx that only this thread writes.
        let cycle = unsafe { ngx_cycle };
        // SAFETY: `main()` sets it before it loads a module. The master destroys the pool of the old cycle while that is still
        // the current one; the cleanups, the only code of ours that runs then, come before the memory is freed.
        unsafe { Self::from_ptr(cycle) }
    }

    /// Calls a function for each open connection of this process, which it may close.
    #[cold]
    pub(crate) fn each_connection(self, mut each: impl FnMut(Conn)) {
        let first = get_field!(self.connections);
        for number in 0..get_field!(self.connection_n) {
            // SAFETY: the cycle has so many connections, in one block.
            let connection = unsafe { first.add(number) };
            // SAFETY: as above; reads one field.
            if unsafe { (*connection).fd } != -1 {
                // SAFETY: nginx sets the descriptor of a connection that is not open to -1.
                unsafe { Conn::from_ptr(connection) }.into_iter().for_each(&mut each);
            }
        }
    }

    /// Its error log.
    #[inline]
    pub(crate) fn log(self) -> *mut ngx_log_t {
        get_field!(self.log)
    }
}

/// The error log of the present configuration.
#[inline]
pub(crate) fn cycle_log() -> *mut ngx_log_t {
    Cycle::current().log()
}

/// The number of this worker; `None` in any other process of nginx.
pub(crate) fn worker_number() -> Option<usize> {
    // SAFETY: a global of nginx, set in each process before any module is called there; only this thread writes it.
    let process = unsafe { ngx_process };
    let is_worker = process == NGX_PROCESS_WORKER as usize || process == NGX_PROCESS_SINGLE as usize;
    // SAFETY: a global of nginx, set with `ngx_process`; only this thread writes it.
    let number = unsafe { ngx_worker };
    is_worker.then_some(number)
}

/// Whether this process is a worker that a master has started.
pub(crate) fn is_worker_of_master() -> bool {
    // SAFETY: a global of nginx, set in each process before any module is called there; only this thread writes it.
    let process = unsafe { ngx_process };
    process == NGX_PROCESS_WORKER as usize
}

/// The number of workers that will be started; 1 if it is not known yet.
///
/// # Safety
/// `cycle` is live, and the core module has its configuration.
pub(crate) unsafe fn worker_processes(cycle: *mut ngx_cycle_t) -> usize {
    // SAFETY: the caller says that the cycle is live.
    let cycle = unsafe { Cycle::from_ptr(cycle) };
    let confs = get_field!(cycle.conf_ctx);
    // SAFETY: a global of nginx, which sets the index before it reads any configuration.
    let index = unsafe { ngx_core_module.index };
    // SAFETY: `conf_ctx` has an element for each module.
    let conf = unsafe { confs.add(index) };
    // SAFETY: an element of `conf_ctx`, because the index belongs to a module.
    let core: *mut ngx_core_conf_t = unsafe { *conf }.cast();
    // SAFETY: the caller says that the core module has its configuration, which is at its index.
    let number = unsafe { (*core).worker_processes };
    usize::try_from(number).unwrap_or(1).max(1)
}

/// The name of the event method (`use`) that the workers of a cycle will have.
///
/// # Safety
/// `cycle` is live, and its configuration has been read.
pub(crate) unsafe fn event_method<'a>(cycle: *mut ngx_cycle_t) -> &'a CStr {
    // SAFETY: the caller says that the cycle is live.
    let cycle = unsafe { Cycle::from_ptr(cycle) };
    let confs = get_field!(cycle.conf_ctx);
    // SAFETY: a global of nginx, which sets the index before it reads any configuration.
    let index = unsafe { ngx_events_module.index };
    // SAFETY: `conf_ctx` has an element for each module.
    let events = unsafe { confs.add(index) };
    // SAFETY: an element of `conf_ctx`, because the index belongs to a module.
    let events: *mut *mut *mut ngx_event_conf_t = unsafe { *events }.cast();
    // SAFETY: nginx accepts no configuration without `events {}`, which makes the array of the event modules.
    let confs = unsafe { *events };
    // SAFETY: a global of nginx, which sets the index before it reads `events {}`.
    let index = unsafe { ngx_event_core_module.ctx_index };
    // SAFETY: the array has an element for each event module.
    let conf = unsafe { confs.add(index) };
    // SAFETY: an element of the array, because the index belongs to an event module.
    let conf = unsafe { *conf };
    // SAFETY: the configuration of this module, which is complete, as the caller says; reads one field.
    let name = unsafe { (*conf).name };
    // SAFETY: the name of an event module: a constant string that ends with a null byte.
    unsafe { CStr::from_ptr(name.cast()) }
}

/// Whether this worker was told to exit, at once or when its requests are served.
pub(crate) fn worker_is_exiting() -> bool {
    let terminate = &raw const nginx_sys::ngx_terminate;
    // SAFETY: a global of nginx. The signal handler of this thread may set it at any time, so it is read from memory.
    let terminate = unsafe { terminate.read_volatile() };
    // SAFETY: a global of nginx, which this thread sets between events.
    let exiting = unsafe { nginx_sys::ngx_exiting };
    terminate != 0 || exiting != 0
}

/// The low bits of a process are its number. The bits above are the time of its start, because numbers are used again.
const PID_BITS: u32 = 24;

/// Bits of the start time, which is in ticks of the system's clock.
const START_BITS: u32 = 38;

/// Identifies this process: its number and its start time.
pub(crate) fn this_process() -> u64 {
    let pid = u64::from(std::process::id());
    let start = start_of(pid).filter(|start| *start != GONE).unwrap_or(0);
    (start << PID_BITS) | pid
}

/// Whether the process still exists and has not ended.
pub(crate) fn is_alive(process: u64) -> bool {
    exists(process) && is_same(process)
}

/// The opposite of [`is_alive`].
pub(crate) fn is_gone(process: u64) -> bool {
    !is_alive(process)
}

fn pid_of(process: u64) -> u64 {
    process & ((1 << PID_BITS) - 1)
}

/// Whether a process with this number exists.
pub(crate) fn exists(process: u64) -> bool {
    let Ok(number) = libc::pid_t::try_from(pid_of(process)) else { return false };
    // SAFETY: signal 0 is not sent; the call only checks whether the process exists.
    let answer = unsafe { libc::kill(number, 0) };
    answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Whether the process with this number was started at the same time, and has not ended.
fn is_same(process: u64) -> bool {
    let start = process >> PID_BITS;
    match start_of(pid_of(process)) {
        Some(GONE) => false,
        // Without a time to compare, the number has to suffice.
        now => start == 0 || now.is_none_or(|now| now == start),
    }
}

/// Instead of a start time: the process has ended, and its parent has not collected it yet.
const GONE: u64 = u64::MAX;

/// The start time of a process, field 22 of `/proc/PID/stat` (proc(5)); `None` if it cannot be read.
fn start_of(pid: u64) -> Option<u64> {
    let (mut path, mut stat) = ([0; 32], [0; 1024]);
    let mut rest = path.as_mut_slice();
    write!(rest, "/proc/{pid}/stat").ok()?;
    let unused = rest.len();
    let path = path.get(..path.len() - unused)?;
    let length = File::open(OsStr::from_bytes(path)).ok()?.read(&mut stat).ok()?;
    let stat = stat.get(..length)?;
    // The name of the program, in parentheses, can contain anything.
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return Some(GONE);
    }
    let start: u64 = fields.nth(18)?.parse().ok()?;
    // The emulator of another processor (qemu) writes this file for the process that reads its own: without the size of its memory,
    // and with the start of the program, which nginx's workers have in common, instead of the process's.
    let is_emulated = fields.next()? == "0";
    (!is_emulated).then_some(start & ((1 << START_BITS) - 1))
}

/// How often to check whether a process is gone, in milliseconds.
const INTERVAL: Msec = 1000;

/// What this worker knows of the processes of all workers of a configuration.
#[derive(Default)]
pub(crate) struct KnownProcesses(Vec<Cell<Known>>);

/// What is known of one process, and since when.
#[derive(Clone, Copy, Default)]
struct Known {
    process: u64,
    is_gone: bool,
    /// When [`exists`] was last asked.
    exists: Option<Msec>,
    /// When [`is_same`] was last asked.
    is_same: Option<Msec>,
}

impl KnownProcesses {
    /// For a number of workers; `None` if there is no memory.
    pub(crate) fn new(workers: usize) -> Option<Self> {
        let mut known = Vec::new();
        (0..workers).try_for_each(|_| push(&mut known, Cell::default()))?;
        Some(Self(known))
    }

    /// Whether the process of a worker is gone. The check runs once a second for all upstreams together. It reads /proc, to
    /// tell the process from a later one with the same number, only if the process does not answer.
    pub(crate) fn is_gone(&self, worker: usize, process: u64, answers: bool) -> bool {
        let Some(place) = self.0.get(worker) else { return !is_alive(process) };
        let mut known = place.get();
        if known.process != process {
            known = Known { process, ..Known::default() };
        }
        let now = now();
        let is_recent = |then: Option<Msec>| then.is_some_and(|then| now.wrapping_sub(then) < INTERVAL);
        if !known.is_gone && !is_recent(known.exists) {
            known.exists = Some(now);
            known.is_gone = !exists(process);
        }
        if !known.is_gone && !answers && !is_recent(known.is_same) {
            known.is_same = Some(now);
            known.is_gone = !is_same(process);
        }
        place.set(known);
        known.is_gone
    }
}
