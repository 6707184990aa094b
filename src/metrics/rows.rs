//! Where the cells of a server are. Each server has a row of seven lines of six cells. The first lines of many rows lie
//! together, and so do the second ones, ..:
//!
//! ```text
//!   a block     plane 0      line 0 of row 0, 1, .. 84     idle, active, opened, reused: what each connection counts
//!               plane 1      line 1 of row 0, 1, .. 84     what happens now and then
//!               ..           ..
//!               plane 6      line 6 of row 0, 1, .. 84
//! ```
//!
//! A plane is a page of memory, and memory that was never touched costs nothing; reading touches it too. So a server whose
//! connections stay open costs 48 bytes. The lines of a row are equally far from each other in each row: a reference to the first
//! cell is enough to find the others.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use crate::base::atomic::AtomicU64;

use super::{add, BEHIND, NOTE, PHASE_CELLS, SERVER_CELLS};

/// The cells of a line.
pub(super) const LINE: usize = 6;
/// The words of a plane: a page.
pub(super) const PLANE: usize = if cfg!(loom) { 4 * LINE } else { 512 };
/// The lines of a row.
const LINES: usize = SERVER_CELLS / LINE;
/// The rows of a block.
pub(super) const IN_BLOCK: usize = PLANE / LINE;
/// The words from the first cell of a row to its last one.
const SPAN: usize = word(SERVER_CELLS - 1) + 1;

/// The cells of a row, and those of other rows between them: see [`word`].
pub(super) type Row = [AtomicU64; SPAN];

/// Where a cell is in a row.
#[inline]
pub(super) const fn word(cell: usize) -> usize {
    cell / LINE * PLANE + cell % LINE
}

/// The numbers of a row without those that are no counters. Lines that were never touched are not read.
pub(super) fn numbers(row: &Row) -> [u64; SERVER_CELLS] {
    let mut numbers = [0; SERVER_CELLS];
    let cells = if row[BEHIND].load(Relaxed) == 0 { LINE } else { SERVER_CELLS };
    for (cell, number) in numbers.iter_mut().enumerate().take(cells) {
        *number = row[word(cell)].load(Relaxed);
    }
    (numbers[NOTE], numbers[BEHIND]) = (0, 0);
    numbers
}

/// How many connections a row has.
pub(super) fn connections(row: &Row) -> u64 {
    let numbers = numbers(row);
    PHASE_CELLS.iter().fold(0, |sum: u64, phase| sum.wrapping_add(numbers[*phase]))
}

/// Adds numbers to the cells of a row, of which this process is the only writer. Lines to which nothing is added stay untouched.
pub(super) fn add_all(row: &Row, numbers: &[u64; SERVER_CELLS]) {
    for (cell, number) in numbers.iter().enumerate().filter(|(_, number)| **number != 0) {
        add_to(row, cell, *number);
    }
}

/// Adds to a cell of a row, of which this process is the only writer.
#[inline]
pub(super) fn add_to(row: &Row, cell: usize, more: u64) {
    if cell >= LINE {
        row[BEHIND].store(1, Relaxed);
    }
    add(&row[word(cell)], more);
}

/// The words that rows of this number take.
pub(super) fn size(rows: usize) -> usize {
    let rest = match rows % IN_BLOCK {
        0 => 0,
        more => (LINES - 1) * PLANE + more * LINE,
    };
    rows / IN_BLOCK * LINES * PLANE + rest
}

/// The words that note which blocks are in use.
pub(super) fn notes(rows: usize) -> usize {
    rows.div_ceil(IN_BLOCK).div_ceil(BITS)
}

const BITS: usize = u64::BITS as usize;

/// The rows of a column.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// A bit for each block that is in use.
    notes: &'static [AtomicU64],
    words: &'static [AtomicU64],
}

impl Rows {
    /// `notes` are [`notes`] words, and `words` are [`size`] words, for the same number of rows.
    pub(super) fn new(notes: &'static [AtomicU64], words: &'static [AtomicU64]) -> Self {
        Self { notes, words }
    }

