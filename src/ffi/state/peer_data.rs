//! The data of one request, from `get_keepalive_peer` to `free_keepalive_peer`.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{ngx_http_request_t, ngx_http_upstream_conf_t, ngx_pool_t, ngx_uint_t};

use crate::base::clock::Msec;
use crate::metrics::Meter;
use crate::pool::GroupRef;
use crate::reuse::stale::Taken;

use crate::ffi::nginx::balancer::Balancer;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::request::{HttpUpstream, Request};
use crate::ffi::nginx::response::FirstBuffer;
use crate::ffi::state::extra::{Extra, Stage};
use crate::ffi::state::notes::{note, Notes, Status};
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::upstream::{Bytes, RoundTrip, Upstream};

/// The `data` of the hooks of a request: it leads to the upstream, and has the hooks of the balancer.
pub(crate) struct PeerData {
    /// Lies in the pool of the request's cycle, which outlives the request.
    pub(crate) upstream: NonNull<Upstream>,
    pub(crate) r: NonNull<ngx_http_request_t>,
    pub(crate) u: HttpUpstream,
    /// In the request's pool, or an empty one of the upstream, which nobody writes: see [`PeerData::extra`].
    pub(crate) extra: Cell<NonNull<Extra>>,
    /// The head of the request; another module may write it anew when it is asked for a server.
    pub(crate) first_buffer: Cell<FirstBuffer>,
    pub(crate) balancer: Cell<Balancer>,
    /// The present attempt, once the identity of its connection is known.
    pub(crate) attempt: Cell<Option<Attempt>>,
    /// Counts the connection of the present attempt.
    pub(crate) meter: Cell<Option<Meter>>,
    /// For the log.
    pub(crate) notes: Notes,
    /// The request must not reuse TLS sessions, although the core believes that it may.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) without_sessions: Cell<bool>,
    /// The core believes that the request was sent, which it was not.
    pub(crate) unsent: Cell<bool>,
    /// The connection of the present attempt came from another worker, and was not used in this one before.
    pub(crate) is_taken: Cell<bool>,
    /// Something was known of its server when it was taken from the pool.
    pub(crate) is_limited: Cell<bool>,
}

// Each request that has an upstream at the same time needs so much.
const _: () = assert!(size_of::<PeerData>() <= 136);

/// A copy of the configuration that allows the core to repeat the request; in the request's pool.
pub(crate) struct OwnConf {
    conf: ngx_http_upstream_conf_t,
    /// The configuration that the request had before.
    replaced: NonNull<ngx_http_upstream_conf_t>,
}

/// One connection of the request; begins with `get_keepalive_peer`.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    /// In the request's pool, or for a reused connection in the connection's pool.
    pub(crate) identity: Bytes,
    /// What can prove later that the request has not arrived, if the connection came from the pool; in the request's pool.
    pub(crate) taken: Option<NonNull<Taken>>,
    source: Source,
}

/// Where the connection of an attempt comes from. A new one has this group in the pool, if it has one.
#[derive(Clone, Copy)]
enum Source {
    /// The fields of [`Reuse`], which need less space here.
    Pool { since: Msec, slot: u32, allowed: u32, round_trip: Option<RoundTrip> },
    /// The identity is the one that the handshake is expected to use, if there is one.
    New(Option<GroupRef>),
    /// The identity is the one that the handshake has used.
    #[cfg(ngx_feature = "http_ssl")]
    Handshake(Option<GroupRef>),
}

impl Attempt {
    /// With a connection from the pool.
    #[inline(always)]
    pub(crate) fn reused(identity: Bytes, reuse: Reuse) -> Self {
        let Reuse { since, slot, allowed, round_trip } = reuse;
        Self { identity, taken: None, source: Source::Pool { since, slot, allowed, round_trip } }
    }

    /// With a new connection, for which the pool has this group.
    pub(crate) fn new(identity: Bytes, group: Option<GroupRef>) -> Self {
        Self { identity, taken: None, source: Source::New(group) }
    }

