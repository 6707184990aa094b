//! The main configuration: which hooks are needed, and all URIs and headers that the directives name.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::{ngx_conf_t, ngx_cycle_t, ngx_msec_t};
use ngx::http::HttpModuleConfExt;

use crate::base::memory::push;
use crate::metrics::{readable, AuthMeter};

use super::conf::CopiedHeader;
use super::indexed::Indexed;
use super::module::module;
use super::reading::ConfReader;
use super::timeouts::Timeouts;
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
    /// Some location has `auth_subrequest_set`.
    pub(super) sets: Cell<bool>,
    /// The indices of the variables that `set` writes; see [`super::indexed`].
    pub(super) set_variables: OnceCell<Vec<usize>>,
    /// The variables that have an index, once they are known.
    pub(super) indexed: OnceCell<Indexed>,
    /// The paths that `auth_subrequest` names anywhere, each once.
    uris: RefCell<Vec<&'static [u8]>>,
    /// One for each timeout.
    timeouts: RefCell<Vec<&'static Timeouts>>,
    /// The headers that `auth_subrequest_copy_header` names anywhere, each once.
    headers: RefCell<Vec<CopiedHeader>>,
    /// In a worker: the counters of each path in `uris`.
    pub(in super::super) meters: OnceCell<Vec<AuthMeter>>,
}

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
                sets: Cell::new(false),
                set_variables: OnceCell::new(),
                indexed: OnceCell::new(),
                uris: RefCell::default(),
                timeouts: RefCell::default(),
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

    /// How many paths `auth_subrequest` names.
    pub(super) fn uri_count(&self) -> usize {
        self.uris.borrow().len()
    }

    /// The auth subrequests with a timeout, in milliseconds. `None` if there is no memory.
    pub(super) fn timeouts(&self, cf: ConfReader, after: ngx_msec_t) -> Option<&'static Timeouts> {
        let mut all = self.timeouts.borrow_mut();
        if let Some(known) = all.iter().find(|known| known.after == after) {
            return Some(known);
        }
        // SAFETY: the pool of the new cycle is live while nginx reads the configuration.
        let new = unsafe { place_in_pool(cf.pool(), Timeouts::new(after)) }?;
        // SAFETY: there are only shared references to it, and its cycle outlives their users.
        let new = unsafe { new.as_ref() };
        push(&mut all, new)?;
        Some(new)
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
}
