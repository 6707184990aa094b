//! Whose turn it is: those who wait get their connections, in the order in which they came.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_event_connect_peer, ngx_event_t, ngx_int_t, ngx_uint_t, NGX_AGAIN, NGX_BUSY, NGX_DECLINED, NGX_DONE,
    NGX_OK,
};

use crate::metrics::End;
use crate::queue;
use crate::queue::room::Outlook;

use crate::ffi::idle::close::close_all;
use crate::ffi::max_conns::slots::close_idle;
use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::process::{elapsed, now};
use crate::ffi::shared::workers::recover;
use crate::ffi::state::peer_data::{PeerData, Stage};
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::waiter::Waiter;
use crate::ffi::state::waits::WaitFailure;

use super::enqueue::{is_worth_it, outlook, wait_for_slot};
use super::fail::{declined, error, fail};
use super::placeholder::install_placeholder;
use super::resume::resume_connect;

type Waiting = queue::Entry<NonNull<Waiter>>;

/// What became of a request whose turn it was.
enum Turn {
    /// It does not wait any more.
    Over,
    /// No server has room for it yet.
    NotYet,
    /// No server will ever have room for it: all are down.
    Never,
}

/// The handler of an upstream's alarm.
pub(crate) unsafe extern "C" fn dispatch_waiters(event: *mut ngx_event_t) {
    // SAFETY: the alarm of an upstream, which ends before the upstream does.
    let upstream = unsafe { (*event).data }.cast::<Upstream>();
    // SAFETY: put there when the alarm was prepared.
    let upstream = unsafe { &*upstream };
    guard((), || serve_all(upstream));
}

fn serve_all(upstream: &Upstream) {
    let in_time = upstream.waits.alarm.timed_out();
    if let Some(ledger) = upstream.counts.shared() {
        ledger.answer();
    }
    if in_time {
        recover(upstream);
    }
    close_what_others_need(upstream);
    resume_parked(upstream);
    serve_retries(upstream);
    serve_queue(upstream, in_time);
    upstream.waits_changed();
    if upstream.is_ending() {
        // What was kept for those who waited is of use to nobody any more.
        close_all(upstream);
    }
}

/// Other workers have requests for servers to which this one has idle connections.
fn close_what_others_need(upstream: &Upstream) {
    let Some(ledger) = upstream.counts.shared() else { return };
    let close = |server| {
        if let Some(idle) = upstream.take_oldest_of(server) {
            close_idle(upstream, idle, End::Evicted);
        }
    };
    ledger.each_close_request(close, |server| {
        ledger.parked(server).for_each(|worker| upstream.counts.ring(worker))
    });
}

fn resume_parked(upstream: &Upstream) {
    let parked = &upstream.waits.parked;
    let mut next = parked.with(|parked| parked.first()).flatten();
    // One that ends may take others with it, of the same main request: then from the beginning.
    for _ in 0..parked.with(|parked| parked.len()).unwrap_or(0) {
        let Some(waiting) = next else { return };
        next = parked.with(|parked| parked.next_after(waiting.ticket)).flatten();
        resume(waiting);
        next = match next {
            Some(behind) => parked.with(|line| line.get(behind.ticket).or_else(|| line.first())).flatten(),
            None => return,
        };
    }
}

/// Each of these has servers to which it does not go back, so that one of them does not stand for
/// all; but to ask for many of them is not worth it. Who has room is looked up once, and anew when that may have changed.
fn serve_retries(upstream: &Upstream) {
    let retries = &upstream.waits.retries;
    let mut in_vain = 0;
    let mut looked = None;
    let mut next = retries.with(|line| line.first()).flatten();
    while let (Some(waiting), 0..=MAX_IN_VAIN) = (next, in_vain) {
        next = retries.with(|line| line.next_after(waiting.ticket)).flatten();
        if serve(upstream, waiting, |kp| outlook_of_all(upstream, kp, &mut looked)) {
            looked = None;
        } else {
            in_vain += 1;
        }
        next = next.and_then(|behind| retries.with(|line| line.get(behind.ticket)).flatten());
    }
    if let Some(ledger) = upstream.counts.shared() {
        ledger.with_retries().for_each(|worker| upstream.counts.ring(worker));
    }
}

/// What the request can expect of the servers as they were when they were last `looked` at.
fn outlook_of_all(
    upstream: &Upstream,
    kp: &PeerData,
    looked: &mut Option<(Servers, ngx_uint_t)>,
) -> Option<Outlook> {
    // SAFETY: the upstream's cycle is alive while it is used, and its balancer has initialised the request.
    let servers = unsafe { Servers::of(upstream.us, kp.balancer.get()) }?;
    let set = match *looked {
        Some((of, set)) if of == servers => set,
        _ => {
            let set = servers.set();
            let all = upstream.waits.rooms.with(|rooms| servers.look_at_all(rooms)).flatten();
            if all.is_none() {
                return outlook(kp);
            }
            *looked = Some((servers, set));
            set
        }
    };
    let tried = kp.tried().filter(|tried| tried.is_of(servers, set)).map_or(&[][..], |tried| tried.words());
    upstream.waits.rooms.with(|rooms| rooms.outlook(tried.iter().copied()))
}