    /// A row to be written.
    pub(super) fn write(self, row: usize) -> Option<&'static Row> {
        let (note, bit) = self.note(row)?;
        if note.load(Relaxed) & bit == 0 {
            note.store(note.load(Relaxed) | bit, Relaxed);
        }
        self.get(row)
    }

    /// A row to be read. `None` if it was never written: it is all zeros.
    pub(super) fn read(self, row: usize) -> Option<&'static Row> {
        let (note, bit) = self.note(row)?;
        if note.load(Relaxed) & bit == 0 {
            return None;
        }
        self.get(row)
    }

    fn note(self, row: usize) -> Option<(&'static AtomicU64, u64)> {
        let block = row / IN_BLOCK;
        Some((self.notes.get(block / BITS)?, 1 << (block % BITS)))
    }

    fn get(self, row: usize) -> Option<&'static Row> {
        let at = row / IN_BLOCK * LINES * PLANE + row % IN_BLOCK * LINE;
        self.words.get(at..)?.first_chunk()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{End, Generation, Phase, Plan, ServerInfo, UpstreamInfo};
    use super::*;

    fn rows(number: usize) -> (Rows, &'static [AtomicU64]) {
        let zeros = |number| &*Vec::leak((0..number).map(|_| AtomicU64::new(0)).collect());
        let words: &'static [AtomicU64] = zeros(size(number));
        (Rows::new(zeros(notes(number)), words), words)
    }

    #[test]
    fn each_cell_of_each_row_has_a_word_of_its_own() {
        for number in [1, 2, IN_BLOCK - 1, IN_BLOCK, IN_BLOCK + 1, 3 * IN_BLOCK, 5000] {
            let (rows, words) = rows(number);
            for (row, cell) in (0..number).flat_map(|row| (0..SERVER_CELLS).map(move |cell| (row, cell))) {
                rows.write(row).unwrap()[word(cell)].fetch_add(1, Relaxed);
            }
            let used = words.iter().filter(|word| word.load(Relaxed) == 1).count();
            assert_eq!(used, number * SERVER_CELLS);
            assert!(words.iter().all(|word| word.load(Relaxed) <= 1));
        }
    }

    #[test]
    fn what_was_never_written_is_not_read() {
        let (rows, words) = rows(IN_BLOCK + 1);
        assert!(rows.read(0).is_none());
        words[0].store(7, Relaxed);
        assert!(rows.read(1).is_none());
        let row = rows.write(1).unwrap();
        assert_eq!(numbers(rows.read(0).unwrap())[0], 7);
        assert!(rows.read(IN_BLOCK).is_none());
        row[word(LINE)].store(7, Relaxed);
        assert_eq!(numbers(row), [0; SERVER_CELLS]);
        add_to(row, LINE + 1, 2);
        assert_eq!(numbers(row)[LINE..LINE + 2], [7, 2]);
        assert!(rows.write(2 * IN_BLOCK).is_none() && rows.write(usize::MAX).is_none());
    }

    /// The words of the pages that were touched, if each word that is not zero touches its page.
    fn touched(words: &[AtomicU64]) -> usize {
        words.chunks(PLANE).filter(|page| page.iter().any(|word| word.load(Relaxed) != 0)).count() * PLANE
    }

    #[test]
    fn servers_whose_connections_stay_open_take_a_line_each() {
        let server = |number: u32| {
            let address = number.to_ne_bytes().to_vec();
            ServerInfo { address, ..ServerInfo::default() }
        };
        let servers = (0..1000).map(server).collect();
        let plan = Plan::new(vec![UpstreamInfo { servers, ..UpstreamInfo::default() }], Vec::new());
        let words: &'static [AtomicU64] = Vec::leak((0..plan.memory(1)).map(|_| AtomicU64::new(0)).collect());
        let it = Generation::new(plan.clone(), 1, words, Box::new(()), None, |_| true).unwrap();
        let worker = it.enter(0, 1, |_| true).unwrap();
        let meters = plan.upstreams[0].servers.iter().map(|server| worker.upstreams[0].meter(server.address));
        let meters: Vec<_> = meters.map(Option::unwrap).collect();
        for meter in &meters {
            meter.open();
            meter.pass(Phase::Active, Phase::Idle);
            meter.reuse();
            meter.pass(Phase::Active, Phase::Idle);
            meter.note(7);
        }
        // The head, what is before the rows, and the first lines.
        assert_eq!(touched(words), 2 * PLANE + 1000usize.div_ceil(IN_BLOCK) * PLANE);
        let snapshot = Arc::new(it).snapshot(|_| true, &|_, _| None).unwrap();
        assert_eq!(
            snapshot.rows(0).unwrap().iter().map(|row| row.counters.phase(Phase::Idle)).sum::<u64>(),
            1000
        );
        meters[0].end(Phase::Idle, End::Timeout);
        assert_eq!(touched(words), 2 * PLANE + 1000usize.div_ceil(IN_BLOCK) * PLANE + PLANE);
    }
}
