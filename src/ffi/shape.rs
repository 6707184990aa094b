//! What a request's connection is shaped by, gathered before the connection is chosen.

use std::ptr::NonNull;

use nginx_sys::{ngx_addr_t, ngx_http_request_t, ngx_pool_t};

use crate::identity::{Shape, Tls};
use crate::pool::Wanted;

use super::conf::allocate;
use super::conn::Conn;
use super::request::{HttpUpstream, Peer};
use super::upstream::Bytes;

/// The identity of the connection that the request needs, in the request's pool; `None` if it
/// cannot be told, because memory ran out or a variable failed.
///
/// # Safety
/// `r` is a live request, `u` its upstream request, for which the balancer has chosen a peer.
#[inline]
pub(super) unsafe fn identity(r: NonNull<ngx_http_request_t>, u: HttpUpstream) -> Option<Bytes> {
    if u.peer().local().is_none() && !u.uses_tls() {
        return Some(Bytes::EMPTY);
    }
    #[cfg(ngx_feature = "http_ssl")]
    if u.uses_tls() {
        // SAFETY: live, says the caller.
        let tls = u.with_peer_shown(|| unsafe { tls::of(r, u, tls::Name::Configured) })?;
        // SAFETY: as above.
        return unsafe { bytes(r, u, Some(tls)) };
    }
    // SAFETY: live, says the caller.
    unsafe { bytes(r, u, None) }
}

/// The identity that a connection with TLS really has got: its name is the one that the handshake
/// was given, whatever the variables say now.
///
/// # Safety
/// As [`identity`]; the handshake was begun, on a new connection of the request.
#[cfg(ngx_feature = "http_ssl")]
pub(super) unsafe fn identity_of_handshake(r: NonNull<ngx_http_request_t>, u: HttpUpstream) -> Option<Bytes> {
    // SAFETY: live, says the caller.
    let tls = unsafe { tls::of(r, u, tls::Name::Used) }?;
    // SAFETY: as above.
    unsafe { bytes(r, u, Some(tls)) }
}

/// # Safety
/// As [`identity`].
unsafe fn bytes(r: NonNull<ngx_http_request_t>, u: HttpUpstream, tls: Option<Tls<'_>>) -> Option<Bytes> {
    let peer = u.peer();
    let local = peer.local();
    let shape = Shape {
        // SAFETY: the address that the core set for this request.
        local: local.map_or(&[], |local| unsafe { address(local) }),
        transparent: local.is_some() && peer.transparent(),
        tls,
    };
    // SAFETY: a live request has its pool.
    let pool = unsafe { (*r.as_ptr()).pool };
    // SAFETY: see above.
    unsafe { bytes_in(pool, shape.length(), |out| shape.write(out)) }
}

/// Copies the identity of a connection into the connection's own pool, where it lives as long as
/// the connection does.
pub(super) fn keep_identity(conn: Conn, identity: &[u8]) -> Option<Bytes> {
    if identity.is_empty() {
        return Some(Bytes::EMPTY);
    }
    // SAFETY: the pool of an open connection.
    unsafe { bytes_in(conn.pool(), identity.len(), |out| out.copy_from_slice(identity)) }
}

/// All that the request needs of a connection to the peer that the balancer chose.
#[inline]
pub(super) fn wanted<'a>(peer: &'a Peer, u: HttpUpstream, local: bool, identity: &'a [u8]) -> Wanted<'a> {
    Wanted {
        address: peer.address(),
        protocol: u.protocol(),
        location: if local { u.location() } else { 0 },
        identity,
    }
}

/// # Safety
/// `pool` is live.
unsafe fn bytes_in(pool: *mut ngx_pool_t, length: usize, write: impl FnOnce(&mut [u8])) -> Option<Bytes> {
    // SAFETY: live, says the caller.
    let memory = unsafe { allocate::<u8>(pool, length) }?.cast::<u8>();
    // SAFETY: `length` bytes, allocated just now.
    unsafe { memory.write_bytes(0, length) };
    // SAFETY: as above, and initialised.
    write(unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), length) });
    // SAFETY: as above.
    Some(unsafe { Bytes::new(memory, length) })
}

