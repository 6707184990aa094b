//! `keepalive_status`: the directive. A location has one content handler, and nginx says nothing if a later directive replaces the
//! one of an earlier directive.

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_command_t, ngx_conf_t, ngx_http_core_loc_conf_t, ngx_http_handler_pt, ngx_log_error_core,
    NGX_LOG_EMERG,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleLocationConf, NgxHttpCoreModule};

use crate::base::memory::push;

use crate::ffi::nginx::conf_words::{no_memory, place_of, IS_DUPLICATE};
use crate::ffi::nginx::guard::guard;
use crate::ffi::shared::main_conf::MainConf;

use super::status::keepalive_status_handler;

/// Sets `keepalive_status`.
pub(crate) unsafe extern "C" fn keepalive_status(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: nginx passes the configuration being read.
        let location = NgxHttpCoreModule::location_conf_mut(unsafe { &*cf });
        let Some(location) = location else { return NGX_CONF_ERROR };
        if is_ours(location.handler) {
            return IS_DUPLICATE.as_ptr().cast_mut();
        }
        if location.handler.is_some() {
            return c"cannot be in a location with another directive that answers requests, such as \"proxy_pass\""
                .as_ptr()
                .cast_mut();
        }
        location.handler = Some(keepalive_status_handler);
        // SAFETY: nginx passes what `MainConf::create` made; there are only shared references to it.
        let main = unsafe { &*conf.cast::<MainConf>() };
        // SAFETY: nginx passes the configuration being read.
        let place = unsafe { place_of(cf) };
        if push(&mut main.status_locations.borrow_mut(), (NonNull::from(location), place)).is_none() {
            no_memory(cf);
            return NGX_CONF_ERROR;
        }
        NGX_CONF_OK
    })
}

/// Whether a content handler is that of this directive.
fn is_ours(handler: ngx_http_handler_pt) -> bool {
    handler.map(|handler| handler as usize) == Some(keepalive_status_handler as *const () as usize)
}

/// Refuses a configuration in which a later directive has replaced the handler of `keepalive_status`.
///
/// # Safety
/// `cf` is the configuration that has been read.
pub(crate) unsafe fn check(cf: *mut ngx_conf_t) -> Result<(), ()> {
    // SAFETY: the caller says the same.
    let Some(main) = (unsafe { MainConf::of_conf(cf) }) else { return Ok(()) };
    for (location, place) in main.status_locations.borrow().iter() {
        let location: *const ngx_http_core_loc_conf_t = location.as_ptr();
        // SAFETY: a location of the configuration that has been read; copies one field.
        if is_ours(unsafe { (*location).handler }) {
            continue;
        }
        let format =
            c"\"keepalive_status\" cannot be in a location with another directive that answers requests, \
            such as \"proxy_pass\", in %V:%ui";
        // SAFETY: the configuration that has been read; reads one field.
        let log = unsafe { (*cf).log };
        // SAFETY: `%V` takes a string of nginx, `%ui` a number.
        unsafe {
            ngx_log_error_core(
                NGX_LOG_EMERG as usize,
                log,
                0,
                format.as_ptr(),
                &raw const place.file,
                place.line,
            );
        }
        return Err(());
    }
    Ok(())
}
