//! What the owner of a stream sends, and who sends next.
#![forbid(unsafe_code)]

use super::fault::Failure;
use super::frame::{CANCEL, DATA, END_STREAM, HEADER, LARGEST, NO_ERROR};
use super::limits::{LEAST_ROOM, TURN};
use super::output::FOR_STREAMS;
use super::stream::{Sending, StreamKey, Waiting, Wake};
use super::Carrier;
use crate::base::list::{Link, NONE};
use crate::http2::chunks::Chunks;
use crate::http2::request::{self, Body, Translated, Unfit};
use crate::http2::response::Response;

/// The owner can send.
pub(super) const WRITE: Wake = Wake { read: false, write: true };

impl<T: Copy> Carrier<T> {
    /// Sends a part of a request, as nginx's module writes it. The head of a request with a body waits while the connection's window
    /// is used up: should the server never open it, the request is provably not processed. For [`super::Kind::Translated`] the first part has the whole head.
    /// Returns how many bytes were taken: all or nothing of a head, and of a body as much as windows and output allow. If it is not
    /// all, a wake to write follows. Once the response is complete, everything is taken and dropped (RFC 9113, section 8.1).
    ///
    /// # Errors
    /// If the stream has failed.
    #[inline]
    pub fn send(&mut self, key: StreamKey, bytes: &[u8]) -> Result<usize, Failure> {
        let at = self.slots.at(key).ok_or(Failure::NotOpen)?;
        let slot = &self.slots.all[at as usize];
        if let Some(failure) = slot.failure {
            if slot.leftover.is_some() {
                self.drop_sent(at, bytes);
                return Ok(bytes.len());
            }
            return Err(failure);
        }
        if slot.server_ended {
            return Ok(bytes.len());
        }
        let is_turn = self.end_turn(at);
        let taken = match self.slots.all[at as usize].sending {
            Sending::Head => self.send_head(at, bytes),
            Sending::Frames(_) => self.pass(at, bytes, is_turn),
            _ => self.send_body(at, bytes, is_turn),
        };
        self.wake_senders();
        taken
    }

    /// A stream that was woken to send DATA sends now, or never. Returns whether it was.
    #[inline]
    pub(super) fn end_turn(&mut self, at: Link) -> bool {
        let is_turn = std::mem::take(&mut self.slots.all[at as usize].is_promised);
        self.promised -= u32::from(is_turn);
        is_turn
    }

    /// Whether the header block of a new stream must wait: for a sign of life, or for the end of another stream.
    #[inline]
    pub(super) fn must_wait(&self) -> bool {
        self.liveness.is_holding() || self.slots.live >= self.settings.streams
    }

    /// The number of the next stream.
    #[inline]
    pub(super) fn next_number(&mut self, at: Link) -> Result<u32, Failure> {
        if self.next_id > LARGEST {
            return Err(self.fail(at, Failure::Refused, CANCEL));
        }
        Ok(self.next_id)
    }

    fn send_head(&mut self, at: Link, bytes: &[u8]) -> Result<usize, Failure> {
        if self.must_wait() {
            self.slots.wait(at, Waiting::Head);
            return Ok(0);
        }
        let id = self.next_number(at)?;
        let written = request::translate(bytes, self.config.secure, self.output.block_mut(id));
        let is_bodiless = |head: &Translated| matches!(head.body, Body::None | Body::Length(0));
        if self.shared.is_used_up() && written.is_ok_and(|head| !is_bodiless(&head)) {
            self.slots.wait(at, Waiting::Data);
            return Ok(0);
        }
        let head = written.and_then(|head| {
            let is_end = is_bodiless(&head);
            self.output.block(id, head.block, is_end).map(|()| (head, is_end)).ok_or(Unfit::TooLarge)
        });
        let (Translated { length, body, is_head, .. }, is_end) = match head {
            Ok(head) => head,
            Err(Unfit::TooLarge) if !self.output.is_empty() => {
                self.slots.wait(at, Waiting::Head);
                return Ok(0);
            }
            Err(unfit) => return Err(self.fail(at, Failure::Unfit(unfit), CANCEL)),
        };
        self.numbered(at, id);
        let slot = &mut self.slots.all[at as usize];
        slot.response = Response::new(is_head);
        slot.sending = match body {
            Body::None | Body::Length(0) => Sending::Done,
            Body::Length(length) => Sending::Length(length),
            Body::Chunked => Sending::Chunked(Chunks::default()),
        };
        if is_end {
            self.we_have_ended(at);
        }
        match bytes.get(length..) {
            None | Some([]) => Ok(length),
            Some(rest) => Ok(length + self.send_body(at, rest, false)?),
        }
    }

