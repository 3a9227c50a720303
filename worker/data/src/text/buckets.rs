//! Lengths that texts are padded to.

/// A few lengths; the texts of a batch are padded to the smallest that holds the longest of them. So short captions cost little,
/// and the model sees few shapes.
///
/// The loss of a text of tokens t₁ … tₙ is −1/n · Σᵢ log p(tᵢ | image, what position i sees), whatever its padding. In autoregressive
/// mode position i sees t₁ … tᵢ₋₁, so the loss and its gradients are those of any length L ≥ n. In parallel mode position i sees
/// mask tokens at all of 1 … L, padding included (the authors mask no padding): another L is another function, and the update would
/// depend on which texts a rank has together. So parallel examples always have the longest length, and only autoregressive ones
/// are cut, which is exact up to rounding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// Rising.
    lengths: Vec<usize>,
}

/// Lengths that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketsError {
    /// There is none.
    #[error("there must be at least one text length")]
    Empty,
    /// A text of length 0 has no end.
    #[error("a text length must be at least 1")]
    Zero,
    /// Too many shapes.
    #[error("there may be at most {most} text lengths, not {0}", most = Buckets::MOST)]
    TooMany(usize),
}

impl Buckets {
    /// The most lengths that a job may have.
    pub const MOST: usize = 16;

    /// Buckets of these lengths, in any order.
    ///
    /// # Errors
    /// [`BucketsError`].
    pub fn new(mut lengths: Vec<usize>) -> Result<Self, BucketsError> {
        lengths.sort_unstable();
        lengths.dedup();
        match lengths.len() {
            0 => Err(BucketsError::Empty),
            _ if lengths[0] == 0 => Err(BucketsError::Zero),
            count if count > Self::MOST => Err(BucketsError::TooMany(count)),
            _ => Ok(Self { lengths }),
        }
    }

    /// The largest length, to which longer texts are cut.
    pub fn longest(&self) -> usize {
        self.lengths[self.lengths.len() - 1]
    }

    /// How many lengths there are.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// The length for texts of which the longest has `longest` tokens, its end included.
    pub fn of(&self, longest: usize) -> usize {
        self.lengths.iter().copied().find(|&length| length >= longest).unwrap_or(self.longest())
    }

    /// The length for these texts, each followed by `pad` to its end.
    pub fn holding<'a>(&self, texts: impl Iterator<Item = &'a [i64]>, pad: i64) -> usize {
        let used = |text: &[i64]| text.iter().rposition(|&token| token != pad).map_or(0, |last| last + 1);
        self.of(texts.map(used).max().unwrap_or(0))
    }

    /// Cuts padding off the texts of a batch, `[B, length]`, so that they become `[B, l]` with the smallest length of the
    /// buckets that holds all of them; gives `l`. What follows a text's end must be `pad`.
    pub fn trim(&self, tokens: &mut Vec<i64>, length: usize, pad: i64) -> usize {
        if length == 0 {
            return length;
        }
        let shorter = self.holding(tokens.chunks_exact(length), pad).min(length);
        if shorter < length {
            let rows = tokens.len() / length;
            for row in 1..rows {
                tokens.copy_within(row * length..row * length + shorter, row * shorter);
            }
            tokens.truncate(rows * shorter);
        }
        shorter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_padded_to_the_smallest_length_that_holds_it() {
        let buckets = Buckets::new(vec![8, 2, 4, 4]).unwrap();
        assert_eq!([0, 1, 2, 3, 4, 5, 8, 9].map(|longest| buckets.of(longest)), [2, 2, 2, 4, 4, 8, 8, 8]);
        let mut tokens = vec![5, 1, 0, 0, 0, 0, 0, 0, 7, 8, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(buckets.trim(&mut tokens, 8, 0), 4);
        assert_eq!(tokens, [5, 1, 0, 0, 7, 8, 1, 0, 1, 0, 0, 0]);
        assert_eq!(buckets.trim(&mut tokens, 4, 0), 4);
        assert_eq!(tokens.len(), 12);
    }

    #[test]
    fn lengths_that_make_no_sense_are_refused() {
        assert_eq!(Buckets::new(vec![]), Err(BucketsError::Empty));
        assert_eq!(Buckets::new(vec![0, 4]), Err(BucketsError::Zero));
        assert_eq!(Buckets::new((1..18).collect()), Err(BucketsError::TooMany(17)));
    }
}
