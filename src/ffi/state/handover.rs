//! What a worker needs to hand connections over to other workers.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use crate::base::clock::Msec;
use crate::base::memory::push;
use crate::handover::index::{Row, Tag};
use crate::handover::message::{Body, Message, MAX_MESSAGE};
use crate::handover::questions::Questions;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::passing::send;
use crate::ffi::nginx::process::{exists, is_gone, now};
use crate::ffi::nginx::timer::Alarm;

use super::inboxes::Inboxes;
use super::upstream::Upstream;

/// The part of a worker in the handover of connections.
pub(crate) struct Handover {
    /// Lies in the main configuration of the worker, like this.
    inboxes: NonNull<Inboxes>,
    /// The number of this worker.
    pub(crate) me: usize,
    /// Its process.
    pub(crate) process: u64,
    /// Where this worker notes its connections; `None` if it is the only one, or has an heir.
    row: Cell<Option<Row>>,
    pub(crate) questions: RefCell<Questions>,
    /// The outer end of an inbox of the next configuration.
    link: Option<OwnedFd>,
    predecessors: RefCell<Vec<Predecessor>>,
    /// Whether one of them can be asked.
    has_predecessor: Cell<bool>,
    heir: RefCell<Heir>,
    has_heir: Cell<bool>,
    /// Since when this worker waits, while it exits, for room in the inbox of the heir.
    pub(crate) full_since: Cell<Option<Msec>>,
    /// Is called for the slot of a connection that would be closed because this worker exits. Returns whether it was given to the
    /// heir instead.
    pub(crate) give_instead_of_closing: fn(&Upstream, u32, Conn) -> bool,
    /// Tells predecessors of this worker once it runs.
    pub(crate) announcement: Alarm,
    protocols: RefCell<Vec<Protocol>>,
}

/// A worker of the configuration before, whose heir this worker is.
struct Predecessor {
    /// The inner end of the inbox behind its link.
    end: RawFd,
    worker: usize,
    /// Its configuration, once it has said something.
    generation: Option<u64>,
    /// It has said something since it was last asked: so a worker that has gone is asked once at most.
    is_heard: bool,
}

/// The worker of a later configuration that takes the idle connections of this one.
#[derive(Default)]
struct Heir {
    generation: u64,
    /// Its process.
    process: u64,
    /// The outer end of its inbox, unless that is the one that this worker has had from the beginning.
    inbox: Option<OwnedFd>,
}

/// A protocol: a function of a module that writes requests.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    /// The address of the function.
    pub(crate) function: usize,
    /// The address of the module.
    pub(crate) module: usize,
}

/// How many protocols are remembered; nginx itself has eight.
const PROTOCOLS: usize = 32;

impl Handover {
    /// For the worker `me`, which is the process `process`. `None` if there is no memory, no such worker, or another process
    /// that is this worker too.
    ///
    /// # Safety
    /// The inboxes stay where they are as long as this is used, and are not changed.
    pub(crate) unsafe fn new(
        inboxes: NonNull<Inboxes>,
        me: usize,
        process: u64,
        link: Option<OwnedFd>,
        give_instead_of_closing: fn(&Upstream, u32, Conn) -> bool,
    ) -> Option<Self> {
        // SAFETY: the caller says that they are there, and not changed.
        let of_all = unsafe { inboxes.as_ref() };
        let row = of_all.index.enter(me, process, is_gone)?;
        let mut predecessors = Vec::new();
        let workers = (me..).step_by(of_all.workers);
        for (worker, end) in workers.zip(of_all.inner_ends(me)).filter(|_| of_all.has_predecessors) {
            push(&mut predecessors, Predecessor { end, worker, generation: None, is_heard: false })?;
        }
        Some(Self {
            inboxes,
            me,
            process,
            row: Cell::new((of_all.workers > 1).then_some(row)),
            questions: RefCell::new(Questions::new(of_all.workers + predecessors.len())?),
            predecessors: RefCell::new(predecessors),
            has_predecessor: Cell::new(false),
            link,
            heir: RefCell::default(),
            has_heir: Cell::new(false),
            full_since: Cell::new(None),
            give_instead_of_closing,
            announcement: Alarm::new(),
            protocols: RefCell::default(),
        })
    }

