//! The body of a denial, kept for the client.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_int_t, ngx_pfree, ngx_read_file, NGX_ERROR, NGX_OK};

use super::abort::alarm;
use super::body::{buffer_size, buffers, consume, is_in_memory};
use super::conf::LocConf;
use super::context::{AuthContext, AuthStage};
use super::memory::allocate_for;
use crate::ffi::nginx::bits;
use crate::ffi::nginx::handle::{get_field, Handle as _};
use crate::ffi::nginx::request::Request;

/// The initial size of the memory for a body of unknown length, in bytes.
const INITIAL_SIZE: usize = 16 << 10;

/// The body of a denial, if it is needed.
pub(super) struct Capture {
    /// The configuration of the location that has created the context.
    pub(super) conf: &'static LocConf,
    memory: Cell<Option<NonNull<u8>>>,
    /// How many bytes `memory` has.
    size: Cell<usize>,
    /// How many bytes of the body are in `memory`.
    length: Cell<usize>,
    state: Cell<CaptureState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaptureState {
    /// The answer has not arrived, or is no denial that is passed.
    Empty,
    /// A denial has arrived, but not its complete body.
    Incomplete,
    Complete,
    TooLarge,
}

impl Capture {
    #[inline]
    pub(super) fn new(conf: &'static LocConf) -> Self {
        Self {
            conf,
            memory: Cell::new(None),
            size: Cell::new(0),
            length: Cell::new(0),
            state: Cell::new(CaptureState::Empty),
        }
    }

    /// Whether the body of a denial is passed.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.limit() > 0
    }

    /// The largest body that is passed, in bytes.
    #[inline]
    fn limit(&self) -> usize {
        self.conf.pass_body
    }

    pub(super) fn state(&self) -> CaptureState {
        self.state.get()
    }

    /// The body, if there is one that can be passed.
    pub(super) fn body<'a>(&self) -> Option<&'a [u8]> {
        let memory = self.memory.get().filter(|_| self.state() == CaptureState::Complete)?;
        // SAFETY: in the pool of the main request; `append` has written `length` bytes, and a complete body does not change.
        Some(unsafe { std::slice::from_raw_parts(memory.as_ptr(), self.length.get()) })
    }

    /// Reads the header of the response; returns whether its body is captured.
    fn start(&self, sub: Request) -> bool {
        if !self.conf.pass_status().contains(&sub.status()) {
            return false;
        }
        let announced = get_field!(sub.headers_out.content_length_n);
        let size = usize::try_from(announced).unwrap_or(INITIAL_SIZE.min(self.limit()));
        if size > self.limit() {
            self.state.set(CaptureState::TooLarge);
            return false;
        }
        let memory = allocate_for::<u8>(sub, size.max(1));
        self.memory.set(memory);
        self.size.set(size);
        self.state.set(CaptureState::Incomplete);
        memory.is_some()
    }

    /// Replaces the memory by a larger one with at least `needed` bytes, which is at most the limit; `None` if there is no memory.
    fn grow(&self, r: Request, memory: NonNull<u8>, needed: usize) -> Option<NonNull<u8>> {
        let size = needed.max(self.size.get().saturating_mul(2)).min(self.limit());
        let larger = allocate_for::<u8>(r, size)?;
        // SAFETY: `append` has written `length` bytes, which is less than `size`; the two do not overlap.
        unsafe { larger.copy_from_nonoverlapping(memory, self.length.get()) };
        // SAFETY: memory of the same live pool, which nobody uses any more; small blocks are freed with the pool.
        unsafe { ngx_pfree(r.pool(), memory.as_ptr().cast()) };
        self.memory.set(Some(larger));
        self.size.set(size);
        Some(larger)
    }

    /// Adds the content of a buffer, unless the body becomes too large. `None` if the buffer cannot be read, or there is no
    /// memory.
    fn append(&self, r: Request, buf: &ngx_buf_t) -> Option<()> {
        let Some(memory) = self.memory.get().filter(|_| self.state() == CaptureState::Incomplete) else {
            return Some(());
        };
        let (length, more) = (self.length.get(), buffer_size(buf));
        let fits = usize::try_from(more).ok().filter(|more| *more <= self.limit() - length);
        let Some(more) = fits else {
            self.state.set(CaptureState::TooLarge);
            return Some(());
        };
        let memory =
            if length + more > self.size.get() { self.grow(r, memory, length + more)? } else { memory };
        // SAFETY: `length` is at most the size of the memory, which was just checked or enlarged.
        let to = unsafe { memory.add(length) };
        if more == 0 {
        } else if is_in_memory(buf) {
            // SAFETY: the buffer has `more` bytes at `pos`, and there is room for them in our memory.
            unsafe { to.as_ptr().copy_from_nonoverlapping(buf.pos, more) };
        } else {
            // SAFETY: the buffer is in a file that nginx has open; there is room for `more` bytes in our memory.
            let n = unsafe { ngx_read_file(buf.file, to.as_ptr(), more, buf.file_pos) };
            (usize::try_from(n) == Ok(more)).then_some(())?;
        }
        self.length.set(length + more);
        // nginx marks the last buffer; if the server closes the connection early, there is none.
        if buf.last_buf() != 0 || buf.last_in_chain() != 0 {
            self.state.set(CaptureState::Complete);
        }
        Some(())
    }
}

/// The context of an auth subrequest whose response body may be captured.
#[inline]
pub(super) fn capturing<'a>(r: Request) -> Option<&'a AuthContext> {
    AuthContext::of_subrequest(r).filter(|ctx| ctx.capture.is_wanted())
}

/// Decides by the header of a response whether its body is captured. The header itself is not passed to other filters, which
/// would change the body.
pub(super) fn capture_header(sub: Request, ctx: &AuthContext) -> ngx_int_t {
    let status = sub.status();
    ctx.record_status(sub, Some(status));
    // The response may be an error page with another status than the answer.
    if ctx.status.get() != status || !ctx.capture.start(sub) {
        sub.set_header_only();
    }
    // SAFETY: a handle points at a live request; writes one bit.
    unsafe { bits::HEADER_SENT.set(sub.as_ptr()) };
    NGX_OK as ngx_int_t
}

/// Captures a part of the body, and consumes its buffers.
///
/// # Safety
/// `chain` is what nginx passes to a body filter.
pub(super) unsafe fn capture_body(ctx: &AuthContext, chain: *mut ngx_chain_t) -> ngx_int_t {
    let before = ctx.capture.state();
    // SAFETY: a live chain, whose buffers nginx leaves to the filter, says the caller.
    for buf in unsafe { buffers(chain) } {
        if ctx.stage.get() == AuthStage::Pending && ctx.capture.append(ctx.r, buf).is_none() {
            return NGX_ERROR as ngx_int_t;
        }
        consume(buf);
    }
    if ctx.capture.state() == CaptureState::TooLarge && before != CaptureState::TooLarge {
        // The rest of the body is not needed, and may be endless.
        alarm(ctx).post();
    }
    NGX_OK as ngx_int_t
}
