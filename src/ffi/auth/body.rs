//! The client's body, as far as a question needs it.

use std::ptr::NonNull;

use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_http_headers_in_t, ngx_http_request_body_t, NGX_INVALID_FILE};

use crate::auth::Body;

use crate::ffi::nginx::bits;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::request::Request;

/// Its body, at this moment.
pub(super) fn body_of(r: Request) -> Body {
    // SAFETY: live by the type invariant; makes no reference.
    let headers = unsafe { &raw const (*r.as_ptr()).headers_in };
    // SAFETY: a part of the live request; reads one field.
    let length = unsafe { (*headers).content_length_n };
    // SAFETY: a part of the live request; reads one bit.
    let is_chunked = unsafe { ngx_http_headers_in_t::chunked_raw(headers) != 0 };
    if length <= 0 && !is_chunked && !announces_body(r) {
        return Body::Absent;
    }
    // SAFETY: live by the type invariant; reads one field.
    let body = NonNull::new(unsafe { (*r.as_ptr()).request_body });
    match body {
        Some(body) if has_whole(r, body) => Body::Read(size_of_body(body)),
        Some(_) => Body::Gone,
        // Discarding a body sets its length to 0 when it has come to its end.
        None if length == 0 || discards_body(r) => Body::Gone,
        None => Body::Unread(u64::try_from(length).ok()),
    }
}

/// Whether the client has announced a length, which nginx may have forgotten since.
fn announces_body(r: Request) -> bool {
    // SAFETY: live by the type invariant; reads one field.
    let header = NonNull::new(unsafe { (*r.as_ptr()).headers_in.content_length });
    // SAFETY: a header of the request; reads one field.
    header.is_some_and(|it| bytes(unsafe { (*it.as_ptr()).value }).iter().any(|byte| *byte != b'0'))
}

fn discards_body(r: Request) -> bool {
    // SAFETY: live by the type invariant; reads one bit.
    unsafe { bits::DISCARD_BODY.is_set(r.as_ptr()) }
}

/// Whether nothing of a body that nginx has begun to read is missing: it may have failed, and what is sent on while it
/// comes (`proxy_request_buffering off`) is not kept.
fn has_whole(r: Request, body: NonNull<ngx_http_request_body_t>) -> bool {
    // SAFETY: the body of a live request, in its pool; reads one field.
    let rest = unsafe { (*body.as_ptr()).rest };
    // SAFETY: the body of a live request, in its pool; reads one field.
    let file = NonNull::new(unsafe { (*body.as_ptr()).temp_file });
    // SAFETY: the file of that body, in the same pool; reads one field. An upstream request may have closed it.
    let is_closed = file.is_some_and(|file| unsafe { (*file.as_ptr()).file.fd } == NGX_INVALID_FILE);
    rest == 0 && !is_closed && !r.is_unbuffered()
}

/// Lets the body be there for what comes later, too.
pub(super) fn preserve_body(r: Request) {
    // SAFETY: live by the type invariant; writes one bit.
    unsafe { bits::PRESERVE_BODY.set(r.as_ptr()) };
}

fn size_of_body(body: NonNull<ngx_http_request_body_t>) -> u64 {
    // SAFETY: lies in the request's pool; reads one field.
    let mut next: *mut ngx_chain_t = unsafe { (*body.as_ptr()).bufs };
    let mut size = 0;
    while let Some(link) = NonNull::new(next) {
        // SAFETY: a chain in the request's pool.
        let link = unsafe { link.as_ref() };
        // SAFETY: a link has its buffer.
        size += buffer_size(unsafe { &*link.buf });
        next = link.next;
    }
    size
}

/// As `ngx_buf_size()`.
pub(super) fn buffer_size(buf: &ngx_buf_t) -> u64 {
    if buf.temporary() != 0 || buf.memory() != 0 || buf.mmap() != 0 {
        (buf.last as usize).saturating_sub(buf.pos as usize) as u64
    } else {
        u64::try_from(buf.file_last.saturating_sub(buf.file_pos)).unwrap_or(0)
    }
}
