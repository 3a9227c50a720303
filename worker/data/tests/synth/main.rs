//! What a synthetic corpus promises to those who train and measure on it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod checker;
mod reader;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use cappa_data::synth::{Classes, CorpusCard, Facts, Level, Negatives, SynthConfig, SynthError, generate};
use reader::{Corpus, Sample, config, corpus, read_split, shards};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

fn shard_bytes(corpus: &Corpus) -> Vec<Vec<u8>> {
    shards(corpus.folder.path()).iter().map(|path| fs::read(path).unwrap()).collect()
}

fn all_levels() -> impl Iterator<Item = (Level, Corpus)> {
    Level::ALL.into_iter().map(|level| (level, corpus(&config(level, 1_500, 1_000))))
}

fn samples(corpus: &Corpus) -> impl Iterator<Item = &Sample> {
    corpus.train.iter().chain(&corpus.heldout)
}

#[test]
fn equal_configurations_give_equal_bytes_and_other_seeds_give_others() {
    for level in Level::ALL {
        let asked = config(level, 1_100, 100);
        let first = shard_bytes(&corpus(&asked));
        assert_eq!(first.len(), 4);
        assert!(first == shard_bytes(&corpus(&asked)), "{level}");
        let other = shard_bytes(&corpus(&SynthConfig { seed: 18, ..asked }));
        assert!(first.iter().zip(&other).all(|(a, b)| a != b), "{level}");
    }
}

#[test]
fn a_sample_does_not_depend_on_how_the_corpus_is_cut_into_shards() {
    let whole = corpus(&config(Level::Hard, 120, 0));
    let cut = corpus(&SynthConfig { samples_per_shard: 7, ..config(Level::Hard, 120, 0) });
    assert_eq!((shards(whole.folder.path()).len(), shards(cut.folder.path()).len()), (1, 18));
    assert_eq!((whole.train.len(), cut.train.len()), (120, 120));
    for (a, b) in whole.train.iter().zip(&cut.train) {
        assert!(a.picture == b.picture && a.facts == b.facts, "{} and {}", a.key, b.key);
    }
}

#[test]
fn samples_are_named_as_img2dataset_names_them() {
    let corpus = corpus(&config(Level::Easy, 501, 1));
    let names: Vec<String> =
        shards(corpus.folder.path()).iter().map(|path| path.file_name().unwrap().to_string_lossy().into()).collect();
    assert_eq!(names, ["heldout-000000.tar", "train-000000.tar", "train-000001.tar"]);
    assert_eq!(corpus.train[0].key, "000000000");
    assert_eq!(corpus.train[499].key, "000000499");
    assert_eq!(corpus.train[500].key, "000001000");
    assert!(samples(&corpus).all(|sample| sample.text == sample.facts.captions[0]));
}

/// The colours of the easy level, independently of the renderer.
const COLOURS: [(&str, [i32; 3]); 8] = [
    ("red", [230, 20, 20]),
    ("green", [20, 160, 50]),
    ("blue", [30, 60, 230]),
    ("yellow", [245, 220, 30]),
    ("purple", [160, 40, 200]),
    ("cyan", [30, 210, 220]),
    ("white", [255, 255, 255]),
    ("black", [0, 0, 0]),
];

fn nearest_colour(pixel: &[u8]) -> &'static str {
    let distance = |colour: &[i32; 3]| -> i32 {
        pixel.iter().zip(colour).map(|(&seen, nominal)| (i32::from(seen) - nominal).pow(2)).sum()
    };
    COLOURS.iter().min_by_key(|(_, colour)| distance(colour)).unwrap().0
}

#[test]
fn objects_are_where_the_facts_say_and_have_their_colours() {
    let corpus = corpus(&config(Level::Easy, 2_000, 0));
    for sample in &corpus.train {
        let pixels = sample.pixels();
        assert_eq!(pixels.len(), 64 * 64 * 3);
        for object in &sample.facts.objects {
            // A ring is hollow: its body is on the right of its centre.
            let x = if object.shape == "ring" { object.x + 0.77 * object.radius } else { object.x };
            let at = 3 * ((object.y * 64.0) as usize * 64 + (x * 64.0) as usize);
            let (key, seen) = (&sample.key, &pixels[at..at + 3]);
            assert_eq!(nearest_colour(seen), object.colour, "{key}: {seen:?} for {object:?}");
        }
    }
}

