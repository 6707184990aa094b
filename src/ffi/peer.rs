//! The way of a request: `init_keepalive_peer` when its upstream is chosen, `get_keepalive_peer`
//! when it needs a connection, `free_keepalive_peer` when it is done with it.
//!
//! Each hook stands before the balancer's and calls it, as in nginx's own keepalive module.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_request_t, ngx_http_upstream_conf_t, ngx_http_upstream_srv_conf_t, ngx_int_t,
    ngx_peer_connection_t, ngx_pool_t, ngx_uint_t, NGX_AGAIN, NGX_BUSY, NGX_DONE, NGX_ERROR,
    NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT, NGX_OK, NGX_PEER_FAILED,
};

use crate::ledger::Server;
use crate::lifetime::Msec;
use crate::pool::{ClassRef, Wanted};
use crate::queue::Ticket;

use super::balancer::Balancer;
use super::choose::{choose, Choice};
use super::conf::{allocate, SrvConf};
use super::conn::Conn;
use super::counts::Room;
use super::fail::Failure;
use super::guard::guard;
#[cfg(ngx_feature = "http_ssl")]
use super::handshake::{save_session, set_session};
use super::idle;
use super::keep::keep;
use super::log::{debug, debug_conn};
use super::peer_connection::{Hooks, Peer};
use super::request::{HttpUpstream, Request};
use super::response::FirstBuffer;
use super::shape;
use super::stale::{self, Held, Reuse, Verdict};
use super::tried::Tried;
use super::upstream::{Bytes, Idle, Upstream};
use super::wait::{enqueue, leave, park, waited};
use super::waiter::Waiter;

/// What a request carries along: the way to the pool, and the hooks that were there before ours.
pub(super) struct PeerData {
    /// Lives in the request's cycle, which outlives the request.
    upstream: NonNull<Upstream>,
    pub(super) r: NonNull<ngx_http_request_t>,
    pub(super) u: HttpUpstream,
    /// That of the location, which the upstream request has but for a while.
    conf: NonNull<ngx_http_upstream_conf_t>,
    pub(super) first_buffer: FirstBuffer,
    pub(super) balancer: Cell<Balancer>,
    /// The request must not reuse TLS sessions, though the core is made to think so.
    #[cfg(ngx_feature = "http_ssl")]
    pub(super) without_sessions: Cell<bool>,
    /// The core thinks that a server has got the request, which it has not.
    pub(super) unsent: Cell<bool>,
    /// The present attempt: what its connection is shaped by, if that is known.
    pub(super) attempt: Cell<Option<Attempt>>,
    /// The server of the present attempt, if it limits its connections: the request is counted there.
    pub(super) server: Cell<Option<Server>>,
    pub(super) stage: Cell<Stage>,
    /// The servers that have failed, for a request that may come to wait.
    pub(super) tried: Cell<Option<NonNull<Tried>>>,
    /// Once the request has waited.
    pub(super) waiter: Cell<Option<NonNull<Waiter>>>,
    #[cfg(nginx_resolve)]
    pub(super) generation: Cell<usize>,
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
pub(super) enum Stage {
    Asking,
    Queued(Ticket),
    Granting(Ticket),
    /// It has a server.
    Parked(Ticket),
    Resuming(Ticket),
    /// It has a server, which refused the connection after the wait.
    Declined,
    Failing(Failure),
    /// It has a server, and a place for a connection to it, but needs another connection.
    Again(NonNull<Held>),
}

/// One connection of the request; `get_keepalive_peer` begins it.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    /// In the request's pool, or in the connection's if it is a reused one.
    pub(super) identity: Bytes,
    /// The identity was told by the handshake; before, it is what the handshake should be given.
    #[cfg(ngx_feature = "http_ssl")]
    pub(super) from_handshake: bool,
    pub(super) class: Option<ClassRef>,
    /// If it came from the pool.
    pub(super) reuse: Option<Reuse>,
}

impl PeerData {
    /// # Safety
    /// `data` is what the core passes to a hook that `init_keepalive_peer` has set.
    pub(super) unsafe fn from_ptr<'a>(data: *mut c_void) -> &'a Self {
        // SAFETY: `init_keepalive_peer` wrote it, only its cells change, and it lies in the request's pool.
        unsafe { &*data.cast() }
    }

