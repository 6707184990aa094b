//! A carrier: one HTTP/2 connection to a server, which carries the requests of many. It belongs to no request.

use std::cell::Cell;
use std::rc::Rc;

use crate::base::clock::Msec;
use crate::http2::carrier;
use crate::http2::carrier::{Counters, StreamKey};
use crate::http2::sharing::{GroupId, Most, Room, Sharing};
use crate::ledger::Server;
use crate::metrics::{Http2Count, Meter, Phase};
use crate::pool::Key;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::Guarded;
use crate::ffi::nginx::timer::Alarm;

use super::stream::StreamRef;
use super::upstream::{Bytes, Upstream, UpstreamRef};

/// A carrier. Its requests and the upstream share it; nginx has its address from when its connection becomes a carrier
/// until that is closed, and for as long the upstream holds it, or `own` does.
pub(crate) struct Carrier {
    pub(crate) upstream: UpstreamRef,
    /// The connection; `None` once it is closed.
    pub(crate) conn: Cell<Option<Conn>>,
    pub(crate) state: Guarded<carrier::Carrier<StreamRef>>,
    /// The requests that share it; `None` if only the request that has opened it may use it.
    pub(crate) group: Cell<Option<GroupId>>,
    /// Keeps it alive as long as its connection is open.
    pub(crate) own: Cell<Option<Rc<Carrier>>>,
    /// The server's address.
    pub(crate) address: Box<[u8]>,
    /// With `keepalive ... local`, the number of the location.
    pub(crate) location: usize,
    /// The number of the protocol of its first request: for its TLS sessions.
    pub(crate) protocol: usize,
    /// In the pool of the connection: to be used only while that is open.
    pub(crate) identity: Bytes,
    /// Its identity is known, so that other requests may share it.
    pub(crate) is_shared: bool,
    /// TLS sessions are not kept.
    pub(crate) without_sessions: bool,
    /// The server for whose limit the connection counts.
    pub(crate) server: Option<Server>,
    /// Counts the connection.
    pub(crate) meter: Option<Meter>,
    /// What of its counters was added to those of the upstream.
    pub(crate) counted: Cell<Counters>,
    /// Since when it has no stream; `None` if it has one.
    pub(crate) idle_since: Cell<Option<Msec>>,
    /// A buffer for what is received; taken while it is used.
    pub(crate) input: Cell<Vec<u8>>,
    /// Sends what is to be sent, once all handlers of this round have returned.
    pub(crate) turn: Alarm,
    /// For the end of its idle time, and to look whether the server is still there.
    pub(crate) watch: Alarm,
}

/// All carriers of an upstream in a worker.
pub(crate) type Carriers = Guarded<Sharing<Rc<Carrier>>>;

/// How many carriers with how many streams there may be to a server.
pub(crate) fn most(upstream: &Upstream) -> Most {
    let http2 = upstream.http2.get();
    Most { carriers: http2.connections as usize, streams: http2.streams as usize }
}

/// What a carrier can take.
pub(crate) fn room(carrier: &Rc<Carrier>) -> Room {
    let look = |state: &mut carrier::Carrier<StreamRef>| Room {
        streams: state.room(),
        is_settled: state.is_settled(),
        is_draining: state.is_draining(),
    };
    // After a panic it takes no more.
    let broken = Room { streams: 0, is_settled: true, is_draining: true };
    carrier.state.with(look).unwrap_or(broken)
}

/// The number of the protocol of all carriers: a stream does not tell which module of nginx has written it.
pub(crate) const PROTOCOL: usize = usize::MAX;

impl Carrier {
    /// It has no stream since then, or has one; its connection counts as idle or active.
    pub(crate) fn set_idle_since(&self, since: Option<Msec>) {
        let before = self.idle_since.replace(since);
        let (from, to) = match (before, since) {
            (None, Some(_)) => (Phase::Active, Phase::Idle),
            (Some(_), None) => (Phase::Idle, Phase::Active),
            _ => return,
        };
        // Other requests may need its slot.
        match since {
            Some(_) => self.upstream.counts.add_idle(self.server),
            None => self.upstream.counts.remove_idle(self.server),
        }
        if let Some(meter) = self.meter {
            meter.pass(from, to);
        }
    }

    /// Who may share it.
    pub(crate) fn key(&self) -> Key<'_> {
        // SAFETY: in the pool of the connection, which is open while requests look for a carrier.
        let identity = unsafe { self.identity.as_slice() };
        Key { address: &self.address, protocol: PROTOCOL, location: self.location, identity }
    }

    /// Adds what has happened on it to the counters of the upstream.
    pub(crate) fn count(&self) {
        let Some(meter) = self.upstream.http2_meter() else { return };
        let Some(now) = self.state.with(|state| state.counters()) else { return };
        let before = self.counted.replace(now);
        if now == before {
            return;
        }
        for (what, now, before) in [
            (Http2Count::Refused, now.refused, before.refused),
            (Http2Count::ResetSent, now.reset_by_us, before.reset_by_us),
            (Http2Count::ResetReceived, now.reset_by_server, before.reset_by_server),
            (Http2Count::Goaways, now.goaways, before.goaways),
            (Http2Count::Pings, now.pings_sent, before.pings_sent),
            (Http2Count::Stalls, now.stalls, before.stalls),
        ] {
            if now > before {
                meter.add(what, now - before);
            }
        }
    }
}

/// A stream of a carrier.
#[derive(Clone)]
pub(crate) struct Ride {
    pub(crate) carrier: Rc<Carrier>,
    pub(crate) key: StreamKey,
}
