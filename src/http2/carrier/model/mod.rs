//! Compares a carrier with a naive server: any sequence of operations must keep to the rules of HTTP/2, and lose no byte. In the
//! end everyone reads and credits everything, and each stream must come to its end by wakes alone. The unit tests and the fuzzers
//! in `t/fuzz` use it.
#![forbid(unsafe_code)]

mod hostile;
mod owner;
mod server;
mod stream;

pub use hostile::survive;

use super::*;
use owner::Owner;
use server::Server;

/// An operation. `nth` chooses a stream, of those that are there.
#[derive(Clone, Copy, Debug)]
pub enum CarrierOp {
    /// Opens a stream: as frames or not, with a body of so many bytes, in chunks or not.
    Open(bool, u32, bool),
    /// Sends at most so many bytes of a stream, if its owner has not been told to wait.
    Send(usize, usize),
    /// Reads at most so many bytes of a stream.
    Read(usize, usize),
    /// Its owner leaves a stream.
    Close(usize),
    /// So many bytes of the output are written.
    Written(usize),
    /// The server begins a response with so many bytes, or another interim response.
    Head(usize, u32),
    /// The server sends so many bytes of DATA, as far as it may, with so much padding.
    Data(usize, usize, u8),
    /// The server resets a stream.
    Reset(usize, u32),
    /// The server credits a stream.
    Window(usize, u32),
    /// The server credits the connection.
    Shared(u32),
    /// The server changes its limit of streams and their initial window.
    Settings(u32, u32),
    /// The server sends PING.
    Ping,
    /// The server processes no streams above this one.
    GoAway(usize),
    /// So many milliseconds pass.
    Wait(usize),
    /// No stream is opened any more.
    ShutDown,
}

/// What the carrier, its streams and the server have done.
struct Model {
    carrier: Carrier<usize>,
    server: Server,
    owners: Vec<Owner>,
    now: Msec,
    /// The server's bytes come in pieces of this length.
    piece: usize,
}

/// Applies all operations, and then lets everything end.
///
/// # Panics
/// If the carrier breaks a rule, or a stream does not end.
pub fn agree(streams: u32, piece: usize, ops: impl IntoIterator<Item = CarrierOp>) {
    let config = Config { streams, secure: false };
    let mut model = Model {
        carrier: Carrier::new(config).expect("there is memory"),
        server: Server::default(),
        owners: Vec::new(),
        now: 0,
        piece: piece.max(1),
    };
    model.look();
    for op in ops {
        model.apply(op);
        model.look();
        model.check();
    }
    model.end();
}

impl Model {
    fn apply(&mut self, op: CarrierOp) {
        match op {
            CarrierOp::Open(frames, body, chunked) => self.open(frames, body, chunked),
            CarrierOp::Send(nth, length) => self.of_owner(nth, |it, carrier| it.send(carrier, length)),
            CarrierOp::Read(nth, length) => self.of_owner(nth, |it, carrier| it.read(carrier, length)),
            CarrierOp::Close(nth) if !self.owners.is_empty() => {
                let owner = self.owners.remove(nth % self.owners.len());
                let close = self.carrier.close(owner.key);
                assert_eq!(self.carrier.close(owner.key), Close::Unsent);
                assert!(close != Close::Refused || !self.server.has_answered(owner.number));
                self.server.left(owner.number);
            }
            CarrierOp::Written(_) if self.carrier.output().is_empty() => {}
            CarrierOp::Written(length) => {
                self.carrier.written(length.min(self.carrier.output().len()));
            }
            CarrierOp::Wait(time) => self.wait(time),
            CarrierOp::ShutDown => self.carrier.shut_down(),
            CarrierOp::Close(_) => {}
            of_server => {
                let frames = self.server.act(of_server);
                self.deliver(&frames);
            }
        }
    }

    fn open(&mut self, frames: bool, body: u32, chunked: bool) {
        let room = self.carrier.room();
        let number = self.server.next_number();
        let kind = match frames {
            true if number % 2 == 0 => Kind::KeptFrames,
            true => Kind::Frames,
            false => Kind::Translated,
        };
        let key = self.carrier.open(kind, number, self.now);
        assert_eq!(key.is_some(), room > 0);
        if let Some(key) = key {
            assert_eq!(self.carrier.owner(key), Some(number));
            self.server.add(number, body);
            self.owners.push(Owner::new(key, number, kind, body, chunked));
        }
    }

