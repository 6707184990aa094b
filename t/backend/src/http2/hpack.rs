//! HPACK (RFC 7541): a decoder with its dynamic table, and an encoder that writes literals.

use std::collections::VecDeque;

use super::huffman;

/// The static table (RFC 7541, appendix A).
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

pub type Field = (Vec<u8>, Vec<u8>);

/// Decodes the header blocks of one connection.
pub struct Decoder {
    /// The newest entry first.
    table: VecDeque<Field>,
    /// What the entries take, and what they may.
    size: usize,
    limit: usize,
    /// What this side has announced.
    announced: usize,
}

impl Decoder {
    pub fn new(announced: usize) -> Self {
        Self { table: VecDeque::new(), size: 0, limit: 4096, announced }
    }

    /// All fields of a block, or the rule that it breaks.
    pub fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, &'static str> {
        let mut fields = Vec::new();
        let mut rest = block;
        while let Some(first) = rest.first() {
            if first & 0x80 != 0 {
                fields.push(self.entry(integer(&mut rest, 7)?)?);
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut rest, 6)?;
                self.insert(field.clone());
                fields.push(field);
            } else if first & 0x20 != 0 {
                if !fields.is_empty() {
                    return Err("a table size update behind a field");
                }
                self.limit = integer(&mut rest, 5)?;
                if self.limit > self.announced.max(4096) {
                    return Err("a table larger than announced");
                }
                self.evict();
            } else {
                fields.push(self.literal(&mut rest, 4)?);
            }
        }
        Ok(fields)
    }

    fn literal(&self, rest: &mut &[u8], bits: u8) -> Result<Field, &'static str> {
        let name = match integer(rest, bits)? {
            0 => string(rest)?,
            index => self.entry(index)?.0,
        };
        Ok((name, string(rest)?))
    }

    fn entry(&self, index: usize) -> Result<Field, &'static str> {
        let at = index.checked_sub(1).ok_or("index 0")?;
        if let Some((name, value)) = STATIC.get(at) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        self.table.get(at - STATIC.len()).cloned().ok_or("an index beyond the table")
    }

    fn insert(&mut self, field: Field) {
        self.size += size_of(&field);
        self.table.push_front(field);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let Some(field) = self.table.pop_back() else { return };
            self.size -= size_of(&field);
        }
    }
}

/// RFC 7541, section 4.1.
fn size_of((name, value): &Field) -> usize {
    name.len() + value.len() + 32
}

/// RFC 7541, section 5.1.
fn integer(rest: &mut &[u8], bits: u8) -> Result<usize, &'static str> {
    let mask = (1usize << bits) - 1;
    let mut next = || {
        let (first, others) = rest.split_first()?;
        *rest = others;
        Some(usize::from(*first))
    };
    let mut value = next().ok_or("a cut integer")? & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = next().ok_or("a cut integer")?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an integer that is too long")
}

/// RFC 7541, section 5.2.
fn string(rest: &mut &[u8]) -> Result<Vec<u8>, &'static str> {
    let is_huffman = rest.first().ok_or("a cut string")? & 0x80 != 0;
    let length = integer(rest, 7)?;
    if length > rest.len() {
        return Err("a cut string");
    }
    let (text, others) = rest.split_at(length);
    *rest = others;
    match is_huffman {
        true => huffman::decode(text).ok_or("a string that is no Huffman code"),
        false => Ok(text.to_vec()),
    }
}

/// Adds a field: literals, or with `compact` what the static table has, and Huffman's code.
pub fn encode(block: &mut Vec<u8>, name: &[u8], value: &[u8], compact: bool) {
    if !compact {
        block.push(0);
        write_string(block, name, false);
        return write_string(block, value, false);
    }
    let position = |wanted: &dyn Fn(&(&str, &str)) -> bool| STATIC.iter().position(wanted).map(|at| at + 1);
    if let Some(index) = position(&|entry| (entry.0.as_bytes(), entry.1.as_bytes()) == (name, value)) {
        return write_integer(block, 0x80, 7, index);
    }
    match position(&|entry| entry.0.as_bytes() == name) {
        Some(index) => write_integer(block, 0, 4, index),
        None => {
            block.push(0);
            write_string(block, name, true);
        }
    }
    write_string(block, value, true);
}

fn write_string(block: &mut Vec<u8>, text: &[u8], is_huffman: bool) {
    let text = if is_huffman { huffman::encode(text) } else { text.to_vec() };
    write_integer(block, if is_huffman { 0x80 } else { 0 }, 7, text.len());
    block.extend_from_slice(&text);
}

fn write_integer(block: &mut Vec<u8>, first: u8, bits: u8, mut value: usize) {
    let mask = (1usize << bits) - 1;
    if value < mask {
        return block.push(first | value as u8);
    }
    block.push(first | mask as u8);
    value -= mask;
    while value >= 0x80 {
        block.push(value as u8 | 0x80);
        value >>= 7;
    }
    block.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes() {
        let long = "x".repeat(5000);
        for compact in [false, true] {
            let fields = [(":status", "200"), ("server", "some"), ("x-own", long.as_str())];
            let mut block = Vec::new();
            for (name, value) in fields {
                encode(&mut block, name.as_bytes(), value.as_bytes(), compact);
            }
            let decoded = Decoder::new(4096).decode(&block).unwrap();
            let expected: Vec<Field> = fields.map(|(name, value)| (name.into(), value.into())).into();
            assert_eq!(decoded, expected);
        }
    }

    #[test]
    fn keeps_a_table() {
        // RFC 7541, appendix C.3: "custom-key: custom-value" is indexed, and then referred to.
        let mut decoder = Decoder::new(4096);
        let first = decoder.decode(b"\x40\x0acustom-key\x0ccustom-value").unwrap();
        assert_eq!(decoder.decode(b"\xbe").unwrap(), first);
        assert!(decoder.decode(b"\xbf").is_err());
        assert_eq!(decoder.decode(b"\x20"), Ok(vec![]));
        assert!(decoder.decode(b"\xbe").is_err());
    }
}
