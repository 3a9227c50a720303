//! How well the decoder predicts held-out captions, token by token.

use cappa_data::records::Record;
use cappa_model::PAD;
use cappa_shared::evaluation::{Finding, Perplexity};
use tch::{Kind, Tensor};

use super::Evaluator;
use super::samples::{Samples, add_images};
use crate::train::outcome::Departure;

/// Captions that the blind decoder scores at a time.
const CHUNK: usize = 64;

/// Scores the first caption of every sample; gives the number of samples and the mean over all their tokens.
pub(super) fn perplexity(evaluator: &Evaluator<'_>, samples: &Samples) -> Result<(u64, Finding), Departure> {
    let model = evaluator.decoder()?;
    let (mut captions, mut images_sum) = (Vec::new(), None);
    let (mut nll, mut tokens) = (0.0, 0.0);
    let loss = |encoded: &Tensor, captions: &[String]| -> Result<(f64, f64), Departure> {
        let ids = evaluator.tokens(captions)?;
        let count = ids.gt(PAD).sum(Kind::Double).double_value(&[]);
        Ok((-model.log_likelihood(encoded, &ids)?.sum(Kind::Double).double_value(&[]), count))
    };
    samples.chunks(
        evaluator,
        |record: &Record| record.captions.first().cloned(),
        |images, chunk| {
            add_images(&mut images_sum, &images);
            let chunk: Vec<String> = chunk.into_iter().map(|(_, caption)| caption).collect();
            let (of_chunk, count) = loss(&tch::no_grad(|| model.encode(&images))?, &chunk)?;
            (nll, tokens) = (nll + of_chunk, tokens + count);
            captions.extend(chunk);
            Ok(())
        },
    )?;
    let mean = evaluator.encode_mean(images_sum, captions.len() as i64)?;
    let mut blind = 0.0;
    for some in captions.chunks(CHUNK) {
        let mut size = mean.size();
        size[0] = some.len() as i64;
        blind += loss(&mean.expand(size, false), some)?.0;
    }
    let sums = evaluator.sum(&[nll, blind, tokens, captions.len() as f64])?;
    if sums[2] == 0.0 {
        return Err(Departure::Unsuitable("no sample has a caption; see `cappactl data inspect`".to_owned()));
    }
    let (nll, blind_nll) = (sums[0] / sums[2], sums[1] / sums[2]);
    let finding = Perplexity { nll, perplexity: nll.exp(), blind_nll, tokens: sums[2] as u64 };
    Ok((sums[3] as u64, Finding::Perplexity(finding)))
}
