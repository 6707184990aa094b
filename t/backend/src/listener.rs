//! One listening address: its accept loop, and the handle by which control commands reach it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, Instant};

use crate::address::{Address, Socket, Stream};
use crate::connection::{self, Farewell};
use crate::http2::{self, Site};
use crate::input::Input;
use crate::protocol::Protocol;
use crate::stats::Stats;
use crate::tls;

/// A handle to a running listener.
pub struct Listener {
    address: Address,
    stats: Arc<Mutex<Arc<Stats>>>,
    farewell: watch::Sender<Farewell>,
    refuse: mpsc::Sender<Refusal>,
    site: Arc<Site>,
    is_http2: bool,
}

/// For how long, and whom to tell once the socket is closed.
type Refusal = (Duration, oneshot::Sender<()>);

impl Listener {
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn stats(&self) -> Arc<Stats> {
        self.stats.lock().expect("no holder panics").clone()
    }

    /// What its HTTP/2 connections share.
    pub fn site(&self) -> &Site {
        &self.site
    }

    pub fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// Starts counting anew, serials of connections included.
    pub fn reset(&self) {
        *self.stats.lock().expect("no holder panics") = Arc::default();
        self.site.reset();
    }

    /// Makes every connection that waits for a request end this way.
    pub fn drop_idle(&self, farewell: Farewell) {
        self.farewell.send_replace(farewell);
    }

    /// Closes the listening socket for this long; when this returns, connections are refused.
    pub async fn refuse(&self, duration: Duration) {
        let (closed, is_closed) = oneshot::channel();
        if self.refuse.send((duration, closed)).await.is_ok() {
            let _ = is_closed.await;
        }
    }
}

/// Starts the listener with this number, as scripts may name it.
///
/// `script` is what its HTTP/2 connections do; with `tls` all its connections begin with a handshake.
pub async fn start(
    number: usize,
    address: &Address,
    protocol: Protocol,
    script: &str,
    tls: Option<SslAcceptor>,
) -> io::Result<Listener> {
    let socket = address.bind().await?;
    let address = socket.address()?;
    let stats: Arc<Mutex<Arc<Stats>>> = Arc::default();
    let (farewell, farewells) = watch::channel(Farewell::Close);
    let (refuse, refusals) = mpsc::channel(1);

    let site = Arc::new(Site::new(script));
    let kind = Kind { number, protocol, tls, site: site.clone() };
    tokio::spawn(accept_loop(socket, kind, address.clone(), stats.clone(), farewells, refusals));

    Ok(Listener { address, stats, farewell, refuse, site, is_http2: protocol == Protocol::Http2 })
}

/// What the connections of a listener have in common.
#[derive(Clone)]
struct Kind {
    number: usize,
    protocol: Protocol,
    tls: Option<SslAcceptor>,
    site: Arc<Site>,
}

async fn accept_loop(
    mut socket: Socket,
    kind: Kind,
    address: Address,
    stats: Arc<Mutex<Arc<Stats>>>,
    farewells: watch::Receiver<Farewell>,
    mut refusals: mpsc::Receiver<Refusal>,
) {
    loop {
        tokio::select! {
            biased;
            Some((duration, closed)) = refusals.recv() => {
                drop(socket);
                let _ = closed.send(());
                sleep(duration).await;
                socket = match rebind(&address).await {
                    Some(socket) => socket,
                    None => return,
                };
            }
            accepted = socket.accept() => {
                let Ok(stream) = accepted else { continue };
                let stats = stats.lock().expect("no holder panics").clone();
                let serial = stats.opened(stream.duplicate().ok());
                let mut farewells = farewells.clone();
                farewells.mark_unchanged();
                tokio::spawn(serve(stream, kind.clone(), serial, stats, farewells));
            }
        }
    }
}

async fn serve(
    mut stream: Box<dyn Stream>,
    kind: Kind,
    serial: u64,
    stats: Arc<Stats>,
    farewells: watch::Receiver<Farewell>,
) {
    let Kind { number: listener, protocol, tls, site } = kind;
    if let Some(acceptor) = tls {
        let handshake = if site.fails_handshake() { None } else { tls::accept(&acceptor, stream).await.ok() };
        let Some(handshake) = handshake else {
            stats.http2.handshake_failed();
            return stats.closed(serial, 0);
        };
        stats.http2.line(serial, |line| {
            (line.is_tls, line.is_resumed, line.name) = (true, handshake.is_resumed, handshake.name);
        });
        stream = handshake.stream;
    }
    match protocol {
        Protocol::Http2 => {
            let context = http2::Context { listener, serial, stats, site };
            http2::serve(stream, context, farewells).await;
        }
        _ => connection::serve(Input::new(stream), protocol, listener, serial, stats, farewells).await,
    }
}

/// Takes the address again; a client may hold the port as its own for a moment.
async fn rebind(address: &Address) -> Option<Socket> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match address.bind().await {
            Ok(socket) => return Some(socket),
            Err(error) if Instant::now() > deadline => {
                eprintln!("cannot listen on {address} again: {error}");
                return None;
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
