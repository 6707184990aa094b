//! What an HTTP/2 server has said about one request.

use std::cell::Cell;

use nginx_sys::{ngx_http_request_t, ngx_int_t, off_t};

use crate::http2::frames::Heard;

/// Reads the frames that arrive for one request; in the request's pool.
pub(crate) struct FrameListener {
    /// The function of the protocol module, which it replaces.
    pub(crate) process_header: unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t,
    /// The attempt whose frames were read.
    pub(crate) attempt: Cell<u32>,
    /// The number of bytes that were read of it.
    pub(crate) bytes: Cell<off_t>,
    pub(crate) heard: Cell<Heard>,
    /// Whether the server has refused the request on a connection opened for it, and another one was opened.
    pub(crate) was_refused: Cell<bool>,
}
