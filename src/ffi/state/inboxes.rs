//! The inboxes of the workers of one configuration, by which they hand connections over. They have no name in the file system:
//! only processes that inherit them can reach them.
//!
//! ```text
//!   configuration 1                  configuration 2                     configuration 3
//!
//!   its workers  --- outer end        inner end ---  its workers
//!                    of an inbox of configuration 2  --- outer end        inner end ---  its workers
//!                                                        of an inbox of configuration 3
//! ```
//!
//! The master makes the inboxes of the *next* configuration along with the workers of each configuration. So a worker has the
//! outer end of an inbox of its successors, before these exist; they say so by a message in the other direction. The workers of
//! one configuration write to each other's outer ends too.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::base::memory::push;
use crate::handover::index::Index;
use crate::handover::reading::Readers;

use crate::ffi::nginx::mapping::Mapping;
use crate::ffi::nginx::passing::pair;

/// An inbox: what is written to the outer end is read from the inner end, and the reverse.
pub(crate) struct Inbox {
    pub(crate) inner: OwnedFd,
    pub(crate) outer: OwnedFd,
}

/// The inboxes of all workers of a configuration, and the index of their connections.
pub(crate) struct Inboxes {
    /// The number of the configuration; a later one has a larger number.
    pub(crate) generation: u64,
    pub(crate) index: Index,
    pub(crate) readers: Readers,
    pub(crate) workers: usize,
    /// Whether workers of an earlier configuration may have outer ends.
    pub(crate) has_predecessors: bool,
    /// At least one for each worker. If there were more workers before, a worker has several.
    inboxes: Vec<Inbox>,
    _memory: Mapping,
}

/// Adds inboxes until there are `number`.
///
/// # Errors
/// If there are no descriptors, or no memory.
pub(crate) fn fill(inboxes: &mut Vec<Inbox>, number: usize) -> std::io::Result<()> {
    while inboxes.len() < number {
        let (inner, outer) = pair()?;
        push(inboxes, Inbox { inner, outer }).ok_or_else(no_memory)?;
    }
    Ok(())
}

fn no_memory() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ENOMEM)
}

impl Inboxes {
    /// For a number of workers. `prepared` are the inboxes that the configuration before has made, if there was one.
    ///
    /// # Errors
    /// If there are no descriptors, or no memory.
    pub(crate) fn new(
        workers: usize,
        generation: u64,
        prepared: Option<Vec<Inbox>>,
    ) -> std::io::Result<Self> {
        let has_predecessors = prepared.is_some();
        let mut inboxes = prepared.unwrap_or_default();
        fill(&mut inboxes, workers)?;
        let memory = Mapping::new(Index::size(workers) + Readers::size(workers))?;
        let (for_index, for_readers) = memory.words().split_at(Index::size(workers));
        let index = Index::new(for_index, workers).ok_or_else(no_memory)?;
        let readers = Readers::new(for_readers, workers).ok_or_else(no_memory)?;
        Ok(Self { generation, index, readers, workers, has_predecessors, inboxes, _memory: memory })
    }

    /// Where a worker reads its messages.
    pub(crate) fn inner_ends(&self, worker: usize) -> impl Iterator<Item = RawFd> + '_ {
        self.inboxes.iter().skip(worker).step_by(self.workers.max(1)).map(|inbox| inbox.inner.as_raw_fd())
    }

    /// Where messages to a worker are written.
    pub(crate) fn outer_end(&self, worker: usize) -> Option<RawFd> {
        self.inboxes.get(worker).filter(|_| worker < self.workers).map(|inbox| inbox.outer.as_raw_fd())
    }
}
