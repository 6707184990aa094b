//! Which location answers an auth subrequest. One that answers its own question would let everybody in, as nginx authorises no
//! subrequests. What is certain is said by `nginx -t`; the rest is found when a subrequest enters a location.

use std::fmt;

use nginx_sys::{
    ngx_http_core_loc_conf_t, ngx_http_core_srv_conf_t,
    ngx_http_phases_NGX_HTTP_REWRITE_PHASE as REWRITE_PHASE,
    ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE as SERVER_REWRITE_PHASE, ngx_http_request_t, ngx_int_t,
    ngx_log_error_core, NGX_DECLINED, NGX_ERROR, NGX_HTTP_NOT_FOUND, NGX_LOG_EMERG, NGX_LOG_ERR,
    NGX_LOG_WARN,
};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf, NgxHttpCoreModule};
use ngx::ngx_log_error;

use crate::base::memory::push;

use super::conf::{MainConf, Uri};
use super::context::{AuthContext, AuthStage};
use super::locations::{Found, Location, Other};
use super::reading::ConfReader;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{field_ptr, get_field, Handle as _, Live};
use crate::ffi::nginx::request::Request;

/// Why the configuration is refused.
pub(in super::super) enum Refused {
    NoMemory,
    /// It has been logged.
    Told,
}

/// What all checks of a configuration need.
struct Check {
    cf: ConfReader,
    /// `Err` if it is not known what is rewritten.
    rewrite: Result<Option<Other>, ()>,
    access: Option<Other>,
    try_files: Option<Other>,
    /// Modules that send a request to a server. Their configuration begins with `ngx_http_upstream_conf_t`, and that with the
    /// upstream.
    senders: [Option<Other>; SENDERS.len()],
    /// A subrequest may enter the location that asks.
    may_return: bool,
    is_refused: bool,
}

const SENDERS: [&[u8]; 5] = [
    b"ngx_http_proxy_module",
    b"ngx_http_fastcgi_module",
    b"ngx_http_uwsgi_module",
    b"ngx_http_scgi_module",
    b"ngx_http_grpc_module",
];

/// Checks who answers the questions of all locations. Returns whether [`entry_handler`] is needed, because an auth subrequest may
/// come to the location that asks. To be called when all modules have added their handlers, but the rewrite phase has none of this
/// module.
///
/// # Errors
/// If nobody but the one that asks answers one of them, or if there is no memory.
pub(super) fn check(cf: ConfReader) -> Result<bool, Refused> {
    // SAFETY: a handle points at the live `ngx_conf_t`; the reference ends with this function.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*cf.as_ptr() }).ok_or(Refused::NoMemory)?;
    let auth_request = Other::find(cf, b"ngx_http_auth_request_module");
    // The last server in which a path was checked.
    let mut checked: Vec<Option<usize>> = Vec::new();
    for _ in 0..MainConf::read_by(cf).map_or(0, MainConf::uri_count) {
        push(&mut checked, None).ok_or(Refused::NoMemory)?;
    }
    // Only the rewrite module may have handlers there, or it is not known what they do.
    let only_one = |phase: u32| main.phases[phase as usize].handlers.nelts <= 1;
    let is_known = only_one(SERVER_REWRITE_PHASE) && only_one(REWRITE_PHASE);
    let mut check = Check {
        cf,
        rewrite: if is_known { Other::rewrite(cf) } else { Err(()) },
        access: Other::find(cf, b"ngx_http_access_module"),
        try_files: Other::find(cf, b"ngx_http_try_files_module"),
        senders: SENDERS.map(|name| Other::find(cf, name)),
        may_return: false,
        is_refused: false,
    };
    // SAFETY: the array of the servers, which is complete.
    let servers: &[*mut ngx_http_core_srv_conf_t] = unsafe { main.servers.as_slice() };
    for (number, server) in servers.iter().enumerate() {
        // SAFETY: a server of the configuration that has been read.
        let Some(server) = (unsafe { Live::from_ptr(*server) }) else { continue };
        let Some(top) = Location::of_server(server) else { continue };
        each_location(server, top, &mut |location| {
            let Some(uri) = location.auth().uri() else { return };
            let is_twice = location.has(auth_request) && !location.satisfies_any();
            if is_twice && !uri.written.is_doubled.replace(true) {
                let name = location.name();
                let text = "both \"auth_subrequest\" and \"auth_request\" are in effect in location";
                warn(cf, uri, format_args!("{text} \"{name}\": its requests are authorised twice"));
            }
            if let Some(last) = checked.get_mut(uri.index) {
                if last.replace(number) != Some(number) {
                    check.question(server, top, uri);
                }
            }
        });
    }
    match check.is_refused {
        true => Err(Refused::Told),
        false => Ok(check.may_return),
    }
}

/// Calls `visit` with all locations of a server, and with the server itself, `top`, if requests may have no location.
fn each_location(server: Live<ngx_http_core_srv_conf_t>, top: Location, visit: &mut dyn FnMut(Location)) {
    let can_be_last = top.can_be_last();
    let visit = &mut |location| {
        if location != top || can_be_last {
            visit(location);
        }
    };
    top.each(visit);
    let mut next: *mut *mut ngx_http_core_loc_conf_t = get_field!(server.named_locations);
    // SAFETY: nginx ends the array with a null pointer.
    while let Some(named) = (!next.is_null()).then(|| unsafe { *next }).and_then(Location::of_core) {
        named.each(visit);
        // SAFETY: the array goes on, as its last element is null.
        next = unsafe { next.add(1) };
    }
}

impl Check {
    /// Whether requests may be rewritten there, or be answered by `return`.
    fn rewrites(&self, location: Location) -> bool {
        self.rewrite.map_or(true, |rewrite| location.has(rewrite))
    }

