//! Once the configuration is read: gives each explicit upstream its pool and its hook.

use std::cell::{Cell, OnceCell};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_conf_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_log_error_core, ngx_uint_t, NGX_ERROR,
    NGX_LOG_EMERG, NGX_LOG_WARN, NGX_OK,
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
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::memory::place_in_pool;
use crate::ffi::observe::variables;
use crate::ffi::peer::hooks::init_keepalive_peer;
use crate::ffi::shared::counters::Told;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::shared::workers::count_alone;
use crate::ffi::state::counts::Counts;
use crate::ffi::state::srv_conf::SrvConf;
#[cfg(ngx_feature = "http_ssl")]
use crate::ffi::state::tls_sessions::Sessions;
use crate::ffi::state::upstream::{Idle, Upstream};
use crate::ffi::state::waits::Waits;
#[cfg(nginx_resolve)]
use crate::ffi::state::watch::Watch;
use crate::ffi::waiting::dispatch::dispatch_waiters;

use super::abi;
use super::stock::{InTheWay, Stock};

/// Before anything is read: refuses an nginx that this module was not built for.
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
        let stock = match unsafe { Stock::find(cf) } {
            Ok(stock) => stock,
            Err(why) => return in_the_way(cf, why),
        };
        for us in upstreams(cf) {
            // SAFETY: an upstream of this configuration.
            let Some(conf) = (unsafe { SrvConf::of(us) }) else { continue };
            // SAFETY: explicit, as it has a configuration.
            if let Err(why) = unsafe { stock.silence(cf, us) } {
                return in_the_way(cf, why);
            }
            // SAFETY: `cf`, `us` and `conf` belong together, and nobody else has `conf` now.
            let enabled =
                NonNull::new(us).map(|us| unsafe { enable(cf, us, conf, stock.default_keepalive()) });
            if let Some(Err(refusal)) = enabled {
                if refusal == SetupError::NoMemory {
                    // SAFETY: an upstream of this configuration.
                    let name = unsafe { (*us).host };
                    ngx_conf_log_error!(NGX_LOG_EMERG, cf, "no memory for upstream \"{name}\"");
                }
                return NGX_CONF_ERROR;
            }
        }
        NGX_CONF_OK
    })
}

/// After every module had its turn: says so if another one has put its hook over ours.
pub(crate) unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        for us in upstreams(cf) {
            // SAFETY: an upstream of this configuration.
            let Some(conf) = (unsafe { SrvConf::of(us) }) else { continue };
            // SAFETY: what `SrvConf::create` made.
            let pooled = unsafe { !(*conf.as_ptr()).upstream.is_null() };
            // SAFETY: an upstream of this configuration.
            let hook = unsafe { (*us).peer.init };
            if pooled && hook.map(|f| f as usize) != Some(init_keepalive_peer as *const () as usize) {
                // SAFETY: an upstream of this configuration.
                let name = unsafe { (*us).host };
                ngx_conf_log_error!(
                    NGX_LOG_WARN,
                    cf,
                    "another module has taken over upstream \"{name}\" after its keepalive was set up; \
                     its connections may bypass the pool"
                );
            }
        }
        if auth::module::add_first_handlers(cf).is_none() {
            return no_memory(cf);
        }
        // SAFETY: nginx passes the configuration being read.
        let zone = unsafe { MainConf::of_conf(cf) }.map(|main| &main.zone);
        // SAFETY: as above.
        let paths = unsafe { AuthConf::of_conf(cf) }.and_then(AuthConf::uris);
        // SAFETY: as above.
        let completed = zone.zip(paths).and_then(|(zone, paths)| unsafe { zone.complete(cf, paths) });
        match completed {
            Some(Ok(())) => NGX_OK as ngx_int_t,
            Some(Err(Told)) => NGX_ERROR as ngx_int_t,
            None => no_memory(cf),
        }
    })
}

/// Why an upstream gets no pool.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SetupError {
    NoMemory,
    /// The log tells of it already.
    Told,
}

use SetupError::NoMemory;

