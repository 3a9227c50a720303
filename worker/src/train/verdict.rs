//! Whether an update may be made: its loss is a number, no spike beside the losses before it, and rests on samples. All ranks judge
//! by sums and by a state that they share, so all judge alike, and a job that goes on from a checkpoint judges as it would have.
//!
//! Where a bad update *rewinds*, the parameters, moments and averages become those of the newest checkpoint of the schedule, and the
//! step counts all the same: order, cursor and learning rate go on, and the samples since that checkpoint are spent. What a
//! rewind goes back to is a function of the step ([`anchor`]), so that neither the number of ranks nor how fast a store is changes the run.

use cappa_model::ModelError;
use cappa_proto as wire;
use cappa_shared::ids::Step;
use cappa_shared::spec::{BadLossAction, JobSpec, OnBadLoss};
use tch::{Kind, Tensor};

use super::outcome::Departure;
use super::state::TrainState;
use super::stats::StepStats;

/// Name of the losses among a checkpoint's tensors.
const NAME: &str = "run/losses";
/// Weight of the newest loss in the mean of the recent ones.
const NEWEST: f64 = 0.05;
/// How many numbers there are.
const NUMBERS: i64 = 5;
/// Losses before which nothing is a spike.
const SETTLED: f64 = 20.0;

/// What becomes of an update.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It is made.
    Update,
    /// It is not: the parameters stay as they are, and its samples are spent.
    Skip(String),
    /// It is not, and those since the newest checkpoint are taken back.
    Rewind(String),
}

impl Verdict {
    /// As a point of the curve tells it.
    pub(crate) fn told(&self) -> wire::Update {
        match self {
            Self::Update => wire::Update::Made,
            Self::Skip(_) => wire::Update::Skipped,
            Self::Rewind(_) => wire::Update::Rewound,
        }
    }

    /// Why the update is not made.
    pub(crate) fn fault(&self) -> Option<&str> {
        match self {
            Self::Update => None,
            Self::Skip(why) | Self::Rewind(why) => Some(why),
        }
    }
}

/// The losses so far, as far as later ones are judged by them.
#[derive(Debug)]
pub(super) struct Losses(Tensor);

impl Losses {
    pub(super) fn new() -> Self {
        Self(Tensor::zeros([NUMBERS], (Kind::Double, tch::Device::Cpu)))
    }

    /// Sharing memory.
    pub(super) fn named(&self) -> (String, Tensor) {
        (NAME.into(), self.0.shallow_clone())
    }

    /// A checkpoint's; one of an older version has none, or not all.
    pub(super) fn load(&mut self, named: &[(String, Tensor)]) {
        match named.iter().find(|(name, _)| name == NAME) {
            Some((_, losses)) => self.0.copy_(&losses.constant_pad_nd([0, NUMBERS - losses.size()[0]])),
            None => drop(self.0.zero_()),
        }
    }

    /// Mean of the recent good losses, how many there were, bad ones since the last; rewinds so far, and the step after the last of
    /// them.
    fn numbers(&self) -> [f64; NUMBERS as usize] {
        [0, 1, 2, 3, 4].map(|place| self.0.double_value(&[place]))
    }

    /// How often the run went back, and the step after the last time.
    pub(super) fn rewinds(&self) -> (u64, Step) {
        let [.., rewinds, last] = self.numbers();
        (rewinds as u64, Step(last as u64))
    }

    /// The run went back so often, the last time with this step.
    pub(super) fn rewound(&self, rewinds: u64, step: Step) {
        let [mean, count, bad, ..] = self.numbers();
        self.set([mean, count, bad, rewinds as f64, step.0 as f64]);
    }

    fn set(&self, numbers: [f64; NUMBERS as usize]) {
        self.0.shallow_clone().copy_(&Tensor::from_slice(&numbers));
    }

    /// What is wrong with a loss.
    fn fault(&self, loss: f64, spike: Option<f64>) -> Option<String> {
        let [mean, count, ..] = self.numbers();
        match spike {
            _ if !loss.is_finite() => Some(format!("is {loss}")),
            Some(factor) if count >= SETTLED && loss > factor * mean => {
                Some(format!("is {loss:.4}, more than {factor} times the recent mean, {mean:.4}"))
            }
            _ => None,
        }
    }

    fn good(&self, loss: f64) {
        let [mean, count, _, rewinds, last] = self.numbers();
        let weight = NEWEST.max(1.0 / (count + 1.0));
        self.set([mean + weight * (loss - mean), count + 1.0, 0.0, rewinds, last]);
    }

    /// How many bad ones there are in a row now.
    fn bad(&self) -> f64 {
        let [mean, count, bad, rewinds, last] = self.numbers();
        self.set([mean, count, bad + 1.0, rewinds, last]);
        bad + 1.0
    }
}

