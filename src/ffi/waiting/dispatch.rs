//! Requests that wait get their connections, in the order in which they came.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_event_connect_peer, ngx_event_t, ngx_int_t, NGX_AGAIN, NGX_BUSY, NGX_DECLINED, NGX_DONE, NGX_OK,
};

use crate::handover::questions::PATIENCE;
use crate::ledger::{Ledger, Server};
use crate::metrics::End;
use crate::queue;
use crate::queue::room::Outlook;

use crate::ffi::handover::give::{give, Given, Recipient};
use crate::ffi::handover::heir::yield_connections;
use crate::ffi::handover::inbox::{read_all, settle_if_due};
use crate::ffi::idle::close::close_all;
use crate::ffi::max_conns::refused::close_refused;
use crate::ffi::max_conns::slots::{close_idle, neediest};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::process::{elapsed, now};
use crate::ffi::shared::workers::recover;
use crate::ffi::state::extra::Stage;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::waiter::Waiter;
use crate::ffi::state::waits::{WaitFailure, Waits};
use crate::ffi::streams::idle::close_oldest_to;

use super::enqueue::wait_for_slot;
use super::fail::{fail, fail_declined, fail_internally};
use super::inquire::is_over;
use super::outlook::{begin_round, is_worth_waiting, look_again, outlook};
use super::placeholder::install_placeholder;
use super::resume::resume_connect;
use super::stream::{end_wait_for_stream, has_place, is_late, time_out, wait_for_stream};

type Waiting = queue::Entry<NonNull<Waiter>>;

/// The result of a request's turn.
enum Turn {
    /// The request does not wait any more.
    WaitEnded,
    /// The request waits on: no server has room for it yet.
    Busy,
    /// All servers are down.
    NoLiveServer,
}

/// The handler of an upstream's alarm.
pub(crate) unsafe extern "C" fn dispatch_waiters(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of an upstream's alarm; reads one field.
    let upstream = unsafe { (*event).data }.cast::<Upstream>();
    // SAFETY: `prepare_dispatch` has put the upstream there, which lives as long as its cycle, and the alarm with it.
    let upstream = unsafe { &*upstream };
    guard((), || serve_all(upstream));
}

fn serve_all(upstream: &Upstream) {
    let in_time = upstream.waits.alarm.timed_out();
    if upstream.counts.shared().is_some_and(Ledger::answer) {
        // Another worker may have freed a server.
        upstream.waits.forget_rooms();
    }
    // Whoever needs it sets it again.
    upstream.waits.soon.clear();
    settle_if_due(upstream);
    if in_time {
        recover(upstream, read_all);
    }
    close_refused(upstream);
    give_what_others_need(upstream);
    resume_informed(upstream);
    resume_parked(upstream);
    resume_for_streams(upstream);
    serve_retries(upstream);
    serve_queue(upstream, in_time);
    upstream.waits_changed();
    let has_more = yield_connections(upstream);
    if upstream.is_ending() && !has_more {
        // The connections that were kept for waiting requests are of no more use.
        close_all(upstream);
    }
}

/// Gives idle connections to the workers in which requests wait for them.
fn give_what_others_need(upstream: &Upstream) {
    let Some(ledger) = upstream.counts.shared() else { return };
    // If the request that needed it has gone on by now, the connection stays.
    let give = |server| {
        if let Some(worker) = ledger.parked(server).next() {
            give_or_close(upstream, worker, server);
        }
    };
    ledger.each_close_request(give, |server| {
        ledger.parked(server).for_each(|worker| upstream.counts.ring(worker))
    });
    while let Some(server) = upstream.waits.released.with(|released| released.take()).flatten() {
        if let Some(worker) = neediest(upstream, server) {
            give_or_close(upstream, worker, server);
        }
    }
}

