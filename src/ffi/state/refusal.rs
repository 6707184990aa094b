//! What was heard of an HTTP/2 server about one request.

use std::cell::Cell;

use nginx_sys::{ngx_http_request_t, ngx_int_t, off_t};

use crate::http2::frames::Heard;

/// Listens to what comes for one request; in its pool.
pub(crate) struct FrameListener {
    /// That of the protocol module.
    pub(crate) process_header: unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t,
    /// The attempt of which was heard, and how many bytes.
    pub(crate) attempt: Cell<u32>,
    pub(crate) bytes: Cell<off_t>,
    pub(crate) heard: Cell<Heard>,
    /// A connection opened for the request was refused it, and another one was opened.
    pub(crate) was_refused: Cell<bool>,
}
