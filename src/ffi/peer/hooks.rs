//! The way of a request: `init_keepalive_peer` when its upstream is chosen, `get_keepalive_peer`
//! when it needs a connection, `free_keepalive_peer` when it is done with it.
//!
//! Each hook stands before the balancer's and calls it, as in nginx's own keepalive module.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_peer_connection_t, ngx_uint_t,
    NGX_AGAIN, NGX_BUSY, NGX_DONE, NGX_ERROR, NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT, NGX_OK, NGX_PEER_FAILED,
};

use crate::ledger::Server;
use crate::metrics::{Count, End, Phase};

use crate::ffi::idle::sleep::wake;
use crate::ffi::max_conns::shortage::{yield_after_failure, yield_to_request};
use crate::ffi::max_conns::slots::{close_and_release, release_slot, reserve_slot, Reservation};
use crate::ffi::nginx::balancer::Balancer;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::{debug, debug_conn};
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::peer_connection::{Hooks, Peer};
use crate::ffi::nginx::request::{HttpUpstream, Request};
use crate::ffi::nginx::socket;
use crate::ffi::peer::bound::reclaim;
use crate::ffi::peer::checkout::{checkout, find, note_shape};
use crate::ffi::peer::choose::{choose, Choice};
#[cfg(ngx_feature = "http_ssl")]
use crate::ffi::peer::handshake::{save_session, set_session};
use crate::ffi::peer::not_stored::why_failed;
use crate::ffi::peer::refusal;
use crate::ffi::peer::release::release_to_pool;
use crate::ffi::peer::retry::{self, RetryDecision};
use crate::ffi::state::notes::{keep_notes, Notes, Status};
use crate::ffi::state::peer_data::{Attempt, PeerData, Stage};
use crate::ffi::state::reuse::PinnedServer;
use crate::ffi::state::srv_conf::SrvConf;
use crate::ffi::state::upstream::Idle;
use crate::ffi::waiting::enqueue::{enqueue, leave, park};

