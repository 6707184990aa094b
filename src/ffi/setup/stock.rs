//! nginx's own keepalive module: what it does by default, and how it is switched off.
//!
//! Up to 1.29.6 it acts only in an upstream whose `keepalive` it was given, and this module takes all of them. From 1.29.7
//! on it acts in every explicit upstream without `keepalive 0`. So it is given `keepalive 0` there, through the setter of
//! its own directive.

use std::ffi::{c_void, CStr};
use std::ptr::NonNull;

use nginx_sys::{ngx_array_t, ngx_command_t, ngx_http_module_t, ngx_module_t, ngx_str_t, ngx_uint_t};
use ngx::ngx_string;

use crate::directive::{Keepalive, DEFAULT_SINCE_1_29_7};

use crate::ffi::nginx::handle::{get_field, handle, set_field, Handle as _};

use super::module::ngx_http_upstream_keepalive_rs_module;
use super::{Reading, UpstreamConf};

/// Which stock module this nginx has.
#[derive(Clone, Copy)]
pub(crate) enum Stock {
    /// Nothing: configured with `--without-http_upstream_keepalive_module`.
    Absent,
    /// Acts where it is told to (up to 1.29.6).
    OptIn,
    /// Acts in every explicit upstream (from 1.29.7 on).
    ByDefault(Module),
}

/// Why the stock module cannot be replaced.
pub(crate) enum InTheWay {
    /// It comes before this module, and nginx gives it the directives.
    ComesFirst,
    /// It did not take `keepalive 0`.
    NotSilenced,
}

/// A module of nginx.
///
/// # Invariants
/// Points at a module of the cycle being configured.
#[derive(Clone, Copy)]
pub(crate) struct Module(NonNull<ngx_module_t>);

handle!(Module, ngx_module_t);

/// A directive of a module.
///
/// # Invariants
/// Points at an element of the module's commands.
#[derive(Clone, Copy)]
struct Command(NonNull<ngx_command_t>);

handle!(Command, ngx_command_t);

impl Stock {
    /// Looks for the stock module among the modules of the cycle being configured.
    ///
    /// # Errors
    /// If it comes before ours.
    pub(crate) fn find(cf: Reading) -> Result<Self, InTheWay> {
        let mut ours_seen = false;
        for module in modules(cf) {
            if module.as_ptr() == &raw mut ngx_http_upstream_keepalive_rs_module {
                ours_seen = true;
            }
            let name = get_field!(module.name);
            // SAFETY: nginx gives each module a name before it reads the configuration.
            let name = unsafe { CStr::from_ptr(name) };
            if name == c"ngx_http_upstream_keepalive_module" {
                return match ours_seen {
                    // SAFETY: it has the name of the stock module.
                    true => Ok(unsafe { Self::of(module) }),
                    false => Err(InTheWay::ComesFirst),
                };
            }
        }
        Ok(Self::Absent)
    }

    /// # Safety
    /// `module` is the stock module.
    unsafe fn of(module: Module) -> Self {
        let context: *const ngx_http_module_t = get_field!(module.ctx).cast();
        // SAFETY: the stock module is an HTTP module, and the context of each is a static `ngx_http_module_t`.
        match unsafe { (*context).init_main_conf } {
            None => Self::OptIn,
            Some(_) => Self::ByDefault(module),
        }
    }

    /// The default in an upstream without `keepalive`.
    pub(crate) fn default_keepalive(self) -> Option<Keepalive> {
        match self {
            Self::OptIn => None,
            Self::ByDefault(_) => Some(DEFAULT_SINCE_1_29_7),
            Self::Absent => cfg!(nginx_pool_by_default).then_some(DEFAULT_SINCE_1_29_7),
        }
    }

    /// Keeps the stock module out of one upstream.
    ///
    /// # Errors
    /// If it does not take `keepalive 0`.
    ///
    /// # Safety
    /// `us` is an explicit upstream.
    pub(crate) unsafe fn silence(self, cf: Reading, us: UpstreamConf) -> Result<(), InTheWay> {
        let Self::ByDefault(module) = self else { return Ok(()) };
        let command = keepalive_command(module).ok_or(InTheWay::NotSilenced)?;
        let set = get_field!(command.set).ok_or(InTheWay::NotSilenced)?;
        let (confs, index) = (get_field!(us.srv_conf), get_field!(module.ctx_index));
        // SAFETY: an explicit upstream, as the caller says, has such an array, with an element for each HTTP module.
        let conf: *mut *mut c_void = unsafe { confs.add(index) };
        // SAFETY: an element of the array, which nginx has filled before it reads the upstream.
        let conf = unsafe { *conf };

        let mut words = [ngx_string!("keepalive"), ngx_string!("0")];
        let mut args = ngx_array_t {
            elts: (&raw mut words).cast(),
            nelts: words.len() as ngx_uint_t,
            size: size_of::<ngx_str_t>(),
            nalloc: words.len() as ngx_uint_t,
            pool: std::ptr::null_mut(),
        };
        let own_args = get_field!(cf.args);
        set_field!(cf.args = &raw mut args);
        // SAFETY: the setter gets what nginx would give it: its command and its configuration; the words outlive the call.
        let error = unsafe { set(cf.as_ptr(), command.as_ptr(), conf) };
        set_field!(cf.args = own_args);
        if error.is_null() {
            Ok(())
        } else {
            Err(InTheWay::NotSilenced)
        }
    }
}

/// The modules of the cycle being configured, in nginx's order.
fn modules(cf: Reading) -> impl Iterator<Item = Module> {
    let cycle = get_field!(cf.cycle);
    // SAFETY: the cycle being configured lives as long as its configuration is read; reads one field.
    let mut at = unsafe { (*cycle).modules };
    std::iter::from_fn(move || {
        // SAFETY: an element of the array of modules. A null pointer ends it, and `at` does not pass that.
        let module = NonNull::new(unsafe { *at })?;
        // SAFETY: the element was not the null pointer at the end.
        at = unsafe { at.add(1) };
        Some(Module(module))
    })
}

/// The directive `keepalive` of a module.
fn keepalive_command(module: Module) -> Option<Command> {
    let mut command = Command(NonNull::new(get_field!(module.commands))?);
    loop {
        match get_field!(command.name).as_bytes() {
            b"" => return None,
            b"keepalive" => return Some(command),
            // SAFETY: an empty name ends the commands of a module, and this was another one.
            _ => command = Command(unsafe { command.0.add(1) }),
        }
    }
}
