//! The number of connections to each server of an upstream that has `max_conns`.

use std::cell::{Cell, OnceCell};
use std::ptr::NonNull;

use crate::base::clock::Msec;
use crate::ffi::nginx::process::{now, KnownProcesses};
use crate::ledger::{Ledger, Server};

use super::bells::Bells;

/// The counts of one upstream; nothing is counted if no server has `max_conns`.
pub(crate) struct Counts {
    pub(crate) ledger: OnceCell<Ledger>,
    /// Wake other workers, if the upstream has a zone.
    pub(crate) bells: Cell<Option<NonNull<Bells>>>,
    /// What this worker knows of the processes of the others, if the upstream has a zone.
    pub(crate) known: Cell<Option<NonNull<KnownProcesses>>>,
    /// When this worker last looked for what killed workers have left.
    pub(crate) recovered: Cell<Option<Msec>>,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self {
            ledger: OnceCell::new(),
            bells: Cell::new(None),
            known: Cell::new(None),
            recovered: Cell::new(None),
        }
    }

    /// The ledger, if other workers write it too.
    pub(crate) fn shared(&self) -> Option<&Ledger> {
        self.ledger.get().filter(|ledger| ledger.is_shared())
    }

    /// Wakes another worker, so that it checks this upstream.
    pub(crate) fn ring(&self, worker: usize) {
        if let (Some(ledger), Some(bells)) = (self.shared(), self.bells.get()) {
            ledger.ring(worker, now());
            // SAFETY: the bells belong to the same cycle as the upstream, and are not changed once they are made.
            unsafe { bells.as_ref() }.ring(worker);
        }
    }

    /// Counts a request to a limited server. Returns whether it is within the limit.
    pub(crate) fn start_request(&self, server: Server) -> bool {
        self.ledger.get().is_none_or(|ledger| ledger.begin_request(server))
    }

    /// Counts the end of a request to a limited server.
    pub(crate) fn end_request(&self, server: Server) {
        if let Some(ledger) = self.ledger.get() {
            ledger.end_request(server);
        }
    }

    /// Counts an idle connection to the server.
    #[inline(always)]
    pub(crate) fn add_idle(&self, server: Option<Server>) {
        if let (Some(ledger), Some(server)) = (self.ledger.get(), server) {
            ledger.add_idle(server);
        }
    }

    /// Counts one idle connection to the server less.
    pub(crate) fn remove_idle(&self, server: Option<Server>) {
        if let (Some(ledger), Some(server)) = (self.ledger.get(), server) {
            ledger.remove_idle(server);
        }
    }

    /// A connection that was stored for `stored` is reused for `used`: both have the same address, but its limit may have
    /// been added or removed meanwhile.
    #[inline(always)]
    pub(crate) fn reuse(&self, stored: Option<Server>, used: Option<Server>) {
        if let Some(ledger) = self.ledger.get() {
            self.reuse_slot(ledger, stored, used);
        }
    }

    #[inline(never)]
    fn reuse_slot(&self, ledger: &Ledger, stored: Option<Server>, used: Option<Server>) {
        self.remove_idle(stored);
        match (stored, used) {
            (None, Some(server)) => ledger.open_over_limit(server),
            (Some(server), None) => ledger.close(server),
            _ => {}
        }
    }

    /// Counts a connection to the server that is being closed.
    pub(crate) fn add_lingering(&self, server: Server) {
        if let Some(ledger) = self.ledger.get() {
            ledger.add_lingering(server);
        }
    }

    /// A request no longer waits for a slot at the server.
    pub(crate) fn unpark(&self, server: Server) {
        if let Some(ledger) = self.ledger.get() {
            ledger.unpark(server);
        }
    }
}
