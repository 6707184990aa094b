//! The location configuration: what the directives wrote.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_conf_t, ngx_cycle_t, ngx_http_complex_value_t, ngx_http_get_variable_index, ngx_http_set_variable_pt,
    ngx_int_t, ngx_msec_t, ngx_pool_t, ngx_str_t, ngx_uint_t, NGX_ERROR,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::HttpModuleConfExt;
use ngx::ngx_string;

use crate::auth::{OnError, PASS_STATUS};
use crate::base::memory::push;
use crate::metrics::{readable, AuthMeter};

use super::module::module;
use super::server::SrvConf;
use crate::ffi::nginx::constants;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::{allocate, or_fail, place_in_pool};
use crate::ffi::nginx::request::Request;

/// nginx's slot setters write the first three by their offset, so the layout is C's.
#[repr(C)]
pub(super) struct LocConf {
    /// In milliseconds; 0 for no limit.
    pub(super) timeout: ngx_msec_t,
    /// Bytes of a denial's body that are passed; 0 if none is.
    pub(super) pass_body: usize,
    /// Bytes of the client's body that are sent along; 0 if none is.
    pub(super) body: usize,
    /// `Some(None)` is `off`.
    pub(super) uri: Option<Option<Uri>>,
    pub(super) on_error: Option<OnError>,
    pub(super) pass_status: Option<Slice<u16>>,
    pub(super) pass_header: Option<Slice<ngx_str_t>>,
    pub(super) copy_header: Option<Slice<Copied>>,
    pub(super) set: Option<Slice<SetVariable>>,
}

/// What `auth_subrequest` names.
#[derive(Clone, Copy)]
pub(super) struct Uri {
    pub(super) path: ngx_str_t,
    /// Without a start if there are none.
    pub(super) args: ngx_str_t,
    /// Its place among those that the configuration names.
    pub(super) number: usize,
}

/// A header that is copied from the answer to the request.
#[derive(Clone, Copy)]
pub(super) struct Copied {
    pub(super) name: ngx_str_t,
    pub(super) lowercase: ngx_str_t,
    pub(super) hash: ngx_uint_t,
    /// The number of its variable, `$http_name`.
    pub(super) variable: usize,
}

impl Copied {
    /// Whether this is where the name is written: headers that come from an answer have it from here.
    pub(super) fn is_named(&self, name: *const u8) -> bool {
        std::ptr::eq(self.name.data, name)
    }
}

/// A variable that is set when the answer is there.
#[derive(Clone, Copy)]
pub(super) struct SetVariable {
    pub(super) index: usize,
    pub(super) value: ngx_http_complex_value_t,
    /// Of the variable, if it can be set.
    pub(super) set_handler: ngx_http_set_variable_pt,
}

/// Values in the cycle's pool; nobody writes them once they are there.
pub(super) struct Slice<T> {
    first: NonNull<T>,
    length: usize,
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<T> {}

impl<T: Copy> Slice<T> {
    pub(super) const EMPTY: Self = Self { first: NonNull::dangling(), length: 0 };

    /// Lives as long as the cycle, which outlives its requests.
    pub(super) fn as_slice<'a>(self) -> &'a [T] {
        // SAFETY: `with` has written so many.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }

    /// The values with one more behind them; `None` if there is no memory.
    ///
    /// # Safety
    /// `pool` is that of the cycle.
    pub(super) unsafe fn with(self, pool: *mut ngx_pool_t, value: T) -> Option<Self> {
        let length = self.length + 1;
        // SAFETY: live, says the caller.
        let first = unsafe { allocate::<T>(pool, length) }?.cast::<T>();
        for (at, value) in self.as_slice().iter().copied().chain([value]).enumerate() {
            // SAFETY: there is room for so many.
            let place = unsafe { first.add(at) };
            // SAFETY: as above.
            unsafe { place.write(value) };
        }
        Some(Self { first, length })
    }
}

const UNSET_SIZE: usize = constants::CONF_UNSET_UINT as usize;
const UNSET_MSEC: ngx_msec_t = constants::CONF_UNSET_MSEC as ngx_msec_t;

impl LocConf {
    /// nginx's `create_loc_conf`.
    pub(super) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        // SAFETY: nginx passes the configuration being read, whose pool is the new cycle's.
        let pool = unsafe { (*cf).pool };
        // SAFETY: `pool` is live, and `LocConf` has no destructor to run.
        let Some(memory) = (unsafe { allocate::<LocConf>(pool, 1) }) else { return ptr::null_mut() };
        let conf = LocConf {
            timeout: UNSET_MSEC,
            pass_body: UNSET_SIZE,
            body: UNSET_SIZE,
            uri: None,
            on_error: None,
            pass_status: None,
            pass_header: None,
            copy_header: None,
            set: None,
        };
        // SAFETY: allocated above for a `LocConf`.
        unsafe { memory.cast::<LocConf>().write(conf) };
        memory.as_ptr().cast()
    }

