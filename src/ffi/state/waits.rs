//! The requests that wait at one upstream in this worker, and when they are dispatched.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::ngx_msec_t;

use crate::base::clock::Msec;
use crate::directive::Queue;
use crate::ffi::nginx::guard::Guarded;
use crate::ffi::nginx::process::{elapsed, now, worker_is_exiting};
use crate::ffi::nginx::timer::{Alarm, Handler};
use crate::ledger::{self, Server};
use crate::queue::released::Released;
use crate::queue::room::Rooms;
use crate::queue::{Ticket, WaitQueue};

use super::peer_data::PeerData;
use super::upstream::Upstream;
use super::waiter::Waiter;

/// The requests that wait at one upstream in this worker.
pub(crate) struct Waits {
    pub(crate) directive: Option<Queue>,
    /// Requests that take any server.
    pub(crate) queue: WaitLine,
    /// Requests that have tried a server without success, and take only other ones: no request has to wait for them.
    pub(crate) retries: WaitLine,
    /// Requests that have a server, and wait for a slot there.
    pub(crate) parked: WaitLine,
    /// Requests that have a server, and wait for the answer of another worker: it may have a connection.
    pub(crate) asking: WaitLine,
    /// Requests that have a server, and wait for a stream of a connection to it.
    pub(crate) streams: WaitLine,
    /// The servers to which connections were released since the last dispatch.
    pub(crate) released: Guarded<Released>,
    /// Which servers have room.
    pub(crate) rooms: Guarded<Rooms>,
    /// Whether `rooms` is kept up to date: while requests wait that may use it.
    pub(crate) is_watching: Cell<bool>,
    /// The first one of `retries` that had no turn in the last dispatch, because too many before it were in vain.
    pub(crate) unasked: Cell<Option<Ticket>>,
    /// Calls `dispatch`: when something has changed, when the longest wait times out, and regularly, because servers also
    /// recover by themselves.
    pub(crate) alarm: Alarm,
    /// Calls `dispatch` when the first request in `asking` has waited for long enough, or an inbox may have room again.
    pub(crate) soon: Alarm,
    /// Dispatches the requests; its event points at the upstream.
    dispatch: Handler,
}

/// A queue: first come, first served.
pub(crate) type WaitLine = Guarded<WaitQueue<NonNull<Waiter>>>;

/// How many requests can wait for answers of other workers: more than there are workers.
const MAX_ASKING: usize = 1024;

/// How many requests can wait for a stream of a connection. A `queue` may say less.
const MAX_FOR_STREAMS: usize = 65_536;

/// How often `dispatch` is called if nothing else happens, in milliseconds.
pub(crate) const INTERVAL: Msec = 1000;

/// Why a request stops waiting without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFailure {
    /// The queue is full.
    Full,
    /// The request has waited for as long as it may.
    TimedOut,
    /// All servers are down.
    NoLiveServer,
}

impl Waits {
    /// At most `parked` requests can have a server; `dispatch` serves the waiting ones. `None` if there would be no
    /// memory for as many requests as may wait.
    pub(crate) fn new(directive: Option<Queue>, parked: usize, dispatch: Handler) -> Option<Self> {
        let number = directive.map_or(0, |queue| queue.number);
        let line = |capacity| {
            // Only workers need the memory, and only once a request waits. This tests that there is enough.
            WaitQueue::<NonNull<Waiter>>::new(capacity).reserve().ok()?;
            Some(Guarded::new(WaitQueue::new(capacity)))
        };
        Some(Self {
            directive,
            queue: line(number)?,
            retries: line(number)?,
            parked: line(parked)?,
            asking: Guarded::new(WaitQueue::new(MAX_ASKING)),
            streams: line(MAX_FOR_STREAMS)?,
            released: Guarded::new(Released::default()),
            rooms: Guarded::new(Rooms::default()),
            is_watching: Cell::new(false),
            unasked: Cell::new(None),
            alarm: Alarm::new(),
            soon: Alarm::new(),
            dispatch,
        })
    }

    /// The queue in which a request waits for a server.
    pub(crate) fn line(&self, kp: &PeerData) -> &WaitLine {
        match kp.extra().tried() {
            None => &self.queue,
            Some(_) => &self.retries,
        }
    }

    /// Whether as many requests wait for a server as may.
    pub(crate) fn is_full(&self) -> bool {
        let length = |line: &WaitLine| line.with(|line| line.len()).unwrap_or(0);
        self.directive.is_none_or(|queue| length(&self.queue) + length(&self.retries) >= queue.number)
    }

    pub(crate) fn any_queued(&self) -> bool {
        any(&self.queue)
    }

    pub(crate) fn any_retries(&self) -> bool {
        any(&self.retries)
    }

    pub(crate) fn any_parked(&self) -> bool {
        any(&self.parked)
    }

    pub(crate) fn any_for_stream(&self) -> bool {
        any(&self.streams)
    }

