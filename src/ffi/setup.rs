//! Once the configuration is read: gives each explicit upstream its pool and its hook.

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_conf_t, ngx_http_upstream_srv_conf_t, ngx_int_t, NGX_ERROR, NGX_LOG_EMERG, NGX_LOG_WARN, NGX_OK,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleMainConf, NgxHttpUpstreamModule};
use ngx::ngx_conf_log_error;

#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::ngx_http_upstream_server_t;

use crate::directive::Keepalive;
use crate::pool::IdlePool;

use super::abi;
use super::conf::{allocate, place_in_pool, SrvConf};
use super::guard::{guard, log_panics};
use super::peer::init_keepalive_peer;
#[cfg(nginx_resolve)]
use super::resolve::Watch;
#[cfg(ngx_feature = "http_ssl")]
use super::session::Sessions;
use super::stock::{InTheWay, Stock};
use super::upstream::Upstream;

/// Before anything is read: refuses an nginx that this module was not built for.
pub(super) unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        log_panics();
        if abi::layout_matches() {
            return NGX_OK as ngx_int_t;
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
pub(super) unsafe extern "C" fn init_main_conf(cf: *mut ngx_conf_t, _conf: *mut c_void) -> *mut c_char {
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
            if let Err(NoMemory) = unsafe { enable(cf, us, conf, stock.default_keepalive()) } {
                return NGX_CONF_ERROR;
            }
        }
        NGX_CONF_OK
    })
}

/// After every module had its turn: says so if another one has put its hook over ours.
pub(super) unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
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
        NGX_OK as ngx_int_t
    })
}

struct NoMemory;

/// Makes the pool of one upstream, and puts `init_keepalive_peer` before the balancer's hook.
///
/// # Safety
/// `us` is an upstream of the configuration `cf` being read; `conf` is its, and not borrowed.
unsafe fn enable(
    cf: *mut ngx_conf_t,
    us: *mut ngx_http_upstream_srv_conf_t,
    mut conf: NonNull<SrvConf>,
    default: Option<Keepalive>,
) -> Result<(), NoMemory> {
    // SAFETY: not borrowed, says the caller.
    let conf = unsafe { conf.as_mut() };
    let Some(keepalive) = conf.keepalive().or(default) else { return Ok(()) };
    let Some(limit) = keepalive.limit() else { return Ok(()) };
    // SAFETY: live, says the caller.
    let pool = unsafe { (*cf).pool };
    // SAFETY: the new cycle's pool.
    let places = unsafe { allocate(pool, limit.capacity()) };
    #[cfg(ngx_feature = "http_ssl")]
    // SAFETY: an explicit upstream, says the caller.
    let sessions = Sessions::new(unsafe { addresses(us) }).ok_or(NoMemory)?;
    let (Ok(idle), Some(places)) = (IdlePool::new(limit), places) else {
        ngx_conf_log_error!(NGX_LOG_EMERG, cf, "no memory for \"keepalive {}\"", keepalive.connections);
        return Err(NoMemory);
    };
    // SAFETY: `places` lies in the pool in which the upstream comes to lie, one for each slot.
    #[cfg_attr(not(nginx_resolve), expect(unused_mut))]
    let mut upstream = unsafe {
        Upstream::new(
            conf.limits(),
            keepalive.local,
            idle,
            #[cfg(ngx_feature = "http_ssl")]
            sessions,
            places,
        )
    };
    #[cfg(nginx_resolve)]
    {
        // SAFETY: an explicit upstream, says the caller, and its balancer was initialised before us.
        upstream.watch = NonNull::new(us).and_then(|us| unsafe { Watch::new(us) });
    }
    // SAFETY: the new cycle's pool.
    let upstream = unsafe { place_in_pool(pool, upstream) }.ok_or(NoMemory)?;
    conf.upstream = upstream.as_ptr();

    // SAFETY: live, says the caller; its balancer has set the hook.
    conf.original_init_peer = unsafe { (*us).peer.init };
    // SAFETY: live, says the caller.
    unsafe { (*us).peer.init = Some(init_keepalive_peer) };
    Ok(())
}

/// How many addresses the servers of an upstream have in the configuration.
///
/// # Safety
/// `us` is an explicit upstream of the configuration being read.
#[cfg(ngx_feature = "http_ssl")]
unsafe fn addresses(us: *mut ngx_http_upstream_srv_conf_t) -> usize {
    // SAFETY: live, says the caller.
    let servers = unsafe { (*us).servers };
    // SAFETY: an array, or null if there are none.
    let Some(servers) = (unsafe { servers.as_ref() }) else { return 0 };
    // SAFETY: what the array holds.
    let servers: &[ngx_http_upstream_server_t] = unsafe { servers.as_slice() };
    servers.iter().map(|server| server.naddrs).sum()
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
