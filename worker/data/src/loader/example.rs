//! From a slot to a row of a batch: read, decode, resize, choose the caption, tokenise.

use std::sync::Arc;

use cappa_shared::order::{Draws, Purpose, SampleRef, Slot};
use cappa_shared::spec::{Augment, CaptionChoice, Captions};

use super::batch::Origin;
use crate::bad::{BadReason, BadSample};
use crate::image::{Augmentation, DecodeError, Preparation};
use crate::labels::{Labels, Target, lookup};
use crate::sample::RawSample;
use crate::shards::Shard;
use crate::stats::PipelineStats;
use crate::text::{Buckets, PAD, Tokenizer};

/// How examples are made; the same for every slot of a job.
#[derive(Clone)]
pub(super) struct ExampleMaker {
    pub(super) draws: Draws,
    pub(super) preparation: Preparation,
    pub(super) augment: Augment,
    pub(super) text_lengths: Buckets,
    pub(super) tokenizer: Tokenizer,
    pub(super) captions: Captions,
    pub(super) target: Target,
    pub(super) parallel_fraction: f64,
    pub(super) masking_ratio: f64,
    pub(super) stats: Arc<PipelineStats>,
}

/// What a model sees of a sample.
pub(super) struct Example {
    /// Where it comes from.
    pub(super) origin: Origin,
    /// `[H, W, 3]`.
    pub(super) image: Vec<u8>,
    /// What is predicted.
    pub(super) text: Text,
}

/// Tokens to be predicted.
pub(super) struct Text {
    /// `[L]`.
    pub(super) tokens: Vec<i64>,
    /// How many of them, at the beginning, are given and not predicted.
    pub(super) prefix: usize,
}

impl ExampleMaker {
    /// Whether a slot is decoded in parallel.
    pub(super) fn parallel(&self, slot: &Slot) -> bool {
        self.draws.unit(slot.epoch, slot.number, Purpose::Mode) < self.parallel_fraction
    }

    /// Which places of a text, `[L]`, a slot that is decoded in parallel does not see, where it is not all of them: L times the masking
    /// ratio, rounded down, as the authors' `_add_random_masks`.
    pub(super) fn hidden(&self, slot: &Slot) -> Option<Vec<bool>> {
        let length = self.text_lengths.longest();
        if self.masking_ratio >= 1.0 {
            return None;
        }
        let count = (self.masking_ratio * length as f64) as usize;
        let mut stream = self.draws.stream(slot.epoch, slot.number, Purpose::Mask);
        let mut hidden: Vec<bool> = (0..length).map(|place| place < count).collect();
        for last in (1..length).rev() {
            hidden.swap(last, stream.below(last as u64 + 1) as usize);
        }
        Some(hidden)
    }

    /// The example of a slot that holds `sample`.
    pub(super) fn make(&self, shard: &Shard, slot: &Slot, sample: SampleRef) -> Result<Example, BadSample> {
        // Where every caption is a sample of its own, the order counts pairs of an image and a caption.
        let (index, caption) = match self.captions.choose {
            CaptionChoice::All => {
                let (index, caption) = shard.pair(sample.index).ok_or_else(|| uncounted(sample))?;
                (index, Some(caption))
            }
            CaptionChoice::One | CaptionChoice::Turn => (sample.index, None),
        };
        let raw = RawSample::find(shard, index)?;
        self.example(&raw, slot, sample, caption).map_err(|bad| BadSample { key: Some(raw.key().to_owned()), ..bad })
    }

    /// The example of a sample with one of its captions: the given one, else that which is the slot's turn or lot.
    fn example(
        &self,
        raw: &RawSample<'_>,
        slot: &Slot,
        sample: SampleRef,
        caption: Option<u32>,
    ) -> Result<Example, BadSample> {
        let Self { augment, draws, .. } = self;
        let augmentation = Augmentation { augment, draws: *draws, epoch: slot.epoch, slot: slot.number };
        let augmentation = (!augment.is_off()).then_some(augmentation);
        let image = self.preparation.prepare(&raw.image()?, augmentation).map_err(bad_image)?;
        let (origin, text) = match &self.target {
            Target::Class(labels) => classified(raw, labels)?,
            Target::Caption { prefix } => self.captioned(raw, slot, (sample, caption), prefix.as_deref())?,
        };
        Ok(Example { origin, image: image.pixels, text })
    }

