//! What the owner of a stream reads.
#![forbid(unsafe_code)]

use super::fault::Failure;
use super::frame::WINDOW_UPDATE;
use super::output::FOR_STREAMS;
use super::stream::StreamKey;
use super::Carrier;
use crate::base::list::Link;

/// What [`Carrier::read`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet. A wake follows.
    Pending,
    /// The response has ended.
    End,
    /// The stream has failed.
    Failed(Failure),
}

impl<T: Copy> Carrier<T> {
    /// Reads from a stream. What came before the carrier was lost is delivered; what came before a reset is not.
    #[inline]
    pub fn read(&mut self, key: StreamKey, buffer: &mut [u8]) -> Read {
        let Some(at) = self.slots.at(key) else { return Read::Failed(Failure::NotOpen) };
        let slot = &mut self.slots.all[at as usize];
        match slot.failure {
            None | Some(Failure::Lost) if !slot.buffer.is_empty() => {}
            Some(failure) if slot.leftover.is_none() => return Read::Failed(failure),
            Some(_) if slot.buffer.is_empty() => return Read::Pending,
            Some(_) => {}
            None if slot.server_ended => return Read::End,
            None => return Read::Pending,
        }
        let length = slot.buffer.read(buffer);
        if !slot.server_ended && slot.failure.is_none() {
            slot.window.left(slot.buffer.len());
            self.credit(at);
        }
        Read::Bytes(length)
    }

    /// Whether [`Carrier::read`] has something other than [`Read::Pending`].
    pub fn is_readable(&self, key: StreamKey) -> bool {
        let Some(at) = self.slots.at(key) else { return true };
        let slot = &self.slots.all[at as usize];
        !slot.buffer.is_empty() || slot.server_ended || slot.told().is_some()
    }

    /// Whether both sides have ended and all was read: nothing is left to do but [`Carrier::close`].
    pub fn is_done(&self, key: StreamKey) -> bool {
        let Some(at) = self.slots.at(key) else { return false };
        let slot = &self.slots.all[at as usize];
        slot.server_ended && slot.we_ended && slot.failure.is_none() && slot.buffer.is_empty()
    }

    /// Credits the server with what was read, if it is worth a frame. `None` if there is no room for one.
    #[inline]
    pub(super) fn credit(&mut self, at: Link) -> Option<()> {
        let slot = &mut self.slots.all[at as usize];
        let Some(owed) = slot.window.owed(&mut self.shared) else { return Some(()) };
        let id = slot.id;
        if self.output.control(FOR_STREAMS, WINDOW_UPDATE, 0, id, &owed.to_be_bytes()).is_none() {
            self.slots.owe(at);
            return None;
        }
        self.slots.all[at as usize].window.paid(owed);
        Some(())
    }

    /// Credits the server with what has come, if it is worth a frame.
    #[inline]
    pub(super) fn credit_connection(&mut self) {
        let Some(owed) = self.shared.owed() else { return };
        if self.output.control(FOR_STREAMS, WINDOW_UPDATE, 0, 0, &owed.to_be_bytes()).is_some() {
            self.shared.paid();
        }
    }
}
