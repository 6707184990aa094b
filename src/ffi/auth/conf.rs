//! The location configuration: the values of the directives.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_conf_t, ngx_flag_t, ngx_http_complex_value_t, ngx_http_set_variable_pt, ngx_msec_t, ngx_str_t,
    ngx_uint_t,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::HttpModuleConfExt;

use crate::auth::{OnError, PASS_STATUS};

pub(in super::super) use super::main_conf::MainConf;
use super::module::module;
use super::reading::{ConfReader, Slice};
use super::server::AuthSrvConf;
use super::timeouts::Timeouts;
use crate::ffi::nginx::conf_words::{no_memory, Place};
use crate::ffi::nginx::constants;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

/// nginx's slot setters write the first four fields by their offset, so the layout is C's.
#[repr(C)]
pub(super) struct LocConf {
    /// In milliseconds; 0 for no limit.
    pub(super) timeout: ngx_msec_t,
    /// The largest body of a denial that is passed to the client, in bytes; 0 if none is passed.
    pub(super) pass_body: usize,
    /// The largest body of the client that is sent with the auth subrequest, in bytes; 0 if none is sent.
    pub(super) body: usize,
    /// 1 if the client also gets the cookies of a permission.
    pub(super) pass_cookies: ngx_flag_t,
    /// `Some(None)` is `off`. For this and the fields below `None` means that no level has set a value; the methods of the same
    /// names apply the defaults.
    pub(super) uri: Option<Option<Uri>>,
    pub(super) on_error: Option<OnError>,
    pub(super) pass_status: Option<Slice<u16>>,
    pub(super) pass_header: Option<Slice<ngx_str_t>>,
    pub(super) copy_header: Option<Slice<CopiedHeader>>,
    pub(super) set: Option<Slice<SetVariable>>,
    /// The main configuration, once the location is merged.
    pub(super) main: Option<&'static MainConf>,
    /// The auth subrequests with this timeout that are under way; `None` without a limit, and if the location has no
    /// `auth_subrequest`.
    pub(super) timeouts: Option<&'static Timeouts>,
}

/// The URI that `auth_subrequest` names.
#[derive(Clone, Copy)]
pub(super) struct Uri {
    pub(super) path: ngx_str_t,
    /// Empty if there are none.
    pub(super) args: ngx_str_t,
    /// Its index among the URIs of the configuration (see [`MainConf::uri_index`]).
    pub(super) index: usize,
    pub(super) written: &'static Written,
}

/// Where an `auth_subrequest` is written.
pub(super) struct Written {
    pub(super) place: Place,
    /// The configuration of that level, where locations may inherit it.
    pub(super) conf: *const LocConf,
    /// In `http`, and not in a server.
    pub(super) in_http: bool,
    /// It was found together with `auth_request`.
    pub(super) is_doubled: Cell<bool>,
}

/// A header that is copied from the response of the auth subrequest to the request.
#[derive(Clone, Copy)]
pub(super) struct CopiedHeader {
    pub(super) name: ngx_str_t,
    pub(super) lowercase: ngx_str_t,
    /// nginx's hash of `lowercase`.
    pub(super) hash: ngx_uint_t,
    /// The index of its variable, `$http_name`.
    pub(super) variable: usize,
}

impl CopiedHeader {
    /// Whether `name` is this very string in the configuration. Headers that were copied from a response point at it.
    pub(super) fn is_named_by(&self, name: *const u8) -> bool {
        std::ptr::eq(self.name.data, name)
    }
}

/// A variable that is set when the auth subrequest has ended.
#[derive(Clone, Copy)]
pub(super) struct SetVariable {
    /// The index of the variable.
    pub(super) index: usize,
    pub(super) value: ngx_http_complex_value_t,
    /// The set handler of the variable, if it has one.
    pub(super) set_handler: ngx_http_set_variable_pt,
}

const UNSET_SIZE: usize = constants::CONF_UNSET_UINT as usize;
const UNSET_FLAG: ngx_flag_t = UNSET_SIZE as ngx_flag_t;
const UNSET_MSEC: ngx_msec_t = constants::CONF_UNSET_MSEC as ngx_msec_t;

