//! What nginx knows of its processes: the time, the cycle's log, which of them this one is, and which of them are alive.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use nginx_sys::{
    ngx_core_conf_t, ngx_core_module, ngx_current_msec, ngx_cycle, ngx_cycle_t, ngx_log_t, ngx_process,
    ngx_worker, NGX_PROCESS_SINGLE, NGX_PROCESS_WORKER,
};

use crate::base::clock::Msec;
use crate::base::memory::push;

/// The present time.
pub(crate) fn now() -> Msec {
    // SAFETY: nginx's cached time; only this thread writes it.
    unsafe { ngx_current_msec }
}

/// The time since then, in milliseconds.
pub(crate) fn elapsed(since: Msec) -> Msec {
    now().wrapping_sub(since)
}

/// The error log of the present configuration.
pub(crate) fn cycle_log() -> *mut ngx_log_t {
    // SAFETY: the worker's cycle, set before any request.
    let cycle = unsafe { ngx_cycle };
    // SAFETY: a cycle has its log.
    unsafe { (*cycle).log }
}

/// The number of this worker; `None` in any other process of nginx.
pub(crate) fn worker_number() -> Option<usize> {
    // SAFETY: nginx sets it in each process before any module hears of it; only this thread writes it.
    let process = unsafe { ngx_process };
    let is_worker = process == NGX_PROCESS_WORKER as usize || process == NGX_PROCESS_SINGLE as usize;
    // SAFETY: set with `ngx_process`; only this thread writes it.
    is_worker.then(|| unsafe { ngx_worker })
}

/// How many workers there will be; 1 if it is not known yet.
///
/// # Safety
/// `cycle` is live, and the core module has its configuration.
pub(crate) unsafe fn worker_processes(cycle: *mut ngx_cycle_t) -> usize {
    // SAFETY: live, says the caller.
    let confs = unsafe { (*cycle).conf_ctx };
    // SAFETY: nginx sets it before it reads any configuration.
    let index = unsafe { ngx_core_module.index };
    // SAFETY: a cycle has an element for each module.
    let conf = unsafe { confs.add(index) };
    // SAFETY: an element of that array, as its index is a module's.
    let core: *mut ngx_core_conf_t = unsafe { *conf }.cast();
    // SAFETY: what the core module has put there.
    let number = unsafe { (*core).worker_processes };
    usize::try_from(number).unwrap_or(1).max(1)
}

/// Whether this worker was told to end, at once or when its requests are served.
pub(crate) fn worker_is_exiting() -> bool {
    // SAFETY: set by this thread between events, not by the signal handler while a hook runs.
    let terminate = unsafe { nginx_sys::ngx_terminate };
    // SAFETY: set by this thread between events, as `ngx_terminate`.
    let exiting = unsafe { nginx_sys::ngx_exiting };
    terminate != 0 || exiting != 0
}

/// Bits of a process that are its number; those above them are the time of its start, as numbers are used again.
const PID_BITS: u32 = 24;

/// Bits of that time, in ticks of the system's clock.
const START_BITS: u32 = 38;

/// What tells this process from all others.
pub(crate) fn this_process() -> u64 {
    let pid = u64::from(std::process::id());
    let start = start_of(pid).filter(|start| *start != GONE).unwrap_or(0);
    start << PID_BITS | pid
}

/// Whether the process is still there, and has not ended.
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

/// Whether there is a process of this number.
fn exists(process: u64) -> bool {
    let Ok(number) = libc::pid_t::try_from(pid_of(process)) else { return false };
    // SAFETY: no signal is sent.
    let answer = unsafe { libc::kill(number, 0) };
    answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Whether that is the same process, and has not ended.
fn is_same(process: u64) -> bool {
    let start = process >> PID_BITS;
    // Without a time to compare the number has to do.
    start == 0 || start_of(pid_of(process)).is_none_or(|now| now == start)
}

/// In place of a time: the process has ended, and waits for its parent to notice.
const GONE: u64 = u64::MAX;

/// When a process was started, as proc(5) has it; `None` if that cannot be read.
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
    Some(start & ((1 << START_BITS) - 1))
}

/// How often it is looked whether a process is gone, in milliseconds.
const INTERVAL: Msec = 1000;

/// What is known of the processes of the workers of a configuration.
#[derive(Default)]
pub(crate) struct KnownProcesses(Vec<Cell<Known>>);

/// What is known of a process, and since when.
#[derive(Clone, Copy, Default)]
struct Known {
    process: u64,
    is_gone: bool,
    /// When it was last looked whether there is a process of its number,
    exists: Option<Msec>,
    /// and whether that is the same one.
    is_same: Option<Msec>,
}

impl KnownProcesses {
    /// For so many workers; `None` if there is no memory.
    pub(crate) fn new(workers: usize) -> Option<Self> {
        let mut known = Vec::new();
        (0..workers).try_for_each(|_| push(&mut known, Cell::default()))?;
        Some(Self(known))
    }

    /// Whether the process of a worker is gone. That is looked for once a second, for all upstreams; and in /proc, to tell
    /// a process from one that got its number later, only if it does not answer.
    pub(crate) fn is_gone(&self, worker: usize, process: u64, answers: bool) -> bool {
        let Some(place) = self.0.get(worker) else { return !is_alive(process) };
        let mut known = place.get();
        if known.process != process {
            known = Known { process, ..Known::default() };
        }
        let now = now();
        let is_new = |then: Option<Msec>| then.is_some_and(|then| now.wrapping_sub(then) < INTERVAL);
        if !known.is_gone && !is_new(known.exists) {
            known.exists = Some(now);
            known.is_gone = !exists(process);
        }
        if !known.is_gone && !answers && !is_new(known.is_same) {
            known.is_same = Some(now);
            known.is_gone = !is_same(process);
        }
        place.set(known);
        known.is_gone
    }
}
