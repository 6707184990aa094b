//! A connection whose response was not read to its end, as with `auth_request`. The rest is read and discarded, and the
//! connection is stored as if the request had read it.
//!
//! Meanwhile it belongs to no request, but keeps its slot at a limited server.

use std::ffi::CStr;

use nginx_sys::{ngx_event_t, ngx_log_error_core, ngx_log_t, ngx_pfree, NGX_LOG_INFO};

use crate::base::address::MAX_ADDRESS;
use crate::drain::{Drain, NotDrained, Progress};
use crate::ledger::Server;
use crate::metrics::{Cause, End, Meter, Phase};
use crate::pool::{Expiry, GroupRef, Key, Offer};

use crate::ffi::max_conns::slots::close_and_release;
use crate::ffi::nginx::conn::{Conn, Event, Received};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::log::{debug, takes};
use crate::ffi::nginx::process::{cycle_log, now};
use crate::ffi::nginx::socket::asked_to_close;
use crate::ffi::state::hints;
use crate::ffi::state::upstream::{Bytes, Idle, RoundTrip, Upstream, UpstreamRef};

use super::sleep::dummy_handler;
use super::store::{store, Origin};

/// The `data` of such a connection points at this: all that is needed to store the connection once the request is gone.
/// Lies in the connection's memory pool, in a large block of its own, which can be freed.
pub(crate) struct Draining {
    upstream: UpstreamRef,
    drain: Drain,
    address: [u8; MAX_ADDRESS],
    address_length: usize,
    protocol: usize,
    location: usize,
    identity: Bytes,
    group: Option<GroupRef>,
    reused: bool,
    server: Option<Server>,
    meter: Option<Meter>,
    hinted: bool,
    round_trip: Option<RoundTrip>,
    allowed: u32,
    expiry: Expiry,
    generation: usize,
}

/// Begins to read the rest of a response. Calls `taken` before: from there on the connection is no longer the caller's.
/// It may be stored or closed when this returns.
///
/// # Errors
/// If there is no memory.
pub(crate) fn begin(
    upstream: &Upstream,
    drain: Drain,
    key: &Key<'_>,
    offer: Offer<Idle>,
    generation: usize,
    taken: impl FnOnce(),
) -> Result<(), End> {
    let Idle { conn, identity, server, meter, hinted, round_trip, allowed, is_taken: _ } = offer.conn;
    let mut address = [0; MAX_ADDRESS];
    let Some(to) = address.get_mut(..key.address.len()) else { return Err(End::Error) };
    to.copy_from_slice(key.address);
    let draining = Draining {
        upstream: upstream.refer(),
        drain,
        address,
        address_length: key.address.len(),
        protocol: key.protocol,
        location: key.location,
        identity,
        group: offer.group,
        reused: offer.reused,
        server: server.get(),
        meter,
        hinted,
        round_trip,
        allowed,
        expiry: offer.expiry,
        generation,
    };
    let data = conn.memory().and_then(|pool| pool.put(draining)).ok_or(End::Error)?;
    if let Some(meter) = meter {
        meter.pass(Phase::Active, Phase::Draining);
    }
    taken();
    conn.set_data(data.as_ptr().cast());
    conn.set_logs(cycle_log());
    // A worker that exits closes it as it closes idle ones, and so does one that runs out of connections.
    conn.set_idle(true);
    conn.set_reusable(true);
    let (read, write) = (conn.read(), conn.write());
    write.clear_timer();
    write.set_handler(Some(dummy_handler));
    read.clear_delayed();
    read.set_handler(Some(drain_handler));
    read.set_timer(upstream.drain.timeout);
    if read.ready() {
        // SAFETY: the read event of an open connection, whose `data` was set to a `Draining` just now.
        unsafe { drain_handler(read.as_ptr()) };
    }
    Ok(())
}

/// The read handler of such a connection: there is more of the response, or its time is over.
unsafe extern "C" fn drain_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx calls it with the read event of a connection that `begin` gave this handler.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive drain handler");
    guard((), || {
        let conn = event.conn();
        match read_available(event, conn) {
            Ok(Progress::More) => {}
            Ok(Progress::Done) => finish(conn, Ok(())),
            Err(why) => finish(conn, Err(why)),
        }
    });
}

