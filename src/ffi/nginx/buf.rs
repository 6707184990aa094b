//! Buffers and chains of buffers.

use std::ptr::NonNull;

use nginx_sys::{ngx_buf_t, ngx_chain_t};

use super::handle::{get_bit, get_field, set_field, Live};

/// A buffer of a chain.
///
/// # Invariants
/// Points at a buffer that is alive, as are the memory and the file that it names; nothing else uses them meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Buf(Live<ngx_buf_t>);

/// A chain of buffers, from a link on.
///
/// # Invariants
/// Each link is alive, and so is its buffer, as in [`Buf`].
pub(crate) struct Chain(*mut ngx_chain_t);

impl Chain {
    /// # Safety
    /// `chain` is null, or a chain whose links and buffers are alive and used by nothing else, as long as this is used.
    pub(crate) unsafe fn new(chain: *mut ngx_chain_t) -> Self {
        Self(chain)
    }

    /// The present link; null at the end.
    pub(crate) fn as_ptr(&self) -> *mut ngx_chain_t {
        self.0
    }

    /// The buffer of the present link.
    pub(crate) fn first(&self) -> Option<Buf> {
        // SAFETY: null, or a live link, by the type invariant.
        let link = unsafe { Live::from_ptr(self.0) }?;
        let buf = get_field!(link.buf);
        // SAFETY: a link has its buffer.
        Some(Buf(unsafe { Live::new_unchecked(buf) }))
    }

    /// Goes on to the next link.
    pub(crate) fn advance(&mut self) {
        // SAFETY: null, or a live link, by the type invariant.
        if let Some(link) = unsafe { Live::from_ptr(self.0) } {
            self.0 = get_field!(link.next);
        }
    }
}

impl Iterator for Chain {
    type Item = Buf;

    fn next(&mut self) -> Option<Buf> {
        let buf = self.first()?;
        self.advance();
        Some(buf)
    }
}

impl Buf {
    /// Whether its contents are in memory. Mirrors `ngx_buf_in_memory()`.
    pub(crate) fn is_in_memory(self) -> bool {
        let buf = self.0;
        get_bit!(buf: ngx_buf_t::temporary_raw)
            || get_bit!(buf: ngx_buf_t::memory_raw)
            || get_bit!(buf: ngx_buf_t::mmap_raw)
    }

    /// Whether nothing of it is left to be sent. Buffers that only carry flags have nothing.
    pub(crate) fn is_sent(self) -> bool {
        let buf = self.0;
        match self.is_in_memory() {
            true => get_field!(buf.pos) >= get_field!(buf.last),
            false if get_bit!(buf: ngx_buf_t::in_file_raw) => {
                get_field!(buf.file_pos) >= get_field!(buf.file_last)
            }
            false => true,
        }
    }

    /// What is left to be sent of a buffer in memory.
    pub(crate) fn bytes<'a>(self) -> &'a [u8] {
        let buf = self.0;
        let (pos, last) = (get_field!(buf.pos), get_field!(buf.last));
        let length = (last as usize).saturating_sub(pos as usize);
        // SAFETY: nginx has filled the memory between both, which is alive by the type invariant.
        unsafe { std::slice::from_raw_parts(pos, length) }
    }

    /// The free part of a buffer.
    pub(crate) fn free<'a>(self) -> &'a mut [u8] {
        let buf = self.0;
        let (last, end) = (get_field!(buf.last), get_field!(buf.end));
        let length = (end as usize).saturating_sub(last as usize);
        // SAFETY: nginx has allocated the memory between both; alive and not used otherwise by the type invariant.
        unsafe { std::slice::from_raw_parts_mut(last, length) }
    }

    /// Reads from the file of a buffer what fits into `space`. `None` if that fails, or the file has become shorter.
    pub(crate) fn read_file(self, space: &mut [u8]) -> Option<&[u8]> {
        let buf = self.0;
        let (from, to) = (get_field!(buf.file_pos), get_field!(buf.file_last));
        let file = NonNull::new(get_field!(buf.file))?;
        // SAFETY: a buffer in a file has the open file; reads one field.
        let fd = unsafe { (*file.as_ptr()).fd };
        let length = space.len().min(usize::try_from(to - from).ok()?);
        // SAFETY: an open descriptor, and memory of at least this length.
        let read = unsafe { libc::pread(fd, space.as_mut_ptr().cast(), length, from) };
        space.get(..usize::try_from(read).ok().filter(|read| *read > 0)?)
    }

    /// So many bytes of it were sent.
    pub(crate) fn advance(self, bytes: usize) {
        let buf = self.0;
        if self.is_in_memory() {
            let pos = get_field!(buf.pos);
            set_field!(buf.pos = pos.wrapping_add(bytes));
        }
        if get_bit!(buf: ngx_buf_t::in_file_raw) {
            let at = get_field!(buf.file_pos);
            set_field!(buf.file_pos = at + bytes as nginx_sys::off_t);
        }
    }
}
