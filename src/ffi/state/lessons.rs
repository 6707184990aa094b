//! What was learned of the servers, as an upstream sees it.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::lessons::{Body, Head, Lesson, Lessons, Witness, BLOCK_WORDS, BODY_WORDS, HEAD_WORDS, IN_BLOCK};
use crate::metrics::Meter;

use crate::ffi::nginx::process::{is_alive, now};

/// The lessons of one configuration, in one worker.
pub(crate) struct ServerLessons {
    lessons: Arc<Lessons>,
    /// The identity of this process; 0 in the master.
    process: Cell<u64>,
}

impl ServerLessons {
    pub(crate) fn new(lessons: Arc<Lessons>) -> Self {
        Self { lessons, process: Cell::new(0) }
    }

    /// This process is a worker now.
    pub(crate) fn enter(&self, process: u64) {
        self.process.set(process);
    }

    /// What is known of the server at an address, to which a connection is opened.
    pub(crate) fn of(&self, address: &[u8]) -> Lesson {
        self.lessons.of(address, now())
    }

    pub(crate) fn all(&self) -> &Arc<Lessons> {
        &self.lessons
    }

    /// This process, as it changes a lesson.
    pub(crate) fn witness(&self) -> Witness {
        Witness { process: self.process.get(), is_alive }
    }
}

/// A page of memory at least, in bytes. A block of records is whole pages, and begins with one: its heads.
const PAGE: usize = 4096;
const _: () = assert!(IN_BLOCK * size_of::<Head>() == PAGE && (BLOCK_WORDS * size_of::<u64>()) % PAGE == 0);
const _: () = assert!((HEAD_WORDS + BODY_WORDS) * IN_BLOCK == BLOCK_WORDS);

/// Notes with the counters of a server what is known of it, so that a request finds both at once.
pub(super) fn note(meter: Meter, lesson: Lesson) {
    let noted = lesson.parts().map_or(0, |(head, body)| {
        let head = ptr::from_ref(head).expose_provenance();
        debug_assert_eq!(body_of(head), ptr::from_ref(body).expose_provenance());
        head
    });
    meter.note(noted as u64);
}

/// What is known of the server whose counters these are; `None` if nothing is learned of it.
#[inline]
pub(crate) fn lesson_of(meter: Option<Meter>) -> Option<Lesson> {
    let noted = meter?.noted() as usize;
    let head = NonNull::new(ptr::with_exposed_provenance_mut::<Head>(noted))?;
    let body: *const Body = ptr::with_exposed_provenance(body_of(noted));
    // SAFETY: what `note` has put there in this process or in a worker before it, which has inherited the same memory at the same
    // address; in a worker, where connections have counters, that memory is never given back.
    let head = unsafe { head.as_ref() };
    // SAFETY: the memory of the lessons begins with a page, and consists of blocks; so this is the body of the same record.
    let body = unsafe { &*body };
    Some(Lesson::new(head, body))
}

/// Where the body of a record is, by the place of its head. The compiler leaves this out where only the head is read.
#[inline]
fn body_of(head: usize) -> usize {
    let (block, at) = (head & !(PAGE - 1), head % PAGE / size_of::<Head>());
    block + PAGE + at * size_of::<Body>()
}
