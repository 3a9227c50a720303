//! What the loader gives to a training step.

use std::time::Duration;

use cappa_shared::ids::Step;
use cappa_shared::order::{SampleRef, Slot};
use serde::{Deserialize, Serialize};

use super::example::{Example, Text};
use crate::bad::BadReason;
use crate::text::{Buckets, END_OF_TEXT, PAD};

/// The part of a step's batch that a rank's lanes hold. B is the number of its slots, H = W the image's side, L the length of the
/// text.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The step: updates completed before this one.
    pub step: Step,
    /// Pixels, `[B, H, W, 3]`; zeros where the weight is 0.
    pub images: Vec<u8>,
    /// Token ids, `[B, L]`, or of a classification classes, `[B, 1]`; only an end of text where the weight is 0, so that a mean
    /// over tokens stays finite.
    pub tokens: Vec<i64>,
    /// L: the longest of the job's text lengths, or where all examples are decoded autoregressively, the smallest that holds all
    /// texts of this batch.
    pub text_length: usize,
    /// How many tokens at the beginning of a text are given and not predicted, `[B]`.
    pub prefix: Vec<i64>,
    /// Of the job's text lengths the smallest that holds all autoregressive texts of this batch: all that they need (see [`Buckets`]).
    pub causal_length: usize,
    /// Whether the example is decoded in parallel rather than autoregressively, `[B]`.
    pub parallel: Vec<bool>,
    /// Whether a place is hidden from an example that is decoded in parallel, `[B, L]`; empty where all are.
    pub hidden: Vec<bool>,
    /// Weight of the example in the loss, `[B]`: 1, or 0 in null slots and for bad samples.
    pub weight: Vec<f32>,
    /// The slots, `[B]`: lane after lane.
    pub slots: Vec<Slot>,
    /// What fills the slots, `[B]`; nothing where the weight is 0.
    pub origins: Vec<Option<Origin>>,
    /// The bad samples among them.
    pub quarantined: Vec<Quarantined>,
    /// What it took to make the batch.
    pub timing: BatchTiming,
}

/// What an example was made of, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The sample's key in its shard.
    pub key: String,
    /// The caption whose tokens these are, or the name of the class.
    pub caption: String,
    /// Which of the sample's captions it is, from zero.
    pub choice: usize,
    /// How many captions the sample has.
    pub captions: usize,
    /// What comes before the caption, and is not predicted.
    pub prefix: Option<String>,
}

/// A bad sample of a batch. A sample comes once per epoch, so this is recorded once per epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Epoch in which it came.
    pub epoch: u64,
    /// Path of its shard in the manifest; where there are several manifests, its URL.
    pub shard: String,
    /// Which sample it is.
    pub sample: SampleRef,
    /// Its key in the shard, where it was found.
    pub key: Option<String>,
    /// Why it is bad.
    pub reason: BadReason,
    /// The same in words.
    pub message: String,
}

/// Where the time of a batch went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchTiming {
    /// How long whoever took the batch waited for it.
    pub waited: Duration,
    /// How long decoding threads waited for shards, summed over the rows.
    pub fetching: Duration,
    /// How long reading, decoding, resizing and tokenising took, summed over the rows.
    pub decoding: Duration,
}

impl Batch {
    /// An empty batch: every row as in a null slot.
    pub(super) fn new(
        step: Step,
        slots: Vec<Slot>,
        parallel: Vec<bool>,
        hidden: Vec<bool>,
        image_bytes: usize,
        text_length: usize,
    ) -> Self {
        let mut null_text = vec![PAD; text_length];
        if let Some(first) = null_text.first_mut() {
            *first = END_OF_TEXT;
        }
        Self {
            step,
            images: vec![0; slots.len() * image_bytes],
            tokens: null_text.repeat(slots.len()),
            text_length,
            prefix: vec![0; slots.len()],
            causal_length: text_length,
            parallel,
            hidden,
            weight: vec![0.0; slots.len()],
            origins: vec![None; slots.len()],
            slots,
            quarantined: Vec::new(),
            timing: BatchTiming::default(),
        }
    }

    /// Fills a row.
    pub(super) fn set(&mut self, row: usize, example: Example) {
        let Example { origin, image, text: Text { tokens, prefix } } = example;
        self.images[row * image.len()..][..image.len()].copy_from_slice(&image);
        self.tokens[row * tokens.len()..][..tokens.len()].copy_from_slice(&tokens);
        self.prefix[row] = i64::try_from(prefix).expect("a text is short");
        self.weight[row] = 1.0;
        self.origins[row] = Some(origin);
    }

    /// Cuts off the padding that no example's loss depends on.
    pub(super) fn shorten(&mut self, lengths: &Buckets) {
        let texts = self.tokens.chunks_exact(self.text_length.max(1)).zip(&self.parallel);
        let causal = texts.filter(|(_, parallel)| !**parallel).map(|(text, _)| text);
        self.causal_length = lengths.holding(causal, PAD).min(self.text_length);
        if !self.parallel.contains(&true) {
            self.text_length = lengths.trim(&mut self.tokens, self.text_length, PAD);
            self.hidden.clear(); // nobody is there to hide them from
        }
    }

    /// Examples that count.
    pub fn examples(&self) -> usize {
        self.weight.iter().filter(|&&weight| weight > 0.0).count()
    }

    /// Slots that hold a sample, usable or not: what the share of bad samples refers to.
    pub fn samples(&self) -> usize {
        self.slots.iter().filter(|slot| slot.sample.is_some()).count()
    }
}