    fn captioned(
        &self,
        raw: &RawSample<'_>,
        slot: &Slot,
        (sample, caption): (SampleRef, Option<u32>),
        prefix: Option<&str>,
    ) -> Result<(Origin, Text), BadSample> {
        let captions = raw.captions(&self.captions.source)?;
        let choice = caption.map_or_else(|| self.choose(captions.len(), slot, sample), |caption| caption as usize);
        let caption = captions.get(choice).ok_or_else(|| fewer(captions.len(), choice))?;
        let prefix = match prefix {
            Some(path) => raw.json()?.and_then(|facts| lookup(&facts, path)?.as_str().map(str::to_owned)),
            None => None,
        };
        let text = self.stats.tokenize.of(|| self.encode(prefix.as_deref(), caption))?;
        let (key, captions) = (raw.key().to_owned(), captions.len());
        Ok((Origin { key, caption: caption.clone(), choice, captions, prefix }, text))
    }

    /// A caption behind its prefix, which is cut where both are too long for the model.
    fn encode(&self, prefix: Option<&str>, caption: &str) -> Result<Text, BadSample> {
        let length = self.text_lengths.longest();
        let encode = |text: &str| {
            let damaged = |error| BadSample::new(BadReason::CaptionDamaged, format!("{error}: {text:?}"));
            self.tokenizer.encode(text, length).map_err(damaged)
        };
        let tokens = encode(caption)?;
        let Some(prefix) = prefix else { return Ok(Text { tokens, prefix: 0 }) };
        let used = |tokens: &[i64]| tokens.iter().rposition(|&token| token != PAD).map_or(0, |last| last + 1);
        let given = encode(prefix)?;
        // Without its end of text: the caption goes on where it stops.
        let prefix = used(&given).saturating_sub(1).min(length - used(&tokens));
        let mut joint = given[..prefix].to_vec();
        joint.extend(&tokens[..length - prefix]);
        Ok(Text { tokens: joint, prefix })
    }

    /// Which of a sample's captions a slot takes.
    fn choose(&self, captions: usize, slot: &Slot, sample: SampleRef) -> usize {
        let count = captions as u64;
        let chosen = match self.captions.choose {
            CaptionChoice::Turn => {
                let sample = u64::from(sample.shard) << 32 | u64::from(sample.index);
                let first = self.draws.below(count, EVERY_EPOCH, sample, Purpose::Caption);
                (first + slot.epoch % count) % count
            }
            CaptionChoice::One | CaptionChoice::All => {
                self.draws.below(count, slot.epoch, slot.number, Purpose::Caption)
            }
        };
        usize::try_from(chosen).expect("below the number of captions")
    }
}

/// The class of a sample in the place of tokens.
fn classified(raw: &RawSample<'_>, labels: &Labels) -> Result<(Origin, Text), BadSample> {
    let name = labels.name_of(raw.json()?.as_ref()).ok_or_else(|| labels.missing())?;
    let tokens = vec![labels.class(&name)?.into()];
    let origin = Origin { key: raw.key().to_owned(), caption: name, choice: 0, captions: 1, prefix: None };
    Ok((origin, Text { tokens, prefix: 0 }))
}

/// An epoch that never comes, for draws that a sample keeps in all epochs.
const EVERY_EPOCH: u64 = u64::MAX;

/// A pair that the order counts and the shard does not have.
fn uncounted(sample: SampleRef) -> BadSample {
    let message = format!("the manifest counts no pair {} of an image and a caption", sample.index);
    BadSample::new(BadReason::CaptionMissing, message)
}

/// A caption that the manifest counts and the sample does not have.
fn fewer(captions: usize, choice: usize) -> BadSample {
    let message = format!("the manifest counts a caption {choice}, but the sample has {captions}");
    BadSample::new(BadReason::CaptionMissing, message)
}

pub(crate) fn bad_image(error: DecodeError) -> BadSample {
    let reason = match error {
        DecodeError::TooLarge { .. } => BadReason::TooLarge,
        DecodeError::UnknownFormat { .. } | DecodeError::Damaged { .. } => BadReason::ImageDamaged,
    };
    BadSample::new(reason, error.to_string())
}
