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
mod input;
mod listener;
mod login;
mod memcached;
mod protocol;
mod script;
mod stats;

use std::io::{self, Write};

use clap::Parser;
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

    /// Address of the control listener (plain HTTP: /stats, /reset, /drop, /refuse).
    #[arg(long)]
    control: Address,

    /// What is spoken on the --listen addresses.
    #[arg(long, value_enum, default_value_t = Protocol::Http)]
    protocol: Protocol,

    /// Terminate when the process that started this one dies.
    #[arg(long)]
    exit_with_parent: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let options = Options::parse();

    if options.exit_with_parent {
        set_parent_process_death_signal(Some(Signal::TERM))?;
    }

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let mut listeners = Vec::new();
    for (number, address) in options.listen.iter().enumerate() {
        listeners.push(listener::start(number, address, options.protocol).await?);
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
