//! The identity of the connection that a request needs, evaluated before the connection is chosen.

use std::ptr::NonNull;

use nginx_sys::{ngx_addr_t, ngx_http_request_t, ngx_pool_t};

use crate::pool::Key;
use crate::reuse::bound::Client;
use crate::reuse::identity::{write_bound, Identity, Tls, CLIENT_LENGTH};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::memory::Pool;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::request::HttpUpstream;
use crate::ffi::state::upstream::Bytes;

/// The identity of the connection that the request needs, in the request's pool; `None` if it is unknown, because there is
/// no memory or a variable failed.
///
/// # Safety
/// `r` is a live request, `u` its upstream request, for which the balancer has chosen a peer.
#[inline(always)]
pub(crate) unsafe fn identity(r: NonNull<ngx_http_request_t>, u: HttpUpstream) -> Option<Bytes> {
    if u.peer().local().is_none() && !u.uses_tls() {
        return Some(Bytes::EMPTY);
    }
    // SAFETY: as the caller promises.
    unsafe { identity_to_write(r, u) }
}

/// The same if it is not empty.
///
/// # Safety
/// As [`identity`].
#[inline(never)]
unsafe fn identity_to_write(r: NonNull<ngx_http_request_t>, u: HttpUpstream) -> Option<Bytes> {
    #[cfg(ngx_feature = "http_ssl")]
    if u.uses_tls() {
        // SAFETY: the request is live, as the caller promises, and uses TLS.
        let tls = unsafe { tls::before_handshake(r, u) }?;
        // SAFETY: the request is live, as the caller promises.
        return unsafe { bytes(r, u, Some(tls)) };
    }
    // SAFETY: the request is live, as the caller promises.
    unsafe { bytes(r, u, None) }
}

/// The identity of a handshake: the name that the core gave it, and the certificate that the variables yield now.
///
/// # Safety
/// As [`identity`]; the handshake was begun, on a new connection of the request.
#[cfg(ngx_feature = "http_ssl")]
pub(crate) unsafe fn identity_of_handshake(r: NonNull<ngx_http_request_t>, u: HttpUpstream) -> Option<Bytes> {
    // SAFETY: the request is live, as the caller promises, and uses TLS.
    let tls = unsafe { tls::evaluate_tls(r, u, tls::Name::Used) }?;
    // SAFETY: the request is live, as the caller promises.
    unsafe { bytes(r, u, Some(tls)) }
}

/// # Safety
/// As [`identity`].
unsafe fn bytes(r: NonNull<ngx_http_request_t>, u: HttpUpstream, tls: Option<Tls<'_>>) -> Option<Bytes> {
    let peer = u.peer();
    let local = peer.local();
    let shape = Identity {
        local: local.map_or(&[], |local| {
            // SAFETY: the core has set the address for this request; it lives as long as the request.
            unsafe { address(local) }
        }),
        transparent: local.is_some() && peer.transparent(),
        tls,
    };
    // SAFETY: a live request has its pool.
    let pool = unsafe { (*r.as_ptr()).pool };
    // SAFETY: the pool of the live request.
    unsafe { bytes_in(pool, shape.length(), |out| shape.write(out)) }
}

/// Copies the identity of a connection into the connection's own pool, where it lives as long as the connection.
pub(crate) fn keep_identity(conn: Conn, identity: &[u8]) -> Option<Bytes> {
    if identity.is_empty() {
        return Some(Bytes::EMPTY);
    }
    // SAFETY: the pool of an open connection.
    unsafe { bytes_in(conn.pool(), identity.len(), |out| out.copy_from_slice(identity)) }
}

/// The identity of a connection that is bound to a client, in a pool.
///
/// # Safety
/// `pool` and the identity are live.
pub(crate) unsafe fn bound_identity(pool: *mut ngx_pool_t, identity: Bytes, client: Client) -> Option<Bytes> {
    // SAFETY: the identity is live, as the caller promises.
    let shape = unsafe { identity.as_slice() };
    // SAFETY: the pool is live, as the caller promises.
    unsafe { bytes_in(pool, shape.len() + CLIENT_LENGTH, |out| write_bound(shape, client, out)) }
}