/// Makes the pool and the queue of one upstream, and puts `init_keepalive_peer` before the balancer's
/// hook.
///
/// # Safety
/// `us` is an explicit upstream of the configuration `cf` being read; `conf` is its, and not borrowed.
unsafe fn enable(
    cf: *mut ngx_conf_t,
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    mut conf: NonNull<SrvConf>,
    default: Option<Keepalive>,
) -> Result<(), SetupError> {
    // SAFETY: not borrowed, says the caller.
    let conf = unsafe { conf.as_mut() };
    let keepalive = conf.keepalive().or(default);
    let limit = keepalive.and_then(|keepalive| keepalive.limit());
    if conf.ntlm && limit.is_none() {
        // SAFETY: live, says the caller.
        let name = unsafe { us.as_ref() }.host;
        ngx_conf_log_error!(
            NGX_LOG_WARN,
            cf,
            "\"ntlm\" in upstream \"{name}\" will never be used: it has no \"keepalive\""
        );
    }
    // Of an upstream with `keepalive 0` it is only counted what becomes of its connections.
    if limit.is_none() && conf.queue.is_none() && conf.keepalive().is_none() {
        return Ok(());
    }
    // SAFETY: explicit, says the caller.
    let servers = unsafe { Configured::of(us) }.ok_or(NoMemory)?;
    if conf.queue.is_some() && !servers.any_limited {
        // SAFETY: live, says the caller.
        let name = unsafe { us.as_ref() }.host;
        ngx_conf_log_error!(
            NGX_LOG_WARN,
            cf,
            "\"queue\" in upstream \"{name}\" will never be used: none of its servers has \"max_conns\""
        );
    }
    if let Some(Limit::Total(connections)) = limit {
        let number = servers.servers.iter().filter(|server| !server.backup && !server.down).count();
        if connections < number {
            // SAFETY: live, says the caller.
            unsafe { warn_of_small_pool(cf, us, connections, number) };
        }
    }
    let Some(waits) = Waits::new(conf.queue, servers.max_requests(), dispatch_waiters) else {
        let number = conf.queue.map_or(0, |queue| queue.number);
        ngx_conf_log_error!(NGX_LOG_EMERG, cf, "no memory for \"queue {number}\"");
        return Err(SetupError::Told);
    };
    let Some(upstream) = make(cf, us, conf, keepalive, &servers, waits) else {
        let connections = keepalive.map_or(0, |keepalive| keepalive.connections);
        ngx_conf_log_error!(NGX_LOG_EMERG, cf, "no memory for \"keepalive {connections}\"");
        return Err(SetupError::Told);
    };
    // SAFETY: live, says the caller.
    let pool = unsafe { (*cf).pool };
    // SAFETY: the new cycle's pool.
    let upstream = unsafe { place_in_pool(pool, upstream) }.ok_or(NoMemory)?;
    conf.upstream = upstream.as_ptr();
    // SAFETY: placed there just now; only ever shared from here on.
    count(cf, unsafe { upstream.as_ref() }, &servers).ok_or(NoMemory)?;
    // SAFETY: the configuration being read.
    let main = unsafe { MainConf::of_conf(cf) }.ok_or(NoMemory)?;
    // SAFETY: live, says the caller.
    let name = unsafe { us.as_ref() }.host;
    let added = main.zone.add(
        upstream,
        metrics::UpstreamInfo {
            name: metrics::readable(bytes(name)).ok_or(NoMemory)?,
            servers: servers.servers,
            changing: servers.changing,
            limit: keepalive.map_or(0, |keepalive| keepalive.connections),
            per_server: keepalive.is_some_and(|keepalive| keepalive.per_server),
            queue: conf.queue.map(|queue| queue.number),
        },
    );
    added.ok_or(NoMemory)?;

    // SAFETY: live, says the caller.
    unsafe { (*us.as_ptr()).peer.init = Some(init_keepalive_peer) };
    Ok(())
}

