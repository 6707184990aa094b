//! Runs when the configuration has been read: gives each explicit upstream its pool and its hook.

use std::cell::{Cell, OnceCell};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_conf_t, ngx_http_conf_ctx_t, ngx_http_upstream_init_peer_pt, ngx_http_upstream_srv_conf_t, ngx_int_t,
    NGX_ERROR, NGX_LOG_EMERG, NGX_OK,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleMainConf, NgxHttpUpstreamModule};
use ngx::ngx_conf_log_error;

use crate::directive::Keepalive;
use crate::ledger::Ledger;
use crate::metrics;
use crate::pool::{IdlePool, Limit};

use crate::ffi::auth;
use crate::ffi::auth::conf::MainConf as AuthConf;
use crate::ffi::nginx::conf_words::no_memory;
use crate::ffi::nginx::configured::Configured;
use crate::ffi::nginx::guard::{guard, log_panics, Guarded};
use crate::ffi::nginx::handle::{get_field, set_field, Handle as _};
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::memory::place_in_pool;
use crate::ffi::nginx::this_module::module;
use crate::ffi::nginx::timer::Alarm;
use crate::ffi::observe::{status_location, variables};
use crate::ffi::peer::hooks::init_keepalive_peer;
use crate::ffi::shared::counters::Told;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::shared::workers::count_alone;
use crate::ffi::state::counts::Counts;
use crate::ffi::state::extra::Extra;
use crate::ffi::state::srv_conf::SrvConf;
#[cfg(ngx_feature = "http_ssl")]
use crate::ffi::state::tls_sessions::Sessions;
use crate::ffi::state::upstream::{Idle, Upstream, UpstreamRef};
use crate::ffi::state::waits::Waits;
#[cfg(nginx_resolve)]
use crate::ffi::state::watch::Watch;
use crate::ffi::waiting::dispatch::dispatch_waiters;

use super::abi;
use super::stock::{InTheWay, Stock};
use super::warnings::{megabytes, warn_of_missing_pool, warn_of_replaced_hook, warn_of_servers};
use super::{Reading, UpstreamConf};

/// Runs before anything is read. Refuses an nginx that this module was not built for.
pub(crate) unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        log_panics();
        if abi::layout_matches() {
            return variables::add(cf).map_or_else(|| no_memory(cf), |()| NGX_OK as ngx_int_t);
        }
        ngx_conf_log_error!(
            NGX_LOG_EMERG,
            cf,
            "module \"ngx_http_upstream_keepalive_rs_module\" is not binary compatible: it was built with the \
             headers of another {}; rebuild it with the nginx-dev package, or the source and configure \
             arguments, of this very binary",
            env!("NGINX_BUILT_AGAINST")
        );
        NGX_ERROR as ngx_int_t
    })
}

/// Runs after ngx_http_upstream_module has initialised the balancers (so the order of `keepalive`
/// and the balancer's directive does not matter), and before the stock module's turn.
pub(crate) unsafe extern "C" fn init_main_conf(cf: *mut ngx_conf_t, _conf: *mut c_void) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: nginx passes the configuration being read.
        let cf = unsafe { Reading::from_ptr(cf) };
        let stock = match Stock::find(cf) {
            Ok(stock) => stock,
            Err(why) => return in_the_way(cf, why),
        };
        for (us, mut conf) in explicit_upstreams(cf) {
            // SAFETY: explicit, as it has a configuration.
            if let Err(why) = unsafe { stock.silence(cf, us) } {
                return in_the_way(cf, why);
            }
            // SAFETY: what `SrvConf::create` made; outside of its directives nobody else has a reference to it.
            let conf = unsafe { conf.as_mut() };
            if let Err(error) = enable(cf, us, conf, stock.default_keepalive()) {
                if error == SetupError::NoMemory {
                    let name = get_field!(us.host);
                    ngx_conf_log_error!(NGX_LOG_EMERG, cf.as_ptr(), "no memory for upstream \"{name}\"");
                }
                return NGX_CONF_ERROR;
            }
        }
        NGX_CONF_OK
    })
}

