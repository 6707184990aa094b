//! The records of FastCGI, read from all bytes at once (FastCGI 1.0, sections 3.3, 5.5 and 8).
#![forbid(unsafe_code)]

use keepalive::drain::{NotDrained, Progress};

use crate::drain::Outcome;

const END_REQUEST: u8 = 3;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// What is missing of a STDOUT record.
#[derive(Clone, Copy)]
pub struct Rest {
    pub content: usize,
    padding: usize,
}

/// The lengths of content and padding of the record at the beginning, if it is one that may be there.
fn lengths(record: &[u8]) -> Option<(usize, usize)> {
    let length = usize::from(record[4]) * 256 + usize::from(record[5]);
    let is_right = match record[1] {
        STDOUT | STDERR => true,
        END_REQUEST => length == 8,
        _ => false,
    };
    (record[0] == 1 && record[2] == 0 && record[3] == 1 && is_right)
        .then_some((length, usize::from(record[6])))
}

/// What is missing after these bytes, if they are records up to a STDOUT record.
pub fn behind(mut bytes: &[u8]) -> Option<Rest> {
    loop {
        if bytes.len() < 8 {
            return None;
        }
        let (content, padding) = lengths(bytes)?;
        let (kind, status) = (bytes[1], bytes.get(12).copied());
        if kind == END_REQUEST && status.is_some_and(|status| status != 0) {
            return None;
        }
        let length = 8 + content + padding;
        if bytes.len() <= length {
            let rest = Rest {
                content: (8 + content).saturating_sub(bytes.len()),
                padding: (length - bytes.len()).min(padding),
            };
            return (kind == STDOUT).then_some(rest);
        }
        if kind == END_REQUEST {
            return None;
        }
        bytes = &bytes[length..];
    }
}

/// The outcome of what follows them.
pub fn expected(rest: Rest, size: u64, mut bytes: &[u8]) -> Outcome {
    let mut framing = size.saturating_add(512);
    let mut size = size.checked_sub(rest.content as u64).ok_or(NotDrained::TooLarge)?;
    if !content(&mut bytes, rest.content) || !padding(&mut bytes, rest.padding, &mut framing)? {
        return Ok(Progress::More);
    }
    loop {
        if bytes.len() < 8 {
            framing.checked_sub(bytes.len() as u64).ok_or(NotDrained::TooLarge)?;
            return Ok(Progress::More);
        }
        framing = framing.checked_sub(7).ok_or(NotDrained::TooLarge)?;
        let (its_content, its_padding) = lengths(bytes).ok_or(NotDrained::InvalidRecord)?;
        framing = framing.checked_sub(1).ok_or(NotDrained::TooLarge)?;
        let is_end = bytes[1] == END_REQUEST;
        if !is_end {
            size = size.checked_sub(its_content as u64).ok_or(NotDrained::TooLarge)?;
        } else if bytes.get(12).is_some_and(|status| *status != 0) {
            return Err(NotDrained::InvalidRecord);
        }
        bytes = &bytes[8..];
        if !content(&mut bytes, its_content) || !padding(&mut bytes, its_padding, &mut framing)? {
            return Ok(Progress::More);
        }
        if is_end {
            return if bytes.is_empty() { Ok(Progress::Done) } else { Err(NotDrained::Surplus) };
        }
    }
}

/// Skips `length` bytes. `false` if there are fewer.
fn content(bytes: &mut &[u8], length: usize) -> bool {
    let (_, rest) = bytes.split_at(length.min(bytes.len()));
    std::mem::replace(bytes, rest).len() >= length
}

fn padding(bytes: &mut &[u8], length: usize, framing: &mut u64) -> Result<bool, NotDrained> {
    let there = length.min(bytes.len()) as u64;
    *framing = framing.checked_sub(there).ok_or(NotDrained::TooLarge)?;
    Ok(content(bytes, length))
}
