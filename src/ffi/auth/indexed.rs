//! Variables that have an index, so that their values are stored with the request: which of them an auth subrequest must not take
//! from the request, and which something may write.
//!
//! All indices are given out while nginx reads the configuration, by any module. So the first request looks for them.

use nginx_sys::{ngx_hash_key_t, ngx_http_variable_t, NGX_HTTP_VAR_CHANGEABLE, NGX_HTTP_VAR_WEAK};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use crate::base::memory::push;

use super::conf::{LocConf, MainConf};
use super::reading::ConfReader;
use super::room::Room;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

/// The variables that have an index: how many there are, and the indices of some, in ascending order.
pub(super) struct Indexed {
    pub(super) count: usize,
    /// The size of the room beside a context, in bytes.
    pub(super) room: usize,
    /// Those of [`OF_MESSAGE`], whose values an auth subrequest does not take from the request.
    pub(super) of_message: Vec<usize>,
    /// `$remote_user`, if it has an index.
    pub(super) of_user: Vec<usize>,
    /// The variables whose values something may write: `set`, a name in a regular expression, another module. nginx may compute
    /// them too, if they are used before they are written. (A variable with a set handler, such as `$args`, has no value of its
    /// own.)
    pub(super) writable: Vec<usize>,
}

/// Variables that describe the body of a message, or ask for a part or a version of a resource.
const OF_MESSAGE: [&[u8]; 11] = [
    b"content_length",
    b"request_body",
    b"request_body_file",
    b"http_content_length",
    b"http_transfer_encoding",
    b"http_range",
    b"http_if_range",
    b"http_if_match",
    b"http_if_none_match",
    b"http_if_modified_since",
    b"http_if_unmodified_since",
];

impl Indexed {
    /// Those of the configuration of a request. `None` if there is no memory.
    pub(super) fn of<'a>(r: Request) -> Option<&'a Self> {
        Self::known_by(MainConf::of(r)?, r)
    }

    /// The same for a request in a location.
    #[inline]
    pub(super) fn in_location(r: Request, conf: &LocConf) -> Option<&'static Self> {
        Self::known_by(conf.main?, r)
    }

    #[inline]
    fn known_by(main: &MainConf, r: Request) -> Option<&Self> {
        main.indexed.get().or_else(|| Self::find(r, main))
    }

    #[cold]
    #[inline(never)]
    fn find(r: Request, main: &MainConf) -> Option<&Self> {
        let set = main.set_variables.get().map_or(&[][..], Vec::as_slice);
        let all = indexed_variables(r);
        let mut found = Self {
            count: all.len(),
            room: Room::size(all.len())?,
            of_message: Vec::new(),
            of_user: Vec::new(),
            writable: Vec::new(),
        };
        for (index, variable) in all.iter().enumerate() {
            let name = variable.name.as_bytes();
            let is_changeable = variable.flags & NGX_HTTP_VAR_CHANGEABLE as usize != 0;
            if variable.set_handler.is_none() && (is_changeable || set.contains(&index)) {
                push(&mut found.writable, index)?;
            }
            if OF_MESSAGE.iter().any(|of_message| name.eq_ignore_ascii_case(of_message)) {
                push(&mut found.of_message, index)?;
            }
            if name.eq_ignore_ascii_case(b"remote_user") {
                push(&mut found.of_user, index)?;
            }
        }
        Some(main.indexed.get_or_init(|| found))
    }
}

/// The variables of the configuration that have an index.
fn indexed_variables<'a>(r: Request) -> &'a [ngx_http_variable_t] {
    // SAFETY: a handle points at a live request.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*r.as_ptr() });
    // SAFETY: an array of such variables, which does not change once the configuration is read.
    main.map_or(&[], |main| unsafe { main.variables.as_slice() })
}

/// The indices of the variables that `set` writes and no other directive defines. nginx forgets that they can be written if
/// their names begin as those that it computes (`$http_...`, `$cookie_...`). `None` if there is no memory.
pub(super) fn find_set_variables(cf: ConfReader) -> Option<Vec<usize>> {
    // SAFETY: a handle points at the live `ngx_conf_t`; nothing changes the core's configuration meanwhile.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*cf.as_ptr() })?;
    // SAFETY: null, or the names of the variables, which nginx frees after it has called all `postconfiguration`.
    let Some(names) = (unsafe { main.variables_keys.as_ref() }) else { return Some(Vec::new()) };
    // SAFETY: an array of such names, and nobody adds to it meanwhile.
    let keys: &[ngx_hash_key_t] = unsafe { names.keys.as_slice() };
    // SAFETY: an array of such variables, and nobody adds to it meanwhile.
    let indexed: &[ngx_http_variable_t] = unsafe { main.variables.as_slice() };
    let mut found = Vec::new();
    for key in keys {
        // SAFETY: the value of each name is its variable, in the pool of the cycle.
        let variable = unsafe { &*key.value.cast::<ngx_http_variable_t>() };
        // `set` notes the index as the data of a variable that has no other source.
        let is_set = variable.flags & NGX_HTTP_VAR_WEAK as usize != 0;
        let name = |index: &usize| indexed.get(*index).map(|variable| variable.name.as_bytes());
        if is_set && name(&variable.data) == Some(variable.name.as_bytes()) {
            push(&mut found, variable.data)?;
        }
    }
    Some(found)
}
