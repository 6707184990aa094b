//! How streams end before they are complete, and how the carrier ends.
#![forbid(unsafe_code)]

use super::fault::{Failure, Fault};
use super::frame::{CANCEL, NO_ERROR, RST_STREAM};
use super::output::FOR_STREAMS;
use super::stream::{StreamKey, Wake};
use super::Carrier;
use crate::base::list::Link;

/// How a stream was when its owner left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The response was complete.
    Complete,
    /// The server has not processed it.
    Refused,
    /// It ended with our RST_STREAM: the owner left early, or one side has broken a rule.
    ResetByUs,
    /// It ended with the server's RST_STREAM.
    ResetByServer,
    /// The carrier was lost, or there was no memory.
    Failed,
    /// The request cannot be sent over HTTP/2.
    Unfit,
    /// Nothing of it was sent.
    Unsent,
}

/// The owner finds out about a failure.
const BOTH: Wake = Wake { read: true, write: true };

impl<T: Copy> Carrier<T> {
    /// The owner leaves a stream. Unless both sides have ended, the server gets RST_STREAM: with CANCEL, or with NO_ERROR after a
    /// complete response. The place is free for the next stream, but until RST_STREAM is in the output the server still has it. A key
    /// of a closed stream is [`Close::Unsent`].
    pub fn close(&mut self, key: StreamKey) -> Close {
        let Some(at) = self.slots.at(key) else { return Close::Unsent };
        let slot = &self.slots.all[at as usize];
        let close = match slot.failure {
            None if slot.server_ended => Close::Complete,
            None if slot.id == 0 => Close::Unsent,
            Some(Failure::Refused) => Close::Refused,
            Some(Failure::Reset(_)) => Close::ResetByServer,
            Some(Failure::Lost) => Close::Failed,
            Some(Failure::Unfit(_)) => Close::Unfit,
            _ if slot.id == 0 => Close::Failed,
            _ => Close::ResetByUs,
        };
        // A server that has not said anything yet may never do so.
        self.is_draining |= !self.settings.is_known && slot.id != 0;
        if !slot.is_closed && slot.reset.is_none() {
            let code = if slot.server_ended { NO_ERROR } else { CANCEL };
            self.reset(at, code);
        }
        self.stop(at);
        self.slots.let_sleep(at);
        let slot = &mut self.slots.all[at as usize];
        slot.owner = None;
        slot.window.end(&mut self.shared);
        let is_over = slot.is_closed;
        self.slots.owned -= 1;
        if is_over {
            self.slots.stop_owing(at);
            self.slots.free(at);
        }
        self.end_streams();
        self.wake_heads();
        self.wake_senders();
        // Without streams nothing is left for which the server could give room.
        self.is_draining |= self.slots.owned == 0 && self.shared.is_used_up();
        close
    }

    /// A stream neither waits nor has a turn any more. Its turn is the next one's.
    #[inline]
    pub(super) fn stop(&mut self, at: Link) {
        self.slots.stop_waiting(at);
        self.slots.all[at as usize].wants = false;
        if self.end_turn(at) {
            self.wake_senders();
        }
    }

    /// A stream has failed, by our own judgement: the server gets RST_STREAM with this code, if it has the stream. Returns the failure.
    #[cold]
    pub(super) fn fail(&mut self, at: Link, failure: Failure, code: u32) -> Failure {
        self.slots.all[at as usize].failure = Some(failure);
        self.counters.refused += u64::from(failure == Failure::Refused);
        self.drop_leftover(at);
        self.stop(at);
        self.slots.wake(at, BOTH);
        self.reset(at, code);
        failure
    }

    /// A stream has failed, and the server does not have it.
    #[cold]
    pub(super) fn fail_closed(&mut self, at: Link, failure: Failure) {
        self.slots.all[at as usize].failure = Some(failure);
        self.counters.refused += u64::from(failure == Failure::Refused);
        self.drop_leftover(at);
        self.stop(at);
        self.slots.wake(at, BOTH);
        self.slots.close(at);
        self.wake_heads();
    }

    /// Sends RST_STREAM, now or when there is room. What the server may have sent already is not counted against it.
    pub(super) fn reset(&mut self, at: Link, code: u32) {
        let slot = &mut self.slots.all[at as usize];
        if slot.id == 0 || slot.is_closed {
            self.slots.close(at);
            return;
        }
        self.counters.reset_by_us += 1;
        self.on_its_way = self.on_its_way.saturating_add(slot.window.may_come());
        self.slots.forget(at);
        if !self.write_reset(at, code) {
            self.slots.all[at as usize].reset = Some(code);
            self.slots.owe(at);
        }
    }

