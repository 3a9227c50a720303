//! Weights that other programs save become networks of ours, or what differs is told.

#[allow(dead_code, reason = "only the configuration is used here")]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cappa_model::export::{Exported, Format};
use cappa_model::import::{Hints, Imported, Program, SETTINGS, import};
use cappa_model::transfer::{Part, transfer};
use cappa_model::{Architecture, Captioner, Classifier, ClassifierConfig, ContrastiveConfig, Pooling, TwoTower};
use tch::{Device, Kind, Tensor};

fn captioner(seed: u64) -> Captioner {
    Captioner::new(&common::config(), seed, Device::Cpu).expect("a valid network")
}

fn towers(text: Pooling, seed: u64) -> TwoTower {
    let config = common::towers(Pooling::Map, text, Some(-10.0));
    TwoTower::new(&config, seed, Device::Cpu).expect("a valid network")
}

/// What is read from the folder that was written.
fn back(exported: &Exported) -> Imported {
    let known =
        |(name, value): &(&'static str, serde_json::Value)| SETTINGS.contains(name).then(|| (*name, value.clone()));
    let hints = Hints { documents: exported.documents.iter().filter_map(known).collect(), ..Hints::default() };
    let tensors = exported.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect();
    import(tensors, &hints).expect("our own weights")
}

fn named(imported: &Imported) -> Vec<(String, Tensor)> {
    imported.params.iter().map(|(name, tensor)| (format!("params/{name}"), tensor.shallow_clone())).collect()
}

fn images() -> Tensor {
    let [height, width] = common::config().image_size;
    common::noise("pictures", &[2, height, width, 3], 0.4)
}

#[test]
fn an_encoder_that_went_to_timm_or_transformers_comes_back_to_the_bit() {
    let (from, images) = (captioner(1), images());
    for (format, program) in [(Format::Timm, Program::Timm), (Format::Transformers, Program::Transformers)] {
        let imported = back(&from.export(&format).expect("square"));
        assert_eq!((imported.program, &imported.notes), (program, &vec![]));
        let mut to = captioner(2);
        transfer(to.params_mut(), &named(&imported), &[Part::Encoder], common::config().grid()).expect("an encoder");
        let features = [&from, &to].map(|captioner| captioner.encode(&images).expect("images fit"));
        assert_eq!(features[0], features[1], "{format:?}");
    }
}

#[test]
fn an_image_tower_comes_back_from_timm_with_pooling_and_projection() {
    let (from, mut to, images) = (towers(Pooling::Map, 1), towers(Pooling::Map, 2), images());
    let imported = back(&from.export(&Format::Timm).expect("square"));
    let Architecture::Image(network) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    assert_eq!((network.tower, network.outputs, network.image_size), (from.config().image, Some(40), [64, 64]));
    transfer(to.params_mut(), &named(&imported), &[Part::Encoder, Part::Head], [8, 8]).expect("an image tower");
    let embedded = [&from, &to].map(|towers| towers.embed_images(&images).expect("images fit"));
    assert_eq!(embedded[0], embedded[1]);
    // transformers has no place for the projection.
    let imported = back(&from.export(&Format::Transformers).expect("square"));
    let Architecture::Image(network) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    assert_eq!((network.tower.pooling, network.outputs), (Pooling::Map, None));
}

#[test]
fn two_towers_come_back_from_open_clip_to_the_bit() {
    let (from, images) = (towers(Pooling::Last, 1), images());
    let folder = "/models/siglip".into();
    let exported = from.export(&Format::OpenClip { folder }).expect("a text tower that open_clip knows");
    let imported = back(&exported);
    assert_eq!((imported.program, &imported.notes), (Program::OpenClip, &vec![]));
    let Architecture::TwoTower(config) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    assert_eq!(config, from.config());
    let to = TwoTower::from_named(config, &named(&imported), Device::Cpu).expect("all of its parameters");
    let tokens = (Tensor::arange(48, (Kind::Int64, Device::Cpu)) * 7).remainder(512).view([2, 24]);
    let similarities = [&from, &to].map(|towers| {
        let texts = towers.embed_texts(&tokens).expect("texts fit");
        towers.similarity(&towers.embed_images(&images).expect("images fit"), &texts)
    });
    assert_eq!(similarities[0], similarities[1]);
}

#[test]
fn a_text_tower_that_open_clip_cannot_pool_is_not_exported() {
    let error = towers(Pooling::Map, 1).export(&Format::OpenClip { folder: "/x".into() }).unwrap_err();
    assert!(error.to_string().contains("objective.text_pooling `last`"), "{error}");
    let error = captioner(1).export(&Format::OpenClip { folder: "/x".into() }).unwrap_err();
    assert!(error.to_string().contains("export to timm"), "{error}");
}

/// The parameters of a file of reference data, as the authors' programs save them: through an `.npz`.
fn authors(case: &str) -> Vec<(String, Tensor)> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"));
    let mut tensors = Tensor::read_safetensors(file).expect("reference data");
    tensors.retain(|(name, _)| name.starts_with("params/"));
    let saved = folder.path().join("checkpoint.npz");
    Tensor::write_npz(&tensors, &saved).expect("a file");
    Tensor::read_npz(&saved).expect("a file")
}

