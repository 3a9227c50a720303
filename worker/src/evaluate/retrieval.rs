//! Image-text retrieval of two towers: whether an image finds one of its captions among those of all images, and a caption its image.
//! All captions of a sample take part. Ranks share what they embedded, so the result depends on the samples alone.
//!
//! I images, T texts, D width of an embedding.

use cappa_data::records::Record;
use cappa_shared::evaluation::{Finding, Recall, Retrieval};
use tch::{Device, Kind, Tensor};

use super::Evaluator;
use super::samples::Samples;
use crate::train::network::Candidates;
use crate::train::outcome::Departure;

/// Queries that are compared with everything at a time.
const BLOCK: i64 = 512;
/// Texts that are embedded at a time.
const TEXTS: usize = 64;

/// Embeds all images and captions, ranks them; gives the number of images and the recalls.
pub(super) fn retrieval(evaluator: &Evaluator<'_>, samples: &Samples) -> Result<(u64, Finding), Departure> {
    let model = &evaluator.state.model;
    let (mut images, mut texts, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let on_host = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Float);
    let suit = |record: &Record| (!record.captions.is_empty()).then(|| record.captions.clone());
    samples.chunks(evaluator, suit, |some, chunk| {
        images.push(on_host(model.encode(&some)?));
        let captions: Vec<String> = chunk.iter().flat_map(|(_, captions)| captions.clone()).collect();
        for some in captions.chunks(TEXTS) {
            let Candidates::Embedded(embedded) = model.candidates(evaluator.tokens(some)?, 1)? else {
                return Err(Departure::Unsuitable(
                    "retrieval needs two towers: use a job of `clip` or `siglip`".into(),
                ));
            };
            texts.push(on_host(embedded));
        }
        counts.extend(chunk.iter().map(|(_, captions)| captions.len() as i64));
        Ok(())
    })?;
    let width = i64::from(evaluator.assignment.spec.model.width);
    let rows = |mut parts: Vec<Tensor>| {
        parts.push(Tensor::zeros([0, width], (Kind::Float, Device::Cpu)));
        evaluator.gather_rows(&Tensor::cat(&parts, 0))
    };
    let (images, texts) = (rows(images)?, rows(texts)?);
    let lists = evaluator.gather(&serde_json::to_string(&counts).expect("numbers are plain data"))?;
    let lists = lists.iter().map(|list| serde_json::from_str::<Vec<i64>>(list));
    let counts = lists.collect::<Result<Vec<_>, _>>().expect("the ranks wrote them").concat();
    if counts.is_empty() {
        return Err(Departure::Unsuitable("no sample has a caption; see `cappactl data inspect`".to_owned()));
    }
    let owners: Vec<i64> = (0i64..).zip(&counts).flat_map(|(image, &count)| vec![image; count as usize]).collect();
    let found = Retrieval {
        image_to_text: recall(&images, &texts, &(0..counts.len() as i64).collect::<Vec<_>>(), &owners),
        text_to_image: recall(&texts, &images, &owners, &(0..counts.len() as i64).collect::<Vec<_>>()),
        texts: owners.len() as u64,
    };
    Ok((counts.len() as u64, Finding::Retrieval(found)))
}

/// How often something of the query's own owner is among the most similar 1, 5 and 10 of `others`. What is as similar as the best own one
/// comes before it: a network that embeds all alike finds nothing.
fn recall(queries: &Tensor, others: &Tensor, of_query: &[i64], of_other: &[i64]) -> Recall {
    let (of_query, of_other) = (Tensor::from_slice(of_query), Tensor::from_slice(of_other));
    let total = queries.size()[0];
    let mut within = [0.0; 3];
    for first in (0..total).step_by(BLOCK as usize) {
        let rows = BLOCK.min(total - first);
        let similarity = queries.narrow(0, first, rows).matmul(&others.transpose(0, 1));
        let is_own = of_query.narrow(0, first, rows).unsqueeze(1).eq_tensor(&of_other.unsqueeze(0));
        let best = similarity.masked_fill(&is_own.logical_not(), f64::NEG_INFINITY).amax([1i64].as_slice(), true);
        let before = similarity.ge_tensor(&best).logical_and(&is_own.logical_not());
        let before = before.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
        for (within, k) in within.iter_mut().zip([1, 5, 10]) {
            *within += before.lt(k).sum(Kind::Double).double_value(&[]);
        }
    }
    let [at_1, at_5, at_10] = within.map(|count| count / total as f64);
    Recall { at_1, at_5, at_10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_the_best_of_a_querys_own_and_ties_as_misses() {
        // Twelve one-hot images; image 0 has two texts, the second of which is its own direction.
        let images = Tensor::eye(12, (Kind::Float, Device::Cpu));
        let texts = Tensor::cat(&[images.narrow(0, 3, 1), images.shallow_clone()], 0);
        let owners: Vec<i64> = [0].into_iter().chain(0..12).collect();
        let own: Vec<i64> = (0..12).collect();
        let of_images = recall(&images, &texts, &own, &owners);
        // Image 3 is as similar to image 0's first text as to its own.
        assert!((of_images.at_1 - 11.0 / 12.0).abs() < 1e-9, "{of_images:?}");
        assert_eq!((of_images.at_5, of_images.at_10), (1.0, 1.0));
        let of_texts = recall(&texts, &images, &owners, &own);
        assert!((of_texts.at_1 - 12.0 / 13.0).abs() < 1e-9, "{of_texts:?}");
        let alike = Tensor::ones([12, 4], (Kind::Float, Device::Cpu));
        assert_eq!(recall(&alike, &alike, &own, &own), Recall { at_1: 0.0, at_5: 0.0, at_10: 0.0 });
    }
}