/// The step whose state a bad update after `state` goes back to: that of the newest checkpoint which the schedule has by then, or
/// which the last rewind made.
pub(crate) fn anchor(spec: &JobSpec, state: &TrainState) -> Step {
    let every = spec.checkpoint.every;
    let (_, rewound) = state.losses().rewinds();
    rewound.max(Step(state.step.0 / every * every))
}

/// Judges a step whose gradients all ranks have.
///
/// # Errors
/// [`Departure::Diverged`] where the spec says to stop, or too many updates in a row were skipped, or the run went back too often.
pub(crate) fn judge(spec: &JobSpec, state: &TrainState, all: &StepStats) -> Result<Verdict, Departure> {
    if all.weight == 0.0 {
        return Ok(Verdict::Skip("no sample of it can be used".into()));
    }
    let OnBadLoss { action, spike, most } = spec.on_bad_loss;
    let loss = all.mean_loss();
    let fault = match state.losses().fault(loss, spike) {
        Some(fault) => format!("its loss {fault}"),
        // A loss may be a number whose gradient is none. They are looked at where that changes anything: it waits for the device.
        None if action != BadLossAction::Stop && !has_finite_gradients(state)? => "its gradients are no numbers".into(),
        None => {
            state.losses().good(loss);
            return Ok(Verdict::Update);
        }
    };
    let step = state.step.next().0;
    match action {
        BadLossAction::Stop => Err(Departure::Diverged { step, fault }),
        BadLossAction::Skip if state.losses().bad() > f64::from(most) => Err(Departure::Diverged {
            step,
            fault: format!("{fault}, after {most} updates in a row that were skipped"),
        }),
        BadLossAction::Skip => Ok(Verdict::Skip(fault)),
        BadLossAction::Rewind if state.losses().rewinds().0 >= u64::from(most) => Err(Departure::Diverged {
            step,
            fault: format!("{fault}, after {most} rewinds, which are as many as on_bad_loss.most allows"),
        }),
        BadLossAction::Rewind => Ok(Verdict::Rewind(fault)),
    }
}

fn has_finite_gradients(state: &TrainState) -> Result<bool, ModelError> {
    let grads: Vec<Tensor> = state.model.params().grads().into_iter().flatten().collect();
    Ok(grads.is_empty() || cappa_collective::ops::joint_norm(&grads)?.double_value(&[]).is_finite())
}

#[cfg(test)]
mod tests {
    use cappa_shared::ids::Step;
    use cappa_shared::spec::SpecBase;
    use tch::Device;

    use super::*;

    fn job(more: &str) -> (JobSpec, TrainState) {
        let text = format!(
            "apiVersion: cappa.dev/v1\nname: demo\nduration: {{steps: 10}}\nmodel: {{preset: tiny, width: 32, layers: 1, \
             decoder_layers: 1, mlp: 32}}\ndata: {{train: /data/manifest.json, tokenizer: /data/tokenizer.json}}\n{more}\n"
        );
        let spec = JobSpec::parse(&text, &SpecBase::none()).unwrap();
        let state = TrainState::initialise(&"demo-1".parse().unwrap(), &spec, Step(10), Device::Cpu).unwrap();
        (spec, state)
    }

    /// The verdicts on a sequence of losses; `-` is an update, `s` a skip, `!` the end.
    fn verdicts(more: &str, losses: &[f64]) -> String {
        let (spec, state) = job(more);
        let judged = losses.iter().map(|&loss| {
            let all = StepStats { loss: 2.0 * loss, weight: 2.0, seen: 2.0, ..StepStats::default() };
            match judge(&spec, &state, &all) {
                Ok(Verdict::Update) => '-',
                Ok(Verdict::Skip(_)) => 's',
                Ok(Verdict::Rewind(_)) => 'r',
                Err(_) => '!',
            }
        });
        judged.collect()
    }

    #[test]
    fn a_loss_that_is_no_number_stops_or_is_skipped_and_too_many_in_a_row_stop() {
        let nan = f64::NAN;
        assert_eq!(verdicts("", &[3.0, nan]), "-!");
        let skip = "on_bad_loss: {action: skip, most: 2}";
        assert_eq!(verdicts(skip, &[3.0, nan, f64::INFINITY, 3.0, nan, nan, nan]), "-ss-ss!");
        assert_eq!(verdicts("on_bad_loss: rewind", &[3.0, nan, 3.0]), "-r-");
        assert_eq!(verdicts("on_bad_loss: skip", &[3.0, 1e30]), "--", "no spikes unless asked for");
    }

