//! Which samples of a corpus are used: declared before the index is made, applied while it is made, and recorded with it, so that the
//! order of the samples stays a function of the manifest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ManifestProblem;

/// What a sample must be like to be used. What is not set does not matter.
///
/// A sample that does not show what a bound asks for (an image whose size can't be read, a score that is absent) is dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The shorter side of the image has at least so many pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_side: Option<u32>,
    /// The longer side of the image has at most so many pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_side: Option<u32>,
    /// The longer side is at most so many times the shorter one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_aspect: Option<f64>,
    /// Every caption has at least so many characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_caption: Option<u32>,
    /// Every caption has at most so many characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_caption: Option<u32>,
    /// Bounds on numbers in the `.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<ScoreRange>,
    /// Fields that the `.json` has, with a value that is not null; dots lead inwards. For samples of which only some have a label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

/// Bounds, both inclusive, on a numeric field of a sample's `.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreRange {
    /// The field's name.
    #[serde(default)]
    pub field: String,
    /// The least that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

// A filter with a number that is not one is refused wherever filters are taken in.
impl Eq for Filter {}
impl Eq for ScoreRange {}

/// What a filter wants to know of a sample. Only what its bounds ask for has to be found out.
#[derive(Debug, Clone, Default)]
pub struct SampleFacts {
    /// Width and height of the image in pixels, where they can be read.
    pub size: Option<(u32, u32)>,
    /// Characters of every caption.
    pub captions: Vec<u64>,
    /// The value of every field of [`Filter::scores`], in that order, where it is a number.
    pub scores: Vec<Option<f64>>,
    /// Whether there is each field of [`Filter::fields`], in that order.
    pub fields: Vec<bool>,
}

/// Why a sample is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dropped {
    /// The image is too small or too large, or its size can't be read.
    Size,
    /// The image is too elongated.
    Aspect,
    /// A caption is too short or too long, or there is none.
    Caption,
    /// A score is out of bounds, or absent.
    Score,
    /// A field is absent.
    Field,
}

impl Filter {
    /// Whether it drops nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it asks for the size of images.
    pub fn asks_size(&self) -> bool {
        self.min_side.is_some() || self.max_side.is_some() || self.max_aspect.is_some()
    }

    /// Whether it asks for captions.
    pub fn asks_captions(&self) -> bool {
        self.min_caption.is_some() || self.max_caption.is_some()
    }

    /// All that is wrong with the declaration, each with its path in it.
    pub fn problems(&self) -> Vec<ManifestProblem> {
        let mut problems = Vec::new();
        let mut problem =
            |path: String, message: &str| problems.push(ManifestProblem { path, message: message.into() });
        if self.min_side.zip(self.max_side).is_some_and(|(min, max)| min > max) {
            problem("min_side".into(), "is larger than max_side");
        }
        if self.max_side == Some(0) {
            problem("max_side".into(), "is 0, which drops every image");
        }
        if self.max_aspect.is_some_and(|aspect| !aspect.is_finite() || aspect < 1.0) {
            problem("max_aspect".into(), "is no number of at least 1; it is the longer side over the shorter one");
        }
        if self.min_caption.zip(self.max_caption).is_some_and(|(min, max)| min > max) {
            problem("min_caption".into(), "is larger than max_caption");
        }
        for (place, score) in self.scores.iter().enumerate() {
            let path = |field: &str| format!("scores[{place}].{field}");
            if score.field.is_empty() {
                problem(path("field"), "is empty; name a field of the .json");
            }
            if self.scores[..place].iter().any(|earlier| earlier.field == score.field) {
                problem(path("field"), "is bounded twice; write min and max together");
            }
            match (score.min, score.max) {
                (None, None) => problem(path("min"), "is not set, nor is max; set one of them"),
                (min, max) if min.into_iter().chain(max).any(|bound| !bound.is_finite()) => {
                    problem(path("min"), "and max must be finite numbers");
                }
                (Some(min), Some(max)) if min > max => problem(path("min"), "is larger than max"),
                _ => {}
            }
        }
        for (place, field) in self.fields.iter().enumerate() {
            if field.split('.').any(str::is_empty) {
                problem(format!("fields[{place}]"), "names no field of the .json");
            }
        }
        problems
    }

