//! How many connections each server of an upstream has, if its `max_conns` limits them.

use std::cell::{Cell, OnceCell};
use std::ptr::NonNull;

use crate::base::clock::Msec;
use crate::ffi::nginx::process::{now, KnownProcesses};
use crate::ledger::{Ledger, Server};

use super::bells::Bells;

/// The counts of one upstream; nothing is counted if no server has `max_conns`.
pub(crate) struct Counts {
    pub(crate) ledger: OnceCell<Ledger>,
    /// To wake other workers, if the upstream has a zone.
    pub(crate) bells: Cell<Option<NonNull<Bells>>>,
    /// What this worker knows of the processes of the others, if the upstream has a zone.
    pub(crate) known: Cell<Option<NonNull<KnownProcesses>>>,
    /// When it was last looked what killed workers have left.
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

    /// The ledger, if others write it too.
    pub(crate) fn shared(&self) -> Option<&Ledger> {
        self.ledger.get().filter(|ledger| ledger.is_shared())
    }

    /// Wakes another worker, to look after this upstream.
    pub(crate) fn ring(&self, worker: usize) {
        if let (Some(ledger), Some(bells)) = (self.shared(), self.bells.get()) {
            ledger.ring(worker, now());
            // SAFETY: belongs to the same cycle as the upstream.
            unsafe { bells.as_ref() }.ring(worker);
        }
    }

    /// A request begins to use a limited server. Returns whether it is within the limit.
    pub(crate) fn start_request(&self, server: Server) -> bool {
        self.ledger.get().is_none_or(|ledger| ledger.begin_request(server))
    }

    /// A request has stopped using a limited server.
    pub(crate) fn end_request(&self, server: Server) {
        if let Some(ledger) = self.ledger.get() {
            ledger.end_request(server);
        }
    }

    /// A connection to the server is idle now.
    pub(crate) fn add_idle(&self, server: Option<Server>) {
        if let (Some(ledger), Some(server)) = (self.ledger.get(), server) {
            ledger.add_idle(server);
        }
    }

    /// A connection to the server is not idle any more.
    pub(crate) fn remove_idle(&self, server: Option<Server>) {
        if let (Some(ledger), Some(server)) = (self.ledger.get(), server) {
            ledger.remove_idle(server);
        }
    }

    /// A connection that was stored for one is used for the other: the same address, but its limit may
    /// have come or gone meanwhile.
    #[inline]
    pub(crate) fn reuse(&self, stored: Option<Server>, used: Option<Server>) {
        self.remove_idle(stored);
        let Some(ledger) = self.ledger.get() else { return };
        match (stored, used) {
            (None, Some(server)) => ledger.open_over_limit(server),
            (Some(server), None) => ledger.close(server),
            _ => {}
        }
    }

    /// A connection to the server is being closed.
    pub(crate) fn add_lingering(&self, server: Server) {
        if let Some(ledger) = self.ledger.get() {
            ledger.add_lingering(server);
        }
    }

    /// A request does not wait for room at the server any more.
    pub(crate) fn unpark(&self, server: Server) {
        if let Some(ledger) = self.ledger.get() {
            ledger.unpark(server);
        }
    }
}
