//! Texts are sought and scored faster than one by one, and with the same result.

mod common;

use cappa_model::{Captioner, END_OF_TEXT, ModelConfig, PAD, Search};
use common::{batch, config, difference, noise};
use tch::{Device, Kind, Tensor};

/// A captioner that tells tokens clearly apart and never pads.
fn captioner(config: &ModelConfig) -> Captioner {
    let captioner = Captioner::new(config, 3, Device::Cpu).expect("a valid network");
    let param = |name: &str| captioner.params().get(name).expect("a captioner predicts").shallow_clone();
    let kernel = param("decoder/LogitsDense/kernel");
    tch::no_grad(|| kernel.shallow_clone().copy_(&noise("output", &kernel.size(), 0.3)));
    let _ = tch::no_grad(|| param("decoder/LogitsDense/bias").get(PAD).fill_(-30.0));
    captioner
}

/// Of three images.
fn encoded(captioner: &Captioner) -> Tensor {
    captioner.encode(&batch(captioner.config(), 3).images).expect("fitting images").detach()
}

fn greedy(max_length: usize) -> Search {
    Search { beams: 1, length_penalty: 1.0, max_length }
}

/// The likeliest next token by a pass over the whole text, again and again.
fn without_a_cache(captioner: &Captioner, encoded: &Tensor, image: i64, length: usize) -> Vec<i64> {
    let mut text = Vec::new();
    while text.len() < length && text.last() != Some(&END_OF_TEXT) {
        let padded = Tensor::from_slice(&[&text[..], &[PAD]].concat()).unsqueeze(0);
        let logits = captioner.logits(&encoded.narrow(0, image, 1), &padded).expect("a fitting text");
        text.push(logits.select(1, text.len() as i64).argmax(-1, false).int64_value(&[0]));
    }
    text
}

#[test]
fn one_beam_is_greedy_decoding_with_or_without_a_cache() {
    let captioner = captioner(&config());
    let encoded = encoded(&captioner);
    let texts = captioner.generate(&encoded, &[], &greedy(10)).expect("texts");
    for (image, text) in (0i64..).zip(&texts) {
        assert_eq!(*text, without_a_cache(&captioner, &encoded, image, 10));
    }
    assert!(texts[0] != texts[1] || texts[1] != texts[2], "the images say nothing: {texts:?}");
    let rows = captioner.greedy(&batch(&config(), 3).images, 10).expect("fitting images");
    let rows = Vec::<Vec<i64>>::try_from(rows).expect("rows of tokens");
    for (row, text) in rows.iter().zip(&texts) {
        assert_eq!(row[..text.len()], text[..]);
    }
}

#[test]
fn enough_beams_find_the_best_of_all_texts_whatever_their_length() {
    const LENGTH: usize = 3;
    let config = ModelConfig { vocab: 6, ..config() };
    let captioner = captioner(&config);
    // Some texts end early, some don't.
    let bias = captioner.params().get("decoder/LogitsDense/bias").expect("a captioner predicts");
    let _ = tch::no_grad(|| bias.get(END_OF_TEXT).fill_(1.0));
    let encoded = encoded(&captioner);
    let texts = all_texts(6, LENGTH);
    let padded: Vec<i64> =
        texts.iter().flat_map(|text| (0..LENGTH).map(|i| text.get(i).copied().unwrap_or(PAD))).collect();
    let candidates = Tensor::from_slice(&padded).view([-1, LENGTH as i64]);
    let scores = captioner.score_encoded(&encoded, &candidates).expect("fitting texts");
    let scores = Vec::<Vec<f32>>::try_from(scores).expect("rows of scores");
    let mut lengths = Vec::new();
    for length_penalty in [0.0, 1.0, 2.0] {
        let search = Search { beams: 64, length_penalty, max_length: LENGTH };
        let found = captioner.generate(&encoded, &[], &search).expect("texts");
        for (text, scores) in found.iter().zip(&scores) {
            let comparable = |place: usize| f64::from(scores[place]) / (texts[place].len() as f64).powf(length_penalty);
            let best = (0..texts.len()).max_by(|&a, &b| comparable(a).total_cmp(&comparable(b))).expect("some texts");
            assert_eq!(*text, texts[best], "penalty {length_penalty}");
            lengths.push(text.len());
        }
    }
    assert!(lengths.iter().max() > lengths.iter().min(), "the penalty decides nothing: {lengths:?}");
}

