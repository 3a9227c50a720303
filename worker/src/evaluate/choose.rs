//! The right caption against a false one (as ARO and SugarCrepe do): which suits the image better.

use cappa_shared::evaluation::Finding;
use tch::{Device, Kind, Tensor};

use super::samples::{Samples, add_images, field};
use super::{Evaluator, accuracy};
use crate::train::outcome::Departure;

/// Pairs that the blind decoder scores at a time.
const CHUNK: usize = 256;

/// Compares each sample's first caption with its false one; a tie is a mistake.
pub(super) fn choose(
    evaluator: &Evaluator<'_>,
    samples: &Samples,
    negative: &str,
) -> Result<(u64, Finding), Departure> {
    let model = &evaluator.state.model;
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut right = 0f64;
    let mut images_sum = None;
    let suit = |record: &cappa_data::records::Record| {
        Some((record.captions.first()?.clone(), field(record, negative)?.to_owned()))
    };
    samples.chunks(suit, |images, chunk| {
        add_images(&mut images_sum, &images);
        let texts: Vec<_> = chunk.into_iter().map(|(_, pair)| pair).collect();
        let encoded = model.encode(&images)?;
        right += prefer_right(evaluator, &encoded, &texts)?;
        pairs.extend(texts);
        Ok(())
    })?;

    let size = i64::from(evaluator.assignment.spec.data.image_size);
    let images_sum = images_sum.unwrap_or_else(|| Tensor::zeros([size, size, 3], (Kind::Double, Device::Cpu)));
    let mean = evaluator.encode_mean(&images_sum, pairs.len() as i64)?;
    let mut blind = 0f64;
    for some in pairs.chunks(CHUNK) {
        let mut size = mean.size();
        size[0] = some.len() as i64;
        let encoded = mean.expand(size, false);
        blind += prefer_right(evaluator, &encoded, some)?;
    }
    let sums = evaluator.sum(&[right, blind, pairs.len() as f64])?;
    if sums[2] == 0.0 {
        return Err(Departure::Unsuitable(format!(
            "no sample has the field `{negative}`; see `cappactl data inspect`"
        )));
    }
    Ok((sums[2] as u64, Finding::Choose(accuracy(sums[0], sums[1], sums[2], 2))))
}

/// How many encoded images suit the first of their two captions better.
fn prefer_right(evaluator: &Evaluator<'_>, encoded: &Tensor, pairs: &[(String, String)]) -> Result<f64, Departure> {
    let score = |texts: Vec<&str>| -> Result<Tensor, Departure> {
        Ok(evaluator.state.model.agreement(encoded, &evaluator.tokens(&texts)?)?)
    };
    let right = score(pairs.iter().map(|(right, _)| right.as_str()).collect())?;
    let wrong = score(pairs.iter().map(|(_, wrong)| wrong.as_str()).collect())?;
    Ok(right.gt_tensor(&wrong).sum(Kind::Double).double_value(&[]))
}
