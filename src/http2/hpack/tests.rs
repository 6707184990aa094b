use proptest::prelude::*;

use super::*;

type Field = (Vec<u8>, Vec<u8>);

const AMPLE: Limits = Limits { fields: 1000, bytes: 1 << 20 };

fn field(name: &str, value: &str) -> Field {
    (name.into(), value.into())
}

/// Decodes with a scratch space of some bytes. The fields are those before the fault.
fn decoded_with(block: &[u8], scratch: usize, limits: Limits) -> (Vec<Field>, Result<(), Fault>) {
    let mut fields = Vec::new();
    let result = decode(block, &mut vec![0; scratch], limits, |name, value| {
        fields.push((name.to_vec(), value.to_vec()));
        Ok(())
    });
    (fields, result)
}

fn decoded(block: &[u8]) -> Result<Vec<Field>, Fault> {
    let (fields, result) = decoded_with(block, 1 << 12, AMPLE);
    result.map(|()| fields)
}

fn fault(block: &[u8]) -> Option<Fault> {
    decoded(block).err()
}

fn encoded(fields: &[Field], sensitive: bool) -> Vec<u8> {
    let mut out = vec![0; 1 << 16];
    let mut encoder = Encoder::new(&mut out);
    fields.iter().for_each(|(name, value)| encoder.field(name, value, sensitive).unwrap());
    let length = encoder.length();
    out.truncate(length);
    out
}

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| ((pair[0] << 4) | pair[1]) as u8).collect()
}

fn huffman(text: &[u8]) -> Vec<u8> {
    huffman::tests::encode(text.iter().map(|byte| usize::from(*byte)))
}

/// A literal without indexing whose strings are Huffman coded and shorter than 127 bytes.
fn huffman_literal((name, value): &Field) -> Vec<u8> {
    let string = |text| {
        let string = huffman(text);
        [&[0x80 | string.len() as u8], &string[..]].concat()
    };
    [&[0][..], &string(name), &string(value)].concat()
}

/// RFC 7541, appendix C.2.
#[test]
fn decodes_the_fields_of_appendix_c() {
    for (block, name, value) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key", "custom-header"),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path", "/sample/path"),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password", "secret"),
        ("82", ":method", "GET"),
    ] {
        assert_eq!(decoded(&hex(block)), Ok(vec![field(name, value)]));
    }
}

/// The first blocks of RFC 7541, appendix C.3 to C.6. The later ones use the dynamic table.
#[test]
fn decodes_the_blocks_of_appendix_c() {
    let request = [
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":path", "/"),
        field(":authority", "www.example.com"),
    ];
    let response = [
        field(":status", "302"),
        field("cache-control", "private"),
        field("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        field("location", "https://www.example.com"),
    ];
    for (block, expected) in [
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &request),
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &request),
        (
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133
             3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            &response,
        ),
        (
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
             29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &response,
        ),
    ] {
        assert_eq!(decoded(&hex(block)), Ok(expected.to_vec()));
    }
}