/// After every module had its turn.
pub(crate) unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes the configuration being read.
        let cf = unsafe { Reading::from_ptr(cf) };
        warn_of_replaced_hooks(cf);
        // SAFETY: the configuration being read, by the type invariant.
        if unsafe { status_location::check(cf.as_ptr()) }.is_err() {
            return NGX_ERROR as ngx_int_t;
        }
        match auth::module::add_first_handlers(cf.as_ptr()) {
            Ok(()) => {}
            Err(auth::module::Refused::Told) => return NGX_ERROR as ngx_int_t,
            Err(auth::module::Refused::NoMemory) => return no_memory(cf.as_ptr()),
        }
        match complete_zone(cf) {
            Some(Ok(())) => NGX_OK as ngx_int_t,
            Some(Err(Told)) => NGX_ERROR as ngx_int_t,
            None => no_memory(cf.as_ptr()),
        }
    })
}

/// Warns of each upstream in which another module has put its hook over ours.
fn warn_of_replaced_hooks(cf: Reading) {
    for (us, conf) in explicit_upstreams(cf) {
        // SAFETY: what `SrvConf::create` made; from here on it is only read.
        if !unsafe { conf.as_ref() }.upstream.is_null() {
            warn_of_replaced_hook(cf, us);
        }
    }
}

/// Adds the shared memory for what is counted: of all upstreams, and of all authorisation servers. `None` if there is no
/// memory.
fn complete_zone(cf: Reading) -> Option<Result<(), Told>> {
    // SAFETY: the configuration being read, by the type invariant.
    let zone = unsafe { MainConf::of_conf(cf.as_ptr()) }.map(|main| &main.zone)?;
    // SAFETY: the configuration being read, by the type invariant.
    let uris = unsafe { AuthConf::of_conf(cf.as_ptr()) }.and_then(AuthConf::uris)?;
    // SAFETY: the configuration being read, in which the zone was found.
    unsafe { zone.complete(cf.as_ptr(), uris) }
}

/// Why an upstream gets no pool.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SetupError {
    NoMemory,
    /// It has been logged.
    Told,
}

use SetupError::NoMemory;

/// Makes the pool and the queue of one explicit upstream, and puts `init_keepalive_peer` before the balancer's hook.
fn enable(
    cf: Reading,
    us: UpstreamConf,
    conf: &mut SrvConf,
    default: Option<Keepalive>,
) -> Result<(), SetupError> {
    let keepalive = conf.keepalive().or(default);
    let limit = limit_of(keepalive);
    if limit.is_none() {
        warn_of_missing_pool(cf, us, conf);
    }
    // In an upstream with `keepalive 0` it is only counted what becomes of its connections.
    if limit.is_none() && conf.queue.is_none() && conf.keepalive().is_none() {
        return Ok(());
    }
    let us_ptr = NonNull::new(us.as_ptr()).ok_or(NoMemory)?;
    // SAFETY: an upstream of the configuration being read, by the type invariant; it is explicit.
    let servers = unsafe { Configured::of(us_ptr) }.ok_or(NoMemory)?;
    warn_of_servers(cf, us, conf, limit, &servers);
    let upstream = make_upstream(cf, us_ptr, conf, keepalive, &servers)?;
    let pool = get_field!(cf.pool);
    // SAFETY: the new cycle's pool.
    let upstream = unsafe { place_in_pool(pool, upstream) }.ok_or(NoMemory)?;
    conf.upstream = upstream.as_ptr();
    // SAFETY: placed in the new cycle's pool just now, like what will hold the reference.
    let upstream = unsafe { UpstreamRef::new(upstream) };
    limit_connections(cf, upstream, &servers).ok_or(NoMemory)?;
    add_to_zone(cf, us, conf, keepalive, upstream, servers).ok_or(NoMemory)?;
    let hook: ngx_http_upstream_init_peer_pt = Some(init_keepalive_peer);
    set_field!(us.peer.init = hook);
    Ok(())
}