    fn of_owner(&mut self, nth: usize, act: impl FnOnce(&mut Owner, &mut Carrier<usize>)) {
        if !self.owners.is_empty() {
            let nth = nth % self.owners.len();
            act(&mut self.owners[nth], &mut self.carrier);
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.piece) {
            assert_eq!(self.carrier.receive(piece, self.now), Ok(()));
            self.look();
        }
    }

    fn wait(&mut self, time: usize) {
        let answers = self.server.answers();
        self.deliver(&answers);
        self.now += time.min(12_000);
        let tick = self.carrier.tick(self.now);
        assert!(matches!(tick, Tick::Wait(at) if at.is_none_or(|at| at > self.now)), "{tick:?}");
    }

    /// The server reads the output as soon as it is there, so that it is compared with what the carrier knew. Owners are woken.
    fn look(&mut self) {
        let carrier = &mut self.carrier;
        self.server.look(carrier.output.written_end(), carrier.output());
        while let Some((key, number, wake)) = carrier.next_woken() {
            assert!(wake.read || wake.write);
            let owner = self.owners.iter_mut().find(|it| it.number == number).expect("an owner");
            assert_eq!(owner.key, key);
            owner.can_send |= wake.write;
            owner.can_read |= wake.read;
        }
    }

    /// The counts are those of the server, except for streams whose RST_STREAM has crossed one of the server.
    fn check(&self) {
        let (live, open) = (self.carrier.slots.live as usize, self.server.open_streams());
        assert!(live >= open, "{live} of {open}");
        assert!(self.carrier.streams() == self.owners.len() && self.carrier.served() >= open as u64);
        self.nobody_is_forgotten();
    }

    /// Whoever could send has been woken.
    fn nobody_is_forgotten(&self) {
        let carrier = &self.carrier;
        let heads = carrier.slots.heads.oldest();
        let is_another_in_turn = self.owners.iter().any(|it| it.can_begin());
        let has_room = carrier.output.is_empty();
        assert!(heads == NONE || carrier.must_wait() || !has_room || is_another_in_turn);
        let is_alone = carrier.streams() <= 1;
        let room = carrier.output.room_for_data();
        let room = if room < limits::LEAST_ROOM { 0 } else { room as i64 };
        let left = carrier.shared.send.min(room) - i64::from(carrier.promised) * limits::TURN;
        for slot in carrier.slots.all.iter().filter(|slot| slot.owner.is_some()) {
            let is_waiting = slot.waiting == super::stream::Waiting::Data;
            assert!(!is_waiting || left <= 0 || slot.window.allows(&carrier.shared, is_alone) <= 0);
            assert!(!slot.wants || is_waiting || slot.is_promised || slot.window.send <= 0);
        }
    }

    /// All that is wanted is done, until nothing changes any more.
    fn end(&mut self) {
        let settings = self.server.act(CarrierOp::Settings(100, 1 << 20));
        self.deliver(&settings);
        let mut still = 0;
        while still < 4 {
            let before = self.progress();
            self.apply(CarrierOp::Written(usize::MAX));
            self.look();
            let frames = self.server.finish();
            self.deliver(&frames);
            for nth in 0..self.owners.len() {
                self.of_owner(nth, |it, carrier| it.send(carrier, usize::MAX));
                self.look();
                self.of_owner(nth, |it, carrier| it.read(carrier, 1 << 16));
                self.look();
            }
            self.wait(1_500);
            self.look();
            self.check();
            still = if before == self.progress() { still + 1 } else { 0 };
        }
        for owner in &self.owners {
            owner.has_ended(&self.carrier, &self.server);
        }
        while !self.owners.is_empty() {
            self.apply(CarrierOp::Close(0));
            self.look();
            self.carrier.written(usize::MAX / 2);
            self.look();
        }
        assert_eq!((self.carrier.slots.live, self.server.open_streams()), (0, 0));
        assert_eq!((self.carrier.streams(), self.carrier.slots.used), (0, 0));
        assert_eq!((self.carrier.promised, self.carrier.slots.senders.oldest()), (0, NONE));
    }

    fn progress(&self) -> (u64, u64, usize) {
        let read = self.owners.iter().map(|it| it.received.len()).sum();
        (self.carrier.output.end(), self.carrier.counters.data_in, read)
    }
}
