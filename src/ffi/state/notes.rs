//! What a request notes about its attempts, for `$upstream_connection_reused` and similar variables.
//!
//! The notes are found by the hooks of `r->upstream`. If these may be replaced, because no response was sent and a
//! redirect may follow, a cleanup record of the request's pool points at the notes: a redirect makes nginx forget
//! everything else.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::ngx_pool_cleanup_t;

use crate::ffi::nginx::handle::{get_field, Handle as _, Live};
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
    /// The request had to wait for it.
    Queued,
    /// From the pool of another worker.
    Taken,
    /// A stream of a connection that carries many requests.
    Shared,
    /// The pool was not asked.
    Bypass,
    /// There was no server for the request.
    None,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Stale => "STALE",
            Self::Queued => "QUEUED",
            Self::Taken => "TAKEN",
            Self::Shared => "SHARED",
            Self::Bypass => "BYPASS",
            Self::None => "-",
        }
    }
}

/// The note about one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    /// Requests on its connection, this one included; 0 if it has none.
    pub(crate) requests: u32,
    /// The number of its stream; 0 if it has none, or no number yet.
    pub(crate) stream: u32,
    /// The index of the attempt in `r->upstream_states`.
    attempt: u16,
    pub(crate) status: Status,
    /// Whether [`keep_notes`] was called for it.
    is_kept: bool,
}

/// The notes about the attempts at one upstream: about the last one here, about others in [`Extra`](super::extra::Extra).
pub(crate) struct Notes {
    last: Cell<Option<Note>>,
}

/// An earlier note; in the request's pool.
pub(crate) struct Before {
    note: Note,
    before: Option<NonNull<Before>>,
}

impl Notes {
    pub(crate) fn new() -> Self {
        Self { last: Cell::new(None) }
    }

    /// The connection of the last attempt turned out to be closed.
    pub(crate) fn was_stale(&self) {
        if let Some(note) = self.last.get() {
            self.last.set(Some(Note { status: Status::Stale, ..note }));
        }
    }

    /// The last attempt has left its stream, which had this number.
    pub(crate) fn had_stream(&self, stream: u32) {
        if let Some(note) = self.last.get() {
            self.last.set(Some(Note { stream, ..note }));
        }
    }
}

/// Notes what the present attempt of a request has got.
#[inline]
pub(super) fn note(kp: &PeerData, status: Status, requests: usize) {
    // The numbers tell the attempts of one request apart, and are shown: wrapping around does no harm.
    let attempt = kp.request().attempts().wrapping_sub(1) as u16;
    let mut note = Note { requests: requests as u32, stream: 0, attempt, status, is_kept: false };
    if let Some(last) = kp.notes.last.get() {
        note.is_kept = last.is_kept;
        if last.attempt != note.attempt {
            remember(kp, last);
        }
    }
    kp.notes.last.set(Some(note));
}

/// Without memory, the note is lost.
#[cold]
fn remember(kp: &PeerData, note: Note) {
    if let Some(before) = kp.request().memory().put(Before { note, before: kp.extra().before() }) {
        kp.set_before(before);
    }
}

/// The note about an attempt, by its index in `r->upstream_states`.
pub(crate) fn note_of(kp: &PeerData, attempt: u16) -> Option<Note> {
    let mut before = kp.extra().before();
    let mut note = kp.notes.last.get();
    while let Some(found) = note {
        if found.attempt == attempt {
            return note;
        }
        // SAFETY: `remember` has put it into the pool of the live request; nothing writes it again.
        let next = before.map(|next| unsafe { next.as_ref() });
        note = next.map(|next| next.note);
        before = next.and_then(|next| next.before);
    }
    None
}

/// Makes sure that the notes are found when `r->upstream` is replaced, or the hooks are not ours.
#[cold]
pub(crate) fn keep_notes(kp: &PeerData) {
    let Some(note) = kp.notes.last.get().filter(|note| !note.is_kept) else { return };
    kp.notes.last.set(Some(Note { is_kept: true, ..note }));
    // Without memory the notes are only found as long as the hooks are.
    let _ = kp.request().memory().on_destroy(forget, NonNull::from(kp).as_ptr().cast());
}

/// nginx calls it when the request ends. Its address tells our cleanup records from other ones, so its body must differ from
/// the body of any other function: equal functions can get the same address.
unsafe extern "C" fn forget(data: *mut c_void) {
    // SAFETY: `keep_notes` has put it there; it lies in the pool that is being destroyed, whose memory is not freed yet.
    unsafe { PeerData::from_ptr(data) }.notes.last.set(None);
}

/// The note about an attempt of a request whose notes were kept, because `r->upstream` may belong to another attempt.
pub(crate) fn kept_note_of(r: Request, attempt: u16) -> Option<Note> {
    let pool = r.memory();
    let mut next: *mut ngx_pool_cleanup_t = get_field!(pool.cleanup);
    // SAFETY: null, or a record in the pool of the live request.
    while let Some(cleanup) = unsafe { Live::from_ptr(next) } {
        let handler = get_field!(cleanup.handler);
        if handler.map(|handler| handler as usize) == Some(forget as *const () as usize) {
            let data = get_field!(cleanup.data);
            // SAFETY: `keep_notes` has made the record, and put a `PeerData` of the same pool there.
            let kp = unsafe { PeerData::from_ptr(data) };
            // Subrequests share the pool of their request.
            if let Some(note) = (kp.r.as_ptr() == r.as_ptr()).then(|| note_of(kp, attempt)).flatten() {
                return Some(note);
            }
        }
        next = get_field!(cleanup.next);
    }
    None
}
