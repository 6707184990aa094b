//! Whether a permission can pass without nginx's header filters.
//!
//! The header of an auth subrequest goes to nobody, and nginx's own header filters leave a subrequest without a body as it is, but for
//! headers that describe its body. So if nothing reads the header of a permission either, the filters are called for nothing. Other
//! modules' filters may do anything, for example log or count: if there is a module that is not known here, all filters are called.

use nginx_sys::{ngx_http_variable_t, NGX_HTTP_MODULE};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf, NgxHttpCoreModule};

use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::modules::{modules, name};
use crate::ffi::nginx::process::Cycle;
use crate::ffi::nginx::request::Request;

/// nginx's own modules, and ours. Not among them are those whose header filters may replace a response by an error, whatever it
/// is: the image filter and the XSLT filter. The slice filter does so only after `$slice_range` was used.
const KNOWN: [&[u8]; 68] = [
    b"ngx_http_access_module",
    b"ngx_http_addition_filter_module",
    b"ngx_http_auth_basic_module",
    b"ngx_http_auth_request_module",
    b"ngx_http_auth_subrequest_module",
    b"ngx_http_autoindex_module",
    b"ngx_http_browser_module",
    b"ngx_http_charset_filter_module",
    b"ngx_http_chunked_filter_module",
    b"ngx_http_copy_filter_module",
    b"ngx_http_core_module",
    b"ngx_http_dav_module",
    b"ngx_http_degradation_module",
    b"ngx_http_empty_gif_module",
    b"ngx_http_fastcgi_module",
    b"ngx_http_flv_module",
    b"ngx_http_geo_module",
    b"ngx_http_geoip_module",
    b"ngx_http_grpc_module",
    b"ngx_http_gunzip_filter_module",
    b"ngx_http_gzip_filter_module",
    b"ngx_http_gzip_static_module",
    b"ngx_http_header_filter_module",
    b"ngx_http_headers_filter_module",
    b"ngx_http_index_module",
    b"ngx_http_limit_conn_module",
    b"ngx_http_limit_req_module",
    b"ngx_http_log_module",
    b"ngx_http_map_module",
    b"ngx_http_memcached_module",
    b"ngx_http_mirror_module",
    b"ngx_http_mp4_module",
    b"ngx_http_not_modified_filter_module",
    b"ngx_http_postpone_filter_module",
    b"ngx_http_proxy_module",
    b"ngx_http_proxy_v2_module",
    b"ngx_http_random_index_module",
    b"ngx_http_range_body_filter_module",
    b"ngx_http_range_header_filter_module",
    b"ngx_http_realip_module",
    b"ngx_http_referer_module",
    b"ngx_http_rewrite_module",
    b"ngx_http_scgi_module",
    b"ngx_http_secure_link_module",
    b"ngx_http_slice_filter_module",
    b"ngx_http_split_clients_module",
    b"ngx_http_ssi_filter_module",
    b"ngx_http_ssl_module",
    b"ngx_http_static_module",
    b"ngx_http_stub_status_module",
    b"ngx_http_sub_filter_module",
    b"ngx_http_try_files_module",
    b"ngx_http_upstream_hash_module",
    b"ngx_http_upstream_ip_hash_module",
    b"ngx_http_upstream_keepalive_module",
    b"ngx_http_upstream_keepalive_rs_module",
    b"ngx_http_upstream_least_conn_module",
    b"ngx_http_upstream_module",
    b"ngx_http_upstream_random_module",
    b"ngx_http_upstream_sticky_module",
    b"ngx_http_upstream_zone_module",
    b"ngx_http_userid_filter_module",
    b"ngx_http_uwsgi_module",
    b"ngx_http_v2_filter_module",
    b"ngx_http_v2_module",
    b"ngx_http_v3_filter_module",
    b"ngx_http_v3_module",
    b"ngx_http_write_filter_module",
];

/// Whether a cycle, whose configuration has been read, has known modules only.
pub(super) fn all_known(cycle: Cycle) -> bool {
    let http_modules = modules(cycle).iter().filter(|module| {
        // SAFETY: a module of the cycle, which stays loaded as long as the cycle; reads one field.
        let kind = unsafe { (***module).type_ };
        kind == NGX_HTTP_MODULE as usize
    });
    let mut names = http_modules.map(|module| name(*module));
    // SAFETY: a handle points at a live cycle; the reference is used in this statement only.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*cycle.as_ptr() });
    // SAFETY: nginx's array of the variables that have an index, which does not change after the configuration was read.
    let variables: &[ngx_http_variable_t] = main.map_or(&[], |main| unsafe { main.variables.as_slice() });
    names.all(|name| KNOWN.contains(&name))
        && !variables.iter().any(|variable| variable.name.as_bytes().eq_ignore_ascii_case(b"slice_range"))
}

/// Whether nothing reads the header of an auth subrequest whose body is not captured: it is a permission of a server, its location
/// is not logged. (Where variables are set from it, no header passes.) (Headers that are copied come from the server's response.)
#[inline]
pub(super) fn needs_none(sub: Request) -> bool {
    let status = sub.status();
    matches!(status, 200..=299)
        && sub.upstream().is_some_and(|u| u.response_status() == usize::from(status))
        && !is_logged(sub)
}

/// Whether the location of a subrequest writes it to the access log (`log_subrequest`).
#[inline]
fn is_logged(sub: Request) -> bool {
    // SAFETY: a handle points at a live request; the reference is used in this statement only.
    let conf = NgxHttpCoreModule::location_conf(unsafe { &*sub.as_ptr() });
    conf.is_none_or(|conf| conf.log_subrequest != 0)
}