    #[test]
    fn a_spike_is_told_by_the_losses_before_it_and_does_not_raise_the_bar() {
        let steady: Vec<f64> = (0..20).map(|n| 3.0 + 0.1 * f64::from(n % 2)).collect();
        let spike = "on_bad_loss: {action: skip, spike: 1.5}";
        let after = |last: &[f64]| verdicts(spike, &[&steady, last].concat())[20..].to_owned();
        assert_eq!(after(&[4.4, 4.7, 4.7, 4.7, 3.0]), "-sss-");
        assert_eq!(verdicts(spike, &[3.0, 30.0]), "--", "a run settles first");
        assert_eq!(verdicts("on_bad_loss: {action: stop, spike: 1.5}", &[&steady[..], &[9.0]].concat())[20..], *"!");
    }

    #[test]
    fn gradients_that_are_no_numbers_are_skipped_and_a_step_without_samples_changes_nothing() {
        let (spec, state) = job("on_bad_loss: skip");
        let all = StepStats { loss: 3.0, weight: 1.0, ..StepStats::default() };
        let parameter = state.model.params().tensors().next().unwrap();
        (parameter * f64::NAN).sum(Kind::Float).backward();
        assert!(matches!(judge(&spec, &state, &all).unwrap(), Verdict::Skip(_)));
        let before = state.losses().numbers();
        assert!(matches!(judge(&spec, &state, &StepStats::default()).unwrap(), Verdict::Skip(_)));
        assert_eq!(state.losses().numbers(), before);
    }

    #[test]
    fn who_goes_on_from_a_checkpoint_judges_by_the_losses_before_it() {
        let (spec, state) = job("on_bad_loss: {action: skip, spike: 1.5}");
        let all = |loss| StepStats { loss, weight: 1.0, ..StepStats::default() };
        (0..20).for_each(|_| assert_eq!(judge(&spec, &state, &all(3.0)).unwrap(), Verdict::Update));
        let (_, mut again) = job("");
        again.load(&state.named(), Step(20)).unwrap();
        assert!(matches!(judge(&spec, &again, &all(5.0)).unwrap(), Verdict::Skip(_)));
        let old: Vec<_> = state.named().into_iter().filter(|(name, _)| name != NAME).collect();
        again.load(&old, Step(20)).unwrap();
        assert_eq!(again.losses().numbers(), [0.0; 5]);
    }

    #[test]
    fn a_rewind_takes_back_the_updates_since_the_checkpoint_and_spends_their_samples() {
        let (spec, mut state) = job("on_bad_loss: {action: rewind, most: 2}\ncheckpoint: {every: 4}");
        let all = |loss| StepStats { loss, weight: 1.0, seen: 1.0, ..StepStats::default() };
        let update = |state: &mut TrainState| {
            let parameters: Vec<Tensor> = state.model.params().tensors().map(Tensor::shallow_clone).collect();
            parameters.iter().map(|parameter| parameter.square().sum(Kind::Float)).sum::<Tensor>().backward();
            let verdict = judge(&spec, state, &all(3.0)).unwrap();
            state.update(&verdict, &all(3.0), spec.batch_size).unwrap().expect("a good update");
        };
        (0..5).for_each(|_| update(&mut state));
        let copy =
            |state: &TrainState| -> Vec<_> { state.named().into_iter().map(|(name, t)| (name, t.copy())).collect() };
        // As if a checkpoint had been made of this state at step 4.
        let kept = copy(&state);
        (0..2).for_each(|_| update(&mut state));

        let bad = all(f64::NAN);
        let verdict = judge(&spec, &state, &bad).unwrap();
        assert!(matches!(verdict, Verdict::Rewind(_)), "{verdict:?}");
        assert_eq!(anchor(&spec, &state), Step(4));
        assert!(state.update(&verdict, &bad, spec.batch_size).unwrap().is_none());
        assert_eq!(state.step, Step(7), "the step is the rewind's to count");
        state.rewind(&kept, &bad).unwrap();

        assert_eq!((state.step, state.tally().seen), (Step(8), 8), "the cursor and the account go on");
        let is_run = |name: &str| name.starts_with("run/");
        for ((name, was), (_, is)) in kept.iter().zip(state.named()).filter(|((name, _), _)| !is_run(name)) {
            assert!(was.equal(&is), "{name}");
        }
        assert_eq!(state.losses().rewinds(), (1, Step(8)));
        assert_eq!(anchor(&spec, &state), Step(8), "the state after a rewind is checkpointed at once");
        state.rewind(&kept, &bad).unwrap();
        let error = judge(&spec, &state, &bad).unwrap_err().to_string();
        assert!(error.contains("step 10 was not made: its loss is NaN, after 2 rewinds, which are as many"), "{error}");
    }
}
