//! The memory in which the workers of one configuration count: see [`crate::metrics`].
//!
//! The master makes it when it knows how many workers there will be. A reload makes a new one beside it; the last one
//! is remembered, as its numbers go on.

use std::cell::{Cell, OnceCell, RefCell};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use nginx_sys::{
    ngx_conf_t, ngx_cycle_t, ngx_log_error_core, ngx_log_t, ngx_sock_ntop, ngx_str_t, ngx_uint_t, sockaddr,
    NGX_LOG_CRIT, NGX_LOG_EMERG, NGX_LOG_WARN,
};

use crate::base::address::MAX_ADDRESS;
use crate::base::memory::{is_spare, push};
use crate::metrics::{self, AuthMeter, Describe, Generation, Plan, ServerInfo, Snapshot};

#[cfg(nginx_resolve)]
use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::mapping::Mapping;
use crate::ffi::nginx::process::{is_alive, this_process, worker_processes};
use crate::ffi::state::upstream::Upstream;

/// The configuration is refused, and the log tells why.
pub(crate) struct Told;

/// Of one configuration.
#[derive(Default)]
pub(crate) struct Zone {
    /// `keepalive_zone`.
    pub(crate) directive: Cell<Option<Directive>>,
    plan: RefCell<Plan>,
    /// In the order of the plan, and in the same cycle.
    upstreams: RefCell<Vec<NonNull<Upstream>>>,
    generation: OnceCell<Arc<Generation>>,
}

/// `keepalive_zone size;`
#[derive(Clone, Copy)]
pub(crate) struct Directive {
    /// In bytes.
    pub(crate) size: usize,
    /// Where it is written.
    pub(crate) file: ngx_str_t,
    pub(crate) line: ngx_uint_t,
}

/// The numbers of the last configuration, in the master.
static LAST: Mutex<Option<Arc<Generation>>> = Mutex::new(None);

/// A configuration without the module ends all that was counted.
impl Drop for Zone {
    fn drop(&mut self) {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last =
            |last: &Arc<Generation>| self.generation.get().is_some_and(|own| Arc::ptr_eq(own, last));
        if last.as_ref().is_some_and(is_last) {
            *last = None;
        }
    }
}

impl Zone {
    /// Whether `look` finds something in any of the upstreams; it looks no further then.
    pub(crate) fn any_upstream(&self, look: impl Fn(&Upstream) -> bool) -> bool {
        // SAFETY: in the same cycle, which is alive.
        self.upstreams.borrow().iter().any(|upstream| look(unsafe { upstream.as_ref() }))
    }

    /// Notes an upstream that is to be counted. `None` if there is no memory.
    pub(crate) fn add(&self, upstream: NonNull<Upstream>, plan: metrics::UpstreamInfo) -> Option<()> {
        // SAFETY: in the same cycle, which is alive.
        unsafe { upstream.as_ref() }.number.set(self.upstreams.borrow().len());
        push(&mut self.upstreams.borrow_mut(), upstream)?;
        push(&mut self.plan.borrow_mut().upstreams, plan)
    }

    /// The configuration is read to the end of `http {}`: says if `keepalive_zone` is too small. (Should the number of
    /// workers come behind it, that is known later.) `auth` are the paths that are asked for authorisation. `None` if
    /// there is no memory.
    ///
    /// # Safety
    /// `cf` is the configuration being read.
    pub(crate) unsafe fn complete(&self, cf: *mut ngx_conf_t, auth: Vec<String>) -> Option<Result<(), Told>> {
        let upstreams = std::mem::take(&mut self.plan.borrow_mut().upstreams);
        *self.plan.borrow_mut() = Plan::new(upstreams, auth);
        let Some(directive) = self.directive.get() else { return Some(Ok(())) };
        // SAFETY: live, says the caller.
        let cycle = unsafe { (*cf).cycle };
        // SAFETY: the cycle being made, whose core module has its configuration.
        let workers = unsafe { worker_processes(cycle) };
        let needed = self.plan.borrow().size(workers) * size_of::<AtomicU64>();
        if needed > directive.size {
            let (bytes, needed) = (directive.size, needed.div_ceil(1024));
            // SAFETY: as the caller says.
            let log = unsafe { (*cf).log };
            let format = c"\"keepalive_zone\" of %uz bytes is too small, %uzk are needed with worker_processes %uz in %V:%ui";
            let (file, line) = (&raw const directive.file, directive.line);
            // SAFETY: `%uz` takes a size, `%V` a string of nginx, `%ui` a number.
            unsafe {
                ngx_log_error_core(
                    NGX_LOG_EMERG as usize,
                    log,
                    0,
                    format.as_ptr(),
                    bytes,
                    needed,
                    workers,
                    file,
                    line,
                );
            }
            return Some(Err(Told));
        }
        if let Err(err) = Mapping::new(directive.size / size_of::<AtomicU64>()) {
            // SAFETY: as the caller says.
            let log = unsafe { (*cf).log };
            let (errno, format) =
                (err.raw_os_error().unwrap_or(0), c"\"keepalive_zone\" cannot be had in %V:%ui");
            let (file, line) = (&raw const directive.file, directive.line);
            // SAFETY: `%V` takes a string of nginx, `%ui` a number.
            unsafe { ngx_log_error_core(NGX_LOG_EMERG as usize, log, errno, format.as_ptr(), file, line) };
            return Some(Err(Told));
        }
        Some(Ok(()))
    }

