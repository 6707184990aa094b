//! HPACK (RFC 7541) without a dynamic table. We announce SETTINGS_HEADER_TABLE_SIZE 0 and use no table for what we send, so each
//! header block stands for itself. Blocks of streams that nobody waits for need not be decoded.
#![forbid(unsafe_code)]

mod decode;
mod encode;
mod huffman;
mod tables;

#[cfg(test)]
mod tests;

use std::fmt;

pub use decode::decode;
pub use encode::Encoder;

/// A dynamic table size update to 0 (RFC 7541, section 6.3). If a peer lowers SETTINGS_HEADER_TABLE_SIZE, the next block must
/// begin with an update (section 4.2). The first block of a connection begins with this one, so none is due later, whatever the
/// peer announces.
pub const SIZE_UPDATE: u8 = 0x20;

/// What a field costs beside its name and value, in bytes (RFC 9113, section 6.5.2).
const OVERHEAD: usize = 32;

/// How much one header block may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most fields.
    pub fields: usize,
    /// The most bytes: the names and values, decoded, and 32 for each field (RFC 9113, section 6.5.2).
    pub bytes: usize,
}

/// Why a header block cannot be decoded. All but `TooLarge` and `TooMany` are errors of the connection, COMPRESSION_ERROR (RFC
/// 9113, section 4.3). Those two are our limits: they concern one stream only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The block ends inside a field.
    Truncated,
    /// An integer has more than four bytes after its first one (RFC 7541, section 5.1).
    Integer,
    /// A Huffman string contains EOS, or its padding is longer than 7 bits or not all ones (RFC 7541, section 5.2).
    Huffman,
    /// An index is 0 or beyond the static table (RFC 7541, sections 2.3.3 and 6.1).
    Index,
    /// A table size update is not 0, not at the beginning of the block, or the third one (RFC 7541, sections 4.2 and 6.3).
    TableSize,
    /// The fields have more bytes than the limit, or a Huffman string more than the scratch space.
    TooLarge,
    /// There are more fields than the limit.
    TooMany,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Truncated => "header block ends inside a field (RFC 7541, section 3.1)",
            Fault::Integer => "too large integer in header block (RFC 7541, section 5.1)",
            Fault::Huffman => "invalid Huffman code in header block (RFC 7541, section 5.2)",
            Fault::Index => "invalid index in header block (RFC 7541, section 2.3.3)",
            Fault::TableSize => "invalid table size update in header block (RFC 7541, section 4.2)",
            Fault::TooLarge => "too large header block (RFC 9113, section 10.5.1)",
            Fault::TooMany => "too many fields in header block (RFC 9113, section 10.5.1)",
        })
    }
}