    /// Whether a request that enters the location is sent to a server, and goes nowhere else before that.
    fn sends(&self, location: Location) -> bool {
        let is_sender = |sender: &Option<Other>| sender.is_some() && location.has(*sender);
        self.senders.iter().any(is_sender) && !location.has(self.try_files)
    }

    /// Checks who answers a question in a server.
    fn question(&mut self, server: Live<ngx_http_core_srv_conf_t>, top: Location, uri: &Uri) {
        let answering = match top.find(uri.path.as_bytes(), self.cf) {
            Found::Location(location) if !self.rewrites(top) && !self.rewrites(location) => location,
            // A redirect is no permission.
            Found::Redirect if !self.rewrites(top) => return,
            _ => {
                self.may_return = true;
                return;
            }
        };
        let own = answering.auth().uri().filter(|own| own.index == uri.index);
        // What a content handler of another module leads to is not known.
        self.may_return |= own.is_some() || !self.sends(answering);
        // A location that only servers of the configuration can reach may inherit the question.
        let is_inherited =
            own.is_some_and(|own| own.written.conf.cast() != std::ptr::from_ref(answering.auth()));
        let asks_itself = own.is_some() && !(answering.is_internal() && is_inherited);
        let (name, cf) = (answering.name(), self.cf);
        let is_server = answering == top;
        if asks_itself {
            let is_only = !self.has_other(server, top, answering, uri);
            if is_only && !uri.written.in_http && !answering.is_internal() {
                self.is_refused = true;
                if is_server {
                    log(cf, NGX_LOG_EMERG, uri, format_args!("is answered by no location"));
                } else {
                    let who = "no location but the one that asks";
                    log(cf, NGX_LOG_EMERG, uri, format_args!("is answered by {who}, \"{name}\""));
                }
            } else if is_server {
                log(cf, NGX_LOG_WARN, uri, format_args!("is answered by no location"));
            } else if is_only || !is_inherited || !answering.has(self.access) {
                let why = "asks the same: what clients request there is refused";
                log(cf, NGX_LOG_WARN, uri, format_args!("is answered by location \"{name}\", which {why}"));
            }
        } else if is_server {
            log(cf, NGX_LOG_WARN, uri, format_args!("is answered by no location"));
        } else if !answering.is_internal() && !answering.has(self.access) {
            let why = "is not internal: clients can request it";
            log(cf, NGX_LOG_WARN, uri, format_args!("is answered by location \"{name}\", which {why}"));
        }
    }

    /// Whether another location of the server asks the same.
    fn has_other(
        &self,
        server: Live<ngx_http_core_srv_conf_t>,
        top: Location,
        answering: Location,
        uri: &Uri,
    ) -> bool {
        let mut has_other = false;
        each_location(server, top, &mut |location| {
            let asks = location.auth().uri().is_some_and(|other| other.index == uri.index);
            has_other |= asks && location != answering;
        });
        has_other
    }
}

/// Logs something about a question.
fn log(cf: ConfReader, level: u32, uri: &Uri, text: fmt::Arguments<'_>) {
    let (path, args) = (uri.path, uri.args);
    let mark = if args.len > 0 { "?" } else { "" };
    let place = uri.written.place;
    let log = get_field!(cf.log);
    ngx_log_error!(
        level,
        log,
        "\"auth_subrequest {path}{mark}{args}\" {text} in {}:{}",
        place.file,
        place.line
    );
}

fn warn(cf: ConfReader, uri: &Uri, text: fmt::Arguments<'_>) {
    let place = uri.written.place;
    let log = get_field!(cf.log);
    ngx_log_error!(NGX_LOG_WARN, log, "{text} in {}:{}", place.file, place.line);
}

/// A handler of the preaccess phase, which a request passes in each location, after it was rewritten. Refuses an auth subrequest in the
/// location that asks, unless a server has answered it.
pub(super) unsafe extern "C" fn entry_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx calls the handlers of a phase with a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let Some(ctx) = AuthContext::of_subrequest(r).filter(|ctx| is_unanswered(ctx)) else {
            return NGX_DECLINED as ngx_int_t;
        };
        if location_of(r) != location_of(ctx.r) || !get_field!(r.upstream_states).is_null() {
            return NGX_DECLINED as ngx_int_t;
        }
        let format = c"auth subrequest \"%V\" is answered by the location that asks, so it is refused";
        let uri = field_ptr!(r.uri);
        // SAFETY: the log of a live request; the format has one `%V`, which takes a string of nginx.
        unsafe { ngx_log_error_core(NGX_LOG_ERR as usize, r.log(), 0, format.as_ptr(), uri) };
        refuse(ctx, NGX_HTTP_NOT_FOUND as u16);
        NGX_HTTP_NOT_FOUND as ngx_int_t
    })
}

/// Whether no answer has arrived yet, and no refusal.
fn is_unanswered(ctx: &AuthContext) -> bool {
    ctx.stage.get() == AuthStage::Pending && !ctx.is_refused()
}

/// Nobody can answer. The status is neither a permission, nor a failure that may allow, nor a denial to pass; it has been logged.
fn refuse(ctx: &AuthContext, status: u16) {
    ctx.status.set(status);
    ctx.made_up.set(true);
    ctx.refused.set(true);
    ctx.logged.set(true);
}

/// The location of a request, by its name; `if` and `limit_except` in a location have the same.
fn location_of(r: Request) -> *const u8 {
    // SAFETY: a handle points at a live request; the reference is used in this statement only.
    let conf = NgxHttpCoreModule::location_conf(unsafe { &*r.as_ptr() });
    conf.map_or(std::ptr::null(), |conf| conf.name.data)
}
