//! The locations of a server, when the configuration has been read: which of them a path leads to, and what is configured there.

use std::cmp::Ordering;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_command_t, ngx_http_core_loc_conf_t, ngx_http_core_srv_conf_t, ngx_http_location_tree_node_t,
    ngx_module_t, ngx_str_t, ngx_uint_t, NGX_HTTP_SATISFY_ANY,
};
use ngx::http::{HttpModule, NgxHttpCoreModule};

use super::conf::LocConf;
use super::module::module;
use super::reading::ConfReader;
use crate::ffi::nginx::handle::{get_bit, get_field, Live};
use crate::ffi::nginx::modules;
use crate::ffi::nginx::process::Cycle;

/// A location, or a server outside of its locations.
///
/// # Invariants
/// Points at the configurations of the modules for a location of the configuration that has been read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Location(NonNull<*mut c_void>);

/// Where a path leads.
pub(super) enum Found {
    Location(Location),
    /// nginx redirects the client to the path with a slash at its end.
    Redirect,
    /// It cannot be told.
    Unknown,
}

/// What nginx's own functions for this return.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Exact,
    Redirect,
    Prefix,
    None,
}

type Node = *mut ngx_http_location_tree_node_t;

impl Location {
    /// A server outside of its locations.
    pub(super) fn of_server(server: Live<ngx_http_core_srv_conf_t>) -> Option<Self> {
        let context = get_field!(server.ctx);
        // SAFETY: nginx has made the context of each server, which lives as long as the configuration.
        let context = unsafe { Live::from_ptr(context) }?;
        NonNull::new(get_field!(context.loc_conf)).map(Self)
    }

    pub(super) fn of_core(core: *mut ngx_http_core_loc_conf_t) -> Option<Self> {
        // SAFETY: null, or the core's configuration of a location of the configuration that has been read.
        let core = unsafe { Live::from_ptr(core) }?;
        NonNull::new(get_field!(core.loc_conf)).map(Self)
    }

    /// The configuration of a module, by its index.
    fn conf(self, index: usize) -> *mut c_void {
        // SAFETY: the configurations of a location have an element for each HTTP module.
        let conf = unsafe { self.0.add(index) };
        // SAFETY: an element of the configurations.
        unsafe { conf.read() }
    }

    fn core(self) -> Live<ngx_http_core_loc_conf_t> {
        let conf = self.conf(NgxHttpCoreModule::module().ctx_index);
        // SAFETY: the core has made its configuration for each location.
        unsafe { Live::new_unchecked(conf.cast()) }
    }

