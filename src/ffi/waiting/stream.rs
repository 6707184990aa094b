//! A request that has a server waits for a stream of a carrier.

use std::ptr::NonNull;

use nginx_sys::{ngx_int_t, NGX_AGAIN, NGX_ERROR};

use crate::base::clock::Msec;
use crate::http2::sharing::GroupId;
use crate::metrics::Http2Count;
use crate::queue;

use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::{elapsed, now};
use crate::ffi::state::carrier::{most, room};
use crate::ffi::state::extra::Stage;
use crate::ffi::state::notes::Status;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::waiter::Waiter;
use crate::ffi::state::waits::{WaitFailure, INTERVAL};

use super::enqueue::core_has_returned;
use super::fail::fail;
use super::outlook::look_again;
use super::placeholder::{install_placeholder, start_wait};

/// Lets the request wait for a stream of the group. If too many wait already, it fails when the core has returned.
#[cold]
pub(crate) fn await_stream(kp: &PeerData, peer: Peer, group: GroupId) -> ngx_int_t {
    let upstream = kp.upstream();
    let stage = kp.extra().stage();
    let waiter = match stage {
        Stage::Asking => start_wait(kp, peer),
        _ => kp.extra().waiter(),
    };
    let Some(waiter) = waiter else { return NGX_ERROR as ngx_int_t };
    // SAFETY: `start_wait` has put it into the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    let push = || upstream.waits.streams.with(|line| line.push(waiter, this.since.get())).flatten();
    let ticket = match stage {
        Stage::TryingStream(ticket) => Some(ticket),
        Stage::Asking if upstream.waits.is_full_of_streams() => None,
        // It has waited for something else, and so has a place already.
        _ => push(),
    };
    match ticket {
        Some(ticket) => {
            if stage != Stage::TryingStream(ticket) {
                begin_wait(upstream, this, group);
            }
            peer.set_connection(this.conn());
            kp.note(Status::Queued, 0);
            kp.set_stage(Stage::AwaitingStream(ticket));
        }
        None if stage != Stage::Asking => return NGX_ERROR as ngx_int_t,
        None => {
            give_server_back(kp, peer);
            install_placeholder(kp, peer, this);
            if let Some(meter) = upstream.queue_meter() {
                meter.overflow();
            }
            kp.note(Status::None, 0);
            kp.set_stage(Stage::Failing(WaitFailure::Full));
        }
    }
    if stage == Stage::Asking {
        this.turn.prepare(core_has_returned, waiter.as_ptr().cast(), false);
        match kp.u.connect_timeout() {
            // The core's timer would expire before our other events.
            0 => this.turn.post_first(),
            _ => this.turn.post(),
        }
    }
    upstream.waits_changed();
    NGX_AGAIN as ngx_int_t
}

fn begin_wait(upstream: &Upstream, waiter: &Waiter, group: GroupId) {
    upstream.carriers.with(|all| all.wait(group));
    waiter.group.set(Some(group));
    if let Some(meter) = upstream.http2_meter() {
        meter.add(Http2Count::Waits, 1);
    }
}

/// The request goes to no server: the balancer gets back the one that it has given.
fn give_server_back(kp: &PeerData, peer: Peer) {
    kp.attempt.set(None);
    if let Some(server) = kp.take_server() {
        kp.upstream().counts.end_request(server);
    }
    kp.balancer.get().free_untried(peer);
    look_again(kp);
}

/// Sets the timer of a request that waits for a stream: as long as it may take to connect. How long a `queue` lets it wait is
/// watched by the dispatcher.
pub(super) fn wait_for_stream(kp: &PeerData, waiter: &Waiter) {
    match kp.upstream().waits.directive {
        Some(_) => waiter.write().clear_timer(),
        None => waiter.write().set_timer(kp.u.connect_timeout().max(INTERVAL)),
    }
}

/// Whether a request has waited for a stream for as long as `queue` says.
pub(super) fn is_late(upstream: &Upstream, since: Msec) -> bool {
    upstream.waits.directive.is_some_and(|queue| elapsed(since) >= queue.timeout)
}

/// Ends a request that has waited for a stream for too long. It may be gone when this returns.
#[cold]
pub(super) fn time_out(upstream: &Upstream, waiting: queue::Entry<NonNull<Waiter>>) {
    // SAFETY: a request in a line is alive, and its waiter is in its pool.
    let waiter = unsafe { waiting.waiter.as_ref() };
    // SAFETY: it lies in the pool of the same request, which is alive.
    let kp = unsafe { waiter.request.as_ref() };
    upstream.waits.streams.with(|line| line.remove(waiting.ticket));
    end_wait_for_stream(upstream, waiter);
    let peer = kp.u.peer();
    peer.release_connection();
    give_server_back(kp, peer);
    install_placeholder(kp, peer, waiter);
    if let Some(meter) = upstream.queue_meter() {
        meter.time_out();
    }
    fail(kp, waiter, WaitFailure::TimedOut);
}

/// The request does not wait for a stream any more.
pub(super) fn end_wait_for_stream(upstream: &Upstream, waiter: &Waiter) {
    if let Some(group) = waiter.group.take() {
        upstream.carriers.with(|all| all.end_wait(group));
    }
}

/// Whether a request that waits for a stream would get one now, or may open a connection. `known` is the last answer, which
/// holds for all requests of one group.
pub(super) fn has_place(upstream: &Upstream, waiter: &Waiter, known: &mut Option<GroupId>) -> bool {
    let Some(group) = waiter.group.get() else { return true };
    if *known == Some(group) {
        return false;
    }
    let has_place =
        upstream.carriers.with(|all| all.has_place(group, most(upstream), now(), room)).unwrap_or(true);
    if !has_place {
        *known = Some(group);
    }
    has_place
}
