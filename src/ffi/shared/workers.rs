//! What the workers share: the ledgers of upstreams with a `zone`, and a bell for each worker.
//!
//! The master makes both once it knows how many workers there will be; the workers inherit them. They belong to one
//! configuration: after a reload, old and new workers count separately, as with nginx's own zones.
//!
//! nginx can start a second set of workers with the same configuration and numbers while the first one still runs: with HUP to
//! a master that has started a new binary, or when that new master has ended. Such a worker counts for itself.

use std::cell::{Cell, OnceCell, RefCell};
use std::ptr::NonNull;
use std::time::Duration;

use nginx_sys::{ngx_cycle_t, NGX_LOG_CRIT, NGX_LOG_NOTICE};

use crate::base::memory::push;
use crate::ledger::{Entered, Ledger, Table};

use crate::ffi::nginx::channel::watch_channel;
use crate::ffi::nginx::configured::Configured;
use crate::ffi::nginx::log::write_line;
use crate::ffi::nginx::mapping::Mapping;
use crate::ffi::nginx::process::{is_gone, now, this_process, Cycle, KnownProcesses};
use crate::ffi::nginx::timer::Handler;
use crate::ffi::state::bells::Bells;
use crate::ffi::state::upstream::{Upstream, UpstreamRef};
use crate::ffi::state::waits::INTERVAL;

/// What the workers of one configuration share.
#[derive(Default)]
pub(crate) struct Workers {
    upstreams: RefCell<Vec<Sharing>>,
    bells: OnceCell<Bells>,
    /// What this worker knows of the processes of all workers.
    known: OnceCell<KnownProcesses>,
    /// The memory of the ledgers, kept as long as they are: shared by all workers, and of each worker alone. The master makes
    /// both, so no worker can lack the second one when it needs it.
    memory: Cell<Option<[Mapping; 2]>>,
}

/// An upstream whose ledger is shared.
struct Sharing {
    upstream: UpstreamRef,
    servers: usize,
    changing: bool,
}

impl Workers {
    /// Notes an upstream whose workers share a ledger. `None` if there is no memory.
    pub(crate) fn add(&self, upstream: UpstreamRef, servers: usize, changing: bool) -> Option<()> {
        push(&mut self.upstreams.borrow_mut(), Sharing { upstream, servers, changing })
    }

    /// Makes memory and bells for a number of workers. Without memory each worker counts for itself.
    ///
    /// # Safety
    /// `cycle` is the live cycle to which they belong.
    pub(crate) unsafe fn open(&self, cycle: *mut ngx_cycle_t, workers: usize) {
        let Err(err) = self.share(workers) else { return };
        let errno = err.raw_os_error().unwrap_or(0);
        // SAFETY: the caller says that the cycle is live.
        let log = unsafe { Cycle::from_ptr(cycle) }.log();
        let line = c"keepalive: workers share no \"max_conns\", each has its own";
        write_line(log, NGX_LOG_CRIT, errno, line);
        for sharing in self.upstreams.borrow().iter() {
            if count_alone(&sharing.upstream, sharing.servers, sharing.changing).is_none() {
                let line =
                    c"keepalive: no memory to count connections, \"max_conns\" does not count idle ones";
                write_line(log, NGX_LOG_CRIT, libc::ENOMEM, line);
            }
        }
    }

