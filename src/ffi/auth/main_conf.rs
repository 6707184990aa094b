//! The main configuration: which hooks are needed, and all URIs and headers that the directives name.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::{ngx_conf_t, ngx_cycle_t, ngx_str_t};
use ngx::http::HttpModuleConfExt;
use ngx::ngx_string;

use crate::base::memory::push;
use crate::metrics::{readable, AuthMeter};

use super::conf::CopiedHeader;
use super::module::module;
use super::reading::{ConfReader, Slice};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::place_in_pool;
use crate::ffi::nginx::request::Request;

/// The main configuration.
pub(in super::super) struct MainConf {
    /// Some location has `auth_subrequest`.
    pub(super) authorises: Cell<bool>,
    /// Some location passes the bodies of denials.
    pub(super) captures: Cell<bool>,
    /// Some location copies headers.
    pub(super) copies: Cell<bool>,
    /// The indices of [`MESSAGE_VARIABLES`], whose values an auth subrequest does not take from the request. Empty if no
    /// location has `auth_subrequest` or `auth_subrequest_copy_header`.
    pub(super) message_variables: Cell<Slice<usize>>,
    /// The index of `$remote_user`; empty if no location has `auth_subrequest` or `auth_subrequest_copy_header`.
    pub(super) user_variables: Cell<Slice<usize>>,
    /// The indices of the variables that `set` writes; see [`super::settings`].
    pub(super) set_variables: OnceCell<Vec<usize>>,
    /// The indices of the variables that can be written, once they are known; see [`super::settings`].
    pub(super) writable: OnceCell<Vec<usize>>,
    /// The paths that `auth_subrequest` names anywhere, each once.
    uris: RefCell<Vec<&'static [u8]>>,
    /// The headers that `auth_subrequest_copy_header` names anywhere, each once.
    headers: RefCell<Vec<CopiedHeader>>,
    /// In a worker: the counters of each path in `uris`.
    pub(in super::super) meters: OnceCell<Vec<AuthMeter>>,
}

/// Variables that describe the body of a message, or ask for a part or a version of a resource.
const MESSAGE_VARIABLES: [ngx_str_t; 11] = [
    ngx_string!("content_length"),
    ngx_string!("request_body"),
    ngx_string!("request_body_file"),
    ngx_string!("http_content_length"),
    ngx_string!("http_transfer_encoding"),
    ngx_string!("http_range"),
    ngx_string!("http_if_range"),
    ngx_string!("http_if_match"),
    ngx_string!("http_if_none_match"),
    ngx_string!("http_if_modified_since"),
    ngx_string!("http_if_unmodified_since"),
];

impl MainConf {
    /// nginx's `create_main_conf`.
    pub(super) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        guard(ptr::null_mut(), || {
            // SAFETY: nginx calls this with the configuration being read.
            let cf = unsafe { ConfReader::from_ptr(cf) };
            let conf = Self {
                authorises: Cell::new(false),
                captures: Cell::new(false),
                copies: Cell::new(false),
                message_variables: Cell::new(Slice::EMPTY),
                user_variables: Cell::new(Slice::EMPTY),
                set_variables: OnceCell::new(),
                writable: OnceCell::new(),
                uris: RefCell::default(),
                headers: RefCell::default(),
                meters: OnceCell::new(),
            };
            // SAFETY: the pool of the new cycle is live while nginx reads the configuration.
            let main = unsafe { place_in_pool(cf.pool(), conf) };
            main.map_or(ptr::null_mut(), |main| main.as_ptr().cast())
        })
    }

    /// The main configuration of a request.
    pub(super) fn of<'a>(r: Request) -> Option<&'a Self> {
        // SAFETY: a handle points at a live request; the reference ends with this function.
        let main = unsafe { Self::at_index(&*r.as_ptr()) };
        main
    }

    /// The main configuration that nginx is reading.
    pub(super) fn read_by<'a>(cf: ConfReader) -> Option<&'a Self> {
        // SAFETY: a handle points at the live `ngx_conf_t`; the reference ends with this function.
        let main = unsafe { Self::at_index(&*cf.as_ptr()) };
        main
    }

    /// The main configuration that nginx is reading, for a callback of another module.
    ///
    /// # Safety
    /// `cf` is what nginx passes to the running callback.
    pub(in super::super) unsafe fn of_conf<'a>(cf: *mut ngx_conf_t) -> Option<&'a Self> {
        // SAFETY: nginx has passed `cf` to the running callback, says the caller.
        Self::read_by(unsafe { ConfReader::from_ptr(cf) })
    }

    /// The main configuration of a cycle; `None` if it has no `http {}`.
    ///
    /// # Safety
    /// `cycle` is live.
    pub(in super::super) unsafe fn of_cycle<'a>(cycle: *mut ngx_cycle_t) -> Option<&'a Self> {
        // SAFETY: live, says the caller; the reference ends with this function.
        let main = unsafe { Self::at_index(&*cycle) };
        main
    }

    /// The configuration at this module's index.
    fn at_index<'a>(owner: &impl HttpModuleConfExt) -> Option<&'a Self> {
        // SAFETY: `create` has made the configuration at this module's index.
        let main: Option<NonNull<Self>> = unsafe { owner.http_main_conf_unchecked(module()) };
        // SAFETY: there are only shared references to it, and its cycle outlives their users.
        main.map(|main| unsafe { main.as_ref() })
    }

    /// The index of a path that `auth_subrequest` names; equal paths have the same. `None` if there is no memory.
    pub(super) fn uri_index(&self, uri: &'static [u8]) -> Option<usize> {
        let mut uris = self.uris.borrow_mut();
        if let Some(known) = uris.iter().position(|known| *known == uri) {
            return Some(known);
        }
        push(&mut uris, uri)?;
        Some(uris.len() - 1)
    }

    /// The header that another directive has named by the same bytes.
    pub(super) fn find_header(&self, name: &[u8]) -> Option<CopiedHeader> {
        self.headers.borrow().iter().find(|known| known.name.as_bytes() == name).copied()
    }

    /// Adds a header for [`Self::find_header`]. `None` if there is no memory.
    pub(super) fn add_header(&self, header: CopiedHeader) -> Option<CopiedHeader> {
        push(&mut self.headers.borrow_mut(), header)?;
        Some(header)
    }

    /// The paths that `auth_subrequest` names anywhere, in the order of their indices. `None` if there is no memory.
    pub(in super::super) fn uris(&self) -> Option<Vec<String>> {
        let mut all = Vec::new();
        for uri in self.uris.borrow().iter() {
            push(&mut all, readable(uri)?)?;
        }
        Some(all)
    }

    /// Looks up the variables that matter as soon as some location authorises or copies headers. `None` if there is no
    /// memory.
    pub(super) fn index_variables(cf: ConfReader) -> Option<()> {
        let main = Self::read_by(cf)?;
        if !main.message_variables.get().as_slice().is_empty() {
            return Some(());
        }
        let of_message = MESSAGE_VARIABLES.map(|name| (name, &main.message_variables));
        for (name, list) in of_message.into_iter().chain([(ngx_string!("remote_user"), &main.user_variables)])
        {
            list.set(list.get().with(cf, cf.variable_index(name)?)?);
        }
        Some(())
    }
}
