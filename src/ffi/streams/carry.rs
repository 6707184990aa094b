//! The connection of a carrier: what its events do, what is sent, and how it ends.
//!
//! ```text
//!   readable --> read_handler: the core reads frames --+
//!   a stream sends, reads or leaves: turn is posted ---+--> flush: what the core has written is sent
//!   writable --> write_handler ------------------------+--> deliver: streams with news are woken (their events are posted)
//!   watch (a timer) --> is the server still there? idle for too long?
//!
//!   the connection has ended, or must end --> end: all streams fail, the connection is closed
//! ```

use std::rc::Rc;

#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::ngx_connection_t;
use nginx_sys::{ngx_event_t, ngx_msec_t};

use crate::http2::carrier::{Fault, Tick};
use crate::metrics::{End, Http2Count, Phase};
#[cfg(ngx_feature = "http_ssl")]
use crate::pool::Key;

use crate::ffi::max_conns::slots::close_and_release;
use crate::ffi::nginx::conn::{Conn, Event, Received, Sent};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::{debug, error_text};
use crate::ffi::nginx::process::{elapsed, now, remaining};
use crate::ffi::nginx::socket::{address_text, asked_to_close};
#[cfg(ngx_feature = "http_ssl")]
use crate::ffi::nginx::tls::on_session;
use crate::ffi::state::carrier::Carrier;

use super::idle::{close_surplus, is_at_limit, reason_to_close};

/// How many times a connection is read before other events have their turn.
const ROUNDS: usize = 16;

/// The payload of the largest TLS record, in bytes (RFC 8446, section 5.1).
const RECORD: usize = 16_384;

/// The size of the buffer for what is received, in bytes.
const INPUT: usize = 16_384;

/// The carrier of an event of its connection.
///
/// # Safety
/// nginx has called a handler that `start` has set, with an event of the connection.
unsafe fn carrier_of(event: Event) -> Option<Rc<Carrier>> {
    // SAFETY: as `carrier_at`: `start` has put the carrier there.
    unsafe { carrier_at(event.conn().data().cast()) }
}

/// # Safety
/// `carrier` is null, or points at a carrier whose connection is open: it holds itself (`own`).
unsafe fn carrier_at(carrier: *const Carrier) -> Option<Rc<Carrier>> {
    if carrier.is_null() {
        return None;
    }
    // SAFETY: it came from an `Rc`, which is alive as the caller says: this counts one more reference.
    unsafe { Rc::increment_strong_count(carrier) };
    // SAFETY: the reference that was counted just now.
    Some(unsafe { Rc::from_raw(carrier) })
}

/// Lets a connection be that of a carrier.
pub(crate) fn start(carrier: &Rc<Carrier>, conn: Conn) {
    carrier.own.set(Some(carrier.clone()));
    // The core's function takes the data of the connection for a request.
    #[cfg(ngx_feature = "http_ssl")]
    on_session(conn, Some(save_session));
    let this = Rc::as_ptr(carrier).cast_mut().cast();
    conn.set_data(this);
    conn.read().set_handler(Some(read_handler));
    conn.write().set_handler(Some(write_handler));
    carrier.turn.prepare(turn_handler, this, false);
    // A worker that exits need not wait for it.
    carrier.watch.prepare(watch_handler, this, true);
    carrier.turn.post();
    // Small frames of one request must not wait for the acknowledgement of another one's.
    conn.send_at_once();
    if conn.read().ready() {
        conn.read().post();
    }
    set_watch(carrier);
}

/// nginx calls it when the server has sent a TLS session.
#[cfg(ngx_feature = "http_ssl")]
unsafe extern "C" fn save_session(conn: *mut ngx_connection_t) {
    // SAFETY: nginx passes the open connection for which `start` has set this function.
    let conn = unsafe { Conn::from_open(conn) };
    guard((), || {
        // SAFETY: `start` has put the carrier there; `end` takes it away.
        let Some(carrier) = (unsafe { carrier_at(conn.data().cast()) }) else { return };
        if carrier.without_sessions || !carrier.is_shared {
            return;
        }
        // SAFETY: in the pool of the connection, which is open.
        let identity = unsafe { carrier.identity.as_slice() };
        let key = Key { address: &carrier.address, protocol: carrier.protocol, location: 0, identity };
        carrier.upstream.sessions.keep(&key, conn);
    });
}

unsafe extern "C" fn read_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the read event of a connection that `start` gave this handler.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive carrier read handler");
    // SAFETY: as above.
    guard((), || unsafe { carrier_of(event) }.map_or((), |carrier| receive(&carrier, event)));
}

