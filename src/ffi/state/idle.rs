//! A connection in the pool, and its identity.

use std::num::NonZeroU16;
use std::ptr::NonNull;

use crate::ledger::Server;
use crate::lessons::Lesson;
use crate::metrics::Meter;
use crate::pool::{Connection, IdlePool};
use crate::reuse::bound::Binding;
use crate::reuse::identity::client_of;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::memory::Pool;

use super::lessons::lesson_of;

/// A connection in the pool. Packed, as this is most of what an idle connection needs.
#[derive(Clone, Copy)]
#[repr(Rust, packed(4))]
pub(crate) struct Idle {
    pub(crate) conn: Conn,
    pub(crate) identity: Bytes,
    /// The server for which it counts.
    pub(crate) server: CountsFor,
    /// Counts it.
    pub(crate) meter: Option<Meter>,
    /// The number of the last request that the server accepts on it, if the server said so.
    pub(crate) allowed: u32,
    /// The time of a round trip, if it was measured.
    pub(crate) round_trip: Option<RoundTrip>,
    /// It is closed earlier than `keepalive_timeout` says, because the server would close it.
    pub(crate) hinted: bool,
    /// It came from another worker, and was not used in this one yet.
    pub(crate) is_taken: bool,
}

/// The server for which a connection counts, if there is one, in four bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CountsFor(Server);

impl CountsFor {
    /// No server has this number.
    const NONE: Server = Server::MAX;

    #[inline(always)]
    pub(crate) fn get(self) -> Option<Server> {
        (self.0 != Self::NONE).then_some(self.0)
    }
}

impl From<Option<Server>> for CountsFor {
    #[inline(always)]
    fn from(server: Option<Server>) -> Self {
        Self(server.unwrap_or(Self::NONE))
    }
}

/// A time in milliseconds, rounded up.
pub(crate) type RoundTrip = NonZeroU16;

impl Idle {
    /// Whether this is the connection.
    #[inline(always)]
    pub(crate) fn is(&self, conn: Conn) -> bool {
        let own = self.conn;
        own == conn
    }

    /// What is known of its server.
    pub(crate) fn lesson(&self) -> Lesson {
        lesson_of(self.meter).unwrap_or_default()
    }

    /// Whether this is the connection to a server, and nothing about it has to be changed when a request has used it. `hinted` says
    /// whether it expires as the server has announced.
    #[inline(always)]
    pub(super) fn stays(&self, conn: Conn, server: Option<Server>, hinted: bool) -> bool {
        self.is(conn) && self.server == server.into() && self.hinted == hinted && !self.is_taken
    }

    /// The client to which it belongs, if it belongs to one.
    pub(crate) fn binding(&self) -> Option<Binding> {
        client_of(self.identity()).map(|client| Binding::new(client, self.conn.number()))
    }
}

impl Connection for Idle {
    fn identity(&self) -> &[u8] {
        // SAFETY: the bytes of a stored connection lie in its own memory pool, and it is open.
        unsafe { self.identity.as_slice() }
    }

    #[inline(always)]
    fn server(&self) -> Option<u32> {
        self.server.get()
    }
}

/// Bytes in a memory pool of nginx. Points at their number, which lies in front of them; at nothing if they are none.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(Option<NonNull<u32>>);

// Each idle connection needs so much.
const _: () = assert!(IdlePool::<Idle>::SLOT == 80);

impl Bytes {
    pub(crate) const EMPTY: Self = Self(None);

    /// Allocates bytes that `write` writes; they are zero before. `None` if there is no memory.
    pub(crate) fn new(pool: Pool, length: usize, write: impl FnOnce(&mut [u8])) -> Option<Self> {
        let number = u32::try_from(length).ok()?;
        let words = 1 + length.div_ceil(size_of::<u32>());
        let memory = pool.allocate::<u32>(words)?.cast::<u32>();
        // SAFETY: `words` words, allocated just now.
        unsafe { memory.write_bytes(0, words) };
        // SAFETY: allocated just now, and initialised; nobody else has them yet.
        let words = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), words) };
        let (first, others) = words.split_first_mut()?;
        *first = number;
        // SAFETY: the words behind the first one have `length` bytes at least, are initialised, and only borrowed here.
        write(unsafe { std::slice::from_raw_parts_mut(others.as_mut_ptr().cast(), length) });
        Some(Self(Some(memory)))
    }

    #[inline(always)]
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_none()
    }

    /// # Safety
    /// The pool in which the bytes lie is live for as long as the slice is used.
    #[inline(always)]
    pub(crate) unsafe fn as_slice<'a>(self) -> &'a [u8] {
        let Some(number) = self.0 else { return &[] };
        // SAFETY: `new` has written it, and the caller says that the pool is live.
        let length = unsafe { number.read() };
        // SAFETY: what `new` has allocated goes on behind it.
        let data = unsafe { number.add(1) };
        // SAFETY: `new` has initialised so many bytes, which nothing writes again; the caller says that their pool is live.
        unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), length as usize) }
    }
}
