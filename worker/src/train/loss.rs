//! The loss of a step, of whatever the job trains, in as many passes as its memory asks for.
//!
//! A captioner's or classifier's examples are independent: each rank takes the loss of its own. Pairs are contrasted with those of
//! *all* ranks: their embeddings are gathered, and the gradients at them are added up, so that neither the loss nor
//! the update depends on how many ranks there are, who has which pairs, or how many go through the towers at once
//! (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983).

use std::time::{Duration, Instant};

use cappa_collective::{Group, Op};
use cappa_model::{Batch, Captioner, ClassLoss, Classifier, Contrast, ContrastiveLoss, Embeddings, Tape, TwoTower};
use cappa_shared::spec::JobSpec;
use tch::{Kind, TchError, Tensor};

use super::network::Network;
use super::outcome::Departure;

/// How a job's steps are computed.
pub(crate) struct Plan {
    label_smoothing: f64,
    /// Examples of one pass.
    micro_batch: i64,
    /// Examples of the rank that has most.
    most_rows: i64,
    /// Whether blocks are computed again in the backward pass.
    recompute: bool,
}

impl Plan {
    /// The plan of a spec, in a group of so many ranks.
    pub(crate) fn new(spec: &JobSpec, world_size: usize) -> Self {
        let lanes = spec.data.lanes;
        let most_lanes = lanes.div_ceil(u32::try_from(world_size).expect("a world size is small"));
        Self {
            label_smoothing: spec.objective.label_smoothing(),
            micro_batch: spec.micro_batch_size.unwrap_or(spec.batch_size).into(),
            most_rows: i64::from(most_lanes) * i64::from(spec.batch_size / lanes),
            recompute: spec.gradient_checkpointing,
        }
    }

    /// The passes over this rank's part of a batch; without a group, over all of it.
    pub(crate) fn passes<'a>(
        &self,
        network: &'a Network,
        batch: &Batch,
        group: Option<&'a Group>,
    ) -> Result<Passes<'a>, Departure> {
        let rows = batch.weights.size()[0];
        let firsts = (0..rows).step_by(usize::try_from(self.micro_batch).expect("at least one"));
        let micro_batches = firsts.map(|first| batch.narrow(first, self.micro_batch.min(rows - first)));
        let mut micro_batches: Vec<Batch> = micro_batches.collect();
        micro_batches.reverse();
        let work = match network {
            Network::Captioner(captioner) => Work::Caption(captioner, self.label_smoothing),
            Network::Classifier(classifier, loss) => Work::Classify(classifier, *loss, self.label_smoothing),
            Network::TwoTower(towers, loss) => Work::Contrast(Pairs {
                towers,
                loss: *loss,
                group,
                most_rows: self.most_rows,
                asked: None,
                waited: Duration::ZERO,
            }),
        };
        let mut passes = Passes { work, micro_batches, sum: Tensor::from(0f32), recompute: self.recompute };
        passes.prepare()?;
        Ok(passes)
    }
}

/// The forward passes of a step. Differentiate each before the next: together, added up over the ranks, they have
/// the gradients of the sum over all examples.
pub(crate) struct Passes<'a> {
    work: Work<'a>,
    /// Those to come, the next one last.
    micro_batches: Vec<Batch>,
    sum: Tensor,
    recompute: bool,
}

/// A forward pass that was made.
pub(crate) struct Pass<'a> {
    scalar: Tensor,
    tape: Tape<'a>,
}

impl Pass<'_> {
    /// What it came to: a scalar.
    pub(crate) fn scalar(&self) -> &Tensor {
        &self.scalar
    }

    /// Adds the gradients of so many times the scalar to those of the parameters.
    pub(crate) fn backward(self, share: f64) -> Result<(), TchError> {
        self.tape.backward(&(self.scalar * share))
    }
}

