//! Frames of the server: their headers, in pieces of any size, and which frames may come when (RFC 9113, sections 4 to 6).
#![forbid(unsafe_code)]

use super::fault::Fault;
use super::frame::{
    Header, ACK, CONTINUATION, DATA, GOAWAY, HEADER, HEADERS, LONGEST, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::response::Block;
use super::settings::{Settings, SETTING};
use super::Carrier;
use crate::base::clock::Msec;

/// How much of a payload is gathered before it is read: the numbers of PING and GOAWAY.
const GATHERED: usize = 8;

/// How far the server's bytes were read.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The beginning of a frame header, if it came in pieces.
    head: [u8; HEADER],
    head_length: usize,
    /// The current frame. Its header was read.
    pub(super) frame: Header,
    is_in_frame: bool,
    /// How many bytes of its payload are still to come, behind those that are being read.
    pub(super) left: usize,
    /// The beginning of the payload, or of the current setting.
    gathered: [u8; GATHERED],
    gathered_length: usize,
    /// The length of the padding of DATA, once it is known.
    pub(super) padding: Option<usize>,
    pub(super) block: Block,
    /// The settings so far, which hold at the end of the frame.
    pub(super) settings: Settings,
}

impl Input {
    /// Reads a frame header. `None` if it is not complete.
    #[inline]
    fn header(&mut self, bytes: &mut &[u8]) -> Option<Header> {
        if self.head_length == 0 {
            if let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() {
                *bytes = rest;
                return Some(Header::read(head));
            }
        }
        let taken = (HEADER - self.head_length).min(bytes.len());
        let (piece, rest) = bytes.split_at(taken);
        self.head[self.head_length..self.head_length + taken].copy_from_slice(piece);
        self.head_length += taken;
        *bytes = rest;
        if self.head_length < HEADER {
            return None;
        }
        self.head_length = 0;
        Some(Header::read(&self.head))
    }

    /// Whether the beginning of the first frame header is not that of SETTINGS.
    fn is_not_settings(&self) -> bool {
        self.head_length > 3 && self.head[3] != SETTINGS
    }

    /// Keeps the beginning of a payload.
    fn gather(&mut self, piece: &[u8]) {
        for (place, byte) in self.gathered.iter_mut().skip(self.gathered_length).zip(piece) {
            *place = *byte;
            self.gathered_length += 1;
        }
    }

    /// Keeps the beginning of a setting. Returns the setting if it is complete.
    fn gather_setting(&mut self, piece: &mut &[u8]) -> Option<[u8; SETTING]> {
        let taken = (SETTING - self.gathered_length).min(piece.len());
        let (part, rest) = piece.split_at(taken);
        self.gather(part);
        *piece = rest;
        let setting = self.gathered.first_chunk().filter(|_| self.gathered_length == SETTING)?;
        self.gathered_length = 0;
        Some(*setting)
    }

