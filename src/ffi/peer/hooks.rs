//! The way of a request: `init_keepalive_peer` when its upstream is chosen, `get_keepalive_peer`
//! when it needs a connection, `free_keepalive_peer` when it is done with it.
//!
//! Each hook stands before the balancer's and calls it, as in nginx's own keepalive module.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_peer_connection_t, ngx_uint_t, NGX_BUSY,
    NGX_DONE, NGX_ERROR, NGX_OK, NGX_PEER_FAILED,
};

use crate::metrics::End;

use crate::ffi::nginx::balancer::Balancer;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{get_field, Handle as _};
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::peer_connection::{Hooks, Peer};
use crate::ffi::nginx::request::{HttpUpstream, Request};
use crate::ffi::nginx::response::FirstBuffer;
use crate::ffi::peer::carrier::end_opening;
use crate::ffi::peer::choose::{choose, init_balancer, Choice};
use crate::ffi::peer::connect::{connect, connect_plain, repeat, reuse_own};
#[cfg(ngx_feature = "http_ssl")]
use crate::ffi::peer::handshake::{save_session, set_session};
use crate::ffi::peer::put_back::put_back;
use crate::ffi::peer::refusal;
use crate::ffi::peer::release::{count_close, leave_server, release_to_pool};
use crate::ffi::peer::retry::{self, RetryDecision};
use crate::ffi::peer::stream::free_stream;
use crate::ffi::state::extra::{Extra, Stage};
use crate::ffi::state::notes::{keep_notes, Notes, Status};
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::refusal::FrameListener;
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::srv_conf::SrvConf;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::waiting::enqueue::{enqueue, leave_wait, ServerReturn};
use crate::ffi::waiting::outlook::look_again;

/// Puts our hooks before those that the balancer sets for this request.
pub(crate) unsafe extern "C" fn init_keepalive_peer(
    r: *mut ngx_http_request_t,
    us: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    let Some(r) = NonNull::new(r) else { return NGX_ERROR as ngx_int_t };
    // SAFETY: the core initialises the peer of a live request.
    let r = unsafe { Request::from_ptr(r) };
    debug(r.log(), c"init keepalive peer");
    // SAFETY: `setup` has set this hook in the upstream, whose cycle the request keeps alive.
    match unsafe { upstream_of(us) }.and_then(|upstream| put_hooks(r, upstream)) {
        Some(()) => NGX_OK as ngx_int_t,
        None => NGX_ERROR as ngx_int_t,
    }
}

/// The pool of an upstream.
///
/// # Safety
/// `us` is an explicit upstream whose cycle is alive.
#[inline(always)]
unsafe fn upstream_of(us: *mut ngx_http_upstream_srv_conf_t) -> Option<NonNull<Upstream>> {
    // SAFETY: the cycle of `us` is alive, as the caller promises.
    let conf = unsafe { SrvConf::of(us) }?;
    // SAFETY: `SrvConf::create` made it in the same cycle; nobody changes it after the configuration was read.
    NonNull::new(unsafe { conf.as_ref() }.upstream.cast_mut())
}