unsafe extern "C" fn write_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the write event of a connection that `start` gave this handler.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive carrier write handler");
    // SAFETY: as above.
    guard((), || unsafe { carrier_of(event) }.map_or((), |carrier| move_on(&carrier)));
}

unsafe extern "C" fn turn_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of a carrier's alarm; reads one field.
    let carrier = unsafe { (*event).data };
    // SAFETY: `start` has put the carrier there; the alarm is cancelled when its connection is closed.
    guard((), || unsafe { carrier_at(carrier.cast()) }.map_or((), |carrier| move_on(&carrier)));
}

unsafe extern "C" fn watch_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of a carrier's alarm; reads one field.
    let carrier = unsafe { (*event).data };
    // SAFETY: `start` has put the carrier there; the alarm is cancelled when its connection is closed.
    guard((), || unsafe { carrier_at(carrier.cast()) }.map_or((), |carrier| watch(&carrier)));
}

/// Reads what has come.
fn receive(carrier: &Rc<Carrier>, event: Event) {
    let Some(conn) = carrier.conn.get() else { return };
    if conn.close_requested() && carrier.idle_since.get().is_some() {
        return end(carrier, asked_to_close(), None);
    }
    match read_rounds(carrier, conn, event) {
        None => move_on(carrier),
        Some((why, fault)) => end(carrier, why, fault),
    }
}

/// Reads until nothing is left, or others have their turn. Returns why the connection ends, if it does.
fn read_rounds(carrier: &Rc<Carrier>, conn: Conn, event: Event) -> Option<(End, Option<Fault>)> {
    let mut buffer = carrier.input.take();
    if buffer.is_empty() && buffer.try_reserve_exact(INPUT).is_ok() {
        buffer.resize(INPUT, 0);
    }
    let ended = read_into(carrier, conn, event, &mut buffer);
    carrier.input.set(buffer);
    ended
}

fn read_into(carrier: &Carrier, conn: Conn, event: Event, buffer: &mut [u8]) -> Option<(End, Option<Fault>)> {
    for _ in 0..ROUNDS {
        match conn.receive(buffer) {
            Received::Bytes(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                match carrier.state.with(|state| state.receive(bytes, now())) {
                    Some(Ok(())) => {}
                    Some(Err(fault)) => return Some((End::Error, Some(fault))),
                    None => return Some((End::Error, None)),
                }
            }
            Received::Nothing => return (!event.wait_readable()).then_some((End::Error, None)),
            Received::End => return Some((End::ServerClosed, None)),
        }
    }
    event.post_next();
    None
}

/// Sends what is to be sent, wakes streams that have news, and looks whether the carrier has still something to do.
pub(super) fn move_on(carrier: &Rc<Carrier>) {
    carrier.state.with(|state| state.end_turns());
    deliver(carrier);
    if !flush(carrier) {
        return end_after_rest(carrier);
    }
    deliver(carrier);
    settle(carrier);
}

/// Nothing can be sent any more. What the server has said before it closed is heard: responses, and what it has not processed.
#[cold]
fn end_after_rest(carrier: &Rc<Carrier>) {
    let Some(conn) = carrier.conn.get() else { return };
    let (why, fault) = read_rounds(carrier, conn, conn.read()).unwrap_or((End::Error, None));
    deliver(carrier);
    end(carrier, why, fault);
}

/// Sends what the core has written. `false` if that has failed.
fn flush(carrier: &Carrier) -> bool {
    let Some(conn) = carrier.conn.get() else { return true };
    // TLS tells only of a whole call whether it was sent. What is told as not sent must not be, so it is one record.
    let most = if conn.has_tls() { RECORD } else { usize::MAX };
    loop {
        // The core does not move what is to be sent before it hears that it was. Sending calls nothing of this module but
        // `save_session`, which does not use the state.
        let sent = carrier.state.with(|state| {
            let output = state.output();
            let output = output.get(..most).unwrap_or(output);
            (!output.is_empty()).then(|| conn.send(output))
        });
        match sent {
            None => return false,
            Some(None) => return true,
            Some(Some(Sent::Bytes(length))) => carrier.state.with(|state| state.written(length)),
            Some(Some(Sent::Nothing)) => return conn.write().wait_writable(),
            Some(Some(Sent::Failed)) => return false,
        };
    }
}

/// Posts the events of streams that have news.
fn deliver(carrier: &Carrier) {
    let mut has_writers = false;
    while let Some((_, stream, wake)) = carrier.state.with(|state| state.next_woken()).flatten() {
        let conn = stream.conn();
        if wake.read {
            conn.read().set_ready();
            conn.read().post();
        }
        if wake.write {
            conn.write().set_ready();
            conn.write().post();
            has_writers = true;
        }
    }
    // After them.
    if has_writers && carrier.conn.get().is_some() {
        carrier.turn.post();
    }
}

