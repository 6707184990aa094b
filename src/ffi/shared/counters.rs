//! The memory in which the workers of one configuration count: see [`crate::metrics`].
//!
//! The master makes it once it knows how many workers there will be. A reload makes a new one; the last one is remembered,
//! because its totals are carried on.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};

use nginx_sys::{
    ngx_conf_t, ngx_cycle_t, ngx_log_error_core, ngx_log_t, ngx_sock_ntop, ngx_str_t, ngx_uint_t, sockaddr,
    NGX_LOG_CRIT, NGX_LOG_EMERG, NGX_LOG_NOTICE, NGX_LOG_WARN,
};

use crate::base::address::MAX_ADDRESS;
use crate::base::atomic::AtomicU64;
use crate::base::memory::{is_spare, push};
use crate::metrics::{self, AuthMeter, Describe, Generation, Plan, Refused, ServerInfo, Snapshot};

use crate::ffi::nginx::log::write_line;
use crate::ffi::nginx::mapping::Mapping;
use crate::ffi::nginx::process::{is_alive, this_process, worker_processes, Cycle};
use crate::ffi::state::upstream::{Upstream, UpstreamRef};

/// The configuration is refused, and the reason is in the log.
pub(crate) struct Told;

/// `NGX_LOG_EMERG`, as nginx's functions take it.
const EMERG: usize = NGX_LOG_EMERG as usize;

/// The counters of one configuration.
#[derive(Default)]
pub(crate) struct Zone {
    /// `keepalive_zone`.
    pub(crate) directive: Cell<Option<Directive>>,
    plan: RefCell<Plan>,
    /// In the order of the plan.
    upstreams: RefCell<Vec<UpstreamRef>>,
    generation: OnceCell<Arc<Generation>>,
}

/// `keepalive_zone size;`
#[derive(Clone, Copy)]
pub(crate) struct Directive {
    /// In bytes.
    pub(crate) size: usize,
    /// Where it was written.
    pub(crate) file: ngx_str_t,
    pub(crate) line: ngx_uint_t,
}

/// The counters of the last configuration, in the master.
static LAST: Mutex<Option<Arc<Generation>>> = Mutex::new(None);

