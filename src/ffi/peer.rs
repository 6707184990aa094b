//! The way of a request: `init_keepalive_peer` when its upstream is chosen, `get_keepalive_peer`
//! when it needs a connection, `free_keepalive_peer` when it is done with it.
//!
//! Each hook stands before the balancer's and calls it, as in nginx's own keepalive module.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_current_msec, ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_peer_connection_t,
    ngx_uint_t, NGX_DONE, NGX_ERROR, NGX_OK, NGX_PEER_FAILED,
};

use crate::lifetime::{Refusal, Returned};
use crate::pool::{ClassRef, Offer};

use super::conf::{allocate, SrvConf};
use super::conn::Conn;
use super::guard::guard;
use super::idle;
use super::log::{debug, debug_conn};
use super::request::{Hooks, HttpUpstream, Peer};
#[cfg(nginx_resolve)]
use super::resolve::Watch;
use super::shape;
use super::upstream::{Bytes, Idle, Stored, Upstream};

/// What a request carries along: the way to the pool, and the hooks that were there before ours.
struct PeerData {
    /// Lives in the request's cycle, which outlives the request.
    upstream: NonNull<Upstream>,
    r: NonNull<ngx_http_request_t>,
    u: HttpUpstream,
    original: Hooks,
    /// With `local` a number for the location, otherwise 0.
    location: usize,
    /// The request must not reuse TLS sessions, though the core is made to think so.
    #[cfg(ngx_feature = "http_ssl")]
    without_sessions: Cell<bool>,
    /// The present attempt: what its connection is shaped by, if that is known.
    attempt: Cell<Option<Attempt>>,
    /// Which set of servers its peer was chosen from.
    #[cfg(nginx_resolve)]
    generation: Cell<Option<usize>>,
}

/// One connection of the request; `get_keepalive_peer` begins it.
#[derive(Clone, Copy)]
struct Attempt {
    /// In the request's pool, or in the connection's if it is a reused one.
    identity: Bytes,
    /// The identity was told by the handshake; before, it is what the handshake should be given.
    #[cfg(ngx_feature = "http_ssl")]
    from_handshake: bool,
    class: Option<ClassRef>,
    reused: bool,
}

impl PeerData {
    /// # Safety
    /// `data` is what the core passes to a hook that `init_keepalive_peer` has set.
    unsafe fn from_ptr<'a>(data: *mut c_void) -> &'a Self {
        // SAFETY: `init_keepalive_peer` wrote it, only its cells change, and it lies in the request's pool.
        unsafe { &*data.cast() }
    }

