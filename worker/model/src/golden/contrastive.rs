//! Check of the two-tower model: embeddings, both losses, all gradients of each.

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::compare::{Comparison, Tolerance};
use super::reference::{GoldenError, Reference, image_size};
use crate::config::PositionEmbedding;
use crate::contrastive::{ContrastiveConfig, ContrastiveLoss, Pooling, TowerConfig, TwoTower};
use crate::tap::Recorder;

const EMBEDDINGS: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
const LOGITS: Tolerance = Tolerance::absolute(5e-5);
const LOSSES: Tolerance = Tolerance::absolute(2e-5);
const GRADIENTS: Tolerance = Tolerance { absolute: 5e-5, relative: 1e-4 };

#[derive(Deserialize)]
struct Model {
    image: ImageTower,
    text: TextTower,
    out_dim: i64,
    temperature_init: f64,
}

#[derive(Deserialize)]
struct ImageTower {
    width: i64,
    depth: i64,
    mlp_dim: i64,
    num_heads: i64,
    patch_size: [i64; 2],
    pool_type: Pooling,
    #[serde(default = "learned")]
    posemb: PositionEmbedding,
}

#[derive(Deserialize)]
struct TextTower {
    width: i64,
    depth: i64,
    mlp_dim: i64,
    num_heads: i64,
    vocab_size: i64,
    #[serde(default = "last")]
    pool_type: Pooling,
}

fn learned() -> PositionEmbedding {
    PositionEmbedding::Learn
}

fn last() -> Pooling {
    Pooling::Last
}

fn model(reference: &Reference, text_length: i64) -> Result<TwoTower, GoldenError> {
    let Model { image, text, out_dim, temperature_init } = reference.describe("/model")?;
    let config = ContrastiveConfig {
        image_size: image_size(reference.tensor("inputs/image")?)?,
        patch: image.patch_size,
        position: image.posemb,
        image: TowerConfig {
            width: image.width,
            layers: image.depth,
            heads: image.num_heads,
            mlp: image.mlp_dim,
            pooling: image.pool_type,
        },
        text: TowerConfig {
            width: text.width,
            layers: text.depth,
            heads: text.num_heads,
            mlp: text.mlp_dim,
            pooling: text.pool_type,
        },
        vocab: text.vocab_size,
        text_length,
        embedding: out_dim,
        temperature: temperature_init,
        bias: reference.find("params/b").map(|_| 0.0),
    };
    Ok(TwoTower::from_named(&config, &reference.named_params(), reference.device())?)
}

/// `contrastive`: what the towers compute, then each loss with its gradients.
pub(super) fn contrastive(reference: &Reference, comparison: &mut Comparison) -> Result<(), GoldenError> {
    let tokens = reference.tensor("inputs/labels")?.to_kind(Kind::Int64);
    let images = reference.tensor("inputs/image")?;
    let model = model(reference, tokens.size().last().copied().unwrap_or_default())?;
    let (mut image, mut text) = (Recorder::default(), Recorder::default());
    let embedded = crate::Embeddings {
        image: model.embed_images_tapped(images, &mut image)?,
        text: model.embed_texts_tapped(&tokens, &mut text)?,
    };
    for (tower, Recorder(activations)) in [("img", image), ("txt", text)] {
        for (name, activation) in activations {
            comparison.check_if_there(&format!("outputs/{tower}_{name}"), &activation, EMBEDDINGS);
        }
    }
    comparison.check("outputs/zimg", &embedded.image, EMBEDDINGS)?;
    comparison.check("outputs/ztxt", &embedded.text, EMBEDDINGS)?;
    let parameter = |name: &str| Ok::<_, GoldenError>(reference.tensor(&format!("params/{name}"))?.shallow_clone());
    comparison.check("outputs/t", &parameter("t")?.exp(), EMBEDDINGS)?;
    let similarity = model.similarity(&embedded.image, &embedded.text);
    comparison.check("outputs/logits_softmax", &similarity, LOGITS)?;
    if reference.find("outputs/b").is_some() {
        comparison.check("outputs/b", &parameter("b")?, EMBEDDINGS)?;
        comparison.check("outputs/logits_sigmoid", &(similarity + parameter("b")?), LOGITS)?;
    }
    for (name, loss) in [("softmax", ContrastiveLoss::Softmax), ("sigmoid", ContrastiveLoss::Sigmoid)] {
        if reference.find(&format!("outputs/loss_{name}")).is_some() {
            training(&model, &embedded, (name, loss), comparison)?;
        }
    }
    Ok(())
}

/// A loss, and what its backward pass leaves in every parameter.
fn training(
    model: &TwoTower,
    embedded: &crate::Embeddings,
    (name, loss): (&str, ContrastiveLoss),
    comparison: &mut Comparison,
) -> Result<(), GoldenError> {
    model.params().clear_grads()?;
    let pairs = embedded.image.size()[0];
    let part = model.contrast(loss, embedded, 0..pairs);
    comparison.check_if_there(&format!("outputs/loss_{name}_per_example"), &part.per_example, LOSSES);
    comparison.check(&format!("outputs/loss_{name}"), &part.per_example.mean(Kind::Float), LOSSES)?;
    let sum = model.differentiated(embedded, &part.gradients) + model.scale_differentiated(&part);
    Tensor::run_backward(&[sum / pairs as f64], &model.params().tensors().collect::<Vec<_>>(), true, false)
        .iter()
        .zip(model.params().iter())
        .try_fold(0.0, |squares, (grad, (param, _))| {
            comparison.check(&format!("grads_{name}/{param}"), grad, GRADIENTS)?;
            Ok(squares + grad.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]))
        })
        .and_then(|squares: f64| {
            comparison.check(&format!("outputs/l2_grads_{name}"), &Tensor::from(squares.sqrt()), GRADIENTS)
        })
}
