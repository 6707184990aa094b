//! How a request comes to wait, and how it stops waiting before its turn.
//!
//! It waits in the *queue* until the balancer has a server for it, if the upstream has `queue`. Once
//! it has a server, it is *parked* if connections of other workers take all the room there is.

use std::ptr::NonNull;

use nginx_sys::{ngx_event_t, ngx_int_t, ngx_msec_t, ngx_uint_t, NGX_AGAIN, NGX_ERROR, NGX_PEER_FAILED};

use crate::base::clock::Msec;
use crate::directive::Queue;
use crate::ledger::{self, Server};
use crate::metrics::{End, Phase};
use crate::queue::room::{Outlook, Rooms};
use crate::queue::{Ticket, WaitQueue};

use crate::ffi::max_conns::linger;
use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::guard::{guard, Guarded};
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::timer::{now, Alarm};
use crate::ffi::shared::workers::worker_is_exiting;
use crate::ffi::state::notes::Status;
use crate::ffi::state::peer_data::{PeerData, Stage};
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::waiter::Waiter;
use crate::ffi::waiting::dispatch::take_turns;
use crate::ffi::waiting::fail::{fail, Failure};

/// Those who wait at one upstream in this worker.
pub(crate) struct Waits {
    pub(crate) directive: Option<Queue>,
    /// Those who take any server.
    pub(crate) queue: Line,
    /// Those who have tried a server in vain, and take another one only: nobody has to wait for them.
    pub(crate) retries: Line,
    pub(crate) parked: Line,
    /// Which servers had room when it was last looked for `retries`.
    pub(crate) rooms: Guarded<Rooms>,
    /// Calls `take_turns`: when something has changed, when the longest wait has lasted too long, and
    /// now and then, as servers also come back by themselves.
    pub(crate) alarm: Alarm,
}

/// First come, first served.
pub(crate) type Line = Guarded<WaitQueue<NonNull<Waiter>>>;

/// How often it is looked after those who wait if nothing else happens, in milliseconds.
pub(crate) const INTERVAL: Msec = 1000;

impl Waits {
    /// At most `parked` requests can have a server; `None` if there would be no memory for as many as may wait.
    pub(crate) fn new(directive: Option<Queue>, parked: usize) -> Option<Self> {
        let number = directive.map_or(0, |queue| queue.number);
        let line = |capacity| {
            // Only workers need it, and not before somebody waits: this is to know that it can be had.
            WaitQueue::<NonNull<Waiter>>::new(capacity).reserve().ok()?;
            Some(Guarded::new(WaitQueue::new(capacity)))
        };
        Some(Self {
            directive,
            queue: line(number)?,
            retries: line(number)?,
            parked: line(parked)?,
            rooms: Guarded::new(Rooms::default()),
            alarm: Alarm::new(),
        })
    }

    /// Where a request waits for a server.
    pub(crate) fn line(&self, kp: &PeerData) -> &Line {
        match kp.tried() {
            None => &self.queue,
            Some(_) => &self.retries,
        }
    }

    /// Whether as many wait as may.
    fn is_full(&self) -> bool {
        let length = |line: &Line| line.with(|line| line.len()).unwrap_or(0);
        self.directive.is_none_or(|queue| length(&self.queue) + length(&self.retries) >= queue.number)
    }

    pub(crate) fn any_queued(&self) -> bool {
        any(&self.queue)
    }

    pub(crate) fn any_parked(&self) -> bool {
        any(&self.parked)
    }

    pub(crate) fn any(&self) -> bool {
        any(&self.queue) || any(&self.retries) || any(&self.parked)
    }
}

fn any(line: &Line) -> bool {
    line.with(|line| !line.is_empty()).unwrap_or(false)
}

fn first_since(line: &Line) -> Option<Msec> {
    line.with(|line| line.first()).flatten().map(|waiter| waiter.since)
}

impl Upstream {
    /// Whether a request would push ahead of others.
    #[inline]
    pub(crate) fn others_wait(&self) -> bool {
        self.waits.directive.is_some()
            && (self.waits.any_queued()
                // What has become free is first offered to those who wait.
                || (any(&self.waits.retries) && self.waits.alarm.is_posted())
                || self.counts.shared().is_some_and(|it| it.longest(now()).is_some()))
    }

    /// Whether a request can have to wait at all.
    #[inline]
    pub(crate) fn can_wait(&self) -> bool {
        self.waits.directive.is_some() || self.counts.ledger.get().is_some()
    }

    /// Looks after those who wait, here or in other workers, once the present handler has returned.
    pub(crate) fn changed(&self) {
        let others = || {
            self.counts.shared().is_some_and(|it| {
                it.another_waits_longest(now()).is_some() || it.with_retries().next().is_some()
            })
        };
        // At the end of a worker there may be something to close.
        if self.waits.any() || others() || worker_is_exiting() {
            self.wake();
        }
    }

    /// The worker exits, and nobody waits for it to serve anything any more.
    pub(crate) fn is_ending(&self) -> bool {
        worker_is_exiting() && !self.waits.any()
    }

