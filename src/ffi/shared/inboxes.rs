//! The inboxes of the workers of a configuration, and of the next one. The master makes and keeps them, so a message to a
//! worker that is killed is read by the worker that takes its place.

use std::cell::OnceCell;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use nginx_sys::{ngx_cycle_t, NGX_LOG_CRIT, NGX_LOG_WARN};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::log::write_line;
use crate::ffi::nginx::process::{descriptor_limit, monotonic_nanoseconds, this_process, Cycle};
use crate::ffi::state::handover::Handover;
use crate::ffi::state::inboxes::{fill, Inbox, Inboxes};
use crate::ffi::state::upstream::Upstream;

/// The inboxes of one configuration.
#[derive(Default)]
pub(crate) struct Mail {
    own: OnceCell<Inboxes>,
    /// In a worker.
    handover: OnceCell<Handover>,
}

/// The inboxes of the next configuration.
struct Next {
    inboxes: Vec<Inbox>,
    /// The number of the configuration with which they were made.
    generation: u64,
}

/// In the master. A worker takes what it needs, and closes the others.
static NEXT: Mutex<Option<Next>> = Mutex::new(None);

fn next() -> std::sync::MutexGuard<'static, Option<Next>> {
    NEXT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The descriptors in the master for each worker: two inboxes, each with two ends. At most a quarter of all descriptors are for
/// inboxes.
const DESCRIPTORS: usize = 4;

/// If the last configuration has no successor with this module, nobody takes the connections of its workers.
impl Drop for Mail {
    fn drop(&mut self) {
        let mut next = next();
        if let Some(own) = self.own.get() {
            next.take_if(|next| next.generation == own.generation);
        }
    }
}

impl Mail {
    /// Makes the inboxes, in the master. Without them nothing is handed over.
    ///
    /// # Safety
    /// `cycle` is the live cycle to which this belongs.
    pub(crate) unsafe fn open(&self, cycle: *mut ngx_cycle_t, workers: usize) {
        let mut next = next();
        let prepared = next.take().map(|next| next.inboxes);
        match make(workers, prepared) {
            Ok((own, inboxes)) => {
                *next = Some(Next { inboxes, generation: own.generation });
                // It was empty until now.
                let _ = self.own.set(own);
            }
            Err(err) => {
                // SAFETY: the caller says that the cycle is live.
                let log = unsafe { Cycle::from_ptr(cycle) }.log();
                let errno = err.raw_os_error().unwrap_or(0);
                // A limit of descriptors that is low for so many workers is no failure.
                let (level, line) = match errno {
                    libc::ENOMEM => {
                        (NGX_LOG_CRIT, c"keepalive: no memory for workers to hand connections over")
                    }
                    _ => (NGX_LOG_WARN, c"keepalive: workers cannot hand connections over"),
                };
                write_line(log, level, errno, line);
            }
        }
    }

    /// This configuration hands nothing over, and so does not take anything from the one before.
    pub(crate) fn close() {
        *next() = None;
    }

    /// This process is now worker number `me`. Returns what it needs to hand connections over; see [`Handover::new`].
    pub(crate) fn enter(
        &self,
        me: usize,
        give_instead_of_closing: fn(&Upstream, u32, Conn) -> bool,
    ) -> Option<NonNull<Handover>> {
        let own = NonNull::from(self.own.get()?);
        let mut inboxes = next().take().map_or(Vec::new(), |next| next.inboxes);
        let link = (me < inboxes.len()).then(|| inboxes.swap_remove(me).outer);
        // SAFETY: lies beside the handover in the same structure, is not moved, and is only ever shared.
        let handover = unsafe { Handover::new(own, me, this_process(), link, give_instead_of_closing) }?;
        Some(NonNull::from(self.handover.get_or_init(|| handover)))
    }

    /// Where a worker reads its messages.
    pub(crate) fn inner_ends(&self, worker: usize) -> impl Iterator<Item = RawFd> + '_ {
        self.own.get().into_iter().flat_map(move |own| own.inner_ends(worker))
    }

    /// What this worker needs to hand connections over.
    pub(crate) fn handover(&self) -> Option<&Handover> {
        self.handover.get()
    }
}

/// The inboxes of a configuration, and of the next one.
fn make(workers: usize, prepared: Option<Vec<Inbox>>) -> std::io::Result<(Inboxes, Vec<Inbox>)> {
    if workers > descriptor_limit() / (4 * DESCRIPTORS) {
        return Err(std::io::Error::from_raw_os_error(libc::EMFILE));
    }
    let own = Inboxes::new(workers, monotonic_nanoseconds(), prepared)?;
    let mut inboxes = Vec::new();
    fill(&mut inboxes, workers)?;
    Ok((own, inboxes))
}
