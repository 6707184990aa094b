//! A request, and the rules that its fields must keep to (RFC 9113, section 8).

use super::hpack::Field;

pub struct Request {
    pub stream: u32,
    /// The number of the stream on its connection, the first one being 1.
    pub number: u64,
    pub fields: Vec<Field>,
}

/// Fields that belong to a connection (RFC 9113, section 8.2.2).
const CONNECTION_FIELDS: [&[u8]; 5] =
    [b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"];

impl Request {
    pub fn field(&self, wanted: &str) -> Option<&[u8]> {
        value_of(&self.fields, wanted)
    }

    pub fn is_head(&self) -> bool {
        self.field(":method") == Some(b"HEAD")
    }

    pub fn path(&self) -> String {
        String::from_utf8_lossy(self.field(":path").unwrap_or_default()).into_owned()
    }
}

pub fn value_of<'a>(fields: &'a [Field], wanted: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(name, _)| name == wanted.as_bytes()).map(|(_, value)| value.as_slice())
}

/// The rules that the fields of a request, or its trailers, break.
pub fn broken_rules(fields: &[Field], are_trailers: bool) -> Vec<String> {
    let mut broken: Vec<_> = fields.iter().filter_map(broken_rule).collect();
    let is_pseudo = |field: &Field| field.0.first() == Some(&b':');
    if are_trailers {
        if fields.iter().any(is_pseudo) {
            broken.push("a pseudo-header in trailers".into());
        }
        return broken;
    }
    let first_regular = fields.iter().position(|field| !is_pseudo(field)).unwrap_or(fields.len());
    if fields[first_regular..].iter().any(is_pseudo) {
        broken.push("a pseudo-header behind others".into());
    }
    for (name, least) in
        [(":method", 1), (":scheme", 1), (":path", 1), (":authority", 0), ("host", 0), ("content-length", 0)]
    {
        let number = fields.iter().filter(|field| field.0 == name.as_bytes()).count();
        if number > 1 || number < least {
            broken.push(format!("{number} fields {name}"));
        }
    }
    if value_of(fields, ":path").is_some_and(|path| !path.starts_with(b"/") && path != b"*") {
        broken.push("a path without a slash".into());
    }
    if !matches!(value_of(fields, ":scheme"), None | Some(b"http" | b"https")) {
        broken.push("an unknown scheme".into());
    }
    if let (Some(authority), Some(host)) = (value_of(fields, ":authority"), value_of(fields, "host")) {
        if authority != host {
            broken.push("host is not :authority".into());
        }
    }
    broken
}

fn broken_rule((name, value): &Field) -> Option<String> {
    let shown = String::from_utf8_lossy(name);
    let regular = name.strip_prefix(b":").unwrap_or(name);
    if name.first() == Some(&b':') && !matches!(&name[..], b":method" | b":scheme" | b":path" | b":authority")
    {
        return Some(format!("a pseudo-header {shown}"));
    }
    if regular.is_empty() || regular.iter().any(|byte| matches!(byte, 0..=b' ' | b'A'..=b'Z' | b':' | 0x7f..))
    {
        return Some(format!("a name {shown}"));
    }
    if CONNECTION_FIELDS.contains(&&name[..]) || &name[..] == b"te" && &value[..] != b"trailers" {
        return Some(format!("a field {shown}"));
    }
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
        || is_blank(value.first())
        || is_blank(value.last())
    {
        return Some(format!("a value of {shown}"));
    }
    None
}
