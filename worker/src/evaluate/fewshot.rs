//! Few-shot linear classification of frozen features, as the authors evaluate encoders: a ridge regression in closed form on a
//! few labelled examples of each class. Which ones is drawn by key, so it depends neither on ranks nor on what was drawn before.
//!
//! N examples, D features, C classes.

use std::collections::BTreeSet;

use cappa_collective::Op;
use cappa_model::fewshot::FewShot;
use cappa_shared::evaluation::{Finding, Shots};
use cappa_shared::order::Permutation;
use tch::{Device, Kind, Tensor};

use super::samples::{Samples, add_images, field};
use super::{Evaluator, accuracy};
use crate::train::network::Features;
use crate::train::outcome::Departure;

/// Strength of the regularisation (the authors' setting).
const L2: f64 = 1024.0;

/// Features `[N, D]` of all ranks' samples, on the CPU, and their labels.
struct Labelled {
    features: Tensor,
    labels: Vec<String>,
}

/// Trains on a few samples of `train`, tests on all of `test`; gives the number of test samples and the accuracies.
pub(super) fn fewshot(
    evaluator: &Evaluator<'_>,
    (train, test): (&Samples, &Samples),
    key: &str,
    shots: &[u32],
    draws: u32,
) -> Result<(u64, Finding), Departure> {
    let mut images_sum = None;
    let train = labelled(evaluator, train, key, |_| {})?;
    let mut mine = 0;
    let test = labelled(evaluator, test, key, |images| {
        mine += images.size()[0];
        add_images(&mut images_sum, images);
    })?;
    let blind = evaluator.features(&evaluator.mean_image(images_sum, mine)?)?;

    let classes: Vec<&String> = train.labels.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let place = |label: &String| classes.binary_search(&label).ok();
    let unknown = test.labels.iter().find(|label| place(label).is_none());
    if let Some(label) = unknown {
        let message = format!("a sample has the label `{label}`, which no sample of task.train has");
        return Err(Departure::Unsuitable(message));
    }
    let index = |labels: &[String]| labels.iter().filter_map(place).map(|at| at as i64).collect::<Vec<i64>>();
    let (train_labels, test_labels) = (index(&train.labels), index(&test.labels));
    let targets = Tensor::from_slice(&test_labels);
    let measured = shots.iter().map(|&shots| {
        let (mut right, mut blindly) = (Vec::new(), 0.0);
        for draw in 0..draws {
            let chosen = Tensor::from_slice(&choose(&train_labels, classes.len(), shots, draw));
            let labels = Tensor::from_slice(&train_labels).index_select(0, &chosen);
            let fewshot = FewShot::new(&train.features.index_select(0, &chosen), &labels, classes.len() as i64);
            let classifier = fewshot.classifier(L2);
            right.push(classifier.accuracy(&test.features, &targets));
            let always = classifier.scores(&blind).argmax(1, false).int64_value(&[0]);
            blindly += test_labels.iter().filter(|&&label| label == always).count() as f64;
        }
        let (count, draws) = (test_labels.len() as f64, f64::from(draws));
        let mean = right.iter().sum::<f64>() / draws;
        Shots { shots, mean: accuracy(mean * count, Some(blindly / draws), count, classes.len()), draws: right }
    });
    Ok((test_labels.len() as u64, Finding::Fewshot { shots: measured.collect() }))
}

/// The samples of a draw, class by class: the first `shots` of the class in an order that all numbers of shots share; all where
/// there are fewer.
fn choose(labels: &[i64], classes: usize, shots: u32, draw: u32) -> Vec<i64> {
    let mut of_class = vec![Vec::new(); classes];
    for (sample, &label) in (0i64..).zip(labels) {
        of_class[label as usize].push(sample);
    }
    let chosen = (0u64..).zip(&of_class).flat_map(|(class, samples)| {
        let order = Permutation::new((u64::from(draw) << 32) | class, samples.len() as u64);
        let count = samples.len().min(shots as usize) as u64;
        (0..count).map(move |n| samples[order.apply(n) as usize])
    });
    chosen.collect()
}

