//! nginx's own keepalive module: which dialect of the directives it speaks, and how to keep it quiet.
//!
//! Up to 1.29.6 it acts only in an upstream whose `keepalive` it was given, and we are given all of
//! them. From 1.29.7 on it acts in every explicit upstream unless that says `keepalive 0`, and so we
//! tell it `keepalive 0`, in its own language: by its own directive.

use std::ffi::{c_void, CStr};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_array_t, ngx_command_t, ngx_conf_t, ngx_http_module_t, ngx_http_upstream_srv_conf_t, ngx_module_t,
    ngx_str_t, ngx_uint_t,
};
use ngx::ngx_string;

use crate::directive::{Keepalive, DEFAULT_SINCE_1_29_7};

use crate::ffi::setup::module::ngx_http_upstream_keepalive_rs_module;

/// What this nginx has in place of the module that we replace.
#[derive(Clone, Copy)]
pub(crate) enum Stock {
    /// Nothing: configured with `--without-http_upstream_keepalive_module`.
    Absent,
    /// Acts where it is told to (up to 1.29.6).
    OptIn,
    /// Acts in every explicit upstream (from 1.29.7 on).
    ByDefault(NonNull<ngx_module_t>),
}

/// Why the stock module cannot be replaced.
pub(crate) enum InTheWay {
    /// It is met first by nginx, and gets the directives.
    ComesFirst,
    /// It did not take `keepalive 0`.
    NotSilenced,
}

impl Stock {
    /// Looks for the stock module among those of the cycle being configured.
    ///
    /// # Safety
    /// `cf` is the configuration being read.
    pub(crate) unsafe fn find(cf: *mut ngx_conf_t) -> Result<Self, InTheWay> {
        // SAFETY: live, says the caller.
        let cycle = unsafe { (*cf).cycle };
        // SAFETY: a cycle being configured has its modules; the array ends with a null pointer.
        let mut at = unsafe { (*cycle).modules };
        let mut ours_seen = false;
        // SAFETY: `at` does not pass the null pointer at the end.
        while let Some(module) = NonNull::new(unsafe { *at }) {
            if module.as_ptr() == &raw mut ngx_http_upstream_keepalive_rs_module {
                ours_seen = true;
            }
            // SAFETY: a module of the cycle.
            let name = unsafe { (*module.as_ptr()).name };
            // SAFETY: nginx gives each module a name before it reads the configuration.
            let name = unsafe { CStr::from_ptr(name) };
            if name == c"ngx_http_upstream_keepalive_module" {
                return match ours_seen {
                    // SAFETY: a module of the cycle.
                    true => Ok(unsafe { Self::of(module) }),
                    false => Err(InTheWay::ComesFirst),
                };
            }
            // SAFETY: the element was not the null pointer at the end.
            at = unsafe { at.add(1) };
        }
        Ok(Self::Absent)
    }

    /// # Safety
    /// `module` is the stock module.
    unsafe fn of(module: NonNull<ngx_module_t>) -> Self {
        // SAFETY: a live module, says the caller; that of an HTTP module is an `ngx_http_module_t`.
        let ctx: *const ngx_http_module_t = unsafe { (*module.as_ptr()).ctx }.cast();
        // SAFETY: static data of nginx.
        match unsafe { (*ctx).init_main_conf } {
            None => Self::OptIn,
            Some(_) => Self::ByDefault(module),
        }
    }

    /// What holds in an upstream without `keepalive`.
    pub(crate) fn default_keepalive(self) -> Option<Keepalive> {
        match self {
            Self::OptIn => None,
            Self::ByDefault(_) => Some(DEFAULT_SINCE_1_29_7),
            Self::Absent => cfg!(nginx_pool_by_default).then_some(DEFAULT_SINCE_1_29_7),
        }
    }

    /// Keeps the stock module out of one upstream.
    ///
    /// # Safety
    /// `cf` is the configuration being read, and `us` one of its explicit upstreams.
    pub(crate) unsafe fn silence(
        self,
        cf: *mut ngx_conf_t,
        us: *mut ngx_http_upstream_srv_conf_t,
    ) -> Result<(), InTheWay> {
        let Self::ByDefault(module) = self else { return Ok(()) };
        // SAFETY: the stock module is an HTTP module of this cycle.
        let command = unsafe { keepalive_command(module) }.ok_or(InTheWay::NotSilenced)?;
        // SAFETY: a command of the table.
        let set = unsafe { (*command.as_ptr()).set }.ok_or(InTheWay::NotSilenced)?;
        // SAFETY: static data of nginx.
        let index = unsafe { (*module.as_ptr()).ctx_index };
        // SAFETY: explicit, hence with an array of configurations.
        let confs: *mut *mut c_void = unsafe { (*us).srv_conf };
        // SAFETY: the array has an element for each HTTP module.
        let conf = unsafe { confs.add(index) };
        // SAFETY: as above.
        let conf = unsafe { *conf };

        let mut words = [ngx_string!("keepalive"), ngx_string!("0")];
        let mut args = ngx_array_t {
            elts: (&raw mut words).cast(),
            nelts: words.len() as ngx_uint_t,
            size: size_of::<ngx_str_t>(),
            nalloc: words.len() as ngx_uint_t,
            pool: std::ptr::null_mut(),
        };
        // SAFETY: live, says the caller.
        let own_args = unsafe { (*cf).args };
        // SAFETY: put back below, before the words go.
        unsafe { (*cf).args = &raw mut args };
        // SAFETY: the setter gets what nginx would give it: its command and its configuration.
        let error = unsafe { set(cf, command.as_ptr(), conf) };
        // SAFETY: live, says the caller.
        unsafe { (*cf).args = own_args };
        if error.is_null() {
            Ok(())
        } else {
            Err(InTheWay::NotSilenced)
        }
    }
}

/// # Safety
/// `module` is a live module; its commands end with an empty name.
unsafe fn keepalive_command(module: NonNull<ngx_module_t>) -> Option<NonNull<ngx_command_t>> {
    // SAFETY: live, says the caller.
    let mut at = NonNull::new(unsafe { (*module.as_ptr()).commands })?;
    loop {
        // SAFETY: `at` does not pass the empty name at the end.
        let name = unsafe { (*at.as_ptr()).name };
        match name.as_bytes() {
            b"" => return None,
            b"keepalive" => return Some(at),
            // SAFETY: the name was not the empty one at the end.
            _ => at = unsafe { at.add(1) },
        }
    }
}