    /// Whether a sample of these facts is kept.
    ///
    /// # Errors
    /// The first bound that it does not meet.
    pub fn judge(&self, facts: &SampleFacts) -> Result<(), Dropped> {
        if self.asks_size() {
            let (width, height) = facts.size.filter(|(w, h)| *w > 0 && *h > 0).ok_or(Dropped::Size)?;
            let (short, long) = (width.min(height), width.max(height));
            if self.min_side.is_some_and(|min| short < min) || self.max_side.is_some_and(|max| long > max) {
                return Err(Dropped::Size);
            }
            if self.max_aspect.is_some_and(|max| f64::from(long) > max * f64::from(short)) {
                return Err(Dropped::Aspect);
            }
        }
        if self.asks_captions() {
            let (min, max) = (self.min_caption.map_or(0, u64::from), self.max_caption.map_or(u64::MAX, u64::from));
            if facts.captions.is_empty() || facts.captions.iter().any(|length| !(min..=max).contains(length)) {
                return Err(Dropped::Caption);
            }
        }
        let in_bounds = |(range, score): (&ScoreRange, &Option<f64>)| {
            score.is_some_and(|score| {
                range.min.is_none_or(|min| score >= min) && range.max.is_none_or(|max| score <= max)
            })
        };
        let scores = facts.scores.iter().chain(std::iter::repeat(&None));
        if !self.scores.iter().zip(scores).all(in_bounds) {
            return Err(Dropped::Score);
        }
        let fields = facts.fields.iter().chain(std::iter::repeat(&false));
        if self.fields.iter().zip(fields).all(|(_, &there)| there) { Ok(()) } else { Err(Dropped::Field) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(width: u32, height: u32, caption: u64, score: Option<f64>) -> SampleFacts {
        SampleFacts { size: Some((width, height)), captions: vec![caption], scores: vec![score], fields: vec![true] }
    }

    #[test]
    fn every_bound_is_inclusive_and_what_is_absent_is_dropped() {
        let score = ScoreRange { field: "similarity".into(), min: Some(0.3), max: None };
        let filter = Filter {
            min_side: Some(64),
            max_side: Some(640),
            max_aspect: Some(2.0),
            min_caption: Some(3),
            max_caption: Some(10),
            scores: vec![score],
            fields: vec!["class".into()],
        };
        assert!(filter.problems().is_empty());
        for (facts, expected) in [
            (facts(64, 128, 3, Some(0.3)), Ok(())),
            (facts(640, 320, 10, Some(9.0)), Ok(())),
            (facts(63, 64, 5, Some(0.5)), Err(Dropped::Size)),
            (facts(64, 641, 5, Some(0.5)), Err(Dropped::Size)),
            (facts(64, 129, 5, Some(0.5)), Err(Dropped::Aspect)),
            (facts(64, 64, 2, Some(0.5)), Err(Dropped::Caption)),
            (facts(64, 64, 11, Some(0.5)), Err(Dropped::Caption)),
            (facts(64, 64, 5, Some(0.2)), Err(Dropped::Score)),
            (facts(64, 64, 5, None), Err(Dropped::Score)),
            (SampleFacts { size: None, ..facts(64, 64, 5, Some(0.5)) }, Err(Dropped::Size)),
            (SampleFacts { captions: vec![], ..facts(64, 64, 5, Some(0.5)) }, Err(Dropped::Caption)),
            (SampleFacts { fields: vec![false], ..facts(64, 64, 5, Some(0.5)) }, Err(Dropped::Field)),
            (SampleFacts { fields: vec![], ..facts(64, 64, 5, Some(0.5)) }, Err(Dropped::Field)),
        ] {
            assert_eq!(filter.judge(&facts), expected, "{facts:?}");
        }
        assert_eq!(Filter::default().judge(&SampleFacts::default()), Ok(()));
    }

    #[test]
    fn all_mistakes_of_a_declaration_are_found() {
        let filter: Filter = serde_json::from_str(
            r#"{"min_side": 9, "max_side": 0, "max_aspect": 0.5, "min_caption": 2, "max_caption": 1,
                "scores": [{"field": ""}, {"field": "a", "min": 2, "max": 1}, {"field": "a", "min": 1}], "fields": ["a.b", "a."]}"#,
        )
        .unwrap();
        let paths: Vec<String> = filter.problems().into_iter().map(|problem| problem.path).collect();
        let expected = [
            "min_side",
            "max_side",
            "max_aspect",
            "min_caption",
            "scores[0].field",
            "scores[0].min",
            "scores[1].min",
            "scores[2].field",
            "fields[1]",
        ];
        assert_eq!(paths, expected);
        assert!(serde_json::from_str::<Filter>(r#"{"min_sides": 9}"#).is_err());
    }
}
