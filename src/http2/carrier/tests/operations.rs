//! Random operations, compared with a naive server.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::super::model::{agree, survive, CarrierOp};

fn op() -> impl Strategy<Value = CarrierOp> {
    let nth = 0..12usize;
    let length = prop_oneof![0..3u32, 0..3_000u32, 0..200_000u32];
    let part = prop_oneof![0..10usize, 0..5_000usize, 0..100_000usize];
    prop_oneof![
        4 => (any::<bool>(), length.clone(), any::<bool>()).prop_map(|(a, b, c)| CarrierOp::Open(a, b, c)),
        8 => (nth.clone(), part.clone()).prop_map(|(nth, part)| CarrierOp::Send(nth, part)),
        6 => (nth.clone(), part.clone()).prop_map(|(nth, part)| CarrierOp::Read(nth, part)),
        1 => nth.clone().prop_map(CarrierOp::Close),
        3 => part.clone().prop_map(CarrierOp::Written),
        4 => (nth.clone(), length).prop_map(|(nth, length)| CarrierOp::Head(nth, length)),
        8 => (nth.clone(), part, prop_oneof![Just(0), any::<u8>()])
            .prop_map(|(nth, part, padding)| CarrierOp::Data(nth, part, padding)),
        1 => (nth.clone(), 0..12u32).prop_map(|(nth, code)| CarrierOp::Reset(nth, code)),
        3 => (nth.clone(), 1..100_000u32).prop_map(|(nth, more)| CarrierOp::Window(nth, more)),
        3 => (1..100_000u32).prop_map(CarrierOp::Shared),
        1 => (0..12u32, 0..150_000u32).prop_map(|(a, b)| CarrierOp::Settings(a, b)),
        1 => Just(CarrierOp::Ping),
        1 => (0..12_000usize).prop_map(CarrierOp::Wait),
    ]
}

fn last_op() -> impl Strategy<Value = CarrierOp> {
    prop_oneof![(0..12usize).prop_map(CarrierOp::GoAway), Just(CarrierOp::ShutDown), Just(CarrierOp::Ping)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_with_a_naive_server(
        streams in 1..20u32,
        piece in prop_oneof![1..40usize, Just(1 << 20)],
        ops in prop::collection::vec(op(), 0..150),
        last in last_op(),
        more in prop::collection::vec(op(), 0..50),
    ) {
        agree(streams, piece, ops.into_iter().chain([last]).chain(more));
    }

    #[test]
    fn survives_anything(
        settled in any::<bool>(),
        frames in prop::collection::vec(
            (0..11u8, any::<u8>(), 0..14u8, prop::collection::vec(any::<u8>(), 0..30), any::<bool>()), 0..60),
    ) {
        let pieces: Vec<Vec<u8>> = frames.into_iter().map(|(kind, flags, stream, payload, whole)| {
            let length = payload.len() as u8 + u8::from(!whole);
            [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], &payload].concat()
        }).collect();
        survive(settled, pieces.iter().map(|piece| &piece[..]));
    }
}
