//! Reads the input of a target. Seeds are texts: a byte that is a digit or a lower-case letter counts as a digit, from 0
//! to z, which is 35.
#![forbid(unsafe_code)]

/// The rest of an input. After its end it yields zeros.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        match first {
            b'0'..=b'9' => first - b'0',
            b'a'..=b'z' => first - b'a' + 10,
            byte => *byte,
        }
    }

    /// A number below `end`, from one byte.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// One of several values, chosen by one byte.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Up to the next such byte, which is left out, or to the end.
    pub fn until(&mut self, end: u8) -> &'a [u8] {
        let at = self.0.iter().position(|byte| *byte == end).unwrap_or(self.0.len());
        let (part, rest) = self.0.split_at(at);
        self.0 = rest.get(1..).unwrap_or(&[]);
        part
    }

    pub fn line(&mut self) -> &'a [u8] {
        self.until(b'\n')
    }

    /// All lines that are left; none if nothing is.
    pub fn lines(&mut self) -> Vec<&'a [u8]> {
        std::iter::from_fn(|| (!self.is_empty()).then(|| self.line())).collect()
    }

    /// A decimal number and the byte after it. A number with a minus is counted back from the largest number, as numbers near
    /// that would be rare otherwise.
    pub fn number(&mut self) -> usize {
        let minus = self.0.first() == Some(&b'-');
        self.0 = self.0.get(usize::from(minus)..).unwrap_or(&[]);
        let mut number = 0usize;
        while let Some((byte, rest)) = self.0.split_first() {
            self.0 = rest;
            match byte {
                b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(usize::from(byte - b'0')),
                _ => break,
            }
        }
        if minus {
            usize::MAX - number
        } else {
            number
        }
    }
}
