//! Frames of the server about the connection and about windows: SETTINGS, PING, WINDOW_UPDATE, RST_STREAM.
#![forbid(unsafe_code)]

use super::fault::{Failure, Fault};
use super::frame::{ACK, FLOW_CONTROL_ERROR, LARGEST, PING, PROTOCOL_ERROR, REFUSED_STREAM, SETTINGS};
use super::output::FOR_ANSWERS;
use super::stream::Waiting;
use super::Carrier;
use crate::base::list::Link;

impl<T: Copy> Carrier<T> {
    /// All settings of a frame were read. A change of the initial window changes the windows of open streams, once a frame: they may
    /// become negative (RFC 9113, section 6.9.2).
    pub(super) fn end_of_settings(&mut self) -> Result<(), Fault> {
        let change = i64::from(self.input.settings.window) - i64::from(self.settings.window);
        self.settings = self.input.settings;
        if change != 0 {
            for at in 0..self.slots.all.len() as Link {
                self.change_window(at, change)?;
            }
        }
        self.output.control(FOR_ANSWERS, SETTINGS, ACK, 0, &[]).ok_or(Fault::Unread)?;
        self.wake_heads();
        self.wake_senders();
        Ok(())
    }

    fn change_window(&mut self, at: Link, change: i64) -> Result<(), Fault> {
        let slot = &mut self.slots.all[at as usize];
        if slot.owner.is_none() || slot.id == 0 || slot.is_closed {
            return Ok(());
        }
        slot.window.change(change).ok_or(Fault::InitialWindow)?;
        self.window_opens(at);
        Ok(())
    }

    /// A stream that has waited for its own window waits in line now.
    fn window_opens(&mut self, at: Link) {
        let slot = &self.slots.all[at as usize];
        if slot.wants && slot.window.send > 0 && !slot.is_promised {
            self.slots.wait(at, Waiting::Data);
        }
    }

    pub(super) fn pinged(&mut self, is_answer: bool, payload: [u8; 8]) -> Result<(), Fault> {
        if is_answer {
            let is_ours = self.counters.pings_answered < self.counters.pings_sent;
            self.counters.pings_answered += u64::from(is_ours);
            return Ok(());
        }
        self.output.control(FOR_ANSWERS, PING, ACK, 0, &payload).ok_or(Fault::Unread)
    }

    pub(super) fn more_window(&mut self, stream: u32, more: u32) -> Result<(), Fault> {
        let more = more & LARGEST;
        if stream == 0 {
            if more == 0 {
                return Err(Fault::NoIncrement);
            }
            self.shared.credit(more).ok_or(Fault::WindowOverflow)?;
            self.wake_senders();
            return Ok(());
        }
        let Some(at) = self.slots.find(stream) else { return Ok(()) };
        if more == 0 {
            self.fail(at, Failure::WindowUpdate, PROTOCOL_ERROR);
        } else if self.slots.all[at as usize].window.credit(more).is_none() {
            self.fail(at, Failure::WindowUpdate, FLOW_CONTROL_ERROR);
        } else {
            self.window_opens(at);
            self.wake_senders();
        }
        Ok(())
    }

    /// The server has reset a stream. After a complete response that only says that the rest of the request is not needed.
    pub(super) fn reset_by_server(&mut self, stream: u32, code: u32) {
        let Some(at) = self.slots.find(stream) else { return };
        let slot = &mut self.slots.all[at as usize];
        if slot.server_ended {
            slot.we_ended = true;
            self.slots.close(at);
            self.wake_heads();
            return;
        }
        let is_refused = code == REFUSED_STREAM && !slot.is_answered;
        // Not because there are too many: it would refuse the next one, too.
        self.is_draining |= is_refused && self.slots.live == 1;
        self.counters.reset_by_server += u64::from(!is_refused);
        self.fail_closed(at, if is_refused { Failure::Refused } else { Failure::Reset(code) });
    }
}
