//! From a slot to a row of a batch: read, decode, resize, choose the caption, tokenise.

use cappa_shared::order::{Draws, Purpose, SampleRef, Slot};

use crate::bad::{BadReason, BadSample};
use crate::image::{DecodeError, decode, resize_exact};
use crate::sample::{CaptionSource, RawSample};
use crate::shards::Shard;
use crate::text::Tokenizer;

/// How examples are made; the same for every slot of a job.
#[derive(Clone)]
pub(super) struct ExampleMaker {
    pub(super) draws: Draws,
    pub(super) image_size: usize,
    pub(super) text_length: usize,
    pub(super) tokenizer: Tokenizer,
    pub(super) captions: CaptionSource,
    pub(super) parallel_fraction: f64,
}

/// What a model sees of a sample.
pub(super) struct Example {
    /// `[H, W, 3]`.
    pub(super) image: Vec<u8>,
    /// `[L]`.
    pub(super) tokens: Vec<i64>,
}

impl ExampleMaker {
    /// Whether a slot is decoded in parallel.
    pub(super) fn parallel(&self, slot: &Slot) -> bool {
        self.draws.unit(slot.epoch, slot.number, Purpose::Mode) < self.parallel_fraction
    }

    /// The example of a slot that holds `sample`.
    pub(super) fn make(&self, shard: &Shard, slot: &Slot, sample: SampleRef) -> Result<Example, BadSample> {
        let raw = RawSample::find(shard, sample.index)?;
        self.example(&raw, slot).map_err(|bad| BadSample { key: Some(raw.key().to_owned()), ..bad })
    }

    fn example(&self, raw: &RawSample<'_>, slot: &Slot) -> Result<Example, BadSample> {
        let image = decode(&raw.image()?).map_err(bad_image)?;
        let captions = raw.captions(&self.captions)?;
        let chosen = self.draws.below(captions.len() as u64, slot.epoch, slot.number, Purpose::Caption);
        let caption = &captions[usize::try_from(chosen).expect("below the number of captions")];
        let tokens = self
            .tokenizer
            .encode(caption, self.text_length)
            .map_err(|error| BadSample::new(BadReason::CaptionDamaged, format!("{error}: {caption:?}")))?;
        Ok(Example { image: resize_exact(image, self.image_size, self.image_size).pixels, tokens })
    }
}

pub(crate) fn bad_image(error: DecodeError) -> BadSample {
    let reason = match error {
        DecodeError::TooLarge { .. } => BadReason::TooLarge,
        DecodeError::UnknownFormat { .. } | DecodeError::Damaged { .. } => BadReason::ImageDamaged,
    };
    BadSample::new(reason, error.to_string())
}
