//! TLS sessions for resumption, one for each server and identity.
//!
//! A resumed session brings its identity along: the server takes the client for the one that it
//! authenticated when the session was made. nginx keeps one session for each server, so that with
//! two client certificates a request can be taken for the other client's, connection reuse or not.

use std::ptr::NonNull;

use nginx_sys::{ngx_int_t, ngx_ssl_get_session, ngx_ssl_set_session, SSL_SESSION_free, NGX_OK, SSL_SESSION};

use crate::base::clock::Msec;
use crate::pool::{Connection, IdlePool, Key, Limit, Offer};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::Guarded;
use crate::ffi::nginx::handle::Handle as _;

/// At least so many sessions are kept for an upstream, in each worker.
const CAPACITY: usize = 256;

/// And so many for each address of its configuration.
const PER_ADDRESS: usize = 4;

/// A session does not grow old here: its own lifetime is for OpenSSL and the server to watch.
const FOR_EVER: Msec = Msec::MAX / 4;

/// The sessions of one upstream. They are looked for and evicted as idle connections are.
pub(crate) struct Sessions(Guarded<IdlePool<Session>>);

struct Session {
    session: NonNull<SSL_SESSION>,
    identity: Vec<u8>,
}

impl Connection for Session {
    fn identity(&self) -> &[u8] {
        &self.identity
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: `keep` got a reference of its own from OpenSSL, and this is the end of it.
        unsafe { SSL_SESSION_free(self.session.as_ptr()) };
    }
}

impl Sessions {
    /// For an upstream with so many addresses. A worker reserves the memory when it keeps the first session; if there
    /// is none, it keeps none.
    pub(crate) fn new(addresses: usize) -> Self {
        let capacity = addresses.saturating_mul(PER_ADDRESS).max(CAPACITY);
        Self(Guarded::new(IdlePool::new(Limit::Total(capacity), 0)))
    }

    /// Gives a connection that is about to shake hands the session that fits, if there is one.
    pub(crate) fn offer(&self, key: &Key<'_>, conn: Conn) -> ngx_int_t {
        let Some(session) = self.take(key) else { return NGX_OK as ngx_int_t };
        // SAFETY: an open connection with TLS, and a session to which we hold a reference.
        let rc = unsafe { ngx_ssl_set_session(conn.as_ptr(), session.session.as_ptr()) };
        self.put(key, session, true);
        rc
    }

    /// Keeps the session of a connection, in place of an older one.
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
        self.0.with(|sessions| sessions.checkout(key))?.0
    }

    /// What has to make room is dropped when the pool is not borrowed any more.
    fn put(&self, key: &Key<'_>, session: Session, reused: bool) {
        let offer = Offer { conn: session, group: None, reused, now: 0, timeout: FOR_EVER, server: None };
        drop(self.0.with(|sessions| sessions.put(key, offer)));
    }
}