    /// Makes the memory, in the master. Without it nothing is counted.
    ///
    /// # Safety
    /// `cycle` is the one to which this belongs.
    pub(crate) unsafe fn open(&self, cycle: *mut ngx_cycle_t, workers: usize) {
        // SAFETY: live, says the caller.
        let log = unsafe { (*cycle).log };
        let mut plan = self.plan.take();
        if let Some(Directive { size, .. }) = self.directive.get() {
            if let Err(needed) = plan.use_all(size / size_of::<AtomicU64>(), workers) {
                let format = c"\"keepalive_zone\" is too small with worker_processes %uz, %uzk are used";
                let bytes = (needed * size_of::<AtomicU64>()).div_ceil(1024);
                // SAFETY: `%uz` takes a size.
                unsafe { ngx_log_error_core(NGX_LOG_WARN as usize, log, 0, format.as_ptr(), workers, bytes) };
            }
        }
        let mapping = match Mapping::new(plan.size(workers)) {
            Ok(mapping) => mapping,
            Err(err) => {
                // SAFETY: live, says the caller.
                unsafe { nothing_is_counted(log, err.raw_os_error().unwrap_or(0)) };
                return;
            }
        };
        let words = mapping.words();
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = is_spare()
            .then(|| Generation::new(plan, workers, words, Box::new(mapping), last.as_deref(), is_alive))
            .flatten();
        let Some(generation) = generation.filter(|_| is_spare()) else {
            *last = None;
            // SAFETY: live, says the caller.
            unsafe { nothing_is_counted(log, libc::ENOMEM) };
            return;
        };
        let generation = Arc::new(generation);
        *last = Some(generation.clone());
        // It was empty until now.
        let _ = self.generation.set(generation);
    }

    /// This process is a worker now. Returns what counts the decisions about each path that is asked for authorisation.
    ///
    /// # Safety
    /// `cycle` is the one to which this belongs.
    pub(crate) unsafe fn enter(&self, cycle: *mut ngx_cycle_t, me: usize) -> Option<Vec<AuthMeter>> {
        let generation = self.generation.get()?;
        let Some(worker) = generation.enter(me, this_process()) else {
            // SAFETY: live, says the caller.
            let log = unsafe { (*cycle).log };
            // SAFETY: as above.
            unsafe { nothing_is_counted(log, libc::ENOMEM) };
            return None;
        };
        for (upstream, records) in self.upstreams.borrow().iter().zip(worker.upstreams) {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { upstream.as_ref() };
            // It was empty until now.
            let _ = upstream.records.set(records);
        }
        Some(worker.auth)
    }

    /// What the numbers are now; `describe` tells of servers that are not of the configuration, as `describe` here. `None` if
    /// there is no memory.
    pub(crate) fn snapshot(&self, describe: &'static Describe) -> Option<Snapshot> {
        self.generation.get()?.snapshot(is_alive, describe)
    }

    /// What there is to be told of a server that is not of the configuration.
    pub(crate) fn describe(&self, upstream: usize, address: &[u8]) -> Option<ServerInfo> {
        let text = address_text(address)?;
        #[cfg(nginx_resolve)]
        if let Some(upstream) = self.upstreams.borrow().get(upstream) {
            // SAFETY: in the same cycle, which is alive.
            let us = unsafe { upstream.as_ref() }.us;
            // SAFETY: as above.
            if let Some(servers) = unsafe { Servers::in_zone(us) } {
                return Some(ServerInfo { text, ..servers.describe(address)? });
            }
        }
        #[cfg(not(nginx_resolve))]
        let _ = upstream;
        Some(ServerInfo { text, ..ServerInfo::default() })
    }

    /// The numbers, if there is memory to count in.
    pub(crate) fn generation(&self) -> Option<&Arc<Generation>> {
        self.generation.get()
    }
}

/// Says that nothing is counted, and why.
///
/// # Safety
/// `log` is live.
unsafe fn nothing_is_counted(log: *mut ngx_log_t, errno: i32) {
    let line = c"keepalive: there is no memory to count in";
    // SAFETY: live, says the caller; the line has no formats.
    unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, errno, line.as_ptr()) };
}

/// A socket address as nginx writes it. `None` if there is no memory.
fn address_text(address: &[u8]) -> Option<String> {
    let mut room = [0u64; MAX_ADDRESS / 8];
    let mut text = [0u8; 128];
    // SAFETY: as many bytes as both have.
    unsafe {
        room.as_mut_ptr()
            .cast::<u8>()
            .copy_from_nonoverlapping(address.as_ptr(), address.len().min(MAX_ADDRESS));
    }
    let socket: *mut sockaddr = room.as_mut_ptr().cast();
    // SAFETY: a socket address, aligned, in memory as large as the largest; and room for so many bytes.
    let length = unsafe { ngx_sock_ntop(socket, address.len() as _, text.as_mut_ptr(), text.len(), 1) };
    metrics::readable(text.get(..length).unwrap_or(&[]))
}