/// Features and labels of all samples that have one, of all ranks in their order.
fn labelled(
    evaluator: &Evaluator<'_>,
    samples: &Samples,
    key: &str,
    mut see: impl FnMut(&Tensor),
) -> Result<Labelled, Departure> {
    let (mut features, mut labels) = (Vec::new(), Vec::new());
    samples.chunks(
        evaluator,
        |record| field(record, key).map(str::to_owned),
        |images, chunk| {
            see(&images);
            features.push(evaluator.features(&images)?);
            labels.extend(chunk.into_iter().map(|(_, label)| label));
            Ok(())
        },
    )?;
    let width = i64::from(evaluator.assignment.spec.model.width);
    features.push(Tensor::zeros([0, width], (Kind::Float, Device::Cpu)));
    let features = evaluator.gather_rows(&Tensor::cat(&features, 0))?;
    let lists = evaluator.gather(&serde_json::to_string(&labels).expect("labels are texts"))?;
    let lists = lists.iter().map(|list| serde_json::from_str::<Vec<String>>(list));
    let labels = lists.collect::<Result<Vec<_>, _>>().expect("the ranks wrote them").concat();
    if labels.is_empty() {
        return Err(Departure::Unsuitable(format!("no sample has the field `{key}`; see `cappactl data inspect`")));
    }
    Ok(Labelled { features, labels })
}

impl Evaluator<'_> {
    /// The pooled representation `[B, D]` of images, on the CPU.
    fn features(&self, images: &Tensor) -> Result<Tensor, Departure> {
        Ok(self.state.model.features(images, Features::Pooled)?.to_device(Device::Cpu).to_kind(Kind::Float))
    }

    /// Rows `[N, D]` of all ranks, by rank; each may have another number of them.
    pub(super) fn gather_rows(&self, mine: &Tensor) -> Result<Tensor, Departure> {
        let group = &self.place.group;
        let (rows, width) = mine.size2().expect("rows of features");
        let counts = group.all_gather(&Tensor::from_slice(&[rows]))?;
        let counts: Vec<i64> = counts.iter().map(|count| count.int64_value(&[0])).collect();
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let padded = mine.constant_pad_nd([0, 0, 0, most - rows]).contiguous();
        let gathered = group.all_gather(&padded)?.into_iter().zip(counts).map(|(of_rank, n)| of_rank.narrow(0, 0, n));
        Ok(Tensor::cat(&gathered.collect::<Vec<_>>(), 0).view([-1, width]))
    }

    /// The mean image `[1, H, W, 3]`, from this rank's sum of images, if it has any, and their number.
    pub(super) fn mean_image(&self, sum: Option<Tensor>, count: i64) -> Result<Tensor, Departure> {
        let size = i64::from(self.assignment.spec.data.image_size);
        let sum = sum.unwrap_or_else(|| Tensor::zeros([size, size, 3], (Kind::Double, Device::Cpu)));
        let total = self.sum(&[count as f64])?[0];
        self.place.group.all_reduce(&sum, Op::Sum)?;
        // u8 to [-1, 1], as in training.
        Ok((sum / total.max(1.0) / 127.5 - 1.0).to_kind(Kind::Float).unsqueeze(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_shots_add_to_fewer_and_a_rare_class_gives_all_it_has() {
        let labels = [0, 1, 0, 1, 0, 2, 0, 1, 0];
        let of = |shots, draw| choose(&labels, 3, shots, draw);
        let (one, five) = (of(1, 0), of(5, 0));
        assert_eq!((one.len(), five.len()), (3, 9));
        assert!(one.iter().all(|sample| five.contains(sample)));
        assert_eq!(five.iter().collect::<BTreeSet<_>>().len(), 9, "nothing is drawn twice");
        assert!((1..20).any(|draw| of(1, draw) != one), "draws differ");
        let classes: Vec<i64> = one.iter().map(|&sample| labels[sample as usize]).collect();
        assert_eq!(classes, [0, 1, 2]);
    }
}
