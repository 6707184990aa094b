//! The static table of RFC 7541, appendix A, and the way from a name to its entry.
#![forbid(unsafe_code)]

/// A field of the static table: its name, and its value or nothing.
pub(super) type Entry = (&'static [u8], &'static [u8]);

/// Index 1 is the first entry (RFC 7541, section 2.3.1). Entries with one name follow each other.
const ENTRIES: [Entry; 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

static TABLE: [Entry; ENTRIES.len()] = ENTRIES;

/// The entry with an index. `None` for index 0 and those above the static table.
#[inline]
pub(super) fn entry(index: usize) -> Option<Entry> {
    TABLE.get(index.checked_sub(1)?).copied()
}

/// What the table has of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Name and value, under this index.
    Field(u8),
    /// The name only, first under this index.
    Name(u8),
}

/// Looks a field up. The case of names matters: they are lower case in HTTP/2 (RFC 9113, section 8.2.1).
#[inline(always)]
pub(super) fn find(name: &[u8], value: &[u8]) -> Option<Found> {
    let first = *SLOTS.get(slot(name)?)?;
    let entries = TABLE.get(usize::from(first).checked_sub(1)?..)?;
    let mut found = None;
    for (index, (known, content)) in (first..).zip(entries) {
        if *known != name {
            break;
        }
        if *content == value {
            return Some(Found::Field(index));
        }
        found = Some(Found::Name(first));
    }
    found
}

/// Was found by trial: with it no two names of the table share a slot.
const MULTIPLIER: u32 = 0xf18_06b1;

/// By slot: the index of the first entry with the only name that can be meant, or 0.
static SLOTS: [u8; 128] = slots();

/// A hash of the length and of the first and last byte. `None` for names that are shorter than each of the table.
#[inline(always)]
const fn slot(name: &[u8]) -> Option<usize> {
    let [first, .., last] = name else { return None };
    let [length, ..] = name.len().to_le_bytes();
    let hash = u32::from_le_bytes([*first, *last, length, 0]).wrapping_mul(MULTIPLIER);
    Some((hash >> 25) as usize)
}

/// # Panics
/// While compiling, if two names share a slot.
const fn slots() -> [u8; 128] {
    let mut slots = [0; 128];
    let (mut at, mut index) = (0, 1);
    while at < ENTRIES.len() {
        let Some(slot) = slot(ENTRIES[at].0) else { panic!("a name is too short") };
        if slots[slot] == 0 {
            slots[slot] = index;
        } else {
            assert!(is_same(ENTRIES[slots[slot] as usize - 1].0, ENTRIES[at].0), "names share a slot");
        }
        (at, index) = (at + 1, index + 1);
    }
    slots
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_entry() {
        for (index, (name, value)) in (1u8..).zip(ENTRIES) {
            assert_eq!(entry(index.into()), Some((name, value)));
            assert_eq!(find(name, value), Some(Found::Field(index)));
            let first = (1u8..).zip(ENTRIES).find(|(_, (known, _))| *known == name).map(|(first, _)| first);
            assert_eq!(find(name, b"other"), first.map(Found::Name));
        }
        assert_eq!(entry(0), None);
        assert_eq!(entry(62), None);
        assert_eq!(entry(usize::MAX), None);
    }

    #[test]
    fn finds_no_other_name() {
        for name in ["", ":", "x", "te", "Host", "hast", "accept-", "x-accept-charset", "via "] {
            assert_eq!(find(name.as_bytes(), b""), None, "{name}");
        }
        for (name, value) in ENTRIES {
            for end in 0..name.len() {
                let known = ENTRIES.iter().any(|(known, _)| *known == &name[..end]);
                assert_eq!(find(&name[..end], value).is_some(), known);
            }
        }
    }
}
