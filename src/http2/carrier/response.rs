//! Responses of the server: header blocks and DATA (RFC 9113, sections 6.1, 6.2 and 6.10).
#![forbid(unsafe_code)]

use super::fault::{Failure, Fault};
use super::frame::{
    Header, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, HEADERS, INTERNAL_ERROR, PADDED,
    PRIORITIZED, PROTOCOL_ERROR,
};
use super::limits::{BLOCKS, CONTINUATIONS, FIELDS, HEADER_LIST, INTERIM};
use super::passage::{put_block, put_data};
use super::stream::Wake;
use super::Carrier;
use crate::base::list::Link;
use crate::http2::response::{Head, Malformed};

/// A header block that is being read.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Its last frame has not begun.
    pub(super) is_open: bool,
    stream: u32,
    /// The stream ends with it.
    is_end: bool,
    /// Its stream reads it. Otherwise it is skipped, which does no harm as there is no dynamic table.
    is_kept: bool,
    continuations: u32,
    /// The block, if it came in pieces.
    bytes: Vec<u8>,
}

impl Block {
    pub(super) fn is_of(&self, stream: u32) -> bool {
        self.stream == stream
    }

    /// CONTINUATION has come.
    pub(super) fn go_on(&mut self) -> Result<(), Fault> {
        self.continuations += 1;
        if self.continuations > CONTINUATIONS {
            return Err(Fault::Continuations);
        }
        Ok(())
    }

