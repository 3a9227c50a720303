//! What a study found: every number of every network, means over seeds with their spread, and whether the paper's orderings appear.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::plan::{CAP, CAPPA, FRACTIONS, SYSTEMS, Scale, Setting, System, Transfer};
use super::tasks::Score;

/// The version of [`Study`] that this program writes.
const VERSION: u32 = 1;

/// A study, as far as it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Study {
    /// [`VERSION`].
    pub(super) version: u32,
    pub(super) program: String,
    pub(super) generated: Timestamp,
    pub(super) scale: Scale,
    /// Updates of a full run.
    pub(super) steps: u64,
    pub(super) batch_size: u64,
    /// Runs that are to come.
    pub(super) missing: usize,
    pub(super) ran: Vec<Ran>,
}

/// A network that was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ran {
    #[serde(flatten)]
    pub(super) setting: Setting,
    pub(super) seed: u64,
    /// What was done with its frozen encoder; none of the pre-training itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transfer: Option<Transfer>,
    pub(super) job: String,
    pub(super) loss: f64,
    pub(super) scores: Vec<Score>,
}

/// The mean of a measure over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) mean: f64,
    /// Standard deviation over the seeds (n − 1); none of a single one.
    pub(super) deviation: Option<f64>,
    pub(super) blind: Option<f64>,
    pub(super) chance: Option<f64>,
}

/// Measures of which less is better.
fn is_cost(measure: &str) -> bool {
    measure.starts_with("perplexity")
}

impl Study {
    /// One in which nothing has run yet.
    pub(super) fn of(scale: Scale, steps: u64, batch_size: u64) -> Self {
        let program = env!("CARGO_PKG_VERSION").into();
        let generated = Timestamp::now();
        Self { version: VERSION, program, generated, scale, steps, batch_size, missing: 0, ran: Vec::new() }
    }

    /// The setting of a system in the main tables.
    pub(super) fn full(&self, system: System) -> Setting {
        Setting { system, model: self.scale.size().models[0], steps: self.steps }
    }

    /// All measures of these settings, in the order in which they were found.
    pub(super) fn measures(&self, settings: &[Setting]) -> Vec<String> {
        let mut measures = Vec::new();
        for score in self.ran.iter().filter(|ran| settings.contains(&ran.setting)).flat_map(|ran| &ran.scores) {
            if !measures.contains(&score.measure) {
                measures.push(score.measure.clone());
            }
        }
        measures
    }

    /// By seed.
    fn values(&self, setting: Setting, measure: &str) -> Vec<(u64, &Score)> {
        let of = |ran: &'_ Ran| ran.setting == setting;
        let found =
            self.ran.iter().filter(|ran| of(ran)).flat_map(|ran| ran.scores.iter().map(|score| (ran.seed, score)));
        found.filter(|(_, score)| score.measure == measure).collect()
    }

    /// A measure of a setting over its seeds; none where it was not measured.
    pub(super) fn spread(&self, setting: Setting, measure: &str) -> Option<Spread> {
        let scores = self.values(setting, measure);
        let mean_of = |of: fn(&Score) -> Option<f64>| {
            let values: Vec<f64> = scores.iter().filter_map(|(_, score)| of(score)).collect();
            (!values.is_empty()).then(|| mean(&values))
        };
        let values: Vec<f64> = scores.iter().map(|(_, score)| score.value).collect();
        Some(Spread {
            mean: mean_of(|score| Some(score.value))?,
            deviation: deviation(&values),
            blind: mean_of(|score| score.blind),
            chance: mean_of(|score| score.chance),
        })
    }

    /// A measure of two systems' runs of the same seed.
    fn pairs(&self, better: System, worse: System, measure: &str) -> Vec<[&Score; 2]> {
        let worse = self.values(self.full(worse), measure);
        let pair = |(seed, score): (u64, _)| {
            let (_, other) = worse.iter().find(|(other, _)| *other == seed)?;
            Some([score, *other])
        };
        self.values(self.full(better), measure).into_iter().filter_map(pair).collect()
    }

    /// The paper's claims, tried on these numbers.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let settings = SYSTEMS.map(|system| self.full(system));
        let measures = self.measures(&settings);
        let hard = |measure: &&String| {
            ["attributes", "relations", "order", "words", "few-shot-words"]
                .iter()
                .any(|start| measure.starts_with(start))
        };
        let claim = |text, better, worse, measures: Vec<String>| {
            let trials = measures.into_iter().filter_map(|measure| {
                let pairs = self.pairs(better, worse, &measure);
                (!pairs.is_empty()).then(|| Trial::of(measure, &pairs))
            });
            Claim { text, trials: trials.collect() }
        };
        let all = || measures.clone();
        let hard = || measures.iter().filter(hard).cloned().collect::<Vec<_>>();
        vec![
            claim("CapPa is at least as good as Cap", CAPPA, CAP, all()),
            claim("Cap is better than CLIP at attributes, relations, order and words", CAP, System::Clip, hard()),
            claim("CapPa is better than CLIP at attributes, relations, order and words", CAPPA, System::Clip, hard()),
        ]
    }

    /// The settings of the ablation over the share of examples predicted in parallel.
    pub(super) fn ablation(&self) -> Vec<Setting> {
        FRACTIONS.iter().map(|&parallel_fraction| self.full(System::Captioner { parallel_fraction })).collect()
    }
}

/// A statement of the paper's, and what became of it on each measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Claim {
    pub(super) text: &'static str,
    pub(super) trials: Vec<Trial>,
}