    /// Answers the bell: something has changed for the requests that wait here, or other workers wait for this one.
    pub(crate) fn answer(&self) {
        for sharing in self.upstreams.borrow().iter() {
            if sharing.upstream.counts.shared().is_some_and(Ledger::is_rung) {
                sharing.upstream.post_dispatch();
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
        let words = upstreams.iter().map(size).sum();
        let memory = [Mapping::new(words)?, Mapping::private(words)?];
        let mut words = memory.each_ref().map(Mapping::words);
        // The ledgers that are made stay, even if there is no memory for all.
        self.memory.set(Some(memory));
        for sharing in upstreams.iter() {
            let [(shared, more_shared), (alone, more_alone)] =
                words.map(|words| words.split_at(size(sharing)));
            words = [more_shared, more_alone];
            let table = Table::shared(shared, alone);
            let ledger = Ledger::new(table, sharing.servers, workers, sharing.changing);
            let upstream = &*sharing.upstream;
            if let Some(ledger) = ledger {
                set_ledger(upstream, ledger).ok_or_else(no_memory)?;
            }
            upstream.counts.bells.set(Some(bells));
            upstream.counts.known.set(Some(known));
        }
        Ok(())
    }

    /// This process is now worker number `me`; `rung` is called when another worker has rung its bell. Returns whether it counts
    /// together with the other workers.
    ///
    /// # Safety
    /// `cycle` is the live cycle to which they belong.
    pub(crate) unsafe fn enter(&self, cycle: *mut ngx_cycle_t, me: usize, rung: Handler) -> bool {
        let mut is_alone = false;
        for sharing in self.upstreams.borrow().iter() {
            if let Some(ledger) = sharing.upstream.counts.shared() {
                ledger.set_worker(me);
                end_lost_requests(&sharing.upstream, |left| {
                    is_alone |= ledger.enter(this_process(), is_gone, wait_briefly, left) == Entered::Alone;
                });
            }
        }
        if is_alone {
            // SAFETY: the caller says that the cycle is live.
            let log = unsafe { Cycle::from_ptr(cycle) }.log();
            let line = c"keepalive: this worker counts \"max_conns\" alone until the next reload, because another process with its number still runs";
            write_line(log, NGX_LOG_NOTICE, 0, line);
            // The bell is that of the other process, which would miss a ring that is answered here.
            return false;
        }
        let Some(bell) = self.bells.get().and_then(|bells| bells.of(me)) else { return true };
        // If this fails, waiting requests are only dispatched once a second.
        // SAFETY: the caller says that the cycle is live; the descriptor is open as long as the cycle.
        if !unsafe { watch_channel(cycle, bell, rung) } {
            // SAFETY: the caller says that the cycle is live.
            let log = unsafe { Cycle::from_ptr(cycle) }.log();
            write_line(log, NGX_LOG_CRIT, 0, c"keepalive: other workers cannot wake this one");
        }
        true
    }
}

/// Checks once a second whether other workers were killed without being replaced, as after a reload, and takes back what
/// they had.
///
/// `read` reads the inbox of such a worker to its end.
pub(crate) fn recover(upstream: &Upstream, read: impl Fn(usize) -> bool) {
    let (Some(ledger), Some(known)) = (upstream.counts.shared(), upstream.counts.known.get()) else { return };
    let now = now();
    if upstream.counts.recovered.get().is_some_and(|then| now.wrapping_sub(then) < INTERVAL) {
        return;
    }
    upstream.counts.recovered.set(Some(now));
    // SAFETY: belongs to the same cycle as the upstream, and is only ever shared.
    let known = unsafe { known.as_ref() };
    end_lost_requests(upstream, |left| {
        let is_gone = |worker, process, answers| known.is_gone(worker, process, answers);
        ledger.recover(now, is_gone, left, &read);
    });
    // Connections that a killed worker has sent, or was to be sent, may be lost: their receivers find out.
    if ledger.transfers_due() {
        ledger.receivers().for_each(|worker| upstream.counts.ring(worker));
    }
    // What a worker that hangs does not take is used here.
    ledger.deaf_receivers(now).for_each(|worker| {
        read(worker);
    });
    // A worker that does not answer by the next check may be gone.
    ledger.unrung_holders().for_each(|worker| upstream.counts.ring(worker));
}

/// Ends the requests of a worker that was killed; `each` reports how many it had at each server.
fn end_lost_requests(upstream: &Upstream, each: impl FnOnce(&mut dyn FnMut(&[u8], u64))) {
    let servers = upstream.servers_in_zone();
    let mut any = false;
    each(&mut |address, requests| {
        any = true;
        servers.iter().for_each(|servers| servers.end_requests(address, requests));
    });
    if any {
        upstream.waits.forget_rooms();
    }
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

/// Notes the configured servers. Servers that are added later are noted when they are first used.
fn note_servers(upstream: &Upstream, ledger: &Ledger) -> Option<()> {
    // SAFETY: an explicit upstream, because only those have a pool; the cycle of a borrowed upstream is alive.
    let configured = unsafe { Configured::of(upstream.us) }?;
    for (address, limit) in configured.addresses.iter().filter(|(_, limit)| **limit > 0) {
        if !ledger.is_changing() {
            // The master does this before there are workers.
            ledger.note(address, *limit, 0, now(), |_| false);
        }
    }
    Some(())
}

/// Waits for something that takes another worker less than a millisecond, unless that worker was stopped. `times` is how
/// often it has waited before; `false`, without waiting, after about a second in all.
fn wait_briefly(times: u32) -> bool {
    let waits = times < 25;
    if waits {
        std::thread::sleep(Duration::from_millis((1 << times.min(6)).min(50)));
    }
    waits
}

fn no_memory() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ENOMEM)
}
