//! One accepted connection: requests in, scripted answers and faults out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::address::Stream;
use crate::http;
use crate::input::Input;
use crate::login::Login;
use crate::protocol::{Answer, Body, Identity, Protocol, Request};
use crate::script::{Fault, Framing, Point, Script};
use crate::stats::Stats;

/// What an `extra` fault sends: a foreign answer, so that response mixing shows in the client's body.
const EXTRA: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-Connection: extra\r\n\r\nforeign";

/// The number of pieces of a dripped body, unless the script has its own.
const PIECES: usize = 10;

/// How a connection ends.
#[derive(Clone, Copy, PartialEq)]
pub enum Farewell {
    Close,
    Reset,
}

/// Serves a connection of a listener to its end. Any error of the socket ends it too; the tests see that on nginx's side.
pub async fn serve(
    mut input: Input,
    protocol: Protocol,
    listener: usize,
    serial: u64,
    stats: Arc<Stats>,
    farewells: watch::Receiver<Farewell>,
) {
    let farewell =
        converse(&mut input, protocol, listener, serial, &stats, farewells).await.unwrap_or(Farewell::Close);
    if farewell == Farewell::Reset {
        input.reset_on_close();
    }
    stats.closed(serial, input.buffered().len());
}

async fn converse(
    input: &mut Input,
    protocol: Protocol,
    listener: usize,
    serial: u64,
    stats: &Stats,
    mut farewells: watch::Receiver<Farewell>,
) -> io::Result<Farewell> {
    let mut linger = Duration::ZERO;
    let mut idle = None;
    let mut login = Login::default();
    for number in 1.. {
        let request = tokio::select! {
            request = next_request(input, protocol, idle, stats) => request?,
            _ = farewells.changed() => return Ok(*farewells.borrow()),
        };
        let Some(mut request) = request else {
            pause(linger).await;
            break;
        };
        request.script = request.script.at_listener(listener);
        login.apply(&mut request.script, request.authorization.as_deref(), serial);
        linger = request.script.linger;
        idle = request.script.idle;
        let busy = stats.request();

        let body_length = match request.script.early {
            true => None,
            false => read_body(input, &request.body).await?,
        };
        stats.keep(input.taken());
        if body_length.is_some() {
            stats.note_id(request.script.id.as_deref());
        }
        let answer =
            protocol.answer(&request, &Identity { connection: serial, request: number, body_length });
        if let Some(farewell) = play(input, &request, &answer, number).await? {
            return Ok(farewell);
        }
        drop(busy);
        if request.script.early {
            if read_body(input, &request.body).await?.is_none() {
                break;
            }
            input.taken();
        }
    }
    Ok(Farewell::Close)
}

/// The next request; `None` if the peer closes instead, or sends no byte of it in time.
async fn next_request(
    input: &mut Input,
    protocol: Protocol,
    idle: Option<Duration>,
    stats: &Stats,
) -> io::Result<Option<Request>> {
    if let Some(idle) = idle.filter(|_| input.buffered().is_empty()) {
        let is_more = match timeout(idle, input.fill()).await {
            Ok(is_more) => is_more?,
            // It may have come while others were served.
            Err(_) if input.is_readable() => true,
            Err(_) => {
                stats.expired();
                false
            }
        };
        if !is_more {
            return Ok(None);
        }
    }
    protocol.read(input).await
}

/// Not even a sleep of no time is over at once.
async fn pause(duration: Duration) {
    if !duration.is_zero() {
        sleep(duration).await;
    }
}

/// The length of the request body, or `None` if it ended too early.
async fn read_body(input: &mut Input, body: &Body) -> io::Result<Option<u64>> {
    match *body {
        Body::None => Ok(Some(0)),
        Body::Taken(length) => Ok(Some(length)),
        Body::Length(length) => Ok(input.skip(length).await?.then_some(length)),
        Body::Chunked => http::skip_chunked(input).await,
    }
}

/// Sends the answer as its script says; returns how the connection ends, if it ends here.
async fn play(
    input: &mut Input,
    request: &Request,
    answer: &Answer,
    number: u64,
) -> io::Result<Option<Farewell>> {
    let script = &request.script;
    pause(script.delay).await;

    for code in &script.interim {
        input.output().write_all(http::interim(*code).as_bytes()).await?;
    }
    if script.upgrade {
        input.output().write_all(http::SWITCHING_PROTOCOLS).await?;
        input.echo().await?;
        return Ok(Some(Farewell::Close));
    }

    let fault = script.fault.filter(|_| number >= script.from);
    let cut = match (fault, script.at) {
        (None, _) | (_, Point::End) => answer.head.len() + answer.body.len(),
        (_, Point::Start) => 0,
        (_, Point::Header) => answer.head.len() / 2,
        (_, Point::Body) => answer.head.len() + answer.body.len() / 2,
    };
    let mut bytes = [answer.head.as_slice(), answer.body.as_slice()].concat();
    bytes.truncate(cut);
    if fault == Some(Fault::Extra) && script.after.is_zero() {
        // In one piece with the answer: no race between the two in the tests.
        bytes.extend_from_slice(EXTRA);
    }
    write(input.output(), &bytes, answer.head.len(), script).await?;

    match fault {
        Some(Fault::Extra) if script.after.is_zero() => {}
        Some(fault) => {
            pause(script.after).await;
            match fault {
                Fault::Close => return Ok(Some(Farewell::Close)),
                Fault::Reset => return Ok(Some(Farewell::Reset)),
                Fault::Extra => input.output().write_all(EXTRA).await?,
                Fault::Endless => return write_for_ever(input.output(), script).await,
                Fault::Hang => {
                    input.skip_to_end().await?;
                    return Ok(Some(Farewell::Close));
                }
            }
        }
        None => {}
    }
    Ok((!answer.keep_alive && !script.stay).then_some(Farewell::Close))
}

/// Goes on with what comes at this point of an answer; returns, by an error, when the peer has closed.
async fn write_for_ever(output: &mut dyn Stream, script: &Script) -> io::Result<Option<Farewell>> {
    let text = "x".repeat(0x1000);
    let more = match (script.at, script.framing) {
        (Point::Start | Point::Header, _) => "X-Endless: x\r\n".repeat(10),
        (_, Framing::Chunked | Framing::Trailers) => format!("1000\r\n{text}\r\n"),
        (_, Framing::Length | Framing::Eof) => text,
    };
    loop {
        output.write_all(more.as_bytes()).await?;
    }
}

/// Writes at once, or drips what follows the head.
async fn write(output: &mut dyn Stream, bytes: &[u8], head: usize, script: &Script) -> io::Result<()> {
    let Some(pause) = script.drip.filter(|_| bytes.len() > head) else {
        return output.write_all(bytes).await;
    };
    let (head, body) = bytes.split_at(head);
    output.write_all(head).await?;
    for piece in body.chunks(body.len().div_ceil(script.pieces.unwrap_or(PIECES))) {
        sleep(pause.max(Duration::from_millis(1))).await;
        output.write_all(piece).await?;
    }
    Ok(())
}