    pub(crate) fn wake(&self) {
        self.waits.alarm.prepare(take_turns, self.as_data(), false);
        self.waits.alarm.post();
    }

    /// A request does not wait in the queue any more.
    pub(crate) fn unqueue(&self, kp: &PeerData, ticket: Ticket) {
        let waiter = self.waits.line(kp).with(|line| line.remove(ticket)).flatten();
        if let (Some(waiter), Some(meter)) = (waiter, self.queue_meter()) {
            // SAFETY: in the pool of the live request.
            meter.end(waited(unsafe { waiter.as_ref() }.since.get()));
        }
    }

    pub(crate) fn as_data(&self) -> *mut libc::c_void {
        NonNull::from(self).as_ptr().cast()
    }

    /// Tells other workers how long the first ones wait, and sees to it that nobody is forgotten.
    pub(crate) fn queue_changed(&self) {
        let (queue, retries) = (first_since(&self.waits.queue), first_since(&self.waits.retries));
        if let Some(ledger) = self.counts.shared() {
            ledger.publish(ledger::Line::Queue, queue);
            ledger.publish(ledger::Line::Retries, retries);
        }
        if !self.waits.any() {
            return self.waits.alarm.clear();
        }
        let timeout = self.waits.directive.map_or(Msec::MAX, |queue| queue.timeout);
        let left = |since| timeout.saturating_sub(waited(since));
        let left = [queue, retries].into_iter().flatten().map(left).min().unwrap_or(INTERVAL);
        self.waits.alarm.prepare(take_turns, self.as_data(), false);
        self.waits.alarm.set(left.clamp(1, INTERVAL) as ngx_msec_t);
    }
}

/// The time since then, in milliseconds.
pub(crate) fn waited(since: Msec) -> Msec {
    now().wrapping_sub(since)
}

/// What the request can expect; `None` if it is not known, as the balancer has servers of its own.
pub(crate) fn outlook(kp: &PeerData) -> Option<Outlook> {
    // SAFETY: the upstream's cycle is alive while it is used, and its balancer has initialised the request.
    let servers = unsafe { Servers::of(kp.upstream().us, kp.balancer.get()) };
    servers.map(|servers| servers.outlook(kp.tried()))
}

/// Whether it makes sense to wait when the balancer has no server: one that is up is busy, or was a
/// moment ago. If all are down, the request fails at once, as ever.
pub(crate) fn is_worth_it(kp: &PeerData) -> bool {
    let upstream = kp.upstream();
    let busy = || upstream.counts.ledger.get().is_some_and(|ledger| ledger.any_is_busy());
    upstream.waits.directive.is_some() && outlook(kp).map_or_else(busy, |outlook| outlook != Outlook::Down)
}

/// Queues the request; if the queue is full, it fails when the core has returned.
pub(crate) fn enqueue(kp: &PeerData, peer: Peer) -> ngx_int_t {
    let Some(waiter) = begin(kp, peer) else { return NGX_ERROR as ngx_int_t };
    // SAFETY: in the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    let upstream = kp.upstream();
    put_aside(kp, peer, this);
    let waits = &upstream.waits;
    let push = || waits.line(kp).with(|line| line.push(waiter, this.since.get())).flatten();
    let queued = (!waits.is_full()).then(push).flatten();
    match (upstream.queue_meter(), queued) {
        (Some(meter), Some(_)) => meter.begin(),
        (Some(meter), None) => meter.overflow(),
        (None, _) => {}
    }
    kp.note(if queued.is_some() { Status::Queued } else { Status::None }, 0);
    kp.stage.set(queued.map_or(Stage::Failing(Failure::Full), Stage::Queued));
    upstream.queue_changed();
    this.turn.prepare(core_has_returned, waiter.as_ptr().cast(), false);
    match kp.u.connect_timeout() {
        // It would be over before other events of ours.
        0 => this.turn.post_first(),
        _ => this.turn.post(),
    }
    NGX_AGAIN as ngx_int_t
}

/// The request has a server, but there is no room for its connection yet.
pub(crate) fn park(kp: &PeerData, peer: Peer, server: Server) -> ngx_int_t {
    let waits = &kp.upstream().waits;
    let waiter = match kp.stage.get() {
        Stage::Asking => begin(kp, peer),
        _ => kp.waiter.get(),
    };
    let Some(waiter) = waiter else { return NGX_ERROR as ngx_int_t };
    // SAFETY: in the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    let ticket = match kp.stage.get() {
        Stage::Resuming(ticket) => Some(ticket),
        _ => waits.parked.with(|parked| parked.push(waiter, this.since.get())).flatten(),
    };
    let Some(ticket) = ticket else { return NGX_ERROR as ngx_int_t };
    peer.set_connection(this.conn());
    kp.note(Status::Queued, 0);
    if kp.stage.replace(Stage::Parked(ticket)) == Stage::Asking {
        this.turn.prepare(core_has_returned, waiter.as_ptr().cast(), false);
        this.turn.post();
    }
    let upstream = kp.upstream();
    if let Some(ledger) = upstream.counts.ledger.get() {
        if let Some(worker) = ledger.park(server, now()) {
            upstream.ring(worker);
        }
        // What was closed before others could know of this one is for it to find.
        if !ledger.is_full(server) {
            upstream.wake();
        }
    }
    upstream.queue_changed();
    NGX_AGAIN as ngx_int_t
}