/// How many connections the pool keeps; `None` if there is no pool.
fn limit_of(keepalive: Option<Keepalive>) -> Option<Limit> {
    keepalive.and_then(|keepalive| keepalive.limit())
}

/// The pool and the queue of an upstream.
///
/// # Errors
/// If there is no memory. The log tells for which directive.
fn make_upstream(
    cf: Reading,
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    conf: &SrvConf,
    keepalive: Option<Keepalive>,
    servers: &Configured<'_>,
) -> Result<Upstream, SetupError> {
    let Some(waits) = Waits::new(conf.queue, servers.max_requests(), dispatch_waiters) else {
        let number = conf.queue.map_or(0, |queue| queue.number);
        ngx_conf_log_error!(NGX_LOG_EMERG, cf.as_ptr(), "no memory for \"queue {number}\"");
        return Err(SetupError::Told);
    };
    new_upstream(cf, us, conf, keepalive, servers, waits).ok_or_else(|| {
        let connections = keepalive.map_or(0, |keepalive| keepalive.connections);
        let memory = megabytes(limit_of(keepalive).unwrap_or(Limit::Total(1)));
        ngx_conf_log_error!(
            NGX_LOG_EMERG,
            cf.as_ptr(),
            "no memory for \"keepalive {connections}\": it needs {memory} MB in each worker"
        );
        SetupError::Told
    })
}

fn new_upstream(
    cf: Reading,
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    conf: &SrvConf,
    keepalive: Option<Keepalive>,
    servers: &Configured<'_>,
    waits: Waits,
) -> Option<Upstream> {
    let limit = limit_of(keepalive);
    // SAFETY: the configuration being read, by the type invariant.
    let main = unsafe { MainConf::of_conf(cf.as_ptr()) }?;
    let numbers = servers.ledger_size().map_or(0, Ledger::numbers);
    // Without `keepalive` the pool stays empty.
    let size = limit.unwrap_or(Limit::Total(1));
    let limits = limit.map(|_| conf.limits());
    let usual = limits.map_or(0, |limits| limits.timeout);
    // Only workers need the memory, as connections are stored. This is to know that there is enough for all.
    IdlePool::<Idle>::new(size, numbers, usual).reserve()?;
    // SAFETY: an upstream of the configuration being read, whose balancer has set the hook.
    let original_init_peer = unsafe { us.as_ref() }.peer.init;
    Some(Upstream {
        us,
        original_init_peer,
        limits,
        local: keepalive.is_some_and(|keepalive| keepalive.local),
        drain: conf.drain.unwrap_or_default(),
        check: conf.check(),
        stale_retry: conf.stale_retry.unwrap_or_default(),
        stale_fails: conf.stale_fails(),
        http2: Cell::new(limit.map(|_| conf.http2()).unwrap_or_default()),
        #[cfg(nginx_resolve)]
        // SAFETY: of the cycle in whose pool the upstream comes to lie.
        watch: servers.changing.then(|| unsafe { Watch::new(us) }),
        carriers: Guarded::default(),
        is_plain: Cell::new(false),
        nothing: Extra::nothing(),
        requests: NonNull::from(&main.requests),
        idle: Guarded::new(IdlePool::new(size, numbers, usual)),
        expiry: Alarm::new(),
        bindings: conf.ntlm.then(Guarded::default),
        is_stateful: Cell::new(false),
        #[cfg(ngx_feature = "http_ssl")]
        sessions: Sessions::new(servers.addresses.len()),
        counts: Counts::new(),
        waits,
        refused: Guarded::new(Vec::new()),
        hands_over: limit.is_some() && conf.handover(http_conf(cf)),
        handover: Cell::new(None),
        number: Cell::new(0),
        records: OnceCell::new(),
        closes_for: Cell::new(None),
        lessons: Cell::new(None),
        size,
    })
}

