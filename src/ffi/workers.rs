//! What the workers share: the ledgers of upstreams with a `zone`, and a bell for each worker.
//!
//! Both are made by the master, once it is known how many workers there will be, and inherited by
//! them. They belong to one configuration: after a reload old and new workers count for themselves,
//! as nginx does with its zones.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use nginx_sys::{
    ngx_conf_t, ngx_connection_t, ngx_core_conf_t, ngx_core_module, ngx_cycle_t, ngx_event_handler_pt,
    ngx_event_t, ngx_fd_t, ngx_http_conf_ctx_t, ngx_http_module, ngx_int_t, ngx_log_error_core, ngx_process,
    ngx_worker, NGX_ERROR, NGX_LOG_CRIT, NGX_OK, NGX_PROCESS_SINGLE, NGX_PROCESS_WORKER,
};

use crate::ledger::{Ledger, Left, Table};

use ngx::http::HttpModuleConfExt;

use super::balancer::Servers;
use super::conf::place_in_pool;
use super::constants;
use super::guard::guard;
use super::module::ngx_http_upstream_keepalive_rs_module;
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

/// The main configuration.
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

/// Memory that is inherited by child processes, and shared with them.
struct Mapping {
    start: NonNull<AtomicU64>,
    length: usize,
}

impl Workers {
    /// nginx's `create_main_conf`.
    pub(super) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        guard(ptr::null_mut(), || {
            // SAFETY: nginx passes the configuration being read.
            let pool = unsafe { (*cf).pool };
            // SAFETY: the new cycle's pool.
            let workers = unsafe { place_in_pool(pool, Self::default()) };
            workers.map_or(ptr::null_mut(), |workers| workers.as_ptr().cast())
        })
    }

    /// The main configuration of the configuration being read.
    ///
    /// # Safety
    /// `cf` is it.
    pub(super) unsafe fn of_conf<'a>(cf: *mut ngx_conf_t) -> Option<&'a Self> {
        // SAFETY: live, says the caller.
        let cf = unsafe { &*cf };
        let module = &raw const ngx_http_upstream_keepalive_rs_module;
        // SAFETY: nginx writes to the module's static only before it creates any configuration.
        let module = unsafe { &*module };
        // SAFETY: what `create` has made.
        let workers: Option<NonNull<Self>> = unsafe { cf.http_main_conf_unchecked(module) };
        // SAFETY: only ever shared.
        workers.map(|workers| unsafe { workers.as_ref() })
    }

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

    /// Makes memory and bells for so many workers.
    fn open(&self, workers: usize) -> std::io::Result<()> {
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
    fn enter(&self, cycle: *mut ngx_cycle_t, me: usize) -> ngx_int_t {
        for sharing in self.upstreams.borrow().iter() {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if let Some(ledger) = upstream.counts.shared() {
                ledger.set_worker(me);
                let left = ledger.enter(this_process(), is_alive);
                upstream.take_back(&left);
            }
        }
        let Some(bell) = self.bells.borrow().get(me).map(AsRawFd::as_raw_fd) else {
            return NGX_OK as ngx_int_t;
        };
        let read = constants::READ_EVENT as ngx_int_t;
        // If it fails, nginx says so; then those who wait are looked after from time to time only.
        // SAFETY: the worker's cycle, and a descriptor that lives as long as it.
        unsafe { ngx_add_channel_event(cycle, bell, read, Some(rung)) };
        NGX_OK as ngx_int_t
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

fn this_process() -> u64 {
    u64::from(std::process::id())
}

fn is_alive(pid: u64) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: no signal is sent.
    let answer = unsafe { libc::kill(pid, 0) };
    answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
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

impl Mapping {
    fn new(words: usize) -> std::io::Result<Self> {
        let length = words.max(1) * size_of::<AtomicU64>();
        // SAFETY: new memory at an address of the system's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_ANONYMOUS | libc::MAP_SHARED,
                -1,
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start: start.cast(), length }),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// The memory as numbers, zero at first. Whoever has them is gone before the mapping: ledgers and
    /// mapping belong to one cycle, and dropping a ledger does not touch its table.
    fn words(&self) -> &'static [AtomicU64] {
        // SAFETY: mapped by `new`, page-aligned, zeroed by the system, changed as atomic numbers only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length / size_of::<AtomicU64>()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; see `words` for who could still use it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The main configuration in a cycle; `None` without `http {}`.
///
/// # Safety
/// `cycle` is alive and its configuration has been read.
unsafe fn of_cycle<'a>(cycle: *mut ngx_cycle_t) -> Option<&'a Workers> {
    // SAFETY: live, says the caller.
    let confs = unsafe { (*cycle).conf_ctx };
    // SAFETY: nginx sets it before it reads any configuration.
    let index = unsafe { ngx_http_module.index };
    // SAFETY: a cycle has an element for each module.
    let conf = unsafe { confs.add(index) };
    // SAFETY: as above.
    let http: *mut ngx_http_conf_ctx_t = unsafe { *conf }.cast();
    // SAFETY: null, or what ngx_http_module has put there.
    let http = unsafe { http.as_ref() }?;
    // SAFETY: nginx sets it before it reads any configuration.
    let index = unsafe { ngx_http_upstream_keepalive_rs_module.ctx_index };
    // SAFETY: it has an element for each HTTP module.
    let workers = unsafe { http.main_conf.add(index) };
    // SAFETY: as above.
    let workers: *mut Workers = unsafe { *workers }.cast();
    // SAFETY: what `Workers::create` has made; only ever shared.
    unsafe { workers.as_ref() }
}

/// In the master, when the configuration has been read.
pub(super) unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        // SAFETY: nginx passes the new cycle.
        let Some(workers) = (unsafe { of_cycle(cycle) }) else { return NGX_OK as ngx_int_t };
        // SAFETY: as above; the core module has its configuration at its index.
        let number = unsafe { worker_processes(cycle) };
        if let Err(err) = workers.open(number) {
            // An error would end the master, and with it the workers of the configuration before.
            let errno = err.raw_os_error().unwrap_or(0);
            // SAFETY: as above.
            let log = unsafe { (*cycle).log };
            let line = c"keepalive: workers share no \"max_conns\", each has its own";
            // SAFETY: the line has no formats.
            unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, errno, line.as_ptr()) };
            for sharing in workers.upstreams.borrow().iter() {
                // SAFETY: in the same cycle, which is alive.
                unsafe { sharing.upstream.as_ref() }.count_alone(sharing.servers, sharing.changing);
            }
        }
        NGX_OK as ngx_int_t
    })
}