/// Gives a connection to another worker. If none can be given, one is closed, so that the other worker can open one.
fn give_or_close(upstream: &Upstream, worker: usize, server: Server) {
    let newest = || upstream.idle.with(|idle| idle.newest_of(server)).flatten();
    if let (Some(slot), Some(ledger)) = (newest(), upstream.counts.shared()) {
        // The message wakes it. If it does not answer, the next connection goes elsewhere.
        ledger.ring(worker, now());
        if give(upstream, slot, Recipient::Sibling { worker, question: 0 }) == Given::Gone {
            return;
        }
        upstream.counts.ring(worker);
    }
    match upstream.take_oldest_of(server) {
        Some(idle) => {
            close_idle(upstream, idle, End::Evicted);
        }
        None => {
            close_oldest_to(upstream, server);
        }
    }
}

/// Lets each request go on that has asked another worker, once that has answered, or has not answered in time.
fn resume_informed(upstream: &Upstream) {
    let asking = &upstream.waits.asking;
    let mut next = asking.with(|asking| asking.first()).flatten();
    for _ in 0..asking.with(|asking| asking.len()).unwrap_or(0) {
        let Some(waiting) = next else { break };
        next = asking.with(|asking| asking.next_after(waiting.ticket)).flatten();
        // SAFETY: a request in a line is alive, and its waiter is in its pool.
        let waiter = unsafe { waiting.waiter.as_ref() };
        if is_over(upstream, waiter, waiting.since) {
            resume(waiting, Stage::Informed(waiting.ticket));
        }
        // A request that ends may end others, of the same main request. If the next one is gone, the first one is next.
        next = match next {
            Some(behind) => asking.with(|line| line.get(behind.ticket).or_else(|| line.first())).flatten(),
            None => break,
        };
    }
    if let Some(first) = asking.with(|asking| asking.first()).flatten() {
        upstream.dispatch_soon(PATIENCE.saturating_sub(elapsed(first.since)));
    }
}

/// Gives each parked request another try to get a slot.
fn resume_parked(upstream: &Upstream) {
    let parked = &upstream.waits.parked;
    let mut next = parked.with(|parked| parked.first()).flatten();
    // A request that ends may end others, of the same main request. If the next one is gone, the first one is next.
    for _ in 0..parked.with(|parked| parked.len()).unwrap_or(0) {
        let Some(waiting) = next else { return };
        next = parked.with(|parked| parked.next_after(waiting.ticket)).flatten();
        resume(waiting, Stage::Resuming(waiting.ticket));
        next = match next {
            Some(behind) => parked.with(|line| line.get(behind.ticket).or_else(|| line.first())).flatten(),
            None => return,
        };
    }
}

/// Gives requests that wait for a stream another try, in the order in which they came, if one is free for them.
fn resume_for_streams(upstream: &Upstream) {
    let line = &upstream.waits.streams;
    let mut full = None;
    let mut next = line.with(|line| line.first()).flatten();
    for _ in 0..line.with(|line| line.len()).unwrap_or(0) {
        let Some(waiting) = next else { return };
        next = line.with(|line| line.next_after(waiting.ticket)).flatten();
        let is_late = is_late(upstream, waiting.since);
        // SAFETY: a request in a line is alive, and its waiter is in its pool.
        if is_late || has_place(upstream, unsafe { waiting.waiter.as_ref() }, &mut full) {
            if is_late {
                time_out(upstream, waiting);
            } else {
                resume(waiting, Stage::TryingStream(waiting.ticket));
            }
            // A request that ends may end others, of the same main request. If the next one is gone, the first one is next.
            next = match next {
                Some(behind) => line.with(|line| line.get(behind.ticket).or_else(|| line.first())).flatten(),
                None => return,
            };
        }
    }
}