    pub(super) fn upstream(&self) -> &Upstream {
        // SAFETY: see the field; an upstream is only ever shared.
        unsafe { self.upstream.as_ref() }
    }

    /// With `local` a number for the location, otherwise 0.
    pub(super) fn location(&self) -> usize {
        if self.upstream().local {
            self.conf.as_ptr() as usize
        } else {
            0
        }
    }

    /// Lets the core repeat the request after these failures, by a copy of its configuration that holds until then.
    #[cold]
    pub(super) fn allow_repeating(&self, failures: u32) {
        // SAFETY: lives in the cycle of the request.
        let mut conf = unsafe { self.conf.read() };
        conf.next_upstream |= failures as ngx_uint_t;
        // SAFETY: the pool of the live request.
        let Some(memory) = (unsafe { allocate::<ngx_http_upstream_conf_t>(self.pool(), 1) }) else { return };
        let memory = memory.cast::<ngx_http_upstream_conf_t>();
        // SAFETY: allocated above.
        unsafe { memory.write(conf) };
        // SAFETY: a copy, in the request's pool.
        unsafe { self.u.set_conf(memory) };
    }

    /// How long the request has waited, if it has, in milliseconds.
    fn waited(&self) -> Option<Msec> {
        // SAFETY: in the pool of the live request.
        self.waiter.get().map(|waiter| waited(unsafe { waiter.as_ref() }.since.get()))
    }

    /// Which set of servers its peer was chosen from, if servers come and go.
    pub(super) fn generation(&self) -> usize {
        #[cfg(nginx_resolve)]
        return self.generation.get();
        #[cfg(not(nginx_resolve))]
        0
    }

    /// The servers that have failed for the request.
    pub(super) fn tried(&self) -> Option<&Tried> {
        // SAFETY: `note_tried` has put it into the pool of the request, which is alive.
        self.tried.get().map(|tried| unsafe { tried.as_ref() })
    }

    pub(super) fn request(&self) -> Request {
        // SAFETY: this lies in the pool of the request, which is alive as long as its hooks are called.
        unsafe { Request::from_ptr(self.r) }
    }

    /// Remembers what the balancer has tried for this request; after a wait it would not know.
    #[cold]
    pub(super) fn note_tried(&self) {
        if self.upstream().waits.directive.is_some() {
            // SAFETY: the upstream's cycle is alive while it is used, and the request alive.
            let tried = unsafe { Tried::of(self.upstream().us, self.balancer.get(), self.pool()) };
            self.tried.set(tried.or(self.tried.get()));
        }
    }

    pub(super) fn pool(&self) -> *mut ngx_pool_t {
        self.request().pool()
    }
}

/// Puts our hooks before those that the balancer sets for this request.
pub(super) unsafe extern "C" fn init_keepalive_peer(
    r: *mut ngx_http_request_t,
    us: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: the core calls the hook with a live request, and the upstream in which `setup` set it.
    match unsafe { put_hooks(r, us) } {
        Some(()) => NGX_OK as ngx_int_t,
        None => NGX_ERROR as ngx_int_t,
    }
}

/// # Safety
/// `r` is a live request, `us` an upstream with a pool.
unsafe fn put_hooks(r: *mut ngx_http_request_t, us: *mut ngx_http_upstream_srv_conf_t) -> Option<()> {
    // SAFETY: live, says the caller.
    let connection = unsafe { (*r).connection };
    // SAFETY: a live request has its connection, and that a log.
    debug(unsafe { (*connection).log }, c"init keepalive peer");

    // SAFETY: live, says the caller.
    let conf = unsafe { SrvConf::of(us) }?;
    // SAFETY: what `SrvConf::create` made; nobody changes it after the configuration was read.
    let conf = unsafe { conf.as_ref() };
    let upstream = NonNull::new(conf.upstream.cast_mut())?;
    // SAFETY: a live request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: see above.
    let memory = unsafe { allocate::<PeerData>(pool, 1) }?.cast();

    // SAFETY: lives in the cycle of the live request.
    let original_init_peer = unsafe { upstream.as_ref() }.original_init_peer?;
    // SAFETY: the balancer gets what the core gave us.
    if unsafe { original_init_peer(r, us) } != NGX_OK as ngx_int_t {
        return None;
    }

    // SAFETY: the core sets `r->upstream` before it initialises the peer.
    let u = unsafe { (*r).upstream };
    // SAFETY: see above; the handle goes into the same request's pool.
    let u = unsafe { HttpUpstream::from_ptr(u) };
    let balancer = Balancer::new(u.peer().hooks());
    let r = NonNull::new(r)?;
    // SAFETY: allocated above for a `PeerData`.
    unsafe {
        memory.write(PeerData {
            upstream,
            r,
            u,
            conf: u.conf(),
            first_buffer: u.first_buffer(),
            balancer: Cell::new(balancer),
            #[cfg(ngx_feature = "http_ssl")]
            without_sessions: Cell::new(false),
            unsent: Cell::new(false),
            attempt: Cell::new(None),
            server: Cell::new(None),
            stage: Cell::new(Stage::Asking),
            tried: Cell::new(None),
            waiter: Cell::new(None),
            #[cfg(nginx_resolve)]
            generation: Cell::new(0),
        });
    }
    u.peer().set_hooks(Hooks {
        data: memory.as_ptr().cast(),
        get: Some(get_keepalive_peer),
        free: Some(free_keepalive_peer),
        notify: balancer.notify.and(Some(notify)),
        #[cfg(ngx_feature = "http_ssl")]
        set_session: Some(set_session),
        #[cfg(ngx_feature = "http_ssl")]
        save_session: Some(save_session),
    });
    Some(())
}