/// Reads the available bytes. An error says why the connection cannot be reused.
fn read_available(event: Event, conn: Conn) -> Result<Progress, Reason> {
    if conn.close_requested() {
        return Err((c"the worker exits or needs the connection", asked_to_close()));
    }
    if event.timed_out() {
        return Err((c"the response is not complete in time", End::DrainLimit));
    }
    let draining = conn.data().cast::<Draining>();
    let mut buffer = [0; 4096];
    loop {
        match conn.receive(&mut buffer) {
            Received::End => {
                let end = if event.error() { End::Error } else { End::ServerClosed };
                return Err((c"the server has closed the connection", end));
            }
            Received::Nothing if event.wait_readable() => return Ok(Progress::More),
            Received::Nothing => return Err((c"no event can be added", End::Error)),
            Received::Bytes(n) => {
                // SAFETY: `begin` has put it there; only this function refers to it, and does not call nginx
                // meanwhile.
                let drain = unsafe { &mut (*draining).drain };
                if drain.read(buffer.get(..n).unwrap_or(&buffer)).map_err(reason)? == Progress::Done {
                    return Ok(Progress::Done);
                }
            }
        }
    }
}

/// Stores the connection, or closes it for a reason.
fn finish(conn: Conn, drained: Result<(), Reason>) {
    let data = conn.data().cast::<Draining>();
    // SAFETY: `begin` has put it there, in the pool of the open connection.
    let draining = unsafe { data.read() };
    // SAFETY: memory of this pool that is not used any more; if it is not a large block, the call does nothing.
    unsafe { ngx_pfree(conn.pool(), data.cast()) };
    let upstream = &*draining.upstream;
    conn.set_idle(false);
    conn.set_reusable(false);
    conn.read().clear_timer();
    let stored = match drained {
        Ok(()) => store_drained(upstream, conn, &draining),
        Err((why, end)) => {
            log_refusal(upstream, cycle_log(), why);
            Err(end)
        }
    };
    if let Err(end) = stored {
        if end == End::DrainLimit {
            hints::note(upstream, Cause::BodyUnread);
        }
        if let Some(meter) = draining.meter {
            meter.end(Phase::Draining, end);
        }
        if let Some(binding) = draining.idle(conn).binding() {
            upstream.unbind(binding);
        }
        close_and_release(upstream, conn, draining.server);
    }
    if upstream.can_wait() {
        upstream.schedule_dispatch(draining.server);
    }
}

impl Draining {
    /// The connection as the pool stores it.
    fn idle(&self, conn: Conn) -> Idle {
        let Self { identity, server, meter, hinted, round_trip, allowed, .. } = *self;
        let server = server.into();
        Idle { conn, identity, server, meter, hinted, round_trip, allowed, is_taken: false }
    }
}

/// Stores the connection, if there is no reason to close it.
fn store_drained(upstream: &Upstream, conn: Conn, draining: &Draining) -> Result<(), End> {
    let idle = draining.idle(conn);
    if upstream.is_ending() && !upstream.has_heir() {
        return Err(End::Exiting);
    }
    if idle.binding().is_some_and(|binding| !upstream.has_client(binding)) {
        return Err(End::ClientClosed);
    }
    let key = Key {
        address: draining.address.get(..draining.address_length).unwrap_or(&[]),
        protocol: draining.protocol,
        location: draining.location,
        // SAFETY: the bytes lie in the memory pool of the connection, which is open.
        identity: unsafe { draining.identity.as_slice() },
    };
    let offer = Offer {
        conn: idle,
        group: draining.group,
        reused: draining.reused,
        now: now(),
        expiry: draining.expiry,
    };
    store(upstream, &key, offer, Origin::Phase(Phase::Draining), draining.generation, || {})
}

/// Why a connection is closed: for the log, and for the counters.
type Reason = (&'static CStr, End);

/// The reason for a response that cannot be drained.
pub(crate) fn reason(refusal: NotDrained) -> Reason {
    match refusal {
        NotDrained::TooLarge => (c"the response is larger than \"keepalive_drain\"", End::DrainLimit),
        NotDrained::Malformed => (c"the chunked response is invalid", End::Error),
        NotDrained::InvalidRecord => (c"the FastCGI response is invalid", End::Error),
        NotDrained::Surplus => (c"something follows the response", End::UnexpectedData),
    }
}

/// Says why a connection is closed though its response could have been drained.
#[cold]
pub(crate) fn log_refusal(upstream: &Upstream, log: *mut ngx_log_t, why: &'static CStr) {
    if !takes(log, NGX_LOG_INFO) {
        return;
    }
    let name = upstream.name();
    let format = c"connection to upstream \"%V\" is not kept: %s";
    // SAFETY: the log is live; `%V` takes a string of nginx, `%s` one that ends with a null byte.
    unsafe { ngx_log_error_core(NGX_LOG_INFO as usize, log, 0, format.as_ptr(), name, why.as_ptr()) };
}
