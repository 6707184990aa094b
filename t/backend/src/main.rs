//! A scripted backend for the test suite: real sockets, and every misbehaviour a keepalive pool must survive.
//!
//! What it does with a request is written in the query of that request (see `script.rs`); what it saw is told by the
//! control listener (see `control.rs`).
#![forbid(unsafe_code)]

mod address;
mod cgi;
mod connection;
mod control;
mod fastcgi;
mod http;
mod http2;
mod input;
mod listener;
mod login;
mod memcached;
mod protocol;
mod script;
mod stats;
mod tls;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Parser;
use openssl::ssl::SslAcceptor;
use rustix::process::{set_parent_process_death_signal, Signal};
use tokio::signal::unix::{signal, SignalKind};

use address::Address;
use protocol::Protocol;

#[derive(Parser)]
#[command(about = "A TCP/unix backend that answers, or misbehaves, as each request's query says.")]
struct Options {
    /// Address to serve on, `ip:port` (port 0: any free one) or `unix:/path`; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<Address>,

    /// Address of the control listener (plain HTTP: see `control.rs`).
    #[arg(long)]
    control: Address,

    /// What is spoken on the --listen addresses.
    #[arg(long, value_enum, default_value_t = Protocol::Http)]
    protocol: Protocol,

    /// What HTTP/2 connections do, see `http2/script.rs`.
    #[arg(long, default_value = "")]
    connection: String,

    /// Certificate and key for TLS on the --listen addresses, and the protocols of ALPN, the preferred one first.
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    #[arg(long, default_value = "h2,http/1.1")]
    alpn: String,

    /// A file that gets the names of requests that HTTP/2 has brought as a whole (`id=` in their queries), a line each. It
    /// outlives this process, and several may share it.
    #[arg(long)]
    journal: Option<PathBuf>,

    /// Terminate when the process that started this one dies.
    #[arg(long)]
    exit_with_parent: bool,
}

impl Options {
    fn tls(&self) -> io::Result<Option<SslAcceptor>> {
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else { return Ok(None) };
        Ok(Some(tls::acceptor(certificate, key, &self.alpn)?))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let options = Options::parse();

    if options.exit_with_parent {
        set_parent_process_death_signal(Some(Signal::TERM))?;
    }

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    if let Some(journal) = &options.journal {
        stats::keep_journal(journal)?;
    }

    let tls = options.tls()?;
    let mut listeners = Vec::new();
    for (number, address) in options.listen.iter().enumerate() {
        listeners.push(
            listener::start(number, address, options.protocol, &options.connection, tls.clone()).await?,
        );
    }
    let control = options.control.bind().await?;

    let mut out = io::stdout();
    for listener in &listeners {
        writeln!(out, "{}", listener.address())?;
    }
    writeln!(out, "{}", control.address()?)?;
    writeln!(out, "ready")?;
    out.flush()?;

    tokio::select! {
        result = control::serve(control, listeners) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