    /// Sends RST_STREAM. Returns whether there was room. A stream without an owner is then over.
    pub(super) fn write_reset(&mut self, at: Link, code: u32) -> bool {
        let slot = &self.slots.all[at as usize];
        let (id, has_owner) = (slot.id, slot.owner.is_some());
        let payload = code.to_be_bytes();
        let is_written = self.output.control(FOR_STREAMS, RST_STREAM, 0, id, &payload).is_some();
        if is_written {
            self.slots.close(at);
            self.wake_heads();
            if !has_owner {
                self.slots.free(at);
            }
        }
        is_written
    }

    /// The server does not need RST_STREAM of a stream any more. Without an owner the stream is over.
    fn drop_closed(&mut self, at: Link) {
        self.slots.close(at);
        if self.slots.all[at as usize].owner.is_none() {
            self.slots.free(at);
        }
    }

    /// The server's END_STREAM has come: the response is complete, whether or not the request is.
    #[inline]
    pub(super) fn server_has_ended(&mut self, at: Link) {
        let slot = &mut self.slots.all[at as usize];
        slot.server_ended = true;
        if slot.we_ended {
            self.slots.close(at);
            self.wake_heads();
            return;
        }
        self.stop(at);
        self.slots.wake(at, super::sending::WRITE);
    }

    /// The connection is gone. A stream whose header block was not written whole was not processed.
    pub fn end(&mut self) {
        self.is_over = true;
        self.fail_all(self.output.written_end());
    }

    /// The server has broken a rule of the connection: it gets GOAWAY with the code, and all streams fail. What was not begun to be
    /// written is removed from the output, so that those streams are provably not processed.
    #[cold]
    pub(super) fn give_up(&mut self, fault: Fault) {
        self.fault = Some(fault);
        let end = self.output.cut();
        self.output.goaway(fault.code());
        self.fail_all(end);
    }

    /// Ends all streams. Of the output, the server gets what is before `end`.
    #[cold]
    fn fail_all(&mut self, end: u64) {
        self.is_draining = true;
        self.owes_goaway = false;
        for at in 0..self.slots.all.len() as Link {
            let slot = &mut self.slots.all[at as usize];
            slot.reset = None;
            self.slots.stop_owing(at);
            let slot = &self.slots.all[at as usize];
            let (is_open, is_unfailed) = (!slot.is_closed, slot.failure.is_none());
            let is_unsent = !slot.is_answered && (slot.id == 0 || slot.head_end > end);
            match slot.owner {
                Some(_) if is_unfailed && !slot.server_ended => {
                    self.fail_closed(at, if is_unsent { Failure::Refused } else { Failure::Lost });
                }
                Some(_) => self.slots.close(at),
                None if is_open && slot.id != 0 => self.drop_closed(at),
                None => {}
            }
        }
    }

    /// Streams whose header blocks were not sent are not, any more.
    pub(super) fn refuse_unsent(&mut self) {
        for at in 0..self.slots.all.len() as Link {
            let slot = &self.slots.all[at as usize];
            if slot.owner.is_some() && slot.id == 0 && !slot.is_closed {
                self.fail_closed(at, Failure::Refused);
            }
        }
    }

    /// No stream is opened any more. The server is told by GOAWAY as soon as all open streams have been sent.
    pub fn shut_down(&mut self) {
        if !self.is_over && self.fault.is_none() && !self.said_goaway {
            (self.is_draining, self.owes_goaway, self.said_goaway) = (true, true, true);
            self.end_streams();
        }
    }

    /// GOAWAY has come: streams above the last one that it names are not processed, now or later, and may be sent again at once.
    pub(super) fn go_away(&mut self, last: u32) {
        self.counters.goaways += 1;
        self.is_draining = true;
        // A server may only lower the number. One that raises it has refused what was above nevertheless.
        let last = self.last.map_or(last, |before| before.min(last));
        self.last = Some(last);
        for at in 0..self.slots.all.len() as Link {
            let slot = &mut self.slots.all[at as usize];
            let is_above = slot.id == 0 || slot.id > last;
            if is_above && slot.reset.take().is_some() {
                self.slots.stop_owing(at);
                self.drop_closed(at);
                continue;
            }
            if slot.owner.is_some()
                && !slot.is_closed
                && !slot.server_ended
                && is_above
                && slot.failure.is_none()
            {
                let failure = if slot.is_answered { Failure::Lost } else { Failure::Refused };
                self.fail_closed(at, failure);
            }
        }
        self.end_streams();
    }
}
