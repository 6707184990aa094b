//! A response of HTTP/2 that is translated to HTTP/1.1: httparse reads the status, fields and bytes that the server sent, and
//! a naive second version agrees about what is malformed.
#![forbid(unsafe_code)]

use httparse::{parse_chunk_size, parse_headers, Status, EMPTY_HEADER};
use keepalive::http2::hpack::Limits;
use keepalive::http2::response::{Malformed, Response, Sink};

use crate::input::Input;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

enum Frame {
    Block(Fields),
    Raw(Vec<u8>),
    Data(Vec<u8>),
}

/// The first line: whether the method is HEAD. Each other line is a frame, with END_STREAM if its first letter is a
/// capital: `h` and fields as `name=value`, separated by `|`; `r` and a header block; `d` and content. A vertical tab stands for
/// a line feed.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let is_head = Input(input.line()).flag();
    let frames: Vec<(Frame, bool)> = input.lines().into_iter().filter_map(frame).collect();
    let (mut response, mut out) = (Response::new(is_head), Buffer(Vec::new()));
    let mut model = Model { is_head, ..Model::default() };
    for (frame, is_end) in &frames {
        let before = out.0.len();
        let result = read(&mut response, frame, *is_end, &mut out);
        if let Frame::Raw(_) = frame {
            assert!(result.is_err() || out.0.is_empty() || is_response(&out.0));
            return;
        }
        let expected = model.read(frame, *is_end);
        assert_eq!(result.is_ok(), expected.is_some(), "{result:?}");
        if result.is_err() {
            return;
        }
        assert_eq!(response.is_complete(), model.is_complete);
        assert!(out.0.len() > before || model.may_be_silent(frame));
        model.is_in(&out.0);
    }
}

struct Buffer(Vec<u8>);

impl Sink for Buffer {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.extend(bytes);
        Some(())
    }
}

const LIMITS: Limits = Limits { fields: 100, bytes: 20_000 };

fn read(response: &mut Response, frame: &Frame, is_end: bool, out: &mut Buffer) -> Result<(), Malformed> {
    let mut scratch = [0; 4096];
    let mut head = |block: &[u8]| response.head(block, is_end, &mut scratch, LIMITS, out).map(|_| ());
    match frame {
        Frame::Block(fields) => head(&encoded(fields)),
        Frame::Raw(block) => head(block),
        Frame::Data(payload) => response.data(payload, is_end, out),
    }
}

fn frame(line: &[u8]) -> Option<(Frame, bool)> {
    let (kind, rest) = line.split_first()?;
    let rest: Vec<u8> = rest.iter().map(|byte| if *byte == 0x0b { b'\n' } else { *byte }).collect();
    let fields = || {
        let fields = rest.split(|byte| *byte == b'|').filter(|field| !field.is_empty());
        fields.map(|field| {
            let mut halves = field.splitn(2, |byte| *byte == b'=').map(<[u8]>::to_vec);
            (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
        })
    };
    let frame = match kind.to_ascii_lowercase() {
        b'h' => Frame::Block(fields().collect()),
        b'r' => Frame::Raw(rest),
        _ => Frame::Data(rest),
    };
    Some((frame, kind.is_ascii_uppercase()))
}

/// Literals without indexing (RFC 7541, section 6.2.2).
fn encoded(fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for string in [name, value] {
            let length = string.len();
            block.push(length.min(127) as u8);
            if let Some(mut rest) = length.checked_sub(127) {
                while rest >= 128 {
                    block.push(rest as u8 | 128);
                    rest >>= 7;
                }
                block.push(rest as u8);
            }
            block.extend(string);
        }
    }
    block
}

/// What has come so far.
#[derive(Default)]
struct Model {
    is_head: bool,
    /// The status and the other fields of the header, as they are to be passed on.
    header: Option<(u16, Fields)>,
    length: Option<u64>,
    content: Vec<u8>,
    trailers: Fields,
    is_complete: bool,
}

impl Model {
    /// `None` if the frame makes the response malformed.
    fn read(&mut self, frame: &Frame, is_end: bool) -> Option<()> {
        if self.is_complete {
            return None;
        }
        is_within_limits(frame).then_some(())?;
        match frame {
            Frame::Block(fields) if self.header.is_none() => self.header(fields, is_end)?,
            Frame::Block(fields) => {
                are_valid(fields).then_some(())?;
                is_end.then_some(())?;
                self.trailers = fields.iter().filter(|(name, _)| is_trailer(name)).cloned().collect();
            }
            Frame::Data(payload) => {
                self.header.as_ref()?;
                self.content.extend(payload);
            }
            Frame::Raw(_) => unreachable!("not modelled"),
        }
        self.is_complete = is_end;
        let sent = self.content.len() as u64;
        let length = if self.has_content() { self.length } else { Some(0) };
        let is_right = length.is_none_or(|length| sent <= length && (sent == length || !is_end));
        (is_right || self.header.is_none()).then_some(())
    }

