//! How often a trained classifier's highest scores have the right class.

use cappa_data::Labels;
use cappa_shared::evaluation::{Accuracy, Finding};
use tch::{Device, Kind, Tensor};

use super::samples::{Samples, add_images};
use super::{Evaluator, accuracy};
use crate::train::outcome::Departure;

/// Classes that count as right where one of several may be.
const SEVERAL: i64 = 5;

/// Classifies every sample that has a class; gives the number of samples and how often the first, and one of the first five, is right.
pub(super) fn top(evaluator: &Evaluator<'_>, samples: &Samples) -> Result<(u64, Finding), Departure> {
    let unsuitable = || Departure::Unsuitable("`accuracy` needs a network of `classify`".to_owned());
    let classifier = evaluator.state.model.classifier().ok_or_else(unsuitable)?;
    let label = evaluator.assignment.spec.data.label.as_ref().ok_or_else(unsuitable)?;
    let (labels, classes) = (Labels::new(label), label.classes.count() as usize);
    let several = SEVERAL.min(classes as i64);
    // Right answers, those among several, then how often each class occurs.
    let mut counts = vec![0f64; 2 + classes];
    let mut images_sum = None;
    samples.chunks(
        evaluator,
        |record| labels.name_of(record.facts.as_ref()),
        |images, chunk| {
            add_images(&mut images_sum, &images);
            let mut wanted = Vec::with_capacity(chunk.len());
            for (record, name) in &chunk {
                let unknown = |bad| Departure::Unsuitable(format!("sample {}: {bad}", record.key));
                let class = labels.class(name).map_err(unknown)?;
                counts[2 + class as usize] += 1.0;
                wanted.push(i64::from(class));
            }
            let logits = tch::no_grad(|| classifier.logits(&images))?;
            let wanted = Tensor::from_slice(&wanted).to_device(logits.device()).unsqueeze(1);
            let hits = logits.topk(several, 1, true, true).1.eq_tensor(&wanted);
            counts[0] += hits.narrow(1, 0, 1).sum(Kind::Double).double_value(&[]);
            counts[1] += hits.sum(Kind::Double).double_value(&[]);
            Ok(())
        },
    )?;
    let mean = evaluator.mean_image(images_sum, counts[2..].iter().sum::<f64>() as i64)?;
    let blind = tch::no_grad(|| classifier.logits(&mean))?.topk(several, 1, true, true).1.squeeze_dim(0);
    let blind = Vec::<i64>::try_from(blind.to_device(Device::Cpu)).expect("a vector of classes");
    let counts = evaluator.sum(&counts)?;
    let of_classes = &counts[2..];
    let total: f64 = of_classes.iter().sum();
    if total == 0.0 {
        let message = format!("no sample has the field `{}`; see `cappactl data inspect`", label.field);
        return Err(Departure::Unsuitable(message));
    }
    let blindly = |classes: &[i64]| classes.iter().map(|&class| of_classes[class as usize]).sum::<f64>();
    let top_1 = accuracy(counts[0], Some(blindly(&blind[..1])), total, classes);
    let top_5 = accuracy(counts[1], Some(blindly(&blind)), total, classes);
    let top_5 = Accuracy { chance: several as f64 / classes as f64, ..top_5 };
    Ok((total as u64, Finding::Accuracy { top_1, top_5 }))
}
