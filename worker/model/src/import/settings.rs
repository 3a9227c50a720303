//! What the files beside weights say of a network, and what is usual where they say nothing.

use serde_json::Value;

use super::{Hints, TRUNK};

/// Heads of the vision transformers of these widths (Dosovitskiy et al., arXiv 2010.11929; Zhai et al., arXiv 2106.04560, 2303.15343).
const USUAL_HEADS: [(i64, i64); 9] =
    [(192, 3), (384, 6), (512, 8), (640, 10), (768, 12), (1024, 16), (1152, 16), (1280, 16), (1536, 16)];

pub(super) struct Settings<'a>(&'a Hints);

impl<'a> Settings<'a> {
    pub(super) fn new(hints: &'a Hints) -> Self {
        Self(hints)
    }

    fn at(&self, document: &str, pointer: &str) -> Option<&Value> {
        self.0.documents.get(document)?.pointer(pointer)
    }

    fn text(&self) -> Option<&Value> {
        self.at("open_clip_config.json", "/model_cfg/text_cfg")
    }

    /// Attention heads of a tower, and what was assumed.
    ///
    /// # Errors
    /// Nothing tells, in words.
    pub(super) fn heads(&self, width: i64, prefix: &str) -> Result<(i64, Option<String>), String> {
        // Both programs leave out what is their default.
        const OPEN_CLIPS: i64 = 8;
        let stated = match prefix {
            "text." => self.text().map(|text| text.get("heads").and_then(Value::as_i64).unwrap_or(OPEN_CLIPS)),
            TRUNK => self.at("image-tower/config.json", "/model_args/num_heads").and_then(Value::as_i64),
            _ => ["/model_args/num_heads", "/num_attention_heads", "/vision_config/num_attention_heads"]
                .iter()
                .find_map(|pointer| self.at("config.json", pointer)?.as_i64()),
        };
        let usual = || USUAL_HEADS.iter().find(|(of, _)| *of == width).map(|(_, heads)| *heads);
        match self.0.heads.or(stated) {
            Some(heads) if heads > 0 && width % heads == 0 => Ok((heads, None)),
            Some(heads) => Err(format!("its width {width} is not divided by {heads} heads")),
            None => match usual() {
                Some(heads) => Ok((heads, Some(format!("{heads} attention heads, as is usual for width {width}")))),
                None => Err(format!("nothing says how many attention heads its width {width} has: name them")),
            },
        }
    }

    /// What makes the text tower another than ours, where settings say so.
    pub(super) fn text_differences(&self) -> Vec<String> {
        let Some(text) = self.text() else { return Vec::new() };
        let mut differences = Vec::new();
        if text.get("no_causal_mask").and_then(Value::as_bool) != Some(true) {
            differences.push("its text tower sees earlier tokens only (no_causal_mask), here all".to_owned());
        }
        let pooling = text.get("pool_type").and_then(Value::as_str).unwrap_or("argmax");
        if pooling != "last" {
            differences.push(format!("its texts are pooled by `{pooling}` (pool_type), here at the last token"));
        }
        differences
    }

    /// What is computed otherwise here.
    pub(super) fn activation(&self) -> Vec<String> {
        const DIFFERENCE: &str =
            "GELU is computed in its tanh form here; features differ by about 1e-3 from those of the exact form";
        let words = [
            self.at("config.json", "/model_args/act_layer"),
            self.at("config.json", "/hidden_act"),
            self.at("config.json", "/vision_config/hidden_act"),
            self.at("image-tower/config.json", "/model_args/act_layer"),
        ];
        let image = words.into_iter().flatten().find_map(Value::as_str);
        let is_tanh = |word: &str| matches!(word, "gelu_tanh" | "gelu_pytorch_tanh");
        let text =
            self.text().map(|text| text.pointer("/act_kwargs/approximate").and_then(Value::as_str) == Some("tanh"));
        let mut notes = Vec::new();
        match image {
            Some(word) if is_tanh(word) => {}
            Some(_) => notes.push(format!("{DIFFERENCE}, which its settings name")),
            None => {
                notes.push(format!("{DIFFERENCE}, which timm and open_clip use unless their settings say otherwise"));
            }
        }
        if text == Some(false) && notes.is_empty() {
            notes.push(format!("{DIFFERENCE}, which its text tower uses"));
        }
        // open_clip's own default is 1e-5.
        let epsilon = self.text().map(|text| text.pointer("/norm_kwargs/eps").and_then(Value::as_f64));
        if epsilon.is_some_and(|epsilon| epsilon != Some(1e-6)) {
            notes.push("layer norms of texts add 1e-6 here, and another number there (norm_kwargs.eps)".into());
        }
        notes
    }
}
