//! A descriptor by which other processes tell this one something, as nginx's master does.

use nginx_sys::{ngx_cycle_t, ngx_event_handler_pt, ngx_fd_t, ngx_int_t, NGX_ERROR, NGX_OK};

use super::constants;
use super::memory::or_fail;
use super::timer::Handler;

extern "C" {
    /// From ngx_channel.h, which nginx-sys does not include.
    fn ngx_add_channel_event(
        cycle: *mut ngx_cycle_t,
        fd: ngx_fd_t,
        event: ngx_int_t,
        handler: ngx_event_handler_pt,
    ) -> ngx_int_t;
}

/// Calls `handler` when there is something to read. A worker that exits does not wait for it. `false` on failure.
///
/// # Safety
/// `cycle` is the live cycle of this worker, and the descriptor is open as long as it.
pub(crate) unsafe fn watch_channel(cycle: *mut ngx_cycle_t, fd: ngx_fd_t, handler: Handler) -> bool {
    let read = constants::READ_EVENT as ngx_int_t;
    let rc = or_fail(NGX_ERROR as ngx_int_t, || {
        // SAFETY: the caller says that the cycle is live, and that the descriptor is open.
        unsafe { ngx_add_channel_event(cycle, fd, read, Some(handler)) }
    });
    rc == NGX_OK as ngx_int_t
}
