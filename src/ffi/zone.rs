//! The memory in which the workers of one configuration count: see [`crate::metrics`].
//!
//! The master makes it when it knows how many workers there will be. A reload makes a new one beside it; the last one
//! is remembered, as its numbers go on.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use nginx_sys::{
    ngx_command_t, ngx_conf_t, ngx_cycle_t, ngx_log_error_core, ngx_parse_size, ngx_sock_ntop, ngx_str_t,
    ngx_uint_t, sockaddr, NGX_LOG_CRIT, NGX_LOG_EMERG, NGX_LOG_WARN,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};

use crate::directive::Invalid;
use crate::metrics::{self, Generation, Plan, Server, View};
use crate::pool::MAX_ADDRESS;

use super::auth::conf::MainConf as AuthConf;
#[cfg(nginx_resolve)]
use super::balancer::Servers;
use super::directives::{report, words, IS_DUPLICATE};
use super::guard::guard;
use super::main_conf::{worker_processes, MainConf};
use super::mapping::Mapping;
use super::upstream::Upstream;
use super::workers::{is_alive, this_process};

/// Of one configuration.
#[derive(Default)]
pub(super) struct Zone {
    /// `keepalive_zone`.
    directive: Cell<Option<Directive>>,
    plan: RefCell<Plan>,
    /// In the order of the plan, and in the same cycle.
    upstreams: RefCell<Vec<NonNull<Upstream>>>,
    generation: OnceCell<Arc<Generation>>,
}

#[derive(Clone, Copy)]
struct Directive {
    /// In bytes.
    size: usize,
    /// Where it is written.
    file: ngx_str_t,
    line: ngx_uint_t,
}

/// The numbers of the last configuration, in the master.
static LAST: Mutex<Option<Arc<Generation>>> = Mutex::new(None);

/// Sets `keepalive_zone`.
pub(super) unsafe extern "C" fn keepalive_zone(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: what `MainConf::create` has made; only ever shared.
        let zone = unsafe { &(*conf.cast::<MainConf>()).zone };
        if zone.directive.get().is_some() {
            return IS_DUPLICATE.as_ptr().cast_mut();
        }
        // SAFETY: nginx passes the configuration being read.
        let mut size = unsafe { words(cf) }[1];
        // SAFETY: only read.
        let bytes = unsafe { ngx_parse_size(&raw mut size) };
        let Some(bytes) = usize::try_from(bytes).ok().filter(|_| size.len > 0) else {
            return report(cf, Err(Invalid::Argument("keepalive_zone", size.as_bytes())));
        };
        // SAFETY: as above.
        let file = unsafe { (*cf).conf_file };
        // SAFETY: nginx reads the directive from it, or from the command line as from a file; makes no reference.
        let name = unsafe { (*file).file.name };
        // SAFETY: as above.
        let line = unsafe { (*file).line };
        zone.directive.set(Some(Directive { size: bytes, file: name, line }));
        NGX_CONF_OK
    })
}

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

/// Says what is wrong with the directive, and where it is written.
///
/// # Safety
/// `cf` is the configuration being read.
unsafe fn refuse(cf: *mut ngx_conf_t, directive: &Directive, what: &str) {
    // SAFETY: live, says the caller.
    let log = unsafe { (*cf).log };
    let (format, file) = (c"\"keepalive_zone\" %*s in %V:%ui", &raw const directive.file);
    // SAFETY: `%*s` takes a length and a pointer, both of one string, `%V` a string of nginx, `%ui` a number.
    unsafe {
        ngx_log_error_core(
            NGX_LOG_EMERG as usize,
            log,
            0,
            format.as_ptr(),
            what.len(),
            what.as_ptr(),
            file,
            directive.line,
        );
    }
}

impl Zone {
    /// Notes an upstream that is to be counted.
    pub(super) fn add(&self, upstream: NonNull<Upstream>, plan: metrics::Upstream) {
        // SAFETY: in the same cycle, which is alive.
        unsafe { upstream.as_ref() }.number.set(self.upstreams.borrow().len());
        self.upstreams.borrow_mut().push(upstream);
        self.plan.borrow_mut().upstreams.push(plan);
    }