/// All texts of tokens 1 to `vocab - 1` that end within a length, or reach it.
fn all_texts(vocab: i64, length: usize) -> Vec<Vec<i64>> {
    let (mut all, mut open) = (Vec::new(), vec![Vec::new()]);
    for _ in 0..length {
        let further =
            open.iter().flat_map(|text: &Vec<i64>| (1..vocab).map(move |token| [&text[..], &[token]].concat()));
        let (ended, going): (Vec<_>, Vec<_>) = further.partition(|text| text.last() == Some(&END_OF_TEXT));
        all.extend(ended);
        open = going;
    }
    all.extend(open);
    all
}

#[test]
fn a_text_goes_on_from_its_own_prefix_whatever_the_others() {
    let captioner = captioner(&config());
    let encoded = encoded(&captioner);
    let whole = captioner.generate(&encoded, &[], &greedy(12)).expect("texts");
    let lengths = [0, 2, 4];
    let prefixes: Vec<Vec<i64>> =
        whole.iter().zip(lengths).map(|(text, n)| text[..n.min(text.len() - 1)].to_vec()).collect();
    let rest = captioner.generate(&encoded, &prefixes, &greedy(12)).expect("texts");
    for ((whole, prefix), rest) in whole.iter().zip(&prefixes).zip(&rest) {
        let text = [&prefix[..], &rest[..]].concat();
        assert_eq!(text[..whole.len()], whole[..], "{prefix:?}");
    }
    let beams = Search { beams: 3, ..greedy(12) };
    for (image, prefix) in (0i64..).zip(&prefixes) {
        let one = encoded.narrow(0, image, 1);
        let alone = captioner.generate(&one, std::slice::from_ref(prefix), &beams).expect("a text");
        let all = captioner.generate(&encoded, &prefixes, &beams).expect("texts");
        assert_eq!(alone[0], all[image as usize]);
    }
    let too_long = vec![vec![2; config().text_length as usize]; 3];
    assert!(captioner.generate(&encoded, &too_long, &beams).is_err());
    assert!(captioner.generate(&encoded, &prefixes[..2], &beams).is_err());
}

#[test]
fn labels_with_a_common_prompt_are_scored_as_if_each_were_alone() {
    let captioner = captioner(&config());
    let encoded = encoded(&captioner);
    let length = config().text_length;
    // A prompt of five tokens, then labels of one to seven.
    let label = |n: i64| {
        let own = (0..1 + n % 7).map(move |i| 2 + (n * 31 + i * i * 17) % (config().vocab - 2));
        let mut text: Vec<i64> = [9, 8, 7, 6, 5].into_iter().chain(own).chain([END_OF_TEXT]).collect();
        text.resize(length as usize, PAD);
        text
    };
    let labels = (0..150).flat_map(label).collect::<Vec<i64>>();
    let labels = Tensor::from_slice(&labels).view([-1, length]);
    let together = captioner.score_encoded(&encoded, &labels).expect("fitting labels");
    assert_eq!((together.size(), together.kind()), (vec![3, 150], Kind::Float));
    for place in 0..150 {
        let rows = labels.narrow(0, place, 1).expand([3, length], false);
        let alone = captioner.log_likelihood(&encoded, &rows).expect("fitting labels");
        assert!(difference(&together.select(1, place), &alone) < 1e-4, "label {place}");
    }
}
