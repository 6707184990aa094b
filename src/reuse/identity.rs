//! The identity of a connection: what it depends on besides its server and its protocol, such as its local address and its
//! TLS parameters. It is written as bytes. Equal bytes mean an equal identity.
#![forbid(unsafe_code)]

use crate::reuse::bound::Client;

/// The identity of a connection. The default, of a plain connection that is not bound to a local
/// address, is written as zero bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The local socket address that the connection is bound to (`proxy_bind`).
    pub local: &'a [u8],
    /// Bound to an address that is not this machine's (`proxy_bind ... transparent`).
    pub transparent: bool,
    /// The TLS parameters, if TLS is used.
    pub tls: Option<Tls<'a>>,
}

/// The parameters of a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// A number of the TLS context, which has the trusted certificates, protocols, ciphers, the certificate and
    /// key of the configuration, and so on.
    pub context: usize,
    /// The certificate of the server is verified (`proxy_ssl_verify`).
    pub verify: bool,
    /// The name is sent to the server (`proxy_ssl_server_name`).
    pub server_name: bool,
    /// The name of the server, if it is verified or sent; otherwise empty.
    pub name: &'a [u8],
    /// The value of `proxy_ssl_certificate`, if it contains variables; otherwise empty.
    pub certificate: &'a [u8],
    /// The value of `proxy_ssl_certificate_key`, if it contains variables; otherwise empty.
    pub certificate_key: &'a [u8],
}

impl Identity<'_> {
    /// The length of the identity, in bytes.
    pub fn length(&self) -> usize {
        let mut length = 0;
        self.parts(&mut |part| length += part.len());
        length
    }

    /// Writes the identity to `out`, whose length is [`Identity::length`].
    pub fn write(&self, out: &mut [u8]) {
        let mut at = 0;
        self.parts(&mut |part| {
            if let Some(room) = out.get_mut(at..at + part.len()) {
                room.copy_from_slice(part);
            }
            at += part.len();
        });
    }

    /// Calls `each` with the parts of the identity. The length of each text comes before it, so different identities have
    /// different bytes.
    fn parts(&self, each: &mut dyn FnMut(&[u8])) {
        if *self == Self::default() {
            return;
        }
        let text = |bytes: &[u8], each: &mut dyn FnMut(&[u8])| {
            each(&bytes.len().to_ne_bytes());
            each(bytes);
        };
        let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
        let tls = self.tls.as_ref();
        each(&[flag(self.transparent, 0)
            | flag(tls.is_some(), 1)
            | flag(tls.is_some_and(|tls| tls.verify), 2)
            | flag(tls.is_some_and(|tls| tls.server_name), 3)]);
        text(self.local, each);
        if let Some(tls) = tls {
            each(&tls.context.to_ne_bytes());
            text(tls.name, each);
            text(tls.certificate, each);
            text(tls.certificate_key, each);
        }
    }
}

/// The local socket address in the identity of a connection without TLS, empty if it is not bound to one, and whether it is
/// bound transparently. `None` for the identity of a connection with TLS, or one that belongs to a client: it has no meaning in
/// another process.
pub fn local_of_plain(identity: &[u8]) -> Option<(&[u8], bool)> {
    let Some((flags, others)) = identity.split_first() else { return Some((&[], false)) };
    let (length, local) = others.split_first_chunk()?;
    let is_plain = *flags <= 1 && usize::from_ne_bytes(*length) == local.len();
    is_plain.then_some((local, *flags == 1))
}

/// How many bytes [`write_bound`] adds to an identity.
pub const CLIENT_LENGTH: usize = 1 + size_of::<Client>();

/// The first byte of the identity of a bound connection. In other identities the first byte has only lower bits.
const BOUND: u8 = 1 << 7;

/// Writes the identity of a connection that is bound to a client: the client, then `identity`, which does not have it. `out`
/// is [`CLIENT_LENGTH`] longer than `identity`.
pub fn write_bound(identity: &[u8], client: Client, out: &mut [u8]) {
    if let Some((start, end)) = out.split_first_chunk_mut::<CLIENT_LENGTH>() {
        start[0] = BOUND;
        start[1..].copy_from_slice(&client.get().to_ne_bytes());
        if end.len() == identity.len() {
            end.copy_from_slice(identity);
        }
    }
}