#[inline(always)]
fn put_hooks(r: Request, upstream: NonNull<Upstream>) -> Option<()> {
    // SAFETY: it lies in the cycle of the live request.
    let shared = unsafe { upstream.as_ref() };
    let u = get_field!(r.upstream);
    // SAFETY: the core sets `r->upstream` before it initialises the peer.
    let u = unsafe { HttpUpstream::from_ptr(u) };
    init_balancer(shared, r)?;
    let first_buffer = u.first_buffer();
    let listener = refusal::listen(r, u, first_buffer);
    let extra = match listener {
        None if shared.is_plain.get() => NonNull::from(&shared.nothing),
        _ => new_extra(r, u, shared, listener)?,
    };
    let balancer = Balancer::new(u.peer().hooks());
    let data = new_peer_data(r, u, upstream, extra, first_buffer, balancer);
    let memory = shared.requests().allocate(r.memory())?.cast::<PeerData>();
    // SAFETY: allocated for a `PeerData`.
    unsafe { memory.write(data) };
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

/// What a request has besides if its upstream is not plain. `None` if there is no memory.
#[inline(never)]
fn new_extra(
    r: Request,
    u: HttpUpstream,
    upstream: &Upstream,
    listener: Option<NonNull<FrameListener>>,
) -> Option<NonNull<Extra>> {
    let location = if upstream.local { u.conf().as_ptr() as usize } else { 0 };
    r.memory().put(Extra::new(location, listener))
}

/// What a request carries along before its first attempt.
#[inline(always)]
fn new_peer_data(
    r: Request,
    u: HttpUpstream,
    upstream: NonNull<Upstream>,
    extra: NonNull<Extra>,
    first_buffer: FirstBuffer,
    balancer: Balancer,
) -> PeerData {
    PeerData {
        upstream,
        // SAFETY: a handle is not null.
        r: unsafe { NonNull::new_unchecked(r.as_ptr()) },
        u,
        extra: Cell::new(extra),
        first_buffer: Cell::new(first_buffer),
        balancer: Cell::new(balancer),
        attempt: Cell::new(None),
        meter: Cell::new(None),
        notes: Notes::new(),
        #[cfg(ngx_feature = "http_ssl")]
        without_sessions: Cell::new(false),
        unsent: Cell::new(false),
        is_taken: Cell::new(false),
        is_limited: Cell::new(false),
    }
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

#[inline(always)]
fn get(kp: &PeerData, peer: Peer) -> ngx_int_t {
    if kp.upstream().is_plain.get() && kp.extra().stage() == Stage::Asking && kp.extra().own_conf().is_none()
    {
        return get_plain(kp, peer);
    }
    get_any(kp, peer)
}

/// The short way, for an upstream where nothing else is to be asked.
#[inline(always)]
fn get_plain(kp: &PeerData, peer: Peer) -> ngx_int_t {
    kp.attempt.set(None);
    let rc = kp.balancer.get().get(peer);
    if rc != NGX_OK as ngx_int_t {
        return no_server(kp, rc);
    }
    kp.first_buffer.set(kp.u.first_buffer());
    connect_plain(kp, peer)
}

#[cold]
fn no_server(kp: &PeerData, rc: ngx_int_t) -> ngx_int_t {
    if rc != NGX_DONE as ngx_int_t {
        kp.note(Status::None, 0);
    }
    rc
}

#[inline(never)]
fn get_any(kp: &PeerData, peer: Peer) -> ngx_int_t {
    if kp.extra().own_conf().is_some() {
        kp.own_conf_ends();
    }
    if kp.upstream().bindings.is_some() {
        if let Some(rc) = reuse_own(kp, peer) {
            return rc;
        }
    }
    let within_limit = match kp.extra().stage() {
        Stage::Again(pinned) => match repeat(kp, peer, pinned) {
            Some(rc) => return rc,
            None => true,
        },
        Stage::Resuming(_) | Stage::Informed(_) | Stage::TryingStream(_) => true,
        stage => match choose_server(kp, peer, stage) {
            Ok(within_limit) => within_limit,
            Err(rc) => return rc,
        },
    };
    connect(kp, peer, within_limit)
}

/// Asks the balancer for a server. Returns whether its requests are within its limit.
///
/// # Errors
/// What the core is to hear if the request has no server: it waits for one, or there is none.
#[inline(always)]
fn choose_server(kp: &PeerData, peer: Peer, stage: Stage) -> Result<bool, ngx_int_t> {
    kp.attempt.set(None);
    match choose(kp, peer, stage) {
        Choice::Server(chosen) => {
            kp.set_server(chosen.server);
            #[cfg(nginx_resolve)]
            kp.set_generation(chosen.generation);
            kp.first_buffer.set(kp.u.first_buffer());
            Ok(chosen.is_within_limit)
        }
        Choice::Busy if stage == Stage::Asking => Err(enqueue(kp, peer)),
        Choice::Busy => Err(NGX_BUSY as ngx_int_t),
        Choice::NoServer(rc) => Err(no_server(kp, rc)),
    }
}

/// Stores the connection if it may be kept, then gives the server back to the balancer.
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
    if kp.upstream().is_plain.get() && state == 0 && guard(false, || put_back::<true>(kp, peer)) {
        kp.meter.set(None);
        kp.balancer.get().free(peer, state);
    } else {
        free_any(kp, peer, state);
    }
}

/// The same in any case.
#[inline(never)]
fn free_any(kp: &PeerData, peer: Peer, state: ngx_uint_t) {
    let used = kp.extra().server();
    if !kp.upstream().is_plain.get() && state == 0 && guard(false, || put_back::<false>(kp, peer)) {
        kp.meter.set(None);
        if let Some(server) = kp.take_server() {
            leave_server(kp, peer, server, true);
        }
        kp.balancer.get().free(peer, state);
    } else {
        end_attempt(kp, peer, state);
    }
    if kp.upstream().can_wait() {
        guard((), || {
            look_again(kp);
            kp.upstream().schedule_dispatch(used);
        });
    }
}

/// Ends an attempt in any other way than the usual one.
#[inline(never)]
fn end_attempt(kp: &PeerData, peer: Peer, state: ngx_uint_t) {
    let failure = AttemptEnd { server: Some(ServerReturn::State(state)), connection: Err(End::Error) };
    let outcome = guard(failure, || match kp.replace_stage(Stage::Asking) {
        Stage::Asking => free(kp, peer, state),
        stage => stop_waiting(kp, peer, stage, state),
    });
    guard((), || settle(kp, peer, &outcome));
    match outcome.server {
        None => {}
        Some(_) if kp.extra().is_reclaimed() => {
            kp.set_reclaimed(false);
            peer.count_try();
        }
        Some(ServerReturn::Untried) => kp.balancer.get().free_untried(peer),
        Some(ServerReturn::State(state)) => kp.balancer.get().free(peer, state),
    }
}

/// How an attempt has ended.
pub(super) struct AttemptEnd {
    /// How the balancer gets the server back; `None` if the request keeps it, or has none.
    pub(super) server: Option<ServerReturn>,
    /// What has ended the connection, unless the pool keeps it.
    pub(super) connection: Result<(), End>,
}

/// The end of an attempt that has waited, and has no connection.
#[cold]
#[inline(never)]
fn stop_waiting(kp: &PeerData, peer: Peer, stage: Stage, state: ngx_uint_t) -> AttemptEnd {
    end_opening(kp);
    AttemptEnd { server: leave_wait(kp, peer, stage, state), connection: Ok(()) }
}

/// The end of an attempt that had a server.
#[inline(always)]
fn free(kp: &PeerData, peer: Peer, state: ngx_uint_t) -> AttemptEnd {
    let has_failed = state & NGX_PEER_FAILED as ngx_uint_t != 0;
    let unsent = kp.unsent.take();
    if kp.extra().stream().is_some() {
        if let Some(outcome) = free_stream(kp, peer, state) {
            return outcome;
        }
    }
    let (attempt, conn) = (kp.attempt.take(), peer.connection());
    if let (Some(Reuse { slot, .. }), Some(conn)) = (attempt.and_then(|attempt| attempt.reuse()), conn) {
        // It does not go back as it was.
        kp.upstream().forget(slot, conn);
    }
    let outcome = match (attempt, conn) {
        (Some(attempt), Some(conn))
            if !has_failed || (!attempt.is_reused() && !refusal::is_refused(kp, conn)) =>
        {
            let connection = release_to_pool(kp, peer, conn, attempt, state);
            AttemptEnd { server: Some(ServerReturn::State(state)), connection }
        }
        (attempt, conn) => match retry::on_connection_failed(kp, peer, attempt, conn, state, unsent) {
            RetryDecision::ReturnServer(how, end) => AttemptEnd { server: Some(how), connection: Err(end) },
            RetryDecision::KeepServer(pinned, end) => {
                retry::keep_server(kp, peer, pinned);
                AttemptEnd { server: None, connection: Err(end) }
            }
        },
    };
    if state != 0 {
        refusal::number_anew(kp);
    }
    outcome
}

/// Counts what has become of the connection, and of the server.
#[inline(always)]
fn settle(kp: &PeerData, peer: Peer, outcome: &AttemptEnd) {
    match outcome.connection {
        Ok(()) => {
            kp.meter.set(None);
            kp.set_binding(None);
        }
        Err(end) => count_close(kp, peer, end),
    }
    match outcome.server {
        None => return,
        Some(ServerReturn::State(state)) if state != 0 => kp.note_tried(),
        Some(_) => {}
    }
    if let Some(server) = kp.take_server() {
        leave_server(kp, peer, server, outcome.connection.is_ok());
    }
}

/// Passes a notification on to the balancer.
unsafe extern "C" fn notify(pc: *mut ngx_peer_connection_t, data: *mut c_void, event: ngx_uint_t) {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    // The balancer has not given the server of a connection that was found for its client.
    if !kp.extra().is_reclaimed() {
        kp.balancer.get().notify(peer, event);
    }
}
