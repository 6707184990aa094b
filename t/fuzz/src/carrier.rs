//! A carrier: any sequence of operations beside a naive server, and a server that sends anything.
#![forbid(unsafe_code)]

use keepalive::http2::carrier::model::{agree, survive, CarrierOp};

use crate::input::Input;

/// Which of the two, then operations or what the server sends: bytes in pieces, or frames.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    match input.below(3) {
        0 => operations(&mut input),
        1 => {
            let (settled, piece) = (input.flag(), 1 + input.below(100));
            survive(settled, input.0.chunks(piece));
        }
        _ => frames(&mut input),
    }
}

/// The limit of streams, the length of the server's pieces, and operations.
fn operations(input: &mut Input<'_>) {
    let (streams, piece) = (1 + input.below(20), 1 + input.below(50));
    let piece = if piece == 1 { usize::MAX } else { piece };
    let ops = std::iter::from_fn(|| (!input.is_empty()).then(|| operation(input)));
    agree(streams as u32, piece, ops.take(200));
}

fn operation(input: &mut Input<'_>) -> CarrierOp {
    let (which, nth) = (input.below(17), input.below(20));
    match which {
        0 | 1 => CarrierOp::Open(input.flag(), length(input) as u32, input.flag()),
        2..4 => CarrierOp::Send(nth, length(input)),
        4 | 5 => CarrierOp::Read(nth, length(input)),
        6 => CarrierOp::Close(nth),
        7 => CarrierOp::Written(length(input)),
        8 => CarrierOp::Head(nth, length(input) as u32),
        9 => CarrierOp::Data(nth, length(input), input.byte()),
        10 => CarrierOp::Reset(nth, u32::from(input.byte())),
        11 => CarrierOp::Window(nth, 1 + length(input) as u32),
        12 => CarrierOp::Shared(1 + length(input) as u32),
        13 => CarrierOp::Settings(nth as u32, length(input) as u32),
        14 => CarrierOp::Ping,
        15 => CarrierOp::Wait(length(input)),
        _ if nth == 0 => CarrierOp::ShutDown,
        _ => CarrierOp::GoAway(nth),
    }
}

/// A length of any size up to 200,000.
fn length(input: &mut Input<'_>) -> usize {
    let factor = input.one_of(&[1, 50, 800]);
    usize::from(input.byte()) * factor
}

/// Whether SETTINGS come first, and frames: type, flags, stream, whether the length is right, and the payload, up to a line's end.
fn frames(input: &mut Input<'_>) {
    let settled = input.flag();
    let mut frames = Vec::new();
    while !input.is_empty() && frames.len() < 300 {
        let (kind, flags, stream, is_wrong) = (input.byte(), input.byte(), input.byte(), input.flag());
        let payload = input.line();
        let length = (payload.len() + usize::from(is_wrong)) as u32;
        let [_, high, middle, low] = length.to_be_bytes();
        frames.push([&[high, middle, low, kind, flags, 0, 0, 0, stream][..], payload].concat());
    }
    survive(settled, frames.iter().map(|frame| &frame[..]));
}
