//! The head of an HTTP/2 request as nginx has written it: the beginning of a connection, and the frames of the header. When
//! the request goes over a connection that has carried others, nginx leaves out the former and numbers the latter; it
//! does not number them back when the request then goes over a new one.
#![forbid(unsafe_code)]

/// What each connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame's own header (RFC 9113, section 4.1).
const HEADER: usize = 9;

/// The first stream that a client opens (RFC 9113, section 5.1.1).
const FIRST: [u8; 4] = [0, 0, 0, 1];

/// Numbers the frames of the request as the first stream of a connection. `false` if this is not the beginning of a connection
/// with whole frames behind it.
pub fn number_as_first(head: &mut [u8]) -> bool {
    if !head.starts_with(PREFACE) {
        return false;
    }
    let Some(mut frames) = head.get_mut(PREFACE.len()..) else { return false };
    while !frames.is_empty() {
        let Some(([high, middle, low, _, _, stream @ ..], _)) = frames.split_first_chunk_mut::<HEADER>()
        else {
            return false;
        };
        if *stream != [0; 4] {
            *stream = FIRST;
        }
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        let Some(rest) = frames.get_mut(HEADER + length..) else { return false };
        frames = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 4], &stream.to_be_bytes(), payload].concat()
    }

    fn head(stream: u32) -> Vec<u8> {
        let frames = [
            frame(4, 0, &[0; 6]),
            frame(8, 0, &[1; 4]),
            frame(1, stream, &[2; 300]),
            frame(9, stream, b""),
            frame(9, stream, &[0, 0, 0, 7]),
        ];
        [PREFACE, &frames.concat()].concat()
    }

    #[test]
    fn the_header_gets_the_first_number_and_the_connection_keeps_its_own() {
        for stream in [1, 3, 5, 0x7fff_ffff] {
            let mut head_of_stream = head(stream);
            assert!(number_as_first(&mut head_of_stream));
            assert_eq!(head_of_stream, head(1));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let whole = head(3);
        let boundaries = (0..=whole.len()).filter(|end| number_as_first(&mut whole[..*end].to_vec()));
        let frames = [24, 24 + 15, 24 + 15 + 13, 24 + 15 + 13 + 309, whole.len() - 13, whole.len()];
        assert_eq!(boundaries.collect::<Vec<_>>(), frames);
        assert!(!number_as_first(b"POST / HTTP/1.1\r\n\r\n".to_vec().as_mut_slice()));
    }
}
