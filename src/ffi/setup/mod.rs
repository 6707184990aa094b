//! The module as nginx sees it, and what happens once the configuration is read.

use std::ptr::NonNull;

use nginx_sys::{ngx_conf_t, ngx_http_upstream_srv_conf_t};

use crate::ffi::nginx::handle::handle;

pub(crate) mod module;

pub(crate) mod directives;

pub(crate) mod enable;
pub(crate) mod stock;
mod warnings;

pub(crate) mod abi;

mod worker;

/// The configuration being read.
///
/// # Invariants
/// Points at the `ngx_conf_t` that nginx passes to a callback or a directive, and is not kept past that.
#[derive(Clone, Copy)]
pub(crate) struct Reading(NonNull<ngx_conf_t>);

/// An upstream of the configuration being read.
///
/// # Invariants
/// Points at an element of that configuration's `upstreams`, and is not kept past the callback.
#[derive(Clone, Copy)]
pub(crate) struct UpstreamConf(NonNull<ngx_http_upstream_srv_conf_t>);

handle!(Reading, ngx_conf_t);
handle!(UpstreamConf, ngx_http_upstream_srv_conf_t);

impl Reading {
    /// # Safety
    /// `cf` is what nginx passes to a callback or a directive.
    pub(crate) unsafe fn from_ptr(cf: *mut ngx_conf_t) -> Self {
        // SAFETY: nginx passes the address of a variable of its own.
        Self(unsafe { NonNull::new_unchecked(cf) })
    }
}
