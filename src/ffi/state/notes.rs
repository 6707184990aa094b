//! What a request notes about its attempts, for `$upstream_connection_reused` and its like.
//!
//! The notes are found by the hooks of `r->upstream`. If they might be replaced, because no response was sent and a
//! redirect may follow, what was noted is put among what the request's pool cleans up: a redirect makes nginx forget
//! everything else.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::{add_cleanup, allocate};
use crate::ffi::nginx::request::Request;
use crate::ffi::state::peer_data::PeerData;

/// How an attempt got its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// From the pool.
    Hit,
    /// The pool had none.
    Miss,
    /// From the pool, and it turned out to be closed.
    Stale,
    /// It had to wait for it.
    Queued,
    /// The pool was not asked.
    Bypass,
    /// There was no server for it.
    None,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Stale => "STALE",
            Self::Queued => "QUEUED",
            Self::Bypass => "BYPASS",
            Self::None => "-",
        }
    }
}

/// About one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    /// Requests on its connection, this one included; 0 if it has none.
    pub(crate) requests: u32,
    /// Its place in `r->upstream_states`.
    attempt: u16,
    pub(crate) status: Status,
    /// See [`keep_notes`].
    is_kept: bool,
}

/// About the attempts at one upstream.
pub(crate) struct Notes {
    last: Cell<Option<Note>>,
    before: Cell<Option<NonNull<Before>>>,
}

struct Before {
    note: Note,
    before: Option<NonNull<Before>>,
}

impl Notes {
    pub(crate) fn new() -> Self {
        Self { last: Cell::new(None), before: Cell::new(None) }
    }

    /// Notes what the present attempt of a request has got.
    #[inline]
    pub(crate) fn note(&self, r: Request, status: Status, requests: usize) {
        // They serve to tell apart the attempts of one request, and to be read: to wrap around does no harm.
        let attempt = r.attempts().wrapping_sub(1) as u16;
        let mut note = Note { requests: requests as u32, attempt, status, is_kept: false };
        if let Some(last) = self.last.get() {
            note.is_kept = last.is_kept;
            if last.attempt != note.attempt {
                self.remember(r, last);
            }
        }
        self.last.set(Some(note));
    }

    /// The connection of the last attempt was closed when it got it.
    pub(crate) fn was_stale(&self) {
        if let Some(note) = self.last.get() {
            self.last.set(Some(Note { status: Status::Stale, ..note }));
        }
    }

    #[cold]
    fn remember(&self, r: Request, note: Note) {
        // SAFETY: the pool of the live request.
        if let Some(memory) = unsafe { allocate::<Before>(r.pool(), 1) } {
            let memory = memory.cast::<Before>();
            // SAFETY: allocated above.
            unsafe { memory.write(Before { note, before: self.before.get() }) };
            self.before.set(Some(memory));
        }
    }

    /// What was noted about an attempt, by its place in `r->upstream_states`.
    pub(crate) fn of(&self, attempt: u16) -> Option<Note> {
        let mut before = self.before.get();
        let mut note = self.last.get();
        while let Some(found) = note {
            if found.attempt == attempt {
                return note;
            }
            // SAFETY: in the pool of the live request.
            let next = before.map(|next| unsafe { next.as_ref() });
            note = next.map(|next| next.note);
            before = next.and_then(|next| next.before);
        }
        None
    }
}

/// Sees to it that the notes are found when `r->upstream` is that of another attempt, or the hooks are not ours.
#[cold]
pub(crate) fn keep_notes(kp: &PeerData) {
    let Some(note) = kp.notes.last.get().filter(|note| !note.is_kept) else { return };
    kp.notes.last.set(Some(Note { is_kept: true, ..note }));
    // SAFETY: the pool of a live request; no memory of nginx's choosing is asked for.
    let Some(cleanup) = (unsafe { add_cleanup(kp.pool(), 0) }) else { return };
    // SAFETY: a new cleanup record of the pool.
    unsafe { (*cleanup.as_ptr()).data = NonNull::from(kp).as_ptr().cast() };
    // SAFETY: as above.
    unsafe { (*cleanup.as_ptr()).handler = Some(forget) };
}

/// Called by nginx when the request ends. It tells our records from those of others, and so has to have a body that no
/// other function has: those that do the same can come to have the same address.
unsafe extern "C" fn forget(data: *mut c_void) {
    // SAFETY: `keep_notes` has put it there; it lies in the pool that is being destroyed.
    unsafe { PeerData::from_ptr(data) }.notes.last.set(None);
}

/// What was noted about an attempt of a request whose notes were kept, as `r->upstream` may be that of another one.
pub(crate) fn kept_note_of(r: Request, attempt: u16) -> Option<Note> {
    // SAFETY: the pool of a live request.
    let mut next = unsafe { (*r.pool()).cleanup };
    while let Some(cleanup) = NonNull::new(next) {
        // SAFETY: a record of the pool; reads one field.
        let handler = unsafe { (*cleanup.as_ptr()).handler };
        if handler.map(|handler| handler as usize) == Some(forget as *const () as usize) {
            // SAFETY: a record that `keep_notes` has made; reads one field.
            let data = unsafe { (*cleanup.as_ptr()).data };
            // SAFETY: `keep_notes` has put it there.
            let kp = unsafe { PeerData::from_ptr(data) };
            // Parts of a request share its pool.
            if let Some(note) = (kp.r.as_ptr() == r.as_ptr()).then(|| kp.notes.of(attempt)).flatten() {
                return Some(note);
            }
        }
        // SAFETY: a record of the pool; reads one field.
        next = unsafe { (*cleanup.as_ptr()).next };
    }
    None
}