/// Serves requests that have tried servers in vain. Each has its own set of servers to which it does not go back, so the first
/// one does not stand for all; but not more than [`MAX_IN_VAIN`] are tried in vain at a time. If a server has got room, each has
/// its turn, or until that room is taken: in this dispatch and, if they are more, in the next ones.
fn serve_retries(upstream: &Upstream) {
    let Waits { retries, rooms, unasked, .. } = &upstream.waits;
    let first = || retries.with(|line| line.first()).flatten();
    while first().is_some_and(|waiting| has_expired(upstream, waiting) && serve(upstream, waiting)) {}
    // SAFETY: a request in a line is alive, and its waiter is in its pool.
    let is_new = first().is_some_and(|waiting| begin_round(unsafe { request_of(waiting) }));
    let mut next = match unasked.take() {
        _ if is_new => first(),
        Some(ticket) => retries.with(|line| line.get(ticket).or_else(|| line.first())).flatten(),
        None => None,
    };
    let has_news = || rooms.with(|rooms| rooms.has_news()).unwrap_or(true);
    let mut in_vain = 0;
    while let (Some(waiting), 0..=MAX_IN_VAIN) = (next.filter(|_| has_news()), in_vain) {
        let behind = retries.with(|line| line.next_after(waiting.ticket)).flatten();
        // SAFETY: a request in a line is alive, and its waiter is in its pool.
        if outlook(unsafe { request_of(waiting) }) == Some(Outlook::Full) {
            in_vain += 1;
            next = behind;
        } else {
            in_vain += usize::from(!serve(upstream, waiting));
            // A request that ends may end others, of the same main request. If the next one is gone, the first one is next.
            let still_there =
                |it: Waiting| retries.with(|line| line.get(it.ticket).or_else(|| line.first())).flatten();
            next = behind.and_then(still_there);
        }
        if behind.is_none() {
            rooms.with(|rooms| rooms.end_round());
        }
    }
    unasked.set(next.filter(|_| has_news()).map(|waiting| waiting.ticket));
    if let Some(ledger) = upstream.counts.shared() {
        ledger.with_retries().for_each(|worker| upstream.counts.ring(worker));
    }
}

/// Serves requests that take any server. The request that has waited longest comes first, in whichever worker it is. If
/// `in_time`, requests of this worker have their turn in any case, so that they do not depend on a worker that hangs.
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
        if !first.is_some_and(|waiting| serve(upstream, waiting)) {
            return;
        }
    }
}

/// The request in a line.
///
/// # Safety
/// It is still in its line, or nginx was not called since it was.
unsafe fn request_of<'a>(waiting: Waiting) -> &'a PeerData {
    // SAFETY: a request in a line is alive, and its waiter is in its pool.
    let waiter = unsafe { waiting.waiter.as_ref() };
    // SAFETY: it lies in the pool of the same request, which is alive.
    unsafe { waiter.request.as_ref() }
}

/// Whether a request has waited for as long as it may.
fn has_expired(upstream: &Upstream, waiting: Waiting) -> bool {
    upstream.waits.directive.is_some_and(|queue| elapsed(waiting.since) >= queue.timeout)
}

/// The turn of a request. Returns whether it has stopped waiting.
fn serve(upstream: &Upstream, waiting: Waiting) -> bool {
    // SAFETY: a request in a line is alive, and its waiter is in its pool.
    let waiter = unsafe { waiting.waiter.as_ref() };
    // SAFETY: it lies in the pool of the same request, which is alive.
    let kp = unsafe { waiter.request.as_ref() };
    let failure = if has_expired(upstream, waiting) {
        WaitFailure::TimedOut
    } else {
        match grant(kp, waiter, waiting) {
            Turn::WaitEnded => return true,
            Turn::Busy => return false,
            Turn::NoLiveServer => WaitFailure::NoLiveServer,
        }
    };
    remove(upstream, kp, waiting);
    if let (WaitFailure::TimedOut, Some(meter)) = (failure, upstream.queue_meter()) {
        meter.time_out();
    }
    fail(kp, waiter, failure);
    true
}

/// Takes a request out of its line.
fn remove(upstream: &Upstream, kp: &PeerData, waiting: Waiting) {
    upstream.unqueue(kp, waiting.ticket);
    upstream.waits_changed();
}

/// The largest number of requests that are tried in vain at a time, of those that do not take any server.
const MAX_IN_VAIN: usize = 255;