    /// The header block with this number is in the output.
    #[inline]
    pub(super) fn numbered(&mut self, at: Link, id: u32) {
        self.next_id += 2;
        self.slots.stop_waiting(at);
        self.slots.number(at, id);
        let slot = &mut self.slots.all[at as usize];
        slot.head_end = self.output.end();
        slot.window.send = i64::from(self.settings.window);
        self.budget.block();
        self.end_streams();
    }

    /// Sends GOAWAY after [`Carrier::shut_down`], once no stream is to follow.
    #[inline]
    pub(super) fn end_streams(&mut self) {
        if self.owes_goaway && self.slots.unsent() == 0 {
            self.owes_goaway = false;
            self.output.goaway(NO_ERROR);
        }
    }

    fn send_body(&mut self, at: Link, bytes: &[u8], is_turn: bool) -> Result<usize, Failure> {
        let taken = match self.slots.all[at as usize].sending {
            Sending::Length(left) if bytes.len() as u64 <= left => {
                let taken = self.send_data(at, bytes, bytes.len() as u64 == left, is_turn);
                let left = left - taken as u64;
                let sending = if left == 0 { Sending::Done } else { Sending::Length(left) };
                self.slots.all[at as usize].sending = sending;
                taken
            }
            Sending::Chunked(chunks) => self.send_chunks(at, bytes, chunks, is_turn)?,
            _ if bytes.is_empty() => 0,
            _ => return Err(self.fail(at, Failure::Upload, CANCEL)),
        };
        self.sent(at, taken == bytes.len());
        Ok(taken)
    }

