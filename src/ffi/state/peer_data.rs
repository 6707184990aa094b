//! What a request carries along from get to free.

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

use super::refusal::FrameListener;
use crate::ffi::nginx::balancer::Balancer;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::elapsed;
use crate::ffi::nginx::request::{HttpUpstream, Request};
use crate::ffi::nginx::response::FirstBuffer;
use crate::ffi::state::notes::{Notes, Status};
use crate::ffi::state::reuse::{PinnedServer, Reuse};
use crate::ffi::state::tried::Tried;
use crate::ffi::state::upstream::{Bytes, Upstream};
use crate::ffi::state::waiter::Waiter;
use crate::ffi::state::waits::WaitFailure;

/// What a request carries along: the way to the pool, and the hooks that were there before ours.
pub(crate) struct PeerData {
    /// Lives in the request's cycle, which outlives the request.
    pub(crate) upstream: NonNull<Upstream>,
    pub(crate) r: NonNull<ngx_http_request_t>,
    pub(crate) u: HttpUpstream,
    /// That of the location. The request may have another one: ours for a while, or that of another module.
    pub(crate) conf: NonNull<ngx_http_upstream_conf_t>,
    pub(crate) own_conf: Cell<Option<NonNull<OwnConf>>>,
    /// Another module may write the request anew when it is asked for a server.
    pub(crate) first_buffer: Cell<FirstBuffer>,
    /// What an HTTP/2 server says of the request.
    pub(crate) ear: Option<NonNull<FrameListener>>,
    pub(crate) balancer: Cell<Balancer>,
    /// The request must not reuse TLS sessions, though the core is made to think so.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) without_sessions: Cell<bool>,
    /// The core thinks that a server has got the request, which it has not.
    pub(crate) unsent: Cell<bool>,
    /// The present attempt: what its connection is shaped by, if that is known.
    pub(crate) attempt: Cell<Option<Attempt>>,
    /// The server of the present attempt, if it limits its connections: the request is counted there.
    pub(crate) server: Cell<Option<Server>>,
    /// The connection of the present attempt belongs to this client.
    pub(crate) binding: Cell<Option<Binding>>,
    /// It was found for the client, and the balancer does not know of the attempt.
    pub(crate) is_reclaimed: Cell<bool>,
    /// What counts the connection of the present attempt.
    pub(crate) meter: Cell<Option<Meter>>,
    /// What can be logged.
    pub(crate) notes: Notes,
    pub(crate) stage: Cell<Stage>,
    /// The servers that have failed, for a request that may come to wait.
    pub(crate) tried: Cell<Option<NonNull<Tried>>>,
    /// Once the request has waited.
    pub(crate) waiter: Cell<Option<NonNull<Waiter>>>,
    #[cfg(nginx_resolve)]
    pub(crate) generation: Cell<usize>,
}

/// A configuration that lets the core repeat the request; in the request's pool.
pub(crate) struct OwnConf {
    conf: ngx_http_upstream_conf_t,
    /// What the request had before.
    replaced: NonNull<ngx_http_upstream_conf_t>,
}

/// How far an attempt is.
///
/// ```text
///   Asking --- no server has room ---> Queued ---> Granting: it asks again, or Failing
///     |                                               |
///     +----- the server's connections are idle in other workers ---> Parked ---> Resuming
///     |
///     +--> a connection from the pool that is stale ---> Again: it asks for another one
/// ```
///
/// An attempt that asks may have its connection by now, which is the end of the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Asking,
    Queued(Ticket),
    Granting(Ticket),
    /// It has a server.
    Parked(Ticket),
    Resuming(Ticket),
    /// It has a server, which refused the connection after the wait.
    Declined,
    Failing(WaitFailure),
    /// It has a server, and a place for a connection to it, but needs another connection.
    Again(NonNull<PinnedServer>),
}

/// One connection of the request; `get_keepalive_peer` begins it.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    /// In the request's pool, or in the connection's if it is a reused one.
    pub(crate) identity: Bytes,
    /// The identity was told by the handshake; before, it is what the handshake should be given.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) from_handshake: bool,
    pub(crate) group: Option<GroupRef>,
    /// If it came from the pool.
    pub(crate) reuse: Option<Reuse>,
}