#[test]
fn the_authors_trees_are_networks_by_their_shapes_alone() {
    let imported = import(authors("cap_train_a"), &Hints::default()).expect("a captioner");
    let Architecture::Captioner(config) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    assert_eq!((config.image_size, config.patch, config.vocab, config.mask_token()), ([32, 32], [8, 8], 48, None));
    Captioner::from_named(config, &named(&imported), Device::Cpu).expect("all of its parameters");

    // Fixed positions: nothing in it tells the resolution.
    let error = import(authors("cappa_train_b"), &Hints::default()).unwrap_err();
    assert!(error.to_string().contains("nothing tells the images' size"), "{error}");
    let hints = Hints { image_size: Some(24), text_length: Some(10), ..Hints::default() };
    let imported = import(authors("cappa_train_b"), &hints).expect("a captioner");
    let Architecture::Captioner(config) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    assert_eq!((config.decoder_width, config.decoder_bias, config.mask_token()), (20, true, Some(40)));

    let imported = import(authors("contrastive_a"), &Hints::default()).expect("two towers");
    let Architecture::TwoTower(config) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    assert_eq!((config.image.pooling, config.text.pooling), (Pooling::Map, Pooling::Last));
    assert_eq!((config.text.width, config.text.layers, config.embedding, config.bias.is_some()), (18, 2, 20, true));
}

/// The same tree with the blocks of every stack in one array, and with optimizer state beside it.
fn scanned(mut tree: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let mut stacks: BTreeMap<(String, i64), Vec<Tensor>> = BTreeMap::new();
    let mut all = vec![("opt/0/count".to_owned(), Tensor::from_slice(&[3i64]))];
    tree.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, tensor) in tree {
        let block = |block: &str, stack: &str| {
            let (before, rest) = name.split_once(block)?;
            Some(format!("{before}{stack}/{}", rest.split_once('/')?.1))
        };
        match (block("encoderblock_", "encoderblock"), block("EncDecBlock", "EncDecBlock")) {
            (Some(name), _) => stacks.entry((name, 0)).or_default().push(tensor),
            (_, Some(name)) => stacks.entry((name, 1)).or_default().push(tensor),
            _ => all.push((name, tensor)),
        }
    }
    all.extend(stacks.into_iter().map(|((name, axis), blocks)| (name, Tensor::stack(&blocks, axis))));
    all
}

#[test]
fn scanned_blocks_are_taken_apart_and_optimizer_state_is_left_out() {
    let plain = import(authors("cap_train_a"), &Hints::default()).expect("a captioner");
    let scan = import(scanned(authors("cap_train_a")), &Hints::default()).expect("a captioner");
    assert_eq!(scan.notes, ["1 arrays of optimizer state are left out"]);
    assert_eq!(scan.architecture, plain.architecture);
    let sorted = |imported: &Imported| -> BTreeMap<String, Tensor> {
        imported.params.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect()
    };
    assert_eq!(sorted(&scan), sorted(&plain));
}

#[test]
fn an_image_tower_without_projection_has_the_identity() {
    let from = towers(Pooling::Last, 1);
    let config = ContrastiveConfig { embedding: 64, ..from.config().clone() };
    let from = TwoTower::new(&config, 1, Device::Cpu).expect("a valid network");
    let mut tree = from.params().to_named();
    tree.retain(|(name, _)| !name.starts_with("params/img/head"));
    let imported = import(tree, &Hints::default()).expect("two towers");
    assert_eq!(
        imported.notes,
        ["its image tower does not project: img/head is the identity, which changes no feature"]
    );
    let to = TwoTower::from_named(&config, &named(&imported), Device::Cpu).expect("all of its parameters");
    let (_, pooled) = from.encode_images(&images()).expect("images fit");
    let embedded = to.embed_images(&images()).expect("images fit");
    let difference = (pooled.shallow_clone() / pooled.norm_scalaropt_dim(2, [1i64].as_slice(), true) - embedded).abs();
    assert!(difference.max().double_value(&[]) < 1e-6);
}

