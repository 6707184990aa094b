//! `max_conns` with idle connections: how many connections each server has, and who gets the next.

use std::cell::{Cell, OnceCell};
use std::ptr::NonNull;

use crate::base::clock::Msec;
use crate::ledger::{Ledger, Server, Table};
use crate::metrics::{End, Phase};

use crate::ffi::idle::idle;
#[cfg(nginx_resolve)]
use crate::ffi::idle::resolve::Watch;
use crate::ffi::max_conns::linger::linger;
#[cfg(nginx_resolve)]
use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::configured::Configured;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::timer::now;
#[cfg(nginx_resolve)]
use crate::ffi::shared::workers::is_gone;
use crate::ffi::shared::workers::Workers;
use crate::ffi::state::upstream::{Idle, Upstream};
use crate::ffi::waiting::enqueue::INTERVAL;

/// The counts of one upstream; nothing is counted if no server has `max_conns`.
pub(crate) struct Counts {
    pub(crate) ledger: OnceCell<Ledger>,
    /// To wake other workers, if the upstream has a zone.
    pub(crate) workers: Cell<Option<NonNull<Workers>>>,
    /// When it was last looked what killed workers have left.
    pub(crate) recovered: Cell<Option<Msec>>,
}

/// Whether a connection may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It is counted now.
    Yes,
    /// Others have as many as the server allows, but soon there will be one less.
    Wait,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self { ledger: OnceCell::new(), workers: Cell::new(None), recovered: Cell::new(None) }
    }

    /// The ledger, if others write it too.
    pub(crate) fn shared(&self) -> Option<&Ledger> {
        self.ledger.get().filter(|ledger| ledger.is_shared())
    }
}

impl Upstream {
    /// Wakes another worker, to look after this upstream.
    pub(crate) fn ring(&self, worker: usize) {
        if let (Some(ledger), Some(workers)) = (self.counts.shared(), self.counts.workers.get()) {
            ledger.ring(worker, now());
            // SAFETY: belongs to the same cycle as the upstream.
            unsafe { workers.as_ref() }.ring(worker);
        }
    }

    /// Counts for this worker alone. `None` if there is no memory.
    pub(crate) fn count_alone(&self, servers: usize, changing: bool) -> Option<()> {
        self.set_ledger(Ledger::new(Table::own(servers)?, servers, 1, changing)?)
    }

    /// Begins to count. `None` if there is no memory.
    pub(crate) fn set_ledger(&self, ledger: Ledger) -> Option<()> {
        self.note_servers(&ledger)?;
        // Nothing was counted before.
        let _ = self.counts.ledger.set(ledger);
        Some(())
    }

    /// Notes the servers of the configuration; those that come later are noted when they are met.
    fn note_servers(&self, ledger: &Ledger) -> Option<()> {
        // SAFETY: explicit, as it has a pool; its cycle is alive.
        let configured = unsafe { Configured::of(self.us) }?;
        for (address, limit) in configured.addresses.iter().filter(|(_, limit)| **limit > 0) {
            if !ledger.is_changing() {
                // By the master, before there is a worker.
                ledger.note(address, *limit, 0, now(), |_| false);
            }
        }
        Some(())
    }

    /// The server at an address, if its `max_conns` limits it.
    pub(crate) fn limited_server(&self, address: &[u8]) -> Option<Server> {
        let ledger = self.counts.ledger.get()?;
        #[cfg(nginx_resolve)]
        if let Some(watch) = self.watch.as_ref().filter(|_| ledger.is_changing()) {
            return self.changing_server(ledger, watch, address);
        }
        ledger.find(address, 0).filter(|(_, limited)| *limited).map(|(server, _)| server)
    }

    /// Servers come and go, so that the balancer has to be asked for the limit of a new one.
    #[cfg(nginx_resolve)]
    fn changing_server(&self, ledger: &Ledger, watch: &Watch, address: &[u8]) -> Option<Server> {
        let generation = watch.generation() as u64;
        if let Some((server, limited)) = ledger.find(address, generation) {
            return limited.then_some(server);
        }
        // SAFETY: the upstream's cycle is alive while it is used.
        let limit = unsafe { Servers::in_zone(self.us) }?.limit(address);
        ledger.note(address, limit, generation, now(), is_gone).filter(|_| limit > 0)
    }

    /// A request begins to use a limited server. Returns whether it is within the limit.
    pub(crate) fn begin(&self, server: Server) -> bool {
        self.counts.ledger.get().is_none_or(|ledger| ledger.begin(server))
    }

