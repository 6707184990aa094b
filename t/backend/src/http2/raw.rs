//! Frames that a script spells out: `TYPE.FLAGS.STREAM.PAYLOAD*N_..`.
//!
//! The payload has parts, with `-` between them: hexadecimal digits, the same N times (`90:N`), or N bytes of any kind
//! (`xN`). STREAM is a number, `s` for the stream of the request, or `s+2`; `r` in front of it sets the reserved bit. `*N` sends the frame N
//! times. Instead of a frame there may be `=HEX`, bytes as they are, and `~N`, a pause of N milliseconds.

use std::time::Duration;

use super::frame::frame;

/// One piece of what is sent.
pub enum Piece {
    Bytes(Vec<u8>),
    Pause(Duration),
}

/// The pieces for a request on this stream; what is not understood is left out.
pub fn pieces(text: &str, stream: u32) -> Vec<Piece> {
    text.split('_').filter_map(|item| piece(item, stream)).collect()
}

fn piece(item: &str, stream: u32) -> Option<Piece> {
    if let Some(milliseconds) = item.strip_prefix('~') {
        return Some(Piece::Pause(Duration::from_millis(milliseconds.parse().ok()?)));
    }
    let (item, times) = item.split_once('*').unwrap_or((item, "1"));
    let once = match item.strip_prefix('=') {
        Some(bytes) => hexadecimal(bytes)?,
        None => {
            let mut parts = item.split('.');
            let kind = parts.next()?.parse().ok()?;
            let flags = parts.next()?.parse().ok()?;
            let stream = number_of(parts.next()?, stream)?;
            frame(kind, flags, stream, &payload(parts.next().unwrap_or(""))?)
        }
    };
    Some(Piece::Bytes(once.repeat(times.parse().ok()?)))
}

fn number_of(text: &str, stream: u32) -> Option<u32> {
    if let Some(text) = text.strip_prefix('r') {
        return Some(number_of(text, stream)? | (1 << 31));
    }
    match text.strip_prefix('s') {
        Some("") => Some(stream),
        Some(more) => stream.checked_add_signed(more.parse().ok()?),
        None => text.parse().ok(),
    }
}

fn payload(text: &str) -> Option<Vec<u8>> {
    let parts: Option<Vec<_>> = text.split('-').map(part).collect();
    Some(parts?.concat())
}

fn part(text: &str) -> Option<Vec<u8>> {
    if let Some(length) = text.strip_prefix('x') {
        return Some(vec![b'x'; length.parse().ok()?]);
    }
    let (bytes, times) = text.split_once(':').unwrap_or((text, "1"));
    Some(hexadecimal(bytes)?.repeat(times.parse().ok()?))
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_spelled_out() {
        let [Piece::Bytes(reset), Piece::Pause(_), Piece::Bytes(data), Piece::Bytes(raw)] =
            &pieces("3.0.s.00000007*2_~5_0.1.s+2.61-x1-62:2_=0102_nonsense", 1)[..]
        else {
            panic!("other pieces");
        };
        assert_eq!(reset[..], [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7].repeat(2));
        assert_eq!(data[..], *b"\0\0\x04\0\x01\0\0\0\x03axbb");
        assert_eq!(raw[..], [1, 2]);
    }
}
