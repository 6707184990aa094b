//! Addresses as nginx writes them, and the sockets behind them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

/// So many connections may wait to be accepted, if the kernel allows it: a thousand requests at once open a thousand. One that
/// finds no room tries again after a second.
const BACKLOG: u32 = 4096;

/// `ip:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|error| format!("{text:?} is neither ip:port nor unix:/path: {error}")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Listens on this address; a socket file left behind by a dead process is replaced.
    pub async fn bind(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => TcpSocket::new_v6()?,
                };
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                socket.listen(BACKLOG).map(Socket::Tcp)
            }
            Self::Unix(path) => {
                let _ = std::fs::remove_file(path);
                UnixListener::bind(path).map(|listener| Socket::Unix(listener, path.clone()))
            }
        }
    }
}

/// A listening socket.
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Socket {
    /// The address really bound, with the port the kernel chose for port 0.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, path) => Ok(Address::Unix(path.clone())),
        }
    }

    pub async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // What a script sends piecewise must leave piecewise.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// An accepted connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the coming close a reset instead of a FIN; unix sockets know no such difference.
    fn reset_on_close(&self);

    /// A second descriptor of the same socket, to ask the kernel whether the peer has closed it.
    fn duplicate(&self) -> io::Result<OwnedFd>;
}

impl Stream for TcpStream {
    fn reset_on_close(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn duplicate(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

impl Stream for UnixStream {
    fn reset_on_close(&self) {}

    fn duplicate(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_addresses_as_nginx_does() {
        for text in ["127.0.0.1:80", "[::1]:0", "unix:/tmp/s"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!("localhost".parse::<Address>().is_err());
    }
}
