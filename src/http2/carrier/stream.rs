//! A stream: one request on a carrier.
//!
//! ```text
//!   open() --> Head --> body .. --> we have ended --.
//!              number is given                       +--> closed at the server --> close(): place is free
//!              `--> head .. --> server has ended ---'
//!                    RST_STREAM, GOAWAY, a failure -'
//! ```
#![forbid(unsafe_code)]

use super::buffer::Buffer;
use super::fault::Failure;
use super::leftover::Leftover;
use super::passage::Passage;
use super::window::Own;
use crate::base::list::{Link, Neighbours, Node, NONE};
use crate::http2::chunks::Chunks;
use crate::http2::response::Response;

/// How the owner of a stream writes its request and reads its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As HTTP/1.1, which is translated.
    Translated,
    /// As frames of stream 1.
    Frames,
    /// The same, and the module has the whole request: it can be sent again, whatever was sent of it.
    KeptFrames,
}

/// A stream of a carrier. It is void once its owner has closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// What the owner of a stream can do again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// There is something to read, or an end.
    pub read: bool,
    /// More can be sent, or it failed.
    pub write: bool,
}

/// How far a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sending {
    /// Nothing was sent.
    Head,
    /// How many bytes of the body are missing.
    Length(u64),
    /// A body in chunks.
    Chunked(Chunks),
    /// Frames.
    Frames(Passage),
    /// All was sent.
    Done,
}

/// What a stream waits for, and so the list that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    No,
    /// To send its header block.
    Head,
    /// To send DATA.
    Data,
}

#[derive(Debug)]
pub(super) struct Slot<T> {
    /// Whose stream it is. `None` in a free place, and once the owner has left.
    pub(super) owner: Option<T>,
    pub(super) generation: u32,
    /// The number of the stream. 0 before its header block is in the output.
    pub(super) id: u32,
    pub(super) sending: Sending,
    pub(super) response: Response,
    pub(super) failure: Option<Failure>,
    /// The module has the whole request.
    pub(super) is_kept: bool,
    /// The stream has failed, and its owner is not told yet.
    pub(super) leftover: Option<Leftover>,
    /// RST_STREAM with this code is to be sent.
    pub(super) reset: Option<u32>,
    /// We have sent END_STREAM.
    pub(super) we_ended: bool,
    /// The server has sent END_STREAM.
    pub(super) server_ended: bool,
    /// The server does not have the stream any more, or never will.
    pub(super) is_closed: bool,
    /// The owner wants to send more.
    pub(super) wants: bool,
    /// The owner was woken to send, and has not done it yet.
    pub(super) is_promised: bool,
    /// END_STREAM is to be sent, in an empty frame.
    pub(super) owes_end: bool,
    /// Something of a response has come, so the request was processed.
    pub(super) is_answered: bool,
    /// How many header blocks have come.
    pub(super) blocks: u8,
    pub(super) wake: Wake,
    pub(super) waiting: Waiting,
    pub(super) is_owing: bool,
    /// Where in the output's life the header block ends.
    pub(super) head_end: u64,
    pub(super) window: Own,
    pub(super) buffer: Buffer,
    /// For frames: a part of a frame header or header block that is not complete yet.
    pub(super) partial: Vec<u8>,
    /// For frames: how far from its end the last frame in the buffer begins, if it is DATA that more can be added to.
    pub(super) open_data: usize,
    /// For frames: how much of the DATA that was taken is not credited.
    pub(super) taken: u32,
    /// The next in the list of those with a similar number, or of free places.
    pub(super) next: Link,
    pub(super) woken_links: Neighbours,
    pub(super) waiting_links: Neighbours,
    pub(super) owing_links: Neighbours,
}

impl<T> Slot<T> {
    pub(super) fn new() -> Self {
        Self {
            owner: None,
            generation: 0,
            id: 0,
            sending: Sending::Head,
            response: Response::new(false),
            failure: None,
            is_kept: false,
            leftover: None,
            reset: None,
            we_ended: false,
            server_ended: false,
            is_closed: false,
            wants: false,
            is_promised: false,
            owes_end: false,
            is_answered: false,
            blocks: 0,
            wake: Wake::default(),
            waiting: Waiting::No,
            is_owing: false,
            head_end: 0,
            window: Own::new(),
            buffer: Buffer::default(),
            partial: Vec::new(),
            open_data: 0,
            taken: 0,
            next: NONE,
            woken_links: Neighbours::default(),
            waiting_links: Neighbours::default(),
            owing_links: Neighbours::default(),
        }
    }

    /// Begins a stream in a free place. What has memory is empty already.
    #[inline]
    pub(super) fn begin(&mut self, kind: Kind, owner: T) {
        self.owner = Some(owner);
        self.id = 0;
        self.sending = match kind {
            Kind::Translated => Sending::Head,
            Kind::Frames | Kind::KeptFrames => Sending::Frames(Passage::default()),
        };
        self.is_kept = kind == Kind::KeptFrames;
        (self.failure, self.leftover) = (None, None);
        self.reset = None;
        (self.we_ended, self.server_ended, self.is_closed) = (false, false, false);
        (self.wants, self.is_promised, self.owes_end) = (false, false, false);
        (self.is_answered, self.blocks) = (false, 0);
        self.wake = Wake::default();
        self.window = Own::new();
        (self.open_data, self.taken) = (0, 0);
    }

    pub(super) fn is_passage(&self) -> bool {
        matches!(self.sending, Sending::Frames(_))
    }

    /// What the owner is told of a failure.
    #[inline]
    pub(super) fn told(&self) -> Option<Failure> {
        self.failure.filter(|_| self.leftover.is_none())
    }
}

/// The kind of the list of streams whose owners are to be woken.
#[derive(Debug)]
pub(super) struct Woken;

/// The kind of the lists of streams that wait to send.
#[derive(Debug)]
pub(super) struct InWait;

/// The kind of the list of streams that owe the server RST_STREAM or WINDOW_UPDATE.
#[derive(Debug)]
pub(super) struct Owing;

impl<T> Node<Woken> for Slot<T> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.woken_links
    }
}

impl<T> Node<InWait> for Slot<T> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.waiting_links
    }
}

impl<T> Node<Owing> for Slot<T> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.owing_links
    }
}
