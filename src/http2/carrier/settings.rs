//! The settings of both sides (RFC 9113, section 6.5.2).
#![forbid(unsafe_code)]

use super::fault::Fault;
use super::frame::{DEFAULT_WINDOW, LARGEST, LONGEST};
use super::limits::{GUESS, HEADER_LIST, SMALL_WINDOW};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// The length of one setting, in bytes.
pub(super) const SETTING: usize = 6;

/// Our settings. There is no dynamic table, so that header blocks of streams that have ended need not be decoded.
pub(super) fn ours() -> [u8; 4 * SETTING] {
    let mut payload = [0; 4 * SETTING];
    let settings = [
        (HEADER_TABLE_SIZE, 0),
        (ENABLE_PUSH, 0),
        (INITIAL_WINDOW_SIZE, SMALL_WINDOW),
        (MAX_HEADER_LIST_SIZE, HEADER_LIST as u32),
    ];
    for (place, (setting, value)) in payload.chunks_exact_mut(SETTING).zip(settings) {
        place[..2].copy_from_slice(&setting.to_be_bytes());
        place[2..].copy_from_slice(&value.to_be_bytes());
    }
    payload
}

/// The settings of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Whether the server has sent any.
    pub(super) is_known: bool,
    /// How many streams may be open. A guess until the server has said it.
    pub(super) streams: u32,
    /// The window of a new stream, in bytes.
    pub(super) window: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { is_known: false, streams: GUESS, window: DEFAULT_WINDOW }
    }
}

impl Settings {
    /// What holds at the end of SETTINGS that do not say anything: at first that there is no limit of streams.
    pub(super) fn or_defaults(self) -> Self {
        let streams = if self.is_known { self.streams } else { u32::MAX };
        Self { is_known: true, streams, ..self }
    }

    /// Reads one setting. Those that bind only servers, or ask for what is done anyway, are ignored: no dynamic table is used, and
    /// no frame is longer than the smallest limit.
    ///
    /// # Errors
    /// If the value is not allowed.
    pub(super) fn read(&mut self, bytes: [u8; SETTING]) -> Result<(), Fault> {
        let [high, low, value @ ..] = bytes;
        let (setting, value) = (u16::from_be_bytes([high, low]), u32::from_be_bytes(value));
        match setting {
            ENABLE_PUSH if value != 0 => return Err(Fault::Setting(setting)),
            MAX_CONCURRENT_STREAMS => self.streams = value,
            INITIAL_WINDOW_SIZE if value > LARGEST => return Err(Fault::InitialWindow),
            INITIAL_WINDOW_SIZE => self.window = value,
            MAX_FRAME_SIZE if !(LONGEST as u32..1 << 24).contains(&value) => {
                return Err(Fault::Setting(setting))
            }
            _ => {}
        }
        Ok(())
    }
}