/// A wait begins: the connection that stands in is made ready.
fn begin(kp: &PeerData, peer: Peer) -> Option<NonNull<Waiter>> {
    let waiter = match kp.waiter.get() {
        Some(waiter) => waiter,
        // SAFETY: the request is alive.
        None => unsafe { Waiter::new(kp.pool(), NonNull::from(kp)) }?,
    };
    kp.waiter.set(Some(waiter));
    // SAFETY: in the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    this.stand_in(peer.log());
    this.since.set(now());
    Some(waiter)
}

/// The core gets what stands in for a connection, and for a server.
pub(crate) fn put_aside(kp: &PeerData, peer: Peer, waiter: &Waiter) {
    peer.set_log_action(c"waiting in upstream queue");
    peer.set_connection(waiter.conn());
    // SAFETY: the upstream's cycle is alive while it is used; makes no reference.
    let name = unsafe { &raw mut (*kp.upstream().us.as_ptr()).host };
    peer.set_no_server(waiter.address(), name);
}

/// The core has set up the connection that stands in. What it has begun does not count: the wait is
/// not for `proxy_connect_timeout` to end.
unsafe extern "C" fn core_has_returned(event: *mut ngx_event_t) {
    // SAFETY: the event of a waiter, which nginx knows only as long as it waits.
    let waiter = unsafe { (*event).data }.cast::<Waiter>();
    // SAFETY: `enqueue` has put it there; it is in the pool of the live request.
    let waiter = unsafe { &*waiter };
    // SAFETY: as above.
    let kp = unsafe { waiter.request.as_ref() };
    guard((), || match kp.stage.get() {
        Stage::Failing(failure) => fail(kp, waiter, failure),
        Stage::Parked(_) => wait_for_room(kp, waiter),
        Stage::Queued(ticket) => {
            waiter.write().clear_timer();
            // What was free before other workers could know of the first one is for it to find.
            let upstream = kp.upstream();
            let first = upstream.waits.line(kp).with(|line| line.first()).flatten();
            if upstream.counts.shared().is_some() && first.is_some_and(|first| first.ticket == ticket) {
                upstream.wake();
            }
        }
        _ => {}
    });
}

/// Room comes soon, or never, as when another worker is stopped: the wait for it ends in the way of a
/// connection that is not established in time, but not sooner than room can come.
pub(crate) fn wait_for_room(kp: &PeerData, waiter: &Waiter) {
    let drained = kp.upstream().drain.timeout.saturating_add(linger::TIMEOUT);
    waiter.write().set_timer(kp.u.connect_timeout().max(INTERVAL).max(drained));
}

/// The core has done with a request that waits: its client has gone, or its time is over. Returns
/// what the balancer is to be told, if it has given a server.
pub(crate) fn leave(kp: &PeerData, peer: Peer, stage: Stage, state: ngx_uint_t) -> Option<ngx_uint_t> {
    let upstream = kp.upstream();
    if let Some(waiter) = kp.waiter.get() {
        // SAFETY: in the pool of the live request.
        let waiter = unsafe { waiter.as_ref() };
        waiter.leave();
        if !matches!(stage, Stage::Declined | Stage::Failing(_)) {
            kp.u.end_of_wait(waited(waiter.since.get()));
            kp.u.no_response_time();
        }
    }
    peer.release_connection();
    if let Some(meter) = kp.meter.take() {
        meter.end(Phase::Active, End::Connect);
    }
    let told = match stage {
        Stage::Queued(ticket) | Stage::Granting(ticket) => {
            upstream.unqueue(kp, ticket);
            None
        }
        Stage::Parked(ticket) | Stage::Resuming(ticket) => {
            upstream.waits.parked.with(|parked| parked.remove(ticket));
            if let Some(server) = kp.server.take() {
                upstream.stop_parking(server);
                upstream.end(server);
            }
            // It was not the server that was too slow.
            Some(0)
        }
        Stage::Declined => {
            kp.u.set_request_sent(false);
            kp.note_tried();
            if let Some(server) = kp.server.take() {
                upstream.end(server);
                upstream.closed(server);
            }
            Some(NGX_PEER_FAILED as ngx_uint_t)
        }
        Stage::Failing(_) | Stage::Asking | Stage::Again(_) => {
            kp.u.set_request_sent(false);
            None
        }
    };
    if told.is_none() && state != 0 {
        // The core would try another server, and the request would wait again.
        peer.set_tries(0);
    }
    upstream.queue_changed();
    told
}
