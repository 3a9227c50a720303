//! Random changes of images in training, all off unless asked for.
//!
//! What is drawn for a sample comes from [`crate::order::Draws`], so it is the same on every machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Random changes of the images of training, in this order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// A random part of the image instead of the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// Probability of the mirror image; 0 for never.
    pub flip: f64,
    /// Random changes of the colours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Jitter>,
}

/// A random part, as torchvision's `RandomResizedCrop` draws it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Crop {
    /// Least and largest share of the image's area.
    pub scale: [f64; 2],
    /// Least and largest width divided by height.
    pub ratio: [f64; 2],
}

impl Default for Crop {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// Random changes of the colours in a random order, as torchvision's `ColorJitter` makes them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jitter {
    /// The factor is drawn from 1 minus to 1 plus this.
    pub brightness: f64,
    /// The same for the contrast.
    pub contrast: f64,
    /// The same for the saturation.
    pub saturation: f64,
    /// The hue is turned by at most this share of the circle, to either side.
    pub hue: f64,
}

/// A value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, relative to the augmentation: `crop.scale`.
    pub path: &'static str,
    /// What it must be.
    pub message: String,
}

impl Augment {
    /// Whether nothing is changed.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Everything that is wrong with the values.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, path, message: String| {
            if !fine {
                problems.push(Problem { path, message });
            }
        };
        check((0.0..=1.0).contains(&self.flip), "flip", format!("must be from 0 to 1, not {}", self.flip));
        if let Some(Crop { scale: [low, high], ratio: [narrow, wide] }) = self.crop {
            let fine = 0.0 < low && low <= high && high <= 1.0;
            check(fine, "crop.scale", format!("must be two rising shares in (0, 1], not [{low}, {high}]"));
            let fine = 0.0 < narrow && narrow <= wide && wide.is_finite();
            check(fine, "crop.ratio", format!("must be two rising positive numbers, not [{narrow}, {wide}]"));
        }
        if let Some(jitter) = &self.jitter {
            for (path, value) in [
                ("jitter.brightness", jitter.brightness),
                ("jitter.contrast", jitter.contrast),
                ("jitter.saturation", jitter.saturation),
            ] {
                check(value >= 0.0 && value.is_finite(), path, format!("must be 0 or more, not {value}"));
            }
            let hue = jitter.hue;
            check((0.0..=0.5).contains(&hue), "jitter.hue", format!("must be from 0 to 0.5, not {hue}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_named_with_their_paths() {
        let document = r#"{"crop": {"scale": [0.5, 0.1], "ratio": [0, 2]}, "flip": 1.5,
            "jitter": {"brightness": -1, "hue": 0.6}}"#;
        let augment: Augment = serde_json::from_str(document).unwrap();
        let paths: Vec<&str> = augment.problems().iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["flip", "crop.scale", "crop.ratio", "jitter.brightness", "jitter.hue"]);
        assert!(Augment::default().problems().is_empty() && Augment::default().is_off());
        assert!(serde_json::from_str::<Augment>(r#"{"flop": 1}"#).is_err());
    }
}