/// Left, top, right and bottom of every item.
fn boxes(facts: &Facts) -> Vec<[f32; 4]> {
    let around = |x: f32, y: f32, width: f32, height: f32| [x - width, y - height, x + width, y + height];
    let objects = facts.objects.iter().map(|object| around(object.x, object.y, object.radius, object.radius));
    let texts = facts.texts.iter().map(|text| around(text.x, text.y, text.width / 2.0, text.height / 2.0));
    objects.chain(texts).collect()
}

#[test]
fn items_lie_inside_the_picture_and_apart_from_each_other() {
    for (level, corpus) in all_levels() {
        for sample in samples(&corpus) {
            let boxes = boxes(&sample.facts);
            for (index, a) in boxes.iter().enumerate() {
                assert!(a.iter().all(|edge| (0.01..0.99).contains(edge)), "{level} {}: {boxes:?}", sample.key);
                for b in &boxes[index + 1..] {
                    let apart = a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1];
                    assert!(apart, "{level} {}: {boxes:?}", sample.key);
                }
            }
        }
    }
}

#[test]
fn every_item_fills_its_box_and_nothing_else_is_drawn() {
    let corpus = corpus(&config(Level::Easy, 1_000, 0));
    for sample in &corpus.train {
        let (boxes, pixels) = (boxes(&sample.facts), sample.pixels());
        let mut drawn = vec![0; boxes.len()];
        for (index, pixel) in pixels.chunks_exact(3).enumerate() {
            // Backgrounds are grey, within the tint and what JPEG adds near an edge.
            let is_background = pixel.iter().all(|channel| (80..=182).contains(channel));
            let [x, y] = [index % 64, index / 64].map(|position| (position as f32 + 0.5) / 64.0);
            let close = |b: &[f32; 4]| b[0] - 0.03 < x && x < b[2] + 0.03 && b[1] - 0.03 < y && y < b[3] + 0.03;
            match boxes.iter().position(close) {
                Some(item) => drawn[item] += usize::from(!is_background),
                None => assert!(is_background, "{} at {x}, {y}: {pixel:?} outside {boxes:?}", sample.key),
            }
        }
        for (drawn, b) in drawn.iter().zip(&boxes) {
            let area = (b[2] - b[0]) * (b[3] - b[1]) * 4096.0;
            assert!(*drawn as f32 > 0.2 * area, "{}: {drawn} of {area} pixels", sample.key);
        }
    }
}

#[test]
fn captions_are_true_and_negatives_are_false() {
    for (level, corpus) in all_levels() {
        let mut negatives = 0;
        for Sample { key, facts, .. } in samples(&corpus) {
            for caption in &facts.captions {
                assert!(checker::is_true(caption, facts), "{level} {key}: {caption} / {facts:?}");
            }
            for negative in [&facts.negatives.attribute, &facts.negatives.relation].into_iter().flatten() {
                assert!(!checker::is_true(negative, facts), "{level} {key}: {negative} / {facts:?}");
                let words = |caption: &str| caption.split(' ').count();
                assert_eq!(words(negative), words(&facts.captions[0]), "{level} {key}: {negative}");
                negatives += 1;
            }
        }
        assert!(negatives > 1_000, "{level}: {negatives}");
    }
}

#[test]
fn something_replaced_or_added_makes_a_caption_false_in_nearly_every_scene_that_can_have_it() {
    for (level, corpus) in all_levels() {
        let (mut replaced, mut added, mut may_add, mut all) = (0, 0, 0, 0);
        for Sample { key, facts, .. } in samples(&corpus) {
            let Negatives { replace, add, .. } = &facts.negatives;
            for negative in [replace, add].into_iter().flatten() {
                assert!(!checker::is_true(negative, facts), "{level} {key}: {negative} / {facts:?}");
            }
            if let Some(add) = add {
                assert!(add.len() > facts.captions[0].len(), "{level} {key}: {add}");
            }
            let may = facts.kind == "single" || facts.kind == "pair" && level != Level::Easy;
            assert!(may || add.is_none(), "{level} {key}: {add:?} of a {}", facts.kind);
            all += 1;
            may_add += u32::from(may);
            replaced += u32::from(replace.is_some());
            added += u32::from(add.is_some());
        }
        assert!(f64::from(replaced) > 0.9 * f64::from(all), "{level}: {replaced} of {all}");
        assert!(f64::from(added) > 0.95 * f64::from(may_add), "{level}: {added} of {may_add}");
    }
}

