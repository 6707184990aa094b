//! The data of one request, from `get_keepalive_peer` to `free_keepalive_peer`.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{ngx_http_request_t, ngx_http_upstream_conf_t, ngx_pool_t, ngx_uint_t};

use crate::base::clock::Msec;
use crate::ledger::Server;
use crate::metrics::Meter;
use crate::pool::GroupRef;
use crate::queue::Ticket;
use crate::reuse::bound::Binding;
use crate::reuse::stale::Taken;

use super::refusal::FrameListener;
use crate::ffi::nginx::balancer::Balancer;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::elapsed;
use crate::ffi::nginx::request::{HttpUpstream, Request};
use crate::ffi::nginx::response::FirstBuffer;
use crate::ffi::state::notes::{Notes, Status};
use crate::ffi::state::reuse::{PinnedServer, Reuse};
use crate::ffi::state::stream::StreamRef;
use crate::ffi::state::tried::Tried;
use crate::ffi::state::upstream::{Bytes, Upstream};
use crate::ffi::state::waiter::Waiter;
use crate::ffi::state::waits::WaitFailure;

/// The `data` of the hooks of a request: it leads to the upstream, and has the hooks of the balancer.
pub(crate) struct PeerData {
    /// Lies in the pool of the request's cycle, which outlives the request.
    pub(crate) upstream: NonNull<Upstream>,
    pub(crate) r: NonNull<ngx_http_request_t>,
    pub(crate) u: HttpUpstream,
    /// In the request's pool, or an empty one of the upstream if that is plain.
    pub(crate) extra: NonNull<Extra>,
    pub(crate) own_conf: Cell<Option<NonNull<OwnConf>>>,
    /// The head of the request; another module may write it anew when it is asked for a server.
    pub(crate) first_buffer: Cell<FirstBuffer>,
    /// What an HTTP/2 server says about the request.
    pub(crate) ear: Option<NonNull<FrameListener>>,
    pub(crate) balancer: Cell<Balancer>,
    /// The request must not reuse TLS sessions, although the core believes that it may.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) without_sessions: Cell<bool>,
    /// The core believes that the request was sent, which it was not.
    pub(crate) unsent: Cell<bool>,
    /// The present attempt, once the identity of its connection is known.
    pub(crate) attempt: Cell<Option<Attempt>>,
    /// The connection of the present attempt came from another worker, and was not used in this one before.
    pub(crate) is_taken: Cell<bool>,
    /// Something was known of its server when it was taken from the pool.
    pub(crate) is_limited: Cell<bool>,
    /// The server of the present attempt, if it has `max_conns`: the request is counted there.
    pub(crate) server: Cell<Option<Server>>,
    /// The connection was found for its client, and the balancer does not know of the attempt.
    pub(crate) is_reclaimed: Cell<bool>,
    /// Counts the connection of the present attempt.
    pub(crate) meter: Cell<Option<Meter>>,
    /// For the log.
    pub(crate) notes: Notes,
    pub(crate) stage: Cell<Stage>,
    /// Set once the request has waited.
    pub(crate) waiter: Cell<Option<NonNull<Waiter>>>,
}

/// What a request has besides if its upstream is not plain: see [`Upstream::note_kind`].
#[derive(Default)]
pub(crate) struct Extra {
    /// With `keepalive ... local` a number for the location, otherwise 0.
    pub(crate) location: usize,
    /// The connection of the present attempt belongs to this client.
    pub(crate) binding: Cell<Option<Binding>>,
    /// The servers that have failed, if the request may have to wait.
    pub(crate) tried: Cell<Option<NonNull<Tried>>>,
    /// What it has of streams, if it ever had one.
    pub(crate) stream: Cell<Option<StreamRef>>,
    /// The number of the set of servers from which its server was chosen.
    #[cfg(nginx_resolve)]
    pub(crate) generation: Cell<usize>,
}