    fn upstream(&self) -> &Upstream {
        // SAFETY: see the field; an upstream is only ever shared.
        unsafe { self.upstream.as_ref() }
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

    // SAFETY: the balancer gets what the core gave us.
    if unsafe { conf.original_init_peer?(r, us) } != NGX_OK as ngx_int_t {
        return None;
    }

    // SAFETY: the core sets `r->upstream` before it initialises the peer.
    let u = unsafe { (*r).upstream };
    // SAFETY: see above; the handle goes into the same request's pool.
    let u = unsafe { HttpUpstream::from_ptr(u) };
    let original = u.peer().hooks();
    let r = NonNull::new(r)?;
    // SAFETY: lives in the cycle of the live request.
    let local = unsafe { upstream.as_ref() }.local;
    // SAFETY: allocated above for a `PeerData`.
    unsafe {
        memory.write(PeerData {
            upstream,
            r,
            u,
            original,
            location: if local { u.location() } else { 0 },
            #[cfg(ngx_feature = "http_ssl")]
            without_sessions: Cell::new(false),
            attempt: Cell::new(None),
            #[cfg(nginx_resolve)]
            generation: Cell::new(None),
        });
    }
    u.peer().set_hooks(Hooks {
        data: memory.as_ptr().cast(),
        get: Some(get_keepalive_peer),
        free: Some(free_keepalive_peer),
        notify: original.notify.and(Some(notify)),
        #[cfg(ngx_feature = "http_ssl")]
        set_session: Some(set_session),
        #[cfg(ngx_feature = "http_ssl")]
        save_session: Some(save_session),
    });
    Some(())
}

/// Asks the balancer for a peer, then the pool for a connection to it: `NGX_DONE` with one, else
/// what the balancer said.
unsafe extern "C" fn get_keepalive_peer(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    debug(peer.log(), c"get keepalive peer");
    kp.attempt.set(None);
    // Before the balancer chooses: if its servers change after this, the number tells.
    #[cfg(nginx_resolve)]
    kp.generation.set(kp.upstream().watch.as_ref().map(Watch::generation));

    let Some(original_get_peer) = kp.original.get else { return NGX_ERROR as ngx_int_t };
    // SAFETY: the balancer gets its own data.
    let rc = unsafe { original_get_peer(pc, kp.original.data) };
    if rc != NGX_OK as ngx_int_t {
        return rc;
    }
    // If the pool fails, a new connection serves as well.
    match guard(None, || find(kp, peer)) {
        None => NGX_OK as ngx_int_t,
        Some(conn) => {
            debug_conn(peer.log(), c"get keepalive peer: using connection %p", conn);
            idle::wake(conn, peer.log());
            peer.use_cached(conn);
            NGX_DONE as ngx_int_t
        }
    }
}

/// Looks for an idle connection of the shape that the request needs.
#[inline]
fn find(kp: &PeerData, peer: Peer) -> Option<Conn> {
    // SAFETY: the request that is asking for a peer.
    let identity = unsafe { shape::identity(kp.r, kp.u) }?;
    // SAFETY: just written into the pool of the live request.
    let wanted = shape::wanted(&peer, kp.u, kp.location, unsafe { identity.as_slice() });
    let (found, class) = kp.upstream().checkout(&wanted);
    let reused = found.is_some();
    #[cfg(ngx_feature = "http_ssl")]
    // SAFETY: the request that is asking for a peer.
    if !reused && kp.u.uses_tls() && unsafe { shape::tls::ask_for_handshake(kp.r, kp.u) }.is_some() {
        kp.without_sessions.set(true);
    }
    let identity = found.map_or(identity, |idle| idle.identity);
    kp.attempt.set(Some(Attempt {
        identity,
        #[cfg(ngx_feature = "http_ssl")]
        from_handshake: false,
        class,
        reused,
    }));
    found.map(|idle| idle.conn)
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

    // Without an attempt of ours the connection is from another pool, and its shape is unknown.
    if let (Some(attempt), Some(conn)) = (kp.attempt.take(), peer.connection()) {
        guard((), || keep(kp, peer, conn, attempt, state));
    }
    if let Some(original_free_peer) = kp.original.free {
        // SAFETY: the balancer gets its own data; it must hear of every peer that it gave.
        unsafe { original_free_peer(pc, kp.original.data, state) };
    }
}

/// Moves the connection from the request into the pool, unless there is a reason against it.
#[inline]
fn keep(kp: &PeerData, peer: Peer, conn: Conn, attempt: Attempt, state: ngx_uint_t) {
    let upstream = kp.upstream();
    let (read, write) = (conn.read(), conn.write());
    let returned = Returned {
        failed: state & NGX_PEER_FAILED as ngx_uint_t != 0,
        broken: read.eof() || read.error() || read.timed_out() || write.error() || write.timed_out(),
        requests: conn.requests(),
        opened: conn.start_time(),
        keepalive: kp.u.keepalive(),
        request_sent: kp.u.request_body_sent(),
        exiting: worker_is_exiting(),
    };
    // SAFETY: nginx's cached time; only this thread writes it.
    let now = unsafe { ngx_current_msec };
    if let Some(refusal) = upstream.limits.refusal(&returned, now) {
        debug_conn(peer.log(), not_saving(refusal), conn);
        return;
    }
    if !read.wait_readable() {
        return;
    }
    let Some(identity) = identity_to_keep(kp, attempt, conn) else {
        debug_conn(peer.log(), c"free keepalive peer: not saving connection %p: identity unknown", conn);
        return;
    };
    // SAFETY: in the connection's pool.
    let wanted = shape::wanted(&peer, kp.u, kp.location, unsafe { identity.as_slice() });
    let timeout = upstream.limits.timeout;
    let conn_kept = Idle { conn, identity };
    let offer = Offer { conn: conn_kept, class: attempt.class, proven: attempt.reused, now, timeout };
    let Stored { place, evicted } = upstream.store(&wanted, offer);
    if let Some(place) = place {
        debug_conn(peer.log(), c"free keepalive peer: saving connection %p", conn);
        peer.release_connection();
        idle::sleep(conn, place, timeout);
        #[cfg(nginx_resolve)]
        if let (Some(watch), Some(generation)) = (&upstream.watch, kp.generation.get()) {
            watch.stored(upstream, generation);
        }
    }
    if let Some(evicted) = evicted {
        idle::close(evicted);
    }
}

/// The identity under which a connection is stored: that with which it was opened.
#[inline]
fn identity_to_keep(kp: &PeerData, attempt: Attempt, conn: Conn) -> Option<Bytes> {
    if attempt.reused || attempt.identity.is_empty() {
        return Some(attempt.identity);
    }
    // SAFETY: in the pool of the live request.
    let identity = unsafe { attempt.identity.as_slice() };
    handshake_agrees(kp, attempt, identity)?;
    shape::keep_identity(conn, identity)
}

/// What the handshake was to be given was evaluated before it. If a variable has changed in between,
/// it is not known what the connection has got, and nobody gets it again.
#[cfg(ngx_feature = "http_ssl")]
fn handshake_agrees(kp: &PeerData, attempt: Attempt, identity: &[u8]) -> Option<()> {
    if attempt.from_handshake || !kp.u.uses_tls() {
        return Some(());
    }
    // Of the name the core keeps what it used, of the certificate it does not.
    if shape::tls::certificate_varies(kp.u) {
        return None;
    }
    // SAFETY: the request that gives the connection back, after its handshake.
    let really = unsafe { shape::identity_of_handshake(kp.r, kp.u) }?;
    // SAFETY: just written into the pool of the live request.
    (unsafe { really.as_slice() } == identity).then_some(())
}

#[cfg(not(ngx_feature = "http_ssl"))]
fn handshake_agrees(_: &PeerData, _: Attempt, _: &[u8]) -> Option<()> {
    Some(())
}

fn worker_is_exiting() -> bool {
    // SAFETY: set by this thread between events, not by the signal handler while a hook runs.
    let terminate = unsafe { nginx_sys::ngx_terminate };
    // SAFETY: as above.
    let exiting = unsafe { nginx_sys::ngx_exiting };
    terminate != 0 || exiting != 0
}

#[cold]
#[inline(never)]
fn not_saving(refusal: Refusal) -> &'static std::ffi::CStr {
    match refusal {
        Refusal::Failed => c"free keepalive peer: not saving connection %p: request failed",
        Refusal::Broken => c"free keepalive peer: not saving connection %p: closed or broken",
        Refusal::Requests => c"free keepalive peer: not saving connection %p: keepalive_requests reached",
        Refusal::Time => c"free keepalive peer: not saving connection %p: keepalive_time reached",
        Refusal::NotKeepalive => c"free keepalive peer: not saving connection %p: no keepalive response",
        Refusal::RequestUnsent => c"free keepalive peer: not saving connection %p: request not fully sent",
        Refusal::Exiting => c"free keepalive peer: not saving connection %p: worker exiting",
    }
}

