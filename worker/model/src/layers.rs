//! The layers that encoder and decoder share.
//!
//! R rows (examples, or examples × candidates), T tokens or patches, E width, H heads, D head dim.

use tch::{Kind, Tensor};

use crate::linear::linear;
use crate::{ModelError, ParamTable};

/// Inside the square root of every layer norm.
const LAYER_NORM_EPSILON: f64 = 1e-6;

/// Number format of matrix products and attention. Parameters, layer norms, the residual stream
/// and the loss are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// The tensor in this format (itself, where it is already).
    pub(crate) fn cast(self, tensor: &Tensor) -> Tensor {
        match self {
            Self::Fp32 => tensor.to_kind(Kind::Float),
            Self::Bf16 => tensor.to_kind(Kind::BFloat16),
        }
    }
}

/// Where the layers find their parameters: a table and the path reached in it.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    params: &'a ParamTable,
    path: String,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(params: &'a ParamTable) -> Self {
        Self { params, path: String::new() }
    }

    pub(crate) fn at(&self, part: &str) -> Self {
        let path = if self.path.is_empty() { part.to_owned() } else { format!("{}/{part}", self.path) };
        Self { params: self.params, path }
    }

    /// The parameter `part`, sharing memory and gradient with the table.
    pub(crate) fn get(&self, part: &str) -> Result<Tensor, ModelError> {
        self.find(part).ok_or_else(|| ModelError::MissingTensor { name: self.at(part).path })
    }

    /// The parameter `part`, where the network has it.
    pub(crate) fn find(&self, part: &str) -> Option<Tensor> {
        self.params.get(&self.at(part).path).map(Tensor::shallow_clone)
    }
}

/// Layer norm with a scale and, where the table has one, a bias.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    scale: Tensor,
    bias: Option<Tensor>,
}

impl LayerNorm {
    pub(crate) fn new(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { scale: scope.get("scale")?, bias: scope.find("bias") })
    }

    /// `[.., E]` → `[.., E]`, f32.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.scale.size(), Some(&self.scale), self.bias.as_ref(), LAYER_NORM_EPSILON, true)
    }
}

/// A matrix and, where the table has one, a bias.
#[derive(Debug)]
pub(crate) struct Dense {
    kernel: Tensor,
    bias: Option<Tensor>,
}

impl Dense {
    pub(crate) fn new(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { kernel: scope.get("kernel")?, bias: scope.find("bias") })
    }

    /// `[R, T, in]` → `[R, T, out]`. Kernels with more dimensions are flattened to `in × out`,
    /// where `in` is the width of `x`.
    pub(crate) fn forward(&self, x: &Tensor, precision: Precision) -> Tensor {
        Self::joint(&[self], x, precision)
    }

    /// Several layers of the same input in one product: `[R, T, in]` → `[R, T, sum of outs]`.
    pub(crate) fn joint(layers: &[&Self], x: &Tensor, precision: Precision) -> Tensor {
        let inputs = *x.size().last().expect("inputs have a width");
        let kernels: Vec<_> = layers.iter().map(|layer| layer.kernel.reshape([inputs, -1])).collect();
        let biases: Option<Vec<_>> = layers.iter().map(|layer| Some(layer.bias.as_ref()?.reshape([-1]))).collect();
        let bias = biases.map(|biases| precision.cast(&join(&biases, 0)));
        linear(&precision.cast(x), &precision.cast(&join(&kernels, 1)), bias.as_ref())
    }
}

fn join(parts: &[Tensor], dim: i64) -> Tensor {
    match parts {
        [one] => one.shallow_clone(),
        many => Tensor::cat(many, dim),
    }
}

/// Two dense layers with the tanh form of GELU between.
#[derive(Debug)]
pub(crate) struct Mlp {
    expand: Dense,
    contract: Dense,
}

