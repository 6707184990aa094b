//! What the workers share: the ledgers of upstreams with a `zone`, and a bell for each worker.
//!
//! Both are made by the master, once it is known how many workers there will be, and inherited by
//! them. They belong to one configuration: after a reload old and new workers count for themselves,
//! as nginx does with its zones.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_connection_t, ngx_cycle_t, ngx_event_handler_pt, ngx_event_t, ngx_fd_t, ngx_int_t,
    ngx_log_error_core, NGX_LOG_CRIT,
};

use crate::ledger::{Ledger, Left, Table};

use super::balancer::Servers;
use super::constants;
use super::guard::guard;
use super::main_conf::MainConf;
use super::mapping::Mapping;
use super::upstream::Upstream;

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
pub(super) struct Workers {
    upstreams: RefCell<Vec<Sharing>>,
    bells: RefCell<Vec<OwnedFd>>,
    /// Kept for as long as the ledgers that lie in it.
    memory: Cell<Option<Mapping>>,
}

/// An upstream whose ledger is shared.
struct Sharing {
    /// In the same cycle.
    upstream: NonNull<Upstream>,
    servers: usize,
    changing: bool,
}

impl Workers {
    /// Notes an upstream whose workers share a ledger.
    pub(super) fn add(&self, upstream: NonNull<Upstream>, servers: usize, changing: bool) {
        self.upstreams.borrow_mut().push(Sharing { upstream, servers, changing });
    }

    /// Wakes a worker.
    pub(super) fn ring(&self, worker: usize) {
        let one = 1u64;
        if let Some(bell) = self.bells.borrow().get(worker) {
            // It cannot fail but when the worker has been rung for 2^64 - 1 times, which is enough.
            // SAFETY: an open descriptor, and as many bytes as are said.
            unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), size_of_val(&one)) };
        }
    }

    /// Makes memory and bells for so many workers. Without memory each worker counts for itself.
    ///
    /// # Safety
    /// `cycle` is the one to which they belong.
    pub(super) unsafe fn open(&self, cycle: *mut ngx_cycle_t, workers: usize) {
        let Err(err) = self.share(workers) else { return };
        let errno = err.raw_os_error().unwrap_or(0);
        // SAFETY: live, says the caller.
        let log = unsafe { (*cycle).log };
        let line = c"keepalive: workers share no \"max_conns\", each has its own";
        // SAFETY: the line has no formats.
        unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, errno, line.as_ptr()) };
        for sharing in self.upstreams.borrow().iter() {
            // SAFETY: in the same cycle, which is alive.
            unsafe { sharing.upstream.as_ref() }.count_alone(sharing.servers, sharing.changing);
        }
    }

    fn share(&self, workers: usize) -> std::io::Result<()> {
        let upstreams = self.upstreams.borrow();
        if upstreams.is_empty() {
            return Ok(());
        }
        for _ in 0..workers {
            self.bells.borrow_mut().push(new_bell()?);
        }
        let size = |sharing: &Sharing| Ledger::size(sharing.servers, workers);
        let memory = Mapping::new(upstreams.iter().map(size).sum())?;
        let mut words = memory.words();
        for sharing in upstreams.iter() {
            let (table, others) = words.split_at(size(sharing));
            words = others;
            let ledger = Ledger::new(Table::Shared(table), sharing.servers, workers, sharing.changing);
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if let Some(ledger) = ledger {
                upstream.note_servers(&ledger);
                // It was empty until now.
                let _ = upstream.counts.ledger.set(ledger);
            }
            upstream.counts.workers.set(Some(NonNull::from(self)));
        }
        self.memory.set(Some(memory));
        Ok(())
    }

    /// This process is a worker now.
    ///
    /// # Safety
    /// `cycle` is the one to which they belong.
    pub(super) unsafe fn enter(&self, cycle: *mut ngx_cycle_t, me: usize) {
        for sharing in self.upstreams.borrow().iter() {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if let Some(ledger) = upstream.counts.shared() {
                ledger.set_worker(me);
                let left = ledger.enter(this_process(), is_alive);
                upstream.take_back(&left);
            }
        }
        let Some(bell) = self.bells.borrow().get(me).map(AsRawFd::as_raw_fd) else { return };
        let read = constants::READ_EVENT as ngx_int_t;
        // If it fails, nginx says so; then those who wait are looked after from time to time only.
        // SAFETY: the worker's cycle, and a descriptor that lives as long as it.
        unsafe { ngx_add_channel_event(cycle, bell, read, Some(rung)) };
    }
}

impl Upstream {
    /// Other workers may have been killed, and none has taken the place of one of them: as after a reload.
    pub(super) fn recover(&self) {
        if let Some(ledger) = self.counts.shared() {
            self.take_back(&ledger.recover(is_alive));
        }
    }

    /// The requests and connections of a worker that was killed are gone.
    fn take_back(&self, left: &[Left]) {
        if left.is_empty() {
            return;
        }
        // SAFETY: the upstream's cycle is alive.
        if let Some(servers) = unsafe { Servers::in_zone(self.us) } {
            left.iter().for_each(|left| servers.end_requests(&left.address, left.requests));
        }
        if let Some(ledger) = self.counts.shared() {
            ledger.others().for_each(|worker| self.ring(worker));
        }
    }
}

/// Whether this worker was told to end, at once or when its requests are served.
pub(super) fn worker_is_exiting() -> bool {
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
pub(super) fn this_process() -> u64 {
    let pid = u64::from(std::process::id());
    let start = start_of(pid).filter(|start| *start != GONE).unwrap_or(0);
    start << PID_BITS | pid
}

pub(super) fn is_alive(process: u64) -> bool {
    let (pid, start) = (process & ((1 << PID_BITS) - 1), process >> PID_BITS);
    let Ok(number) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: no signal is sent.
    let answer = unsafe { libc::kill(number, 0) };
    let exists = answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    // Without a time to compare the number has to do.
    exists && (start == 0 || start_of(pid).is_none_or(|now| now == start))
}

/// In place of a time: the process has ended, and waits for its parent to notice.
const GONE: u64 = u64::MAX;

/// When a process was started, as proc(5) has it; `None` if that cannot be read.
fn start_of(pid: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, can contain anything.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return Some(GONE);
    }
    let start: u64 = fields.nth(18)?.parse().ok()?;
    Some(start & ((1 << START_BITS) - 1))
}

fn new_bell() -> std::io::Result<OwnedFd> {
    // SAFETY: takes no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
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