    /// nginx's `merge_loc_conf`: what is not written here is as at the level above.
    pub(super) unsafe extern "C" fn merge(
        cf: *mut ngx_conf_t,
        parent: *mut c_void,
        child: *mut c_void,
    ) -> *mut c_char {
        guard(NGX_CONF_ERROR, || {
            // SAFETY: what `create` has made; nginx passes two different ones.
            let prev = unsafe { &*parent.cast::<LocConf>() };
            // SAFETY: as above; nobody else has it now.
            let conf = unsafe { &mut *child.cast::<LocConf>() };
            let or = |value, prev, default, unset| match (value == unset, prev == unset) {
                (false, _) => value,
                (true, false) => prev,
                (true, true) => default,
            };
            conf.timeout = or(conf.timeout, prev.timeout, 60_000, UNSET_MSEC);
            conf.pass_body = or(conf.pass_body, prev.pass_body, 0, UNSET_SIZE);
            conf.body = or(conf.body, prev.body, 0, UNSET_SIZE);
            conf.uri = conf.uri.or(prev.uri);
            conf.on_error = conf.on_error.or(prev.on_error);
            conf.pass_status = conf.pass_status.or(prev.pass_status);
            conf.pass_header = conf.pass_header.or(prev.pass_header);
            conf.copy_header = conf.copy_header.or(prev.copy_header);
            conf.set = conf.set.or(prev.set);
            // SAFETY: nginx passes the configuration being read, and merges this location.
            if unsafe { SrvConf::add(cf, conf.copy_header()) }.is_none() {
                return NGX_CONF_ERROR;
            }
            // SAFETY: nginx passes the configuration being read.
            if let Some(main) = unsafe { MainConf::of_conf(cf) } {
                let asks = conf.uri().is_some();
                main.asks.set(main.asks.get() || asks);
                main.captures.set(main.captures.get() || asks && conf.pass_body > 0);
                main.copies.set(main.copies.get() || !conf.copy_header().is_empty());
            }
            NGX_CONF_OK
        })
    }

    /// The configuration of the request's location.
    pub(super) fn of<'a>(r: Request) -> &'a Self {
        // SAFETY: a live request.
        let r = unsafe { &*r.as_ptr() };
        // SAFETY: `create` made what lies at this module's index.
        let conf: Option<NonNull<Self>> = unsafe { r.http_location_conf_unchecked(module()) };
        // SAFETY: nginx has one of each module for each location; nobody changes it after the configuration was read.
        unsafe { conf.unwrap_or(NonNull::dangling()).as_ref() }
    }

    pub(super) fn uri(&self) -> Option<&Uri> {
        self.uri.as_ref()?.as_ref()
    }

    pub(super) fn on_error(&self) -> OnError {
        self.on_error.unwrap_or(OnError::Status(500))
    }

    pub(super) fn pass_status<'a>(&self) -> &'a [u16] {
        self.pass_status.map_or(PASS_STATUS, Slice::as_slice)
    }

    pub(super) fn pass_header<'a>(&self) -> &'a [ngx_str_t] {
        self.pass_header.unwrap_or(Slice::EMPTY).as_slice()
    }

    pub(super) fn copy_header<'a>(&self) -> &'a [Copied] {
        self.copy_header.unwrap_or(Slice::EMPTY).as_slice()
    }

