//! People who just have a checkpoint take its encoder, or what it makes of pictures, elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use cappa_proto::GetRequest;
use cappa_tests::corpus::{cappactl, cappactl_ended};
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use safetensors::SafeTensors;
use tonic_types::StatusExt as _;

/// Rows of a file of features.
fn rows(file: &Path) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(file)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let features = tensors.tensor("features")?;
    let numbers =
        features.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
    let width = features.shape()[1..].iter().product();
    Ok(numbers.collect::<Vec<_>>().chunks(width).map(<[f32]>::to_vec).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_goes_to_timm_and_transformers_and_its_features_to_a_file() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    let objective = "siglip".to_owned();
    let job = cluster.submit(&JobSpec { objective, steps: 5, workers: (1, 1), ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&job).await?;
    let coordinator = cluster.url();
    let at = |name: &str| corpus.path(name).display().to_string();

    for (program, parameter, shape) in [
        ("timm", "attn_pool.latent", vec![1, 1, 64]),
        ("transformers", "vision_model.head.attention.in_proj_weight", vec![192, 64]),
    ] {
        let arguments = ["--coordinator", &coordinator, "export", &job, "--to", program, "--out", &at(program)];
        cappactl(&arguments)?;
        let weights = std::fs::read(corpus.path(program).join("model.safetensors"))?;
        assert_eq!(SafeTensors::deserialize(&weights)?.tensor(parameter)?.shape(), shape, "{program}");
        assert!(corpus.path(program).join("config.json").is_file());
        let again = cappactl_ended(&arguments, &[])?;
        assert!(!again.status.success(), "a folder that exists is left alone");
        assert!(String::from_utf8_lossy(&again.stderr).contains("name a folder that does not exist"));
    }

    let embed = |more: &[&str], out: &str| {
        let arguments = ["--coordinator", &coordinator, "embed", &job, "--features", "projected", "--out", &at(out)];
        cappactl(&[&arguments[..], more].concat())
    };
    embed(&["--data", &at("heldout.json")], "all.safetensors")?;
    let all = rows(&corpus.path("all.safetensors"))?;
    let keys = std::fs::read_to_string(corpus.path("all.keys.txt"))?;
    assert!(all.len() > 10 && keys.lines().count() == all.len(), "{} rows, keys {keys}", all.len());
    for row in &all {
        let length: f32 = row.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    // Shards that nobody indexed, as an array of NumPy.
    embed(&["--data", &at("shards/heldout-*.tar")], "all.npy")?;
    let array = std::fs::read(corpus.path("all.npy"))?;
    let numbers = all.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    assert!(array.starts_with(b"\x93NUMPY") && array.ends_with(&numbers));
    // The same picture as a file.
    let tar = std::fs::read(corpus.path("shards/heldout-000000.tar"))?;
    let start = tar.windows(3).position(|bytes| bytes == [0xff, 0xd8, 0xff]).context("a JPEG")?;
    std::fs::create_dir(corpus.path("pictures"))?;
    std::fs::write(corpus.path("pictures/one.jpg"), &tar[start..])?; // what follows the picture's end means nothing
    std::fs::write(corpus.path("pictures/two.jpg"), "not a picture")?;
    embed(&["--images", &at("pictures")], "one.safetensors")?;
    let one = rows(&corpus.path("one.safetensors"))?;
    assert_eq!(one.len(), 1, "what is no picture is left out");
    let difference = one[0].iter().zip(&all[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
    Ok(())
}

/// The parameters of a checkpoint that one rank wrote, given its manifest: bytes by name.
fn parameters(manifest: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = manifest.parent().context("a folder")?;
    let mut parameters = BTreeMap::new();
    for generation in std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())) {
        let part = generation?.join("part-00000-of-00001.safetensors");
        if part.is_file() {
            let bytes = std::fs::read(part)?;
            let tensors = SafeTensors::deserialize(&bytes)?;
            let named = tensors.iter().filter(|(name, _)| name.starts_with("params/"));
            parameters.extend(named.map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())));
        }
    }
    Ok(parameters)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_towers_go_to_open_clip_and_come_back_as_what_a_job_starts_from() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() })?;
    let objective = r#"{"type":"siglip","text_pooling":"last"}"#.to_owned();
    let spec = JobSpec { objective: objective.clone(), steps: 5, workers: (1, 1), ..JobSpec::default() };
    let job = cluster.submit(&spec, &corpus).await?;
    cluster.finish(&job).await?;
    let coordinator = cluster.url();
    let at = |name: &str| corpus.path(name).display().to_string();
    cappactl(&["--coordinator", &coordinator, "export", &job, "--to", "open_clip", "--out", &at("towers")])?;

    let printed = cappactl(&["import", &at("towers"), "--out", &at("back")])?;
    let manifest = corpus.path("back/checkpoints/000000000000/MANIFEST.json");
    let said: Vec<&str> = printed.lines().collect();
    assert_eq!(said[..2], ["# image and text tower of open_clip", &format!("objective: {objective}")], "{printed}");
    assert_eq!(said[4], format!("init: {:?}", manifest.display().to_string()), "{printed}");
    let request = GetRequest { job_id: job.clone() };
    let newest = cluster.jobs().await?.checkpoints(request).await?.into_inner().checkpoints.remove(0);
    let original = parameters(newest.manifest.trim_start_matches("file://").as_ref())?;
    assert!(original.contains_key("params/txt/head/kernel") && original == parameters(&manifest)?);

    let start = |objective: &str| JobSpec {
        objective: objective.to_owned(),
        steps: 6,
        workers: (1, 1),
        more: format!("init: {}", manifest.display()),
        ..JobSpec::default()
    };
    // Without the job, by the document of one that has such a network.
    std::fs::write(corpus.path("job.yaml"), start(&objective).document(&corpus))?;
    let embed = |whose: &[&str], out: &str| {
        cappactl(&[whose, &["--data", &at("heldout.json"), "--features", "projected", "--out", &at(out)]].concat())
    };
    embed(&["--coordinator", &coordinator, "embed", &job], "job.safetensors")?;
    embed(&["embed", "--store", &at("back"), "--spec", &at("job.yaml")], "import.safetensors")?;
    assert_eq!(rows(&corpus.path("job.safetensors"))?, rows(&corpus.path("import.safetensors"))?);

    let next = cluster.submit(&start(&objective), &corpus).await?;
    cluster.finish(&next).await?;
    let refused = cluster.submit(&start("siglip"), &corpus).await.expect_err("a text tower of another kind");
    let status = refused.downcast_ref::<tonic::Status>().context("a refusal")?;
    let places = status.get_details_bad_request().context("the places")?.field_violations;
    let why = "its objective.text_pooling is `last`, the job's `map`";
    assert!(places.iter().any(|place| place.description.contains(why)), "{places:?}");

    let refused = cappactl_ended(&["import", &at("train.json"), "--out", &at("none")], &[])?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("neither .npz nor .safetensors"), "{error}");
    Ok(())
}