    /// The number at the beginning of the payload.
    fn number(&self) -> u32 {
        let [a, b, c, d, ..] = self.gathered;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl<T: Copy> Carrier<T> {
    /// Takes bytes of the server, in pieces of any size.
    ///
    /// # Errors
    /// If the server has broken a rule of the connection. GOAWAY with the code is then in the output, and all streams have failed.
    pub fn receive(&mut self, bytes: &[u8], now: Msec) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if bytes.is_empty() || self.is_over {
            return Ok(());
        }
        self.budget.refill(now);
        if self.liveness.heard(now) {
            self.wake_heads();
        }
        let read = self.read_frames(bytes);
        match read {
            Ok(()) => self.credit_connection(),
            Err(fault) => self.give_up(fault),
        }
        read
    }

    fn read_frames(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        loop {
            if !self.input.is_in_frame {
                let Some(header) = self.input.header(&mut bytes) else { return self.first_bytes() };
                self.begin(header)?;
            }
            let (piece, rest) = bytes.split_at(self.input.left.min(bytes.len()));
            bytes = rest;
            self.input.left -= piece.len();
            self.payload(piece)?;
            if self.input.left > 0 {
                return Ok(());
            }
            self.input.is_in_frame = false;
        }
    }

    /// A server that does not speak HTTP/2 may say less than a frame header.
    fn first_bytes(&self) -> Result<(), Fault> {
        if !self.settings.is_known && self.input.is_not_settings() {
            return Err(Fault::NotHttp2);
        }
        Ok(())
    }

    /// Whether a frame may come now, with this header.
    #[inline]
    fn begin(&mut self, header: Header) -> Result<(), Fault> {
        if !self.settings.is_known && (header.kind != SETTINGS || header.has(ACK)) {
            return Err(Fault::NotHttp2);
        }
        if header.length > LONGEST {
            return Err(Fault::TooLong(header.kind));
        }
        let is_continued = header.kind == CONTINUATION;
        if self.input.block.is_open != is_continued
            || (is_continued && !self.input.block.is_of(header.stream))
        {
            return Err(Fault::Continuation(header.kind));
        }
        let input = &mut self.input;
        (input.frame, input.left, input.is_in_frame, input.gathered_length) =
            (header, header.length, true, 0);
        match header.kind {
            DATA => {
                self.check_stream(header)?;
                self.begin_data(header)
            }
            HEADERS => {
                self.check_stream(header)?;
                self.begin_block(header)
            }
            CONTINUATION => self.input.block.go_on(),
            _ => self.begin_control(header),
        }
    }

    /// A frame about a stream must be about one that we have opened.
    #[inline]
    fn check_stream(&self, header: Header) -> Result<(), Fault> {
        if header.stream == 0 {
            return Err(Fault::StreamNumber(header.kind));
        }
        if header.stream % 2 == 0 || header.stream >= self.next_id {
            return Err(Fault::Idle(header.kind));
        }
        Ok(())
    }

    fn begin_control(&mut self, header: Header) -> Result<(), Fault> {
        self.budget.spend(1).ok_or(Fault::Flood)?;
        let is_length_valid = match header.kind {
            SETTINGS if header.has(ACK) => header.length == 0,
            SETTINGS => header.length % SETTING == 0,
            PING => header.length == 8,
            GOAWAY => header.length >= 8,
            RST_STREAM | WINDOW_UPDATE => header.length == 4,
            PUSH_PROMISE => return Err(Fault::Push),
            _ => true,
        };
        if !is_length_valid {
            return Err(Fault::Length(header.kind));
        }
        match header.kind {
            SETTINGS | PING | GOAWAY if header.stream != 0 => Err(Fault::StreamNumber(header.kind)),
            PRIORITY if header.stream == 0 => Err(Fault::StreamNumber(header.kind)),
            RST_STREAM => self.check_stream(header),
            WINDOW_UPDATE if header.stream != 0 => self.check_stream(header),
            SETTINGS if !header.has(ACK) => {
                self.input.settings = self.settings.or_defaults();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reads a piece of the payload of the current frame; also an empty one, so that each frame has an end.
    #[inline]
    fn payload(&mut self, mut piece: &[u8]) -> Result<(), Fault> {
        let header = self.input.frame;
        match header.kind {
            DATA => return self.data(piece),
            HEADERS | CONTINUATION => return self.block(piece),
            SETTINGS => {
                while let Some(setting) = self.input.gather_setting(&mut piece) {
                    self.input.settings.read(setting)?;
                }
            }
            _ => self.input.gather(piece),
        }
        if self.input.left > 0 {
            return Ok(());
        }
        let number = self.input.number();
        match header.kind {
            SETTINGS if !header.has(ACK) => self.end_of_settings(),
            PING => self.pinged(header.has(ACK), self.input.gathered),
            WINDOW_UPDATE => self.more_window(header.stream, number),
            RST_STREAM => {
                self.reset_by_server(header.stream, number);
                Ok(())
            }
            GOAWAY => {
                self.go_away(number & super::frame::LARGEST);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
