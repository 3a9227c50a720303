//! A keyed permutation of `0..n` that needs no table.

use super::draw::mix;

/// Rounds of the network. Four make a generalised Feistel network pseudo-random in theory; two more cost little and help
/// the tiny domains that a corpus of a few shards has.
const ROUNDS: u64 = 6;

/// A pseudo-random permutation of `0..len`, chosen by a key, computed at any point in constant time and memory.
///
/// A Feistel network over the rectangle `rows × columns` that is just larger than the domain; values that fall outside
/// are sent through again until they fall inside (cycle walking), which stays a bijection. After Black and Rogaway,
/// "Ciphers with Arbitrary Finite Domains", 2002.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    key: u64,
    len: u64,
    rows: u64,
    columns: u64,
}

impl Permutation {
    /// The permutation of `0..len` that `key` names.
    pub fn new(key: u64, len: u64) -> Self {
        let mut rows = len.isqrt();
        if rows * rows < len {
            rows += 1;
        }
        let rows = rows.max(1);
        Self { key, len, rows, columns: len.div_ceil(rows).max(1) }
    }

    /// Where `position` goes. `position` must be below the length.
    pub fn apply(&self, position: u64) -> u64 {
        assert!(position < self.len, "position {position} is outside a permutation of {}", self.len);
        let mut value = self.network(position);
        // The rectangle exceeds the domain by less than one row, so this loop seldom runs.
        while value >= self.len {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let (mut row, mut column) = (value / self.columns, value % self.columns);
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                row = (row + self.round(round, column, self.rows)) % self.rows;
            } else {
                column = (column + self.round(round, row, self.columns)) % self.columns;
            }
        }
        row * self.columns + column
    }

    /// A keyed value in `0..bound`.
    fn round(&self, round: u64, half: u64, bound: u64) -> u64 {
        scale(mix(mix(self.key, round), half), bound)
    }
}

/// Maps a uniform 64-bit value to `0..bound` by its high bits.
pub(super) fn scale(uniform: u64, bound: u64) -> u64 {
    let wide = u128::from(uniform) * u128::from(bound);
    u64::try_from(wide >> 64).expect("the high half of a product of two 64-bit values has 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_is_reached_once(key: u64, len in 1u64..3000) {
            let permutation = Permutation::new(key, len);
            let mut seen = vec![false; usize::try_from(len).unwrap()];
            for position in 0..len {
                let value = usize::try_from(permutation.apply(position)).unwrap();
                prop_assert!(!seen[value], "{value} came twice");
                seen[value] = true;
            }
        }
    }

    #[test]
    fn the_first_element_goes_everywhere_equally_often() {
        for len in [2u64, 3, 5, 8, 17] {
            let keys = 20_000u64;
            let mut counts = vec![0u64; usize::try_from(len).unwrap()];
            for key in 0..keys {
                counts[usize::try_from(Permutation::new(mix(7, key), len).apply(0)).unwrap()] += 1;
            }
            let expected = keys as f64 / len as f64;
            for count in counts {
                let deviation = (count as f64 - expected).abs() / expected.sqrt();
                assert!(deviation < 5.0, "len {len}: {count} where {expected} was expected");
            }
        }
    }

    #[test]
    fn huge_domains_work() {
        let len = 1u64 << 40;
        let permutation = Permutation::new(3, len);
        assert!((0..1000).map(|position| permutation.apply(position)).all(|value| value < len));
    }
}