    /// With a new connection whose handshake uses the identity.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn of_handshake(identity: Bytes, group: Option<GroupRef>) -> Self {
        Self { identity, taken: None, source: Source::Handshake(group) }
    }

    /// Set if the connection came from the pool.
    #[inline(always)]
    pub(crate) fn reuse(&self) -> Option<Reuse> {
        match self.source {
            Source::Pool { since, slot, allowed, round_trip } => {
                Some(Reuse { since, slot, allowed, round_trip })
            }
            _ => None,
        }
    }

    /// With what can prove later that a request has not arrived.
    #[cold]
    pub(crate) fn with_proof(self, taken: Option<NonNull<Taken>>) -> Self {
        Self { taken, ..self }
    }

    /// Whether the connection came from the pool.
    #[inline(always)]
    pub(crate) fn is_reused(&self) -> bool {
        matches!(self.source, Source::Pool { .. })
    }

    /// Whether the identity is the one used in the handshake; before the handshake, it is what the handshake is expected to use.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn is_from_handshake(&self) -> bool {
        matches!(self.source, Source::Handshake(_))
    }

    /// The group of a new connection, if the pool has one.
    pub(crate) fn group(&self) -> Option<GroupRef> {
        match self.source {
            Source::Pool { .. } => None,
            Source::New(group) => group,
            #[cfg(ngx_feature = "http_ssl")]
            Source::Handshake(group) => group,
        }
    }
}

impl PeerData {
    /// # Safety
    /// `data` is what the core passes to a hook that `init_keepalive_peer` has set.
    pub(crate) unsafe fn from_ptr<'a>(data: *mut c_void) -> &'a Self {
        // SAFETY: `init_keepalive_peer` has written it, and it lives as long as the request; only its cells change.
        unsafe { &*data.cast() }
    }

    pub(crate) fn upstream(&self) -> &Upstream {
        // SAFETY: it lies in the pool of the cycle of the live request; an upstream is only ever shared.
        unsafe { self.upstream.as_ref() }
    }

    /// Whether the core calls the hooks of the peer with this data, without another module in between.
    #[inline]
    pub(crate) fn is_data_of(&self, peer: Peer) -> bool {
        std::ptr::eq(peer.data().cast(), self)
    }

    /// The connection from the pool that the attempt has, if it is a plain one: no stream, no client's, and nothing is to be done about
    /// it but to give it back. `PLAIN` says that the upstream is plain.
    #[inline(always)]
    pub(crate) fn reuse_without_more<const PLAIN: bool>(&self) -> Option<Reuse> {
        let extra = self.extra();
        let has_more = || extra.stream().is_some() || extra.binding().is_some() || extra.is_reclaimed();
        let is_plain = extra.stage() == Stage::Asking && !self.unsent.get() && (PLAIN || !has_more());
        self.attempt.get().and_then(|attempt| attempt.reuse()).filter(|_| is_plain)
    }

    /// Notes how the present attempt got its connection, for the log.
    #[inline]
    pub(crate) fn note(&self, status: Status, requests: usize) {
        note(self, status, requests);
    }

    /// Allows the core to repeat the request after these failures (`NGX_HTTP_UPSTREAM_FT_*`), by a copy of the present
    /// configuration of the request. The copy is used until the request asks for a server again.
    #[cold]
    pub(crate) fn allow_repeating(&self, failures: u32) {
        self.own_conf_ends();
        let replaced = self.u.conf();
        let mut conf = self.u.location_conf().copy();
        conf.next_upstream |= failures as ngx_uint_t;
        let Some(own) = self.request().memory().put(OwnConf { conf, replaced }) else { return };
        // SAFETY: written above, in the pool of the live request; makes no reference.
        let conf = unsafe { &raw mut (*own.as_ptr()).conf };
        let Some(conf) = NonNull::new(conf) else { return };
        if self.set_own_conf(own).is_some() {
            // SAFETY: a copy in the request's pool, which differs only in what may be repeated.
            unsafe { self.u.set_conf(conf) };
        }
    }

    /// Restores the configuration that the request had before, unless the request was given another one meanwhile. A
    /// module that makes a copy for a request, as Lua's `set_timeouts()` does, writes into the one that it finds there.
    #[cold]
    pub(crate) fn own_conf_ends(&self) {
        let Some(own) = self.take_own_conf() else { return };
        // SAFETY: `allow_repeating` has put it into the pool of the live request; nothing writes it while it is borrowed.
        let own = unsafe { own.as_ref() };
        if std::ptr::eq(self.u.conf().as_ptr(), &raw const own.conf) {
            // SAFETY: the configuration that the request had when the copy was made, which lives as long as the request.
            unsafe { self.u.set_conf(own.replaced) };
        }
    }

    pub(crate) fn request(&self) -> Request {
        // SAFETY: this data lives as long as the pool of the request, so the request is alive.
        unsafe { Request::from_ptr(self.r) }
    }

    pub(crate) fn pool(&self) -> *mut ngx_pool_t {
        self.request().pool()
    }
}
