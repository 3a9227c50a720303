//! A step made again is the step that was.

use cappa_data::LoaderConfig;
use cappa_data::replay::{self, BatchDigest};
use cappa_shared::ids::{Rank, Step};
use cappa_shared::order::lanes_of_rank;

use crate::corpus::{Corpus, LANES, sample, take};

#[test]
fn a_replayed_step_has_the_digest_of_what_ranks_of_every_world_size_were_given() {
    let corpus = Corpus::of(&[9, 4, 17, 6]);
    let steps = 2 * corpus.steps_per_epoch();
    let replayed: Vec<_> = (0..steps)
        .map(|step| replay::step(LoaderConfig { first_step: Step(step), ..corpus.config() }).unwrap())
        .collect();
    for world_size in [1, 2, 3] {
        let ranks: Vec<_> = (0..world_size)
            .map(|rank| {
                let lanes = lanes_of_rank(Rank(rank), world_size, LANES);
                take(LoaderConfig { lanes, ..corpus.config() }, steps)
            })
            .collect();
        for (step, replayed) in replayed.iter().enumerate() {
            let given = BatchDigest::of(ranks.iter().map(|batches| &batches[step]));
            assert_eq!(given, replayed.sha256, "step {step} of {world_size} ranks");
        }
    }
    let mut digests: Vec<_> = replayed.iter().map(|step| &step.sha256).collect();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len() as u64, steps, "no two steps are alike");
}

#[test]
fn a_replayed_step_says_what_every_slot_holds() {
    let mut bad = sample(3);
    bad[0].1.truncate(20);
    let corpus =
        Corpus::with(vec![(0..9).map(|number| if number == 3 { bad.clone() } else { sample(number) }).collect()]);
    let config = corpus.config();
    let mut met = 0;
    for step in 0..corpus.steps_per_epoch() {
        for slot in replay::step(LoaderConfig { first_step: Step(step), ..config.clone() }).unwrap().slots {
            let Some(found) = slot.slot.sample else {
                assert_eq!((slot.weight, slot.shard, slot.key), (0.0, None, None));
                continue;
            };
            met += 1;
            assert_eq!(slot.shard.as_deref(), Some("train-000000.tar"));
            assert_eq!(slot.key, Some(format!("000{:04}", found.index)));
            if found.index == 3 {
                assert!(slot.bad.unwrap().starts_with("image_damaged"), "it says why");
                assert_eq!((slot.weight, slot.caption), (0.0, None));
                continue;
            }
            let known = [format!("star {}", found.index), format!("a star of number {}", found.index)];
            assert_eq!(slot.captions, Some(2));
            assert_eq!(slot.caption.as_deref(), Some(known[slot.choice.unwrap()].as_str()));
            assert_eq!(config.tokenizer.decode(&slot.tokens).unwrap(), slot.caption.unwrap());
        }
    }
    assert_eq!(met, 9, "every sample of the epoch");
}