/// If the last configuration has no successor with this module, its totals end.
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
    /// Whether `look` returns true for any upstream; it is not called for the following ones then.
    pub(crate) fn any_upstream(&self, look: impl Fn(&Upstream) -> bool) -> bool {
        self.upstreams.borrow().iter().any(|upstream| look(upstream))
    }

    /// How many servers there can be. To be asked before [`Self::open`].
    pub(crate) fn servers(&self) -> usize {
        let plan = self.plan.borrow();
        let room = |changing| if changing { plan.room } else { 0 };
        plan.upstreams.iter().map(|upstream| upstream.servers.len() + room(upstream.changing)).sum()
    }

    /// Calls `each` with the address of each configured server. To be called before [`Self::open`].
    pub(crate) fn each_server(&self, each: impl FnMut(&[u8])) {
        let plan = self.plan.borrow();
        let servers = plan.upstreams.iter().flat_map(|upstream| upstream.servers.iter());
        servers.map(|server| server.address).for_each(each);
    }

    /// The upstream with a name; `number` is where to look first.
    pub(crate) fn upstream_named(&self, name: &[u8], number: usize) -> Option<UpstreamRef> {
        let upstreams = self.upstreams.borrow();
        let has_name = |upstream: &&UpstreamRef| upstream.name_bytes() == name;
        let first = upstreams.get(number).filter(has_name);
        first.or_else(|| upstreams.iter().find(has_name)).copied()
    }

    /// The upstream with a number.
    pub(crate) fn upstream(&self, number: usize) -> Option<UpstreamRef> {
        self.upstreams.borrow().get(number).copied()
    }

    /// Calls `each` with each upstream.
    pub(crate) fn each_upstream(&self, each: impl FnMut(&UpstreamRef)) {
        self.upstreams.borrow().iter().for_each(each);
    }

    /// Adds an upstream that is to be counted. `None` if there is no memory.
    pub(crate) fn add(&self, upstream: UpstreamRef, plan: metrics::UpstreamInfo) -> Option<()> {
        upstream.number.set(self.upstreams.borrow().len());
        push(&mut self.upstreams.borrow_mut(), upstream)?;
        push(&mut self.plan.borrow_mut().upstreams, plan)
    }

    /// Checks at the end of `http {}` whether `keepalive_zone` is large enough. (If `worker_processes` follows, its value
    /// is not known yet.) `auth` are the paths that are asked for authorisation. `None` if there is no memory.
    ///
    /// # Safety
    /// `cf` is the configuration being read.
    pub(crate) unsafe fn complete(&self, cf: *mut ngx_conf_t, auth: Vec<String>) -> Option<Result<(), Told>> {
        let upstreams = std::mem::take(&mut self.plan.borrow_mut().upstreams);
        *self.plan.borrow_mut() = Plan::new(upstreams, auth);
        let Some(directive) = self.directive.get() else { return Some(Ok(())) };
        // SAFETY: the caller says that it is the configuration being read.
        let cycle = unsafe { (*cf).cycle };
        // SAFETY: the new cycle, whose core module has its configuration.
        let workers = unsafe { worker_processes(cycle) };
        let needed = self.plan.borrow().size(workers) * size_of::<AtomicU64>();
        if needed > directive.size {
            let (bytes, needed) = (directive.size, needed.div_ceil(1024));
            // SAFETY: the caller says that it is the configuration being read.
            let log = unsafe { (*cf).log };
            let format = c"\"keepalive_zone\" of %uz bytes is too small, %uzk are needed with worker_processes %uz in %V:%ui";
            let (file, line) = (&raw const directive.file, directive.line);
            // SAFETY: the log is live; `%uz` takes a size, `%V` a string of nginx, `%ui` a number.
            unsafe { ngx_log_error_core(EMERG, log, 0, format.as_ptr(), bytes, needed, workers, file, line) };
            return Some(Err(Told));
        }
        if let Err(err) = Mapping::new(directive.size / size_of::<AtomicU64>()) {
            // SAFETY: the caller says that it is the configuration being read.
            let log = unsafe { (*cf).log };
            let (errno, format) =
                (err.raw_os_error().unwrap_or(0), c"\"keepalive_zone\" cannot be had in %V:%ui");
            let (file, line) = (&raw const directive.file, directive.line);
            // SAFETY: the log is live; `%V` takes a string of nginx, `%ui` a number.
            unsafe { ngx_log_error_core(EMERG, log, errno, format.as_ptr(), file, line) };
            return Some(Err(Told));
        }
        Some(Ok(()))
    }

    /// Makes the memory, in the master. Without memory nothing is counted.
    ///
    /// # Safety
    /// `cycle` is the live cycle to which this belongs.
    pub(crate) unsafe fn open(&self, cycle: *mut ngx_cycle_t, workers: usize) {
        // SAFETY: the caller says that the cycle is live.
        let log = unsafe { Cycle::from_ptr(cycle) }.log();
        let mut plan = self.plan.take();
        // Memory that was never touched costs nothing, so there is enough by default.
        let size =
            self.directive.get().map_or(usize::MAX, |directive| directive.size / size_of::<AtomicU64>());
        if self.directive.get().is_some() {
            if let Err(needed) = plan.use_all(size, workers) {
                let format = c"\"keepalive_zone\" is too small with worker_processes %uz, %uzk are used";
                let bytes = (needed * size_of::<AtomicU64>()).div_ceil(1024);
                // SAFETY: the log is live; `%uz` and `%uzk` take a size.
                unsafe { ngx_log_error_core(NGX_LOG_WARN as usize, log, 0, format.as_ptr(), workers, bytes) };
            }
        }
        let is_for_two_each = plan.size_for_two_each(workers) <= size;
        let words = if is_for_two_each { plan.memory_for_two_each(workers) } else { plan.memory(workers) };
        let mapping = match Mapping::new(words) {
            Ok(mapping) => mapping,
            Err(err) => {
                log_nothing_counted(log, err.raw_os_error().unwrap_or(0));
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
            log_nothing_counted(log, libc::ENOMEM);
            return;
        };
        let generation = Arc::new(generation);
        *last = Some(generation.clone());
        // It was empty until now, so this cannot fail.
        let _ = self.generation.set(generation);
    }

    /// This process is now worker number `me`. Returns the counters of the decisions about each path that is asked for
    /// authorisation.
    ///
    /// # Safety
    /// `cycle` is the live cycle to which this belongs.
    pub(crate) unsafe fn enter(&self, cycle: *mut ngx_cycle_t, me: usize) -> Option<Vec<AuthMeter>> {
        let generation = self.generation.get()?;
        // SAFETY: the caller says that the cycle is live.
        let log = unsafe { Cycle::from_ptr(cycle) }.log();
        let worker = match generation.enter(me, this_process(), is_alive) {
            Ok(worker) => worker,
            Err(Refused::NoMemory) => {
                log_nothing_counted(log, libc::ENOMEM);
                return None;
            }
            Err(Refused::Taken) => {
                let line = c"keepalive: the status does not count this worker, because other processes with its number still run";
                write_line(log, NGX_LOG_NOTICE, 0, line);
                return None;
            }
        };
        for (upstream, records) in self.upstreams.borrow().iter().zip(worker.upstreams) {
            // It was empty until now, so this cannot fail.
            let _ = upstream.records.set(records);
        }
        Some(worker.auth)
    }

    /// The present numbers. `describe` describes servers that are not configured, as the method of this name does. `None`
    /// if there is no memory.
    pub(crate) fn snapshot(&self, describe: &'static Describe) -> Option<Snapshot> {
        self.generation.get()?.snapshot(is_alive, describe)
    }

    /// Describes a server that is not configured, by its address. `None` if there is no memory.
    pub(crate) fn describe(&self, upstream: usize, address: &[u8]) -> Option<ServerInfo> {
        let text = address_text(address)?;
        #[cfg(nginx_resolve)]
        if let Some(upstream) = self.upstreams.borrow().get(upstream) {
            if let Some(servers) = upstream.servers_in_zone() {
                return Some(ServerInfo { text, ..servers.describe(address)? });
            }
        }
        #[cfg(not(nginx_resolve))]
        let _ = upstream;
        Some(ServerInfo { text, ..ServerInfo::default() })
    }

    /// The memory of the counters, once it was made.
    pub(crate) fn generation(&self) -> Option<&Arc<Generation>> {
        self.generation.get()
    }
}

/// Logs that nothing is counted, and why.
fn log_nothing_counted(log: *mut ngx_log_t, errno: i32) {
    write_line(log, NGX_LOG_CRIT, errno, c"keepalive: there is no memory to count in");
}

/// A socket address as text. Mirrors `ngx_sock_ntop()`. `None` if there is no memory.
fn address_text(address: &[u8]) -> Option<String> {
    let mut room = [0u64; MAX_ADDRESS / 8];
    let mut text = [0u8; 128];
    let memory: *mut u8 = room.as_mut_ptr().cast();
    // SAFETY: both have at least as many bytes, and do not overlap.
    unsafe { memory.copy_from_nonoverlapping(address.as_ptr(), address.len().min(MAX_ADDRESS)) };
    let socket: *mut sockaddr = room.as_mut_ptr().cast();
    // SAFETY: an aligned socket address, in memory of the size of the largest one; `text` has `text.len()` bytes.
    let length = unsafe { ngx_sock_ntop(socket, address.len() as _, text.as_mut_ptr(), text.len(), 1) };
    metrics::readable(text.get(..length).unwrap_or(&[]))
}
