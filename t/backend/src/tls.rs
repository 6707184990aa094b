//! TLS with ALPN, for listeners that have a certificate.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;

use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslFiletype, SslMethod};
use tokio_openssl::SslStream;

use crate::address::Stream;

/// What a handshake has come to.
pub struct Handshake {
    pub stream: Box<dyn Stream>,
    pub is_resumed: bool,
    /// The name that the client asked for.
    pub name: String,
}

/// `alpn`: the protocols that the server speaks, the preferred one first, separated by commas; empty for no ALPN.
pub fn acceptor(
    certificate: &Path,
    key: &Path,
    alpn: &str,
) -> Result<SslAcceptor, openssl::error::ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    builder.set_certificate_chain_file(certificate)?;
    builder.set_private_key_file(key, SslFiletype::PEM)?;
    builder.set_session_id_context(b"backend")?;
    let protocols: Vec<Vec<u8>> =
        alpn.split(',').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect();
    if !protocols.is_empty() {
        builder.set_alpn_select_callback(move |_, offered| {
            // A client that shares none of them is answered without ALPN, as servers of HTTP/1.1 do.
            protocols.iter().find_map(|wanted| among(offered, wanted)).ok_or(AlpnError::NOACK)
        });
    }
    Ok(builder.build())
}

/// A protocol among those of a client, each of which follows its length (RFC 7301, section 3.1).
fn among<'a>(mut offered: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    while let Some((length, rest)) = offered.split_first() {
        let (name, others) = rest.split_at_checked(usize::from(*length))?;
        if name == wanted {
            return Some(name);
        }
        offered = others;
    }
    None
}

pub async fn accept(acceptor: &SslAcceptor, stream: Box<dyn Stream>) -> io::Result<Handshake> {
    let ssl = Ssl::new(acceptor.context())?;
    let mut stream = SslStream::new(ssl, stream)?;
    Pin::new(&mut stream).accept().await.map_err(io::Error::other)?;
    let name = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).unwrap_or("").into();
    let is_resumed = stream.ssl().session_reused();
    Ok(Handshake { stream: Box::new(stream), is_resumed, name })
}

impl Stream for SslStream<Box<dyn Stream>> {
    fn reset_on_close(&self) {
        self.get_ref().reset_on_close();
    }

    fn duplicate(&self) -> io::Result<OwnedFd> {
        self.get_ref().duplicate()
    }
}
