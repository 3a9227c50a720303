//! The softmax loss of CLIP and the sigmoid loss of SigLIP, of some rows of a batch.
//!
//! N pairs, R of them a rank's own, D width of the embeddings.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

/// How right pairs are told from wrong ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContrastiveLoss {
    /// Half the cross-entropy of a pair's image among all texts, half that of its text among all images
    /// (CLIP, arXiv 2103.00020).
    Softmax,
    /// A logistic regression for each pair of image and text, summed over the texts of an image (SigLIP,
    /// arXiv 2303.15343).
    Sigmoid,
}

/// Embedded pairs: row i of one belongs to row i of the other.
#[derive(Debug)]
pub struct Embeddings {
    /// `[N, D]`.
    pub image: Tensor,
    /// `[N, D]`.
    pub text: Tensor,
}

impl Embeddings {
    /// Both in one, images first: `[N, 2 · D]`.
    pub fn joint(&self) -> Tensor {
        Tensor::cat(&[&self.image, &self.text], 1)
    }

    /// The inverse of [`Embeddings::joint`].
    #[must_use]
    pub fn of_joint(joint: &Tensor) -> Self {
        let half = joint.size()[1] / 2;
        Self { image: joint.narrow(1, 0, half), text: joint.narrow(1, half, half) }
    }
}

/// What the losses of a rank's own pairs come to.
#[derive(Debug)]
pub struct Contrast {
    /// The loss of each, `[R]`, without gradient.
    pub per_example: Tensor,
    /// Gradients of their sum at the embeddings of *all* pairs, `[N, 2 · D]`, images' first. Their sum over the
    /// ranks is the gradient of the sum over all pairs.
    pub gradients: Tensor,
    /// Gradient of their sum at the log-temperature, `[1]`.
    pub(super) temperature: Tensor,
    /// The same at the bias, where the model has one.
    pub(super) bias: Option<Tensor>,
}

impl Contrast {
    pub(super) fn new(
        loss: ContrastiveLoss,
        pairs: &Embeddings,
        own: Range<i64>,
        temperature: &Tensor,
        bias: Option<&Tensor>,
    ) -> Self {
        if own.is_empty() {
            let joint = pairs.joint();
            let none = |tensor: &Tensor| tensor.detach().zeros_like();
            let per_example = Tensor::zeros([0i64], (Kind::Float, joint.device()));
            return Self { per_example, gradients: none(&joint), temperature: none(temperature), bias: bias.map(none) };
        }
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        let joint = leaf(&pairs.joint());
        let (temperature, bias) = (leaf(temperature), bias.map(leaf));
        let losses = losses(loss, &Embeddings::of_joint(&joint), own, &temperature, bias.as_ref());
        let mut leaves = vec![&joint, &temperature];
        // The softmax does not see the bias.
        let seen = bias.as_ref().filter(|_| loss == ContrastiveLoss::Sigmoid);
        leaves.extend(seen);
        let mut gradients = Tensor::run_backward(&[losses.sum(Kind::Float)], &leaves, false, false).into_iter();
        let mut next = || gradients.next().expect("a gradient for every leaf");
        let (gradients, temperature) = (next(), next());
        let bias = bias.as_ref().map(|bias| if seen.is_some() { next() } else { bias.zeros_like() });
        Self { per_example: losses.detach(), gradients, temperature, bias }
    }
}

/// The logits of own images among all texts, `[R, N]`, or the other way round.
fn logits(own: &Tensor, all: &Tensor, temperature: &Tensor) -> Tensor {
    own.matmul(&all.tr()) * temperature.exp()
}

/// The loss of each pair in `own`, `[R]`.
fn losses(
    loss: ContrastiveLoss,
    pairs: &Embeddings,
    own: Range<i64>,
    temperature: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    let (first, rows) = (own.start, own.end - own.start);
    let partners = Tensor::arange_start(own.start, own.end, (Kind::Int64, pairs.image.device()));
    let images = pairs.image.narrow(0, first, rows);
    let to_texts = logits(&images, &pairs.text, temperature);
    match loss {
        ContrastiveLoss::Softmax => {
            let to_images = logits(&pairs.text.narrow(0, first, rows), &pairs.image, temperature);
            let entropy =
                |logits: Tensor| logits.cross_entropy_loss::<Tensor>(&partners, None, Reduction::None, -100, 0.0);
            (entropy(to_texts) + entropy(to_images)) * 0.5
        }
        ContrastiveLoss::Sigmoid => {
            let biased = match bias {
                Some(bias) => to_texts + bias,
                None => to_texts,
            };
            // +1 for the partner, -1 for all others.
            let signs = biased.detach().full_like(-1.0).scatter_value(1, &partners.unsqueeze(1), 1.0);
            -(biased * signs).log_sigmoid().sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
        }
    }
}
