//! The control listener: plain HTTP, one request per connection.
//!
//! - `/stats`: one line of JSON per listener, in the order of the command line;
//! - `/last`: the last request as it came, head and body (64 KB of it);
//! - `/reset`: counters and serials start anew;
//! - `/drop?how=close|reset`: ends every connection that waits for a request;
//! - `/refuse?ms=N`: refuses connections for N milliseconds;
//! - `/behave?..`: what HTTP/2 connections that are still to come do, see `http2/script.rs`;
//! - `/settings?streams=N&..`, `/frames?frames=..`, `/goaway`: sends this to all HTTP/2 connections that are open.
//!
//! All but `/stats` and `/reset` take `listener=N` (the first is 0) to mean one listener only.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::address::Socket;
use crate::connection::Farewell;
use crate::input::Input;
use crate::listener::Listener;

pub async fn serve(socket: Socket, listeners: Vec<Listener>) -> io::Result<()> {
    loop {
        let mut input = Input::new(socket.accept().await?);
        // A control client that misbehaves harms nobody but itself.
        let _ = converse(&mut input, &listeners).await;
    }
}

async fn converse(input: &mut Input, listeners: &[Listener]) -> io::Result<()> {
    let Some(head) = input.take_until(b"\r\n\r\n").await? else {
        return Ok(());
    };
    let head = String::from_utf8_lossy(&head);
    let target = head.split(' ').nth(1).unwrap_or("");
    let (status, text) = match command(target, listeners).await {
        Some(text) => ("200 OK", text),
        None => ("404 Not Found", "unknown command\n".into()),
    };
    let length = text.len();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
    input.output().write_all(answer.as_bytes()).await
}

async fn command(target: &str, listeners: &[Listener]) -> Option<String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let argument = |wanted: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value)
    };
    let chosen = argument("listener").and_then(|index| index.parse::<usize>().ok());
    let mut meant = listeners
        .iter()
        .enumerate()
        .filter(|(index, _)| chosen.is_none_or(|chosen| chosen == *index))
        .map(|(_, listener)| listener);

    match path {
        "/stats" => return Some(listeners.iter().map(line).collect()),
        "/last" => return meant.next().map(|listener| listener.stats().last()),
        "/reset" => meant.for_each(Listener::reset),
        "/drop" => {
            let reset = argument("how") == Some("reset");
            let farewell = if reset { Farewell::Reset } else { Farewell::Close };
            meant.for_each(|listener| listener.drop_idle(farewell));
        }
        "/refuse" => {
            let duration = Duration::from_millis(argument("ms")?.parse().ok()?);
            for listener in meant {
                listener.refuse(duration).await;
            }
        }
        "/behave" => meant.for_each(|listener| listener.site().behave(query)),
        "/settings" => meant.for_each(|listener| listener.site().announce(query)),
        "/frames" => {
            let frames = argument("frames")?;
            meant.for_each(|listener| listener.site().send(frames));
        }
        "/goaway" => meant.for_each(|listener| listener.site().goaway()),
        _ => return None,
    }
    Some("done\n".into())
}

fn line(listener: &Listener) -> String {
    let stats = listener.stats();
    let http2 = match listener.is_http2() {
        true => format!(",\"http2\":{}", stats.http2),
        false => String::new(),
    };
    format!("{{\"addr\":\"{}\",{stats}{http2}}}\n", listener.address())
}