/// A claim on one measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Trial {
    pub(super) measure: String,
    /// Mean over seeds, in favour of the claim.
    pub(super) difference: f64,
    /// Twice its standard error; none of a single seed.
    pub(super) margin: Option<f64>,
    pub(super) verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// By more than the margin.
    Appears,
    /// The difference is within the margin, or there is one seed only.
    Undecided,
    /// The other way round, by more than the margin.
    Contradicted,
    /// One is ahead, yet no further than guessing or its blind decoder: the picture does not decide this measure.
    Unseen,
}

impl Trial {
    /// From the scores of both systems for each seed, the better one of the claim first.
    fn of(measure: String, pairs: &[[&Score; 2]]) -> Self {
        let sign = if is_cost(&measure) { -1.0 } else { 1.0 };
        let differences: Vec<f64> = pairs.iter().map(|[better, worse]| sign * (better.value - worse.value)).collect();
        let (difference, margin) = (mean(&differences), margin(&differences));
        let verdict = match margin {
            Some(margin) if difference.abs() > margin => {
                let ahead = usize::from(difference < 0.0);
                let leads: Vec<f64> = pairs.iter().filter_map(|pair| pair[ahead].lead()).collect();
                let is_unseen = self::margin(&leads).is_some_and(|margin| mean(&leads) <= margin);
                match ahead {
                    _ if is_unseen => Verdict::Unseen,
                    0 => Verdict::Appears,
                    _ => Verdict::Contradicted,
                }
            }
            _ => Verdict::Undecided,
        };
        Self { measure, difference, margin, verdict }
    }
}

impl Claim {
    /// How many measures say what.
    pub(super) fn summary(&self) -> String {
        let count = |verdict| self.trials.iter().filter(|trial| trial.verdict == verdict).count();
        format!(
            "appears on {}, undecided on {}, contradicted on {}, not seen in the picture on {} of {} measures",
            count(Verdict::Appears),
            count(Verdict::Undecided),
            count(Verdict::Contradicted),
            count(Verdict::Unseen),
            self.trials.len()
        )
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Twice the standard error of a mean; none of a single value.
fn margin(values: &[f64]) -> Option<f64> {
    deviation(values).map(|deviation| 2.0 * deviation / (values.len() as f64).sqrt())
}

fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Model, runs};
    use super::*;

    fn study(value: impl Fn(&Setting, u64) -> f64) -> Study {
        let scale = Scale::Cpu;
        let size = scale.size();
        let ran = runs(&size, size.steps, size.seeds).into_iter().map(|run| {
            let score = |measure: &str| Score {
                measure: measure.into(),
                value: value(&run.setting, run.seed),
                blind: None,
                chance: (!is_cost(measure)).then_some(0.5),
            };
            let scores = ["few-shot-objects, 10 a class", "relations", "perplexity of a token"].map(score).to_vec();
            Ran { setting: run.setting, seed: run.seed, transfer: None, job: run.name(), loss: 1.0, scores }
        });
        Study {
            version: VERSION,
            program: "0".into(),
            generated: Timestamp::UNIX_EPOCH,
            scale,
            steps: size.steps,
            batch_size: size.batch_size,
            missing: 0,
            ran: ran.collect(),
        }
    }

    #[test]
    fn an_ordering_is_said_to_appear_only_beyond_the_spread_of_the_seeds() {
        let cappa_wins = study(|setting, seed| {
            f64::from(u8::from(setting.system == CAPPA)) + 0.01 * seed as f64 * (1.0 + seed as f64)
        });
        let claim = &cappa_wins.claims()[0];
        let verdicts: Vec<_> = claim.trials.iter().map(|trial| trial.verdict).collect();
        // A higher perplexity is worse.
        assert_eq!(verdicts, [Verdict::Appears, Verdict::Appears, Verdict::Contradicted]);
        let scattered = study(|setting, seed| {
            let sign = if (seed + u64::from(setting.system == CAPPA)) % 2 == 0 { 1.0 } else { -1.0 };
            sign + 0.1 * f64::from(u8::from(setting.system == CAPPA))
        });
        assert!(scattered.claims()[0].trials.iter().all(|trial| trial.verdict == Verdict::Undecided));
    }

    #[test]
    fn a_lead_that_the_blind_decoder_has_too_is_no_ordering() {
        let score = |value, blind| Score { measure: "order".into(), value, blind, chance: Some(0.5) };
        let [cap, clip] = [score(1.0, Some(1.0)), score(0.8, None)];
        let trial = |pairs: &[[&Score; 2]]| Trial::of("order".into(), pairs).verdict;
        assert_eq!(trial(&[[&cap, &clip]; 3]), Verdict::Unseen);
        assert_eq!(trial(&[[&clip, &cap]; 3]), Verdict::Unseen, "whoever is ahead");
        let seeing = score(1.0, Some(0.6));
        assert_eq!(trial(&[[&seeing, &clip]; 3]), Verdict::Appears);
        let guessing = [score(0.5, Some(0.5)), score(0.48, None)];
        assert_eq!(trial(&[[&guessing[0], &guessing[1]]; 3]), Verdict::Unseen);
    }

    #[test]
    fn means_and_deviations_are_over_the_seeds_of_a_setting() {
        let study = study(|setting, seed| seed as f64 + if setting.model == Model::Tiny { 0.0 } else { 100.0 });
        let spread = study.spread(study.full(System::Clip), "relations").unwrap();
        assert_eq!((spread.mean, spread.deviation, spread.chance), (1.0, Some(1.0), Some(0.5)));
        assert!(study.spread(study.full(System::Clip), "answers").is_none());
    }
}
