//! A request begins to wait, or stops waiting before its turn.
//!
//! It waits in the *queue* until the balancer has a server for it, if the upstream has `queue`. A request that has a server
//! is *parked* if all slots of the server are taken.

use nginx_sys::{ngx_event_t, ngx_int_t, ngx_uint_t, NGX_AGAIN, NGX_ERROR, NGX_PEER_FAILED};

use crate::ledger::Server;
use crate::metrics::{End, Phase};

use crate::ffi::max_conns::linger;
use crate::ffi::max_conns::slots::release_slot;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::{elapsed, now};
use crate::ffi::state::extra::Stage;
use crate::ffi::state::notes::Status;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::waiter::Waiter;
use crate::ffi::state::waits::{WaitFailure, INTERVAL};

use super::fail::fail;
use super::placeholder::{install_placeholder, start_wait};
use super::stream::{end_wait_for_stream, wait_for_stream};

/// Queues the request; if the queue is full, it fails when the core has returned.
pub(crate) fn enqueue(kp: &PeerData, peer: Peer) -> ngx_int_t {
    let Some(waiter) = start_wait(kp, peer) else { return NGX_ERROR as ngx_int_t };
    // SAFETY: `start_wait` has put it into the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    let upstream = kp.upstream();
    install_placeholder(kp, peer, this);
    let waits = &upstream.waits;
    let push = || waits.line(kp).with(|line| line.push(waiter, this.since.get())).flatten();
    let queued = (!waits.is_full()).then(push).flatten();
    match (upstream.queue_meter(), queued) {
        (Some(meter), Some(_)) => meter.begin(),
        (Some(meter), None) => meter.overflow(),
        (None, _) => {}
    }
    kp.note(if queued.is_some() { Status::Queued } else { Status::None }, 0);
    kp.set_stage(queued.map_or(Stage::Failing(WaitFailure::Full), Stage::Queued));
    upstream.waits_changed();
    this.turn.prepare(core_has_returned, waiter.as_ptr().cast(), false);
    match kp.u.connect_timeout() {
        // The core's timer would expire before our other events.
        0 => this.turn.post_first(),
        _ => this.turn.post(),
    }
    NGX_AGAIN as ngx_int_t
}

/// Parks the request: it has a server, but there is no slot for its connection yet.
pub(crate) fn park(kp: &PeerData, peer: Peer, server: Server) -> ngx_int_t {
    let waits = &kp.upstream().waits;
    let waiter = match kp.extra().stage() {
        Stage::Asking => start_wait(kp, peer),
        _ => kp.extra().waiter(),
    };
    let Some(waiter) = waiter else { return NGX_ERROR as ngx_int_t };
    // SAFETY: `start_wait` has put it into the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    let ticket = match kp.extra().stage() {
        Stage::Resuming(ticket) => Some(ticket),
        _ => waits.parked.with(|parked| parked.push(waiter, this.since.get())).flatten(),
    };
    let Some(ticket) = ticket else { return NGX_ERROR as ngx_int_t };
    peer.set_connection(this.conn());
    kp.note(Status::Queued, 0);
    if kp.replace_stage(Stage::Parked(ticket)) == Stage::Asking {
        this.turn.prepare(core_has_returned, waiter.as_ptr().cast(), false);
        this.turn.post();
    }
    let upstream = kp.upstream();
    if let Some(ledger) = upstream.counts.ledger.get() {
        if let Some(worker) = ledger.park(server, now()) {
            upstream.counts.ring(worker);
        }
        // A connection that was closed before others knew of this request has woken nobody.
        if !ledger.is_full(server) {
            upstream.post_dispatch();
        }
    }
    upstream.waits_changed();
    NGX_AGAIN as ngx_int_t
}

/// The core has set up the placeholder as a connection that is being opened, with a timer. The timer is removed, as
/// `proxy_connect_timeout` must not end the wait.
pub(super) unsafe extern "C" fn core_has_returned(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of a waiter, and knows it only while the request waits; reads one field.
    let waiter = unsafe { (*event).data }.cast::<Waiter>();
    // SAFETY: `enqueue` or `park` has put the waiter there, which is in the pool of the live request.
    let waiter = unsafe { &*waiter };
    // SAFETY: it lies in the pool of the same request, which is alive.
    let kp = unsafe { waiter.request.as_ref() };
    guard((), || match kp.extra().stage() {
        Stage::Failing(failure) => fail(kp, waiter, failure),
        Stage::Parked(_) => wait_for_slot(kp, waiter),
        Stage::AwaitingStream(_) => wait_for_stream(kp, waiter),
        Stage::Inquiring(_) => waiter.write().clear_timer(),
        Stage::Queued(ticket) => {
            waiter.write().clear_timer();
            // A server that became free before other workers knew of the first request has woken nobody.
            let upstream = kp.upstream();
            let first = upstream.waits.line(kp).with(|line| line.first()).flatten();
            if upstream.counts.shared().is_some() && first.is_some_and(|first| first.ticket == ticket) {
                upstream.waits.forget_rooms();
                upstream.post_dispatch();
            }
        }
        _ => {}
    });
}