/// # Safety
/// `cycle` is alive and its configuration has been read.
unsafe fn worker_processes(cycle: *mut ngx_cycle_t) -> usize {
    // SAFETY: live, says the caller.
    let confs = unsafe { (*cycle).conf_ctx };
    // SAFETY: nginx sets it before it reads any configuration.
    let index = unsafe { ngx_core_module.index };
    // SAFETY: a cycle has an element for each module.
    let conf = unsafe { confs.add(index) };
    // SAFETY: as above.
    let core: *mut ngx_core_conf_t = unsafe { *conf }.cast();
    // SAFETY: what the core module has put there.
    let number = unsafe { (*core).worker_processes };
    usize::try_from(number).unwrap_or(1).max(1)
}

/// In each process that nginx starts.
pub(super) unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: set by this thread.
        let process = unsafe { ngx_process };
        if process != NGX_PROCESS_WORKER as usize && process != NGX_PROCESS_SINGLE as usize {
            return NGX_OK as ngx_int_t;
        }
        // SAFETY: set by this thread.
        let me = unsafe { ngx_worker };
        // SAFETY: nginx passes the worker's cycle.
        unsafe { of_cycle(cycle) }.map_or(NGX_OK as ngx_int_t, |workers| workers.enter(cycle, me))
    })
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
    let Some(workers) = (unsafe { of_cycle(cycle) }) else { return };
    for sharing in workers.upstreams.borrow().iter() {
        // SAFETY: in the same cycle, which is alive.
        let upstream = unsafe { sharing.upstream.as_ref() };
        if upstream.counts.shared().is_some_and(Ledger::is_rung) {
            upstream.wake();
        }
    }
}
