//! The inbox of this worker: what other workers say.

use std::os::fd::{OwnedFd, RawFd};

use nginx_sys::ngx_event_t;

use crate::handover::message::{Body, Message, MAX_MESSAGE};
use crate::ledger::Ledger;

use crate::ffi::nginx::conn::Event;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::passing::{receive, Received};
use crate::ffi::nginx::process::{is_gone, Cycle};
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::handover::Handover;
use crate::ffi::state::upstream::Upstream;

use super::ask::answer;
use super::give::Recipient;
use super::heir::give_all;
use super::take::take;

/// How many messages are read before other events have their turn.
const BATCH: usize = 64;

/// nginx calls it when there are messages in an inbox of this worker.
pub(crate) unsafe extern "C" fn inbox_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the read event of the connection that it has made for the inbox.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive inbox handler");
    guard((), || {
        let Some((main, handover)) = main_conf().and_then(|main| Some((main, main.mail.handover()?))) else {
            return;
        };
        let _reading = handover.inboxes().readers.begin(handover.me, handover.process, true, is_gone);
        match read(main, event.conn().fd(), BATCH, true) {
            Read::Some => event.post_next(),
            Read::All => {}
            Read::Closed => event.ignore(),
        }
    });
}

/// nginx calls it when a worker of the next configuration says something.
pub(crate) unsafe extern "C" fn link_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the read event of the connection that it has made for the link.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive link handler");
    guard((), || {
        let Some((main, handover)) = main_conf().and_then(|main| Some((main, main.mail.handover()?))) else {
            return;
        };
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            match receive(event.conn().fd(), &mut buffer) {
                Received::Nothing => return,
                // The next configuration has ended.
                Received::End => return event.ignore(),
                Received::Message { length, fd, .. } => {
                    if let Some(Ok(message)) = buffer.get(..length).map(Message::read) {
                        obey_heir(main, handover, &message, fd);
                    }
                }
            }
        }
    });
}

/// Does what a worker of a later configuration says.
fn obey_heir(main: &MainConf, handover: &Handover, message: &Message<'_>, fd: Option<OwnedFd>) {
    match &message.body {
        Body::Heir { process } => {
            let is_behind_link = fd.is_none();
            if !handover.set_heir(message.generation, *process, fd) {
                return;
            }
            if is_behind_link {
                // It may ask from now on. If this fails, it does not.
                let _ = handover.tell_heir(Body::Nothing { question: 0, is_last: false }, None);
            }
            handover.tell_predecessors();
            main.zone.each_upstream(|upstream| {
                if upstream.handover().is_some() && !upstream.is_empty() {
                    upstream.post_dispatch();
                }
            });
        }
        Body::Question { question, key } if handover.has_heir() => {
            let upstream = main.zone.upstream_named(key.upstream, key.number as usize);
            answer(upstream.as_deref(), handover, key, Recipient::Heir { question: *question });
        }
        _ => {}
    }
}

/// The main configuration of this worker.
fn main_conf<'a>() -> Option<&'a MainConf> {
    let cycle = Cycle::current();
    // SAFETY: a worker's cycle stays the same, and was read before there were events; it has this module, whose handlers run.
    unsafe { MainConf::of_cycle(cycle.as_ptr()) }
}

/// How far an inbox was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// There may be more messages.
    Some,
    All,
    /// There will be no more messages.
    Closed,
}

/// Reads at most so many messages of an inbox; `is_own` says that it is one of this worker.
fn read(main: &MainConf, inbox: RawFd, most: usize, is_own: bool) -> Read {
    let Some(handover) = main.mail.handover() else { return Read::Closed };
    for _ in 0..most {
        let mut buffer = [0; MAX_MESSAGE];
        match receive(inbox, &mut buffer) {
            Received::Nothing => return Read::All,
            Received::End => return Read::Closed,
            // If it cannot be read, it is of another build of this module. Its descriptor is closed.
            Received::Message { length, fd, is_cut } => {
                if let Some(Ok(message)) = buffer.get(..length).filter(|_| !is_cut).map(Message::read) {
                    obey(main, handover, &message, fd, is_own);
                }
            }
        }
    }
    Read::Some
}