/// Asks the balancer again, in the name of the request. All hooks between the core and the balancer take part, as in the first
/// attempt.
fn grant(kp: &PeerData, waiter: &Waiter, waiting: Waiting) -> Turn {
    // Each time the balancer initialises the request again, which costs; so it is not asked in vain.
    match outlook(kp) {
        Some(Outlook::Down) => return Turn::NoLiveServer,
        Some(Outlook::Full) => return Turn::Busy,
        Some(Outlook::Room) | None => {}
    }
    let peer = kp.u.peer();
    peer.set_log_action(c"connecting to upstream");
    kp.set_stage(Stage::Granting(waiting.ticket));
    peer.release_connection();
    peer.set_no_server(std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the peer of a live request, without a connection and without a server.
    let rc = unsafe { ngx_event_connect_peer(peer.as_ptr()) };
    if rc == NGX_BUSY as ngx_int_t {
        install_placeholder(kp, peer, waiter);
        kp.set_stage(Stage::Queued(waiting.ticket));
        return if is_worth_waiting(kp) { Turn::Busy } else { Turn::NoLiveServer };
    }
    remove(kp.upstream(), kp, waiting);
    look_again(kp);
    if waits_on(kp, waiter) {
        return Turn::WaitEnded;
    }
    finish_wait(kp, waiter, rc);
    Turn::WaitEnded
}

/// Tries again to get a connection for a request that has a server: for a parked one, or one that has asked another worker.
fn resume(waiting: Waiting, stage: Stage) {
    // SAFETY: a request in a line is alive, and its waiter is in its pool.
    let waiter = unsafe { waiting.waiter.as_ref() };
    // SAFETY: it lies in the pool of the same request, which is alive.
    let kp = unsafe { waiter.request.as_ref() };
    let (upstream, peer) = (kp.upstream(), kp.u.peer());
    if let (Stage::Resuming(_), Some(server)) = (stage, kp.extra().server()) {
        upstream.counts.unpark(server);
    }
    kp.set_stage(stage);
    peer.release_connection();
    // SAFETY: the peer of a live request, with a server and without a connection.
    let rc = unsafe { ngx_event_connect_peer(peer.as_ptr()) };
    match (stage, kp.extra().stage()) {
        // It waits on.
        (Stage::Resuming(_), Stage::Parked(_))
        | (Stage::TryingStream(_), Stage::AwaitingStream(_))
        | (_, Stage::Inquiring(_)) => {}
        (Stage::Resuming(ticket), _) => {
            upstream.waits.parked.with(|parked| parked.remove(ticket));
            if !waits_on(kp, waiter) {
                finish_wait(kp, waiter, rc);
            }
        }
        (Stage::TryingStream(ticket), _) => {
            upstream.waits.streams.with(|line| line.remove(ticket));
            end_wait_for_stream(upstream, waiter);
            if !waits_on(kp, waiter) {
                finish_wait(kp, waiter, rc);
            }
        }
        _ => {
            upstream.waits.asking.with(|asking| asking.remove(waiting.ticket));
            if !waits_on(kp, waiter) {
                go_on(kp, waiter, rc);
            }
        }
    }
}

/// Whether a request that had its turn waits on, for something else: then its timer is set.
fn waits_on(kp: &PeerData, waiter: &Waiter) -> bool {
    match kp.extra().stage() {
        Stage::Parked(_) => wait_for_slot(kp, waiter),
        Stage::AwaitingStream(_) => wait_for_stream(kp, waiter),
        _ => return false,
    }
    true
}

/// The wait is over: the times of the request do not include it.
fn finish_wait(kp: &PeerData, waiter: &Waiter, rc: ngx_int_t) {
    kp.u.end_of_wait(elapsed(waiter.since.get()));
    go_on(kp, waiter, rc);
}

/// The request goes on, or fails, as if the core had just asked for a connection.
fn go_on(kp: &PeerData, waiter: &Waiter, rc: ngx_int_t) {
    const OK: ngx_int_t = NGX_OK as ngx_int_t;
    const DONE: ngx_int_t = NGX_DONE as ngx_int_t;
    const AGAIN: ngx_int_t = NGX_AGAIN as ngx_int_t;
    const DECLINED: ngx_int_t = NGX_DECLINED as ngx_int_t;
    kp.set_stage(Stage::Asking);
    match rc {
        OK | DONE | AGAIN => resume_connect(kp, waiter, rc == AGAIN),
        DECLINED => fail_declined(kp, waiter),
        _ => fail_internally(kp, waiter),
    }
}