/// A copy of the configuration that allows the core to repeat the request; in the request's pool.
pub(crate) struct OwnConf {
    conf: ngx_http_upstream_conf_t,
    /// The configuration that the request had before.
    replaced: NonNull<ngx_http_upstream_conf_t>,
}

/// How far an attempt has got.
///
/// ```text
///   Asking --- no server has room ---> Queued ---> Granting: it asks again, or Failing
///     |                                               |
///     +----- the server's connections are idle in other workers ---> Parked ---> Resuming
///     |
///     +----- another worker may have a connection ---> Inquiring ---> Informed
///     |
///     +----- all streams of a connection are taken ---> AwaitingStream ---> TryingStream
///     |
///     +--> a connection from the pool that is stale ---> Again: it asks for another one
/// ```
///
/// `Asking` includes an attempt that has its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Asking,
    Queued(Ticket),
    Granting(Ticket),
    /// It has a server, and waits for a slot.
    Parked(Ticket),
    Resuming(Ticket),
    /// It has a server, and has asked another worker for a connection.
    Inquiring(Ticket),
    /// It has a server, and looks whether the other worker has sent a connection.
    Informed(Ticket),
    /// It has a server, and waits for a stream of a connection.
    AwaitingStream(Ticket),
    /// It has a server, and looks whether a stream is free.
    TryingStream(Ticket),
    /// It has a server, which refused the connection after the wait.
    Declined,
    Failing(WaitFailure),
    /// It has a server, and a slot for a connection to it, but needs another connection.
    Again(NonNull<PinnedServer>),
}

/// One connection of the request; begins with `get_keepalive_peer`.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    /// In the request's pool, or for a reused connection in the connection's pool.
    pub(crate) identity: Bytes,
    /// Whether the identity is the one used in the handshake; before the handshake, it is what the handshake is expected to use.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) from_handshake: bool,
    source: Source,
}

/// Where the connection of an attempt comes from.
#[derive(Clone, Copy)]
enum Source {
    Pool(Reuse),
    /// It is a new one; the pool has this group for it.
    New(Option<GroupRef>),
}

impl Attempt {
    /// With a connection from the pool.
    #[inline(always)]
    pub(crate) fn reused(identity: Bytes, reuse: Reuse) -> Self {
        Self {
            identity,
            #[cfg(ngx_feature = "http_ssl")]
            from_handshake: false,
            source: Source::Pool(reuse),
        }
    }

    /// With a new connection, for which the pool has this group.
    pub(crate) fn new(identity: Bytes, group: Option<GroupRef>) -> Self {
        Self {
            identity,
            #[cfg(ngx_feature = "http_ssl")]
            from_handshake: false,
            source: Source::New(group),
        }
    }

    /// With a new connection whose handshake uses the identity.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn of_handshake(identity: Bytes, group: Option<GroupRef>) -> Self {
        Self { from_handshake: true, ..Self::new(identity, group) }
    }

    /// Set if the connection came from the pool.
    #[inline(always)]
    pub(crate) fn reuse(&self) -> Option<Reuse> {
        match self.source {
            Source::Pool(reuse) => Some(reuse),
            Source::New(_) => None,
        }
    }

    /// With what can prove later that a request has not arrived, if the connection came from the pool.
    #[cold]
    pub(crate) fn with_proof(self, taken: Option<NonNull<Taken>>) -> Self {
        match self.source {
            Source::Pool(reuse) => Self { source: Source::Pool(Reuse { taken, ..reuse }), ..self },
            Source::New(_) => self,
        }
    }

    /// Whether the connection came from the pool.
    #[inline(always)]
    pub(crate) fn is_reused(&self) -> bool {
        matches!(self.source, Source::Pool(_))
    }

    /// The group of a new connection, if the pool has one.
    pub(crate) fn group(&self) -> Option<GroupRef> {
        match self.source {
            Source::Pool(_) => None,
            Source::New(group) => group,
        }
    }
}