/// # Safety
/// `us` is an explicit upstream of the configuration `cf` being read.
unsafe fn warn_of_small_pool(
    cf: *mut ngx_conf_t,
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    connections: usize,
    servers: usize,
) {
    let format =
        c"keepalive is on for upstream \"%V\", but its pool of %ui is smaller than the %ui servers; \
        set keepalive %ui or more, or a smaller number per_server in %s:%ui";
    // SAFETY: live, says the caller; makes no reference.
    let name = unsafe { &raw const (*us.as_ptr()).host };
    // SAFETY: live, says the caller; nginx notes where an explicit upstream is written.
    let file = unsafe { (*us.as_ptr()).file_name };
    // SAFETY: as above.
    let line = unsafe { (*us.as_ptr()).line };
    // SAFETY: live, says the caller.
    let log = unsafe { (*cf).log };
    // SAFETY: `%V` takes a string of nginx, `%ui` a number, `%s` a string that ends with a null byte.
    unsafe {
        ngx_log_error_core(
            NGX_LOG_WARN as usize,
            log,
            0,
            format.as_ptr(),
            name,
            connections,
            servers,
            servers,
            file,
            ngx_uint_t::from(line),
        );
    }
}

fn make(
    cf: *mut ngx_conf_t,
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    conf: &SrvConf,
    keepalive: Option<Keepalive>,
    servers: &Configured<'_>,
    waits: Waits,
) -> Option<Upstream> {
    let limit = keepalive.and_then(|keepalive| keepalive.limit());
    let numbers = servers.ledger_size().map_or(0, Ledger::numbers);
    // Without `keepalive` the pool stays empty.
    let size = limit.unwrap_or(Limit::Total(1));
    // Only workers need it, and not before a connection is stored: this is to know that it can be had.
    IdlePool::<Idle>::new(size, numbers).reserve().ok()?;
    // SAFETY: our callers pass the configuration being read.
    let pool = unsafe { (*cf).pool };
    // SAFETY: an explicit upstream, and its balancer has set the hook.
    let original_init_peer = unsafe { us.as_ref() }.peer.init;
    Some(Upstream {
        us,
        original_init_peer,
        limits: limit.map(|_| conf.limits()),
        local: keepalive.is_some_and(|keepalive| keepalive.local),
        drain: conf.drain.unwrap_or_default(),
        check: conf.check(),
        stale_retry: conf.stale_retry.unwrap_or_default(),
        stale_fails: conf.stale_fails(),
        #[cfg(nginx_resolve)]
        // SAFETY: of the cycle in whose pool the upstream comes to lie.
        watch: servers.changing.then(|| unsafe { Watch::new(us) }),
        idle: Guarded::new(IdlePool::new(size, numbers)),
        bindings: conf.ntlm.then(Guarded::default),
        is_stateful: Cell::new(false),
        #[cfg(ngx_feature = "http_ssl")]
        sessions: Sessions::new(servers.addresses.len()),
        pool: NonNull::new(pool)?,
        places: Cell::new(None),
        counts: Counts::new(),
        waits,
        number: Cell::new(0),
        records: OnceCell::new(),
    })
}

/// Sees to it that connections are counted, if a server limits them: by each worker for itself, or
/// by all together if the upstream has a zone.
fn count(cf: *mut ngx_conf_t, upstream: &Upstream, servers: &Configured<'_>) -> Option<()> {
    let Some(size) = servers.ledger_size() else { return Some(()) };
    if servers.zone {
        // SAFETY: our callers pass the configuration being read.
        let main = unsafe { MainConf::of_conf(cf) }?;
        return main.workers.add(NonNull::from(upstream), size, servers.changing);
    }
    count_alone(upstream, size, false)
}

/// The upstreams of a configuration, implicit ones too.
fn upstreams(cf: *mut ngx_conf_t) -> impl Iterator<Item = *mut ngx_http_upstream_srv_conf_t> {
    // SAFETY: nginx passes the configuration being read to all our callers.
    let main = unsafe { NgxHttpUpstreamModule::main_conf(&*cf) };
    // SAFETY: an array of pointers to upstreams; it is complete, nobody adds to it any more.
    main.map_or(&[][..], |main| unsafe { main.upstreams.as_slice() }).iter().copied()
}

fn in_the_way(cf: *mut ngx_conf_t, why: InTheWay) -> *mut c_char {
    let why = match why {
        InTheWay::ComesFirst => "comes before it in this nginx; configure nginx without the stock module, or load ours as a dynamic module",
        InTheWay::NotSilenced => "cannot be switched off in this nginx",
    };
    ngx_conf_log_error!(
        NGX_LOG_EMERG,
        cf,
        "module \"ngx_http_upstream_keepalive_rs_module\" cannot replace \"ngx_http_upstream_keepalive_module\", which {why}"
    );
    NGX_CONF_ERROR
}