/// Does what a message says. One from the inbox of another worker does not answer a question of this one.
fn obey(main: &MainConf, handover: &Handover, message: &Message<'_>, fd: Option<OwnedFd>, is_own: bool) {
    let is_sibling = message.generation == handover.inboxes().generation;
    let worker = message.worker as usize;
    // Who was asked, if this is an answer.
    let asked = || match (is_own, is_sibling) {
        (false, _) => None,
        (true, true) => Some(worker),
        (true, false) => handover.predecessor(message.generation, worker),
    };
    match &message.body {
        Body::Connection(parcel) => {
            let upstream = main.zone.upstream_named(parcel.key.upstream, parcel.key.number as usize);
            let Some(upstream) = upstream else { return };
            let taken = take(&upstream, handover, is_sibling, parcel, fd);
            let answered = asked().filter(|_| parcel.question != 0).and_then(|asked| {
                handover.hear(asked, true);
                handover.questions.borrow_mut().answer(asked, parcel.question)
            });
            if let Some(meter) = upstream.handover_meter().filter(|_| answered.is_some() && taken.is_ok()) {
                meter.answer();
            }
            // It may be for a request that has left meanwhile. Then another worker may need it.
            if let Ok(Some(server)) = taken {
                upstream.waits.released.with(|released| released.add(server));
            }
            upstream.post_dispatch();
        }
        Body::Question { question, key } if is_sibling => {
            let upstream = main.zone.upstream_named(key.upstream, key.number as usize);
            answer(upstream.as_deref(), handover, key, Recipient::Sibling { worker, question: *question });
        }
        Body::Nothing { question: 0, .. } => handover.greet(message.generation, worker),
        Body::Nothing { question, is_last } => {
            let number = asked().and_then(|asked| {
                handover.hear(asked, !is_last);
                handover.questions.borrow_mut().answer(asked, *question)
            });
            if let Some(upstream) = number.and_then(|number| main.zone.upstream(number)) {
                upstream.post_dispatch();
            }
        }
        Body::Question { .. } | Body::Heir { .. } => {}
    }
}

/// A worker was killed: connections that were on their way to the worker `receiver` may be lost. Reads its inbox, and counts
/// what is not there as closed.
pub(crate) fn settle(upstream: &Upstream, receiver: usize) {
    if let Some(ledger) = upstream.counts.shared() {
        ledger.settle_transfers(receiver, || read_all(receiver));
    }
}

/// Does that for this worker, if another one was killed.
pub(crate) fn settle_if_due(upstream: &Upstream) {
    let due = upstream.counts.shared().is_some_and(Ledger::transfers_due);
    if let (true, Some(handover)) = (due, upstream.handover()) {
        settle(upstream, handover.me);
    }
}

/// Reads the inbox of a worker to its end: of this one, or of one that was killed and is not replaced, or does not answer.
/// Returns whether no message is left, there or in the hand of another worker.
pub(crate) fn read_all(worker: usize) -> bool {
    let Some(main) = main_conf() else { return false };
    let Some(handover) = main.mail.handover() else { return false };
    let is_own = worker == handover.me;
    let reading = handover.inboxes().readers.begin(worker, handover.process, is_own, is_gone);
    reading.is_some_and(|reading| {
        // The bound is far above what fits into an inbox.
        let is_read =
            main.mail.inner_ends(worker).all(|inbox| read(main, inbox, 1 << 16, is_own) != Read::Some);
        is_read && reading.is_alone(is_gone)
    })
}

/// The worker exits, and nobody will read its inbox: heirs get the connections in it. The others stay in the pools.
pub(crate) fn close_inbox(main: &MainConf) {
    let Some(handover) = main.mail.handover() else { return };
    handover.inboxes().index.leave(handover.me);
    read_all(handover.me);
    main.zone.each_upstream(|upstream| {
        if upstream.handover().is_some() && !upstream.is_empty() {
            give_all(upstream);
        }
    });
}
