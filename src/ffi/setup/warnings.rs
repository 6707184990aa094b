//! What `nginx -t` says about an upstream that is allowed, but is not what it seems. Each warning names the file and the line of
//! the upstream.

use std::ffi::CStr;
use std::fmt::{self, Display, Formatter};

use nginx_sys::{ngx_cycle_t, ngx_uint_t, NGX_LOG_WARN};
use ngx::ngx_log_error;

use crate::pool::{IdlePool, Limit};

use crate::ffi::nginx::configured::Configured;
use crate::ffi::nginx::handle::get_field;
use crate::ffi::nginx::process::Cycle;
use crate::ffi::peer::hooks::init_keepalive_peer;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::srv_conf::SrvConf;
use crate::ffi::state::upstream::{Idle, Upstream};

use super::{Reading, UpstreamConf};

/// Logs a warning about an upstream.
fn warn(cf: Reading, us: UpstreamConf, text: fmt::Arguments<'_>) {
    let place = Place { file: get_field!(us.file_name), line: ngx_uint_t::from(get_field!(us.line)) };
    ngx_log_error!(NGX_LOG_WARN, get_field!(cf.log), "{text} in {place}");
}

/// Where an upstream is written: a file, by its name that ends with a null byte, and a line.
struct Place {
    file: *const u8,
    line: ngx_uint_t,
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.file.is_null() {
            // SAFETY: nginx notes the name of the file for each explicit upstream, with a null byte at its end, in the cycle's pool.
            let file = unsafe { CStr::from_ptr(self.file.cast()) };
            for chunk in file.to_bytes().utf8_chunks() {
                f.write_str(chunk.valid())?;
            }
        }
        write!(f, ":{}", self.line)
    }
}

/// Warns of directives that have no effect in an upstream that keeps no connections. If it says so itself (`keepalive 0`), only
/// of those that ask for more than a pool.
pub(super) fn warn_of_missing_pool(cf: Reading, us: UpstreamConf, conf: &SrvConf) {
    let has_none = if conf.keepalive().is_some() { "has \"keepalive 0\"" } else { "has no \"keepalive\"" };
    let name = get_field!(us.host);
    for (directive, is_on) in [("ntlm", conf.ntlm), ("http2", conf.http2().is_on())] {
        if is_on {
            warn(
                cf,
                us,
                format_args!("\"{directive}\" in upstream \"{name}\" will never be used: it {has_none}"),
            );
        }
    }
    let written = conf.written_for_pool();
    if conf.keepalive().is_none() && written.clone().next().is_some() {
        let names = Names(written);
        warn(cf, us, format_args!("{names} in upstream \"{name}\" will never be used: it {has_none}"));
    }
}

/// Names of directives, in quotation marks.
struct Names<I>(I);

impl<I: Iterator<Item = &'static str> + Clone> Display for Names<I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (nth, name) in self.0.clone().enumerate() {
            write!(f, "{}\"{name}\"", if nth > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Warns of directives that do not fit the servers of the upstream.
pub(super) fn warn_of_servers(
    cf: Reading,
    us: UpstreamConf,
    conf: &SrvConf,
    limit: Option<Limit>,
    servers: &Configured<'_>,
) {
    let name = get_field!(us.host);
    if conf.queue.is_some() && !servers.any_limited && !conf.http2().is_on() {
        let why = "none of its servers has \"max_conns\"";
        warn(cf, us, format_args!("\"queue\" in upstream \"{name}\" will never be used: {why}"));
    }
    if let Some(Limit::Total(size)) = limit {
        let number = servers.servers.iter().filter(|server| !server.backup && !server.down).count();
        if size < number {
            warn(
                cf,
                us,
                format_args!(
                    "keepalive is on for upstream \"{name}\", but its pool of {size} is smaller than the {number} servers; \
                     set keepalive {number} or more, or a smaller number per_server"
                ),
            );
        }
    }
}

/// Warns if another module has put its hook over ours.
pub(super) fn warn_of_replaced_hook(cf: Reading, us: UpstreamConf) {
    let hook = get_field!(us.peer.init).map(|hook| hook as usize);
    if hook != Some(init_keepalive_peer as *const () as usize) {
        let name = get_field!(us.host);
        warn(
            cf,
            us,
            format_args!(
                "another module has taken over upstream \"{name}\" after its keepalive was set up; \
                 its connections may bypass the pool"
            ),
        );
    }
}

/// The memory of a full pool, in MB.
pub(super) fn megabytes(limit: Limit) -> usize {
    IdlePool::<Idle>::memory(limit).div_ceil(1 << 20)
}

/// Warns of pools that no worker can fill. It is not known earlier, as `events {}` may follow `http {}`.
///
/// # Safety
/// `cycle` is live, and its configuration, to which `main` belongs, has been read.
pub(super) unsafe fn warn_of_large_pools(main: &MainConf, cycle: *mut ngx_cycle_t) {
    // SAFETY: the caller says that the cycle is live.
    let cycle = unsafe { Cycle::from_ptr(cycle) };
    let most = get_field!(cycle.connection_n);
    // As for the warnings before: that of the new cycle shows errors only, unless it is configured otherwise.
    let log = Cycle::current().log();
    main.zone.each_upstream(|upstream| {
        let size = configured_size(upstream);
        if size > most {
            // SAFETY: the upstream is of the live cycle, and so is its name.
            let name = unsafe { *upstream.name() };
            let memory = megabytes(Limit::Total(size));
            // SAFETY: the server conf of an upstream lives as long as the upstream; copies one field.
            let file: *const u8 = unsafe { (*upstream.us.as_ptr()).file_name };
            // SAFETY: the server conf of an upstream lives as long as the upstream; copies one field.
            let line = unsafe { (*upstream.us.as_ptr()).line };
            let place = Place { file, line: ngx_uint_t::from(line) };
            ngx_log_error!(
                NGX_LOG_WARN,
                log,
                "\"keepalive {size}\" in upstream \"{name}\" is more than \"worker_connections {most}\"; a pool of this \
                 size needs {memory} MB of memory in each worker in {place}"
            );
        }
    });
}

/// The number of `keepalive`; 0 if nothing is kept.
fn configured_size(upstream: &Upstream) -> usize {
    match (upstream.limits, upstream.size) {
        (None, _) => 0,
        (Some(_), Limit::Total(number) | Limit::PerServer(number)) => number,
    }
}