    /// What is configured for this module.
    pub(super) fn auth(self) -> &'static LocConf {
        let conf: *const LocConf = self.conf(module().ctx_index).cast();
        // SAFETY: `LocConf::create` has made it for each location; nobody changes it after the configuration was read.
        unsafe { &*conf }
    }

    /// Empty for a server outside of its locations.
    pub(super) fn name(self) -> ngx_str_t {
        let core = self.core();
        get_field!(core.name)
    }

    pub(super) fn is_internal(self) -> bool {
        let core = self.core();
        get_field!(core.internal) == 1
    }

    /// Whether one of several checks suffices there.
    pub(super) fn satisfies_any(self) -> bool {
        let core = self.core();
        get_field!(core.satisfy) == NGX_HTTP_SATISFY_ANY as ngx_uint_t
    }

    /// Whether the first field of another module's configuration is not zero.
    pub(super) fn has(self, other: Option<Other>) -> bool {
        let Some(Other(index)) = other else { return false };
        let conf: *const usize = self.conf(index).cast();
        // SAFETY: the module has made its configuration for each location, if it has any. The first field of those that
        // `Other::find` is called for is a pointer or a length.
        !conf.is_null() && unsafe { conf.read() } != 0
    }

    /// Calls `visit` with this location, and with all that are written in it.
    pub(super) fn each(self, visit: &mut dyn FnMut(Self)) {
        visit(self);
        let core = self.core();
        each_in_tree(get_field!(core.static_locations), visit);
        self.each_regex(|location| {
            location.each(visit);
            false
        });
    }

    /// Whether requests can find no location, but only the server.
    pub(super) fn can_be_last(self) -> bool {
        let mut at = self;
        let core = self.core();
        find_static(get_field!(core.static_locations), b"/", &mut at) != Match::Prefix
    }

    /// Calls `is_it` with each location of a regular expression, until it says yes.
    fn each_regex(self, mut is_it: impl FnMut(Self) -> bool) {
        #[cfg(ngx_feature = "pcre")]
        {
            let core = self.core();
            let mut next = get_field!(core.regex_locations);
            // SAFETY: nginx ends the array with a null pointer.
            while let Some(location) = (!next.is_null()).then(|| unsafe { *next }).and_then(Self::of_core) {
                if is_it(location) {
                    return;
                }
                // SAFETY: the array goes on, as its last element is null.
                next = unsafe { next.add(1) };
            }
        }
        #[cfg(not(ngx_feature = "pcre"))]
        let _ = &mut is_it;
    }

    /// The location for a path in this server, as `ngx_http_core_find_location()` finds it.
    pub(super) fn find(self, path: &[u8], cf: ConfReader) -> Found {
        let mut at = self;
        match self.find_from(path, cf, &mut at) {
            None => Found::Unknown,
            Some(Match::Redirect) => Found::Redirect,
            Some(_) => Found::Location(at),
        }
    }

    fn find_from(self, path: &[u8], cf: ConfReader, at: &mut Self) -> Option<Match> {
        let core = self.core();
        let mut matched = find_static(get_field!(core.static_locations), path, at);
        let mut uses_regex = true;
        if matched == Match::Prefix {
            let inner = at.core();
            #[cfg(ngx_feature = "pcre")]
            {
                uses_regex = !get_bit!(inner: ngx_http_core_loc_conf_t::noregex_raw);
            }
            #[cfg(not(ngx_feature = "pcre"))]
            let _ = inner;
            matched = at.find_from(path, cf, at)?;
        }
        if matches!(matched, Match::Exact | Match::Redirect) || !uses_regex {
            return Some(matched);
        }
        let (mut found, mut is_known) = (None, true);
        self.each_regex(|location| match location.matches(path, cf) {
            Some(true) => found.replace(location).is_none(),
            Some(false) => false,
            None => {
                is_known = false;
                true
            }
        });
        if !is_known {
            return None;
        }
        let Some(location) = found else { return Some(matched) };
        *at = location;
        location.find_from(path, cf, at).map(|_| Match::Exact)
    }

    /// Whether the regular expression of the location matches; `None` if that fails.
    #[cfg(ngx_feature = "pcre")]
    fn matches(self, path: &[u8], cf: ConfReader) -> Option<bool> {
        use nginx_sys::{
            ngx_array_t, ngx_int_t, ngx_regex_elt_t, ngx_regex_exec_array, NGX_DECLINED, NGX_OK,
        };

        use crate::ffi::nginx::memory::or_fail;

        let core = self.core();
        let regex = get_field!(core.regex);
        // SAFETY: nginx has compiled the expression of each location that has one.
        let regex = unsafe { Live::from_ptr(regex) }?;
        let mut element =
            ngx_regex_elt_t { regex: get_field!(regex.regex), name: c"".as_ptr().cast_mut().cast() };
        // SAFETY: for a C structure of numbers and pointers zero is a valid value.
        let mut array: ngx_array_t = unsafe { std::mem::zeroed() };
        array.elts = (&raw mut element).cast();
        array.nelts = 1;
        let mut text = ngx_str_t { len: path.len(), data: path.as_ptr().cast_mut() };
        let log = get_field!(cf.log);
        // SAFETY: an array of one expression, and the bytes of the path, which are only read.
        let rc = or_fail(nginx_sys::NGX_ERROR as ngx_int_t, || unsafe {
            ngx_regex_exec_array(&raw mut array, &raw mut text, log)
        });
        match rc {
            _ if rc == NGX_OK as ngx_int_t => Some(true),
            _ if rc == NGX_DECLINED as ngx_int_t => Some(false),
            _ => None,
        }
    }

    #[cfg(not(ngx_feature = "pcre"))]
    fn matches(self, _: &[u8], _: ConfReader) -> Option<bool> {
        Some(false)
    }
}

/// Calls `visit` with each location of a tree, and with all that are written in them.
fn each_in_tree(node: Node, visit: &mut dyn FnMut(Location)) {
    // SAFETY: null, or a node of a tree that nginx has made; it lives as long as the configuration.
    let Some(node) = (unsafe { Live::from_ptr(node) }) else { return };
    for core in [get_field!(node.exact), get_field!(node.inclusive)] {
        if let Some(location) = Location::of_core(core) {
            location.each(visit);
        }
    }
    for inner in [get_field!(node.left), get_field!(node.right), get_field!(node.tree)] {
        each_in_tree(inner, visit);
    }
}

