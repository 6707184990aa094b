//! The connection that a request has opened becomes a carrier, at the moment when the core would send the first byte: the
//! connection is established then, TLS too, and the server's certificate is verified. From then on the request is a stream.
//!
//! ```text
//!   get_keepalive_peer  NGX_OK: become_carrier_later: the core's output goes through first_output
//!   the core            connects; ALPN is offered in set_session; the handshake; the certificate
//!   first_output        HTTP/2? the connection is the carrier's, and the request goes on with a stream of it
//!                       else: an ordinary connection (auto), or an error (on)
//! ```

use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

use nginx_sys::{ngx_chain_t, ngx_event_t, ngx_int_t, NGX_ERROR};

use crate::directive::Http2Mode;
use crate::http2::carrier::{Carrier as State, Config};
use crate::http2::sharing::GroupId;

#[cfg(nginx_resolve)]
use crate::ffi::idle::resolve;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::{guard, Guarded};
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::log::error_text;
use crate::ffi::nginx::process::cycle_log;
use crate::ffi::nginx::request::Output;
use crate::ffi::nginx::timer::Alarm;
use crate::ffi::peer::release::identity_to_keep;
use crate::ffi::peer::stream::kind_of;
use crate::ffi::state::carrier::Carrier;
use crate::ffi::state::extra::Stage;
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::upstream::Bytes;
use crate::ffi::streams::board::{board, move_timers_soon, stream_of};
use crate::ffi::streams::carry;

/// The connection that the core opens for the request will be a carrier, of this group if others wait for it. `None` if there is
/// no memory.
pub(super) fn become_carrier_later(kp: &PeerData, group: Option<GroupId>) -> Option<()> {
    let stream = stream_of(kp)?;
    let this = std::ptr::from_ref(kp).cast_mut().cast();
    stream.opens.set(group);
    if stream.output.get().is_none() {
        stream.output.set(Some(kp.u.output()));
        kp.u.set_output(Output { filter: Some(first_output), data: this });
    }
    if !kp.u.uses_tls() {
        stream.turn.prepare(hold_reading, this, false);
        stream.turn.post();
    }
    Some(())
}

/// The core connects. A server may send its SETTINGS before it has heard anything: the core must not read them.
unsafe extern "C" fn hold_reading(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of a stream's alarm; reads one field.
    let kp = unsafe { (*event).data };
    // SAFETY: `become_carrier_later` has put the data of the request there; the alarm is cancelled when its attempt ends.
    let kp = unsafe { PeerData::from_ptr(kp) };
    guard((), || {
        let is_held = kp.extra().stage() == Stage::Asking
            && kp.extra().stream().is_some_and(|stream| stream.output.get().is_some());
        if let (true, Some(conn)) = (is_held, kp.u.peer().connection()) {
            conn.read().set_handler(Some(not_yet));
        }
    });
}

/// Something has come before the first bytes were sent: the carrier will read it. If it is an error, the write event says so, too.
unsafe extern "C" fn not_yet(_: *mut ngx_event_t) {}

/// The request does not open a connection any more that others wait for.
#[cold]
pub(super) fn end_opening(kp: &PeerData) {
    let Some(stream) = kp.extra().stream() else { return };
    keep_output(kp);
    stream.turn.cancel();
    if let Some(group) = stream.opens.take() {
        // The connection was never established, or TLS was not.
        kp.upstream().carriers.with(|all| all.not_opened(group, false));
        if kp.upstream().waits.any_for_stream() {
            kp.upstream().post_dispatch();
        }
    }
}

/// Restores the core's output, if it was replaced. Returns it.
pub(super) fn keep_output(kp: &PeerData) -> Option<Output> {
    let output = kp.extra().stream()?.output.take()?;
    kp.u.set_output(output);
    Some(output)
}

/// The core sends its first bytes over a connection.
unsafe extern "C" fn first_output(data: *mut c_void, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: `become_carrier_later` has put the data of the live request there.
    let kp = unsafe { PeerData::from_ptr(data) };
    let output = guard(None, || {
        let output = keep_output(kp)?;
        let conn = kp.u.peer().connection()?;
        choose_protocol(kp, conn)?;
        Some(output)
    });
    match output {
        // SAFETY: the function that the core has called before, with its data and the chain that the core has passed.
        Some(Output { filter: Some(filter), data }) => unsafe { filter(data, chain) },
        _ => NGX_ERROR as ngx_int_t,
    }
}