    /// The inboxes of this configuration.
    pub(crate) fn inboxes(&self) -> &Inboxes {
        // SAFETY: they stay where they are and are not changed, as `new` demands.
        unsafe { self.inboxes.as_ref() }
    }

    /// Where a worker of the next configuration tells this one that it exists.
    pub(crate) fn link(&self) -> Option<RawFd> {
        self.link.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Notes a connection that was stored now. Returns whether that was possible: if not, this worker may have an heir.
    #[inline]
    pub(crate) fn note(&self, tag: Tag) -> bool {
        let row = self.row.get();
        if let Some(row) = row {
            row.note(tag, now());
        }
        row.is_some()
    }

    /// Notes that there is no idle connection.
    pub(crate) fn clear(&self, tag: Tag) {
        if let Some(row) = self.row.get() {
            row.clear(tag);
        }
    }

    /// Whether this worker could ask others.
    #[inline]
    pub(crate) fn can_ask(&self) -> bool {
        self.row.get().is_some() || self.has_predecessor.get()
    }

    /// Asks a worker of the configuration before. Returns its number for [`Questions`].
    pub(crate) fn ask_predecessor(&self, question: Body<'_>) -> Option<usize> {
        let mut predecessors = self.predecessors.borrow_mut();
        let at = predecessors.iter().position(|predecessor| predecessor.is_heard)?;
        let predecessor = predecessors.get_mut(at)?;
        predecessor.is_heard = false;
        let end = predecessor.end;
        self.has_predecessor.set(predecessors.iter().any(|predecessor| predecessor.is_heard));
        self.send(end, question, None).ok()?;
        Some(self.inboxes().workers + at)
    }

    /// The number of a predecessor for [`Questions`].
    pub(crate) fn predecessor(&self, generation: u64, worker: usize) -> Option<usize> {
        let predecessors = self.predecessors.borrow();
        let is_it = |it: &Predecessor| it.generation == Some(generation) && it.worker == worker;
        predecessors.iter().position(is_it).map(|at| self.inboxes().workers + at)
    }

    /// A predecessor says that it can be asked.
    pub(crate) fn greet(&self, generation: u64, worker: usize) {
        if let Some(it) = self.predecessors.borrow_mut().iter_mut().find(|it| it.worker == worker) {
            (it.generation, it.is_heard) = (Some(generation), true);
            self.has_predecessor.set(true);
        }
    }

    /// A worker that was asked has answered, and may be asked again, or need not.
    pub(crate) fn hear(&self, asked: usize, again: bool) {
        let at = asked.wrapping_sub(self.inboxes().workers);
        if let Some(predecessor) = self.predecessors.borrow_mut().get_mut(at) {
            predecessor.is_heard = again;
            self.has_predecessor.set(again || self.has_predecessor.get());
        }
    }

    /// Sends a message to another worker of this configuration.
    pub(crate) fn tell(&self, worker: usize, body: Body<'_>, fd: Option<RawFd>) -> std::io::Result<()> {
        let inbox = self.inboxes().outer_end(worker).ok_or(std::io::ErrorKind::NotFound)?;
        self.send(inbox, body, fd)
    }

    /// Sends a message to the heir.
    pub(crate) fn tell_heir(&self, body: Body<'_>, fd: Option<RawFd>) -> std::io::Result<()> {
        let inbox = self.heir_inbox().ok_or(std::io::ErrorKind::NotFound)?;
        self.send(inbox, body, fd)
    }

    fn heir_inbox(&self) -> Option<RawFd> {
        let heir = self.heir.borrow();
        let inbox = heir.inbox.as_ref().or(self.link.as_ref());
        inbox.filter(|_| heir.generation > 0).map(AsRawFd::as_raw_fd)
    }

    /// Tells the workers of the configuration before, whose successor is this one, that it exists; and later, who their heir
    /// is from then on.
    pub(crate) fn tell_predecessors(&self) {
        let (own, heir) = (self.inboxes(), self.heir_inbox());
        let (generation, process) = match heir {
            Some(_) => (self.heir.borrow().generation, self.heir.borrow().process),
            None => (own.generation, self.process),
        };
        if own.has_predecessors {
            for end in own.inner_ends(self.me) {
                // If this fails, they close their connections, as without this module.
                let _ = self.send_as(generation, end, Body::Heir { process }, heir);
            }
        }
    }

    fn send(&self, inbox: RawFd, body: Body<'_>, fd: Option<RawFd>) -> std::io::Result<()> {
        self.send_as(self.inboxes().generation, inbox, body, fd)
    }

    fn send_as(
        &self,
        generation: u64,
        inbox: RawFd,
        body: Body<'_>,
        fd: Option<RawFd>,
    ) -> std::io::Result<()> {
        let message = Message { generation, worker: self.me as u32, body };
        let mut buffer = [0; MAX_MESSAGE];
        let bytes = message.write(&mut buffer).ok_or(std::io::ErrorKind::InvalidInput)?;
        send(inbox, bytes, fd)
    }

    /// Whether a later configuration takes the idle connections of this worker.
    #[inline]
    pub(crate) fn has_heir(&self) -> bool {
        self.has_heir.get()
    }

    /// Whether the heir still runs. If it has ended, this worker has none from here on.
    pub(crate) fn is_heir_there(&self) -> bool {
        let is_there = exists(self.heir.borrow().process);
        self.has_heir.set(is_there);
        is_there
    }

    /// Whether a worker of this configuration still runs.
    pub(crate) fn is_there(&self, worker: usize) -> bool {
        self.inboxes().index.process(worker).is_some_and(exists)
    }

    /// A worker of a later configuration takes the idle connections of this one; without `inbox` it is the one behind `link`.
    /// Returns whether it is a new heir.
    pub(crate) fn set_heir(&self, generation: u64, process: u64, inbox: Option<OwnedFd>) -> bool {
        let mut heir = self.heir.borrow_mut();
        // A worker that takes the place of a killed one has the same inbox.
        let is_later =
            generation > heir.generation || (generation == heir.generation && process != heir.process);
        if generation <= self.inboxes().generation || !is_later {
            return false;
        }
        *heir = Heir { generation, process, inbox };
        self.has_heir.set(true);
        self.row.set(None);
        // They have the same heir now, and would answer that one.
        self.predecessors.borrow_mut().iter_mut().for_each(|predecessor| predecessor.is_heard = false);
        self.has_predecessor.set(false);
        self.inboxes().index.leave(self.me);
        true
    }

    /// Remembers the module of a protocol.
    pub(crate) fn learn(&self, protocol: Protocol) {
        let mut known = self.protocols.borrow_mut();
        let is_same = |known: &Protocol| known.function == protocol.function;
        if let Some(known) = known.iter_mut().find(|known| is_same(known)) {
            *known = protocol;
        } else if known.len() < PROTOCOLS {
            // Without memory its connections are not handed over.
            let _ = push(&mut known, protocol);
        }
    }

    /// The module of a protocol, by its function.
    pub(crate) fn module_of(&self, function: usize) -> Option<usize> {
        self.protocols.borrow().iter().find(|known| known.function == function).map(|known| known.module)
    }
}

/// The handover of an upstream in this worker; `None` if its connections are not handed over.
pub(crate) type HandoverOf = Cell<Option<NonNull<Handover>>>;

impl Upstream {
    /// What is needed to hand connections of this upstream over; `None` if they are not.
    #[inline]
    pub(crate) fn handover(&self) -> Option<&Handover> {
        // SAFETY: belongs to the same cycle as the upstream, and is not moved or changed but for its cells.
        self.handover.get().map(|handover| unsafe { handover.as_ref() })
    }

    /// Whether a later configuration takes the idle connections.
    #[inline]
    pub(crate) fn has_heir(&self) -> bool {
        self.handover().is_some_and(Handover::has_heir)
    }

    /// The tag of a key in this upstream, by the hash of the key.
    #[inline]
    pub(crate) fn tag(&self, hash: u32) -> Tag {
        Tag::new(hash, self.number.get())
    }
}
