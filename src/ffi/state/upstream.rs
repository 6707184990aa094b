//! The pool of one `upstream` in one worker, between the hooks and the core.

use std::cell::{Cell, OnceCell};
use std::mem::MaybeUninit;
use std::num::NonZeroU16;
use std::ptr::NonNull;

use nginx_sys::{ngx_http_upstream_init_peer_pt, ngx_http_upstream_srv_conf_t, ngx_pool_t};

use crate::directive::KeepaliveDrain;
use crate::ledger::Server;
use crate::metrics::{Meter, QueueMeter, WorkerCounters};
use crate::pool::{Connection, GroupRef, IdlePool, Key, Offer};
use crate::reuse::bound::{Binding, Bindings};
use crate::reuse::identity::client_of;
use crate::reuse::lifetime::Limits;
use crate::reuse::stale::StaleRetry;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::Guarded;
use crate::ffi::nginx::memory::allocate;

use super::counts::Counts;
#[cfg(ngx_feature = "http_ssl")]
use super::tls_sessions::Sessions;
use super::waits::Waits;
#[cfg(nginx_resolve)]
use super::watch::Watch;

/// Belongs to the server conf of the upstream, lies in the cycle's pool and goes with it. Made by
/// the master; after the fork each worker has its own copy.
pub(crate) struct Upstream {
    pub(crate) us: NonNull<ngx_http_upstream_srv_conf_t>,
    /// The balancer's, which `init_keepalive_peer` calls first.
    pub(crate) original_init_peer: ngx_http_upstream_init_peer_pt,
    /// How long connections are kept; `None` if they are not.
    pub(crate) limits: Option<Limits>,
    pub(crate) local: bool,
    pub(crate) drain: KeepaliveDrain,
    /// `keepalive_check`: connections are looked at before they are used again.
    pub(crate) check: bool,
    pub(crate) stale_retry: StaleRetry,
    /// `keepalive_stale_fails`: the balancer hears of stale connections as of failed servers.
    pub(crate) stale_fails: bool,
    /// Watches servers that come and go, if the upstream has such.
    #[cfg(nginx_resolve)]
    pub(crate) watch: Option<Watch>,
    pub(crate) idle: Guarded<IdlePool<Idle>>,
    /// `ntlm`: the connections that belong to one client each.
    pub(crate) bindings: Option<Guarded<Bindings>>,
    /// A server has shown in this worker that it authenticates connections.
    pub(crate) is_stateful: Cell<bool>,
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) sessions: Sessions,
    /// That of the cycle in which it lies.
    pub(crate) pool: NonNull<ngx_pool_t>,
    /// One for each slot of the pool, in memory that lives as long as this; written when the slot is filled. The worker
    /// has it from the first connection on that is stored.
    pub(crate) places: Cell<Option<NonNull<MaybeUninit<Place>>>>,
    pub(crate) counts: Counts,
    pub(crate) waits: Waits,
    /// Its number among those that are counted.
    pub(crate) number: Cell<usize>,
    /// In a worker: where its numbers are.
    pub(crate) records: OnceCell<WorkerCounters>,
}

/// A connection in the pool.
#[derive(Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) conn: Conn,
    pub(crate) identity: Bytes,
    /// The server for which it counts.
    pub(crate) server: Option<Server>,
    /// What counts it.
    pub(crate) meter: Option<Meter>,
    /// It is closed sooner than `keepalive_timeout` says, because the server would close it.
    pub(crate) hinted: bool,
    /// How long a round trip takes, once that was asked.
    pub(crate) round_trip: Option<RoundTrip>,
    /// The number of the last request that the server serves on it, as far as it said.
    pub(crate) allowed: u32,
}

/// A time in milliseconds, rounded up.
pub(crate) type RoundTrip = NonZeroU16;

impl Idle {
    /// Whose it is, if it is one client's.
    pub(crate) fn binding(&self) -> Option<Binding> {
        client_of(self.identity()).map(|client| Binding::new(client, self.conn.number()))
    }
}

impl Connection for Idle {
    fn identity(&self) -> &[u8] {
        // SAFETY: the bytes of a stored connection lie in its own pool, and it is open.
        unsafe { self.identity.as_slice() }
    }
}

/// Bytes in a pool of nginx.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    data: NonNull<u8>,
    length: usize,
}

/// What the `data` of an idle connection points at: the way back to its slot.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) upstream: NonNull<Upstream>,
    pub(crate) slot: u32,
}

