//! Resizing against the authors' preprocessing; tensors and tolerance are described in the golden folder.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::PathBuf;

use cappa_data::image::{RgbImage, resize_exact};
use safetensors::SafeTensors;

/// Where the float result lies this close to an integer, truncation may fall on either side.
const TIE: f32 = 1e-3;

fn pixels(tensors: &SafeTensors<'_>, name: &str) -> RgbImage {
    let view = tensors.tensor(name).unwrap();
    let [height, width, 3] = view.shape() else { panic!("{name} has shape {:?}", view.shape()) };
    RgbImage { width: *width, height: *height, pixels: view.data().to_vec() }
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Option<Vec<f32>> {
    let view = tensors.tensor(name).ok()?;
    Some(view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

#[test]
fn images_are_resized_as_the_authors_do() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden/resize.safetensors");
    let file = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut cases = 0;
    for input in tensors.names().into_iter().filter(|name| name.starts_with("inputs/")) {
        let case = input.trim_start_matches("inputs/");
        let expected_name = format!("outputs/{case}/default/uint8");
        if !tensors.names().contains(&expected_name.as_str()) {
            continue; // the few-shot chain, which also crops
        }
        cases += 1;
        let expected = pixels(&tensors, &expected_name);
        let resized = resize_exact(pixels(&tensors, input), expected.width, expected.height);
        let before_cast = floats(&tensors, &format!("outputs/{case}/default/float_before_cast"));
        let mut ties = 0;
        for (place, (&ours, &theirs)) in resized.pixels.iter().zip(&expected.pixels).enumerate() {
            if ours == theirs {
                continue;
            }
            ties += 1;
            let float = before_cast.as_ref().map(|floats| floats[place]);
            let is_tie = float.is_none_or(|float| (float - float.round()).abs() < TIE);
            assert!(is_tie && ours.abs_diff(theirs) == 1, "{case}[{place}]: {ours}, not {theirs} ({float:?})");
        }
        assert!(ties * 100 <= expected.pixels.len(), "{case}: {ties} of {} values differ", expected.pixels.len());
    }
    assert!(cases >= 5, "only {cases} cases were found");
}
