//! What the workers share: the ledgers of upstreams with a `zone`, and a bell for each worker.
//!
//! Both are made by the master, once it is known how many workers there will be, and inherited by
//! them. They belong to one configuration: after a reload old and new workers count for themselves,
//! as nginx does with its zones.

use std::cell::{Cell, OnceCell, RefCell};
use std::ptr::NonNull;
use std::time::Duration;

use nginx_sys::{
    ngx_cycle_t, ngx_event_handler_pt, ngx_fd_t, ngx_int_t, ngx_log_error_core, NGX_ERROR, NGX_LOG_CRIT,
    NGX_OK,
};

use crate::base::memory::push;
use crate::ledger::{Ledger, Table};

use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::configured::Configured;
use crate::ffi::nginx::constants;
use crate::ffi::nginx::mapping::Mapping;
use crate::ffi::nginx::memory::or_fail;
use crate::ffi::nginx::process::{is_gone, now, this_process, KnownProcesses};
use crate::ffi::nginx::timer::Handler;
use crate::ffi::state::bells::Bells;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::waits::INTERVAL;

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
    bells: OnceCell<Bells>,
    /// One for each of them: what this one knows of its process.
    known: OnceCell<KnownProcesses>,
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
    /// Notes an upstream whose workers share a ledger. `None` if there is no memory.
    pub(crate) fn add(&self, upstream: NonNull<Upstream>, servers: usize, changing: bool) -> Option<()> {
        push(&mut self.upstreams.borrow_mut(), Sharing { upstream, servers, changing })
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
            if count_alone(upstream, sharing.servers, sharing.changing).is_none() {
                let line =
                    c"keepalive: no memory to count connections, \"max_conns\" does not count idle ones";
                // SAFETY: the line has no formats.
                unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, libc::ENOMEM, line.as_ptr()) };
            }
        }
    }

    /// Another worker has rung: something has changed for those who wait here, or others wait for us.
    pub(crate) fn answer(&self) {
        for sharing in self.upstreams.borrow().iter() {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if upstream.counts.shared().is_some_and(Ledger::is_rung) {
                upstream.post_dispatch();
            }
        }
    }

    fn share(&self, workers: usize) -> std::io::Result<()> {
        let upstreams = self.upstreams.borrow();
        if upstreams.is_empty() {
            return Ok(());
        }
        let bells = Bells::new(workers)?;
        let bells = NonNull::from(self.bells.get_or_init(|| bells));
        let known = KnownProcesses::new(workers).ok_or_else(no_memory)?;
        let known = NonNull::from(self.known.get_or_init(|| known));
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
                set_ledger(upstream, ledger).ok_or_else(no_memory)?;
            }
            upstream.counts.bells.set(Some(bells));
            upstream.counts.known.set(Some(known));
        }
        Ok(())
    }

    /// This process is a worker now; `rung` is called when another one has rung its bell.
    ///
    /// # Safety
    /// `cycle` is the one to which they belong.
    pub(crate) unsafe fn enter(&self, cycle: *mut ngx_cycle_t, me: usize, rung: Handler) {
        for sharing in self.upstreams.borrow().iter() {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { sharing.upstream.as_ref() };
            if let Some(ledger) = upstream.counts.shared() {
                ledger.set_worker(me);
                take_back(upstream, |left| ledger.enter(this_process(), is_gone, wait_a_little, left));
            }
        }
        let Some(bell) = self.bells.get().and_then(|bells| bells.of(me)) else { return };
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

/// Other workers may have been killed, and none has taken the place of one of them: as after a reload. It is looked for
/// once a second, however many wait.
pub(crate) fn recover(upstream: &Upstream) {
    let (Some(ledger), Some(known)) = (upstream.counts.shared(), upstream.counts.known.get()) else { return };
    let now = now();
    if upstream.counts.recovered.get().is_some_and(|then| now.wrapping_sub(then) < INTERVAL) {
        return;
    }
    upstream.counts.recovered.set(Some(now));
    // SAFETY: belongs to the same cycle as the upstream.
    let known = unsafe { known.as_ref() };
    take_back(upstream, |left| {
        ledger.recover(now, |worker, process, answers| known.is_gone(worker, process, answers), left);
    });
    // Whoever does not answer by the next time may be gone.
    ledger.unrung_holders().for_each(|worker| upstream.counts.ring(worker));
}

/// The requests and connections of a worker that was killed are gone: `each` tells of those at each server.
fn take_back(upstream: &Upstream, each: impl FnOnce(&mut dyn FnMut(&[u8], u64))) {
    // SAFETY: the upstream's cycle is alive.
    let servers = unsafe { Servers::in_zone(upstream.us) };
    let mut any = false;
    each(&mut |address, requests| {
        any = true;
        servers.iter().for_each(|servers| servers.end_requests(address, requests));
    });
    if let Some(ledger) = upstream.counts.shared().filter(|_| any) {
        ledger.others().for_each(|worker| upstream.counts.ring(worker));
    }
}

/// Counts for this worker alone. `None` if there is no memory.
pub(crate) fn count_alone(upstream: &Upstream, servers: usize, changing: bool) -> Option<()> {
    set_ledger(upstream, Ledger::new(Table::own(servers)?, servers, 1, changing)?)
}

/// Begins to count. `None` if there is no memory.
fn set_ledger(upstream: &Upstream, ledger: Ledger) -> Option<()> {
    note_servers(upstream, &ledger)?;
    // Nothing was counted before.
    let _ = upstream.counts.ledger.set(ledger);
    Some(())
}

/// Notes the servers of the configuration; those that come later are noted when they are met.
fn note_servers(upstream: &Upstream, ledger: &Ledger) -> Option<()> {
    // SAFETY: explicit, as it has a pool; its cycle is alive.
    let configured = unsafe { Configured::of(upstream.us) }?;
    for (address, limit) in configured.addresses.iter().filter(|(_, limit)| **limit > 0) {
        if !ledger.is_changing() {
            // By the master, before there is a worker.
            ledger.note(address, *limit, 0, now(), |_| false);
        }
    }
    Some(())
}

/// For what takes another worker less than a millisecond, unless that was stopped: not longer than a second in all.
fn wait_a_little(times: u32) -> bool {
    let waits = times < 25;
    if waits {
        std::thread::sleep(Duration::from_millis((1 << times.min(6)).min(50)));
    }
    waits
}

fn no_memory() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ENOMEM)
}
