//! The image encoder for other programs: weights under the names, in the layouts and with the settings by which timm and
//! transformers load them without our code.
//!
//! Both have the same network under other names: pre-norm blocks with biases, tanh GELU, layer norm epsilon 1e-6, no class
//! token. They differ in what comes after it: a captioner's representation is the mean over patches *after* the final layer
//! norm; two towers pool by attention, and project. E width, M hidden width, H heads, D head dim, P patches.

use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::config::{PositionEmbedding, VisionConfig, check};
use crate::{Captioner, Classifier, ModelError, ParamTable, Pooling, TwoTower, position};

/// Whose names and layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// timm's `VisionTransformer` (`vit_*`), with `timm.create_model("local-dir:DIR")`.
    Timm,
    /// transformers' `SiglipVisionModel`, with `SiglipVisionModel.from_pretrained(DIR)`.
    Transformers,
}

/// An encoder as another program loads it: the contents of a folder.
#[derive(Debug)]
pub struct Exported {
    /// Of `model.safetensors`: f32, on the host, contiguous.
    pub tensors: Vec<(String, Tensor)>,
    /// JSON files by name: the network's sizes, and how pictures are prepared.
    pub documents: Vec<(&'static str, Value)>,
}

impl Exported {
    /// Name and content of every file of the folder.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = vec![("model.safetensors", self.weights())];
        files.extend(self.documents.iter().map(|(name, document)| (*name, format!("{document:#}\n").into_bytes())));
        files
    }

    fn weights(&self) -> Vec<u8> {
        let raw = self.tensors.iter().map(|(name, tensor)| {
            let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            let shape = tensor.size().into_iter().map(|n| usize::try_from(n).expect("sizes are not negative"));
            (name, shape.collect::<Vec<_>>(), bytes)
        });
        let raw: Vec<_> = raw.collect();
        let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        let views = raw
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), view(shape, bytes).expect("a shape and what fills it")));
        // transformers asks for whom a file was written.
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views.collect::<Vec<_>>(), Some(format)).expect("tensors with names of their own")
    }
}

impl Captioner {
    /// The encoder, with mean pooling.
    ///
    /// # Errors
    /// Images or patches are not square.
    pub fn export(&self, format: Format) -> Result<Exported, ModelError> {
        Encoder { params: self.params(), root: "encoder", vision: self.config().vision(), head: None }.export(format)
    }
}

impl TwoTower {
    /// The image tower with its pooling. timm gets the projection too, as its head; transformers has no place for one, so
    /// there the representation is that before it.
    ///
    /// # Errors
    /// Images or patches are not square.
    pub fn export(&self, format: Format) -> Result<Exported, ModelError> {
        let config = self.config();
        let head = Some(Head { pooling: config.image.pooling, embedding: config.embedding });
        Encoder { params: self.params(), root: "img", vision: config.vision(), head }.export(format)
    }
}

impl Classifier {
    /// The encoder with its pooling; timm gets the classes too, as its head.
    ///
    /// # Errors
    /// Images or patches are not square.
    pub fn export(&self, format: Format) -> Result<Exported, ModelError> {
        let config = self.config();
        let head = Some(Head { pooling: config.image.pooling, embedding: config.classes });
        Encoder { params: self.params(), root: "img", vision: config.vision(), head }.export(format)
    }
}

struct Encoder<'a> {
    params: &'a ParamTable,
    root: &'static str,
    vision: VisionConfig,
    head: Option<Head>,
}

#[derive(Clone, Copy)]
struct Head {
    pooling: Pooling,
    embedding: i64,
}

/// One of the three dense layers that attention begins with.
type Projection = (Tensor, Tensor);

