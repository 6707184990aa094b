//! A request gets a stream of a carrier, and leaves it.

use std::rc::Rc;

use nginx_sys::ngx_event_t;

use crate::http2::carrier::{Close, Kind};

use crate::ffi::nginx::conn::Event;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::state::carrier::{Carrier, Ride};
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::stream::{Stream, StreamRef};

use super::carry::note_stream;
use super::io::{dummy_socket, FUNCTIONS};

/// What a request has of streams; made for its first one. `None` if there is no memory.
pub(crate) fn stream_of(kp: &PeerData) -> Option<StreamRef> {
    if kp.extra().stream().is_none() {
        // SAFETY: the pool of the live request, in which `kp` lies.
        kp.set_stream(unsafe { Stream::make(kp.pool()) });
    }
    kp.extra().stream()
}

/// Gives the request a stream of a carrier. `None` if there is no memory, no descriptor, or no stream after all.
pub(crate) fn board(kp: &PeerData, peer: Peer, carrier: &Rc<Carrier>, kind: Kind) -> Option<StreamRef> {
    let stream = stream_of(kp)?;
    let fd = dummy_socket()?;
    let key = carrier.state.with(|state| state.open(kind, stream, now())).flatten()?;
    stream.board(Ride { carrier: carrier.clone(), key }, fd, FUNCTIONS, peer.log(), kp.pool());
    peer.set_connection(stream.conn().as_ptr());
    note_stream(carrier);
    if let Some(meter) = kp.upstream().http2_meter() {
        meter.stream_opened();
    }
    Some(stream)
}

/// The request leaves its carrier, if it has one. Returns the carrier, and how its stream has ended.
pub(crate) fn leave(kp: &PeerData, peer: Peer) -> Option<(Rc<Carrier>, Close)> {
    if let Some(number) = kp.extra().stream()?.number() {
        kp.notes.had_stream(number);
    }
    let Ride { carrier, key } = kp.extra().stream()?.leave()?;
    peer.release_connection();
    if let Some(meter) = kp.upstream().http2_meter() {
        meter.stream_closed();
    }
    let close = carrier.state.with(|state| state.close(key)).unwrap_or(Close::Failed);
    if carrier.conn.get().is_some() && !carrier.turn.is_posted() {
        carrier.turn.post();
    }
    Some((carrier, close))
}

/// The core has set timers for the connection that it has opened. That is the carrier's now: the timers go to the stream.
pub(crate) fn move_timers_soon(stream: StreamRef) {
    stream.turn.prepare(move_timers, stream.as_ptr(), false);
    stream.turn.post();
}

unsafe extern "C" fn move_timers(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of a stream's alarm; reads one field.
    let stream = unsafe { (*event).data };
    // SAFETY: `move_timers_soon` has put it there; the alarm is cancelled when the request leaves the carrier.
    let Some(stream) = (unsafe { StreamRef::from_data(stream) }) else { return };
    guard((), || {
        let carrier = stream.ride.borrow().as_ref().and_then(|ride| ride.carrier.conn.get());
        let Some(from) = carrier else { return };
        let to = stream.conn();
        move_timer(from.read(), to.read());
        move_timer(from.write(), to.write());
    });
}

fn move_timer(from: Event, to: Event) {
    if let Some(left) = from.time_left() {
        from.clear_timer();
        to.set_timer(left);
    }
}