/// Passes a notification on to the balancer.
unsafe extern "C" fn notify(pc: *mut ngx_peer_connection_t, data: *mut c_void, event: ngx_uint_t) {
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    if let Some(original_notify) = kp.original.notify {
        // SAFETY: the balancer gets its own data.
        unsafe { original_notify(pc, kp.original.data, event) };
    }
}

/// Offers the server a TLS session for resumption: one of the very same identity, or none. The
/// balancer's own store has one session for each server, whoever it was made for.
///
/// The core calls this right after it has given name and certificate to the handshake, so this is
/// the moment to tell the identity: only a variable that is different each time it is read can still
/// differ from what the handshake was given.
#[cfg(ngx_feature = "http_ssl")]
unsafe extern "C" fn set_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    let (Some(conn), Some(attempt)) = (peer.connection(), kp.attempt.take()) else {
        return NGX_OK as ngx_int_t;
    };
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: the request whose handshake begins.
        let Some(identity) = (unsafe { shape::identity_of_handshake(kp.r, kp.u) }) else {
            return NGX_OK as ngx_int_t;
        };
        // SAFETY: in the pool of the live request.
        let before = unsafe { attempt.identity.as_slice() };
        // SAFETY: as above.
        let now = unsafe { identity.as_slice() };
        let class = attempt.class.filter(|_| before == now);
        kp.attempt.set(Some(Attempt { identity, from_handshake: true, class, reused: false }));
        if kp.without_sessions.get() {
            return NGX_OK as ngx_int_t;
        }
        kp.upstream().sessions.offer(&shape::wanted(&peer, kp.u, 0, now), conn)
    })
}

/// Keeps a TLS session for resumption.
#[cfg(ngx_feature = "http_ssl")]
unsafe extern "C" fn save_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    let (Some(conn), Some(attempt)) = (peer.connection(), kp.attempt.get()) else { return };
    // A reused connection has got its identity from a handshake as well.
    if !kp.without_sessions.get() && (attempt.from_handshake || attempt.reused) {
        // SAFETY: in the pool of the live request, or of its connection.
        let wanted = shape::wanted(&peer, kp.u, 0, unsafe { attempt.identity.as_slice() });
        guard((), || kp.upstream().sessions.keep(&wanted, conn));
    }
}
