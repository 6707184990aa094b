//! Messages between workers: what is read and written again is the same, and nothing else can be read.

use keepalive::handover::message::{Body, Message, PortableKey, MAX_MESSAGE, MAX_TEXT, VERSION};
use keepalive::reuse::identity::local_of_plain;

pub fn target(data: &[u8]) {
    let Ok(message) = Message::read(data) else { return };
    assert_eq!(data[..2], VERSION.to_le_bytes());
    let key = match &message.body {
        Body::Connection(parcel) => Some(parcel.key),
        Body::Question { key, .. } => Some(*key),
        Body::Nothing { .. } | Body::Heir { .. } => None,
    };
    if let Some(PortableKey { upstream, address, module, identity, .. }) = key {
        assert!(
            [upstream, module, identity].iter().all(|text| text.len() <= MAX_TEXT) && address.len() <= 128
        );
        // What it says of the local address is a part of it.
        assert!(
            local_of_plain(identity).is_none_or(|(local, _)| local.is_empty() || identity.ends_with(local))
        );
    }
    let mut buffer = [0; MAX_MESSAGE];
    match message.write(&mut buffer) {
        Some(written) => assert_eq!(written, data, "each message has one form"),
        None => assert!(data.len() > MAX_MESSAGE, "what fits can be written"),
    }
}
