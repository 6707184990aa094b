//! The state of one `upstream` in one worker: its pool of idle connections, and what belongs to it.

use std::cell::{Cell, OnceCell};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use nginx_sys::{ngx_http_upstream_init_peer_pt, ngx_http_upstream_srv_conf_t, ngx_str_t};

use crate::base::clock::Msec;
use crate::directive::{Http2, KeepaliveDrain};
use crate::http1::keep_alive::Margin;
use crate::ledger::Server;
use crate::lessons::{Known, Lesson, Witness};
use crate::metrics::{Cause, HandoverMeter, Http2Meter, Meter, QueueMeter, WorkerCounters};
use crate::pool::{Expiry, GroupRef, IdlePool, Key, Limit, Offer};
use crate::reuse::bound::{Binding, Bindings};
use crate::reuse::lifetime::Limits;
use crate::reuse::stale::StaleRetry;

use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::Guarded;
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::recycler::Recycler;
use crate::ffi::nginx::timer::Alarm;

use super::carrier::Carriers;
use super::counts::Counts;
use super::extra::Extra;
use super::handover::HandoverOf;
pub(crate) use super::idle::{Bytes, Idle, RoundTrip};
use super::lessons::{lesson_of, note, ServerLessons};
use super::peer_data::PeerData;
#[cfg(ngx_feature = "http_ssl")]
use super::tls_sessions::Sessions;
use super::waits::Waits;
#[cfg(nginx_resolve)]
use super::watch::Watch;

/// Belongs to the server conf of the upstream. Lies in the cycle's pool, and is dropped with it. The master makes it;
/// after the fork each worker has its own copy.
pub(crate) struct Upstream {
    pub(crate) us: NonNull<ngx_http_upstream_srv_conf_t>,
    /// The `init` of the balancer, which `init_keepalive_peer` calls first.
    pub(crate) original_init_peer: ngx_http_upstream_init_peer_pt,
    /// How long connections are kept; `None` if they are not.
    pub(crate) limits: Option<Limits>,
    pub(crate) local: bool,
    pub(crate) drain: KeepaliveDrain,
    /// `keepalive_check`: connections are checked before they are reused.
    pub(crate) check: bool,
    pub(crate) stale_retry: StaleRetry,
    /// `keepalive_stale_fails`: a stale connection is reported to the balancer as a failure of the server.
    pub(crate) stale_fails: bool,
    /// `http2`; off if the upstream keeps no connections, and if the event method cannot serve many requests over one. Constant
    /// once the configuration has been read.
    pub(crate) http2: Cell<Http2>,
    /// Watches servers that come and go, if the upstream has any.
    #[cfg(nginx_resolve)]
    pub(crate) watch: Option<Watch>,
    /// Nothing but the balancer and the pool has to be asked for a connection: see [`Upstream::note_kind`].
    pub(crate) is_plain: Cell<bool>,
    /// What its requests have besides then.
    pub(crate) nothing: Extra,
    /// Where the data of its requests lie. In the main configuration of the same cycle.
    pub(crate) requests: NonNull<Recycler<PeerData>>,
    pub(crate) idle: Guarded<IdlePool<Idle>>,
    /// Set for the next one of the idle connections that expires after `keepalive_timeout`, or earlier.
    pub(crate) expiry: Alarm,
    /// The connections that carry many requests.
    pub(crate) carriers: Carriers,
    /// `ntlm`: the connections that belong to one client each.
    pub(crate) bindings: Option<Guarded<Bindings>>,
    /// A server has shown in this worker that it authenticates connections.
    pub(crate) is_stateful: Cell<bool>,
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) sessions: Sessions,
    pub(crate) counts: Counts,
    pub(crate) waits: Waits,
    /// Connections from other workers that are being closed.
    pub(crate) refused: Guarded<Vec<Refused>>,
    /// `keepalive_handover`, and whether there is anything to hand over.
    pub(crate) hands_over: bool,
    /// In a worker that hands connections of this upstream over.
    pub(crate) handover: HandoverOf,
    /// Its number among the upstreams that are counted.
    pub(crate) number: Cell<usize>,
    /// In a worker: its counters.
    pub(crate) records: OnceCell<WorkerCounters>,
    /// In a worker: a server has closed a connection with its first answer, and did not announce it. Why, as far as the request of the
    /// last new connection tells.
    pub(crate) closes_for: Cell<Option<Cause>>,
    /// What was learned of the servers, if the upstream learns. Lies in the main configuration of the same cycle.
    pub(crate) lessons: Cell<Option<NonNull<ServerLessons>>>,
    /// The size of the pool.
    pub(crate) size: Limit,
}

/// Refers to an upstream from a connection, or from what workers share.
///
/// # Invariants
/// Points at an upstream whose cycle is alive. nginx keeps a cycle as long as a connection that was opened in it is open, and
/// destroys it by a timer of its own, so not before the handler that closes the last one has returned
/// (`ngx_clean_old_cycles()`).
#[derive(Clone, Copy)]
pub(crate) struct UpstreamRef(NonNull<Upstream>);