/// Asks the balancer for a peer, then the pool for a connection to it: `NGX_DONE` with one,
/// `NGX_AGAIN` if the request has to wait, else what the balancer said.
unsafe extern "C" fn get_keepalive_peer(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    debug(peer.log(), c"get keepalive peer");
    guard(NGX_ERROR as ngx_int_t, || get(kp, peer))
}

#[inline]
fn get(kp: &PeerData, peer: Peer) -> ngx_int_t {
    let upstream = kp.upstream();
    let mut within = true;
    // SAFETY: the location's.
    unsafe { kp.u.set_conf(kp.conf) };
    match kp.stage.get() {
        Stage::Resuming(_) => {}
        Stage::Again(held) => {
            stale::resume(peer, held);
            kp.stage.set(Stage::Asking);
            guard((), || note_shape(kp, peer));
            return NGX_OK as ngx_int_t;
        }
        stage => match choose(kp, peer, stage) {
            Choice::Server(keeps_to_limit) => within = keeps_to_limit,
            Choice::Busy if stage == Stage::Asking => return enqueue(kp, peer),
            Choice::Busy => return NGX_BUSY as ngx_int_t,
            Choice::Not(rc) => return rc,
        },
    }
    // If the pool fails, a new connection serves as well.
    if let Some(Idle { conn, server, .. }) = guard(None, || find(kp, peer, checkout)) {
        debug_conn(peer.log(), c"get keepalive peer: using connection %p", conn);
        upstream.reuse(server, kp.server.get());
        idle::wake(conn, peer.log());
        peer.use_cached(conn);
        return NGX_DONE as ngx_int_t;
    }
    let Some(server) = kp.server.get() else { return NGX_OK as ngx_int_t };
    let parked = match kp.stage.get() {
        Stage::Resuming(_) => kp.waited(),
        _ => None,
    };
    if upstream.room(server, within, parked) == Room::Yes {
        return NGX_OK as ngx_int_t;
    }
    let parked = park(kp, peer, server);
    if parked != NGX_AGAIN as ngx_int_t {
        kp.server.set(None);
        upstream.end(server);
    }
    parked
}

/// Notes the shape of the new connection that the request gets.
#[cold]
fn note_shape(kp: &PeerData, peer: Peer) {
    find(kp, peer, |_, _, _| (None, None));
}

