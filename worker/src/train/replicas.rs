//! Whether all ranks still hold the same parameters, to the bit.

use cappa_session::{Assignment, Digest, divergent};
use cappa_shared::ids::{Rank, Step};
use sha2::{Digest as _, Sha256};
use tch::{Device, Tensor};

use super::group::Place;
use super::outcome::Departure;
use super::state::TrainState;
use crate::context::Context;

impl Place {
    /// Compares the parameters of all ranks. A rank that the majority outvotes leaves, gives up its state and receives theirs
    /// in the next group; without a majority all do, and go back to a checkpoint.
    pub(super) fn verify(
        &self,
        assignment: &Assignment,
        state: &TrainState,
        context: &Context,
    ) -> Result<(), Departure> {
        let gathered = self.group.all_gather(&Tensor::from_slice(&digest(state)))?;
        let digests: Vec<Digest> =
            gathered.iter().map(|digest| [0, 1].map(|half| digest.int64_value(&[half]))).collect();
        let ranks = divergent(&digests);
        if ranks.contains(&assignment.rank) {
            return Err(Departure::ReplicaDiverged(said(&ranks, digests.len(), state.step)));
        }
        if !ranks.is_empty() {
            tracing::warn!(?ranks, step = %state.step, "ranks hold other parameters; waiting to form again without theirs");
            // Whoever leaves first is named as the one that failed.
            context.wait(assignment, async { tokio::time::sleep(assignment.operation).await })?;
        }
        Ok(())
    }
}

fn said(ranks: &[Rank], size: usize, step: Step) -> String {
    let names = ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if ranks.len() == size {
        return format!(
            "no majority of the {size} ranks holds the same parameters after step {step}; all go back to a checkpoint"
        );
    }
    format!("the parameters of rank {names} are not those of the other ranks after step {step}")
}

/// Of the parameters, in their order, which is the same on every rank.
fn digest(state: &TrainState) -> Digest {
    let (mut sha, mut bytes) = (Sha256::new(), Vec::new());
    for tensor in state.model.params().tensors() {
        let host = tensor.detach().to_device(Device::Cpu).contiguous();
        bytes.resize(host.numel() * host.kind().elt_size_in_bytes(), 0);
        host.copy_data_u8(&mut bytes, host.numel());
        sha.update(&bytes);
    }
    let sha: [u8; 32] = sha.finalize().into();
    let half = |from: usize| i64::from_le_bytes(std::array::from_fn(|byte| sha[from + byte]));
    [half(0), half(8)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use cappa_shared::spec::{JobSpec, SpecBase};

    #[test]
    fn one_bit_of_one_parameter_gives_another_digest() {
        let text = "apiVersion: cappa.dev/v1\nname: demo\nduration: {steps: 10}\nmodel: {preset: tiny, width: 64, layers: 1, \
                    decoder_layers: 1}\ndata: {train: /data/manifest.json, tokenizer: /data/tokenizer.json}\n";
        let spec = JobSpec::parse(text, &SpecBase::none()).unwrap();
        let job = "demo-1".parse().unwrap();
        let state = || TrainState::initialise(&job, &spec, Step(10), Device::Cpu).unwrap();
        let (one, other) = (state(), state());
        assert_eq!(digest(&one), digest(&other));
        let last = other.model.params().tensors().last().unwrap();
        let bits = last.detach().view_dtype(tch::Kind::Int).view(-1);
        let _ = bits.get(0).bitwise_xor_(1);
        assert_ne!(digest(&one), digest(&other));
    }

    #[test]
    fn the_ranks_that_diverged_are_named() {
        assert!(said(&[Rank(2)], 3, Step(500)).starts_with("the parameters of rank 2 are not"));
        assert!(said(&[Rank(0), Rank(1)], 2, Step(500)).contains("no majority"));
    }
}
