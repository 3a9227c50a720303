//! Exported networks are the same in timm, transformers and open_clip.

#[allow(dead_code, reason = "only the configuration is used here")]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cappa_model::export::{Exported, Format};
use cappa_model::{Captioner, ParamTable, Pooling, TwoTower};
use tch::{Device, Kind, Tensor};

/// Names and shapes of the packages' own models: `load.py list FOLDER`, of the folder that `make parity` compares.
const LISTED: &str = include_str!("export/listed.json");

fn captioner() -> Captioner {
    Captioner::new(&common::config(), 1, Device::Cpu).expect("a valid network")
}

fn towers(text: Pooling, bias: Option<f64>) -> TwoTower {
    let config = common::towers(Pooling::Map, text, bias);
    TwoTower::new(&config, 2, Device::Cpu).expect("a valid network")
}

/// Of texts, open_clip pools the last token only.
fn pairs() -> TwoTower {
    towers(Pooling::Last, Some(-10.0))
}

fn open_clip(folder: &Path) -> Format {
    Format::OpenClip { folder: folder.to_owned() }
}

fn exported() -> BTreeMap<&'static str, Exported> {
    let (captioner, towers) = (captioner(), towers(Pooling::Map, None));
    let of = |format| (captioner.export(&format).expect("square"), towers.export(&format).expect("square"));
    let ((captioner_timm, towers_timm), (captioner_hf, towers_hf)) = (of(Format::Timm), of(Format::Transformers));
    BTreeMap::from([
        ("captioner-timm", captioner_timm),
        ("towers-timm", towers_timm),
        ("captioner-transformers", captioner_hf),
        ("towers-transformers", towers_hf),
        ("pairs-open_clip", pairs().export(&open_clip("/models/pairs".as_ref())).expect("square")),
    ])
}

#[test]
fn an_exported_encoder_has_the_names_and_shapes_of_the_packages_own_models() {
    let listed: BTreeMap<String, BTreeMap<String, Vec<i64>>> = serde_json::from_str(LISTED).expect("a listing");
    let found: BTreeMap<String, BTreeMap<String, Vec<i64>>> = exported()
        .into_iter()
        .map(|(name, exported)| {
            let shapes = exported.tensors.into_iter().map(|(name, tensor)| (name, tensor.size())).collect();
            (name.to_owned(), shapes)
        })
        .collect();
    assert_eq!(found, listed);
}

/// Values that no layer starts with, so that nothing is degenerate.
fn perturb(params: &ParamTable) {
    for (place, tensor) in params.tensors().enumerate() {
        let wave = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu)) * 0.7 + place as f64;
        let _ = tch::no_grad(|| tensor.shallow_clone().g_add_(&(wave.sin().view_as(tensor) * 0.05)));
    }
}

fn write(folder: &Path, name: &str, exported: &Exported, ours: &[(&str, Tensor)]) {
    let at = folder.join(name);
    std::fs::create_dir(&at).expect("a folder");
    for (file, content) in exported.files() {
        std::fs::create_dir_all(at.join(file).parent().expect("in a folder")).expect("a folder");
        std::fs::write(at.join(file), content).expect("a file");
    }
    let network = name.split_once('-').expect("a format").0;
    Tensor::write_safetensors(ours, folder.join(format!("{network}.safetensors"))).expect("a file");
}

#[test]
#[ignore = "needs PyTorch, timm, transformers and open_clip in Python: make parity"]
fn timm_transformers_and_open_clip_compute_the_features_that_we_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let (captioner, towers, pairs) = (captioner(), towers(Pooling::Map, None), pairs());
    for params in [captioner.params(), towers.params(), pairs.params()] {
        perturb(params);
    }
    let [height, width] = common::config().image_size;
    let images = (Tensor::arange(3 * height * width * 3, (Kind::Float, Device::Cpu)) * 0.37).sin();
    let images = images.view([3, height, width, 3]);
    let _no_grad = tch::no_grad_guard();
    let tokens = captioner.encode(&images).expect("images fit");
    let of_captioner = [("pooled", Captioner::pre_logits(&tokens)), ("tokens", tokens), ("images", images.copy())];
    let projected = towers.embed_images(&images).expect("images fit");
    let (tokens, pooled) = towers.encode_images(&images).expect("images fit");
    let of_towers = [("tokens", tokens), ("pooled", pooled), ("projected", projected), ("images", images.copy())];
    for (format, name) in [(Format::Timm, "timm"), (Format::Transformers, "transformers")] {
        let (one, other) = (captioner.export(&format).expect("square"), towers.export(&format).expect("square"));
        write(folder.path(), &format!("captioner-{name}"), &one, &of_captioner);
        write(folder.path(), &format!("towers-{name}"), &other, &of_towers);
    }
    let length = common::config().text_length;
    let texts = (Tensor::arange(2 * length, (Kind::Int64, Device::Cpu)) * 7).remainder(512).view([2, length]);
    let (image, text) = (pairs.embed_images(&images), pairs.embed_texts(&texts));
    let (image, text) = (image.expect("images fit"), text.expect("texts fit"));
    let logits = pairs.similarity(&image, &text) + pairs.params().get("b").expect("a bias");
    let of_pairs = [("images", images), ("texts", texts), ("image", image), ("text", text), ("logits", logits)];
    let exported = pairs.export(&open_clip(&folder.path().join("pairs-open_clip"))).expect("square");
    write(folder.path(), "pairs-open_clip", &exported, &of_pairs);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export/load.py");
    let output = Command::new("python3").arg(script).arg("check").arg(folder.path()).output().expect("python3");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
