//! The body of a denial, kept for the client.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_int_t, ngx_pfree, ngx_pool_t, ngx_read_file, NGX_ERROR, NGX_OK};

use super::body::buffer_size;
use super::conf::LocConf;
use super::context::{Auth, AuthStage};
use crate::ffi::nginx::bits;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::request::Request;

/// Memory for the beginning of a body of unknown length, in bytes.
const AT_FIRST: usize = 16 << 10;

/// The body of the answer, as far as it is key.
pub(super) struct Capture {
    /// Those of the location that asks.
    pass_status: &'static [u16],
    limit: usize,
    memory: Cell<Option<NonNull<u8>>>,
    size: Cell<usize>,
    length: Cell<usize>,
    state: Cell<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The answer has not come, or is no denial that is passed.
    Nothing,
    /// A denial has come, but not its whole body.
    Begun,
    Complete,
    TooLarge,
}

impl Capture {
    pub(super) fn new(conf: &LocConf) -> Self {
        Self {
            pass_status: conf.pass_status(),
            limit: conf.pass_body,
            memory: Cell::new(None),
            size: Cell::new(0),
            length: Cell::new(0),
            state: Cell::new(State::Nothing),
        }
    }

    pub(super) fn pass_status(&self) -> &'static [u16] {
        self.pass_status
    }

    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    /// The body, if there is one that can be passed.
    pub(super) fn body<'a>(&self) -> Option<&'a [u8]> {
        let memory = self.memory.get().filter(|_| self.state() == State::Complete)?;
        // SAFETY: in the request's pool; `append` has written so much, and nobody writes it any more.
        Some(unsafe { std::slice::from_raw_parts(memory.as_ptr(), self.length.get()) })
    }

    /// Looks at the header of the answer; returns whether its body is key.
    fn begin(&self, sub: Request) -> bool {
        if !self.pass_status.contains(&sub.status()) {
            return false;
        }
        // SAFETY: a live request; reads one field.
        let announced = unsafe { (*sub.as_ptr()).headers_out.content_length_n };
        let size = usize::try_from(announced).unwrap_or(AT_FIRST.min(self.limit));
        if size > self.limit {
            self.state.set(State::TooLarge);
            return false;
        }
        // SAFETY: the pool of a live request.
        let memory = unsafe { allocate::<u8>(sub.pool(), size.max(1)) };
        self.memory.set(memory.map(NonNull::cast));
        self.size.set(size);
        self.state.set(State::Begun);
        memory.is_some()
    }

    /// Makes room for so many bytes, within the limit; `None` if there is no memory.
    fn grow(&self, pool: *mut ngx_pool_t, memory: NonNull<u8>, needed: usize) -> Option<NonNull<u8>> {
        let size = needed.max(self.size.get().saturating_mul(2)).min(self.limit);
        // SAFETY: the pool of a live request.
        let larger = unsafe { allocate::<u8>(pool, size) }?.cast::<u8>();
        // SAFETY: `append` has written so much, and the new memory is larger.
        unsafe { larger.copy_from_nonoverlapping(memory, self.length.get()) };
        // SAFETY: memory of the same pool; should the pool not free it now, it will later.
        unsafe { ngx_pfree(pool, memory.as_ptr().cast()) };
        self.memory.set(Some(larger));
        self.size.set(size);
        Some(larger)
    }

    /// `None` if the buffer cannot be read, or there is no memory; one that is too large is left out.
    fn append(&self, pool: *mut ngx_pool_t, buf: &ngx_buf_t) -> Option<()> {
        let Some(memory) = self.memory.get().filter(|_| self.state() == State::Begun) else {
            return Some(());
        };
        let (length, more) = (self.length.get(), buffer_size(buf));
        let fits = usize::try_from(more).ok().filter(|more| *more <= self.limit - length);
        let Some(more) = fits else {
            self.state.set(State::TooLarge);
            return Some(());
        };
        let memory =
            if length + more > self.size.get() { self.grow(pool, memory, length + more)? } else { memory };
        // SAFETY: there is room for more, as was just checked.
        let to = unsafe { memory.add(length) };
        if more == 0 {
        } else if buf.temporary() != 0 || buf.memory() != 0 || buf.mmap() != 0 {
            // SAFETY: as long as the memory, which is ours alone.
            unsafe { to.as_ptr().copy_from_nonoverlapping(buf.pos, more) };
        } else {
            // SAFETY: nginx's own buffer in a file that it has open; there is room for so much.
            let n = unsafe { ngx_read_file(buf.file, to.as_ptr(), more, buf.file_pos) };
            (usize::try_from(n) == Ok(more)).then_some(())?;
        }
        self.length.set(length + more);
        // nginx says so of the last buffer; if the server stops before, there is none.
        if buf.last_buf() != 0 || buf.last_in_chain() != 0 {
            self.state.set(State::Complete);
        }
        Some(())
    }
}

/// The answer of which the request's response is the body, if it is captured.
#[inline]
pub(super) fn captures<'a>(r: Request) -> Option<&'a Auth> {
    Auth::of_subrequest(r).filter(|auth| auth.capture.limit > 0)
}

/// Decides by the header of an answer whether its body is read.
pub(super) fn begin(sub: Request, auth: &Auth) -> ngx_int_t {
    let status = sub.status();
    auth.hear(sub, Some(status));
    // The response of an error page may be another one than the answer.
    if auth.status.get() != status || !auth.capture.begin(sub) {
        sub.set_header_only();
    }
    // Other filters would change what the server said.
    // SAFETY: a live request; writes one bit.
    unsafe { bits::HEADER_SENT.set(sub.as_ptr()) };
    NGX_OK as ngx_int_t
}

/// Takes a part of the body; nothing of it goes on by itself.
pub(super) fn take(auth: &Auth, chain: *mut ngx_chain_t) -> ngx_int_t {
    let before = auth.capture.state();
    let mut next = chain;
    while let Some(link) = NonNull::new(next) {
        // SAFETY: nginx passes a chain of buffers.
        let link = unsafe { link.as_ref() };
        // SAFETY: a link has its buffer, and nobody else has it now.
        let buf = unsafe { &mut *link.buf };
        if auth.stage.get() == AuthStage::Asking && auth.capture.append(auth.r.pool(), buf).is_none() {
            return NGX_ERROR as ngx_int_t;
        }
        buf.pos = buf.last;
        buf.file_pos = buf.file_last;
        next = link.next;
    }
    if auth.capture.state() == State::TooLarge && before != State::TooLarge {
        // There may be no end to it.
        auth.alarm.post();
    }
    NGX_OK as ngx_int_t
}