impl Encoder<'_> {
    fn export(&self, format: Format) -> Result<Exported, ModelError> {
        let VisionConfig { image_size: [height, width], patch: [rows, columns], .. } = self.vision;
        check("image height", height, height == width, "exported encoders take square images")?;
        check("patch height", rows, rows == columns, "exported encoders take square patches")?;
        let _no_grad = tch::no_grad_guard();
        let (tensors, documents) = match format {
            Format::Timm => (self.timm(), vec![("config.json", self.timm_config())]),
            Format::Transformers => (
                self.transformers(),
                vec![
                    ("config.json", self.transformers_config()),
                    ("preprocessor_config.json", self.transformers_preparation()),
                ],
            ),
        };
        let on_host = |tensor: Tensor| tensor.to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous();
        Ok(Exported { tensors: tensors.into_iter().map(|(name, t)| (name, on_host(t))).collect(), documents })
    }

    fn has_attention_pooling(&self) -> bool {
        self.head.is_some_and(|head| head.pooling == Pooling::Map)
    }

    fn param(&self, path: &str) -> Tensor {
        let name = format!("{}/{path}", self.root);
        self.params.get(&name).expect("a network has all its parameters").detach()
    }

    /// `[in, out]` → `[out, in]`.
    fn dense(&self, path: &str) -> [(&'static str, Tensor); 2] {
        [("weight", self.param(&format!("{path}/kernel")).tr()), ("bias", self.param(&format!("{path}/bias")))]
    }

    fn layer_norm(&self, path: &str) -> [(&'static str, Tensor); 2] {
        [("weight", self.param(&format!("{path}/scale"))), ("bias", self.param(&format!("{path}/bias")))]
    }

    /// Query, key and value `[E, H, D]` → `[H · D, E]`, and their biases.
    fn projections(&self, path: &str) -> [Projection; 3] {
        ["query", "key", "value"].map(|part| {
            let kernel = self.param(&format!("{path}/{part}/kernel")).flatten(1, 2).tr();
            (kernel, self.param(&format!("{path}/{part}/bias")).flatten(0, 1))
        })
    }

    /// `[H, D, E]` → `[E, H · D]`.
    fn output(&self, path: &str) -> [(&'static str, Tensor); 2] {
        let kernel = self.param(&format!("{path}/out/kernel")).flatten(0, 1).tr();
        [("weight", kernel), ("bias", self.param(&format!("{path}/out/bias")))]
    }

    /// `[patch, patch, 3, E]` → `[E, 3, patch, patch]`.
    fn patches(&self) -> [(&'static str, Tensor); 2] {
        let kernel = self.param("embedding/kernel").permute([3, 2, 0, 1]);
        [("weight", kernel), ("bias", self.param("embedding/bias"))]
    }

    /// `[1, P, E]`: other programs have a table where ours is fixed.
    fn positions(&self) -> Tensor {
        match self.vision.position {
            PositionEmbedding::Learn => self.param("pos_embedding"),
            PositionEmbedding::Sincos2d => position::sincos2d(self.vision.grid(), self.vision.width, tch::Device::Cpu),
        }
    }

    fn timm(&self) -> Vec<(String, Tensor)> {
        let mut named = Named::default();
        named.all("patch_embed.proj", self.patches());
        named.one("pos_embed", self.positions());
        for i in 0..self.vision.layers {
            let (from, to) = (format!("Transformer/encoderblock_{i}"), format!("blocks.{i}"));
            let attention = format!("{from}/MultiHeadDotProductAttention_0");
            named.all(&format!("{to}.norm1"), self.layer_norm(&format!("{from}/LayerNorm_0")));
            named.all(&format!("{to}.attn.qkv"), joined(&self.projections(&attention)));
            named.all(&format!("{to}.attn.proj"), self.output(&attention));
            named.all(&format!("{to}.norm2"), self.layer_norm(&format!("{from}/LayerNorm_1")));
            self.mlp(&mut named, &format!("{from}/MlpBlock_0"), &format!("{to}.mlp"));
        }
        named.all("norm", self.layer_norm("Transformer/encoder_norm"));
        if self.has_attention_pooling() {
            let attention = "MAPHead_0/MultiHeadDotProductAttention_0";
            let [query, key, value] = self.projections(attention);
            named.one("attn_pool.latent", self.param("MAPHead_0/probe"));
            named.all("attn_pool.q", [("weight", query.0), ("bias", query.1)]);
            named.all("attn_pool.kv", joined(&[key, value]));
            named.all("attn_pool.proj", self.output(attention));
            named.all("attn_pool.norm", self.layer_norm("MAPHead_0/LayerNorm_0"));
            self.mlp(&mut named, "MAPHead_0/MlpBlock_0", "attn_pool.mlp");
        }
        if self.head.is_some() {
            named.all("head", self.dense("head"));
        }
        named.0
    }

    fn transformers(&self) -> Vec<(String, Tensor)> {
        let mut named = Named::default();
        let at = |name: &str| format!("vision_model.{name}");
        named.all(&at("embeddings.patch_embedding"), self.patches());
        named.one(&at("embeddings.position_embedding.weight"), self.positions().squeeze_dim(0));
        for i in 0..self.vision.layers {
            let (from, to) = (format!("Transformer/encoderblock_{i}"), at(&format!("encoder.layers.{i}")));
            let attention = format!("{from}/MultiHeadDotProductAttention_0");
            named.all(&format!("{to}.layer_norm1"), self.layer_norm(&format!("{from}/LayerNorm_0")));
            for (part, (weight, bias)) in ["q", "k", "v"].into_iter().zip(self.projections(&attention)) {
                named.all(&format!("{to}.self_attn.{part}_proj"), [("weight", weight), ("bias", bias)]);
            }
            named.all(&format!("{to}.self_attn.out_proj"), self.output(&attention));
            named.all(&format!("{to}.layer_norm2"), self.layer_norm(&format!("{from}/LayerNorm_1")));
            self.mlp(&mut named, &format!("{from}/MlpBlock_0"), &format!("{to}.mlp"));
        }
        named.all(&at("post_layernorm"), self.layer_norm("Transformer/encoder_norm"));
        if self.has_attention_pooling() {
            let attention = "MAPHead_0/MultiHeadDotProductAttention_0";
            named.one(&at("head.probe"), self.param("MAPHead_0/probe"));
            let [(_, weight), (_, bias)] = joined(&self.projections(attention));
            named.one(&at("head.attention.in_proj_weight"), weight);
            named.one(&at("head.attention.in_proj_bias"), bias);
            named.all(&at("head.attention.out_proj"), self.output(attention));
            named.all(&at("head.layernorm"), self.layer_norm("MAPHead_0/LayerNorm_0"));
            self.mlp(&mut named, "MAPHead_0/MlpBlock_0", &at("head.mlp"));
        }
        named.0
    }

    fn mlp(&self, named: &mut Named, from: &str, to: &str) {
        named.all(&format!("{to}.fc1"), self.dense(&format!("{from}/Dense_0")));
        named.all(&format!("{to}.fc2"), self.dense(&format!("{from}/Dense_1")));
    }

    /// As timm's models on the hub have it.
    fn timm_config(&self) -> Value {
        let VisionConfig { image_size: [image, _], patch: [patch, _], width, layers, heads, mlp, .. } = self.vision;
        let pool = if self.has_attention_pooling() { "map" } else { "avg" };
        let classes = self.head.map_or(0, |head| head.embedding);
        // timm takes the whole part of width · ratio.
        let ratio = if mlp % width == 0 { (mlp / width) as f64 } else { (mlp as f64 + 0.5) / width as f64 };
        json!({
            "architecture": "vit_base_patch16_224",
            "num_classes": classes,
            "num_features": width,
            "global_pool": pool,
            "model_args": {
                "img_size": image, "patch_size": patch, "embed_dim": width, "depth": layers, "num_heads": heads,
                "mlp_ratio": ratio, "class_token": false, "global_pool": pool, "fc_norm": false,
                "act_layer": "gelu_tanh",
            },
            "pretrained_cfg": {
                "input_size": [3, image, image], "fixed_input_size": true, "interpolation": "bilinear",
                "crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                "first_conv": "patch_embed.proj", "classifier": "head", "num_classes": classes,
            },
        })
    }

    fn transformers_config(&self) -> Value {
        let VisionConfig { image_size: [image, _], patch: [patch, _], width, layers, heads, mlp, .. } = self.vision;
        json!({
            "architectures": ["SiglipVisionModel"],
            "model_type": "siglip_vision_model",
            "image_size": image, "patch_size": patch, "num_channels": 3, "hidden_size": width,
            "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "attention_dropout": 0.0,
            "vision_use_head": self.has_attention_pooling(),
        })
    }

    fn transformers_preparation(&self) -> Value {
        let [height, width] = self.vision.image_size;
        let bilinear = 2;
        json!({
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": true, "size": { "height": height, "width": width }, "resample": bilinear,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0,
            "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        })
    }
}

/// Several projections one below the other.
fn joined(projections: &[Projection]) -> [(&'static str, Tensor); 2] {
    let cat = |of: fn(&Projection) -> &Tensor| Tensor::cat(&projections.iter().map(of).collect::<Vec<_>>(), 0);
    [("weight", cat(|projection| &projection.0)), ("bias", cat(|projection| &projection.1))]
}

#[derive(Default)]
struct Named(Vec<(String, Tensor)>);

impl Named {
    fn one(&mut self, name: &str, tensor: Tensor) {
        self.0.push((name.to_owned(), tensor));
    }

    fn all(&mut self, name: &str, tensors: [(&'static str, Tensor); 2]) {
        self.0.extend(tensors.map(|(kind, tensor)| (format!("{name}.{kind}"), tensor)));
    }
}
