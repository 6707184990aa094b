//! Whose turn it is: those who wait get their connections, in the order in which they came.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_event_connect_peer, ngx_event_t, ngx_int_t, NGX_AGAIN, NGX_BUSY, NGX_DECLINED, NGX_DONE, NGX_OK,
};

use crate::queue;

use super::connect::take_up;
use super::fail::{declined, error, fail, Failure};
use super::guard::guard;
use super::peer::{PeerData, Stage};
use super::upstream::Upstream;
use super::wait::{is_worth_it, put_aside, wait_for_room, waited};
use super::waiter::Waiter;

type Waiting = queue::Waiter<NonNull<Waiter>>;

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
pub(super) unsafe extern "C" fn take_turns(event: *mut ngx_event_t) {
    // SAFETY: the alarm of an upstream, which ends before the upstream does.
    let upstream = unsafe { (*event).data }.cast::<Upstream>();
    // SAFETY: put there when the alarm was prepared.
    let upstream = unsafe { &*upstream };
    guard((), || upstream.take_turns());
}

impl Upstream {
    pub(super) fn take_turns(&self) {
        let in_time = self.waits.alarm.timed_out();
        self.close_what_others_need();
        self.resume_parked();
        self.serve_queue(in_time);
        self.queue_changed();
        if self.is_ending() {
            // What was kept for those who waited is of use to nobody any more.
            self.close_all();
        }
    }

    /// Other workers have requests for servers to which this one has idle connections.
    fn close_what_others_need(&self) {
        let Some(ledger) = self.counts.shared() else { return };
        while let Some(server) = ledger.asked() {
            let Some(idle) = self.take_oldest_of(server) else { return };
            self.close(idle);
        }
    }

    fn resume_parked(&self) {
        let mut next = self.waits.parked.with(|parked| parked.first()).flatten();
        while let Some(waiting) = next {
            next = self.waits.parked.with(|parked| parked.behind(waiting.ticket)).flatten();
            resume(waiting);
            // It may have taken others with it, of the same main request.
            next = next.and_then(|next| self.waits.parked.with(|parked| parked.get(next.ticket)).flatten());
        }
    }

    /// Those who have waited longest come first, in whatever worker they are; `in_time` this one's
    /// first has its turn in any case, lest it depends on a worker that does not answer.
    fn serve_queue(&self, mut in_time: bool) {
        loop {
            if !std::mem::take(&mut in_time) {
                if let Some(worker) = self.counts.shared().and_then(|it| it.another_waits_longest()) {
                    return self.counts.ring(worker);
                }
            }
            let Some(waiting) = self.waits.queue.with(|queue| queue.first()).flatten() else { return };
            // SAFETY: as long as a request is in the queue it is alive, and its waiter in its pool.
            let waiter = unsafe { waiting.who.as_ref() };
            // SAFETY: as above.
            let kp = unsafe { waiter.request.as_ref() };
            if self.waits.directive.is_some_and(|queue| waited(waiting.since) >= queue.timeout) {
                self.remove_from_queue(waiting);
                fail(kp, waiter, Failure::TimedOut);
                continue;
            }
            match grant(kp, waiter, waiting) {
                Turn::Over => {}
                Turn::NotYet => return,
                Turn::Never => {
                    self.remove_from_queue(waiting);
                    fail(kp, waiter, Failure::NoLiveServer);
                }
            }
        }
    }

    fn remove_from_queue(&self, waiting: Waiting) {
        self.waits.queue.with(|queue| queue.remove(waiting.ticket));
        self.queue_changed();
    }
}

/// Asks the balancer again, in the name of the request. All that is between the core and the
/// balancer takes part, as in the first attempt.
fn grant(kp: &PeerData, waiter: &Waiter, waiting: Waiting) -> Turn {
    let peer = kp.u.peer();
    kp.stage.set(Stage::Granting(waiting.ticket));
    peer.release_connection();
    peer.set_no_server(std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the peer of a live request that has no connection and no server.
    let rc = unsafe { ngx_event_connect_peer(peer.as_ptr()) };
    if rc == NGX_BUSY as ngx_int_t {
        put_aside(kp, peer, waiter);
        kp.stage.set(Stage::Queued(waiting.ticket));
        return if is_worth_it(kp) { Turn::NotYet } else { Turn::Never };
    }
    kp.upstream().remove_from_queue(waiting);
    if matches!(kp.stage.get(), Stage::Parked(_)) {
        wait_for_room(kp, waiter);
        return Turn::Over;
    }
    begin(kp, waiter, rc);
    Turn::Over
}

/// Tries again to get room for the connection of a request that has a server.
fn resume(waiting: Waiting) {
    // SAFETY: as long as a request is parked it is alive, and its waiter in its pool.
    let waiter = unsafe { waiting.who.as_ref() };
    // SAFETY: as above.
    let kp = unsafe { waiter.request.as_ref() };
    let (upstream, peer) = (kp.upstream(), kp.u.peer());
    let Some(server) = kp.server.get() else { return };
    upstream.stop_parking(server);
    kp.stage.set(Stage::Resuming(waiting.ticket));
    peer.release_connection();
    // SAFETY: the peer of a live request that has a server and no connection.
    let rc = unsafe { ngx_event_connect_peer(peer.as_ptr()) };
    if !matches!(kp.stage.get(), Stage::Parked(_)) {
        upstream.waits.parked.with(|parked| parked.remove(waiting.ticket));
        begin(kp, waiter, rc);
    }
}

/// The wait is over: the request goes on, or fails, as if the core had just asked for a connection.
fn begin(kp: &PeerData, waiter: &Waiter, rc: ngx_int_t) {
    const OK: ngx_int_t = NGX_OK as ngx_int_t;
    const DONE: ngx_int_t = NGX_DONE as ngx_int_t;
    const AGAIN: ngx_int_t = NGX_AGAIN as ngx_int_t;
    const DECLINED: ngx_int_t = NGX_DECLINED as ngx_int_t;
    kp.stage.set(Stage::Asking);
    match rc {
        OK | DONE | AGAIN => take_up(kp, waiter, rc == AGAIN),
        DECLINED => declined(kp, waiter),
        _ => error(kp, waiter),
    }
}