/// What became of a connection that was to be stored.
pub(crate) struct Stored {
    /// `None` if it could not be stored.
    pub(crate) place: Option<NonNull<Place>>,
    /// To be closed by the caller.
    pub(crate) evicted: Option<Idle>,
}

impl Upstream {
    /// What counts the connections to an address.
    pub(crate) fn meter(&self, address: &[u8]) -> Option<Meter> {
        self.records.get()?.meter(address)
    }

    /// What counts those who wait.
    pub(crate) fn queue_meter(&self) -> Option<QueueMeter> {
        self.records.get()?.queue()
    }

    /// Takes an idle connection that is as key.
    #[inline]
    pub(crate) fn checkout(&self, key: &Key<'_>) -> (Option<Idle>, Option<GroupRef>) {
        self.idle.with(|idle| idle.checkout(key)).unwrap_or((None, None))
    }

    /// Stores a connection that was opened for what is key.
    #[inline]
    pub(crate) fn store(&self, key: &Key<'_>, offer: Offer<Idle>) -> Stored {
        let Some(places) = self.places.get().or_else(|| self.make_places()) else {
            return Stored { place: None, evicted: None };
        };
        let Some(put) = self.idle.with(|idle| idle.put(key, offer)) else {
            return Stored { place: None, evicted: None };
        };
        if self.bindings.is_some() {
            self.note_slot(&offer.conn, put.stored.as_ref().ok());
        }
        Stored { place: put.stored.ok().map(|slot| self.place(places, slot)), evicted: put.evicted }
    }

    /// Notes where the connection of a client is, to find it when the client leaves.
    #[cold]
    fn note_slot(&self, idle: &Idle, slot: Option<&u32>) {
        if let (Some(bindings), Some(binding), Some(slot)) = (&self.bindings, idle.binding(), slot) {
            bindings.with(|all| all.store(binding, *slot));
        }
    }

    /// A connection that was bound to a client has come to its end.
    #[cold]
    pub(crate) fn unbind(&self, binding: Binding) {
        self.bindings.as_ref().and_then(|all| all.with(|all| all.end(binding)));
    }

    /// Whether the client is still there.
    pub(crate) fn has_client(&self, binding: Binding) -> bool {
        let knows = self.bindings.as_ref().and_then(|all| all.with(|all| all.knows(binding.client())));
        knows.unwrap_or(false)
    }

    /// Takes the oldest idle connection to a server.
    pub(crate) fn take_oldest_of(&self, server: Server) -> Option<Idle> {
        self.idle.with(|idle| idle.take_oldest_of(server)).flatten()
    }

    /// Marks the servers that are no longer there; returns whether there are any.
    pub(crate) fn mark_removed(&self, is_there: impl FnMut(&[u8]) -> bool) -> bool {
        self.idle.with(|idle| idle.mark_removed(is_there)).unwrap_or(false)
    }

    #[cfg(nginx_resolve)]
    pub(crate) fn is_empty(&self) -> bool {
        self.idle.with(|idle| idle.is_empty()).unwrap_or(true)
    }

    /// For the first connection that this worker stores here. `None` if there is no memory: it is not stored.
    #[cold]
    fn make_places(&self) -> Option<NonNull<MaybeUninit<Place>>> {
        let slots = self.idle.with(|idle| idle.capacity())?;
        // SAFETY: of the cycle in which the upstream lies, which is alive while it is used.
        self.places.set(unsafe { allocate(self.pool.as_ptr(), slots) });
        self.places.get()
    }

    fn place(&self, places: NonNull<MaybeUninit<Place>>, slot: u32) -> NonNull<Place> {
        // SAFETY: a slot's number is below the capacity, for which `make_places` has made places.
        let mut place = unsafe { places.add(slot as usize) };
        // SAFETY: the memory is ours, and only the connection in this slot points at it.
        let place = unsafe { place.as_mut() };
        NonNull::from(place.write(Place { upstream: NonNull::from(self), slot }))
    }
}

impl Bytes {
    pub(crate) const EMPTY: Self = Self { data: NonNull::dangling(), length: 0 };

    /// # Safety
    /// `data` points at `length` initialised bytes.
    pub(crate) unsafe fn new(data: NonNull<u8>, length: usize) -> Self {
        Self { data, length }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.length == 0
    }

    /// # Safety
    /// The pool in which the bytes lie is live for as long as the slice is used.
    pub(crate) unsafe fn as_slice<'a>(self) -> &'a [u8] {
        // SAFETY: initialised, by `new`; live, says the caller; nobody writes them again.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.length) }
    }
}
