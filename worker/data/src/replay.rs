//! The batch of any step again, on any machine, by the loader that training uses.

use cappa_shared::ids::Step;
use cappa_shared::order::Slot;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::text::PAD;
use crate::{Batch, DataError, Loader, LoaderConfig, Sources};

/// What a step takes in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReplay {
    /// The digest of the whole batch, see [`BatchDigest`].
    pub sha256: String,
    /// What the model sees of every slot, in batch order.
    pub slots: Vec<SlotReplay>,
}

/// What the model sees of a slot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotReplay {
    /// Epoch, lane, number and sample.
    #[serde(flatten)]
    pub slot: Slot,
    /// The sample's shard, as the manifest names it; of several sources, its URL.
    pub shard: Option<String>,
    /// The sample's key in the shard.
    pub key: Option<String>,
    /// The caption, and which of the sample's captions it is.
    pub caption: Option<String>,
    /// Which of the sample's captions that is, from zero.
    pub choice: Option<usize>,
    /// How many captions the sample has.
    pub captions: Option<usize>,
    /// What comes before the caption, and is not predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Whether it is decoded in parallel.
    pub parallel: bool,
    /// Which places of the text are hidden from it, where it is decoded in parallel and sees some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<usize>,
    /// Weight in the loss: 0 in null slots and for bad samples.
    pub weight: f32,
    /// Why the sample is bad, if it is.
    pub bad: Option<String>,
    /// Token ids, with padding.
    pub tokens: Vec<i64>,
    /// SHA-256 of the pixels, `[H, W, 3]`.
    pub pixels_sha256: String,
}

/// Makes the batch of the config's first step.
///
/// # Errors
/// As [`Loader::start`] and [`Loader::next_batch`].
pub fn step(config: LoaderConfig) -> Result<StepReplay, DataError> {
    let sources = config.sources.clone();
    let end_step = Some(Step(config.first_step.0 + 1));
    let batch = Loader::start(LoaderConfig { end_step, ..config })?.next_batch()?;
    Ok(StepReplay { sha256: BatchDigest::of([&batch]), slots: slots(&batch, &sources) })
}

fn slots(batch: &Batch, sources: &Sources) -> Vec<SlotReplay> {
    rows(batch)
        .zip(&batch.origins)
        .map(|(row, origin)| {
            let bad = batch.quarantined.iter().find(|bad| Some(bad.sample) == row.slot.sample);
            let of_bad = bad.and_then(|bad| bad.key.clone());
            SlotReplay {
                slot: row.slot,
                shard: row.slot.sample.map(|sample| sources.name(sample.shard)),
                key: origin.as_ref().map(|origin| origin.key.clone()).or(of_bad),
                caption: origin.as_ref().map(|origin| origin.caption.clone()),
                choice: origin.as_ref().map(|origin| origin.choice),
                captions: origin.as_ref().map(|origin| origin.captions),
                prefix: origin.as_ref().and_then(|origin| origin.prefix.clone()),
                parallel: row.parallel,
                hidden: row.hidden_places().collect(),
                weight: row.weight,
                bad: bad.map(|bad| format!("{}: {}", bad.reason.as_str(), bad.message)),
                tokens: row.tokens.to_vec(),
                pixels_sha256: hex::encode(Sha256::digest(row.image)),
            }
        })
        .collect()
}

/// A row of a batch.
struct Row<'a> {
    slot: Slot,
    parallel: bool,
    /// `[L]`, or nothing where all places are.
    hidden: &'a [bool],
    prefix: u64,
    weight: f32,
    tokens: &'a [i64],
    image: &'a [u8],
}

impl Row<'_> {
    /// The places that are hidden from an example which sees others.
    fn hidden_places(&self) -> impl Iterator<Item = usize> {
        let places = self.hidden.iter().enumerate().filter(|_| self.parallel);
        places.filter(|(_, hidden)| **hidden).map(|(place, _)| place)
    }
}

fn rows(batch: &Batch) -> impl Iterator<Item = Row<'_>> {
    let count = batch.slots.len().max(1);
    let [tokens, pixels, hidden] = [batch.tokens.len(), batch.images.len(), batch.hidden.len()].map(|all| all / count);
    batch.slots.iter().enumerate().map(move |(row, slot)| Row {
        slot: *slot,
        parallel: batch.parallel[row],
        hidden: &batch.hidden[row * hidden..][..hidden],
        prefix: batch.prefix[row].unsigned_abs(),
        weight: batch.weight[row],
        tokens: &batch.tokens[row * tokens..][..tokens],
        image: &batch.images[row * pixels..][..pixels],
    })
}

/// SHA-256 over the rows of a step's batch, one after the other: slot, draws, tokens, pixels. It is the same whoever
/// makes the batch, and however many ranks have a part of it.
///
/// A row is, all numbers as little-endian 64 bits: epoch, lane, number, whether there is a sample, its shard and index or
/// zeros, whether it is decoded in parallel plus twice the tokens of its prefix, whether it counts, the number of tokens without padding, the tokens, the number of pixel bytes,
/// the pixels; and where an example that is decoded in parallel sees some of its text, the places that it does not see.
#[derive(Default)]
pub struct BatchDigest(Sha256);

impl BatchDigest {
    /// The digest of a step whose parts are those of the ranks in rank order.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a Batch>) -> String {
        let mut digest = Self::default();
        parts.into_iter().flat_map(rows).for_each(|row| digest.row(&row));
        hex::encode(digest.0.finalize())
    }

    fn row(&mut self, row: &Row<'_>) {
        let Slot { epoch, lane, number, sample } = row.slot;
        let place = sample.map_or([0; 3], |sample| [1, sample.shard.into(), sample.index.into()]);
        let counts = row.weight > 0.0;
        // How far texts are padded depends on which of them a rank has together.
        let length = row.tokens.iter().rposition(|&token| token != PAD).map_or(0, |last| last + 1);
        let tokens = &row.tokens[..length];
        let numbers = [epoch, lane.into(), number].into_iter().chain(place);
        numbers
            .chain([u64::from(row.parallel) + 2 * row.prefix, counts.into(), length as u64])
            .for_each(|value| self.number(value));
        tokens.iter().for_each(|token| self.0.update(token.to_le_bytes()));
        self.number(row.image.len() as u64);
        self.0.update(row.image);
        row.hidden_places().for_each(|place| self.number(place as u64));
    }

    fn number(&mut self, value: u64) {
        self.0.update(value.to_le_bytes());
    }
}
