//! How well captions match references: BLEU (Papineni et al., ACL 2002) and CIDEr-D (Vedantam et al., arXiv 1411.5726), as
//! `pycocoevalcap` computes them, but for its tokenizer: words here are runs of letters and digits, in small letters.

use std::collections::{HashMap, HashSet};

use cappa_shared::evaluation::CaptionScores;

/// n-grams of one word to so many are counted.
const LONGEST: usize = 4;
/// Width of CIDEr-D's penalty for captions of another length.
const SIGMA: f64 = 6.0;

/// A caption and what people wrote of the same picture.
#[derive(Debug)]
pub(super) struct Judged {
    candidate: Vec<String>,
    references: Vec<Vec<String>>,
}

impl Judged {
    /// Needs at least one reference.
    pub(super) fn new<S: AsRef<str>>(candidate: &str, references: &[S]) -> Self {
        let references = references.iter().map(|reference| words(reference.as_ref())).collect();
        Self { candidate: words(candidate), references }
    }
}

/// The scores of a set; none of an empty one.
pub(super) fn scores(set: &[Judged]) -> Option<CaptionScores> {
    let each = cider_d(set);
    let cider_d = each.iter().sum::<f64>() / each.len() as f64;
    (!set.is_empty()).then(|| CaptionScores { bleu_4: bleu(set)[LONGEST - 1], cider_d })
}

fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '\''));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

type Counts<'a> = HashMap<&'a [String], f64>;

/// How often each n-gram of 1 to [`LONGEST`] words occurs.
fn ngrams(words: &[String]) -> Counts<'_> {
    let mut counts = Counts::new();
    for ngram in (1..=LONGEST).flat_map(|n| words.windows(n)) {
        *counts.entry(ngram).or_default() += 1.0;
    }
    counts
}

/// BLEU-1 to BLEU-4 of the whole set, with the closest reference's length.
fn bleu(set: &[Judged]) -> [f64; LONGEST] {
    let (mut length, mut wanted_length) = (0usize, 0usize);
    let (mut guessed, mut right) = ([0.0; LONGEST], [0.0; LONGEST]);
    for Judged { candidate, references } in set {
        length += candidate.len();
        let lengths = references.iter().map(Vec::len);
        wanted_length += lengths.min_by_key(|&of| (of.abs_diff(candidate.len()), of)).unwrap_or_default();
        let references: Vec<_> = references.iter().map(|reference| ngrams(reference)).collect();
        for (ngram, count) in ngrams(candidate) {
            let most = references.iter().filter_map(|reference| reference.get(ngram)).copied().fold(0.0, f64::max);
            guessed[ngram.len() - 1] += count;
            right[ngram.len() - 1] += count.min(most);
        }
    }
    // So small that only the absence of all n-grams is seen.
    const TINY: f64 = 1e-15;
    const SMALL: f64 = 1e-9;
    let ratio = (length as f64 + TINY) / (wanted_length as f64 + SMALL);
    let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|place| {
        product *= (right[place] + TINY) / (guessed[place] + SMALL);
        product.powf(1.0 / (place + 1) as f64) * brevity
    })
}

/// A caption as weights of its n-grams: rare ones, by the number of pictures whose references have them, weigh more.
struct Weighted<'a> {
    weights: HashMap<&'a [String], f64>,
    norms: [f64; LONGEST],
    /// In pairs of words.
    length: f64,
}

impl<'a> Weighted<'a> {
    /// `frequency`: in how many of the pictures' references an n-gram is.
    fn new(words: &'a [String], frequency: &Counts<'_>, pictures: usize) -> Self {
        let mut weighted = Self { weights: HashMap::new(), norms: [0.0; LONGEST], length: 0.0 };
        for (ngram, count) in ngrams(words) {
            let common = frequency.get(ngram).copied().unwrap_or(1.0);
            let weight = count * ((pictures as f64).ln() - common.ln());
            weighted.norms[ngram.len() - 1] += weight * weight;
            weighted.length += if ngram.len() == 2 { count } else { 0.0 };
            weighted.weights.insert(ngram, weight);
        }
        weighted.norms = weighted.norms.map(f64::sqrt);
        weighted
    }
}

/// CIDEr-D of each caption.
fn cider_d(set: &[Judged]) -> Vec<f64> {
    let mut frequency = Counts::new();
    for Judged { references, .. } in set {
        let seen: HashSet<&[String]> = references.iter().flat_map(|reference| ngrams(reference).into_keys()).collect();
        seen.into_iter().for_each(|ngram| *frequency.entry(ngram).or_default() += 1.0);
    }
    let each = set.iter().map(|Judged { candidate, references }| {
        let candidate = Weighted::new(candidate, &frequency, set.len());
        let of = |reference: &Vec<String>| similarity(&candidate, &Weighted::new(reference, &frequency, set.len()));
        let sum: f64 = references.iter().map(of).sum();
        10.0 * sum / references.len() as f64
    });
    each.collect()
}

/// The mean over n of the cosines of n-grams; a candidate gains nothing by saying things more often than the reference.
fn similarity(candidate: &Weighted<'_>, reference: &Weighted<'_>) -> f64 {
    let mut products = [0.0; LONGEST];
    for (ngram, &weight) in &candidate.weights {
        let wanted = reference.weights.get(ngram).copied().unwrap_or_default();
        products[ngram.len() - 1] += weight.min(wanted) * wanted;
    }
    let difference = candidate.length - reference.length;
    let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
    let cosines = products.iter().zip(candidate.norms.iter().zip(&reference.norms)).map(|(product, (a, b))| {
        let norms = a * b;
        if norms > 0.0 { product / norms } else { *product }
    });
    penalty * cosines.sum::<f64>() / LONGEST as f64
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What reference.py, beside it, printed: pycocoevalcap 1.2.
    const REFERENCE: &str = include_str!("scores/reference.json");

    #[derive(Deserialize)]
    struct Reference {
        samples: Vec<Sample>,
        bleu: [f64; LONGEST],
        cider_d: f64,
        cider_d_of_each: Vec<f64>,
    }

    #[derive(Deserialize)]
    struct Sample {
        candidate: String,
        references: Vec<String>,
    }

    #[test]
    fn scores_are_those_of_pycocoevalcap() {
        let reference: Reference = serde_json::from_str(REFERENCE).unwrap();
        let samples = reference.samples.iter();
        let set: Vec<_> = samples.map(|sample| Judged::new(&sample.candidate, &sample.references)).collect();
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found}, not {wanted}");
        bleu(&set).into_iter().zip(reference.bleu).for_each(|(found, wanted)| near(found, wanted));
        let each = cider_d(&set);
        assert_eq!(each.len(), reference.cider_d_of_each.len());
        each.into_iter().zip(reference.cider_d_of_each).for_each(|(found, wanted)| near(found, wanted));
        let found = scores(&set).unwrap();
        near(found.cider_d, reference.cider_d);
        near(found.bleu_4, reference.bleu[3]);
        assert_eq!(scores(&[]), None);
    }

    #[test]
    fn capitals_and_punctuation_do_not_count() {
        assert_eq!(words("A dog's ball, (red)."), ["a", "dog's", "ball", "red"]);
    }
}