/// What a pooled connection must match for the request, with the peer that the balancer chose.
#[inline]
pub(crate) fn key<'a>(peer: &'a Peer, u: HttpUpstream, location: usize, identity: &'a [u8]) -> Key<'a> {
    Key { address: peer.address(), protocol: u.protocol(), location, identity }
}

/// # Safety
/// `pool` is live.
unsafe fn bytes_in(pool: *mut ngx_pool_t, length: usize, write: impl FnOnce(&mut [u8])) -> Option<Bytes> {
    // SAFETY: the pool is live, as the caller promises.
    let pool = unsafe { Pool::from_ptr(pool) }?;
    Bytes::new(pool, length, write)
}

/// # Safety
/// `local` is live for as long as the slice is used.
unsafe fn address<'a>(local: NonNull<ngx_addr_t>) -> &'a [u8] {
    // SAFETY: live while the slice is used, as the caller promises.
    let local = unsafe { local.as_ref() };
    // SAFETY: nginx sets `socklen` to the length of `sockaddr`.
    unsafe { std::slice::from_raw_parts(local.sockaddr.cast(), local.socklen as usize) }
}

#[cfg(ngx_feature = "http_ssl")]
pub(crate) mod tls {
    //! The TLS part of an identity.

    use nginx_sys::{
        ngx_http_complex_value, ngx_http_complex_value_t, ngx_http_upstream_conf_t,
        ngx_http_variable_value_t, ngx_int_t, ngx_str_t, NGX_ERROR, NGX_OK,
    };
    use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

    use crate::ffi::nginx::memory::{allocate, or_fail};
    use crate::reuse::identity::without_port;

    use super::*;

