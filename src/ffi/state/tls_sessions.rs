//! TLS sessions for resumption, one for each server and identity.
//!
//! A resumed session keeps its identity: the server takes the client for the one that it authenticated when the session was
//! made. nginx keeps one session for each server. So with two client certificates, a request could be taken for one of the
//! other client, with or without connection reuse.

use std::ptr::NonNull;

use nginx_sys::{ngx_int_t, ngx_ssl_get_session, ngx_ssl_set_session, SSL_SESSION_free, NGX_OK, SSL_SESSION};

use crate::base::clock::Msec;
use crate::base::memory;
use crate::pool::{Connection, Expiry, IdlePool, Key, Limit, Offer};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::Guarded;
use crate::ffi::nginx::handle::Handle as _;

/// The minimum capacity for an upstream, in each worker.
const CAPACITY: usize = 256;

/// The capacity for each configured address.
const PER_ADDRESS: usize = 4;

/// Sessions do not expire here: OpenSSL and the server check their lifetime.
const FOR_EVER: Msec = Msec::MAX / 4;

/// The sessions of one upstream. They are found and evicted like idle connections.
pub(crate) struct Sessions {
    capacity: usize,
    /// The pool, once there is a session: most upstreams have none.
    pool: Guarded<Vec<IdlePool<Session>>>,
}

struct Session {
    session: NonNull<SSL_SESSION>,
    identity: Vec<u8>,
}

impl Connection for Session {
    fn identity(&self) -> &[u8] {
        &self.identity
    }

    fn server(&self) -> Option<u32> {
        None
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: `keep` has got its own reference from OpenSSL, which ends here.
        unsafe { SSL_SESSION_free(self.session.as_ptr()) };
    }
}

impl Sessions {
    /// For an upstream with `addresses` configured addresses. Memory is taken when sessions are kept;
    /// without memory none is.
    pub(crate) fn new(addresses: usize) -> Self {
        let capacity = addresses.saturating_mul(PER_ADDRESS).max(CAPACITY);
        Self { capacity, pool: Guarded::default() }
    }

    /// Gives a connection the session that fits, if there is one, before its handshake.
    pub(crate) fn offer(&self, key: &Key<'_>, conn: Conn) -> ngx_int_t {
        let Some(session) = self.take(key) else { return NGX_OK as ngx_int_t };
        // SAFETY: an open connection with TLS, and a session to which `session` holds a reference.
        let rc = unsafe { ngx_ssl_set_session(conn.as_ptr(), session.session.as_ptr()) };
        self.put(key, session, true);
        rc
    }

    /// Keeps the session of a connection, instead of an older one.
    pub(crate) fn keep(&self, key: &Key<'_>, conn: Conn) {
        // SAFETY: an open connection with TLS.
        let Some(session) = NonNull::new(unsafe { ngx_ssl_get_session(conn.as_ptr()) }) else { return };
        let mut session = Session { session, identity: Vec::new() };
        if session.identity.try_reserve_exact(key.identity.len()).is_err() {
            return;
        }
        session.identity.extend_from_slice(key.identity);
        let known = self.take(key).is_some();
        self.put(key, session, known);
    }

    fn take(&self, key: &Key<'_>) -> Option<Session> {
        self.pool.with(|pool| pool.first_mut().and_then(|sessions| sessions.checkout(key, &mut 0).0))?
    }

    /// Stores a session. One that has to make room is dropped once the pool is no longer borrowed.
    fn put(&self, key: &Key<'_>, session: Session, reused: bool) {
        let offer = Offer { conn: session, group: None, reused, now: 0, expiry: Expiry::Other(FOR_EVER) };
        drop(self.pool.with(|pool| {
            if pool.is_empty() {
                memory::push(pool, IdlePool::new(Limit::Total(self.capacity), 0, FOR_EVER))?;
            }
            pool.first_mut().map(|sessions| sessions.put(key, offer))
        }));
    }
}
