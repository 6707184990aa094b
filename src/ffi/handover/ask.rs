//! A request needs a connection, and another worker may have an idle one: it is asked, and answers.

use crate::handover::index::MIN_IDLE;
use crate::handover::message::{Body, PortableKey};
use crate::metrics::End;
use crate::pool::Key;
use crate::reuse::identity::local_of_plain;

use crate::ffi::max_conns::slots::close_idle;
use crate::ffi::nginx::process::{elapsed, now, worker_is_exiting};
use crate::ffi::nginx::socket::is_silent;
use crate::ffi::state::handover::Handover;
use crate::ffi::state::upstream::{Idle, Upstream};

use super::give::{give, portable, Given, Recipient};
use super::heir::can_go;
use super::take::function_of;

/// Asks another worker for a connection with this key. Returns the number of the question; `None` if there is nobody to ask.
#[cold]
pub(crate) fn ask(upstream: &Upstream, key: &Key<'_>) -> Option<u32> {
    let handover = upstream.handover()?;
    local_of_plain(key.identity)?;
    let (now, tag) = (now(), upstream.tag(key.hash()));
    let mut questions = handover.questions.borrow_mut();
    let question = questions.next_question();
    let body = Body::Question { question, key: portable(upstream, handover, key)? };
    let may_ask = |worker| questions.may_ask(worker, now);
    let holder = handover.inboxes().index.holder(tag, handover.me, now, may_ask);
    let sibling = holder.filter(|worker| handover.tell(*worker, body, None).is_ok());
    let asked = sibling.or_else(|| (key.location == 0).then(|| handover.ask_predecessor(body)).flatten())?;
    questions.ask(asked, question, upstream.number.get(), now);
    if let Some(meter) = upstream.handover_meter() {
        meter.ask();
    }
    Some(question)
}

/// Whether a question of this worker is not answered yet.
pub(crate) fn is_open(upstream: &Upstream, question: u32) -> bool {
    upstream.handover().is_some_and(|handover| handover.questions.borrow().is_open(question))
}

/// Answers the question of another worker: with a connection, or with nothing.
pub(super) fn answer(upstream: Option<&Upstream>, handover: &Handover, key: &PortableKey<'_>, to: Recipient) {
    let given = upstream.zip(function_of(handover, key)).is_some_and(|(upstream, protocol)| {
        let key =
            Key { address: key.address, protocol, location: key.location as usize, identity: key.identity };
        let given = give_one(upstream, &key, to);
        let is_left = upstream.idle.with(|idle| idle.oldest_like(&key).is_some()).unwrap_or(false);
        // It makes no sense to ask for one again that is not there, or cannot be given.
        if !is_left || given == Given::Unfit {
            handover.clear(upstream.tag(key.hash()));
        }
        given == Given::Gone
    });
    if given {
        return;
    }
    // If this fails, the other worker does not wait for long.
    let _ = match to {
        Recipient::Sibling { worker, question } => {
            handover.tell(worker, Body::Nothing { question, is_last: false }, None)
        }
        Recipient::Heir { question } => {
            handover.tell_heir(Body::Nothing { question, is_last: worker_is_exiting() }, None)
        }
    };
}

/// Gives the connection that fits and has been idle longest. A worker of the same configuration gets none that is in use but
/// for moments.
fn give_one(upstream: &Upstream, key: &Key<'_>, to: Recipient) -> Given {
    // Requests that wait here for a slot need it themselves.
    while !upstream.waits.any_queued() && !upstream.waits.any_parked() {
        let oldest = |pool: &mut crate::pool::IdlePool<Idle>| {
            let slot = pool.oldest_like(key)?;
            let entry = pool.entry(slot)?;
            let may_go = match to {
                Recipient::Sibling { .. } => elapsed(entry.since) >= MIN_IDLE,
                Recipient::Heir { .. } => can_go(upstream, entry.conn),
            };
            may_go.then_some((slot, *entry.conn))
        };
        let Some((slot, idle)) = upstream.idle.with(oldest).flatten() else { break };
        if is_silent(idle.conn) {
            return give(upstream, slot, to);
        }
        if let Some(idle) = upstream.take_slot(slot) {
            close_idle(upstream, idle, End::Check);
        }
    }
    Given::Later
}