    /// Which TLS name is evaluated.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Name {
        /// What the configuration says now.
        Configured,
        /// What the handshake was given.
        Used,
    }

    /// What the handshake of a new connection depends on. `None` as for [`identity`].
    ///
    /// # Safety
    /// `r` is a live request, `u` its upstream request, which uses TLS.
    pub(crate) unsafe fn evaluate_tls<'a>(
        r: NonNull<ngx_http_request_t>,
        u: HttpUpstream,
        which: Name,
    ) -> Option<Tls<'a>> {
        // SAFETY: the configuration of the location, which lives as long as the request; nobody writes it meanwhile.
        let conf = unsafe { u.conf().as_ref() };
        let ssl = NonNull::new(conf.ssl)?;
        let name = match NonNull::new(conf.ssl_name) {
            // SAFETY: the request is live, as the caller promises; the value belongs to the configuration.
            Some(value) if which == Name::Configured => unsafe { evaluate(r, value) }?,
            _ => u.ssl_name(),
        };
        let (mut certificate, mut certificate_key) = (ngx_str_t::empty(), ngx_str_t::empty());
        if let Some((cert, key)) = varying_certificate(conf) {
            // SAFETY: the request is live, as the caller promises; the value belongs to the configuration.
            certificate = unsafe { evaluate(r, cert) }?;
            // SAFETY: the request is live, as the caller promises; the value belongs to the configuration.
            certificate_key = unsafe { evaluate(r, key) }?;
        }
        let (verify, server_name) = (conf.ssl_verify != 0, conf.ssl_server_name != 0);
        Some(Tls {
            // SAFETY: the context of a location with https upstreams.
            context: unsafe { (*ssl.as_ptr()).ctx } as usize,
            verify,
            server_name,
            // SAFETY: in the pool of the live request, or in its configuration.
            name: if verify || server_name { without_port(unsafe { text(name) }) } else { &[] },
            // SAFETY: empty, in the pool of the live request, or in its configuration.
            certificate: unsafe { text(certificate) },
            // SAFETY: empty, in the pool of the live request, or in its configuration.
            certificate_key: unsafe { text(certificate_key) },
        })
    }

    type Value = NonNull<ngx_http_complex_value_t>;

    /// Certificate and key, if they are evaluated for each handshake, under the same condition as in
    /// `ngx_http_upstream_ssl_init_connection()`.
    fn varying_certificate(conf: &ngx_http_upstream_conf_t) -> Option<(Value, Value)> {
        let (cert, key) = (NonNull::new(conf.ssl_certificate)?, NonNull::new(conf.ssl_certificate_key)?);
        // SAFETY: a value of the configuration, which is alive; reads one field.
        let is_given = unsafe { (*cert.as_ptr()).value.len } > 0;
        (is_given && (varies(cert) || varies(key))).then_some((cert, key))
    }

    fn varies(value: Value) -> bool {
        // SAFETY: a value of the configuration, which is alive; reads one field.
        unsafe { !(*value.as_ptr()).lengths.is_null() }
    }

    /// Whether certificate and key come from variables.
    pub(crate) fn certificate_varies(u: HttpUpstream) -> bool {
        // SAFETY: the configuration of the location, which lives as long as the request.
        varying_certificate(unsafe { u.conf().as_ref() }).is_some()
    }

    /// Like [`evaluate_tls`], before the handshake, and without side effects: values that nginx caches in an evaluation must
    /// not stay, as the request may still go to another peer.
    ///
    /// # Safety
    /// As for [`evaluate_tls`].
    pub(crate) unsafe fn before_handshake<'a>(
        r: NonNull<ngx_http_request_t>,
        u: HttpUpstream,
    ) -> Option<Tls<'a>> {
        // SAFETY: the configuration of the location, which lives as long as the request.
        let conf = unsafe { u.conf().as_ref() };
        if !certificate_varies(u) && !NonNull::new(conf.ssl_name).is_some_and(varies) {
            // SAFETY: the request is live and uses TLS, as the caller promises.
            return unsafe { evaluate_tls(r, u, Name::Configured) };
        }
        // SAFETY: the request is live, as the caller promises.
        let cached = unsafe { Cached::set_aside(r) }?;
        // SAFETY: the request is live and uses TLS, as the caller promises.
        let tls = u.with_peer_shown(|| unsafe { evaluate_tls(r, u, Name::Configured) });
        cached.put_back(r);
        tls
    }

    /// What an evaluation can change in a request: cached values of variables, and regex captures.
    struct Cached {
        variables: *mut ngx_http_variable_value_t,
        #[cfg(ngx_feature = "pcre")]
        captures: (*mut libc::c_int, nginx_sys::ngx_uint_t, *mut nginx_sys::u_char),
    }

    impl Cached {
        /// Replaces them by copies.
        ///
        /// # Safety
        /// `r` is a live request.
        unsafe fn set_aside(r: NonNull<ngx_http_request_t>) -> Option<Self> {
            // SAFETY: the request is live, as the caller promises; the reference ends before nginx is called.
            let request = unsafe { r.as_ref() };
            let core = NgxHttpCoreModule::main_conf(request)?;
            let cached = Self {
                variables: request.variables,
                #[cfg(ngx_feature = "pcre")]
                captures: (request.captures, request.ncaptures, request.captures_data),
            };
            let pool = request.pool;
            // SAFETY: the pool of the live request, which has a value for each indexed variable.
            let variables = unsafe { copy(pool, cached.variables, core.variables.nelts) }?;
            #[cfg(ngx_feature = "pcre")]
            if !cached.captures.0.is_null() {
                // SAFETY: the pool of the live request; nginx allots captures for the largest regex of the configuration.
                let captures = unsafe { copy(pool, cached.captures.0, core.ncaptures) }?;
                // SAFETY: the request is live, as the caller promises; writes one field.
                unsafe { (*r.as_ptr()).captures = captures };
            }
            // SAFETY: the request is live, as the caller promises; writes one field.
            unsafe { (*r.as_ptr()).variables = variables };
            Some(cached)
        }

        fn put_back(self, r: NonNull<ngx_http_request_t>) {
            // SAFETY: the live request of `set_aside`; writes one field.
            unsafe { (*r.as_ptr()).variables = self.variables };
            #[cfg(ngx_feature = "pcre")]
            {
                let (captures, number, data) = self.captures;
                // SAFETY: the live request of `set_aside`; writes one field.
                unsafe { (*r.as_ptr()).captures = captures };
                // SAFETY: the live request of `set_aside`; writes one field.
                unsafe { (*r.as_ptr()).ncaptures = number };
                // SAFETY: the live request of `set_aside`; writes one field.
                unsafe { (*r.as_ptr()).captures_data = data };
            }
        }
    }

    /// # Safety
    /// `pool` is live, and `from` has `number` elements.
    unsafe fn copy<T>(pool: *mut ngx_pool_t, from: *const T, number: usize) -> Option<*mut T> {
        // SAFETY: the pool is live, as the caller promises.
        let to = unsafe { allocate::<T>(pool, number) }?.cast::<T>().as_ptr();
        // SAFETY: `from` has as many elements, as the caller promises, and new memory does not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from, to, number) };
        Some(to)
    }

    /// Makes the core call `set_session` in the coming handshake, even if sessions are not reused: only there can be learned
    /// which certificate the handshake is given. For this the request gets a copy of its configuration. `None` if it needs
    /// none, or there is no memory.
    ///
    /// # Safety
    /// As for [`evaluate_tls`].
    pub(crate) unsafe fn ask_for_handshake(r: NonNull<ngx_http_request_t>, u: HttpUpstream) -> Option<()> {
        if !certificate_varies(u) {
            return None;
        }
        // SAFETY: as the caller promises.
        unsafe { ask_for_any_handshake(r, u) }
    }

    /// The same whether or not the certificate varies: there, too, is told which protocols may be chosen.
    ///
    /// # Safety
    /// As for [`evaluate_tls`].
    pub(crate) unsafe fn ask_for_any_handshake(
        r: NonNull<ngx_http_request_t>,
        u: HttpUpstream,
    ) -> Option<()> {
        // SAFETY: the configuration of the location, which lives as long as the request; reads one field.
        if unsafe { u.conf().as_ref() }.ssl_session_reuse != 0 {
            return None;
        }
        // SAFETY: a live request has its pool.
        let pool = unsafe { (*r.as_ptr()).pool };
        // SAFETY: the pool of the live request, and one configuration.
        let conf = unsafe { copy(pool, u.conf().as_ptr(), 1) }?;
        // SAFETY: a copy that nobody else has yet; writes one field.
        unsafe { (*conf).ssl_session_reuse = 1 };
        // SAFETY: a copy in the pool of the request, which differs only in that sessions are asked for.
        unsafe { u.set_conf(NonNull::new(conf)?) };
        Some(())
    }

    /// # Safety
    /// `r` and `value` are live.
    unsafe fn evaluate(
        r: NonNull<ngx_http_request_t>,
        value: NonNull<ngx_http_complex_value_t>,
    ) -> Option<ngx_str_t> {
        let mut text = ngx_str_t::empty();
        // SAFETY: request and value are live, as the caller promises.
        let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
            ngx_http_complex_value(r.as_ptr(), value.as_ptr(), &mut text)
        });
        (rc == NGX_OK as ngx_int_t).then_some(text)
    }

    /// # Safety
    /// The text lives for as long as the slice is used.
    unsafe fn text<'a>(text: ngx_str_t) -> &'a [u8] {
        if text.data.is_null() {
            return &[];
        }
        // SAFETY: the text is live while the slice is used, as the caller promises.
        unsafe { std::slice::from_raw_parts(text.data, text.len) }
    }
}
