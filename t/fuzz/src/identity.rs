//! The identity of a connection: its bytes are equal only for equal identities. And the name of a server without its port,
//! which may come from a client.
#![forbid(unsafe_code)]

use keepalive::reuse::bound::Client;
use keepalive::reuse::identity::{client_of, without_port, write_bound, Identity, Tls, CLIENT_LENGTH};

use crate::input::Input;

/// Two identities, of six lines each.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let identities = [(); 2].map(|()| identity(&mut input));
    let [one, other] = identities.map(|identity| bytes(&identity));
    assert_eq!(one == other, identities[0] == identities[1], "{identities:?}");
    assert_eq!(one.is_empty(), identities[0] == Identity::default());
    // Neither is a prefix of the other, so what is behind it in memory cannot become a part of it.
    assert!(one == other || one.is_empty() || !other.starts_with(&one), "{identities:?}");
    // With a client it is another identity, and with another client yet another one.
    let client = |n| Client::new(n).expect("not zero");
    let [first, second] = [client(data.len() as u64 + 1), client(u64::MAX)].map(|client| {
        let mut all = vec![0x55; one.len() + CLIENT_LENGTH];
        write_bound(&one, client, &mut all);
        assert_eq!(client_of(&all), Some(client));
        all
    });
    assert!(first != second && first != one && first != other, "{identities:?}");
    assert!(client_of(&one).is_none() && client_of(&other).is_none(), "{identities:?}");
    name(data);
    identities.iter().filter_map(|identity| identity.tls).for_each(|tls| name(tls.name));
}

/// The flags, a number for the context, and texts.
fn identity<'a>(input: &mut Input<'a>) -> Identity<'a> {
    let mut flags = Input(input.line());
    let transparent = flags.flag();
    let has_tls = flags.flag();
    let (verify, server_name, context) = (flags.flag(), flags.flag(), flags.number());
    let [local, name, certificate, certificate_key] = [(); 4].map(|()| input.line());
    let tls = Tls { context, verify, server_name, name, certificate, certificate_key };
    Identity { local, transparent, tls: has_tls.then_some(tls) }
}

fn bytes(identity: &Identity<'_>) -> Vec<u8> {
    let mut bytes = vec![0x55; identity.length()];
    identity.write(&mut bytes);
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
