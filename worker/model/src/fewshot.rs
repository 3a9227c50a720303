//! Few-shot linear classification of frozen features, in closed form, as the authors evaluate encoders: ridge
//! regression of ±1 targets on standardised features.
//!
//! N training examples, M other examples, D features, C classes.

use tch::{Device, Kind, Tensor};

/// Added to the features' standard deviations.
const STD_EPSILON: f64 = 1e-5;
/// The constant feature: so large that its weight, the bias, is hardly regularised.
const BIAS_FEATURE: f64 = 100.0;

/// The regression of labels on features, before the strength of its regularisation is chosen: the costly part,
/// an eigendecomposition, is done once for all strengths.
#[derive(Debug)]
pub struct FewShot {
    mean: Tensor,
    std: Tensor,
    /// Turns the eigenvectors' coordinates into weights: `[D + 1, K]`.
    left: Tensor,
    /// The targets in those coordinates: `[K, C]`.
    right: Tensor,
    /// Of XᵀX or XXᵀ, whichever is smaller: `[K]`.
    eigenvalues: Tensor,
}

/// A linear classifier.
#[derive(Debug)]
pub struct LinearClassifier {
    mean: Tensor,
    std: Tensor,
    /// `[D + 1, C]`, the bias last.
    weights: Tensor,
}

impl FewShot {
    /// Takes features `[N, D]` and labels `[N]` (i64, below `classes`). Computes in f64, on the CPU.
    #[must_use]
    pub fn new(features: &Tensor, labels: &Tensor, classes: i64) -> Self {
        let features = features.to_device(Device::Cpu).to_kind(Kind::Double);
        let mean = features.mean_dim([0i64].as_slice(), true, Kind::Double);
        let std = (&features - &mean).square().mean_dim([0i64].as_slice(), true, Kind::Double).sqrt() + STD_EPSILON;
        let x = standardised(&features, &mean, &std);
        let y = labels.to_device(Device::Cpu).to_kind(Kind::Int64).one_hot(classes).to_kind(Kind::Double) * 2.0 - 1.0;
        // (XᵀX + λ)⁻¹ Xᵀ = Xᵀ (XXᵀ + λ)⁻¹: the smaller of the two products is decomposed.
        let is_tall = x.size()[0] >= x.size()[1];
        let gram = if is_tall { x.tr().matmul(&x) } else { x.matmul(&x.tr()) };
        let (eigenvalues, vectors) = gram.linalg_eigh("L");
        let (left, right) = match is_tall {
            true => (vectors.shallow_clone(), vectors.tr().matmul(&x.tr().matmul(&y))),
            false => (x.tr().matmul(&vectors), vectors.tr().matmul(&y)),
        };
        Self { mean, std, left, right, eigenvalues }
    }

    /// The classifier of one strength λ: the weights W that minimise ‖X W - Y‖² + λ ‖W‖², bias included.
    #[must_use]
    pub fn classifier(&self, l2: f64) -> LinearClassifier {
        let damped = (&self.eigenvalues + l2).unsqueeze(1);
        let weights = self.left.matmul(&(&self.right / damped));
        LinearClassifier { mean: self.mean.shallow_clone(), std: self.std.shallow_clone(), weights }
    }
}

impl LinearClassifier {
    /// Features `[M, D]` → scores `[M, C]`, f64, on the CPU; the greatest of a row is its class.
    pub fn scores(&self, features: &Tensor) -> Tensor {
        let features = features.to_device(Device::Cpu).to_kind(Kind::Double);
        standardised(&features, &self.mean, &self.std).matmul(&self.weights)
    }

    /// The share of `features [M, D]` whose class is their label's, `[M]`.
    #[must_use]
    pub fn accuracy(&self, features: &Tensor, labels: &Tensor) -> f64 {
        let right = self.scores(features).argmax(1, false).eq_tensor(&labels.to_device(Device::Cpu));
        right.to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    }
}

/// Standardised as the training examples are, with the constant feature: `[N, D]` → `[N, D + 1]`.
fn standardised(features: &Tensor, mean: &Tensor, std: &Tensor) -> Tensor {
    let bias = Tensor::full([features.size()[0], 1], BIAS_FEATURE, (Kind::Double, Device::Cpu));
    Tensor::cat(&[(features - mean) / std, bias], 1)
}
