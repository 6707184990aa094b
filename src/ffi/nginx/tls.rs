//! TLS: which protocols may be chosen, and which one was (ALPN, RFC 7301).

use std::ptr::NonNull;

use nginx_sys::{
    ngx_connection_handler_pt, ngx_ssl_connection_t, SSL_get0_alpn_selected, SSL_set_alpn_protos,
};

use super::conn::Conn;
use super::handle::{get_field, set_field, Live};

/// The TLS state of a connection, if it uses TLS.
pub(super) fn of(conn: Conn) -> Option<Live<ngx_ssl_connection_t>> {
    // SAFETY: null, or the TLS state, which lives as long as the connection.
    unsafe { Live::from_ptr(conn.ssl()) }
}

/// Whether the server has chosen this protocol.
pub(super) fn negotiated(tls: Live<ngx_ssl_connection_t>, protocol: &[u8]) -> bool {
    let (mut chosen, mut length) = (std::ptr::null(), 0);
    let connection = get_field!(tls.connection);
    // SAFETY: the TLS state of an open connection has its OpenSSL object; both variables are written.
    unsafe { SSL_get0_alpn_selected(connection, &mut chosen, &mut length) };
    let Some(chosen) = NonNull::new(chosen.cast_mut()) else { return false };
    // SAFETY: OpenSSL's own memory, which lives as long as the connection.
    unsafe { std::slice::from_raw_parts(chosen.as_ptr(), length as usize) == protocol }
}

/// Says which protocols the server may choose, before the handshake: each with its length in front. `false` on failure.
pub(crate) fn offer_protocols(conn: Conn, protocols: &[u8]) -> bool {
    let Some(tls) = of(conn) else { return true };
    let (connection, length) = (get_field!(tls.connection), protocols.len() as _);
    // SAFETY: the TLS state of an open connection has its OpenSSL object, which copies the bytes.
    unsafe { SSL_set_alpn_protos(connection, protocols.as_ptr(), length) == 0 }
}

/// Sets the function that nginx calls when there is a new session.
pub(crate) fn on_session(conn: Conn, handler: ngx_connection_handler_pt) {
    if let Some(tls) = of(conn) {
        set_field!(tls.save_session = handler);
    }
}