impl UpstreamRef {
    /// # Safety
    /// The cycle of the upstream is alive as long as this is used.
    pub(crate) unsafe fn new(upstream: NonNull<Upstream>) -> Self {
        Self(upstream)
    }
}

impl Deref for UpstreamRef {
    type Target = Upstream;

    #[inline]
    fn deref(&self) -> &Upstream {
        // SAFETY: its cycle is alive by the type invariant; an upstream is only ever shared.
        unsafe { self.0.as_ref() }
    }
}

/// A connection from another worker, to a limited server, that is being closed.
pub(crate) struct Refused {
    pub(crate) fd: OwnedFd,
    pub(crate) server: Server,
    /// When that began.
    pub(crate) since: Msec,
}

/// The result of storing a connection.
pub(crate) struct Stored {
    /// `None` if it could not be stored.
    pub(crate) slot: Option<u32>,
    /// The hash of its key.
    pub(crate) hash: u32,
    /// A connection that had to make room; the caller closes it.
    pub(crate) evicted: Option<Idle>,
}

impl Upstream {
    /// Notes whether requests take the short way: no request can wait, no connection carries many requests or belongs to a client,
    /// none is limited by `max_conns`, or by a location, and the servers do not change. Constant once the process has begun.
    pub(crate) fn note_kind(&self) {
        #[cfg(nginx_resolve)]
        let changes = self.watch.is_some();
        #[cfg(not(nginx_resolve))]
        let changes = false;
        let has_more = self.can_wait() || self.http2.get().is_on() || self.bindings.is_some() || self.local;
        self.is_plain.set(!has_more && !changes);
    }

    /// Where the data of its requests lie.
    #[inline(always)]
    pub(crate) fn requests(&self) -> &Recycler<PeerData> {
        // SAFETY: lies in the main configuration of the cycle of a borrowed upstream, and is only ever shared.
        unsafe { self.requests.as_ref() }
    }

    /// The servers, if the upstream has a `zone`.
    pub(crate) fn servers_in_zone(&self) -> Option<Servers> {
        // SAFETY: the cycle of a borrowed upstream is alive.
        unsafe { Servers::in_zone(self.us) }
    }

    /// The name of the upstream, for nginx's `%V`.
    pub(crate) fn name(&self) -> *const ngx_str_t {
        // SAFETY: the server conf of an upstream lives as long as the upstream; makes no reference.
        unsafe { &raw const (*self.us.as_ptr()).host }
    }

    /// The name of the upstream.
    pub(crate) fn name_bytes(&self) -> &[u8] {
        // SAFETY: the server conf of an upstream lives as long as the upstream; copies one field.
        let name = unsafe { (*self.us.as_ptr()).host };
        bytes(name)
    }

    /// A reference that a connection can keep.
    pub(crate) fn refer(&self) -> UpstreamRef {
        UpstreamRef(NonNull::from(self))
    }

    /// Counts the connections to an address.
    pub(crate) fn meter(&self, address: &[u8]) -> Option<Meter> {
        let records = self.records.get()?;
        let meter = records.meter(address)?;
        if let Some(lessons) = self.server_lessons() {
            let lesson = if records.is_shared(meter) { Lesson::none() } else { lessons.of(address) };
            note(meter, lesson);
        }
        Some(meter)
    }

    /// Whether it is learned when servers close connections.
    pub(crate) fn learns(&self) -> bool {
        self.limits.is_some_and(|limits| limits.learns)
    }

    /// What a connection to a server has to observe, by the counters of the server.
    #[inline]
    pub(crate) fn known(&self, meter: Option<Meter>) -> Known {
        let Some(lesson) = lesson_of(meter) else { return Known::NOTHING };
        let known = lesson.known();
        match self.limits {
            Some(Limits { margin: Some(margin @ Margin::Fixed(_)), .. }) if !known.is_nothing() => {
                lesson.known_with(margin)
            }
            _ => known,
        }
    }

    /// This process, as it learns.
    pub(crate) fn witness(&self) -> Witness {
        let nobody = Witness { process: 0, is_alive: |_| true };
        self.server_lessons().map_or(nobody, ServerLessons::witness)
    }

    fn server_lessons(&self) -> Option<&ServerLessons> {
        // SAFETY: lies in the main configuration of the cycle of a borrowed upstream, and is only ever shared.
        self.lessons.get().map(|lessons| unsafe { lessons.as_ref() })
    }

    /// Counts what is handed over.
    pub(crate) fn handover_meter(&self) -> Option<HandoverMeter> {
        self.records.get()?.handover()
    }

    /// Counts carriers, and the requests on them.
    pub(crate) fn http2_meter(&self) -> Option<Http2Meter> {
        self.records.get()?.http2()
    }

    /// Counts the requests in the queue.
    pub(crate) fn queue_meter(&self) -> Option<QueueMeter> {
        self.records.get()?.queue()
    }

