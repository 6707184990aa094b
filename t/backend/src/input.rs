//! Buffered reading with a bound, for all protocols.

use std::io;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::address::Stream;

/// No request head or record that nginx sends is longer.
const MAX_BUFFERED: usize = 256 * 1024;

/// So much of a request is remembered for `/last`.
const MAX_TAKEN: usize = 64 * 1024;

/// A connection and what has been read from it but not yet consumed.
pub struct Input {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// What has been consumed since this was asked for, or the beginning of that.
    taken: Vec<u8>,
}

impl Input {
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, buffer: Vec::new(), taken: Vec::new() }
    }

    /// A connection of which these bytes have been read already.
    pub fn with(stream: Box<dyn Stream>, buffer: Vec<u8>) -> Self {
        Self { stream, buffer, taken: Vec::new() }
    }

    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// What has been consumed since the last call.
    pub fn taken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.taken)
    }

    /// Consumes the first `length` bytes of the buffer.
    fn consume(&mut self, length: usize) {
        let room = MAX_TAKEN - self.taken.len();
        self.taken.extend_from_slice(&self.buffer[..length.min(room)]);
        self.buffer.drain(..length);
    }

    pub fn output(&mut self) -> &mut dyn Stream {
        &mut *self.stream
    }

    /// Whether there is something to be read, or the end, as the kernel knows.
    pub fn is_readable(&self) -> bool {
        let Ok(socket) = self.stream.duplicate() else { return false };
        let mut polled = [PollFd::new(&socket, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    pub fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }

    /// Reads some more; `Ok(false)` at the end of the stream.
    pub async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.len() >= MAX_BUFFERED {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request head too long"));
        }
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// Takes exactly `length` bytes, or `None` if the stream ends earlier.
    pub async fn take(&mut self, length: usize) -> io::Result<Option<Vec<u8>>> {
        while self.buffer.len() < length {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        let bytes = self.buffer[..length].to_vec();
        self.consume(length);
        Ok(Some(bytes))
    }

    /// Takes everything up to and including `mark`, or `None` if the stream ends earlier.
    pub async fn take_until(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return self.take(at + mark.len()).await;
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Throws `length` bytes away, holding no more than one read of them; `Ok(false)` if the stream ends earlier.
    pub async fn skip(&mut self, mut length: u64) -> io::Result<bool> {
        loop {
            let now = length.min(self.buffer.len() as u64);
            self.consume(now as usize);
            length -= now;
            if length == 0 {
                return Ok(true);
            }
            if !self.fill().await? {
                return Ok(false);
            }
        }
    }

    /// Reads and forgets until the peer closes.
    pub async fn skip_to_end(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            if !self.fill().await? {
                return Ok(());
            }
        }
    }

    /// Sends back what comes until the peer closes.
    pub async fn echo(&mut self) -> io::Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.buffer);
            self.stream.write_all(&bytes).await?;
            if !self.fill().await? {
                return Ok(());
            }
        }
    }
}
