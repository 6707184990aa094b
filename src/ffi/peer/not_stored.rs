//! The reason for which a connection that a request gives back is not stored, for the metrics. Writes a warning if the
//! configuration looks wrong.

use nginx_sys::{ngx_uint_t, NGX_HTTP_BAD_REQUEST, NGX_PEER_FAILED};

use crate::fastcgi;
use crate::http1::request_head::{asks_to_close, AsksToClose};
use crate::metrics::{Cause, End};
use crate::reuse::lifetime::NotKept;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::response::Closes;
use crate::ffi::peer::warnings::{warn, write_first, Warning};
use crate::ffi::state::hints;
use crate::ffi::state::peer_data::PeerData;

/// The reason, if the request has failed; `reused` says that the connection came from the pool.
#[cold]
pub(crate) fn failure_reason(kp: &PeerData, state: ngx_uint_t, reused: bool) -> Option<End> {
    if !reused && !kp.u.is_connected() {
        return Some(End::Connect);
    }
    (state & NGX_PEER_FAILED as ngx_uint_t != 0).then_some(End::Failed)
}

/// The reason, if `refusal` was the first obstacle that was found; `reused` says that the connection came from the pool.
#[cold]
pub(crate) fn not_stored_reason(
    kp: &PeerData,
    conn: Conn,
    refusal: NotKept,
    state: ngx_uint_t,
    reused: bool,
) -> End {
    if let Some(end) = failure_reason(kp, state, reused) {
        return end;
    }
    match refusal {
        NotKept::Failed => End::Failed,
        // The server has closed it with its answer, perhaps because it was asked to.
        NotKept::Broken if conn.read().eof() && kp.u.keepalive() => match asked_to_close(kp) {
            Some(AsksToClose::Version) => warn(kp, Warning::Http10, End::Http10),
            Some(AsksToClose::Header) => warn(kp, Warning::RequestClose, End::RequestClose),
            None => End::ServerClosed,
        },
        NotKept::Broken if conn.read().eof() => match not_keepalive_reason(kp, conn) {
            // The server had not announced a length, or has sent less.
            End::BodyUnread if kp.u.ends_with_connection() => End::ServerClosed,
            End::BodyUnread => End::Failed,
            end => end,
        },
        NotKept::Broken => End::Failed,
        NotKept::Requests => End::Requests,
        NotKept::Time => End::Time,
        NotKept::Hint | NotKept::ClosesSoon => End::Hint,
        NotKept::NotKeepalive => not_keepalive_reason(kp, conn),
        NotKept::RequestUnsent => End::BodyUnsent,
        NotKept::Exiting => End::Exiting,
    }
}

/// The reason, if the protocol module does not allow another request on the connection, or the response is in doubt.
fn not_keepalive_reason(kp: &PeerData, conn: Conn) -> End {
    let (u, r) = (kp.u, kp.request());
    if u.keepalive() {
        return if r.has_cached_response(u) { End::BodyUnread } else { End::UnexpectedData };
    }
    if u.is_upgraded() {
        return End::Upgraded;
    }
    let Some(head) = u.http1_request(kp.first_buffer.get()) else { return other_protocol_reason(kp) };
    // A server may close for a reason of its own, as after an error. The first response tells whether it always does.
    let is_first = conn.requests() <= 1 && u.response_status() < NGX_HTTP_BAD_REQUEST as usize;
    match (asks_to_close(head), u.closes()) {
        (Some(AsksToClose::Version), _) => warn(kp, Warning::Http10, End::Http10),
        (Some(AsksToClose::Header), _) => warn(kp, Warning::RequestClose, End::RequestClose),
        (None, Some(Closes::Version)) => warn(kp, Warning::ServerHttp10, End::Http10),
        (None, Some(Closes::Header)) if is_first => warn(kp, Warning::ServerCloses, End::ConnectionClose),
        (None, Some(Closes::Header)) => End::ConnectionClose,
        // Data followed the response.
        (None, None) if u.is_body_read(r) && u.is_body_complete() => End::UnexpectedData,
        (None, None) => End::BodyUnread,
    }
}

/// What in the request asks the server to close the connection, if it is HTTP/1.
fn asked_to_close(kp: &PeerData) -> Option<AsksToClose> {
    kp.u.http1_request(kp.first_buffer.get()).and_then(asks_to_close)
}

/// A server has closed connections with its first answer, and did not announce it. Sees whether this request asks it to.
#[cold]
pub(crate) fn note_request(kp: &PeerData) {
    let (cause, warning) = match asked_to_close(kp) {
        Some(AsksToClose::Version) => (Cause::RequestHttp10, Some(Warning::Http10)),
        Some(AsksToClose::Header) => (Cause::RequestClose, Some(Warning::RequestClose)),
        None => (Cause::ServerCloses, None),
    };
    kp.upstream().closes_for.set(Some(cause));
    if let Some(warning) = warning {
        write_first(kp, warning);
    }
}

/// Notes for the hint about the upstream that a connection has ended, unless a warning has done so.
#[cold]
pub(crate) fn note_end(kp: &PeerData, conn: Option<Conn>, why: End) {
    let is_first = conn.is_some_and(|conn| conn.requests() <= 1);
    let cause = match why {
        End::Requests => Cause::KeepaliveRequests,
        End::Time => Cause::KeepaliveTime,
        End::BodyUnread => Cause::BodyUnread,
        End::BodyUnsent => Cause::BodyUnsent,
        End::Protocol => Cause::Protocol,
        End::Identity => Cause::Identity,
        End::Hint => Cause::ServerKeepAlive,
        End::ServerClosed | End::Learned => match asked_to_close(kp) {
            Some(AsksToClose::Version) => Cause::RequestHttp10,
            Some(AsksToClose::Header) => Cause::RequestClose,
            None => Cause::ServerCloses,
        },
        _ => return,
    };
    if is_first && kp.upstream().limits.is_some() {
        hints::note(kp.upstream(), cause);
    }
}

fn other_protocol_reason(kp: &PeerData) -> End {
    match kp.u.module() {
        b"fastcgi" if fastcgi::asks_to_close(kp.first_buffer.get().bytes()) => {
            warn(kp, Warning::FastcgiClose, End::RequestClose)
        }
        b"uwsgi" | b"scgi" => End::Protocol,
        _ => End::BodyUnread,
    }
}