/// RFC 7541, appendix C.4 and C.6.
#[test]
fn decodes_the_strings_of_appendix_c() {
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    for (string, text) in [
        ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", "www.example.com"),
        ("a8eb 1064 9cbf", "no-cache"),
        ("25a8 49e9 5ba9 7d7f", "custom-key"),
        ("25a8 49e9 5bb8 e8b4 bf", "custom-value"),
        ("6402", "302"),
        ("640e ff", "307"),
        ("aec3 771a 4b", "private"),
        ("d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ("9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3", "https://www.example.com"),
        ("9bd9 ab", "gzip"),
        (
            "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
             4ee5 b106 3d50 07",
            cookie,
        ),
    ] {
        let string = hex(string);
        assert_eq!(huffman(text.as_bytes()), string);
        let block = [&[0x04, 0x80 | string.len() as u8], &string[..]].concat();
        assert_eq!(decoded(&block), Ok(vec![field(":path", text)]));
    }
}

#[test]
fn decodes_all_literals_alike() {
    for first in [0x00, 0x10, 0x40] {
        assert_eq!(decoded(&[first, 1, b'a', 1, b'b']), Ok(vec![field("a", "b")]));
        assert_eq!(decoded(&[first, 0, 0]), Ok(vec![field("", "")]));
        assert_eq!(decoded(&[first | 1, 1, b'b']), Ok(vec![field(":authority", "b")]));
    }
    assert_eq!(decoded(&[0x40 | 61, 1, b'b', 0x80 | 61]), {
        Ok(vec![field("www-authenticate", "b"), field("www-authenticate", "")])
    });
    assert_eq!(decoded(&[]), Ok(vec![]));
}

#[test]
fn nothing_is_beyond_the_static_table() {
    // After a literal with incremental indexing, too: it enters no table.
    let literal = [0x40, 1, b'a', 1, b'b'];
    for before in [&[][..], &[SIZE_UPDATE], &literal] {
        for index in [&[0x80][..], &[0x80 | 62], &[0xff, 0], &[0xff, 0xff, 0xff, 0xff, 0x7f]] {
            assert_eq!(fault(&[before, index].concat()), Some(Fault::Index));
        }
        for name in [&[0x40 | 62, 0][..], &[0x7f, 0, 0], &[0x0f, 62 - 15, 0], &[0x1f, 62 - 15, 0]] {
            assert_eq!(fault(&[before, name].concat()), Some(Fault::Index));
        }
    }
}

#[test]
fn size_updates_are_zero_and_come_first() {
    let method = Ok(vec![field(":method", "GET")]);
    assert_eq!(decoded(&[0x20]), Ok(vec![]));
    assert_eq!(decoded(&[0x20, 0x82]), method);
    assert_eq!(decoded(&[0x20, 0x20, 0x82]), method);
    for block in [
        &[0x20, 0x20, 0x20, 0x82][..],
        &[0x82, 0x20],
        &[0x21],
        &[0x3f, 0],
        &[0x3f],
        &[0x20, 0x3f, 0xe1, 0x1f],
    ] {
        assert_eq!(fault(block), Some(Fault::TableSize));
    }
}

#[test]
fn integers_are_bounded_everywhere() {
    let hostile = [0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for before in [&[0xff][..], &[0x7f], &[0x0f], &[0x1f], &[0, 0x7f], &[0, 0xff], &[4, 0x7f], &[4, 0xff]] {
        assert_eq!(fault(&[before, &hostile].concat()), Some(Fault::Integer));
        assert_eq!(fault(&[before, &[0x80; 100]].concat()), Some(Fault::Integer));
    }
    // The longest strings that can be announced: they are not there.
    for string in [0x7f, 0xff] {
        assert_eq!(fault(&[4, string, 0xff, 0xff, 0xff, 0x7f, 0]), Some(Fault::Truncated));
    }
}

#[test]
fn each_truncated_block_is_an_error_or_ends_between_fields() {
    let response =
        hex("4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
         29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3");
    let long = encoded(&[field("x", &"v".repeat(300)), field("vary", "a"), field(":method", "GET")], false);
    for block in [response, long] {
        let fields = decoded(&block).unwrap();
        let mut ends = 0;
        for end in 0..block.len() {
            let (before, result) = decoded_with(&block[..end], 1 << 12, AMPLE);
            assert_eq!(before, fields[..before.len()]);
            assert!(matches!(result, Ok(()) | Err(Fault::Truncated)), "{end}");
            ends += usize::from(result.is_ok());
        }
        assert_eq!(ends, fields.len());
    }
}

#[test]
fn limits_hold_before_a_field_is_decoded() {
    let fields = [field("content-type", "text/html"), field("a", "bcd"), field(":status", "200")];
    let block = [&[0x5f, 9][..], b"text/html", &huffman_literal(&fields[1]), &[0x88]].concat();
    let limits = Limits { fields: 3, bytes: 12 + 9 + 32 + 4 + 32 + 10 + 32 };
    assert_eq!(decoded_with(&block, 4, limits), (fields.to_vec(), Ok(())));
    for allowed in 0..3 {
        let few = Limits { fields: allowed, ..limits };
        assert_eq!(decoded_with(&block, 4, few), (fields[..allowed].to_vec(), Err(Fault::TooMany)));
    }
    for bytes in 0..limits.bytes {
        let whole = usize::from(bytes >= 53) + usize::from(bytes >= 89);
        let little = Limits { bytes, ..limits };
        assert_eq!(decoded_with(&block, 4, little), (fields[..whole].to_vec(), Err(Fault::TooLarge)));
    }
    for scratch in 0..4 {
        assert_eq!(decoded_with(&block, scratch, limits), (fields[..1].to_vec(), Err(Fault::TooLarge)));
    }
}

#[test]
fn bombs_end_at_the_limit() {
    // A short index stands for a long field.
    let (fields, result) = decoded_with(&[0x90; 100_000], 0, Limits { fields: 1_000_000, bytes: 6000 });
    assert_eq!((fields.len(), result), (6000 / 60, Err(Fault::TooLarge)));
    // Empty fields cost 32 bytes each.
    let (fields, result) = decoded_with(&[0; 30_000], 0, Limits { fields: 1_000_000, bytes: 3200 });
    assert_eq!((fields.len(), result), (100, Err(Fault::TooLarge)));
    // A Huffman string grows by 8/5. Nothing is written beyond the limit, however large the scratch space is.
    let string = huffman(&[b'0'; 8000]);
    let block = [&[4, 0xff, 0x89, 0x26], &string[..]].concat();
    assert_eq!(string.len(), 127 + 9 + (0x26 << 7));
    let mut scratch = [1; 9000];
    let limits = Limits { fields: 1, bytes: 5 + 32 + 500 };
    assert_eq!(decode(&block, &mut scratch, limits, |_, _| Ok(())), Err(Fault::TooLarge));
    assert!(scratch[500..].iter().all(|byte| *byte == 1));
    assert_eq!(decoded_with(&block, 8000, AMPLE).1, Ok(()));
}

#[test]
fn the_error_of_the_callback_ends_it() {
    #[derive(Debug, PartialEq)]
    enum Error {
        Fault(Fault),
        Enough,
    }
    impl From<Fault> for Error {
        fn from(fault: Fault) -> Self {
            Error::Fault(fault)
        }
    }
    let mut calls = 0;
    let mut stop = |_: &[u8], _: &[u8]| {
        calls += 1;
        if calls < 2 {
            return Ok(());
        }
        Err(Error::Enough)
    };
    assert_eq!(decode(&[0x82, 0x82, 0x80], &mut [], AMPLE, &mut stop), Err(Error::Enough));
    assert_eq!(decode(&[0x80, 0x82], &mut [], AMPLE, &mut stop), Err(Error::Fault(Fault::Index)));
    assert_eq!(calls, 2);
}

#[test]
fn encodes_by_the_static_table() {
    for (name, value, expected) in [
        (":method", "GET", &b"\x82"[..]),
        (":method", "PUT", b"\x02\x03PUT"),
        (":path", "/", b"\x84"),
        (":path", "/a", b"\x04\x02/a"),
        (":scheme", "https", b"\x87"),
        (":authority", "a", b"\x01\x01a"),
        ("accept", "", b"\x93"),
        ("accept-encoding", "gzip", b"\x0f\x01\x04gzip"),
        ("accept-encoding", "gzip, deflate", b"\x90"),
        ("cookie", "a=b", b"\x0f\x11\x03a=b"),
        ("x-a", "b", b"\x00\x03x-a\x01b"),
        ("", "", b"\x00\x00\x00"),
    ] {
        assert_eq!(encoded(&[field(name, value)], false), expected);
    }
}

#[test]
fn a_sensitive_field_is_never_indexed() {
    for (name, value, expected) in [
        ("authorization", "Basic x", &b"\x1f\x08\x07Basic x"[..]),
        ("x-key", "1", b"\x10\x05x-key\x011"),
        (":method", "GET", b"\x12\x03GET"),
        (":method", "POST", b"\x13\x04POST"),
    ] {
        assert_eq!(encoded(&[field(name, value)], true), expected);
        assert_eq!(decoded(expected), Ok(vec![field(name, value)]));
    }
}

#[test]
fn without_room_the_block_is_as_it_was() {
    let fields = [field(":method", "GET"), field("x-a", "b"), field("cookie", &"c".repeat(300))];
    let whole = encoded(&fields, false);
    for room in 0..whole.len() {
        let mut out = vec![0xee; room];
        let mut encoder = Encoder::new(&mut out);
        let written = fields.iter().take_while(|(name, value)| encoder.field(name, value, false).is_some());
        let written = written.count();
        let length = encoder.length();
        assert_eq!(out[..length], encoded(&fields[..written], false));
        assert!(written < fields.len());
    }
    let mut out = vec![0; whole.len()];
    let mut encoder = Encoder::new(&mut out);
    assert!(fields.iter().all(|(name, value)| encoder.field(name, value, false).is_some()));
    assert_eq!(encoder.field(b"x", b"", false), None);
    assert_eq!(encoder.length(), whole.len());
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let known = (1..=61usize).prop_map(|index| tables::entry(index).unwrap());
    prop_oneof![
        known.clone().prop_map(|(name, _)| name.to_vec()),
        known.prop_map(|(_, value)| value.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
        proptest::collection::vec(any::<u8>(), 100..400),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn decodes_what_was_encoded(
        fields in proptest::collection::vec((text(), text()), 0..8),
        sensitive in any::<bool>(),
    ) {
        let block = encoded(&fields, sensitive);
        prop_assert_eq!(decoded(&block), Ok(fields.clone()));
        let (before, _) = decoded_with(&block[..block.len().saturating_sub(1)], 0, AMPLE);
        prop_assert_eq!(&before[..], &fields[..fields.len().saturating_sub(1)]);
    }

    #[test]
    fn decodes_huffman_strings(
        name in proptest::collection::vec(any::<u8>(), 0..30),
        value in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let field = (name, value);
        let block = huffman_literal(&field);
        prop_assert_eq!(decoded(&block), Ok(vec![field]));
        for end in 1..block.len() {
            prop_assert_eq!(fault(&block[..end]), Some(Fault::Truncated));
        }
    }

    #[test]
    fn keeps_to_the_limits_with_any_bytes(
        block in proptest::collection::vec(any::<u8>(), 0..200),
        scratch in 0..100usize,
        limits in (0..10usize, 0..500usize),
    ) {
        let limits = Limits { fields: limits.0, bytes: limits.1 };
        let (fields, _) = decoded_with(&block, scratch, limits);
        prop_assert!(fields.len() <= limits.fields);
        prop_assert!(fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() <= limits.bytes);
    }
}