/// Those who have waited longest come first, in whatever worker they are; `in_time` this one's
/// have their turn in any case, lest they depend on a worker that does not answer.
fn serve_queue(upstream: &Upstream, in_time: bool) {
    loop {
        let another = upstream.counts.shared().and_then(|ledger| ledger.another_waits_longest(now()));
        if let Some(worker) = another {
            upstream.counts.ring(worker);
            if !in_time {
                return;
            }
        }
        let first = upstream.waits.queue.with(|queue| queue.first()).flatten();
        if !first.is_some_and(|waiting| serve(upstream, waiting, outlook)) {
            return;
        }
    }
}

/// It is the turn of a request, which can `expect` that; returns whether it does not wait any more.
fn serve(upstream: &Upstream, waiting: Waiting, expect: impl FnOnce(&PeerData) -> Option<Outlook>) -> bool {
    // SAFETY: as long as a request is in a line it is alive, and its waiter in its pool.
    let waiter = unsafe { waiting.waiter.as_ref() };
    // SAFETY: as above.
    let kp = unsafe { waiter.request.as_ref() };
    let failure = if upstream.waits.directive.is_some_and(|queue| elapsed(waiting.since) >= queue.timeout) {
        WaitFailure::TimedOut
    } else {
        match grant(kp, waiter, waiting, expect) {
            Turn::Over => return true,
            Turn::NotYet => return false,
            Turn::Never => WaitFailure::NoLiveServer,
        }
    };
    remove(upstream, kp, waiting);
    if let (WaitFailure::TimedOut, Some(meter)) = (failure, upstream.queue_meter()) {
        meter.time_out();
    }
    fail(kp, waiter, failure);
    true
}

fn remove(upstream: &Upstream, kp: &PeerData, waiting: Waiting) {
    upstream.unqueue(kp, waiting.ticket);
    upstream.waits_changed();
}

/// So many are asked for in vain, of those who do not take any server.
const MAX_IN_VAIN: usize = 255;

/// Asks the balancer again, in the name of the request. All that is between the core and the
/// balancer takes part, as in the first attempt.
fn grant(
    kp: &PeerData,
    waiter: &Waiter,
    waiting: Waiting,
    expect: impl FnOnce(&PeerData) -> Option<Outlook>,
) -> Turn {
    // The balancer is new to the request each time, at a price: it is not asked for nothing.
    match expect(kp) {
        Some(Outlook::Down) => return Turn::Never,
        Some(Outlook::Full) => return Turn::NotYet,
        Some(Outlook::Room) | None => {}
    }
    let peer = kp.u.peer();
    peer.set_log_action(c"connecting to upstream");
    kp.stage.set(Stage::Granting(waiting.ticket));
    peer.release_connection();
    peer.set_no_server(std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the peer of a live request that has no connection and no server.
    let rc = unsafe { ngx_event_connect_peer(peer.as_ptr()) };
    if rc == NGX_BUSY as ngx_int_t {
        install_placeholder(kp, peer, waiter);
        kp.stage.set(Stage::Queued(waiting.ticket));
        return if is_worth_it(kp) { Turn::NotYet } else { Turn::Never };
    }
    remove(kp.upstream(), kp, waiting);
    if matches!(kp.stage.get(), Stage::Parked(_)) {
        wait_for_slot(kp, waiter);
        return Turn::Over;
    }
    finish_wait(kp, waiter, rc);
    Turn::Over
}

/// Tries again to get room for the connection of a request that has a server.
fn resume(waiting: Waiting) {
    // SAFETY: as long as a request is parked it is alive, and its waiter in its pool.
    let waiter = unsafe { waiting.waiter.as_ref() };
    // SAFETY: as above.
    let kp = unsafe { waiter.request.as_ref() };
    let (upstream, peer) = (kp.upstream(), kp.u.peer());
    let Some(server) = kp.server.get() else { return };
    upstream.counts.unpark(server);
    kp.stage.set(Stage::Resuming(waiting.ticket));
    peer.release_connection();
    // SAFETY: the peer of a live request that has a server and no connection.
    let rc = unsafe { ngx_event_connect_peer(peer.as_ptr()) };
    if !matches!(kp.stage.get(), Stage::Parked(_)) {
        upstream.waits.parked.with(|parked| parked.remove(waiting.ticket));
        finish_wait(kp, waiter, rc);
    }
}

/// The wait is over: the request goes on, or fails, as if the core had just asked for a connection.
fn finish_wait(kp: &PeerData, waiter: &Waiter, rc: ngx_int_t) {
    const OK: ngx_int_t = NGX_OK as ngx_int_t;
    const DONE: ngx_int_t = NGX_DONE as ngx_int_t;
    const AGAIN: ngx_int_t = NGX_AGAIN as ngx_int_t;
    const DECLINED: ngx_int_t = NGX_DECLINED as ngx_int_t;
    kp.stage.set(Stage::Asking);
    kp.u.end_of_wait(elapsed(waiter.since.get()));
    match rc {
        OK | DONE | AGAIN => resume_connect(kp, waiter, rc == AGAIN),
        DECLINED => declined(kp, waiter),
        _ => error(kp, waiter),
    }
}