    /// Whether as many requests wait for a stream, or a server, as may.
    pub(crate) fn is_full_of_streams(&self) -> bool {
        let length = |line: &WaitLine| line.with(|line| line.len()).unwrap_or(0);
        let all = length(&self.queue) + length(&self.retries) + length(&self.streams);
        self.directive.is_some_and(|queue| all >= queue.number)
    }

    /// What is known of the servers may not hold any more.
    #[cold]
    pub(crate) fn forget_rooms(&self) {
        self.is_watching.set(false);
        self.rooms.with(Rooms::forget);
    }

    pub(crate) fn any(&self) -> bool {
        any(&self.queue) || any(&self.retries) || any(&self.parked) || any(&self.asking) || any(&self.streams)
    }
}

fn any(line: &WaitLine) -> bool {
    line.with(|line| !line.is_empty()).unwrap_or(false)
}

fn first_since(line: &WaitLine) -> Option<Msec> {
    line.with(|line| line.first()).flatten().map(|waiter| waiter.since)
}

impl Upstream {
    /// Whether other requests wait, ahead of which a new one would push; of an upstream with `queue`.
    #[inline]
    pub(crate) fn others_wait(&self) -> bool {
        self.waits.any_queued()
            // A connection or slot that has become free is first offered to the waiting requests.
            || (any(&self.waits.retries) && self.waits.alarm.is_posted())
            || self.counts.shared().is_some_and(|it| it.longest(now()).is_some())
    }

    /// Whether a request can have to wait at all.
    #[inline]
    pub(crate) fn can_wait(&self) -> bool {
        self.waits.directive.is_some() || self.counts.ledger.get().is_some()
    }

    /// Something may have become free, for example a connection to the server `released`: dispatches the waiting requests, or
    /// hands the connection over to another worker that has some, once the present handler has returned.
    pub(crate) fn schedule_dispatch(&self, released: Option<Server>) {
        let others = || {
            let Some(ledger) = self.counts.shared() else { return false };
            if let Some(server) = released {
                self.waits.released.with(|all| all.add(server));
            }
            ledger.another_waits_longest(now()).is_some()
                || ledger.with_retries().next().is_some()
                || released.is_some_and(|server| ledger.parked(server).next().is_some())
        };
        // A worker that ends may have connections to close.
        if others() || self.waits.any() || worker_is_exiting() {
            self.post_dispatch();
        }
    }

    /// Calls `dispatch` once the present handler has returned, whether or not a request waits.
    pub(crate) fn post_dispatch(&self) {
        self.prepare_dispatch();
        self.waits.alarm.post();
    }

    fn prepare_dispatch(&self) {
        self.waits.alarm.prepare(self.waits.dispatch, NonNull::from(self).as_ptr().cast(), false);
    }

    /// Calls `dispatch` in some milliseconds, unless it is to be called sooner.
    #[cold]
    pub(crate) fn dispatch_soon(&self, after: Msec) {
        let soon = &self.waits.soon;
        if !soon.is_set() {
            soon.prepare(self.waits.dispatch, NonNull::from(self).as_ptr().cast(), false);
        }
        soon.set(after.max(1) as ngx_msec_t);
    }

    /// Whether the worker exits, and no request waits at this upstream.
    #[inline(always)]
    pub(crate) fn is_ending(&self) -> bool {
        worker_is_exiting() && !self.waits.any()
    }

    /// Takes a request out of the queue, and counts its wait.
    pub(crate) fn unqueue(&self, kp: &PeerData, ticket: Ticket) {
        let waiter = self.waits.line(kp).with(|line| line.remove(ticket)).flatten();
        if let (Some(waiter), Some(meter)) = (waiter, self.queue_meter()) {
            // SAFETY: the waiter lies in the pool of its request, which is alive while it is in the queue.
            meter.end(elapsed(unsafe { waiter.as_ref() }.since.get()));
        }
    }

    /// Tells other workers how long the first requests have waited, and sets the alarm for the next dispatch.
    pub(crate) fn waits_changed(&self) {
        let (queue, retries) = (first_since(&self.waits.queue), first_since(&self.waits.retries));
        if let Some(ledger) = self.counts.shared() {
            ledger.publish(ledger::LineKind::Queue, queue);
            ledger.publish(ledger::LineKind::Retries, retries);
        }
        if !self.waits.any() {
            return self.waits.alarm.clear();
        }
        let timeout = self.waits.directive.map_or(Msec::MAX, |queue| queue.timeout);
        let left = |since| timeout.saturating_sub(elapsed(since));
        let streams = self.waits.directive.and_then(|_| first_since(&self.waits.streams));
        let left = [queue, retries, streams].into_iter().flatten().map(left).min().unwrap_or(INTERVAL);
        self.prepare_dispatch();
        self.waits.alarm.set(left.clamp(1, INTERVAL) as ngx_msec_t);
    }
}
