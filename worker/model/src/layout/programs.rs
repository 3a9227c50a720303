//! The tables of timm, transformers and open_clip.

use super::{Form, Layout, QKV};

/// Which parameters an image tower of ours has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageTower<'a> {
    /// What its parameters' names begin with.
    pub(crate) root: &'a str,
    /// Blocks.
    pub(crate) layers: i64,
    /// Whether it pools by attention.
    pub(crate) has_map: bool,
    /// Whether it projects, or tells classes.
    pub(crate) has_head: bool,
}

impl ImageTower<'_> {
    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    fn block(&self, i: i64, path: &str) -> String {
        self.at(&format!("Transformer/encoderblock_{i}/{path}"))
    }
}

const ATTENTION: &str = "MultiHeadDotProductAttention_0";
const MAP_ATTENTION: &str = "MAPHead_0/MultiHeadDotProductAttention_0";

/// timm's `VisionTransformer`, below a prefix; a projection is its classifier.
pub(crate) fn timm(prefix: &str, tower: ImageTower<'_>) -> Layout {
    let at = |name: &str| format!("{prefix}{name}");
    let mut layout = Layout::default();
    layout.layer(&at("patch_embed.proj"), &tower.at("embedding"), Form::Patches);
    layout.one(at("pos_embed"), tower.at("pos_embedding"), Form::Same);
    let mlp = |layout: &mut Layout, to: &str, from: &str| {
        layout.mlp(["fc1", "fc2"].map(|layer| format!("{to}.mlp.{layer}")), from);
    };
    for i in 0..tower.layers {
        let to = at(&format!("blocks.{i}"));
        let attention = tower.block(i, ATTENTION);
        layout.layer_norm(&format!("{to}.norm1"), &tower.block(i, "LayerNorm_0"));
        layout.projections(format!("{to}.attn.qkv.weight"), format!("{to}.attn.qkv.bias"), &attention, &QKV);
        layout.layer(&format!("{to}.attn.proj"), &format!("{attention}/out"), Form::Output);
        layout.layer_norm(&format!("{to}.norm2"), &tower.block(i, "LayerNorm_1"));
        mlp(&mut layout, &to, &tower.block(i, "MlpBlock_0"));
    }
    layout.layer_norm(&at("norm"), &tower.at("Transformer/encoder_norm"));
    if tower.has_map {
        let (to, attention) = (at("attn_pool"), tower.at(MAP_ATTENTION));
        layout.one(format!("{to}.latent"), tower.at("MAPHead_0/probe"), Form::Same);
        layout.projections(format!("{to}.q.weight"), format!("{to}.q.bias"), &attention, &QKV[..1]);
        layout.projections(format!("{to}.kv.weight"), format!("{to}.kv.bias"), &attention, &QKV[1..]);
        layout.layer(&format!("{to}.proj"), &format!("{attention}/out"), Form::Output);
        layout.layer_norm(&format!("{to}.norm"), &tower.at("MAPHead_0/LayerNorm_0"));
        mlp(&mut layout, &to, &tower.at("MAPHead_0/MlpBlock_0"));
    }
    if tower.has_head {
        layout.layer(&at("head"), &tower.at("head"), Form::Dense);
    }
    layout
}

/// transformers' `SiglipVisionModel`, which has no place for a projection.
pub(crate) fn transformers(tower: ImageTower<'_>) -> Layout {
    let at = |name: &str| format!("vision_model.{name}");
    let mut layout = Layout::default();
    layout.layer(&at("embeddings.patch_embedding"), &tower.at("embedding"), Form::Patches);
    layout.one(at("embeddings.position_embedding.weight"), tower.at("pos_embedding"), Form::Table);
    for i in 0..tower.layers {
        let to = at(&format!("encoder.layers.{i}"));
        let attention = tower.block(i, ATTENTION);
        layout.layer_norm(&format!("{to}.layer_norm1"), &tower.block(i, "LayerNorm_0"));
        for (letter, part) in ["q", "k", "v"].into_iter().zip(QKV) {
            let name = format!("{to}.self_attn.{letter}_proj");
            layout.projections(format!("{name}.weight"), format!("{name}.bias"), &attention, &[part]);
        }
        layout.layer(&format!("{to}.self_attn.out_proj"), &format!("{attention}/out"), Form::Output);
        layout.layer_norm(&format!("{to}.layer_norm2"), &tower.block(i, "LayerNorm_1"));
        layout.mlp(["fc1", "fc2"].map(|layer| format!("{to}.mlp.{layer}")), &tower.block(i, "MlpBlock_0"));
    }
    layout.layer_norm(&at("post_layernorm"), &tower.at("Transformer/encoder_norm"));
    if tower.has_map {
        let (to, attention) = (at("head"), tower.at(MAP_ATTENTION));
        layout.one(format!("{to}.probe"), tower.at("MAPHead_0/probe"), Form::Same);
        let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{to}.attention.in_proj_{leaf}"));
        layout.projections(weight, bias, &attention, &QKV);
        layout.layer(&format!("{to}.attention.out_proj"), &format!("{attention}/out"), Form::Output);
        layout.layer_norm(&format!("{to}.layernorm"), &tower.at("MAPHead_0/LayerNorm_0"));
        layout.mlp(["fc1", "fc2"].map(|layer| format!("{to}.mlp.{layer}")), &tower.at("MAPHead_0/MlpBlock_0"));
    }
    layout
}

/// What open_clip's `CustomTextCLIP` has besides an image tower of timm: that tower's projection, the text tower `txt` of so many
/// blocks, pooled at the last token, temperature and, with the sigmoid loss, bias.
pub(crate) fn open_clip_text(layers: i64, has_bias: bool) -> Layout {
    let mut layout = Layout::default();
    layout.layer("visual.head.proj", "img/head", Form::Dense);
    layout.one("text.token_embedding.weight", "txt/Embed_0/embedding", Form::Same);
    layout.one("text.positional_embedding", "txt/pos_embedding", Form::Table);
    for i in 0..layers {
        let (to, from) = (format!("text.transformer.resblocks.{i}"), format!("txt/Encoder_0/encoderblock_{i}"));
        let attention = format!("{from}/{ATTENTION}");
        layout.layer_norm(&format!("{to}.ln_1"), &format!("{from}/LayerNorm_0"));
        let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{to}.attn.in_proj_{leaf}"));
        layout.projections(weight, bias, &attention, &QKV);
        layout.layer(&format!("{to}.attn.out_proj"), &format!("{attention}/out"), Form::Output);
        layout.layer_norm(&format!("{to}.ln_2"), &format!("{from}/LayerNorm_1"));
        layout.mlp(["c_fc", "c_proj"].map(|layer| format!("{to}.mlp.{layer}")), &format!("{from}/MlpBlock_0"));
    }
    layout.layer_norm("text.ln_final", "txt/Encoder_0/encoder_norm");
    layout.layer("text.text_projection", "txt/head", Form::Dense);
    layout.one("logit_scale", "t", Form::Scalar);
    if has_bias {
        layout.one("logit_bias", "b", Form::Scalar);
    }
    layout
}