/// Puts our hooks before those that the balancer sets for this request.
pub(crate) unsafe extern "C" fn init_keepalive_peer(
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
    let first_buffer = u.first_buffer();
    // SAFETY: live, says the caller.
    let ear = refusal::listen(unsafe { Request::from_ptr(r) }, u, first_buffer);
    // SAFETY: allocated above for a `PeerData`.
    unsafe {
        memory.write(PeerData {
            upstream,
            r,
            u,
            conf: u.conf(),
            own_conf: Cell::new(None),
            first_buffer: Cell::new(first_buffer),
            ear,
            balancer: Cell::new(balancer),
            #[cfg(ngx_feature = "http_ssl")]
            without_sessions: Cell::new(false),
            unsent: Cell::new(false),
            attempt: Cell::new(None),
            server: Cell::new(None),
            binding: Cell::new(None),
            is_reclaimed: Cell::new(false),
            meter: Cell::new(None),
            notes: Notes::new(),
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
pub(crate) unsafe extern "C" fn get_keepalive_peer(
    pc: *mut ngx_peer_connection_t,
    data: *mut c_void,
) -> ngx_int_t {
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
    if kp.own_conf.get().is_some() {
        kp.own_conf_ends();
    }
    if upstream.bindings.is_some() {
        if let Some(rc) = reuse_own(kp, peer) {
            return rc;
        }
    }
    match kp.stage.get() {
        Stage::Resuming(_) => {}
        Stage::Again(held) => {
            let was_stale = retry::resume(peer, held);
            kp.stage.set(Stage::Asking);
            guard((), || note_shape(kp, peer));
            guard((), || open(kp, peer, Status::Miss));
            if let Some(meter) = kp.meter.get().filter(|_| was_stale) {
                meter.count(Count::Repeats);
            }
            return NGX_OK as ngx_int_t;
        }
        stage => match choose(kp, peer, stage) {
            Choice::Server(keeps_to_limit) => {
                within = keeps_to_limit;
                kp.first_buffer.set(kp.u.first_buffer());
            }
            Choice::Busy if stage == Stage::Asking => return enqueue(kp, peer),
            Choice::Busy => return NGX_BUSY as ngx_int_t,
            Choice::Not(rc) => {
                if rc != NGX_DONE as ngx_int_t {
                    kp.note(Status::None, 0);
                }
                return rc;
            }
        },
    }
    let waited = !matches!(kp.stage.get(), Stage::Asking);
    // If the pool fails, a new connection serves as well.
    if let Some(idle) = guard(None, || find(kp, peer, checkout)) {
        return reuse(kp, peer, idle, waited);
    }
    let new = || {
        guard((), || open(kp, peer, if waited { Status::Queued } else { Status::Miss }));
        NGX_OK as ngx_int_t
    };
    let Some(server) = kp.server.get() else { return new() };
    let parked = match kp.stage.get() {
        Stage::Resuming(_) => kp.waited(),
        _ => None,
    };
    if reserve_slot(upstream, server, within, parked) == Reservation::Reserved {
        return new();
    }
    let parked = park(kp, peer, server);
    if parked != NGX_AGAIN as ngx_int_t {
        kp.server.set(None);
        upstream.counts.end_request(server);
    }
    parked
}

/// The request gets that of its client, if there is one.
#[cold]
#[inline(never)]
fn reuse_own(kp: &PeerData, peer: Peer) -> Option<ngx_int_t> {
    let is_asking = kp.stage.get() == Stage::Asking;
    let idle = is_asking.then(|| guard(None, || reclaim(kp, peer))).flatten()?;
    Some(reuse(kp, peer, idle, false))
}

/// The request gets a connection from the pool.
#[inline(always)]
fn reuse(kp: &PeerData, peer: Peer, idle: Idle, waited: bool) -> ngx_int_t {
    let Idle { conn, server, meter, .. } = idle;
    debug_conn(peer.log(), c"get keepalive peer: using connection %p", conn);
    kp.upstream().counts.reuse(server, kp.server.get());
    if let Some(meter) = meter {
        meter.reuse();
    }
    kp.meter.set(meter);
    kp.note(if waited { Status::Queued } else { Status::Hit }, conn.requests() + 1);
    wake(conn, peer.log());
    peer.use_cached(conn);
    NGX_DONE as ngx_int_t
}

/// The request gets a new connection.
#[inline(never)]
fn open(kp: &PeerData, peer: Peer, status: Status) {
    let upstream = kp.upstream();
    yield_to_request(upstream);
    let meter = upstream.meter(peer.address());
    if let Some(meter) = meter {
        meter.open();
    }
    kp.meter.set(meter);
    let bypasses = upstream.limits.is_none() || kp.attempt.get().is_none();
    kp.note(if bypasses && status == Status::Miss { Status::Bypass } else { status }, 1);
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

    if !kp.u.is_header_sent() || !kp.is_data_of(peer) || kp.request().has_post_action() {
        keep_notes(kp);
    }
    let (told, kept) = guard((Some(state), Err(End::Error)), || match kp.stage.replace(Stage::Asking) {
        Stage::Asking => free(kp, peer, state),
        stage => (leave(kp, peer, stage, state), Ok(())),
    });
    guard((), || settle(kp, peer, told, kept));
    match told {
        None => {}
        Some(_) if kp.is_reclaimed.take() => peer.count_try(),
        // What a stale connection or a wait came to says nothing of the server.
        Some(0) if state != 0 => kp.balancer.get().free_untried(peer),
        Some(state) => kp.balancer.get().free(peer, state),
    }
    if kp.upstream().can_wait() {
        guard((), || kp.upstream().schedule_dispatch());
    }
}

/// What the balancer is to be told, unless the request keeps its server; and what has ended the connection, unless the pool
/// keeps it.
type Outcome = (Option<ngx_uint_t>, Result<(), End>);

/// The end of an attempt that had a server.
#[inline(always)]
fn free(kp: &PeerData, peer: Peer, state: ngx_uint_t) -> Outcome {
    let failed = state & NGX_PEER_FAILED as ngx_uint_t != 0;
    let unsent = kp.unsent.take();
    let outcome = match (kp.attempt.take(), peer.connection()) {
        (Some(attempt), Some(conn))
            if !failed || (attempt.reuse.is_none() && !refusal::is_refused(kp, conn)) =>
        {
            (Some(state), release_to_pool(kp, peer, conn, attempt, state))
        }
        (attempt, conn) => match on_connection_failed(kp, peer, attempt, conn, state, unsent) {
            RetryDecision::Tell(state, end) => (Some(state), Err(end)),
            RetryDecision::Again(held, end) => {
                again(kp, peer, held);
                (None, Err(end))
            }
        },
    };
    if state != 0 {
        refusal::number_anew(kp);
    }
    outcome
}

/// Counts what has become of the connection.
#[inline(always)]
fn settle(kp: &PeerData, peer: Peer, told: Option<ngx_uint_t>, kept: Result<(), End>) {
    match kept {
        Ok(()) => {
            kp.meter.set(None);
            kp.binding.set(None);
        }
        Err(end) => count_close(kp, end),
    }
    let Some(told) = told else { return };
    if told != 0 {
        kp.note_tried();
    }
    if let Some(server) = kp.server.take() {
        leave_server(kp, peer, server, kept.is_ok());
    }
}

/// The end of an attempt that leaves nothing to keep: its connection came from the pool and has failed, or there is none, or
/// it is from another pool.
#[cold]
fn on_connection_failed(
    kp: &PeerData,
    peer: Peer,
    attempt: Option<Attempt>,
    conn: Option<Conn>,
    state: ngx_uint_t,
    unsent: bool,
) -> RetryDecision {
    let reuse = attempt.and_then(|attempt| attempt.reuse);
    match (reuse, conn) {
        (reuse, Some(conn)) if attempt.is_some() && refusal::is_refused(kp, conn) => {
            guard(RetryDecision::Tell(state, End::Error), || refusal::judge(kp, peer, conn, reuse, state))
        }
        (Some(reuse), Some(conn)) => {
            guard(RetryDecision::Tell(state, End::Error), || retry::judge(kp, peer, conn, reuse, state))
        }
        // Its shape is unknown.
        (None, Some(_)) => RetryDecision::Tell(state, why_failed(kp, state, false).unwrap_or(End::Identity)),
        (_, None) => {
            if state == 0 {
                yield_after_failure(kp.upstream());
            }
            if unsent {
                // The server has refused the connection at once, and has not got the request either.
                kp.unsent.set(true);
                kp.allow_repeating(NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
            }
            RetryDecision::Tell(state, End::Connect)
        }
    }
}

/// A request has stopped using a server that limits its connections.
#[inline(never)]
fn leave_server(kp: &PeerData, peer: Peer, server: Server, kept: bool) {
    let upstream = kp.upstream();
    match peer.connection() {
        _ if kept => {}
        // The core would close it without telling when.
        Some(conn) => {
            peer.release_connection();
            close_and_release(upstream, conn, Some(server));
        }
        None => release_slot(upstream, server),
    }
    // Just before the balancer hears of it: of a worker that is killed in between, the balancer counts one for ever.
    if !kp.is_reclaimed.get() {
        upstream.counts.end_request(server);
    }
}

/// The connection of the request has come to its end.
#[cold]
fn count_close(kp: &PeerData, why: End) {
    if let Some(meter) = kp.meter.take() {
        meter.end(Phase::Active, why);
    }
    if let Some(binding) = kp.binding.take() {
        kp.upstream().unbind(binding);
    }
}

/// The request keeps its server. If connections are counted there, the place of this one is for the next.
#[cold]
fn again(kp: &PeerData, peer: Peer, held: NonNull<PinnedServer>) {
    kp.stage.set(Stage::Again(held));
    if let (Some(_), Some(conn)) = (kp.server.get(), peer.connection()) {
        peer.release_connection();
        socket::close(conn);
    }
}

/// Passes a notification on to the balancer.
unsafe extern "C" fn notify(pc: *mut ngx_peer_connection_t, data: *mut c_void, event: ngx_uint_t) {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    // It has not given the server of a connection that was found for its client.
    if !kp.is_reclaimed.get() {
        kp.balancer.get().notify(peer, event);
    }
}
