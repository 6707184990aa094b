//! What nginx's module still holds of a request that has failed. A module of HTTP/2 holds what the windows do not let pass, and if
//! the request is sent again, it sends that first. So before it hears of the failure, it may send all of it, which is dropped.
#![forbid(unsafe_code)]

use super::fault::Failure;
use super::frame::{
    Header, DATA, DEFAULT_WINDOW, END_HEADERS, END_STREAM, HEADER, HEADERS, LARGEST, PREFACE,
};
use super::passage::{put_credit, Passage};
use super::stream::{Sending, Wake};
use super::Carrier;
use crate::base::list::Link;

/// What the module may send at once: as much as a window allows, of which it may have the first one left.
const ALL: u32 = LARGEST - DEFAULT_WINDOW;

/// Where the module is in its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    /// How many bytes there are before the next frame header.
    skip: usize,
    /// END_STREAM was seen.
    has_end: bool,
    /// No frame follows, except those that are about the connection.
    is_last: bool,
    /// How much the module may still send without credit.
    credit: usize,
}

impl Leftover {
    /// A frame begins, or the preface in its place.
    fn begin(&mut self, header: &[u8; HEADER]) {
        if PREFACE.starts_with(header) {
            self.skip = PREFACE.len() - HEADER;
            return;
        }
        let header = Header::read(header);
        self.skip = header.length;
        self.has_end |= matches!(header.kind, DATA | HEADERS) && header.has(END_STREAM);
        let is_whole = header.kind == DATA || header.has(END_HEADERS);
        self.is_last = self.has_end && is_whole;
    }
}

impl<T: Copy> Carrier<T> {
    /// A stream has failed. If the request may be sent again, its owner is told once the module holds nothing of it any more.
    #[cold]
    pub(super) fn drop_leftover(&mut self, at: Link) {
        let slot = &mut self.slots.all[at as usize];
        let may_be_repeated =
            !slot.is_answered && matches!(slot.failure, Some(Failure::Refused | Failure::Lost));
        let is_held = slot.is_kept && !slot.we_ended && !slot.owes_end;
        let Sending::Frames(passage) = slot.sending else { return };
        if !may_be_repeated || !is_held || put_credit(&mut slot.buffer, ALL).is_none() {
            return;
        }
        let (skip, is_last) = match passage {
            Passage::Start | Passage::Frame => (0, false),
            Passage::Preface(read) => (PREFACE.len() - read, false),
            Passage::Skip(left) => (left, false),
            Passage::Data(left, is_end) => (left, is_end),
        };
        slot.leftover = Some(Leftover { skip, has_end: is_last, is_last, credit: ALL as usize });
        slot.open_data = 0;
        let begun = std::mem::take(&mut slot.partial);
        self.drop_sent(at, &begun);
    }

    /// Drops what the module sends of a request that has failed. After the last of it, its owner is told.
    #[cold]
    pub(super) fn drop_sent(&mut self, at: Link, bytes: &[u8]) {
        let slot = &mut self.slots.all[at as usize];
        let Some(mut left) = slot.leftover else { return };
        let mut rest = bytes;
        while !rest.is_empty() {
            let wanted = if left.skip > 0 { left.skip } else { HEADER - slot.partial.len() };
            let (part, behind) = rest.split_at(wanted.min(rest.len()));
            rest = behind;
            if left.skip > 0 {
                left.skip -= part.len();
                left.credit = left.credit.saturating_sub(part.len());
            } else {
                slot.partial.extend_from_slice(part);
                let Some(header) = slot.partial.first_chunk() else { break };
                left.begin(header);
                slot.partial.clear();
            }
            if left.is_last && left.skip == 0 {
                slot.leftover = None;
                return self.slots.wake(at, Wake { read: true, write: true });
            }
        }
        if left.credit < (ALL / 2) as usize && put_credit(&mut slot.buffer, ALL / 2).is_some() {
            left.credit += (ALL / 2) as usize;
            self.slots.wake(at, Wake { read: true, write: false });
        }
        self.slots.all[at as usize].leftover = Some(left);
    }
}
