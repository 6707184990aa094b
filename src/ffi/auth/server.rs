//! The server configuration: the headers that the locations of the server copy from responses of auth subrequests.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::ngx_conf_t;
use ngx::http::HttpModuleConfExt;

use super::conf::CopiedHeader;
use super::module::module;
use super::reading::{ConfReader, Slice};
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

pub(super) struct AuthSrvConf {
    /// Each spelling of a name once; equal names are the same bytes (see [`super::main_conf::MainConf::find_header`]).
    copied: Cell<Slice<CopiedHeader>>,
}

impl AuthSrvConf {
    /// nginx's `create_srv_conf`.
    pub(super) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        // SAFETY: nginx calls this with the configuration being read.
        let cf = unsafe { ConfReader::from_ptr(cf) };
        let conf = cf.place(AuthSrvConf { copied: Cell::new(Slice::EMPTY) });
        conf.map_or(ptr::null_mut(), |conf| conf.as_ptr().cast())
    }

    /// Adds the headers of one of the server's locations, while nginx merges the location. `None` if there is no memory.
    pub(super) fn add_headers(cf: ConfReader, headers: &[CopiedHeader]) -> Option<()> {
        // SAFETY: a handle points at the live `ngx_conf_t`; the reference is used in the next statement only.
        let conf = unsafe { &*cf.as_ptr() };
        // SAFETY: `create` has made the server configuration at this module's index.
        let server: Option<NonNull<Self>> = unsafe { conf.http_server_conf_unchecked(module()) };
        // SAFETY: there are only shared references to a server configuration.
        let copied = unsafe { &server?.as_ref().copied };
        for header in headers {
            if !copied.get().as_slice().iter().any(|known| known.is_named_by(header.name.data)) {
                copied.set(copied.get().with(cf, *header)?);
            }
        }
        Some(())
    }

    /// The headers that any location of the request's server copies.
    pub(super) fn copied<'a>(r: Request) -> &'a [CopiedHeader] {
        // SAFETY: a handle points at a live request; the reference is used in the next statement only.
        let r = unsafe { &*r.as_ptr() };
        // SAFETY: `create` has made the server configuration at this module's index.
        let conf: Option<NonNull<Self>> = unsafe { r.http_server_conf_unchecked(module()) };
        // SAFETY: nginx has one for each server, which nobody changes after the configuration was read.
        conf.map_or(&[], |conf| unsafe { conf.as_ref() }.copied.get().as_slice())
    }
}