/// The order of two names of the same length, as `ngx_filename_cmp()` has it: a slash comes before all other characters.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.iter().map(rank).cmp(other.iter().map(rank))
}

/// Mirrors `ngx_http_core_find_static_location()`.
fn find_static(mut next: Node, mut path: &[u8], at: &mut Location) -> Match {
    let mut matched = Match::None;
    // SAFETY: null, or a node of a tree that nginx has made; it lives as long as the configuration.
    while let Some(node) = unsafe { Live::from_ptr(next) } {
        let length = usize::from(get_field!(node.len));
        let name = crate::ffi::nginx::handle::field_ptr!(node.name).cast::<u8>();
        // SAFETY: nginx has copied a name of this length to the end of the node.
        let name = unsafe { std::slice::from_raw_parts(name, length) };
        let common = path.len().min(length);
        let (start, rest) = path.split_at(common);
        let order = compare(start, &name[..common]);
        let (exact, inclusive) = (get_field!(node.exact), get_field!(node.inclusive));
        if order.is_ne() {
            next = if order.is_lt() { get_field!(node.left) } else { get_field!(node.right) };
        } else if path.len() > length {
            match Location::of_core(inclusive) {
                Some(location) => {
                    (*at, matched, path, next) = (location, Match::Prefix, rest, get_field!(node.tree));
                }
                None => next = get_field!(node.right),
            }
        } else if path.len() == length {
            if let Some(location) = Location::of_core(exact) {
                *at = location;
                return Match::Exact;
            }
            if let Some(location) = Location::of_core(inclusive) {
                *at = location;
                return Match::Prefix;
            }
            return matched;
        } else {
            if path.len() + 1 == length && get_field!(node.auto_redirect) != 0 {
                if let Some(location) = Location::of_core(exact).or(Location::of_core(inclusive)) {
                    (*at, matched) = (location, Match::Redirect);
                }
            }
            next = get_field!(node.left);
        }
    }
    matched
}

/// Another module of nginx, by the index of its configurations.
#[derive(Clone, Copy)]
pub(super) struct Other(usize);

impl Other {
    /// Looks for a module by its name.
    pub(super) fn find(cf: ConfReader, wanted: &[u8]) -> Option<Self> {
        Self::module(cf, wanted).map(|module| Self(get_field!(module.ctx_index)))
    }

    fn module(cf: ConfReader, wanted: &[u8]) -> Option<Live<ngx_module_t>> {
        let cycle = get_field!(cf.cycle);
        // SAFETY: the cycle whose configuration is being read.
        let cycle = unsafe { Cycle::from_ptr(cycle) };
        let module = modules::modules(cycle).iter().find(|module| modules::name(**module) == wanted)?;
        // SAFETY: a module of the cycle.
        unsafe { Live::from_ptr(*module) }
    }

    /// The rewrite module, whose configuration begins with a pointer to what `rewrite`, `if`, `set` and `return` do. `Err` if its
    /// directives show that its configuration is another one.
    pub(super) fn rewrite(cf: ConfReader) -> Result<Option<Self>, ()> {
        let Some(module) = Self::module(cf, b"ngx_http_rewrite_module") else { return Ok(None) };
        // Two fields of the size of a word come before the switches.
        let (mut log, mut warn) = (None, None);
        let mut next: *mut ngx_command_t = get_field!(module.commands);
        // SAFETY: null, or the commands of a module, the last of which has an empty name.
        while let Some(command) = unsafe { Live::from_ptr(next) }.filter(|it| it.copy().name.len > 0) {
            match command.copy().name.as_bytes() {
                b"rewrite_log" => log = Some(get_field!(command.offset)),
                b"uninitialized_variable_warn" => warn = Some(get_field!(command.offset)),
                _ => {}
            }
            // SAFETY: the commands go on, as this is not the last one.
            next = unsafe { next.add(1) };
        }
        let word = size_of::<usize>();
        match (log, warn) == (Some(2 * word), Some(3 * word)) {
            true => Ok(Some(Self(get_field!(module.ctx_index)))),
            false => Err(()),
        }
    }
}