impl Mlp {
    pub(crate) fn new(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { expand: Dense::new(&scope.at("Dense_0"))?, contract: Dense::new(&scope.at("Dense_1"))? })
    }

    pub(crate) fn forward(&self, x: &Tensor, precision: Precision) -> Tensor {
        self.contract.forward(&self.expand.forward(x, precision).gelu("tanh"), precision)
    }
}

/// Which tokens a query sees.
#[derive(Debug)]
pub(crate) enum Mask {
    /// All of them.
    Full,
    /// Itself and the earlier ones.
    Causal,
    /// Added to the attention logits: `[R, 1, T, T]`, 0 or -∞.
    Additive(Tensor),
}

/// Keys and values of the tokens that are attended to, each `[R, H, T, D]`.
#[derive(Debug)]
pub(crate) struct KeyValue {
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
}

impl KeyValue {
    /// The same done to both.
    pub(crate) fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self { key: change(&self.key), value: change(&self.value) }
    }
}

/// Multi-head dot-product attention.
#[derive(Debug)]
pub(crate) struct Attention {
    heads: i64,
    query: Dense,
    key: Dense,
    value: Dense,
    out: Dense,
}

impl Attention {
    pub(crate) fn new(scope: &Scope, heads: i64) -> Result<Self, ModelError> {
        let dense = |part: &str| Dense::new(&scope.at(part));
        Ok(Self { heads, query: dense("query")?, key: dense("key")?, value: dense("value")?, out: dense("out")? })
    }

    /// Attention of `x [R, T, E]` to itself.
    pub(crate) fn to_self(&self, x: &Tensor, mask: &Mask, precision: Precision) -> Tensor {
        let (query, memory) = self.project(x, precision);
        self.attend(&query, &memory, mask, precision)
    }

    /// The query of `x [R, T, E]`, and its key and value.
    pub(crate) fn project(&self, x: &Tensor, precision: Precision) -> (Tensor, KeyValue) {
        let parts = self.split(&Dense::joint(&[&self.query, &self.key, &self.value], x, precision), 3);
        let [query, key, value] = <[Tensor; 3]>::try_from(parts).expect("split in three");
        (query, KeyValue { key, value })
    }

    /// The query of `x [R, T, E]` alone: `[R, H, T, D]`.
    pub(crate) fn query(&self, x: &Tensor, precision: Precision) -> Tensor {
        self.split(&self.query.forward(x, precision), 1).remove(0)
    }

    /// Key and value of another sequence, `[R, T, E]`.
    pub(crate) fn memory(&self, x: &Tensor, precision: Precision) -> KeyValue {
        let parts = self.split(&Dense::joint(&[&self.key, &self.value], x, precision), 2);
        let [key, value] = <[Tensor; 2]>::try_from(parts).expect("split in two");
        KeyValue { key, value }
    }

    /// `query [R, H, T, D]` → `[R, T, E]`.
    pub(crate) fn attend(&self, query: &Tensor, memory: &KeyValue, mask: &Mask, precision: Precision) -> Tensor {
        let (bias, causal) = match mask {
            Mask::Full => (None, false),
            Mask::Causal => (None, true),
            Mask::Additive(bias) => (Some(bias), false),
        };
        let bias = bias.map(|bias| bias.to_kind(query.kind()));
        let KeyValue { key, value } = memory;
        let y = Tensor::scaled_dot_product_attention(query, key, value, bias, 0.0, causal, None, false);
        let (rows, heads, tokens, dim) = y.size4().expect("attention has four dimensions");
        self.out.forward(&y.transpose(1, 2).reshape([rows, tokens, heads * dim]), precision)
    }

    /// `[R, T, n·H·D]` → n × `[R, H, T, D]`.
    fn split(&self, joint: &Tensor, n: i64) -> Vec<Tensor> {
        let (rows, tokens, width) = joint.size3().expect("activations have three dimensions");
        let dim = width / n / self.heads;
        joint.view([rows, tokens, n, self.heads, dim]).permute([2, 0, 3, 1, 4]).unbind(0)
    }
}
