//! The memory in which the workers of one configuration learn: see [`crate::lessons`]. The next configuration begins with what
//! was learned.

use std::cell::OnceCell;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use nginx_sys::{ngx_cycle_t, NGX_LOG_CRIT};

use crate::base::memory::is_spare;
use crate::lessons::{Lessons, View};

use crate::ffi::nginx::log::write_line;
use crate::ffi::nginx::mapping::Mapping;
use crate::ffi::nginx::process::{now, this_process, Cycle};
use crate::ffi::state::lessons::ServerLessons;

use super::counters::Zone;

/// The lessons of one configuration.
#[derive(Default)]
pub(crate) struct Learning {
    own: OnceCell<ServerLessons>,
}

/// The lessons of the last configuration, in the master.
static LAST: Mutex<Option<Arc<Lessons>>> = Mutex::new(None);

/// If the last configuration has no successor with this module, its lessons are forgotten.
impl Drop for Learning {
    fn drop(&mut self) {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = |last: &Arc<Lessons>| self.own.get().is_some_and(|own| Arc::ptr_eq(own.all(), last));
        if last.as_ref().is_some_and(is_last) {
            *last = None;
        }
    }
}

impl Learning {
    /// Makes the memory, in the master, if an upstream learns. Without memory nothing is learned.
    ///
    /// # Safety
    /// `cycle` is the live cycle to which this and the zone belong.
    pub(crate) unsafe fn open(&self, cycle: *mut ngx_cycle_t, zone: &Zone) {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let learns = zone.any_upstream(|upstream| upstream.learns());
        let servers = zone.servers();
        let before = last.take();
        if !learns {
            return;
        }
        let Err(err) = self.make(servers) else {
            if let (Some(own), Some(before)) = (self.own.get(), before) {
                zone.each_server(|address| own.all().inherit(&before, address));
                own.all().inherit_others(&before, now());
            }
            *last = self.own.get().map(|own| own.all().clone());
            let own = self.own.get().map(NonNull::from);
            zone.each_upstream(|upstream| upstream.lessons.set(own.filter(|_| upstream.learns())));
            return;
        };
        // SAFETY: the caller says that the cycle is live.
        let log = unsafe { Cycle::from_ptr(cycle) }.log();
        let line = c"keepalive: no memory to learn when servers close connections";
        write_line(log, NGX_LOG_CRIT, err.raw_os_error().unwrap_or(0), line);
    }

    /// Makes the lessons.
    fn make(&self, servers: usize) -> std::io::Result<()> {
        let mapping = Mapping::new(Lessons::size(servers))?;
        let no_memory = || std::io::Error::from_raw_os_error(libc::ENOMEM);
        // Two small allocations that have no failing variant.
        let new = || Arc::new(Lessons::new(mapping.words(), Box::new(mapping)));
        let lessons = is_spare().then(new).ok_or_else(no_memory)?;
        // It was empty until now, so this cannot fail.
        let _ = self.own.set(ServerLessons::new(lessons));
        Ok(())
    }

    /// This process is now a worker.
    pub(crate) fn enter(&self) {
        if let Some(own) = self.own.get() {
            own.enter(this_process());
        }
    }

    /// What is known of the server at an address, to be shown.
    pub(crate) fn view(&self, address: &[u8]) -> View {
        self.own.get().map_or_else(View::default, |own| own.all().view(address, now()))
    }
}