/// Looks, by `checkout`, for an idle connection of the shape that the request needs, and notes that shape.
#[inline(always)]
fn find(
    kp: &PeerData,
    peer: Peer,
    checkout: impl FnOnce(&PeerData, Peer, &Wanted<'_>) -> (Option<Idle>, Option<ClassRef>),
) -> Option<Idle> {
    // SAFETY: the request that is asking for a peer.
    let identity = unsafe { shape::identity(kp.r, kp.u) }?;
    // SAFETY: just written into the pool of the live request.
    let wanted = shape::wanted(&peer, kp.u, kp.location(), unsafe { identity.as_slice() });
    let (found, class) = checkout(kp, peer, &wanted);
    #[cfg(ngx_feature = "http_ssl")]
    // SAFETY: the request that is asking for a peer.
    if found.is_none() && kp.u.uses_tls() && unsafe { shape::tls::ask_for_handshake(kp.r, kp.u) }.is_some() {
        kp.without_sessions.set(true);
    }
    let identity = found.map_or(identity, |idle| idle.identity);
    kp.attempt.set(Some(Attempt {
        identity,
        #[cfg(ngx_feature = "http_ssl")]
        from_handshake: false,
        class,
        reuse: found.map(|idle| Reuse::of(kp, &idle)),
    }));
    found
}

/// Takes a connection that fits from the pool, and closes those that turn out to be closed by the server.
#[inline]
fn checkout(kp: &PeerData, peer: Peer, wanted: &Wanted<'_>) -> (Option<Idle>, Option<ClassRef>) {
    let upstream = kp.upstream();
    loop {
        match upstream.checkout(wanted) {
            (Some(idle), _) if upstream.check && !stale::is_fresh(kp, peer, &idle) => {}
            found => return found,
        }
    }
}

/// Keeps the connection if it may be kept, then tells the balancer that the peer is free.
unsafe extern "C" fn free_keepalive_peer(
    pc: *mut ngx_peer_connection_t,
    data: *mut c_void,
    state: ngx_uint_t,
) {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    debug(peer.log(), c"free keepalive peer");

    let told = guard(Some(state), || match kp.stage.replace(Stage::Asking) {
        Stage::Asking => free(kp, peer, state),
        stage => leave(kp, peer, stage, state),
    });
    match told {
        None => {}
        // What a stale connection or a wait came to says nothing of the server.
        Some(0) if state != 0 => kp.balancer.get().free_untried(peer),
        Some(state) => kp.balancer.get().free(peer, state),
    }
    if kp.upstream().can_wait() {
        guard((), || kp.upstream().changed());
    }
}

/// The end of an attempt that had a server. Returns what the balancer is to be told, unless it keeps the server.
#[inline]
fn free(kp: &PeerData, peer: Peer, state: ngx_uint_t) -> Option<ngx_uint_t> {
    let upstream = kp.upstream();
    let mut told = state;
    let unsent = kp.unsent.take();
    // Without an attempt of ours the connection is from another pool, and its shape is unknown.
    let kept = match (kp.attempt.take(), peer.connection()) {
        (Some(Attempt { reuse: Some(reuse), .. }), Some(conn))
            if state & NGX_PEER_FAILED as ngx_uint_t != 0 =>
        {
            match guard(Verdict::Tell(state), || stale::judge(kp, peer, conn, reuse, state)) {
                Verdict::Tell(state) => told = state,
                Verdict::Again(held) => {
                    again(kp, peer, conn, held);
                    return None;
                }
            }
            false
        }
        (Some(attempt), Some(conn)) => guard(false, || keep(kp, peer, conn, attempt, state)),
        (_, None) if unsent => {
            // The server has refused the connection at once, and has not got the request either.
            kp.unsent.set(true);
            kp.allow_repeating(NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
            false
        }
        _ => false,
    };
    if told != 0 {
        kp.note_tried();
    }
    let Some(server) = kp.server.take() else { return Some(told) };
    upstream.end(server);
    match peer.connection() {
        _ if kept => {}
        // The core would close it without telling when.
        Some(conn) => {
            peer.release_connection();
            upstream.close_counted(conn, Some(server));
        }
        None => upstream.closed(server),
    }
    Some(told)
}

/// The request keeps its server. If connections are counted there, the place of this one is for the next.
#[cold]
fn again(kp: &PeerData, peer: Peer, conn: Conn, held: NonNull<Held>) {
    kp.stage.set(Stage::Again(held));
    if kp.server.get().is_some() {
        peer.release_connection();
        idle::close(conn);
    }
}

pub(super) fn worker_is_exiting() -> bool {
    // SAFETY: set by this thread between events, not by the signal handler while a hook runs.
    let terminate = unsafe { nginx_sys::ngx_terminate };
    // SAFETY: as above.
    let exiting = unsafe { nginx_sys::ngx_exiting };
    terminate != 0 || exiting != 0
}

/// Passes a notification on to the balancer.
unsafe extern "C" fn notify(pc: *mut ngx_peer_connection_t, data: *mut c_void, event: ngx_uint_t) {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    kp.balancer.get().notify(peer, event);
}
