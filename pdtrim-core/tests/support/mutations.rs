//! Seeds with a few bytes changed, without a fuzzer: the same on every run.

/// A generator of changes: `SplitMix64` (Steele, Lea and Flood 2014).
pub(crate) struct Mutations {
    state: u64,
}

impl Mutations {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// `seed` with one to four changes.
    pub(crate) fn of(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        const NUMBERS: [u64; 8] = [0, 1, 0x7f, 0xff, 1 << 16, 1 << 31, 1 << 40, u64::MAX];
        let at = self.below(bytes.len());
        let len = self.below(16).min(bytes.len() - at);
        match self.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 if at < bytes.len() => bytes[at] = self.next() as u8,
            3 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            4 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_string();
                let number = number.into_bytes();
                // In place of a number, where there is one after this.
                let digit = bytes[at..].iter().position(u8::is_ascii_digit);
                let start = at + digit.unwrap_or(0);
                let digits = bytes[start..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit());
                let end = start + digits.count();
                bytes.splice(start..end, number);
            }
            5 => drop(bytes.drain(at..at + len)),
            6 => {
                let again = bytes[at..at + len].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, again);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
}
