//! The right caption against false ones (as ARO and SugarCrepe do): which suits the image better.

use cappa_data::records::Record;
use cappa_shared::evaluation::Finding;
use cappa_shared::order::Permutation;
use tch::{Kind, Tensor};

use super::samples::{Samples, add_images, texts};
use super::{Evaluator, accuracy};
use crate::train::outcome::Departure;

/// Pairs that are scored at a time.
const CHUNK: usize = 256;

/// Which captions are compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    /// Field of the true one; the sample's first caption when absent.
    pub caption: Option<&'a str>,
    /// Field of the false one or of a list of them; the true one's words in another order when absent.
    pub negative: Option<&'a str>,
}

/// A sample's captions.
struct Pair {
    right: String,
    wrong: Vec<String>,
}

impl Choice<'_> {
    fn of(&self, record: &Record) -> Option<Pair> {
        let right = match self.caption {
            Some(place) => texts(record, place).into_iter().next()?,
            None => record.captions.first()?.clone(),
        };
        let wrong = match self.negative {
            Some(place) => texts(record, place),
            None => shuffled(&right, record.number).into_iter().collect(),
        };
        (!wrong.is_empty()).then_some(Pair { right, wrong })
    }
}

/// The words of a caption in another order, drawn by the sample's number; nothing where there is no other.
fn shuffled(caption: &str, number: u64) -> Option<String> {
    /// Draws that may give the caption again before it is given up.
    const DRAWS: u64 = 16;
    let words: Vec<&str> = caption.split_whitespace().collect();
    (0..DRAWS).find_map(|draw| {
        let order = Permutation::new(number * DRAWS + draw, words.len() as u64);
        let other: Vec<&str> = (0..words.len() as u64).map(|place| words[order.apply(place) as usize]).collect();
        (other != words).then(|| other.join(" "))
    })
}

/// Compares each sample's caption with its false ones; a tie is a mistake. Only captioners have a blind decoder: what two towers make of
/// a text without its image is no likelihood.
pub(super) fn choose(
    evaluator: &Evaluator<'_>,
    samples: &Samples,
    choice: Choice<'_>,
) -> Result<(u64, Finding), Departure> {
    let model = &evaluator.state.model;
    let (mut pairs, mut images_sum) = (Vec::new(), None);
    let mut right = 0f64;
    samples.chunks(
        evaluator,
        |record| choice.of(record),
        |images, chunk| {
            add_images(&mut images_sum, &images);
            let chunk: Vec<Pair> = chunk.into_iter().map(|(_, pair)| pair).collect();
            right += prefer_right(evaluator, &model.encode(&images)?, &chunk)?;
            pairs.extend(chunk);
            Ok(())
        },
    )?;
    let mut blind = 0f64;
    if model.captioner().is_some() {
        let mean = evaluator.encode_mean(images_sum, pairs.len() as i64)?;
        for some in pairs.chunks(CHUNK) {
            let mut size = mean.size();
            size[0] = some.len() as i64;
            blind += prefer_right(evaluator, &mean.expand(size, false), some)?;
        }
    }
    let chance: f64 = pairs.iter().map(|pair| 1.0 / (1 + pair.wrong.len()) as f64).sum();
    let captions: usize = pairs.iter().map(|pair| 1 + pair.wrong.len()).sum();
    let sums = evaluator.sum(&[right, blind, pairs.len() as f64, chance, captions as f64])?;
    if sums[2] == 0.0 {
        let wanted = match (choice.caption, choice.negative) {
            (Some(caption), Some(negative)) => format!("the fields `{caption}` and `{negative}`"),
            (_, Some(field)) | (Some(field), None) => format!("the field `{field}`"),
            (None, None) => "a caption of several words".to_owned(),
        };
        return Err(Departure::Unsuitable(format!("no sample has {wanted}; see `cappactl data inspect`")));
    }
    let blind = model.captioner().map(|_| sums[1]);
    let labels = (sums[4] / sums[2]).round() as usize;
    let accuracy =
        cappa_shared::evaluation::Accuracy { chance: sums[3] / sums[2], ..accuracy(sums[0], blind, sums[2], labels) };
    Ok((sums[2] as u64, Finding::Choose(accuracy)))
}

/// How many encoded images suit their right caption better than each of the false ones.
fn prefer_right(evaluator: &Evaluator<'_>, encoded: &Tensor, pairs: &[Pair]) -> Result<f64, Departure> {
    let score = |encoded: &Tensor, texts: &[&str]| -> Result<Tensor, Departure> {
        Ok(evaluator.state.model.agreement(encoded, &evaluator.tokens(texts)?)?)
    };
    let right = score(encoded, &pairs.iter().map(|pair| pair.right.as_str()).collect::<Vec<_>>())?;
    let mut is_right = Tensor::ones([pairs.len() as i64], (Kind::Bool, right.device()));
    // One false caption of each at a time: most sets have one, and no two of a sample need be together.
    for nth in 0..pairs.iter().map(|pair| pair.wrong.len()).max().unwrap_or_default() {
        let have: Vec<usize> = (0..pairs.len()).filter(|&place| pairs[place].wrong.len() > nth).collect();
        let rows =
            Tensor::from_slice(&have.iter().map(|&place| place as i64).collect::<Vec<_>>()).to_device(right.device());
        let wrong: Vec<&str> = have.iter().map(|&place| pairs[place].wrong[nth].as_str()).collect();
        let wrong = score(&encoded.index_select(0, &rows), &wrong)?;
        let is_better = right.index_select(0, &rows).gt_tensor(&wrong);
        is_right = is_right.index_copy(0, &rows, &is_right.index_select(0, &rows).logical_and(&is_better));
    }
    Ok(is_right.sum(Kind::Double).double_value(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_put_in_another_order_that_the_sample_alone_decides() {
        let caption = "a red star left of a blue ring";
        let orders: Vec<_> = (0..20).filter_map(|number| shuffled(caption, number)).collect();
        assert_eq!(orders.len(), 20);
        for (number, order) in (0..).zip(&orders) {
            assert_ne!(order, caption);
            assert_eq!(Some(order), shuffled(caption, number).as_ref());
            let sorted = |text: &str| {
                let mut words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
                words.sort_unstable();
                words
            };
            assert_eq!(sorted(order), sorted(caption));
        }
        assert!(orders.iter().any(|order| *order != orders[0]));
        assert_eq!(shuffled("star", 0), None);
        assert_eq!(shuffled("star star", 0), None);
    }
}