#[test]
fn what_no_network_here_has_is_told() {
    let refusal = |more: &[(&str, &[i64])], without: &str| {
        let mut exported = captioner(1).export(&Format::Timm).expect("square");
        exported.tensors.retain(|(name, _)| !name.contains(without) || without.is_empty());
        let more =
            more.iter().map(|(name, shape)| ((*name).to_owned(), Tensor::zeros(*shape, (Kind::Float, Device::Cpu))));
        exported.tensors.extend(more);
        import(exported.tensors, &Hints { heads: Some(4), ..Hints::default() }).unwrap_err().to_string()
    };
    let error = refusal(&[("cls_token", &[1, 1, 64])], "");
    assert!(error.starts_with("it has a class token") && error.contains("vit_base_patch16_siglip_224"), "{error}");
    let error =
        refusal(&[("blocks.0.ls1.gamma", &[64]), ("blocks.1.ls1.gamma", &[64]), ("fc_norm.weight", &[64])], "norm2");
    let expected = "it has no blocks.*.norm2.weight; it has no blocks.*.norm2.bias; it has scales at the ends of a block's branches \
                    (blocks.*.ls1.gamma); it has a layer norm after pooling instead of before it (fc_norm.weight)";
    assert_eq!(error, expected);

    let of = |names: &[&str]| {
        let tensors = names.iter().map(|name| ((*name).to_owned(), Tensor::zeros([8, 8], (Kind::Float, Device::Cpu))));
        import(tensors.collect(), &Hints::default()).unwrap_err().to_string()
    };
    let error = of(&[
        "visual.conv1.weight",
        "visual.class_embedding",
        "visual.ln_pre.weight",
        "visual.proj",
        "text_projection",
    ]);
    for difference in [
        "a class token",
        "a layer norm before the first block",
        "a projection of images without bias",
        "patches without bias",
        "as networks with a causal mask have it",
    ] {
        assert!(error.contains(difference), "{difference}: {error}");
    }
    assert!(of(&["layer1.0.conv1.weight"]).contains("its tensors are named layer1.0.conv1.weight"));
}

#[test]
fn heads_that_nothing_tells_are_asked_for() {
    let exported = captioner(1).export(&Format::Timm).expect("square");
    let error = import(exported.tensors, &Hints::default()).unwrap_err().to_string();
    assert!(error.contains("how many attention heads its width 64 has"), "{error}");
}

/// Tensors by name.
type Tensors = BTreeMap<String, Tensor>;

/// What born.py saved: the network as we read it, and images, texts and the package's features.
fn born(folder: &Path) -> (Imported, Tensors) {
    let read = |file: &str| Tensor::read_safetensors(folder.join(file)).expect("weights");
    let settings = |name: &&'static str| {
        let document = std::fs::read(folder.join(name)).ok()?;
        Some((*name, serde_json::from_slice(&document).expect("JSON")))
    };
    let hints = Hints { documents: SETTINGS.iter().filter_map(settings).collect(), ..Hints::default() };
    let imported = import(read("model.safetensors"), &hints).expect("a network that is here too");
    (imported, read("features.safetensors").into_iter().collect())
}

/// Tokens and pooled features of an image network, by a classifier of a single class that nobody asks for.
fn features(imported: &Imported, images: &Tensor) -> [(&'static str, Tensor); 2] {
    let Architecture::Image(network) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    let config = ClassifierConfig {
        image_size: network.image_size,
        patch: network.patch,
        position: network.position,
        image: network.tower,
        classes: 1,
    };
    let mut params = named(imported);
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
    params.push(("params/img/head/kernel".into(), zeros(&[network.tower.width, 1])));
    params.push(("params/img/head/bias".into(), zeros(&[1])));
    let mut classifier = Classifier::new(&config, 1, Device::Cpu).expect("a valid network");
    let grid = [0, 1].map(|axis| network.image_size[axis] / network.patch[axis]);
    transfer(classifier.params_mut(), &params, &[], grid).expect("all of its parameters");
    let tokens = classifier.encode(images).expect("images fit");
    [("pooled", classifier.pooled(&tokens)), ("tokens", tokens)]
}

#[test]
#[ignore = "needs PyTorch, timm, transformers and open_clip in Python: make parity"]
fn networks_that_timm_transformers_and_open_clip_made_have_their_features_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export/born.py");
    let output = Command::new("python3").arg(script).arg(folder.path()).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let _no_grad = tch::no_grad_guard();
    let compare = |what: &str, ours: &Tensor, theirs: &Tensor| {
        assert_eq!(ours.size(), theirs.size(), "{what}");
        let difference = (ours - theirs).abs().max().double_value(&[]);
        println!("{what}: {difference:.2e}");
        assert!(difference <= 1e-4, "{what}: {difference}");
    };
    for name in ["timm-avg", "timm-map", "transformers"] {
        let (imported, theirs) = born(&folder.path().join(name));
        assert_eq!(imported.notes, Vec::<String>::new(), "{name}");
        for (feature, ours) in features(&imported, &theirs["images"]) {
            compare(&format!("{name}, {feature}"), &ours, &theirs[feature]);
        }
    }
    let (imported, theirs) = born(&folder.path().join("open_clip"));
    let Architecture::TwoTower(config) = &imported.architecture else { panic!("{:?}", imported.architecture) };
    let towers = TwoTower::from_named(config, &named(&imported), Device::Cpu).expect("all of its parameters");
    let image = towers.embed_images(&theirs["images"]).expect("images fit");
    let text = towers.embed_texts(&theirs["texts"]).expect("texts fit");
    let logits = towers.similarity(&image, &text) + towers.params().get("b").expect("a bias");
    for (feature, ours) in [("image", image), ("text", text), ("logits", logits)] {
        compare(&format!("open_clip, {feature}"), &ours, &theirs[feature]);
    }
}
