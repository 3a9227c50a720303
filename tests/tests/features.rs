//! People who just have a checkpoint take its encoder, or what it makes of pictures, elsewhere.

use std::path::Path;

use anyhow::{Context as _, Result};
use cappa_tests::corpus::{cappactl, cappactl_ended};
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};
use safetensors::SafeTensors;

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