/// What is configured for all upstreams, in `http {}`.
fn http_conf<'a>(cf: Reading) -> &'a SrvConf {
    let context: *mut ngx_http_conf_ctx_t = get_field!(cf.ctx).cast();
    // SAFETY: nginx initialises main configurations in the context of `http {}`; reads one field.
    let confs = unsafe { (*context).srv_conf };
    // SAFETY: the context has a configuration for each module of this type.
    let conf = unsafe { confs.add(module().ctx_index) };
    // SAFETY: an element of the array, at the index of this module.
    let conf: *mut SrvConf = unsafe { *conf }.cast();
    // SAFETY: `SrvConf::create` made it for `http {}` itself; nothing writes it from here on.
    unsafe { &*conf }
}

/// Has the connections counted, if a server limits them: by each worker for itself, or by all together if the upstream has
/// a `zone`.
fn limit_connections(cf: Reading, upstream: UpstreamRef, servers: &Configured<'_>) -> Option<()> {
    let Some(size) = servers.ledger_size() else { return Some(()) };
    if servers.zone {
        // SAFETY: the configuration being read, by the type invariant.
        let main = unsafe { MainConf::of_conf(cf.as_ptr()) }?;
        return main.workers.add(upstream, size, servers.changing);
    }
    count_alone(&upstream, size, false)
}

/// Adds the upstream to what is counted for the status page. `None` if there is no memory.
fn add_to_zone(
    cf: Reading,
    us: UpstreamConf,
    conf: &SrvConf,
    keepalive: Option<Keepalive>,
    upstream: UpstreamRef,
    servers: Configured<'_>,
) -> Option<()> {
    // SAFETY: the configuration being read, by the type invariant.
    let main = unsafe { MainConf::of_conf(cf.as_ptr()) }?;
    main.zone.add(
        upstream,
        metrics::UpstreamInfo {
            name: metrics::readable(bytes(get_field!(us.host)))?,
            zone: servers.zone,
            servers: servers.servers,
            changing: servers.changing,
            limit: keepalive.map_or(0, |keepalive| keepalive.connections),
            per_server: keepalive.is_some_and(|keepalive| keepalive.per_server),
            queue: conf.queue.map(|queue| queue.number),
            http2: upstream.http2.get().is_on(),
            learns: upstream.learns(),
            is_wanted: conf.keepalive().is_some(),
        },
    )
}

/// The explicit upstreams of a configuration, each with what is configured for it.
fn explicit_upstreams(cf: Reading) -> impl Iterator<Item = (UpstreamConf, NonNull<SrvConf>)> {
    // SAFETY: the configuration being read, by the type invariant; no reference outlives this line.
    let main = NgxHttpUpstreamModule::main_conf(unsafe { &*cf.as_ptr() });
    // SAFETY: an array of pointers to upstreams; it is complete, nobody adds to it any more.
    let all = main.map_or(&[][..], |main| unsafe { main.upstreams.as_slice() });
    all.iter().filter_map(|us: &*mut ngx_http_upstream_srv_conf_t| {
        // SAFETY: an upstream of the configuration being read.
        let conf = unsafe { SrvConf::of(*us) }?;
        Some((UpstreamConf(NonNull::new(*us)?), conf))
    })
}

fn in_the_way(cf: Reading, why: InTheWay) -> *mut c_char {
    let why = match why {
        InTheWay::ComesFirst => "comes before it in this nginx; configure nginx without the stock module, or load ours as a dynamic module",
        InTheWay::NotSilenced => "cannot be switched off in this nginx",
    };
    ngx_conf_log_error!(
        NGX_LOG_EMERG,
        cf.as_ptr(),
        "module \"ngx_http_upstream_keepalive_rs_module\" cannot replace \"ngx_http_upstream_keepalive_module\", which {why}"
    );
    NGX_CONF_ERROR
}
