//! The client's body, as far as an auth subrequest needs it, and the buffers of a body.

use std::ptr::NonNull;

use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_http_headers_in_t, ngx_http_request_body_t, NGX_INVALID_FILE};

use crate::auth::{BodyPlan, ClientBody};

use super::conf::LocConf;
use crate::ffi::nginx::bits;
use crate::ffi::nginx::handle::{field_ptr, get_field, handle, Handle as _};
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::request::Request;

/// `r->request_body`.
///
/// # Invariants
/// Points at the body of a live request, in the request's pool.
#[derive(Clone, Copy)]
struct RequestBody(NonNull<ngx_http_request_body_t>);

handle!(RequestBody, ngx_http_request_body_t);

/// How a location would send the auth subrequest now.
#[inline]
pub(super) fn plan(r: Request, conf: &LocConf) -> BodyPlan {
    if conf.body == 0 {
        return BodyPlan::WithoutBody;
    }
    client_body(r).plan(conf.body as u64)
}

/// The client's body at this moment.
#[cold]
#[inline(never)]
fn client_body(r: Request) -> ClientBody {
    let headers = field_ptr!(r.headers_in);
    let length = get_field!(r.headers_in.content_length_n);
    // SAFETY: a field of the live request; reads one bit.
    let is_chunked = unsafe { ngx_http_headers_in_t::chunked_raw(headers) != 0 };
    if length <= 0 && !is_chunked && !announces_body(r) {
        return ClientBody::Absent;
    }
    match NonNull::new(get_field!(r.request_body)).map(RequestBody) {
        Some(body) if is_complete(r, body) => ClientBody::Read(body_size(body)),
        Some(_) => ClientBody::Gone,
        // When nginx has discarded the whole body, it has set the length to 0.
        None if length == 0 || discards_body(r) => ClientBody::Gone,
        None => ClientBody::Unread(u64::try_from(length).ok()),
    }
}

/// Whether the client has announced a length other than 0, even if nginx has reset it since.
fn announces_body(r: Request) -> bool {
    let header = NonNull::new(get_field!(r.headers_in.content_length));
    // SAFETY: a header of the live request, in its pool; reads one field.
    header.is_some_and(|it| bytes(unsafe { (*it.as_ptr()).value }).iter().any(|byte| *byte != b'0'))
}

fn discards_body(r: Request) -> bool {
    // SAFETY: a handle points at a live request; reads one bit.
    unsafe { bits::DISCARD_BODY.is_set(r.as_ptr()) }
}

/// Whether nginx has the complete body. Reading may have failed, and nginx does not keep what it passes on while it reads
/// (`proxy_request_buffering off`).
fn is_complete(r: Request, body: RequestBody) -> bool {
    let rest = get_field!(body.rest);
    let file = NonNull::new(get_field!(body.temp_file));
    // An upstream request may have closed the file.
    // SAFETY: the temporary file of the body, in the same pool; reads one field.
    let is_closed = file.is_some_and(|file| unsafe { (*file.as_ptr()).file.fd } == NGX_INVALID_FILE);
    rest == 0 && !is_closed && !r.is_unbuffered()
}

/// Keeps the body's file open for those who read the body after the auth subrequest.
pub(super) fn preserve_body(r: Request) {
    // SAFETY: a handle points at a live request; writes one bit.
    unsafe { bits::PRESERVE_BODY.set(r.as_ptr()) };
}

fn body_size(body: RequestBody) -> u64 {
    let chain = get_field!(body.bufs);
    // SAFETY: the chain of a body that nginx has read, in the request's pool; nginx is not called meanwhile.
    unsafe { buffers(chain) }.map(|buf| buffer_size(buf)).sum()
}

/// The buffers of a chain.
///
/// # Safety
/// `chain` is null or a live chain in which each link has its buffer; nobody else uses the buffers before the iterator is
/// dropped.
pub(super) unsafe fn buffers<'a>(chain: *mut ngx_chain_t) -> impl Iterator<Item = &'a mut ngx_buf_t> {
    let mut next = chain;
    std::iter::from_fn(move || {
        // SAFETY: null, or a link of the live chain, says the caller of `buffers`.
        let link = unsafe { next.as_ref() }?;
        next = link.next;
        // SAFETY: each link has its buffer, which nobody else uses, says the caller of `buffers`.
        unsafe { link.buf.as_mut() }
    })
}

/// Whether the content of a buffer is in memory; otherwise it is in a file, or there is none.
pub(super) fn is_in_memory(buf: &ngx_buf_t) -> bool {
    buf.temporary() != 0 || buf.memory() != 0 || buf.mmap() != 0
}

/// The size of a buffer's content in bytes, as `ngx_buf_size()`.
pub(super) fn buffer_size(buf: &ngx_buf_t) -> u64 {
    if is_in_memory(buf) {
        (buf.last as usize).saturating_sub(buf.pos as usize) as u64
    } else {
        u64::try_from(buf.file_last.saturating_sub(buf.file_pos)).unwrap_or(0)
    }
}

/// Marks the content of a buffer as consumed.
pub(super) fn consume(buf: &mut ngx_buf_t) {
    buf.pos = buf.last;
    buf.file_pos = buf.file_last;
}
