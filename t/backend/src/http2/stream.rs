//! The answer of one request, and what goes wrong with it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::frame::{self, code, flag, kind};
use super::hpack::{self, Field};
use super::link::{Gone, Link};
use super::raw::{self, Piece};
use super::request::Request;
use super::script::{Fault, Point, Script, Then};
use crate::connection::Farewell;

struct Answer {
    link: Arc<Link>,
    request: Request,
    script: Script,
    /// Whether the fault of the script is for this request.
    is_faulty: bool,
}

/// Answers a request, unless its stream is gone before.
pub async fn serve(link: Arc<Link>, request: Request, script: Script) {
    let path = request.path();
    let asked = link.site.asked(path.split_once("&n=").map_or(path.as_str(), |(path, _)| path));
    let is_faulty = request.number >= script.from && script.times.is_none_or(|times| asked <= times);
    let stats = link.stats.clone();
    let busy = stats.request();
    let answer = Answer { link, request, script, is_faulty };
    // A stream that is gone needs no answer.
    let _ = answer.play().await;
    drop(busy);
}

/// Sends the frames that a script spells out.
pub async fn send_pieces(link: &Link, text: &str, stream: u32) {
    for piece in raw::pieces(text, stream) {
        match piece {
            Piece::Bytes(bytes) => link.send(bytes),
            Piece::Pause(duration) => sleep(duration).await,
        }
    }
}

impl Answer {
    fn stream(&self) -> u32 {
        self.request.stream
    }

    async fn play(&self) -> Result<(), Gone> {
        let script = &self.script;
        self.pause(script.delay).await?;
        if !self.fault(Point::Start).await? {
            return Ok(());
        }
        if !script.early {
            self.request_body().await?;
        }
        if !self.fault(Point::Request).await? {
            return Ok(());
        }
        self.link.stats.note_id(script.id.as_deref());
        for code in &script.interim {
            self.head(
                &[(b":status".to_vec(), code.to_string().into()), (b"x-interim".to_vec(), b"1".to_vec())],
                false,
            );
        }
        let status = script.status.unwrap_or(200);
        let body = self.body()?;
        let has_body = !self.request.is_head() && status != 204 && status != 304;
        let is_whole = (!has_body || body.is_empty()) && script.trailers.is_empty();
        let (head, ends) = (self.head_fields(status, body.len()), is_whole && self.goes_on_at(Point::Header));
        self.head(&head, ends);
        if !self.fault(Point::Header).await? {
            return Ok(());
        }
        if !ends && has_body {
            let (first, second) = body.split_at(body.len() / 2);
            self.data(first, false).await?;
            if !self.fault(Point::Body).await? {
                return Ok(());
            }
            self.data(second, script.trailers.is_empty()).await?;
        }
        if !script.trailers.is_empty() {
            self.head(&script.trailers, true);
        }
        if self.fault(Point::End).await? {
            self.ended()?;
        }
        Ok(())
    }

    fn ended(&self) -> Result<(), Gone> {
        if self.script.early_reset && !self.link.is_request_over(self.stream())? {
            self.link.send(frame::reset(self.stream(), code::NO_ERROR));
            self.link.remove(self.stream());
        } else {
            self.link.answered(self.stream());
        }
        Ok(())
    }

    async fn pause(&self, duration: Duration) -> Result<(), Gone> {
        if !duration.is_zero() {
            sleep(duration).await;
        }
        self.link.is_request_over(self.stream()).map(|_| ())
    }

    async fn request_body(&self) -> Result<(), Gone> {
        let changed = self.link.changed(self.stream())?;
        while !self.link.is_request_over(self.stream())? {
            changed.notified().await;
        }
        Ok(())
    }

    /// Whether nothing happens at this point.
    fn goes_on_at(&self, point: Point) -> bool {
        !self.is_faulty || self.script.fault.is_none() || self.script.at != point
    }

    /// Does what is to go wrong at this point; returns whether the answer goes on.
    async fn fault(&self, point: Point) -> Result<bool, Gone> {
        let (script, link, stream) = (&self.script, &self.link, self.stream());
        let Some(fault) = script.fault.as_ref().filter(|_| !self.goes_on_at(point)) else { return Ok(true) };
        self.pause(script.after).await?;
        match fault {
            Fault::Refuse | Fault::Reset => {
                let is_refused = *fault == Fault::Refuse;
                link.send(frame::reset(
                    stream,
                    if is_refused { code::REFUSED_STREAM } else { script.error_code() },
                ));
                if is_refused {
                    link.stats.http2.refused();
                }
                link.remove(stream);
                return Ok(false);
            }
            Fault::Goaway => {
                let last = script.last_stream(stream);
                link.goaway(last, script.error_code(), script.then == Then::End);
                if script.then == Then::Close {
                    link.end(Farewell::Close);
                }
                return Ok(last >= stream);
            }
            Fault::Close => link.end(Farewell::Close),
            Fault::Abort => link.end(Farewell::Reset),
            Fault::Hang => {}
            Fault::Silent => link.is_silent.store(true, Relaxed),
            Fault::Deaf => {
                link.is_deaf.store(true, Relaxed);
                return Ok(script.then == Then::Answer);
            }
            Fault::Frames(text) => {
                send_pieces(link, text, stream).await;
                return Ok(self.after_frames());
            }
        }
        Ok(false)
    }