/// # Safety
/// `local` is live for as long as the slice is used.
unsafe fn address<'a>(local: NonNull<ngx_addr_t>) -> &'a [u8] {
    // SAFETY: live, says the caller.
    let local = unsafe { local.as_ref() };
    // SAFETY: nginx fills `socklen` with `sockaddr`.
    unsafe { std::slice::from_raw_parts(local.sockaddr.cast(), local.socklen as usize) }
}

#[cfg(ngx_feature = "http_ssl")]
pub(super) mod tls {
    //! The part of the shape that is TLS.

    use nginx_sys::{ngx_http_complex_value, ngx_http_complex_value_t, ngx_int_t, ngx_str_t, NGX_OK};

    use crate::identity::without_port;

    use super::*;

    /// Which TLS name is meant.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) enum Name {
        /// What the configuration says now.
        Configured,
        /// What the handshake was given.
        Used,
    }

    /// What the handshake of a new connection depends on. `None` as for [`identity`].
    ///
    /// # Safety
    /// `r` is a live request, `u` its upstream request, which uses TLS.
    pub(super) unsafe fn of<'a>(
        r: NonNull<ngx_http_request_t>,
        u: HttpUpstream,
        which: Name,
    ) -> Option<Tls<'a>> {
        // SAFETY: the location's configuration lives as long as its cycle.
        let conf = unsafe { u.conf().as_ref() };
        let ssl = NonNull::new(conf.ssl)?;
        let name = match NonNull::new(conf.ssl_name) {
            // SAFETY: live, says the caller; the value belongs to the configuration.
            Some(value) if which == Name::Configured => unsafe { evaluate(r, value) }?,
            _ => u.ssl_name(),
        };
        let (mut certificate, mut certificate_key) = (ngx_str_t::empty(), ngx_str_t::empty());
        if let (Some(cert), Some(key)) =
            (NonNull::new(conf.ssl_certificate), NonNull::new(conf.ssl_certificate_key))
        {
            // SAFETY: it belongs to the configuration.
            let cert_varies = unsafe { varies(cert) };
            // SAFETY: as above.
            let key_varies = unsafe { varies(key) };
            if cert_varies || key_varies {
                // SAFETY: as above.
                certificate = unsafe { evaluate(r, cert) }?;
                // SAFETY: as above.
                certificate_key = unsafe { evaluate(r, key) }?;
            }
        }
        let (verify, server_name) = (conf.ssl_verify != 0, conf.ssl_server_name != 0);
        Some(Tls {
            // SAFETY: the context of a location with https upstreams.
            context: unsafe { (*ssl.as_ptr()).ctx } as usize,
            verify,
            server_name,
            // SAFETY: in the request's pool or in the configuration.
            name: if verify || server_name { without_port(unsafe { text(name) }) } else { &[] },
            // SAFETY: as above.
            certificate: unsafe { text(certificate) },
            // SAFETY: as above.
            certificate_key: unsafe { text(certificate_key) },
        })
    }

    /// # Safety
    /// `value` is live.
    unsafe fn varies(value: NonNull<ngx_http_complex_value_t>) -> bool {
        // SAFETY: live, says the caller.
        unsafe { !(*value.as_ptr()).lengths.is_null() }
    }

    /// # Safety
    /// `r` and `value` are live.
    unsafe fn evaluate(
        r: NonNull<ngx_http_request_t>,
        value: NonNull<ngx_http_complex_value_t>,
    ) -> Option<ngx_str_t> {
        let mut text = ngx_str_t::empty();
        // SAFETY: live, says the caller.
        let rc = unsafe { ngx_http_complex_value(r.as_ptr(), value.as_ptr(), &mut text) };
        (rc == NGX_OK as ngx_int_t).then_some(text)
    }

    /// # Safety
    /// The text lives for as long as the slice is used.
    unsafe fn text<'a>(text: ngx_str_t) -> &'a [u8] {
        if text.data.is_null() {
            return &[];
        }
        // SAFETY: live, says the caller.
        unsafe { std::slice::from_raw_parts(text.data, text.len) }
    }
}