    /// The configuration is read to the end of `http {}`: says if `keepalive_zone` is too small. (Should the number of
    /// workers come behind it, that is known later.)
    ///
    /// # Safety
    /// `cf` is the configuration being read.
    pub(super) unsafe fn complete(&self, cf: *mut ngx_conf_t) -> Option<()> {
        // SAFETY: as the caller says.
        let auth = unsafe { AuthConf::of_conf(cf) }?.uris();
        let upstreams = std::mem::take(&mut self.plan.borrow_mut().upstreams);
        *self.plan.borrow_mut() = Plan::new(upstreams, auth);
        let Some(directive) = self.directive.get() else { return Some(()) };
        // SAFETY: live, says the caller.
        let cycle = unsafe { (*cf).cycle };
        // SAFETY: the cycle being made, whose core module has its configuration.
        let workers = unsafe { worker_processes(cycle) };
        let needed = self.plan.borrow().size(workers) * size_of::<AtomicU64>();
        if needed > directive.size {
            let (bytes, needed) = (directive.size, needed.div_ceil(1024));
            let what = format!(
                "of {bytes} bytes is too small, {needed}k are needed with worker_processes {workers}"
            );
            // SAFETY: as the caller says.
            unsafe { refuse(cf, &directive, &what) };
            return None;
        }
        if let Err(err) = Mapping::new(directive.size / size_of::<AtomicU64>()) {
            // SAFETY: as the caller says.
            unsafe { refuse(cf, &directive, &format!("cannot be had: {err}")) };
            return None;
        }
        Some(())
    }

    /// Makes the memory, in the master. Without it nothing is counted.
    ///
    /// # Safety
    /// `cycle` is the one to which this belongs.
    pub(super) unsafe fn open(&self, cycle: *mut ngx_cycle_t, workers: usize) {
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
                let errno = err.raw_os_error().unwrap_or(0);
                let line = c"keepalive: there is no memory to count in";
                // SAFETY: the line has no formats.
                unsafe { ngx_log_error_core(NGX_LOG_CRIT as usize, log, errno, line.as_ptr()) };
                return;
            }
        };
        let words = mapping.words();
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = Generation::new(plan, workers, words, Box::new(mapping), last.as_deref(), is_alive);
        *last = generation.map(Arc::new);
        if let Some(generation) = last.as_ref() {
            // It was empty until now.
            let _ = self.generation.set(generation.clone());
        }
    }

    /// This process is a worker now.
    ///
    /// # Safety
    /// `cycle` is the one to which this belongs.
    pub(super) unsafe fn enter(&self, cycle: *mut ngx_cycle_t, me: usize) {
        let Some(worker) = self.generation.get().and_then(|it| it.enter(me, this_process())) else { return };
        for (upstream, records) in self.upstreams.borrow().iter().zip(worker.upstreams) {
            // SAFETY: in the same cycle, which is alive.
            let upstream = unsafe { upstream.as_ref() };
            // It was empty until now.
            let _ = upstream.records.set(records);
        }
        // SAFETY: as the caller says.
        if let Some(auth) = unsafe { AuthConf::of_cycle(cycle) } {
            let _ = auth.meters.set(worker.auth);
        }
    }

    /// What the numbers are now. The cycle outlives those who look.
    pub(super) fn view(&'static self) -> Option<View> {
        let describe = |upstream: usize, address: &[u8]| self.describe(upstream, address);
        Some(self.generation.get()?.view(is_alive, describe))
    }

    /// What there is to be told of a server that is not of the configuration.
    fn describe(&self, upstream: usize, address: &[u8]) -> Server {
        let text = address_text(address);
        #[cfg(nginx_resolve)]
        if let Some(upstream) = self.upstreams.borrow().get(upstream) {
            // SAFETY: in the same cycle, which is alive.
            let us = unsafe { upstream.as_ref() }.us;
            // SAFETY: as above.
            if let Some(servers) = unsafe { Servers::in_zone(us) } {
                return Server { text, ..servers.describe(address) };
            }
        }
        #[cfg(not(nginx_resolve))]
        let _ = upstream;
        Server { text, ..Server::default() }
    }

    /// The numbers, if there is memory to count in.
    pub(super) fn generation(&self) -> Option<&Arc<Generation>> {
        self.generation.get()
    }
}

/// A socket address as nginx writes it.
fn address_text(address: &[u8]) -> String {
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
    String::from_utf8_lossy(text.get(..length).unwrap_or(&[])).into_owned()
}