impl LocConf {
    /// nginx's `create_loc_conf`.
    pub(super) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        // SAFETY: nginx calls this with the configuration being read.
        let cf = unsafe { ConfReader::from_ptr(cf) };
        let conf = cf.place(LocConf {
            timeout: UNSET_MSEC,
            pass_body: UNSET_SIZE,
            body: UNSET_SIZE,
            pass_cookies: UNSET_FLAG,
            uri: None,
            on_error: None,
            pass_status: None,
            pass_header: None,
            copy_header: None,
            set: None,
            main: None,
            timeouts: None,
        });
        conf.map_or(ptr::null_mut(), |conf| conf.as_ptr().cast())
    }

    /// nginx's `merge_loc_conf`: a value that is not set here is inherited from the level above.
    pub(super) unsafe extern "C" fn merge(
        cf: *mut ngx_conf_t,
        parent: *mut c_void,
        child: *mut c_void,
    ) -> *mut c_char {
        guard(NGX_CONF_ERROR, || {
            // SAFETY: `create` has made the configurations that nginx passes, and the two are different ones.
            let prev = unsafe { &*parent.cast::<LocConf>() };
            // SAFETY: `create` has made it, and nobody else uses the new configuration while nginx merges it.
            let conf = unsafe { &mut *child.cast::<LocConf>() };
            let or = |value, prev, default, unset| match (value == unset, prev == unset) {
                (false, _) => value,
                (true, false) => prev,
                (true, true) => default,
            };
            conf.timeout = or(conf.timeout, prev.timeout, 60_000, UNSET_MSEC);
            conf.pass_body = or(conf.pass_body, prev.pass_body, 0, UNSET_SIZE);
            conf.body = or(conf.body, prev.body, 0, UNSET_SIZE);
            conf.pass_cookies = match (conf.pass_cookies, prev.pass_cookies) {
                (UNSET_FLAG, UNSET_FLAG) => 0,
                (UNSET_FLAG, inherited) => inherited,
                (own, _) => own,
            };
            conf.uri = conf.uri.or(prev.uri);
            conf.on_error = conf.on_error.or(prev.on_error);
            conf.pass_status = conf.pass_status.or(prev.pass_status);
            conf.pass_header = conf.pass_header.or(prev.pass_header);
            conf.copy_header = conf.copy_header.or(prev.copy_header);
            conf.set = conf.set.or(prev.set);
            // SAFETY: nginx calls this with the configuration being read.
            let cf = unsafe { ConfReader::from_ptr(cf) };
            if AuthSrvConf::add_headers(cf, conf.copy_header()).is_none() {
                return NGX_CONF_ERROR;
            }
            if let Some(main) = MainConf::read_by(cf) {
                conf.main = Some(main);
                let authorises = conf.uri().is_some();
                if authorises && conf.timeout > 0 {
                    let Some(timeouts) = main.timeouts(cf, conf.timeout) else {
                        no_memory(cf.as_ptr());
                        return NGX_CONF_ERROR;
                    };
                    conf.timeouts = Some(timeouts);
                }
                main.authorises.set(main.authorises.get() || authorises);
                main.captures.set(main.captures.get() || authorises && conf.pass_body > 0);
                main.copies.set(main.copies.get() || !conf.copy_header().is_empty());
            }
            NGX_CONF_OK
        })
    }

    /// The configuration of the request's location.
    pub(super) fn of<'a>(r: Request) -> &'a Self {
        // SAFETY: a handle points at a live request; the reference ends before nginx is called.
        let r = unsafe { &*r.as_ptr() };
        // SAFETY: `create` has made the configuration at this module's index.
        let conf: Option<NonNull<Self>> = unsafe { r.http_location_conf_unchecked(module()) };
        // SAFETY: nginx has a configuration of each module for each location, which nobody changes after it was read.
        unsafe { conf.unwrap_or(NonNull::dangling()).as_ref() }
    }

    #[inline]
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

    pub(super) fn copy_header<'a>(&self) -> &'a [CopiedHeader] {
        self.copy_header.unwrap_or(Slice::EMPTY).as_slice()
    }

    pub(super) fn set<'a>(&self) -> &'a [SetVariable] {
        self.set.unwrap_or(Slice::EMPTY).as_slice()
    }
}

impl Uri {
    /// Whether path and arguments are equal.
    #[inline]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        // Equal paths have the same index.
        std::ptr::eq(self, other)
            || self.index == other.index && self.args.as_bytes() == other.args.as_bytes()
    }
}