    fn header(&mut self, fields: &Fields, is_end: bool) -> Option<()> {
        let ((name, value), rest) = fields.split_first()?;
        let is_status = value.len() == 3 && value.iter().all(u8::is_ascii_digit);
        let is_right = name == b":status" && is_status && are_valid(rest);
        is_right.then_some(())?;
        let status: u16 = String::from_utf8_lossy(value).parse().ok()?;
        ((100..600).contains(&status) && status != 101).then_some(())?;
        let is_length = |name: &[u8]| name == b"content-length";
        let mut numbers = Vec::new();
        for (_, value) in rest.iter().filter(|(name, _)| is_length(name)) {
            let text = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'))?;
            numbers.push(text.parse::<u64>().ok()?);
        }
        numbers.dedup();
        (numbers.len() <= 1).then_some(())?;
        if status < 200 {
            return (!is_end).then_some(());
        }
        self.length = numbers.first().copied();
        let mut lengths = 0;
        let mut passed = rest.to_vec();
        passed.retain(|(name, _)| {
            lengths += usize::from(is_length(name));
            !is_length(name) || lengths == 1 && status != 204
        });
        self.header = Some((status, Vec::new()));
        if self.has_content() && self.length.is_none() {
            let (name, value) =
                if is_end { ("content-length", "0") } else { ("transfer-encoding", "chunked") };
            passed.push((name.into(), value.into()));
            self.length = is_end.then_some(0);
        }
        self.header = Some((status, passed));
        Some(())
    }

    fn has_content(&self) -> bool {
        !self.is_head && !matches!(self.header, Some((204 | 304, _)))
    }

    fn may_be_silent(&self, frame: &Frame) -> bool {
        match frame {
            Frame::Data(payload) => payload.is_empty(),
            _ => self.header.is_none() || self.length.is_some() || !self.has_content(),
        }
    }

    /// Asserts that these bytes of HTTP/1.1 say the same.
    fn is_in(&self, bytes: &[u8]) {
        let Some((status, fields)) = &self.header else { return assert!(bytes.is_empty()) };
        let mut headers = [EMPTY_HEADER; 101];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(Status::Complete(length)) = response.parse(bytes) else { panic!("httparse refuses it") };
        assert_eq!((response.code, response.version), (Some(*status), Some(1)));
        assert_eq!(as_fields(response.headers), *fields);
        let content = &bytes[length..];
        if self.length.is_some() || !self.has_content() {
            return assert_eq!(content, self.content);
        }
        let (data, trailers) = dechunked(content);
        assert_eq!(data, self.content);
        assert_eq!(trailers.is_some(), self.is_complete);
        assert_eq!(trailers.unwrap_or_default(), self.trailers);
    }
}

fn as_fields(headers: &[httparse::Header<'_>]) -> Fields {
    headers.iter().map(|it| (it.name.as_bytes().to_vec(), it.value.to_vec())).collect()
}

/// The data of whole chunks, and the trailers if the last chunk is there.
fn dechunked(mut bytes: &[u8]) -> (Vec<u8>, Option<Fields>) {
    let mut data = Vec::new();
    while !bytes.is_empty() {
        let Ok(Status::Complete((read, size))) = parse_chunk_size(bytes) else { panic!("no chunk") };
        bytes = &bytes[read..];
        if size == 0 {
            let mut headers = [EMPTY_HEADER; 100];
            let Ok(Status::Complete((read, headers))) = parse_headers(bytes, &mut headers) else {
                panic!("no trailers")
            };
            assert_eq!(read, bytes.len());
            return (data, Some(as_fields(headers)));
        }
        let (chunk, rest) = bytes.split_at(size as usize);
        data.extend(chunk);
        bytes = rest.strip_prefix(b"\r\n").expect("the end of a chunk");
    }
    (data, None)
}

fn is_response(bytes: &[u8]) -> bool {
    let mut headers = [EMPTY_HEADER; 101];
    matches!(httparse::Response::new(&mut headers).parse(bytes), Ok(Status::Complete(_)))
}

fn is_within_limits(frame: &Frame) -> bool {
    let Frame::Block(fields) = frame else { return true };
    let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    fields.len() <= LIMITS.fields && bytes <= LIMITS.bytes
}

fn are_valid(fields: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let is_token =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_text = |byte: &u8| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f;
    let of_connection = "connection keep-alive proxy-connection transfer-encoding upgrade te";
    fields.iter().all(|(name, value)| {
        let is_name = !name.is_empty() && name.iter().all(is_token);
        let is_trimmed = ![value.first(), value.last()].iter().any(|it| matches!(it, Some(b' ' | b'\t')));
        is_name
            && value.iter().all(is_text)
            && is_trimmed
            && !of_connection.split(' ').any(|it| it.as_bytes() == name)
    })
}

fn is_trailer(name: &[u8]) -> bool {
    let forbidden = "content-length trailer host max-forwards cache-control expect pragma range age date expires \
        location retry-after vary warning etag authorization proxy-authorization proxy-authenticate www-authenticate \
        authentication-info proxy-authentication-info cookie set-cookie content-encoding content-type content-range";
    !forbidden.split(' ').any(|it| it.as_bytes() == name) && !name.starts_with(b"if-")
}