/// Sets the timer of a parked request. A slot becomes free soon, or never, as when another worker is stopped. So the wait ends
/// like a connection that is not established in time, but not before a slot can have become free.
pub(crate) fn wait_for_slot(kp: &PeerData, waiter: &Waiter) {
    let drained = kp.upstream().drain.timeout.saturating_add(linger::TIMEOUT);
    waiter.write().set_timer(kp.u.connect_timeout().max(INTERVAL).max(drained));
}

/// How the balancer gets a server back.
#[derive(Clone, Copy)]
pub(crate) enum ServerReturn {
    /// As if the request had not been sent to it. What has become of the request says nothing of the server.
    Untried,
    /// With what the core says of it.
    State(ngx_uint_t),
}

impl ServerReturn {
    /// With what the core says of it, except for a failure: that was not the server's.
    pub(crate) fn without_failure(state: ngx_uint_t) -> Self {
        const FAILED: ngx_uint_t = NGX_PEER_FAILED as ngx_uint_t;
        if state == FAILED {
            Self::Untried
        } else {
            Self::State(state & !FAILED)
        }
    }
}

/// The core has given up a request that waits: its client has left, or its time is over. Returns how the balancer gets the
/// server back, if it has given one.
pub(crate) fn leave_wait(kp: &PeerData, peer: Peer, stage: Stage, state: ngx_uint_t) -> Option<ServerReturn> {
    let upstream = kp.upstream();
    end_placeholder(kp, stage);
    peer.release_connection();
    if let Some(meter) = kp.meter.take() {
        meter.end(Phase::Active, End::Connect);
    }
    let returned = match stage {
        Stage::Queued(ticket) | Stage::Granting(ticket) => {
            upstream.unqueue(kp, ticket);
            None
        }
        Stage::Parked(ticket) | Stage::Resuming(ticket) => {
            upstream.waits.parked.with(|parked| parked.remove(ticket));
            if let Some(server) = kp.take_server() {
                upstream.counts.unpark(server);
                upstream.counts.end_request(server);
            }
            // The server has heard nothing of the request: neither is it too slow, nor well again.
            Some(ServerReturn::Untried)
        }
        Stage::Inquiring(ticket) | Stage::Informed(ticket) => {
            upstream.waits.asking.with(|asking| asking.remove(ticket));
            if let Some(server) = kp.take_server() {
                upstream.counts.end_request(server);
            }
            Some(ServerReturn::Untried)
        }
        Stage::AwaitingStream(ticket) | Stage::TryingStream(ticket) => {
            upstream.waits.streams.with(|line| line.remove(ticket));
            end_group_wait(kp);
            if let Some(server) = kp.take_server() {
                upstream.counts.end_request(server);
            }
            Some(ServerReturn::Untried)
        }
        Stage::Declined => {
            kp.u.set_request_sent(false);
            kp.note_tried();
            if let Some(server) = kp.take_server() {
                upstream.counts.end_request(server);
                release_slot(upstream, server);
            }
            Some(ServerReturn::State(NGX_PEER_FAILED as ngx_uint_t))
        }
        Stage::Failing(_) | Stage::Asking | Stage::Again(_) => {
            kp.u.set_request_sent(false);
            None
        }
    };
    if returned.is_none() && state != 0 {
        // The core would try another server, and the request would wait again.
        peer.set_tries(0);
    }
    upstream.waits_changed();
    if upstream.is_ending() && !upstream.is_empty() {
        // Connections may have been kept for it.
        upstream.post_dispatch();
    }
    returned
}

/// The request does not wait for a stream any more.
fn end_group_wait(kp: &PeerData) {
    // SAFETY: `start_wait` has put it into the pool of the live request.
    if let Some(waiter) = kp.extra().waiter().map(|waiter| unsafe { waiter.as_ref() }) {
        end_wait_for_stream(kp.upstream(), waiter);
    }
}

/// Takes the placeholder back from nginx, and ends the time of the wait, unless that was done before.
fn end_placeholder(kp: &PeerData, stage: Stage) {
    let Some(waiter) = kp.extra().waiter() else { return };
    // SAFETY: `start_wait` has put it into the pool of the live request.
    let waiter = unsafe { waiter.as_ref() };
    waiter.leave();
    let is_counted =
        matches!(stage, Stage::Declined | Stage::Failing(_) | Stage::Inquiring(_) | Stage::Informed(_));
    if !is_counted {
        kp.u.end_of_wait(elapsed(waiter.since.get()));
        kp.u.no_response_time();
    }
}
