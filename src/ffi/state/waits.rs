//! Those who wait at one upstream in this worker, and when they are looked after.

use std::ptr::NonNull;

use nginx_sys::ngx_msec_t;

use crate::base::clock::Msec;
use crate::directive::Queue;
use crate::ffi::nginx::guard::Guarded;
use crate::ffi::nginx::process::{elapsed, now, worker_is_exiting};
use crate::ffi::nginx::timer::{Alarm, Handler};
use crate::ledger;
use crate::queue::room::Rooms;
use crate::queue::{Ticket, WaitQueue};

use super::peer_data::PeerData;
use super::upstream::Upstream;
use super::waiter::Waiter;

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
    /// Calls `dispatch`: when something has changed, when the longest wait has lasted too long, and
    /// now and then, as servers also come back by themselves.
    pub(crate) alarm: Alarm,
    /// Serves those who wait; its event points at the upstream.
    dispatch: Handler,
}

/// First come, first served.
pub(crate) type Line = Guarded<WaitQueue<NonNull<Waiter>>>;

/// How often it is looked after those who wait if nothing else happens, in milliseconds.
pub(crate) const INTERVAL: Msec = 1000;

/// Why a request stops waiting without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFailure {
    /// The queue is full.
    Full,
    /// It has waited for as long as it may.
    TimedOut,
    /// All servers are down.
    NoLiveServer,
}

impl Waits {
    /// At most `parked` requests can have a server; `dispatch` serves those who wait. `None` if there would be no memory
    /// for as many as may wait.
    pub(crate) fn new(directive: Option<Queue>, parked: usize, dispatch: Handler) -> Option<Self> {
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
            dispatch,
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
    pub(crate) fn is_full(&self) -> bool {
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

    /// Something may have become free: looks after those who wait, here or in other workers, once the present handler has
    /// returned.
    pub(crate) fn schedule_dispatch(&self) {
        let others = || {
            self.counts.shared().is_some_and(|it| {
                it.another_waits_longest(now()).is_some() || it.with_retries().next().is_some()
            })
        };
        // At the end of a worker there may be something to close.
        if self.waits.any() || others() || worker_is_exiting() {
            self.post_dispatch();
        }
    }

    /// Looks after those who wait once the present handler has returned, whoever they are.
    pub(crate) fn post_dispatch(&self) {
        self.prepare_dispatch();
        self.waits.alarm.post();
    }

    fn prepare_dispatch(&self) {
        self.waits.alarm.prepare(self.waits.dispatch, NonNull::from(self).as_ptr().cast(), false);
    }

    /// The worker exits, and nobody waits for it to serve anything any more.
    pub(crate) fn is_ending(&self) -> bool {
        worker_is_exiting() && !self.waits.any()
    }

    /// A request does not wait in the queue any more.
    pub(crate) fn unqueue(&self, kp: &PeerData, ticket: Ticket) {
        let waiter = self.waits.line(kp).with(|line| line.remove(ticket)).flatten();
        if let (Some(waiter), Some(meter)) = (waiter, self.queue_meter()) {
            // SAFETY: in the pool of the live request.
            meter.end(elapsed(unsafe { waiter.as_ref() }.since.get()));
        }
    }

    /// Tells other workers how long the first ones wait, and sees to it that nobody is forgotten.
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
        let left = [queue, retries].into_iter().flatten().map(left).min().unwrap_or(INTERVAL);
        self.prepare_dispatch();
        self.waits.alarm.set(left.clamp(1, INTERVAL) as ngx_msec_t);
    }
}
