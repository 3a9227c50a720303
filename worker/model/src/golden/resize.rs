//! Check of preprocessing: the data pipeline's resizing, and the network's range of pixel values.

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::Resize;
use super::compare::{Comparison, Tolerance};
use super::reference::{GoldenError, Reference};
use crate::encoder::value_range;

/// A float this close to a whole number may be truncated to either side of it.
const TIE: f64 = 1e-3;
/// The share of values that may lie there.
const TIES: Tolerance = Tolerance::absolute(0.01);
const RANGE: Tolerance = Tolerance::absolute(1e-6);

#[derive(Deserialize)]
struct Case {
    name: String,
}

/// Resize to a square, then take its middle.
#[derive(Deserialize)]
struct FewShotChain {
    resize: usize,
    crop: usize,
}

/// `resize`: every case of the configuration's preprocessing, and the few-shot evaluation's.
pub(super) fn resize(reference: &Reference, resize: Resize, comparison: &mut Comparison) -> Result<(), GoldenError> {
    for Case { name } in reference.describe::<Vec<Case>>("/cases")? {
        // Antialiasing is there to be told from what the authors do.
        reference.below(&format!("outputs/{name}/antialias/"));
        let output = format!("outputs/{name}/default");
        let expected = reference.tensor(&format!("{output}/uint8"))?;
        let to = height_width(expected)?;
        let resized = resized(reference, &name, to, resize)?;
        let float = reference.find(&format!("{output}/float_before_cast"));
        pixels(&output, &resized, expected, float, comparison);
        if let Some(float) = float {
            let cast = float.to_kind(Kind::Uint8);
            comparison.tensors(&format!("{output}/float_before_cast"), &cast, expected, Tolerance::EXACT);
        }
        let range = value_range(expected);
        comparison.check_if_there(&format!("{output}/value_range"), &range, RANGE);
        let sum = range.to_kind(Kind::Double).abs().sum(Kind::Double);
        comparison.check_if_there(&format!("{output}/value_range_sum_abs"), &sum, Tolerance::relative(1e-6));
    }
    let FewShotChain { resize: size, crop } = reference.describe("/fewshot")?;
    let square = resized(reference, "fewshot", [size; 2], resize)?;
    let (first, length) = (((size - crop) / 2) as i64, crop as i64);
    let middle = square.narrow(0, first, length).narrow(1, first, length);
    let expected = reference.tensor("outputs/fewshot/uint8")?;
    pixels("outputs/fewshot", &middle, expected, None, comparison);
    comparison.check("outputs/fewshot/value_range", &value_range(expected), RANGE)
}

fn height_width(image: &Tensor) -> Result<[usize; 2], GoldenError> {
    let wrong = || GoldenError::Tensor { name: "uint8 image".to_owned(), problem: format!("shape {:?}", image.size()) };
    let [height, width, 3] = image.size()[..] else { return Err(wrong()) };
    let side = |length: i64| usize::try_from(length).ok().filter(|&side| side > 0).ok_or_else(wrong);
    Ok([side(height)?, side(width)?])
}

/// An input as the data pipeline resizes it: `[height, width, 3]`, u8.
fn resized(reference: &Reference, case: &str, to: [usize; 2], resize: Resize) -> Result<Tensor, GoldenError> {
    let image = reference.tensor(&format!("inputs/{case}"))?;
    let from = height_width(image)?;
    let bytes = Vec::<u8>::try_from(image.flatten(0, -1)).expect("an image of bytes");
    let [height, width] = to.map(|side| side as i64);
    Ok(Tensor::from_slice(&resize(&bytes, from, to)).view([height, width, 3]).to_device(reference.device()))
}

/// Equal bytes, but for neighbours where the float before truncation is a tie.
fn pixels(name: &str, found: &Tensor, expected: &Tensor, float: Option<&Tensor>, comparison: &mut Comparison) {
    let difference = (found.to_kind(Kind::Int) - expected.to_kind(Kind::Int)).abs();
    let differs = difference.gt(0);
    let may_differ = match float {
        Some(float) => (float - float.round()).abs().lt(TIE),
        None => differs.ones_like(),
    };
    let wrong = differs.logical_and(&may_differ.logical_not()).logical_or(&difference.gt(1));
    let count = |places: &Tensor| places.sum(Kind::Int64).int64_value(&[]);
    comparison.equal(&format!("{name}: pixels that differ beyond ties"), &count(&wrong), &0);
    let share = count(&differs) as f64 / expected.numel() as f64;
    comparison.numbers(&format!("{name}: share of ties"), share, 0.0, TIES);
}
