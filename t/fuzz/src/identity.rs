//! What identifies a connection: bytes that are equal for equal shapes only. And the name of a server without its port, which
//! may come from a client.
#![forbid(unsafe_code)]

use keepalive::reuse::bound::Client;
use keepalive::reuse::identity::{client_of, without_port, write_bound, Shape, Tls, OF_CLIENT};

use crate::input::Input;

/// Two shapes, of six lines each.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let shapes = [(); 2].map(|()| shape(&mut input));
    let [one, other] = shapes.map(|shape| bytes(&shape));
    assert_eq!(one == other, shapes[0] == shapes[1], "{shapes:?}");
    assert_eq!(one.is_empty(), shapes[0] == Shape::default());
    // Nor does one begin with the other: what lies behind it in memory cannot be a part of it.
    assert!(one == other || one.is_empty() || !other.starts_with(&one), "{shapes:?}");
    // A client makes it another one, and another client again another one.
    let client = |n| Client::new(n).expect("not zero");
    let [first, second] = [client(data.len() as u64 + 1), client(u64::MAX)].map(|client| {
        let mut all = vec![0x55; one.len() + OF_CLIENT];
        write_bound(&one, client, &mut all);
        assert_eq!(client_of(&all), Some(client));
        all
    });
    assert!(first != second && first != one && first != other, "{shapes:?}");
    assert!(client_of(&one).is_none() && client_of(&other).is_none(), "{shapes:?}");
    name(data);
    shapes.iter().filter_map(|shape| shape.tls).for_each(|tls| name(tls.name));
}

/// The flags, a number for the context, and texts.
fn shape<'a>(input: &mut Input<'a>) -> Shape<'a> {
    let mut flags = Input(input.line());
    let transparent = flags.flag();
    let has_tls = flags.flag();
    let (verify, server_name, context) = (flags.flag(), flags.flag(), flags.number());
    let [local, name, certificate, certificate_key] = [(); 4].map(|()| input.line());
    let tls = Tls { context, verify, server_name, name, certificate, certificate_key };
    Shape { local, transparent, tls: has_tls.then_some(tls) }
}

fn bytes(shape: &Shape<'_>) -> Vec<u8> {
    let mut bytes = vec![0x55; shape.length()];
    shape.write(&mut bytes);
    bytes
}

fn name(name: &[u8]) {
    let host = without_port(name);
    let rest = name.strip_prefix(host).expect("a name begins with its host");
    assert!(rest.is_empty() || rest.starts_with(b":"));
    match name.iter().position(|byte| *byte == b']').filter(|_| name.starts_with(b"[")) {
        Some(end) => {
            assert!(host.len() > end);
            assert!(!host[end..].contains(&b':'));
        }
        None => assert!(!host.contains(&b':')),
    }
}