/// After streams have come or gone, or the server has said something: who waits has a turn, an idle carrier is put to
/// sleep, and one that takes no more requests is closed once it has none.
fn settle(carrier: &Rc<Carrier>) {
    let Some(conn) = carrier.conn.get() else { return };
    let upstream = &carrier.upstream;
    let Some((streams, is_draining, has_output)) =
        carrier.state.with(|state| (state.streams(), state.is_draining(), !state.output().is_empty()))
    else {
        return end(carrier, End::Error, None);
    };
    carrier.count();
    if upstream.waits.any_for_stream() {
        upstream.post_dispatch();
    }
    if streams > 0 {
        carrier.set_idle_since(None);
        conn.set_idle(false);
        return set_watch(carrier);
    }
    if let Some(why) = reason_to_close(carrier, conn, is_draining) {
        // What is still to be sent says goodbye; nobody waits for it.
        return end(carrier, why, None);
    }
    if carrier.idle_since.get().is_none() {
        carrier.set_idle_since(Some(now()));
    }
    conn.set_idle(!has_output);
    set_watch(carrier);
    close_surplus(upstream);
}

/// A request has got a stream: the carrier takes no more if it was the last one, or if the carrier is too old.
pub(super) fn note_stream(carrier: &Rc<Carrier>) {
    let (Some(conn), Some(limits)) = (carrier.conn.get(), carrier.upstream.limits) else { return };
    if is_at_limit(carrier, limits.requests) || elapsed(conn.start_time()) >= limits.time {
        carrier.state.with(|state| state.shut_down());
    }
    carrier.set_idle_since(None);
    conn.set_idle(false);
}

/// Sets the alarm for the next look at the carrier.
fn set_watch(carrier: &Carrier) {
    let Some(tick) = carrier.state.with(|state| state.tick(now())) else { return };
    deliver(carrier);
    let timeout = carrier.upstream.limits.map_or(0, |limits| limits.timeout);
    let idle_left = carrier.idle_since.get().map(|since| timeout.saturating_sub(elapsed(since)));
    let next = match tick {
        Tick::Wait(at) => [at.map(remaining), idle_left].into_iter().flatten().min(),
        Tick::Dead(_) => Some(0),
    };
    carrier.watch.clear();
    if let Some(after) = next {
        carrier.watch.set(after.max(1) as ngx_msec_t);
    }
}

/// Looks whether the server is still there, and whether the carrier has been idle for too long.
fn watch(carrier: &Rc<Carrier>) {
    match carrier.state.with(|state| state.tick(now())) {
        Some(Tick::Wait(_)) => move_on(carrier),
        Some(Tick::Dead(fault)) => end(carrier, End::Error, Some(fault)),
        None => end(carrier, End::Error, None),
    }
}

/// Ends a carrier: its streams fail, and its connection is closed.
pub(crate) fn end(carrier: &Rc<Carrier>, why: End, fault: Option<Fault>) {
    let Some(conn) = carrier.conn.take() else { return };
    if let Some(fault) = fault {
        error_text(conn, format_args!("upstream HTTP/2 connection to {} failed: {fault}", name(carrier)));
        // The server is told, if that is possible at once.
        carrier.state.with(|state| {
            let output = state.output();
            if !output.is_empty() {
                conn.send(output);
            }
        });
    }
    carrier.state.with(|state| state.end());
    carrier.count();
    if let Some(meter) = carrier.upstream.http2_meter() {
        meter.carrier_closed();
        if fault == Some(Fault::NoAnswer) {
            meter.add(Http2Count::PingsLost, 1);
        }
    }
    carrier.turn.cancel();
    carrier.watch.cancel();
    conn.set_data(std::ptr::null_mut());
    let upstream = &*carrier.upstream;
    if let Some(group) = carrier.group.take() {
        upstream.carriers.with(|all| all.remove(group, |other| Rc::ptr_eq(other, carrier)));
    }
    carrier.set_idle_since(None);
    if let Some(meter) = carrier.meter {
        meter.end(Phase::Active, why);
    }
    close_and_release(upstream, conn, carrier.server);
    deliver(carrier);
    if upstream.waits.any_for_stream() {
        upstream.post_dispatch();
    }
    // Streams that have failed still hold it.
    carrier.own.take();
}

/// The address of the server, for the log.
fn name(carrier: &Carrier) -> String {
    address_text(&carrier.address)
}