    /// Keeps a piece.
    fn gather(&mut self, piece: &[u8]) -> Result<(), Failure> {
        if self.bytes.len() + piece.len() > HEADER_LIST {
            return Err(Failure::Headers);
        }
        if self.bytes.capacity() < HEADER_LIST {
            self.bytes.try_reserve_exact(HEADER_LIST - self.bytes.len()).map_err(|_| Failure::NoMemory)?;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// The header block in the payload of HEADERS, without padding and priority.
#[inline]
fn fragment(header: Header, payload: &[u8]) -> Result<&[u8], Fault> {
    if !header.has(PADDED | PRIORITIZED) {
        return Ok(payload);
    }
    let without_padding = || {
        let (padding, rest) = payload.split_first()?;
        rest.get(..rest.len().checked_sub(usize::from(*padding))?)
    };
    let padded = if header.has(PADDED) { without_padding() } else { Some(payload) };
    let skipped = if header.has(PRIORITIZED) { 5 } else { 0 };
    padded.and_then(|payload| payload.get(skipped..)).ok_or(Fault::Padding(HEADERS))
}

impl<T: Copy> Carrier<T> {
    /// The stream with this number, if it may still get a response.
    #[inline]
    fn receiver(&self, stream: u32) -> Option<Link> {
        self.slots.find(stream).filter(|at| !self.slots.all[*at as usize].server_ended)
    }

    #[inline]
    pub(super) fn begin_block(&mut self, header: Header) -> Result<(), Fault> {
        let is_kept = self.receiver(header.stream).is_some();
        if !is_kept {
            self.budget.spend(1).ok_or(Fault::Flood)?;
        }
        let block = &mut self.input.block;
        (block.is_open, block.is_kept, block.continuations) = (!header.has(END_HEADERS), is_kept, 0);
        (block.stream, block.is_end) = (header.stream, header.has(END_STREAM));
        block.bytes.clear();
        Ok(())
    }

    #[inline]
    pub(super) fn block(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let header = self.input.frame;
        if piece.len() == header.length && header.kind == HEADERS && header.has(END_HEADERS) {
            return self.end_of_block(fragment(header, piece)?);
        }
        self.block_in_pieces(header, piece)
    }

    fn block_in_pieces(&mut self, header: Header, piece: &[u8]) -> Result<(), Fault> {
        let block = &mut self.input.block;
        if block.is_kept {
            if let Err(failure) = block.gather(piece) {
                block.is_kept = false;
                let code = if failure == Failure::NoMemory { INTERNAL_ERROR } else { ENHANCE_YOUR_CALM };
                self.fail_receiver(failure, code);
            }
        }
        if self.input.left > 0 {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.input.block.bytes);
        if header.kind == HEADERS && self.input.block.is_kept {
            let length = fragment(header, &bytes)?.len();
            let skipped = usize::from(header.has(PADDED)) + if header.has(PRIORITIZED) { 5 } else { 0 };
            bytes.truncate(skipped + length);
            bytes.drain(..skipped);
        }
        let mut ended = Ok(());
        if header.has(END_HEADERS) {
            self.input.block.is_open = false;
            ended = self.end_of_block(&bytes);
        }
        self.input.block.bytes = bytes;
        ended
    }

    #[cold]
    fn fail_receiver(&mut self, failure: Failure, code: u32) {
        if let Some(at) = self.receiver(self.input.block.stream) {
            self.fail(at, failure, code);
        }
    }

    /// A header block is complete.
    #[inline]
    fn end_of_block(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let (stream, is_end) = (self.input.block.stream, self.input.block.is_end);
        if !self.input.block.is_kept {
            return Ok(());
        }
        let Some(at) = self.receiver(stream) else { return Ok(()) };
        self.liveness.heard_of_stream();
        let slot = &mut self.slots.all[at as usize];
        (slot.is_answered, slot.blocks) = (true, slot.blocks + 1);
        if slot.blocks > BLOCKS {
            self.fail(at, Failure::Headers, ENHANCE_YOUR_CALM);
            return Ok(());
        }
        match self.put_head(at, bytes, is_end) {
            Ok(Some(Head::Interim)) => self.budget.spend(INTERIM).ok_or(Fault::Flood)?,
            Ok(_) => self.budget.block(),
            Err(malformed) => {
                self.malformed(at, malformed);
                return Ok(());
            }
        }
        self.arrived(at, is_end);
        Ok(())
    }

    /// Gives a header block to the reader of the stream. Returns what it was, unless frames are passed.
    #[inline]
    fn put_head(&mut self, at: Link, bytes: &[u8], is_end: bool) -> Result<Option<Head>, Malformed> {
        let slot = &mut self.slots.all[at as usize];
        if slot.is_passage() {
            slot.open_data = 0;
            return put_block(&mut slot.buffer, bytes, is_end).map(|()| None).ok_or(Malformed::NoMemory);
        }
        if self.scratch.is_empty() {
            self.scratch.try_reserve_exact(HEADER_LIST).map_err(|_| Malformed::NoMemory)?;
            self.scratch.resize(HEADER_LIST, 0);
        }
        slot.response.head(bytes, is_end, &mut self.scratch, FIELDS, &mut slot.buffer).map(Some)
    }

    #[cold]
    fn malformed(&mut self, at: Link, malformed: Malformed) {
        if malformed == Malformed::NoMemory {
            self.fail(at, Failure::NoMemory, INTERNAL_ERROR);
        } else {
            self.fail(at, Failure::Malformed(malformed), PROTOCOL_ERROR);
        }
    }

    /// The reader of a stream has something to read.
    #[inline]
    fn arrived(&mut self, at: Link, is_end: bool) {
        if is_end {
            self.server_has_ended(at);
        }
        self.slots.wake(at, Wake { read: true, write: false });
    }

    /// DATA takes its length from both windows, with padding, whoever it is for.
    #[inline]
    pub(super) fn begin_data(&mut self, header: Header) -> Result<(), Fault> {
        let length = header.length as u32;
        self.shared.arrived(length).ok_or(Fault::WindowExceeded)?;
        self.input.padding = None;
        if header.has(PADDED) {
            if length == 0 {
                return Err(Fault::Padding(header.kind));
            }
        } else {
            self.input.padding = Some(0);
        }
        let Some(at) = self.receiver(header.stream) else { return self.late(length) };
        if self.slots.all[at as usize].window.arrived(length).is_none() {
            self.fail(at, Failure::WindowExceeded, FLOW_CONTROL_ERROR);
        }
        Ok(())
    }

    /// DATA of a stream that has ended. What was on its way when we have reset the stream is no fault of the server.
    #[cold]
    fn late(&mut self, length: u32) -> Result<(), Fault> {
        match self.on_its_way.checked_sub(u64::from(length)) {
            Some(left) if length > 0 => self.on_its_way = left,
            _ => self.budget.spend(1).ok_or(Fault::Flood)?,
        }
        Ok(())
    }

    /// Reads a piece of DATA.
    #[inline]
    pub(super) fn data(&mut self, mut piece: &[u8]) -> Result<(), Fault> {
        let (header, left) = (self.input.frame, self.input.left);
        let padding = match self.input.padding {
            Some(padding) => padding,
            None => {
                let Some((padding, rest)) = piece.split_first() else { return Ok(()) };
                let padding = usize::from(*padding);
                if padding > rest.len() + left {
                    return Err(Fault::Padding(header.kind));
                }
                self.input.padding = Some(padding);
                piece = rest;
                padding
            }
        };
        let payload = piece.get(..(piece.len() + left).saturating_sub(padding)).unwrap_or(piece);
        let is_last = left == 0;
        let is_end = is_last && header.has(END_STREAM);
        if is_last && !is_end && header.length == padding + usize::from(header.has(PADDED)) {
            self.budget.spend(1).ok_or(Fault::Flood)?;
        }
        if let Some(at) = self.receiver(header.stream) {
            if !payload.is_empty() || is_end {
                self.put_payload(at, payload, is_end);
            }
            if is_last && header.has(PADDED) && !is_end {
                self.credit(at);
            }
        }
        Ok(())
    }

    /// Gives payload of DATA to the reader of the stream.
    #[inline]
    fn put_payload(&mut self, at: Link, payload: &[u8], is_end: bool) {
        self.liveness.heard_of_stream();
        self.counters.data_in += payload.len() as u64;
        self.budget.data(payload.len());
        let slot = &mut self.slots.all[at as usize];
        slot.is_answered = true;
        slot.window.kept(payload.len());
        let put = if slot.is_passage() {
            let open = put_data(&mut slot.buffer, slot.open_data, payload, is_end);
            open.map(|open| slot.open_data = open).ok_or(Malformed::NoMemory)
        } else {
            slot.response.data(payload, is_end, &mut slot.buffer)
        };
        match put {
            Ok(()) => self.arrived(at, is_end),
            Err(malformed) => self.malformed(at, malformed),
        }
    }
}