    /// Takes an idle connection that fits the key, if there is one. Calls `take` with it, its slot, and since when it was idle.
    #[inline(always)]
    pub(crate) fn lend<R>(&self, key: &Key<'_>, take: impl FnOnce(&Idle, u32, Msec) -> R) -> Option<R> {
        self.idle
            .with(|idle| {
                idle.lend(key).and_then(|slot| idle.lent(slot, |idle, since| take(idle, slot, since)))
            })
            .flatten()
    }

    /// The server for which a connection counted that was just taken from a slot.
    pub(crate) fn server_of(&self, slot: u32) -> Option<Server> {
        self.idle.with(|idle| idle.lent(slot, |idle, _| idle.server.get())).flatten().flatten()
    }

    /// The group of a key, if the pool has one.
    #[cold]
    pub(crate) fn group_of(&self, key: &Key<'_>) -> Option<GroupRef> {
        self.idle.with(|idle| idle.group_of(key)).flatten()
    }

    /// Stores a connection in the slot that it had, if nothing about it has changed. Returns the hash of its key; `None` if
    /// that cannot be. `hinted` says whether it expires as the server has announced.
    #[inline(always)]
    pub(crate) fn put_back(
        &self,
        slot: u32,
        conn: Conn,
        server: Option<Server>,
        now: Msec,
        (expiry, hinted): (Expiry, bool),
    ) -> Option<u32> {
        self.idle
            .with(|idle| idle.put_back(slot, |idle| idle.stays(conn, server, hinted), now, expiry, server))
            .flatten()
    }

    /// The same for a connection with an identity, by the key for which it was opened: the group that it had may be gone.
    pub(crate) fn put_back_by_key(
        &self,
        (slot, conn): (u32, Conn),
        key: &Key<'_>,
        server: Option<Server>,
        now: Msec,
        (expiry, hinted): (Expiry, bool),
    ) -> Option<u32> {
        self.idle
            .with(|idle| {
                idle.put_back_by_key(slot, key, |idle| idle.stays(conn, server, hinted), now, expiry, server)
            })
            .flatten()
    }

    /// The server has announced for how many requests it accepts a connection that was taken from a slot.
    #[cold]
    pub(crate) fn set_allowed(&self, slot: u32, conn: Conn, allowed: u32) {
        self.idle.with(|idle| {
            if let Some(idle) = idle.lent_mut(slot).filter(|idle| idle.is(conn)) {
                idle.allowed = allowed;
            }
        });
    }

    /// A connection that was taken from a slot is not put back. Returns what the pool knew of it.
    #[cold]
    pub(crate) fn forget(&self, slot: u32, conn: Conn) -> Option<Idle> {
        self.idle.with(|idle| idle.forget(slot, |idle| idle.is(conn))).flatten()
    }

    /// Stores a connection with its key.
    #[inline]
    pub(crate) fn store(&self, key: &Key<'_>, offer: Offer<Idle>) -> Stored {
        let Some((put, hash)) = self.idle.with(|idle| idle.put_and_hash(key, offer)) else {
            return Stored { slot: None, hash: 0, evicted: None };
        };
        if self.bindings.is_some() {
            self.note_slot(&offer.conn, put.stored.as_ref().ok());
        }
        Stored { slot: put.stored.ok(), hash, evicted: put.evicted }
    }

    /// Notes the slot of a client's connection, to find it when the client leaves.
    #[cold]
    fn note_slot(&self, idle: &Idle, slot: Option<&u32>) {
        if let (Some(bindings), Some(binding), Some(slot)) = (&self.bindings, idle.binding(), slot) {
            bindings.with(|all| all.store(binding, *slot));
        }
    }

    /// Ends the binding of a connection to a client.
    #[cold]
    pub(crate) fn unbind(&self, binding: Binding) {
        self.bindings.as_ref().and_then(|all| all.with(|all| all.end(binding)));
    }

    /// Whether the client of the binding is still connected.
    pub(crate) fn has_client(&self, binding: Binding) -> bool {
        let knows = self.bindings.as_ref().and_then(|all| all.with(|all| all.knows(binding.client())));
        knows.unwrap_or(false)
    }

    /// Takes the connection in a slot.
    pub(crate) fn take_slot(&self, slot: u32) -> Option<Idle> {
        self.idle.with(|idle| idle.remove(slot, |_| true)).flatten()
    }

    /// Takes the oldest idle connection to a server.
    pub(crate) fn take_oldest_of(&self, server: Server) -> Option<Idle> {
        self.idle.with(|idle| idle.take_oldest_of(server)).flatten()
    }

    /// Marks the servers for which `is_there` is false; returns whether there are any.
    #[cfg(nginx_resolve)]
    pub(crate) fn mark_removed(&self, is_there: impl FnMut(&[u8]) -> bool) -> bool {
        self.idle.with(|idle| idle.mark_removed(is_there)).unwrap_or(false)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.idle.with(|idle| idle.is_empty()).unwrap_or(true)
    }
}