    /// A request has stopped using a limited server.
    pub(crate) fn end(&self, server: Server) {
        if let Some(ledger) = self.counts.ledger.get() {
            ledger.end(server);
        }
    }

    pub(crate) fn add_idle(&self, server: Option<Server>) {
        if let (Some(ledger), Some(server)) = (self.counts.ledger.get(), server) {
            ledger.add_idle(server);
        }
    }

    /// A connection that was stored for one is used for the other: the same address, but its limit may
    /// have come or gone meanwhile.
    #[inline]
    pub(crate) fn reuse(&self, stored: Option<Server>, used: Option<Server>) {
        self.remove_idle(stored);
        let Some(ledger) = self.counts.ledger.get() else { return };
        match (stored, used) {
            (None, Some(server)) => ledger.open_beyond(server),
            (Some(server), None) => ledger.close(server),
            _ => {}
        }
    }

    pub(crate) fn remove_idle(&self, server: Option<Server>) {
        if let (Some(ledger), Some(server)) = (self.counts.ledger.get(), server) {
            ledger.remove_idle(server);
        }
    }

    pub(crate) fn stop_parking(&self, server: Server) {
        if let Some(ledger) = self.counts.ledger.get() {
            ledger.unpark(server);
        }
    }

    /// Makes room for a new connection to the server; an idle one that is of no use to the request
    /// is closed for it. `within` says that the requests at the server are within its limit: if they
    /// are not, the balancer does not know the limit, and nothing is to be waited for. `parked`: how
    /// long the request has waited for room, if it has.
    pub(crate) fn room(&self, server: Server, within: bool, parked: Option<Msec>) -> Room {
        let Some(ledger) = self.counts.ledger.get() else { return Room::Yes };
        if within && parked.is_none() && ledger.has_parked(server) {
            return Room::Wait;
        }
        loop {
            if ledger.open(server) {
                return Room::Yes;
            }
            // A worker that hangs is not to keep others from a server that has nothing to do.
            let in_vain =
                parked.is_some_and(|time| time >= INTERVAL) && ledger.is_out_of_reach(server, now());
            if !within || in_vain {
                ledger.open_beyond(server);
                return Room::Yes;
            }
            if ledger.room_is_coming(server) {
                return Room::Wait;
            }
            let Some(idle) = self.take_oldest_of(server) else { return Room::Wait };
            if !self.close(idle, End::Evicted) {
                return Room::Wait;
            }
        }
    }

    /// Whether a connection that could be stored is to be closed, because another worker needs one.
    pub(crate) fn must_yield(&self, server: Option<Server>) -> bool {
        let (Some(ledger), Some(server)) = (self.counts.shared(), server) else { return false };
        let waits_elsewhere = || ledger.another_waits_longest(now()).is_some();
        let parked_elsewhere = || ledger.parked(server).next().is_some() && ledger.lacks_room(server, now());
        ledger.take_asked(server) || ledger.is_full(server) && (waits_elsewhere() || parked_elsewhere())
    }

    /// Closes a connection that was in the pool. Returns whether its place is free at once.
    pub(crate) fn close(&self, idle: Idle, why: End) -> bool {
        if let Some(meter) = idle.meter {
            meter.end(Phase::Idle, why);
        }
        if let Some(binding) = idle.binding() {
            self.unbind(binding);
        }
        self.remove_idle(idle.server);
        self.close_counted(idle.conn, idle.server)
    }

    /// Closes a connection that nobody has. Returns whether its place is free at once.
    pub(crate) fn close_counted(&self, conn: Conn, server: Option<Server>) -> bool {
        // At the end of a worker nothing is waited for any more.
        if server.is_some_and(|server| !self.is_ending() && linger(conn, self, server)) {
            return false;
        }
        idle::close(conn);
        if let Some(server) = server {
            self.closed(server);
        }
        true
    }

    /// A connection to the server is being closed.
    pub(crate) fn add_lingering(&self, server: Server) {
        if let Some(ledger) = self.counts.ledger.get() {
            ledger.add_lingering(server);
        }
    }

    /// It is closed.
    pub(crate) fn lingered(&self, server: Server) {
        if let Some(ledger) = self.counts.ledger.get() {
            ledger.remove_lingering(server);
        }
        self.closed(server);
    }

    /// There is room for one more connection to the server.
    pub(crate) fn closed(&self, server: Server) {
        let Some(ledger) = self.counts.ledger.get() else { return };
        ledger.close(server);
        if ledger.is_shared() {
            ledger.parked(server).for_each(|worker| self.ring(worker));
        }
        if self.waits.any_parked() {
            self.wake();
        }
    }
}
