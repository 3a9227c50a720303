//! Numbers in few bits: the [Elias gamma code](https://doi.org/10.1109/TIT.1975.1055349), most significant bit first.

/// Writes bits, the first into the most significant place of the first byte.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits used of the last byte; 0 where there is none or it is full.
    used: u8,
}

impl BitWriter {
    pub(super) fn bit(&mut self, bit: bool) {
        if self.used == 0 {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (7 - self.used);
        }
        self.used = (self.used + 1) % 8;
    }

    /// Writes `value`, which is not 0: as many zeros as it has bits after the first, then its bits.
    pub(super) fn gamma(&mut self, value: u32) {
        let bits = value.ilog2();
        (0..bits).for_each(|_| self.bit(false));
        (0..=bits).rev().for_each(|place| self.bit(value >> place & 1 == 1));
    }

    /// What was written, the last byte filled up with zeros.
    pub(super) fn into_bytes(self) -> Box<[u8]> {
        self.bytes.into_boxed_slice()
    }
}

/// Reads what [`BitWriter`] wrote.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, next: 0 }
    }

    /// The next bit; nothing at the end.
    pub(super) fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.next / 8)?;
        let bit = byte >> (7 - self.next % 8) & 1 == 1;
        self.next += 1;
        Some(bit)
    }

    /// The next number; nothing at the end, and where only the zeros are left that fill the last byte.
    pub(super) fn gamma(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        (0..zeros).try_fold(1u32, |value, _| Some(value << 1 | u32::from(self.bit()?)))
    }
}
