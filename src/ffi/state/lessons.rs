//! What was learned of the servers, as an upstream sees it.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use crate::lessons::{Lesson, Lessons, Witness, WORDS};
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

/// Notes with the counters of a server what is known of it, so that a request finds both at once.
pub(super) fn note(meter: Meter, lesson: Lesson) {
    meter.note(ptr::from_ref(lesson.words()).expose_provenance() as u64);
}

/// What is known of the server whose counters these are; `None` if nothing is learned of it.
#[inline]
pub(crate) fn lesson_of(meter: Option<Meter>) -> Option<Lesson> {
    let words: *const [AtomicU64; WORDS] = ptr::with_exposed_provenance(meter?.noted() as usize);
    // SAFETY: null, or what `note` has put there in this process or in a worker before it, which has inherited the same memory
    // at the same address; in a worker, where connections have counters, that memory is never given back.
    NonNull::new(words.cast_mut()).map(|words| Lesson::new(unsafe { words.as_ref() }))
}
