//! What the workers share: the ledgers of upstreams with a `zone`, and a bell for each worker.
//!
//! Both are made by the master, once it is known how many workers there will be, and inherited by
//! them. They belong to one configuration: after a reload old and new workers count for themselves,
//! as nginx does with its zones.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;
use std::time::Duration;

use nginx_sys::{
    ngx_connection_t, ngx_cycle_t, ngx_event_handler_pt, ngx_event_t, ngx_fd_t, ngx_int_t,
    ngx_log_error_core, NGX_ERROR, NGX_LOG_CRIT, NGX_OK,
};

use crate::base::clock::Msec;
use crate::base::memory::push;
use crate::ledger::{Ledger, Table};

use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::constants;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::mapping::Mapping;
use crate::ffi::nginx::memory::or_fail;
use crate::ffi::nginx::timer::now;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::waiting::enqueue::INTERVAL;

extern "C" {
    /// Of ngx_channel.h, which nginx-sys does not read.
    fn ngx_add_channel_event(
        cycle: *mut ngx_cycle_t,
        fd: ngx_fd_t,
        event: ngx_int_t,
        handler: ngx_event_handler_pt,
    ) -> ngx_int_t;
}

/// Of one configuration.
#[derive(Default)]
pub(crate) struct Workers {
    upstreams: RefCell<Vec<Sharing>>,
    bells: RefCell<Vec<OwnedFd>>,
    /// One for each of them: what this one knows of its process.
    known: RefCell<Vec<Cell<Known>>>,
    /// Kept for as long as the ledgers that lie in it.
    memory: Cell<Option<Mapping>>,
}

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

/// An upstream whose ledger is shared.
struct Sharing {
    /// In the same cycle.
    upstream: NonNull<Upstream>,
    servers: usize,
    changing: bool,
}

impl Workers {
    /// Notes an upstream whose workers share a ledger. `None` if there is no memory.
    pub(crate) fn add(&self, upstream: NonNull<Upstream>, servers: usize, changing: bool) -> Option<()> {
        push(&mut self.upstreams.borrow_mut(), Sharing { upstream, servers, changing })
    }

    /// Wakes a worker.
    pub(crate) fn ring(&self, worker: usize) {
        let one = 1u64;
        if let Some(bell) = self.bells.borrow().get(worker) {
            // It cannot fail but when the worker has been rung for 2^64 - 1 times, which is enough.
            // SAFETY: an open descriptor, and as many bytes as are said.
            unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), size_of_val(&one)) };
        }
    }

    /// Whether the process of a worker is gone. That is looked for once a second, for all upstreams; and in /proc, to tell
    /// a process from one that got its number later, only if it does not answer.
    fn is_gone(&self, worker: usize, process: u64, answers: bool) -> bool {
        let all = self.known.borrow();
        let Some(place) = all.get(worker) else { return !is_alive(process) };
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

    /// Makes memory and bells for so many workers. Without memory each worker counts for itself.
    ///
    /// # Safety
    /// `cycle` is the one to which they belong.
    pub(crate) unsafe fn open(&self, cycle: *mut ngx_cycle_t, workers: usize) {
        let Err(err) = self.share(workers) else { return };
        let errno = err.raw_os_error().unwrap_or(0);
        // SAFETY: live, says the caller.
        let log = unsafe { (*cycle).log };
        let line = c"keepalive: workers share no \"max_conns\", each has its own";
        // SAFETY: the line has no formats.
        unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, errno, line.as_ptr()) };
        for sharing in self.upstreams.borrow().iter() {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if upstream.count_alone(sharing.servers, sharing.changing).is_none() {
                let line =
                    c"keepalive: no memory to count connections, \"max_conns\" does not count idle ones";
                // SAFETY: the line has no formats.
                unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, libc::ENOMEM, line.as_ptr()) };
            }
        }
    }

    fn share(&self, workers: usize) -> std::io::Result<()> {
        let upstreams = self.upstreams.borrow();
        if upstreams.is_empty() {
            return Ok(());
        }
        for _ in 0..workers {
            push(&mut self.bells.borrow_mut(), new_bell()?).ok_or_else(no_memory)?;
            push(&mut self.known.borrow_mut(), Cell::default()).ok_or_else(no_memory)?;
        }
        let size = |sharing: &Sharing| Ledger::size(sharing.servers, workers);
        let memory = Mapping::new(upstreams.iter().map(size).sum())?;
        let mut words = memory.words();
        // The ledgers that are made stay, should there be no memory for all.
        self.memory.set(Some(memory));
        for sharing in upstreams.iter() {
            let (table, others) = words.split_at(size(sharing));
            words = others;
            let ledger = Ledger::new(Table::Shared(table), sharing.servers, workers, sharing.changing);
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if let Some(ledger) = ledger {
                upstream.set_ledger(ledger).ok_or_else(no_memory)?;
            }
            upstream.counts.workers.set(Some(NonNull::from(self)));
        }
        Ok(())
    }

    /// This process is a worker now.
    ///
    /// # Safety
    /// `cycle` is the one to which they belong.
    pub(crate) unsafe fn enter(&self, cycle: *mut ngx_cycle_t, me: usize) {
        for sharing in self.upstreams.borrow().iter() {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if let Some(ledger) = upstream.counts.shared() {
                ledger.set_worker(me);
                upstream.take_back(|left| ledger.enter(this_process(), is_gone, wait_a_little, left));
            }
        }
        let Some(bell) = self.bells.borrow().get(me).map(AsRawFd::as_raw_fd) else { return };
        let read = constants::READ_EVENT as ngx_int_t;
        // If it fails, those who wait are looked after from time to time only.
        // SAFETY: the worker's cycle, and a descriptor that lives as long as it.
        let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
            ngx_add_channel_event(cycle, bell, read, Some(rung))
        });
        if rc != NGX_OK as ngx_int_t {
            // SAFETY: live, says the caller.
            let log = unsafe { (*cycle).log };
            let line = c"keepalive: other workers cannot wake this one";
            // SAFETY: the line has no formats.
            unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, 0, line.as_ptr()) };
        }
    }
}

