//! Header blocks: what is decoded is what two other programs decode, and what they refuse is refused. What is encoded, by us or
//! with Huffman codes by another program, is decoded again.
#![forbid(unsafe_code)]

use std::panic::{self, AssertUnwindSafe};

use keepalive::http2::hpack::{decode, Encoder, Fault, Limits};

type Field = (Vec<u8>, Vec<u8>);

const AMPLE: Limits = Limits { fields: usize::MAX, bytes: usize::MAX };

pub fn target(data: &[u8]) {
    // A Huffman code has at least 5 bits.
    let room = data.len() * 2;
    let (fields, result) = decoded(data, room, AMPLE);
    match result {
        Ok(()) => {
            assert_eq!(by_hpack(data).map(renamed), Some(renamed(fields.clone())));
            assert_eq!(by_httlib(data), Some(fields.clone()));
            round_trip(&fields);
        }
        // The others allow a dynamic table.
        Err(Fault::TableSize) => {}
        Err(Fault::TooLarge | Fault::TooMany) => panic!("ample limits were not enough"),
        Err(fault) => {
            assert_eq!(by_hpack(data), None, "{fault}");
            // This one accepts zeros as padding.
            assert!(fault == Fault::Huffman || by_httlib(data).is_none(), "{fault}");
        }
    }
    limited(data, &fields, result);
    huffman(data);
}

/// The fields, up to the error if there is one.
fn decoded(block: &[u8], scratch: usize, limits: Limits) -> (Vec<Field>, Result<(), Fault>) {
    let mut fields = Vec::new();
    let result = decode(block, &mut vec![0; scratch], limits, |name, value| {
        fields.push((name.to_vec(), value.to_vec()));
        Ok(())
    });
    (fields, result)
}

/// With exact limits nothing changes. With any smaller limit, some fields are missing.
fn limited(data: &[u8], fields: &[Field], result: Result<(), Fault>) {
    let room = data.len() * 2;
    let bytes = |fields: &[Field]| fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    for count in 0..fields.len().min(8) {
        let before = fields[..count].to_vec();
        let few = Limits { fields: count, ..AMPLE };
        assert_eq!(decoded(data, room, few), (before.clone(), Err(Fault::TooMany)));
        let little = Limits { bytes: bytes(&fields[..=count]) - 1, ..AMPLE };
        assert_eq!(decoded(data, room, little), (before, Err(Fault::TooLarge)));
    }
    if result.is_ok() {
        let exact = Limits { fields: fields.len(), bytes: bytes(fields) };
        assert_eq!(decoded(data, room, exact), (fields.to_vec(), result));
    }
    for scratch in [0, 1, 2, 5, 20] {
        let (some, limited) = decoded(data, scratch, AMPLE);
        assert_eq!(some, fields[..some.len()]);
        assert!(limited == result || limited == Err(Fault::TooLarge));
    }
}

fn round_trip(fields: &[Field]) {
    let room = fields.iter().map(|(name, value)| name.len() + value.len() + 20).sum();
    for sensitive in [false, true] {
        let mut block = vec![0; room];
        let mut encoder = Encoder::new(&mut block);
        for (name, value) in fields {
            encoder.field(name, value, sensitive).expect("there is room");
        }
        let length = encoder.length();
        block.truncate(length);
        let expected = Some(fields.to_vec());
        assert_eq!(decoded(&block, 0, AMPLE), (fields.to_vec(), Ok(())));
        assert_eq!(by_httlib(&block), expected);
        assert_eq!(by_hpack(&block).map(renamed), expected.map(renamed));
        let mut short = vec![0; length.saturating_sub(1)];
        let mut encoder = Encoder::new(&mut short);
        let written =
            fields.iter().take_while(|(name, value)| encoder.field(name, value, sensitive).is_some());
        let written = written.count();
        let length = encoder.length();
        assert!(written < fields.len() || fields.is_empty());
        assert_eq!(decoded(&short[..length], 0, AMPLE), (fields[..written].to_vec(), Ok(())));
    }
}

/// A field whose name and value are the input, Huffman coded.
fn huffman(data: &[u8]) {
    use httlib_hpack::Encoder;
    let (name, value) = data.split_at(data.len() / 2);
    let field = (name.to_vec(), value.to_vec());
    let mut block = Vec::new();
    let flags = Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE | Encoder::NEVER_INDEXED;
    let mut encoder = Encoder::with_dynamic_size(0);
    encoder.encode((field.0.clone(), field.1.clone(), flags), &mut block).expect("any bytes can be encoded");
    assert_eq!(decoded(&block, data.len(), AMPLE), (vec![field], Ok(())));
}

fn by_hpack(block: &[u8]) -> Option<Vec<Field>> {
    without_panic(|| {
        let mut decoder = ::hpack::Decoder::new();
        decoder.set_max_table_size(0);
        decoder.decode(block).ok()
    })
}

fn by_httlib(block: &[u8]) -> Option<Vec<Field>> {
    without_panic(|| {
        let mut fields = Vec::new();
        httlib_hpack::Decoder::with_dynamic_size(0).decode(&mut block.to_vec(), &mut fields).ok()?;
        Some(fields.into_iter().map(|(name, value, _)| (name, value)).collect())
    })
}

/// The crate `hpack` has a wrong name in its static table.
fn renamed(mut fields: Vec<Field>) -> Vec<Field> {
    let wrong = fields.iter_mut().filter(|(name, _)| name == b"accept-");
    wrong.for_each(|(name, _)| *name = b"accept-charset".to_vec());
    fields
}

/// The others panic on some hostile blocks. That is taken as an error. The fuzzer's hook would end the process.
fn without_panic<T>(decode: impl FnOnce() -> Option<T>) -> Option<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(decode));
    panic::set_hook(hook);
    result.ok().flatten()
}