    fn send_chunks(
        &mut self,
        at: Link,
        bytes: &[u8],
        mut chunks: Chunks,
        mut is_turn: bool,
    ) -> Result<usize, Failure> {
        let mut taken = 0;
        let mut is_last = false;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let mut next = chunks;
            let mut piece = next.next(rest);
            let allowed = self.allowed(at, is_turn);
            if piece.is_some_and(|piece| piece.data.len() > allowed) {
                // What is allowed is all that is read, so no more payload than that.
                next = chunks;
                piece = next.next(rest.get(..allowed).unwrap_or_default());
            }
            let Some(piece) = piece.filter(|piece| !is_last && piece.data.len() <= allowed) else {
                return Err(self.fail(at, Failure::Upload, CANCEL));
            };
            if piece.read == 0 {
                break;
            }
            (chunks, is_last) = (next, piece.is_last);
            taken += piece.read;
            self.send_data(at, piece.data, is_last, is_turn);
            is_turn &= piece.data.is_empty();
        }
        self.slots.all[at as usize].sending = if is_last { Sending::Done } else { Sending::Chunked(chunks) };
        Ok(taken)
    }

    /// How much DATA a stream may send now, in bytes: by the windows, by its share, by the room in the output, and by the turns of those
    /// who wait.
    #[inline]
    pub(super) fn allowed(&self, at: Link, is_turn: bool) -> usize {
        let own = self.slots.all[at as usize].window.allows(&self.shared, self.slots.owned <= 1);
        let others = self.slots.senders.oldest();
        let is_waited_for = self.promised > 0 || (others != NONE && others != at);
        let allowed = match (is_waited_for, is_turn) {
            (false, _) => own,
            (true, true) => own.min(TURN),
            (true, false) => own.min(self.shared.send - i64::from(self.promised) * TURN),
        };
        usize::try_from(allowed).unwrap_or(0).min(self.room_for_data())
    }

    /// How much DATA the output has room for. A little does not count.
    #[inline]
    fn room_for_data(&self) -> usize {
        match self.output.room_for_data() {
            0..LEAST_ROOM => 0,
            room => room,
        }
    }

    /// Sends DATA, as much as is allowed. If it is all, and the last, the stream ends. Returns how much was sent.
    pub(super) fn send_data(&mut self, at: Link, payload: &[u8], is_last: bool, is_turn: bool) -> usize {
        if payload.is_empty() {
            if is_last {
                self.send_end(at);
            }
            return 0;
        }
        let length = payload.len().min(self.allowed(at, is_turn));
        let is_end = is_last && length == payload.len();
        if length == 0 {
            return 0;
        }
        let slot = &mut self.slots.all[at as usize];
        slot.window.sent(&mut self.shared, length);
        self.output.data(slot.id, &payload[..length], is_end);
        self.counters.data_out += length as u64;
        self.budget.data(length);
        if is_end {
            self.we_have_ended(at);
        }
        length
    }

    /// Sends END_STREAM in an empty frame, now or when there is room.
    pub(super) fn send_end(&mut self, at: Link) -> Option<()> {
        let slot = &mut self.slots.all[at as usize];
        if self.output.control(FOR_STREAMS, DATA, END_STREAM, slot.id, &[]).is_none() {
            slot.owes_end = true;
            self.slots.owe(at);
            return None;
        }
        slot.owes_end = false;
        self.we_have_ended(at);
        Some(())
    }

    /// END_STREAM is in the output.
    #[inline]
    pub(super) fn we_have_ended(&mut self, at: Link) {
        self.slots.all[at as usize].we_ended = true;
        if self.slots.all[at as usize].server_ended {
            self.slots.close(at);
            self.wake_heads();
        }
    }

    /// A part of a body was sent, or some of it. Without a window of its own the stream waits for that, otherwise in line.
    #[inline]
    pub(super) fn sent(&mut self, at: Link, is_all: bool) {
        if is_all {
            self.slots.all[at as usize].wants = false;
            self.slots.stop_waiting(at);
            return;
        }
        let is_alone = self.slots.owned <= 1;
        let slot = &mut self.slots.all[at as usize];
        let is_new = !std::mem::replace(&mut slot.wants, true);
        let has_window = slot.window.allows(&self.shared, is_alone) > 0;
        self.counters.stalls += u64::from(is_new && !has_window);
        let waits = if slot.window.send > 0 { Waiting::Data } else { Waiting::No };
        self.slots.wait(at, waits);
    }

    /// Wakes streams whose header blocks wait, as many as the server takes.
    pub(super) fn wake_heads(&mut self) {
        if self.slots.heads.oldest() == NONE || self.must_wait() {
            return;
        }
        for _ in self.slots.live..self.settings.streams {
            let at = self.slots.heads.oldest();
            if at == NONE {
                return;
            }
            self.slots.stop_waiting(at);
            self.slots.wake(at, WRITE);
        }
    }

    /// Those who were woken to send have done so by now, or will not: nginx sends nothing more of a request once the header of the
    /// response was sent to the client. Their turn is the next one's.
    #[inline]
    pub fn end_turns(&mut self) {
        if self.promised > 0 {
            self.take_turns_back();
        }
    }

    #[cold]
    fn take_turns_back(&mut self) {
        for at in 0..self.slots.all.len() as Link {
            self.end_turn(at);
        }
        self.wake_senders();
    }

    /// Wakes streams that wait to send DATA, in turn, as many as can send.
    #[inline]
    pub(super) fn wake_senders(&mut self) {
        if self.slots.senders.oldest() != NONE {
            self.wake_those_who_can_send();
        }
    }

    fn wake_those_who_can_send(&mut self) {
        let room = i64::try_from(self.room_for_data()).unwrap_or(i64::MAX);
        let mut left = self.shared.send.min(room) - i64::from(self.promised) * TURN;
        let is_alone = self.slots.owned <= 1;
        let mut at = self.slots.senders.oldest();
        while at != NONE && left > 0 {
            let slot = &mut self.slots.all[at as usize];
            let next = slot.waiting_links.newer();
            let is_head = slot.id == 0;
            if is_head || slot.window.allows(&self.shared, is_alone) > 0 {
                slot.is_promised = true;
                self.promised += 1;
                left -= TURN;
                self.slots.stop_waiting(at);
                self.slots.wake(at, WRITE);
            } else if slot.window.send <= 0 {
                self.slots.stop_waiting(at);
            }
            at = next;
        }
    }

    /// The output is empty: what waited for room goes on.
    #[inline]
    pub(super) fn go_on(&mut self) {
        if self.slots.owing.oldest() != NONE {
            self.pay();
        }
        self.credit_connection();
        if self.slots.heads.oldest() != NONE {
            self.wake_trailers();
        }
        self.wake_heads();
        self.wake_senders();
    }

    /// Wakes streams whose trailers wait for room: the server has these streams.
    #[cold]
    fn wake_trailers(&mut self) {
        let mut at = self.slots.heads.oldest();
        while at != NONE {
            let slot = &mut self.slots.all[at as usize];
            let (next, has_number) = (slot.waiting_links.newer(), slot.id != 0);
            if has_number {
                self.slots.stop_waiting(at);
                self.slots.wake(at, WRITE);
            }
            at = next;
        }
    }

    /// Sends what streams owe the server.
    #[cold]
    fn pay(&mut self) {
        while self.slots.owing.oldest() != NONE && self.output.room(FOR_STREAMS) >= HEADER + 4 {
            let at = self.slots.owing.oldest();
            self.slots.stop_owing(at);
            let slot = &mut self.slots.all[at as usize];
            match slot.reset.take() {
                Some(code) => {
                    self.write_reset(at, code);
                }
                None if slot.is_closed => {}
                None => {
                    if slot.owes_end {
                        self.send_end(at);
                    }
                    if !self.slots.all[at as usize].server_ended {
                        self.credit(at);
                    }
                }
            }
        }
    }
}
