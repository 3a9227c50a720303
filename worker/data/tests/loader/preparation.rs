//! Fast decoding, random changes and text lengths, as a rank gets them.

use std::sync::Arc;

use cappa_data::LoaderConfig;
use cappa_data::image::{Augmentation, Decode, Preparation};
use cappa_data::text::{Buckets, PAD};
use cappa_shared::order::{JobOrder, Weights};
use cappa_shared::spec::{Augment, Crop, Jitter};

use crate::corpus::{Corpus, Files, IMAGE_SIZE, LANES, TEXT_LENGTH, take};
use crate::together;

/// Bytes of a prepared image.
const BYTES: usize = IMAGE_SIZE * IMAGE_SIZE * 3;

/// A sample whose picture has something to see everywhere.
fn sample(number: usize) -> Files {
    let pixels: Vec<u8> = (0..60 * 40 * 3).map(|byte| (byte * (7 + number) / 11 % 200) as u8).collect();
    let mut file = Vec::new();
    jpeg_encoder::Encoder::new(&mut file, 90).encode(&pixels, 60, 40, jpeg_encoder::ColorType::Rgb).unwrap();
    let caption = ["star", "a star of number"][number % 2];
    vec![("jpg", file), ("txt", caption.into())]
}

fn corpus() -> Corpus {
    Corpus::with(vec![(0..9).map(sample).collect(), (9..24).map(sample).collect()])
}

#[test]
fn changes_are_drawn_by_slot_whatever_the_number_of_ranks() {
    let corpus = corpus();
    let jitter = Jitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
    let augment = Augment { crop: Some(Crop::default()), flip: 0.5, jitter: Some(jitter) };
    let preparation = Preparation { mode: Decode::Fast, ..Preparation::exact(IMAGE_SIZE) };
    let config = LoaderConfig { preparation, augment: augment.clone(), ..corpus.config() };
    let steps = 2 * corpus.steps_per_epoch();
    let alone = take(config.clone(), steps);
    assert_eq!(together(&config, 2, steps), alone);
    assert_eq!(together(&config, 3, steps), alone);
    let firsts = [0, 9];
    for batch in &alone {
        for (slot, image) in batch.slots.iter().zip(batch.images.chunks(BYTES)) {
            let Some(place) = slot.sample else { continue };
            let file = sample(firsts[place.shard as usize] + place.index as usize).remove(0).1;
            let augmentation =
                Augmentation { augment: &augment, draws: config.order.draws(), epoch: slot.epoch, slot: slot.number };
            let expected = preparation.prepare(&file, Some(augmentation)).unwrap();
            assert_eq!(image, expected.pixels);
            assert_ne!(image, preparation.prepare(&file, None).unwrap().pixels);
        }
    }
}

#[test]
fn parallel_texts_keep_their_padding_and_autoregressive_ones_say_how_much_they_need() {
    let corpus = corpus();
    let order = JobOrder::new(vec![corpus.manifest.sample_counts()], &Weights::alone(), 7, LANES, 2, 4).unwrap();
    let config = LoaderConfig { parallel_fraction: 0.5, order: Arc::new(order), lanes: 0..2, ..corpus.config() };
    let lengths = Buckets::new(vec![3, TEXT_LENGTH]).unwrap();
    let steps = 40;
    let mut seen = [0, 0];
    for (batch, whole) in
        take(LoaderConfig { text_lengths: lengths, ..config.clone() }, steps).iter().zip(take(config, steps))
    {
        if batch.parallel[0] == batch.parallel[1] {
            continue;
        }
        assert_eq!((batch.text_length, &batch.tokens), (TEXT_LENGTH, &whole.tokens));
        let texts = batch.tokens.chunks(TEXT_LENGTH).zip(&batch.parallel);
        let mut causal = texts.filter(|(_, parallel)| !**parallel).map(|(text, _)| text);
        let fits = |length: usize| move |text: &[i64]| text[length..].iter().all(|&token| token == PAD);
        let expected = if causal.all(fits(3)) { 3 } else { TEXT_LENGTH };
        assert_eq!(batch.causal_length, expected);
        seen[usize::from(expected == TEXT_LENGTH)] += 1;
    }
    assert!(seen.iter().all(|&count| count > 0), "both lengths come: {seen:?}");
}

#[test]
fn a_share_of_the_places_is_hidden_from_parallel_examples_and_the_same_whoever_makes_the_batch() {
    let corpus = corpus();
    let order = JobOrder::new(vec![corpus.manifest.sample_counts()], &Weights::alone(), 7, LANES, 2, 4).unwrap();
    let config = LoaderConfig {
        parallel_fraction: 0.5,
        masking_ratio: 0.6,
        order: Arc::new(order),
        lanes: 0..2,
        ..corpus.config()
    };
    let first_lane = take(LoaderConfig { lanes: 0..1, ..config.clone() }, 30);
    let mut counts = vec![0; TEXT_LENGTH];
    for (batch, alone) in take(config, 30).iter().zip(&first_lane) {
        if !batch.parallel.contains(&true) {
            assert!(batch.hidden.is_empty());
            continue;
        }
        let rows: Vec<_> = batch.hidden.chunks(TEXT_LENGTH).collect();
        assert_eq!(rows.len(), batch.slots.len());
        for row in &rows {
            let hidden = row.iter().filter(|hidden| **hidden).count();
            assert_eq!(hidden, (0.6 * TEXT_LENGTH as f64) as usize);
            counts.iter_mut().zip(*row).for_each(|(count, hidden)| *count += usize::from(*hidden));
        }
        if !alone.hidden.is_empty() {
            assert_eq!(alone.hidden, rows[0]);
        }
    }
    assert!(counts.iter().all(|&count| count > 0), "every place is hidden at times: {counts:?}");
}

#[test]
fn a_batch_is_as_long_as_its_longest_text() {
    let corpus = corpus();
    let order = JobOrder::new(vec![corpus.manifest.sample_counts()], &Weights::alone(), 7, LANES, 2, 4).unwrap();
    let config = LoaderConfig { parallel_fraction: 0.0, order: Arc::new(order), lanes: 0..1, ..corpus.config() };
    let lengths = Buckets::new(vec![3, TEXT_LENGTH]).unwrap();
    let steps = 24;
    let trimmed = take(LoaderConfig { text_lengths: lengths, ..config.clone() }, steps);
    let mut seen = [0, 0];
    for (batch, whole) in trimmed.iter().zip(take(config, steps)) {
        let rows = batch.slots.len();
        assert_eq!(batch.tokens.len(), rows * batch.text_length);
        seen[usize::from(batch.text_length == TEXT_LENGTH)] += 1;
        for row in 0..rows {
            let (kept, cut) = whole.tokens[row * TEXT_LENGTH..][..TEXT_LENGTH].split_at(batch.text_length);
            assert_eq!(kept, &batch.tokens[row * batch.text_length..][..batch.text_length]);
            assert!(cut.iter().all(|&token| token == PAD));
        }
    }
    assert!(seen.iter().all(|&count| count > 0), "both lengths come: {seen:?}");
}