/// Makes the connection a carrier if its server speaks HTTP/2. `None` if it fails.
fn choose_protocol(kp: &PeerData, conn: Conn) -> Option<()> {
    let upstream = kp.upstream();
    let group = kp.extra().stream()?.opens.take();
    let failed = |is_ordinary| {
        if let Some(group) = group {
            upstream.carriers.with(|all| all.not_opened(group, is_ordinary));
        }
        if upstream.waits.any_for_stream() {
            upstream.post_dispatch();
        }
    };
    if !kp.u.uses_tls() || conn.negotiated(b"h2") {
        let made = make_carrier(kp, conn, group);
        if made.is_none() {
            failed(false);
        }
        return made;
    }
    if upstream.http2.get().mode == Http2Mode::Auto {
        failed(true);
        return Some(());
    }
    failed(false);
    error_text(conn, format_args!("upstream did not choose HTTP/2 by ALPN, which \"http2 on\" requires"));
    None
}

/// Makes the connection a carrier, and the request its first stream.
fn make_carrier(kp: &PeerData, conn: Conn, group: Option<GroupId>) -> Option<()> {
    let (upstream, peer) = (kp.upstream(), kp.u.peer());
    let attempt = kp.attempt.get()?;
    let handler = conn.write().handler();
    let carrier = Rc::new(new_carrier(kp, conn, attempt)?);
    let stream = board(kp, peer, &carrier, kind_of(kp)?)?;
    // From here on the connection is the carrier's.
    kp.meter.set(None);
    carry::start(&carrier, conn);
    stream.has_joined.set(false);
    if let Some(meter) = upstream.http2_meter() {
        meter.carrier_opened();
    }
    let seen = stream.conn();
    seen.set_data(kp.request().as_ptr().cast());
    seen.count_request();
    seen.read().set_handler(handler);
    seen.write().set_handler(handler);
    kp.u.write_to(seen);
    move_timers_soon(stream);
    // A server that did not choose HTTP/2 before does now.
    let group = group.or_else(|| upstream.carriers.with(|all| all.announce(&carrier.key())).flatten());
    let shared = group.filter(|_| carrier.is_shared);
    match (group, shared) {
        (_, Some(group)) => {
            carrier.group.set(Some(group));
            if upstream.carriers.with(|all| all.opened(group, carrier.clone())).flatten().is_none() {
                carrier.group.set(None);
            }
        }
        (Some(group), None) => {
            upstream.carriers.with(|all| all.not_opened(group, false));
        }
        (None, None) => {}
    }
    #[cfg(nginx_resolve)]
    if let Some(watch) = &upstream.watch {
        resolve::stored(upstream, watch, kp.extra().generation());
    }
    if upstream.waits.any_for_stream() {
        upstream.post_dispatch();
    }
    Some(())
}

fn new_carrier(kp: &PeerData, conn: Conn, attempt: Attempt) -> Option<Carrier> {
    let upstream = kp.upstream();
    let config = Config { streams: upstream.http2.get().streams, secure: kp.u.uses_tls() };
    let identity = identity_to_keep(kp, attempt, conn);
    let mut address = Vec::new();
    let peer = kp.u.peer();
    address.try_reserve_exact(peer.address().len()).ok()?;
    address.extend_from_slice(peer.address());
    let state = State::new(config)?;
    conn.set_logs(cycle_log());
    Some(Carrier {
        upstream: upstream.refer(),
        conn: Cell::new(Some(conn)),
        state: Guarded::new(state),
        group: Cell::new(None),
        own: Cell::new(None),
        address: address.into_boxed_slice(),
        location: kp.extra().location(),
        protocol: kp.u.protocol(),
        identity: identity.unwrap_or(Bytes::EMPTY),
        is_shared: identity.is_some(),
        without_sessions: without_sessions(kp),
        server: kp.extra().server(),
        meter: kp.meter.get(),
        counted: Cell::default(),
        idle_since: Cell::new(None),
        input: Cell::new(Vec::new()),
        turn: Alarm::new(),
        watch: Alarm::new(),
    })
}

fn without_sessions(kp: &PeerData) -> bool {
    #[cfg(ngx_feature = "http_ssl")]
    return kp.without_sessions.get();
    #[cfg(not(ngx_feature = "http_ssl"))]
    {
        let _ = kp;
        true
    }
}