    fn after_frames(&self) -> bool {
        let (link, stream) = (&self.link, self.stream());
        match self.script.then {
            Then::Answer => return true,
            Then::End => link.answered(stream),
            Then::Close => link.end(Farewell::Close),
            Then::Abort => link.end(Farewell::Reset),
            Then::Silent => link.is_silent.store(true, Relaxed),
            Then::Hang => {}
        }
        false
    }

    fn body(&self) -> Result<Vec<u8>, Gone> {
        let script = &self.script;
        if script.reflect {
            return self.link.with(|state| {
                let entry = state.streams.get_mut(&self.stream()).ok_or(Gone)?;
                Ok(entry.body.take().unwrap_or_default())
            });
        }
        if script.echo {
            return self.echo();
        }
        Ok(match (&script.body, script.len) {
            (Some(body), Some(len)) => body.iter().copied().cycle().take(len).collect(),
            (Some(body), None) => body.clone(),
            (None, Some(len)) => vec![b'x'; len],
            (None, None) => {
                format!("connection {} request {}\n", self.link.serial, self.request.number).into_bytes()
            }
        })
    }

    /// What has come, line by line.
    fn echo(&self) -> Result<Vec<u8>, Gone> {
        let mut text = Vec::new();
        let add = |text: &mut Vec<u8>, mark: &str, (name, value): &Field| {
            text.extend([mark.as_bytes(), name, b": ", value, b"\n"].concat());
        };
        self.request.fields.iter().for_each(|field| add(&mut text, "", field));
        self.link.with(|state| {
            let entry = state.streams.get(&self.stream()).ok_or(Gone)?;
            text.extend(format!("body of {} bytes, sum {}\n", entry.length, entry.sum).into_bytes());
            entry.trailers.iter().for_each(|field| add(&mut text, "trailer ", field));
            Ok(())
        })?;
        Ok(text)
    }

    fn head_fields(&self, status: u16, length: usize) -> Vec<Field> {
        let script = &self.script;
        let mut fields = vec![(b":status".to_vec(), status.to_string().into())];
        let has_length = script.length.is_some() || !script.no_length && !matches!(status, 204 | 304);
        if has_length {
            let length = script.length.unwrap_or(length as u64);
            fields.push((b"content-length".to_vec(), length.to_string().into()));
        }
        for (name, value) in [
            ("x-connection", self.link.serial),
            ("x-request", self.request.number),
            ("x-stream", self.stream().into()),
        ] {
            fields.push((name.into(), value.to_string().into()));
        }
        fields.extend(script.headers.iter().cloned());
        fields.extend(script.fill.map(|length| (b"x-fill".to_vec(), vec![b'f'; length])));
        fields
    }

    /// Sends a header block, in several frames if it is long or the script wants it.
    fn head(&self, fields: &[Field], ends: bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            hpack::encode(&mut block, name, value, self.script.compact);
        }
        let max_frame = self.link.with(|state| state.max_frame) - 256;
        let mut pieces = block.chunks(self.script.split.unwrap_or(max_frame).min(max_frame)).peekable();
        let mut bytes = Vec::new();
        let mut is_first = true;
        while let Some(piece) = pieces.next() {
            let mut flags = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
            if is_first {
                let (payload, padded) = frame::padded(piece, self.script.pad);
                flags |= padded | if ends { flag::END_STREAM } else { 0 };
                bytes.extend(frame::frame(kind::HEADERS, flags, self.stream(), &payload));
            } else {
                bytes.extend(frame::frame(kind::CONTINUATION, flags, self.stream(), piece));
            }
            is_first = false;
        }
        self.link.send(bytes);
    }

    /// Sends a part of the body, as fast as the client allows and the script wants.
    async fn data(&self, body: &[u8], ends: bool) -> Result<(), Gone> {
        let script = &self.script;
        let Some(pause) = script.drip.filter(|_| !body.is_empty()) else {
            return self.part(body, ends).await;
        };
        let size = body.len().div_ceil(script.pieces.div_ceil(2));
        let mut pieces = body.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            self.pause(pause.max(Duration::from_millis(1))).await?;
            self.part(piece, ends && pieces.peek().is_none()).await?;
        }
        Ok(())
    }

    async fn part(&self, mut rest: &[u8], ends: bool) -> Result<(), Gone> {
        let overhead = self.script.pad.map_or(0, |pad| usize::from(pad) + 1);
        if rest.is_empty() && !ends {
            return Ok(());
        }
        let changed = self.link.changed(self.stream())?;
        loop {
            let wanted = rest.len().min(self.script.frame.unwrap_or(usize::MAX));
            let now = self.link.take_window(self.stream(), wanted, overhead)?;
            if now == 0 && !rest.is_empty() {
                changed.notified().await;
                continue;
            }
            let (piece, others) = rest.split_at(now);
            rest = others;
            let (payload, padded) = frame::padded(piece, self.script.pad);
            let end = if ends && rest.is_empty() { flag::END_STREAM } else { 0 };
            self.link.send(frame::frame(kind::DATA, padded | end, self.stream(), &payload));
            if rest.is_empty() {
                return Ok(());
            }
            // Others come between the pieces, as they do when a server serves many.
            tokio::task::yield_now().await;
        }
    }
}