#[test]
fn every_picture_answers_its_question_and_only_so() {
    for (level, corpus) in all_levels() {
        let mut answers: HashMap<&str, u32> = HashMap::new();
        for Sample { key, facts, .. } in samples(&corpus) {
            let right = checker::answers(&facts.question, facts);
            assert_eq!(right, [facts.answer.as_str()], "{level} {key}: {} / {facts:?}", facts.question);
            *answers.entry(&facts.answer).or_default() += 1;
        }
        let (yes, no) = (f64::from(answers["yes"]), f64::from(answers["no"]));
        assert!((0.75..1.33).contains(&(yes / no)), "{level}: {yes} and {no}");
        assert!(["red", "star", "MOON"].iter().all(|answer| answers[answer] > 5), "{level}: {answers:?}");
    }
}

#[test]
fn easy_captions_name_the_left_or_the_upper_object_first_and_questions_ask_in_any_order() {
    let corpus = corpus(&config(Level::Easy, 4_000, 0));
    let mut answers: HashMap<(&str, &str), u32> = HashMap::new();
    for Sample { key, facts, .. } in &corpus.train {
        let Some(relation) = &facts.relation else { continue };
        assert!(["left of", "above"].contains(&relation.as_str()), "{key}: {relation}");
        let asked = ["left of", "right of", "above", "below"].into_iter().find(|said| facts.question.contains(said));
        if let Some(asked) = asked {
            *answers.entry((asked, &facts.answer)).or_default() += 1;
        }
    }
    assert_eq!(answers.len(), 8, "{answers:?}");
    assert!(answers.values().all(|&count| (30..150).contains(&count)), "{answers:?}");
}

#[test]
fn a_false_relation_has_the_words_of_the_true_caption_in_another_order() {
    // A text tower that knows the words and not their order cannot tell them apart.
    for (level, corpus) in all_levels() {
        for Sample { key, facts, .. } in samples(&corpus) {
            let sorted = |caption: &str| {
                let mut words: Vec<String> = caption.split([' ', ',']).map(str::to_owned).collect();
                words.sort();
                words
            };
            if let Some(negative) = &facts.negatives.relation {
                assert_eq!(sorted(negative), sorted(&facts.captions[0]), "{level} {key}: {negative}");
            }
        }
    }
}

#[test]
fn captions_of_a_sample_are_different_and_as_many_as_the_level_allows() {
    for ((level, corpus), most) in all_levels().zip([1, 3, 5]) {
        let counts: HashSet<usize> = samples(&corpus).map(|sample| sample.facts.captions.len()).collect();
        assert_eq!(counts, (1..=most).collect(), "{level}");
        for sample in samples(&corpus) {
            let captions = &sample.facts.captions;
            assert_eq!(captions.iter().collect::<HashSet<_>>().len(), captions.len(), "{level} {}", sample.key);
        }
    }
}

/// Which nouns and which colours are combined; none where only one thing is seen.
fn composition(facts: &Facts) -> Option<(Vec<String>, Vec<String>)> {
    let objects = facts.objects.iter().map(|object| (&object.shape, &object.colour));
    let texts = facts.texts.iter().map(|text| (&text.word, &text.colour));
    let (mut nouns, mut colours): (Vec<_>, Vec<_>) =
        objects.chain(texts).map(|(noun, colour)| (noun.clone(), colour.clone())).unzip();
    nouns.sort();
    colours.sort();
    (nouns.len() > 1).then_some((nouns, colours))
}

#[test]
fn no_composition_is_in_both_splits_even_under_another_seed() {
    for level in Level::ALL {
        let asked = config(level, 2_000, 600);
        let trained = corpus(&asked).train;
        let measured = corpus(&SynthConfig { seed: 4, ..asked }).heldout;
        let trained: HashSet<_> = trained.iter().filter_map(|sample| composition(&sample.facts)).collect();
        let measured: HashSet<_> = measured.iter().filter_map(|sample| composition(&sample.facts)).collect();
        assert!(trained.len() > 300 && measured.len() > 50, "{level}: {} and {}", trained.len(), measured.len());
        assert!(trained.is_disjoint(&measured), "{level}");
    }
}