/// The client to which a connection with this identity is bound, if it is.
pub fn client_of(identity: &[u8]) -> Option<Client> {
    let (first, others) = identity.split_first()?;
    let client = others.first_chunk().filter(|_| *first == BOUND)?;
    Client::new(u64::from_ne_bytes(*client))
}

/// A TLS name without its port, as `ngx_http_upstream_ssl_name()` computes it: `example.com` of `example.com:443`, and
/// `[::1]` of `[::1]:443`.
pub fn without_port(name: &[u8]) -> &[u8] {
    let bracket = match name.first() {
        Some(b'[') => name.iter().position(|byte| *byte == b']').unwrap_or(0),
        _ => 0,
    };
    match name.iter().skip(bracket).position(|byte| *byte == b':') {
        Some(colon) => name.get(..bracket + colon).unwrap_or(name),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(identity: &Identity<'_>) -> Vec<u8> {
        let mut out = vec![0; identity.length()];
        identity.write(&mut out);
        out
    }

    #[test]
    fn a_plain_connection_has_no_bytes() {
        assert!(bytes(&Identity::default()).is_empty());
    }

    #[test]
    fn the_port_of_a_name_is_no_part_of_it() {
        for (name, host) in [
            ("example.com", "example.com"),
            ("example.com:443", "example.com"),
            ("[::1]:443", "[::1]"),
            ("[::1]", "[::1]"),
            ("[broken:1", "[broken"),
            ("", ""),
            (":443", ""),
        ] {
            assert_eq!(without_port(name.as_bytes()), host.as_bytes(), "{name}");
        }
    }

    type Owned = (Vec<u8>, bool, Option<(usize, bool, bool, [Vec<u8>; 3])>);

    fn identity_of(owned: &Owned) -> Identity<'_> {
        let tls =
            owned.2.as_ref().map(|(context, verify, server_name, [name, certificate, certificate_key])| {
                Tls {
                    context: *context,
                    verify: *verify,
                    server_name: *server_name,
                    name,
                    certificate,
                    certificate_key,
                }
            });
        Identity { local: &owned.0, transparent: owned.1, tls }
    }

    /// Few and short values, so that equal and almost equal identities are common.
    fn owned() -> impl Strategy<Value = Owned> {
        let text = || prop::collection::vec(0u8..2, 0..4);
        let tls = (0usize..2, any::<bool>(), any::<bool>(), [text(), text(), text()]);
        (text(), any::<bool>(), prop::option::of(tls))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn equal_bytes_mean_an_equal_identity(a in owned(), b in owned()) {
            let (a, b) = (identity_of(&a), identity_of(&b));
            prop_assert_eq!(bytes(&a) == bytes(&b), a == b);
        }

        #[test]
        fn only_a_plain_connection_has_a_meaning_elsewhere(a in owned()) {
            let identity = identity_of(&a);
            let expected = identity.tls.is_none().then_some((identity.local, identity.transparent));
            let written = bytes(&identity);
            prop_assert_eq!(local_of_plain(&written), expected);
            let mut bound = vec![0; identity.length() + CLIENT_LENGTH];
            write_bound(&written, Client::new(7).unwrap(), &mut bound);
            prop_assert_eq!(local_of_plain(&bound), None);
        }

        #[test]
        fn a_client_is_part_of_it(
            a in owned(), b in owned(), clients in [prop::option::of(0u64..3), prop::option::of(0u64..3)],
        ) {
            let written = |owned, client: Option<u64>| {
                let identity = bytes(&identity_of(owned));
                let Some(client) = client.and_then(|n| Client::new(n.wrapping_sub(1))) else { return (identity, None) };
                let mut out = vec![0; identity.len() + CLIENT_LENGTH];
                write_bound(&identity, client, &mut out);
                assert_eq!(client_of(&out), Some(client));
                (out, Some(client))
            };
            assert_eq!(client_of(&bytes(&identity_of(&a))), None);
            let ((first, of), (second, or)) = (written(&a, clients[0]), written(&b, clients[1]));
            prop_assert_eq!(first == second, identity_of(&a) == identity_of(&b) && of == or);
        }
    }
}