impl Upstream {
    /// Other workers may have been killed, and none has taken the place of one of them: as after a reload. It is looked for
    /// once a second, however many wait.
    pub(crate) fn recover(&self) {
        let (Some(ledger), Some(workers)) = (self.counts.shared(), self.counts.workers.get()) else { return };
        let now = now();
        if self.counts.recovered.get().is_some_and(|then| now.wrapping_sub(then) < INTERVAL) {
            return;
        }
        self.counts.recovered.set(Some(now));
        // SAFETY: belongs to the same cycle as the upstream.
        let workers = unsafe { workers.as_ref() };
        self.take_back(|left| {
            ledger.recover(now, |worker, process, answers| workers.is_gone(worker, process, answers), left);
        });
        // Whoever does not answer by the next time may be gone.
        ledger.unheard().for_each(|worker| self.ring(worker));
    }

    /// The requests and connections of a worker that was killed are gone: `each` tells of those at each server.
    fn take_back(&self, each: impl FnOnce(&mut dyn FnMut(&[u8], u64))) {
        // SAFETY: the upstream's cycle is alive.
        let servers = unsafe { Servers::in_zone(self.us) };
        let mut any = false;
        each(&mut |address, requests| {
            any = true;
            servers.iter().for_each(|servers| servers.end_requests(address, requests));
        });
        if let Some(ledger) = self.counts.shared().filter(|_| any) {
            ledger.others().for_each(|worker| self.ring(worker));
        }
    }
}

/// Whether this worker was told to end, at once or when its requests are served.
pub(crate) fn worker_is_exiting() -> bool {
    // SAFETY: set by this thread between events, not by the signal handler while a hook runs.
    let terminate = unsafe { nginx_sys::ngx_terminate };
    // SAFETY: as above.
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

pub(crate) fn is_alive(process: u64) -> bool {
    exists(process) && is_same(process)
}

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

/// For what takes another worker less than a millisecond, unless that was stopped: not longer than a second in all.
fn wait_a_little(times: u32) -> bool {
    let waits = times < 25;
    if waits {
        std::thread::sleep(Duration::from_millis((1 << times.min(6)).min(50)));
    }
    waits
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

fn no_memory() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ENOMEM)
}

fn new_bell() -> std::io::Result<OwnedFd> {
    // SAFETY: takes no memory.
    let fd = or_fail(-1, || unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) });
    if fd == -1 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Another worker has rung: something has changed for those who wait here, or others wait for us.
unsafe extern "C" fn rung(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: the event that `enter` has added, which nginx passes to its handler.
        unsafe { answer(event) };
    });
}

/// # Safety
/// `event` is the one that `enter` has added.
unsafe fn answer(event: *mut ngx_event_t) {
    // SAFETY: the event that `enter` has added; its connection is nginx's.
    let conn: *mut ngx_connection_t = unsafe { (*event).data }.cast();
    // SAFETY: as above.
    let fd = unsafe { (*conn).fd };
    let mut rings = 0u64;
    // SAFETY: an open descriptor, and room for as many bytes as are said.
    unsafe { libc::read(fd, (&raw mut rings).cast(), size_of_val(&rings)) };
    // SAFETY: the worker's cycle, set before any event.
    let cycle = unsafe { nginx_sys::ngx_cycle };
    // SAFETY: as above.
    let Some(main) = (unsafe { MainConf::of_cycle(cycle) }) else { return };
    for sharing in main.workers.upstreams.borrow().iter() {
        // SAFETY: in the same cycle, which is alive.
        let upstream = unsafe { sharing.upstream.as_ref() };
        if upstream.counts.shared().is_some_and(Ledger::is_rung) {
            upstream.wake();
        }
    }
}