impl PeerData {
    /// # Safety
    /// `data` is what the core passes to a hook that `init_keepalive_peer` has set.
    pub(crate) unsafe fn from_ptr<'a>(data: *mut c_void) -> &'a Self {
        // SAFETY: `init_keepalive_peer` wrote it, only its cells change, and it lies in the request's pool.
        unsafe { &*data.cast() }
    }

    pub(crate) fn upstream(&self) -> &Upstream {
        // SAFETY: see the field; an upstream is only ever shared.
        unsafe { self.upstream.as_ref() }
    }

    /// With `local` a number for the location, otherwise 0.
    pub(crate) fn location(&self) -> usize {
        if self.upstream().local {
            self.conf.as_ptr() as usize
        } else {
            0
        }
    }

    /// Whether the core calls the hooks of the peer with this, and no other module stands before them.
    #[inline]
    pub(crate) fn is_data_of(&self, peer: Peer) -> bool {
        std::ptr::eq(peer.data().cast(), self)
    }

    /// Notes what the present attempt has got, for the log.
    #[inline]
    pub(crate) fn note(&self, status: Status, requests: usize) {
        self.notes.note(self.request(), status, requests);
    }

    /// Lets the core repeat the request after these failures, by a copy of the configuration that the request has now. It
    /// holds until the request asks for a server again.
    #[cold]
    pub(crate) fn allow_repeating(&self, failures: u32) {
        self.own_conf_ends();
        let replaced = self.u.conf();
        // SAFETY: that of the location, which lives in the cycle of the request, or one that another module has put into
        // the request's place for as long as that lives; only read here.
        let mut conf = unsafe { replaced.read() };
        conf.next_upstream |= failures as ngx_uint_t;
        // SAFETY: the pool of the live request.
        let Some(memory) = (unsafe { allocate::<OwnConf>(self.pool(), 1) }) else { return };
        let own = memory.cast::<OwnConf>();
        // SAFETY: allocated above.
        unsafe { own.write(OwnConf { conf, replaced }) };
        // SAFETY: written above; makes no reference.
        let conf = unsafe { &raw mut (*own.as_ptr()).conf };
        let Some(conf) = NonNull::new(conf) else { return };
        // SAFETY: a copy, in the request's pool.
        unsafe { self.u.set_conf(conf) };
        self.own_conf.set(Some(own));
    }

    /// Gives the request the configuration back that it had before, unless somebody has given it another one meanwhile: a
    /// module that has its own copy for a request writes into what it finds there, as Lua's `set_timeouts()` does.
    #[cold]
    pub(crate) fn own_conf_ends(&self) {
        let Some(own) = self.own_conf.take() else { return };
        // SAFETY: `allow_repeating` has put it into the pool of the live request; nobody holds a reference to it.
        let own = unsafe { own.as_ref() };
        if std::ptr::eq(self.u.conf().as_ptr(), &raw const own.conf) {
            // SAFETY: what the request had when the copy was made: it lives as long as the request.
            unsafe { self.u.set_conf(own.replaced) };
        }
    }

    /// How long the request has waited, if it has, in milliseconds.
    pub(crate) fn waited(&self) -> Option<Msec> {
        // SAFETY: in the pool of the live request.
        self.waiter.get().map(|waiter| elapsed(unsafe { waiter.as_ref() }.since.get()))
    }

    /// Which set of servers its peer was chosen from, if servers come and go.
    pub(crate) fn generation(&self) -> usize {
        #[cfg(nginx_resolve)]
        return self.generation.get();
        #[cfg(not(nginx_resolve))]
        0
    }

    /// The servers that have failed for the request.
    pub(crate) fn tried(&self) -> Option<&Tried> {
        // SAFETY: `note_tried` has put it into the pool of the request, which is alive.
        self.tried.get().map(|tried| unsafe { tried.as_ref() })
    }

    pub(crate) fn request(&self) -> Request {
        // SAFETY: this lies in the pool of the request, which is alive as long as its hooks are called.
        unsafe { Request::from_ptr(self.r) }
    }

    /// Remembers what the balancer has tried for this request; after a wait it would not know.
    #[cold]
    pub(crate) fn note_tried(&self) {
        if self.upstream().waits.directive.is_some() {
            // SAFETY: the upstream's cycle is alive while it is used, and the request alive.
            let tried = unsafe { Tried::of(self.upstream().us, self.balancer.get(), self.pool()) };
            self.tried.set(tried.or(self.tried.get()));
        }
    }

    pub(crate) fn pool(&self) -> *mut ngx_pool_t {
        self.request().pool()
    }
}