#[test]
fn the_demo_can_measure_every_class_every_word_and_both_swaps() {
    let corpus = corpus(&config(Level::Easy, 5_000, 1_200));
    let classes: Classes =
        serde_json::from_slice(&fs::read(corpus.folder.path().join("classes.json")).unwrap()).unwrap();
    assert_eq!((classes.class.len(), classes.word.len()), (48, 16));
    assert_eq!(
        (classes.prompts.class[0].as_str(), classes.prompts.word[0].as_str()),
        ("a red circle", "the word MOON")
    );

    let count = |label: fn(&Facts) -> Option<String>| {
        let labels = corpus.heldout.iter().filter_map(|sample| label(&sample.facts));
        labels.fold(HashMap::new(), |mut counts, label| {
            *counts.entry(label).or_insert(0) += 1;
            counts
        })
    };
    let (singles, words): (HashMap<_, i32>, HashMap<_, i32>) = (count(|f| f.class.clone()), count(|f| f.word.clone()));
    assert!(classes.class.iter().all(|class| singles[class] == 10), "{singles:?}");
    assert!(classes.word.iter().all(|word| words[word] >= 7), "{words:?}");
    assert_eq!((singles.len(), words.len()), (48, 16));

    let negatives = || corpus.heldout.iter().map(|sample| &sample.facts.negatives);
    let attribute = negatives().filter(|negatives| negatives.attribute.is_some()).count();
    let relation = negatives().filter(|negatives| negatives.relation.is_some()).count();
    assert!(attribute >= 350 && relation == 600, "{attribute} and {relation}");

    let trained: HashSet<&str> = corpus.train.iter().map(|sample| sample.text.as_str()).collect();
    let prompts = classes.prompts.class.iter().chain(&classes.prompts.word);
    let never_trained: Vec<_> = prompts.filter(|prompt| !trained.contains(prompt.as_str())).collect();
    assert!(never_trained.is_empty(), "{never_trained:?}");
}

#[test]
fn easy_captions_fit_24_tokens_of_a_vocabulary_of_512() {
    type Bpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    let corpus = corpus(&config(Level::Easy, 3_000, 1_000));
    let mut tokenizer = Bpe::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default()));
    let mut trainer = BpeTrainer::builder().vocab_size(512).show_progress(false).build();
    tokenizer.train(&mut trainer, corpus.train.iter().map(|sample| sample.text.as_str())).unwrap();
    let longest = samples(&corpus).map(|sample| tokenizer.encode(sample.text.as_str(), false).unwrap().len()).max();
    // One token is the end of the text.
    assert!(longest.is_some_and(|tokens| (8..=23).contains(&tokens)), "{longest:?}");
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "mine").unwrap();
    let refused = generate(&config(Level::Easy, 10, 10), folder.path(), &|_, _| ());
    assert!(matches!(refused, Err(SynthError::FolderInUse { .. })), "{refused:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_run_is_repeated_and_leaves_nothing_behind() {
    let earlier = corpus(&SynthConfig { samples_per_shard: 10, ..config(Level::Easy, 50, 20) });
    let folder = earlier.folder.path();
    let card = CorpusCard::read(folder).unwrap();
    let written = card.written.clone().expect("a whole corpus says so");
    assert_eq!((written.train.shards, written.train.samples, written.heldout.samples), (5, 50, 20));

    let interrupted = CorpusCard { written: None, ..card };
    fs::write(folder.join("corpus.json"), serde_json::to_vec(&interrupted).unwrap()).unwrap();
    fs::write(folder.join(".train-000003.tar.partial"), "half a shard").unwrap();
    fs::remove_file(folder.join("train-000003.tar")).unwrap();
    generate(&config(Level::Easy, 50, 20), folder, &|_, _| ()).unwrap();

    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["classes.json", "corpus.json", "heldout-000000.tar", "train-000000.tar"]);
    assert_eq!(read_split(folder, "train").len(), 50);
    assert!(CorpusCard::read(folder).unwrap().written.is_some());
}

#[test]
fn progress_counts_every_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (most, calls) = (AtomicU64::new(0), AtomicU64::new(0));
    let report = generate(&config(Level::Easy, 1_000, 130), folder.path(), &|done, total| {
        assert_eq!(total, 1_130);
        most.fetch_max(done, Ordering::Relaxed);
        calls.fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!((report.train.samples, report.heldout.samples), (1_000, 130));
    assert_eq!(most.into_inner(), 1_130);
    assert!(calls.into_inner() >= 15);
}