    pub(super) fn set<'a>(&self) -> &'a [SetVariable] {
        self.set.unwrap_or(Slice::EMPTY).as_slice()
    }
}

impl Uri {
    pub(super) fn is(&self, other: &Self) -> bool {
        self.path.as_bytes() == other.path.as_bytes() && self.args.as_bytes() == other.args.as_bytes()
    }
}

/// The main configuration.
pub(in super::super) struct MainConf {
    /// Some location asks.
    pub(super) asks: Cell<bool>,
    /// Some location passes the bodies of denials.
    pub(super) captures: Cell<bool>,
    /// Some location copies headers.
    pub(super) copies: Cell<bool>,
    /// The numbers of variables that are about the body of a message, or a part or version of a resource: a question has
    /// none of the request's. Empty if nobody asks.
    pub(super) of_message: Cell<Slice<usize>>,
    /// The number of the variable that is about the user; as above.
    pub(super) of_user: Cell<Slice<usize>>,
    /// What `auth_subrequest` names anywhere, each once.
    uris: RefCell<Vec<&'static [u8]>>,
    /// What `auth_subrequest_copy_header` names anywhere, each once.
    headers: RefCell<Vec<Copied>>,
    /// In a worker: what it counts for each of them.
    pub(in super::super) meters: OnceCell<Vec<AuthMeter>>,
}

const OF_MESSAGE: [ngx_str_t; 11] = [
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
            // SAFETY: nginx passes the configuration being read.
            let pool = unsafe { (*cf).pool };
            // SAFETY: the new cycle's pool.
            let main = unsafe {
                place_in_pool(
                    pool,
                    Self {
                        asks: Cell::new(false),
                        captures: Cell::new(false),
                        copies: Cell::new(false),
                        of_message: Cell::new(Slice::EMPTY),
                        of_user: Cell::new(Slice::EMPTY),
                        uris: RefCell::default(),
                        headers: RefCell::default(),
                        meters: OnceCell::new(),
                    },
                )
            };
            main.map_or(ptr::null_mut(), |main| main.as_ptr().cast())
        })
    }

    /// The main configuration of a request.
    pub(super) fn of<'a>(r: Request) -> Option<&'a Self> {
        // SAFETY: a live request.
        let r = unsafe { &*r.as_ptr() };
        // SAFETY: what `create` has made.
        let main: Option<NonNull<Self>> = unsafe { r.http_main_conf_unchecked(module()) };
        // SAFETY: only ever shared; its cycle outlives the request.
        main.map(|main| unsafe { main.as_ref() })
    }

    /// The number of what `auth_subrequest` names. `None` if there is no memory.
    pub(super) fn number(&self, uri: &'static [u8]) -> Option<usize> {
        let mut uris = self.uris.borrow_mut();
        if let Some(known) = uris.iter().position(|known| *known == uri) {
            return Some(known);
        }
        push(&mut uris, uri)?;
        Some(uris.len() - 1)
    }

    /// A header that was named before, in the same bytes.
    pub(super) fn known(&self, name: &[u8]) -> Option<Copied> {
        self.headers.borrow().iter().find(|known| known.name.as_bytes() == name).copied()
    }

    /// Notes a header that is named. `None` if there is no memory.
    pub(super) fn note(&self, copied: Copied) -> Option<Copied> {
        push(&mut self.headers.borrow_mut(), copied)?;
        Some(copied)
    }

    /// What `auth_subrequest` names anywhere, each once. `None` if there is no memory.
    pub(in super::super) fn uris(&self) -> Option<Vec<String>> {
        let mut all = Vec::new();
        for uri in self.uris.borrow().iter() {
            push(&mut all, readable(uri)?)?;
        }
        Some(all)
    }

    /// Notes the variables that matter as soon as some location asks. `None` if there is no memory.
    ///
    /// # Safety
    /// `cf` is the configuration being read.
    pub(super) unsafe fn note_variables(cf: *mut ngx_conf_t) -> Option<()> {
        // SAFETY: as the caller says.
        let main = unsafe { Self::of_conf(cf) }?;
        if !main.of_message.get().as_slice().is_empty() {
            return Some(());
        }
        // SAFETY: live, says the caller.
        let pool = unsafe { (*cf).pool };
        let of_message = OF_MESSAGE.map(|name| (name, &main.of_message));
        for (mut name, list) in of_message.into_iter().chain([(ngx_string!("remote_user"), &main.of_user)]) {
            // SAFETY: the configuration being read; nginx copies the name.
            let index =
                or_fail(NGX_ERROR as ngx_int_t, || unsafe { ngx_http_get_variable_index(cf, &raw mut name) });
            // SAFETY: the new cycle's pool.
            let slice = unsafe { list.get().with(pool, usize::try_from(index).ok()?) };
            list.set(slice?);
        }
        Some(())
    }

    /// # Safety
    /// `cf` is the configuration being read.
    pub(in super::super) unsafe fn of_conf<'a>(cf: *mut ngx_conf_t) -> Option<&'a Self> {
        // SAFETY: live, says the caller.
        let cf = unsafe { &*cf };
        // SAFETY: what `create` has made.
        let main: Option<NonNull<Self>> = unsafe { cf.http_main_conf_unchecked(module()) };
        // SAFETY: only ever shared.
        main.map(|main| unsafe { main.as_ref() })
    }

    /// The main configuration of a cycle; `None` if it has no `http {}`.
    ///
    /// # Safety
    /// `cycle` is live.
    pub(in super::super) unsafe fn of_cycle<'a>(cycle: *mut ngx_cycle_t) -> Option<&'a Self> {
        // SAFETY: live, says the caller.
        let cycle = unsafe { &*cycle };
        // SAFETY: what `create` has made.
        let main: Option<NonNull<Self>> = unsafe { cycle.http_main_conf_unchecked(module()) };
        // SAFETY: only ever shared.
        main.map(|main| unsafe { main.as_ref() })
    }
}