impl PeerData {
    /// # Safety
    /// `data` is what the core passes to a hook that `init_keepalive_peer` has set.
    pub(crate) unsafe fn from_ptr<'a>(data: *mut c_void) -> &'a Self {
        // SAFETY: `init_keepalive_peer` has written it, in the pool of the live request; only its cells change.
        unsafe { &*data.cast() }
    }

    pub(crate) fn upstream(&self) -> &Upstream {
        // SAFETY: it lies in the pool of the cycle of the live request; an upstream is only ever shared.
        unsafe { self.upstream.as_ref() }
    }

    pub(crate) fn extra(&self) -> &Extra {
        // SAFETY: `init_keepalive_peer` has put it into the pool of the live request, or it lies in the upstream; only its cells
        // change.
        unsafe { self.extra.as_ref() }
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
        let has_more = || {
            self.extra().stream.get().is_some()
                || self.extra().binding.get().is_some()
                || self.is_reclaimed.get()
        };
        let is_plain = self.stage.get() == Stage::Asking && !self.unsent.get() && (PLAIN || !has_more());
        self.attempt.get().and_then(|attempt| attempt.reuse()).filter(|_| is_plain)
    }

    /// Notes how the present attempt got its connection, for the log.
    #[inline]
    pub(crate) fn note(&self, status: Status, requests: usize) {
        self.notes.note(self.request(), status, requests);
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
        // SAFETY: a copy in the request's pool, which differs only in what may be repeated.
        unsafe { self.u.set_conf(conf) };
        self.own_conf.set(Some(own));
    }

    /// Restores the configuration that the request had before, unless the request was given another one meanwhile. A
    /// module that makes a copy for a request, as Lua's `set_timeouts()` does, writes into the one that it finds there.
    #[cold]
    pub(crate) fn own_conf_ends(&self) {
        let Some(own) = self.own_conf.take() else { return };
        // SAFETY: `allow_repeating` has put it into the pool of the live request; nothing writes it while it is borrowed.
        let own = unsafe { own.as_ref() };
        if std::ptr::eq(self.u.conf().as_ptr(), &raw const own.conf) {
            // SAFETY: the configuration that the request had when the copy was made, which lives as long as the request.
            unsafe { self.u.set_conf(own.replaced) };
        }
    }

    /// How long the request has waited, if it has, in milliseconds.
    pub(crate) fn waited(&self) -> Option<Msec> {
        // SAFETY: `Waiter::new` has put it into the pool of the live request.
        self.waiter.get().map(|waiter| elapsed(unsafe { waiter.as_ref() }.since.get()))
    }

    /// The number of the set of servers from which its peer was chosen; 0 if servers do not change.
    pub(crate) fn generation(&self) -> usize {
        #[cfg(nginx_resolve)]
        return self.extra().generation.get();
        #[cfg(not(nginx_resolve))]
        0
    }

    /// The servers that have failed for the request.
    pub(crate) fn tried(&self) -> Option<&Tried> {
        // SAFETY: `note_tried` has put it into the pool of the live request.
        self.extra().tried.get().map(|tried| unsafe { tried.as_ref() })
    }

    pub(crate) fn request(&self) -> Request {
        // SAFETY: this data lies in the pool of the request, so the request is alive.
        unsafe { Request::from_ptr(self.r) }
    }

    /// Remembers which servers the balancer has tried for this request; after a wait the balancer would not know.
    #[cold]
    pub(crate) fn note_tried(&self) {
        if self.upstream().waits.directive.is_some() {
            // SAFETY: the cycle of a borrowed upstream is alive, and so are the request and its pool.
            let tried = unsafe { Tried::of(self.upstream().us, self.balancer.get(), self.pool()) };
            self.extra().tried.set(tried.or(self.extra().tried.get()));
        }
    }

    pub(crate) fn pool(&self) -> *mut ngx_pool_t {
        self.request().pool()
    }
}
