//! Stores a connection in the pool.

use crate::ledger::Server;
use crate::metrics::{Cause, End, Meter, Phase};
use crate::pool::{Expiry, Key, Offer};

use crate::ffi::max_conns::slots::close_idle;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::process::elapsed;
use crate::ffi::state::hints;
use crate::ffi::state::upstream::{Idle, Stored, Upstream};

#[cfg(nginx_resolve)]
use super::resolve;
use super::shortage::yield_to_clients;
use super::sleep::sleep;

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// From this worker: its phase so far.
    Phase(Phase),
    OtherWorker,
}

/// Stores a connection in the pool and puts it to sleep. Calls `taken` in between: from there on the connection is no
/// longer the caller's. It may be closed when this returns.
///
/// # Errors
/// If there is no room.
#[inline]
pub(crate) fn store(
    upstream: &Upstream,
    key: &Key<'_>,
    offer: Offer<Idle>,
    from: Origin,
    generation: usize,
    taken: impl FnOnce(),
) -> Result<(), End> {
    let Idle { conn, server, meter, .. } = offer.conn;
    let server = server.get();
    // Elsewhere it has been idle for a while.
    let expiry = match from {
        Origin::Phase(_) => offer.expiry,
        Origin::OtherWorker => {
            let time = offer.expiry.time(upstream.limits.map_or(0, |limits| limits.timeout));
            Expiry::Other(time.saturating_sub(elapsed(offer.now)).max(1))
        }
    };
    let Stored { slot, hash, evicted } = upstream.store(key, offer);
    if let Some(slot) = slot {
        taken();
        put_to_sleep(upstream, &Sleeper { conn, server, meter, slot, hash, from, expiry });
        #[cfg(nginx_resolve)]
        if let Some(watch) = &upstream.watch {
            resolve::stored(upstream, watch, generation);
        }
        #[cfg(not(nginx_resolve))]
        let _ = generation;
    }
    if slot.is_none() || evicted.is_some() {
        hints::note(upstream, Cause::PoolFull);
    }
    if let Some(evicted) = evicted {
        close_idle(upstream, evicted, End::Evicted);
    } else {
        yield_to_clients(upstream);
    }
    slot.map(|_| ()).ok_or(End::Evicted)
}

/// A connection that is in the pool now.
pub(crate) struct Sleeper {
    pub(crate) conn: Conn,
    pub(crate) server: Option<Server>,
    pub(crate) meter: Option<Meter>,
    /// Where it is.
    pub(crate) slot: u32,
    /// The hash of its key.
    pub(crate) hash: u32,
    pub(crate) from: Origin,
    /// How long it may stay idle.
    pub(crate) expiry: Expiry,
}

/// What follows when a connection is in the pool. It may be closed when this returns.
#[inline(always)]
pub(crate) fn put_to_sleep(upstream: &Upstream, sleeper: &Sleeper) {
    upstream.counts.add_idle(sleeper.server);
    if let Some(meter) = sleeper.meter {
        match sleeper.from {
            Origin::Phase(phase) => meter.pass(phase, Phase::Idle),
            Origin::OtherWorker => meter.take(),
        }
    }
    sleep(sleeper.conn, upstream, sleeper.slot, sleeper.expiry);
    if let Some(handover) = upstream.handover() {
        if !handover.note(upstream.tag(sleeper.hash)) && handover.has_heir() {
            // The heir may take it.
            upstream.post_dispatch();
        }
    }
}