enum Work<'a> {
    Caption(&'a Captioner, f64),
    Classify(&'a Classifier, ClassLoss, f64),
    Contrast(Pairs<'a>),
}

impl<'a> Passes<'a> {
    /// Passes to come.
    pub(crate) fn remaining(&self) -> usize {
        self.micro_batches.len()
    }

    /// A scalar: the sum of the losses of this rank's examples, after the last pass.
    pub(crate) fn sum(&self) -> f64 {
        self.sum.double_value(&[])
    }

    /// Pairs of several passes must be embedded all before the first is differentiated.
    fn prepare(&mut self) -> Result<(), Departure> {
        if let (Work::Contrast(pairs), true) = (&mut self.work, self.micro_batches.len() > 1) {
            let in_order = || self.micro_batches.iter().rev();
            let embedded = tch::no_grad(|| {
                in_order().map(|batch| Ok(pairs.towers.embed(batch)?.joint())).collect::<Result<Vec<_>, Departure>>()
            })?;
            let weights: Vec<_> = in_order().map(|batch| &batch.weights).collect();
            pairs.ask(&Tensor::cat(&embedded, 0), &Tensor::cat(&weights, 0))?;
        }
        Ok(())
    }

    /// How long this rank waited for others' embeddings so far: part of its passes, and no time of its own.
    pub(crate) fn waited(&self) -> Duration {
        match &self.work {
            Work::Contrast(pairs) => pairs.waited,
            Work::Caption(..) | Work::Classify(..) => Duration::ZERO,
        }
    }

    /// The next pass.
    pub(crate) fn forward(&mut self) -> Result<Pass<'a>, Departure> {
        let mut tape = Tape::new(self.recompute);
        let scalar = self.scalar(&mut tape)?;
        Ok(Pass { scalar, tape })
    }

    /// The scalar of the next pass, which is to be differentiated.
    fn scalar(&mut self, tape: &mut Tape<'a>) -> Result<Tensor, Departure> {
        let batch = self.micro_batches.pop().expect("a pass is left");
        match &mut self.work {
            Work::Caption(captioner, label_smoothing) => {
                let loss = captioner.loss_taped(&batch, *label_smoothing, tape)?.sum;
                self.sum = self.sum.to_device(loss.device()) + loss.detach();
                Ok(loss)
            }
            Work::Classify(classifier, loss, label_smoothing) => {
                let loss = classifier.loss_taped(&batch, *loss, *label_smoothing, tape)?;
                self.sum = self.sum.to_device(loss.device()) + loss.detach();
                Ok(loss)
            }
            Work::Contrast(pairs) => {
                let (scalar, sum) = pairs.forward(&batch, self.micro_batches.is_empty(), tape)?;
                self.sum = sum;
                Ok(scalar)
            }
        }
    }
}

/// The pairs of a step.
struct Pairs<'a> {
    towers: &'a TwoTower,
    loss: ContrastiveLoss,
    group: Option<&'a Group>,
    most_rows: i64,
    asked: Option<Asked>,
    waited: Duration,
}

/// What all ranks' losses ask of this rank's embeddings.
struct Asked {
    /// This rank's losses, and their gradients of temperature and bias.
    part: Contrast,
    /// Gradients at this rank's embeddings that are still to go back, `[B, 2 · D]`; 0 where there is no good sample.
    gradients: Tensor,
}

impl<'a> Pairs<'a> {
    /// The scalar to be differentiated, and the sum of this rank's losses.
    fn forward(&mut self, batch: &Batch, is_last: bool, tape: &mut Tape<'a>) -> Result<(Tensor, Tensor), Departure> {
        let embedded = self.towers.embed_taped(batch, tape)?;
        if self.asked.is_none() {
            self.ask(&embedded.joint().detach(), &batch.weights)?;
        }
        let Asked { part, gradients } = self.asked.as_mut().expect("just asked");
        let rows = embedded.image.size()[0];
        let mut scalar = self.towers.differentiated(&embedded, &gradients.narrow(0, 0, rows));
        *gradients = gradients.narrow(0, rows, gradients.size()[0] - rows);
        if is_last {
            scalar += self.towers.scale_differentiated(part);
        }
        Ok((scalar, part.per_example.sum(Kind::Float)))
    }

    /// Contrasts this rank's pairs, `joint [B, 2 · D]`, with those of all ranks.
    fn ask(&mut self, joint: &Tensor, weights: &Tensor) -> Result<(), Departure> {
        // Slots without a good sample are nobody's negatives.
        // This waits for the device, so what follows is other ranks' time.
        let present = weights.to_device(joint.device()).gt(0.0).nonzero().squeeze_dim(1);
        let begun = Instant::now();
        let (all, first) = self.gather(&joint.index_select(0, &present))?;
        self.waited += begun.elapsed();
        let rows = present.size()[0];
        let part = self.towers.contrast(self.loss, &Embeddings::of_joint(&all), first..first + rows);
        // What any rank's losses ask of an embedding, its owner is told.
        if let Some(group) = self.group {
            let begun = Instant::now();
            group.all_reduce(&part.gradients, Op::Sum)?;
            self.waited += begun.elapsed();
        }
        let gradients = joint.zeros_like().index_copy(0, &present, &part.gradients.narrow(0, first, rows));
        self.asked = Some(Asked { part, gradients });
        Ok(())
    }

    /// The rows of all ranks, by rank, and where this rank's begin.
    fn gather(&self, rows: &Tensor) -> Result<(Tensor, i64), Departure> {
        let Some(group) = self.group else { return Ok((rows.shallow_clone(), 0)) };
        let count = rows.size()[0];
        // One message of one size for all: who has fewer fills up, and a last column tells which rows count.
        let counts = Tensor::ones([count, 1], (Kind::Float, rows.device()));
        let message = Tensor::cat(&[rows, &counts], 1).constant_pad_nd([0, 0, 0, self.most_rows - count]);
        let width = message.size()[1] - 1;
        let (mut all, mut first) = (Vec::new(), 0);
        for (rank, of_rank) in group.all_gather(&message.contiguous())?.into_iter().enumerate() {
            let count = of_rank.select(1, width).sum(Kind::Int64).int64_value(&[]);
            if rank < group.rank() {
                first += count;
            }
            all.push(of_rank.narrow(0, 0, count).narrow(1, 0, width));
        }
        Ok((Tensor::cat(&all, 0), first))
    }
}

#[cfg(test)]
mod tests;
