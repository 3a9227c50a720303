//! What a job that starts from imported weights says of its network.

use cappa_model::import::Program;
use cappa_model::{Architecture, ContrastiveConfig, ModelConfig, Pooling, PositionEmbedding, TowerConfig};
use serde_json::{Map, Value, json};

/// `objective`, `model`, `data` and `init` of such a job, and in `weights` where they come from. A network that no job has is
/// described by its encoder, which jobs can start from.
pub(super) fn of(program: Program, architecture: &Architecture, manifest: &str) -> Value {
    let described = match architecture {
        Architecture::Captioner(config) => captioner(config),
        Architecture::TwoTower(config) => two_tower(config),
        Architecture::Image(network) => Described {
            weights: if network.tower.pooling == Pooling::Map {
                "image encoder with attention pooling"
            } else {
                "image encoder"
            },
            objective: None,
            model: encoder(network.patch, &network.tower, network.position),
            data: json!({ "image_size": network.image_size[0] }),
            is_whole: false,
        },
    };
    let program = match program {
        Program::BigVision => "big_vision",
        Program::Timm => "timm",
        Program::Transformers => "transformers",
        Program::OpenClip => "open_clip",
    };
    let init = if described.is_whole { json!(manifest) } else { json!({ "from": manifest, "parts": ["encoder"] }) };
    let mut description = Map::new();
    description.insert("weights".into(), format!("{} of {program}", described.weights).into());
    description.extend(described.objective.map(|objective| ("objective".into(), objective)));
    description.extend(
        [("model", described.model.into()), ("data", described.data), ("init", init)]
            .map(|(key, value)| (key.into(), value)),
    );
    description.into()
}

/// The description as YAML that a spec may take over.
pub(super) fn lines(description: &Value) -> Vec<String> {
    let keys = description.as_object().into_iter().flatten();
    keys.map(|(key, value)| match (key.as_str(), value) {
        ("weights", Value::String(text)) => format!("# {text}"),
        _ => format!("{key}: {value}"),
    })
    .collect()
}

struct Described {
    weights: &'static str,
    /// Where a job trains the whole network.
    objective: Option<Value>,
    model: Map<String, Value>,
    data: Value,
    is_whole: bool,
}

fn captioner(config: &ModelConfig) -> Described {
    let tower = TowerConfig {
        width: config.width,
        layers: config.layers,
        heads: config.heads,
        mlp: config.mlp,
        pooling: Pooling::Mean,
    };
    let mut model = encoder(config.patch, &tower, config.position);
    // Jobs have one width for both stacks.
    let of_decoder = [config.decoder_width, config.decoder_heads, config.decoder_mlp];
    let is_whole = of_decoder == [config.width, config.heads, config.mlp];
    let mut data = json!({ "image_size": config.image_size[0] });
    if is_whole {
        model.insert("decoder_layers".into(), config.decoder_layers.into());
        model.insert("decoder_bias".into(), config.decoder_bias.into());
        model.insert("vocabulary".into(), config.vocab.into());
        data["text_length"] = config.text_length.into();
    }
    let objective = if config.mask_token().is_some() { "cappa" } else { "cap" };
    Described { weights: "captioner", objective: is_whole.then(|| objective.into()), model, data, is_whole }
}

fn two_tower(config: &ContrastiveConfig) -> Described {
    let mut model = encoder(config.patch, &config.image, config.position);
    // Jobs have two towers of the same sizes, which project to their width, and pool images by attention.
    let is_whole = config.text == TowerConfig { pooling: config.text.pooling, ..config.image }
        && config.embedding == config.image.width
        && config.image.pooling == Pooling::Map;
    let mut data = json!({ "image_size": config.image_size[0] });
    if is_whole {
        model.insert("vocabulary".into(), config.vocab.into());
        data["text_length"] = config.text_length.into();
    }
    let kind = if config.bias.is_some() { "siglip" } else { "clip" };
    let pooling = if config.text.pooling == Pooling::Map { "map" } else { "last" };
    let objective = json!({ "type": kind, "text_pooling": pooling });
    Described { weights: "image and text tower", objective: is_whole.then_some(objective), model, data, is_whole }
}

fn encoder(patch: [i64; 2], tower: &TowerConfig, position: PositionEmbedding) -> Map<String, Value> {
    let &TowerConfig { width, layers, heads, mlp, .. } = tower;
    let position = match position {
        PositionEmbedding::Learn => "learn",
        PositionEmbedding::Sincos2d => "sincos2d",
    };
    let sizes = [("patch", patch[0]), ("width", width), ("layers", layers), ("heads", heads), ("mlp", mlp)];
    let mut model: Map<_, _> = sizes.into_iter().map(|(key, size)| (key.to_owned(), size.into())).collect();
    model.insert("position".into(), position.into());
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_a_job_is_described_as_its_spec_says_it() {
        let config = ModelConfig { masked_pred_prob: 0.0, ..ModelConfig::tiny() };
        let description = of(Program::BigVision, &Architecture::Captioner(config), "/c/MANIFEST.json");
        let expected = [
            "# captioner of big_vision",
            "objective: \"cap\"",
            "model: {\"patch\":8,\"width\":128,\"layers\":4,\"heads\":4,\"mlp\":512,\"position\":\"learn\",\"decoder_layers\":2,\
             \"decoder_bias\":false,\"vocabulary\":512}",
            "data: {\"image_size\":64,\"text_length\":24}",
            "init: \"/c/MANIFEST.json\"",
        ];
        assert_eq!(lines(&description), expected);
    }

    #[test]
    fn a_network_that_no_job_has_gives_its_encoder() {
        let config = ModelConfig { decoder_width: 64, ..ModelConfig::tiny() };
        let description = of(Program::BigVision, &Architecture::Captioner(config), "/c/MANIFEST.json");
        assert_eq!(description["init"], json!({ "from": "/c/MANIFEST.json", "parts": ["encoder"] }));
        assert_eq!(description.get("objective"), None);
    }
}
