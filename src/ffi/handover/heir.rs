//! A later configuration takes the connections of this worker.
//!
//! Until this worker exits, which takes nginx some 100 ms, it still has requests. So it keeps connections that it has used a
//! moment ago, unless the heir asks for one; and those that count for `max_conns`: it would have to open others in their place,
//! while nobody counts those that are on their way. When it exits, it gives all, and each further one when its request ends.

use crate::base::clock::Msec;
use crate::handover::index::MIN_IDLE;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::process::{elapsed, now, worker_is_exiting};
use crate::ffi::state::upstream::{Idle, Upstream};

use super::give::{give, Given, Recipient};

/// How long a connection has not been used if this worker does without it before it exits, in milliseconds.
const COLD: Msec = MIN_IDLE;

/// How long to wait until an inbox that was full has room again, in milliseconds.
const RETRY_INTERVAL: Msec = 1;

/// For how long a worker that exits waits for room in an inbox, in milliseconds. The heir may have been stopped.
const EXIT_TIMEOUT: Msec = 1000;

/// Gives connections to the heir, if there is one. Requests of this worker that wait come first. Returns whether some are left
/// that the heir will have room for.
pub(crate) fn yield_connections(upstream: &Upstream) -> bool {
    if !upstream.has_heir() || upstream.is_empty() {
        return false;
    }
    let is_full = !upstream.waits.any() && give_all(upstream);
    if !upstream.is_empty() {
        upstream.dispatch_soon(if is_full { RETRY_INTERVAL } else { COLD });
    }
    is_full && worker_is_exiting() && is_worth_waiting(upstream)
}

/// Whether a worker that exits still waits for room in the inbox of its heir.
fn is_worth_waiting(upstream: &Upstream) -> bool {
    let Some(handover) = upstream.handover() else { return false };
    let since = handover.full_since.get().unwrap_or_else(now);
    handover.full_since.set(Some(since));
    elapsed(since) < EXIT_TIMEOUT
}

/// Gives all connections of the pool that this worker does not need. Returns whether the inbox of the heir is full.
pub(super) fn give_all(upstream: &Upstream) -> bool {
    let mut from = 0;
    while let Some(slot) = upstream.idle.with(|idle| idle.next_stored(&mut from)).flatten() {
        let is_spare = upstream
            .idle
            .with(|idle| idle.entry(slot).is_some_and(|entry| is_spare(upstream, entry.conn, entry.since)));
        if is_spare != Some(true) {
            continue;
        }
        match give(upstream, slot, Recipient::Heir { question: 0 }) {
            Given::Later => return true,
            Given::Gone => has_room(upstream),
            Given::Unfit => {}
        }
    }
    false
}

/// The inbox of the heir has room.
fn has_room(upstream: &Upstream) {
    if let Some(handover) = upstream.handover() {
        handover.full_since.set(None);
    }
}

/// nginx closes the idle connections of a worker that exits. Returns whether this one, in its slot, is given to the heir
/// instead, now or as soon as there is room in its inbox.
pub(crate) fn give_instead_of_closing(upstream: &Upstream, slot: u32, conn: Conn) -> bool {
    let idle = upstream.idle.with(|idle| idle.entry(slot).map(|entry| *entry.conn)).flatten();
    // After a panic, the slot may hold another one.
    let idle = idle.filter(|idle| idle.is(conn));
    if !upstream.has_heir() || idle.is_none_or(|idle| is_needed_by_others(upstream, &idle)) {
        return false;
    }
    match give(upstream, slot, Recipient::Heir { question: 0 }) {
        Given::Gone => {
            has_room(upstream);
            true
        }
        Given::Later => {
            upstream.dispatch_soon(RETRY_INTERVAL);
            is_worth_waiting(upstream)
        }
        Given::Unfit => false,
    }
}

/// Whether a connection can be given to an heir that needs one now.
pub(super) fn can_go(upstream: &Upstream, idle: &Idle) -> bool {
    if worker_is_exiting() {
        return !is_needed_by_others(upstream, idle);
    }
    idle.server.get().is_none()
}

/// Whether this worker does without a connection that was stored at `since`.
fn is_spare(upstream: &Upstream, idle: &Idle, since: Msec) -> bool {
    can_go(upstream, idle) && (worker_is_exiting() || elapsed(since) >= COLD)
}

/// Whether requests of another worker of this configuration wait for the slot of a connection.
fn is_needed_by_others(upstream: &Upstream, idle: &Idle) -> bool {
    let (Some(ledger), Some(server)) = (upstream.counts.shared(), idle.server.get()) else { return false };
    ledger.longest(now()).is_some() || ledger.parked(server).next().is_some()
}
