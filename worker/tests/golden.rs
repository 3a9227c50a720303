//! The reference data is the definition of correct: all of it passes, and nothing in it can change
//! unnoticed.

use std::path::{Path, PathBuf};

use cappa_data::image::{RgbImage, resize_exact};
use cappa_model::golden::{GoldenError, Outcome, Report};
use tch::Device;

fn check_folder(folder: &Path, device: Device) -> Result<Vec<Report>, GoldenError> {
    let resize = |pixels: &[u8], [height, width]: [usize; 2], to: [usize; 2]| {
        resize_exact(RgbImage { width, height, pixels: pixels.to_vec() }, to[1], to[0]).pixels
    };
    cappa_model::golden::check_folder(folder, device, resize)
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("model/tests/golden")
}

#[test]
fn every_reference_passes() {
    tch::set_num_threads(1);
    let reports = check_folder(&golden(), Device::Cpu).expect("the reference data is here");
    for report in &reports {
        assert!(matches!(report.outcome, Outcome::Passed(_)), "{report}");
    }
    assert_eq!(reports.len(), 19);
}

/// A folder with one case, whose tensors' file went through `change`.
fn changed(case: &str, change: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |extension: &str| format!("{case}.{extension}");
    std::fs::copy(golden().join(file("json")), folder.path().join(file("json"))).expect("the json");
    let mut bytes = std::fs::read(golden().join(file("safetensors"))).expect("the tensors");
    change(&mut bytes);
    std::fs::write(folder.path().join(file("safetensors")), bytes).expect("a changed copy");
    folder
}

fn failure(folder: &Path) -> String {
    let reports = check_folder(folder, Device::Cpu).expect("a folder with a json");
    match &reports[..] {
        [only] => match &only.outcome {
            Outcome::Failed(reason) => reason.clone(),
            _ => panic!("{only}"),
        },
        _ => panic!("one report, not {}", reports.len()),
    }
}

/// Overwrites the middle float of a tensor.
fn set_middle(bytes: &mut [u8], tensor: &str, value: impl Fn(f32) -> f32) {
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let span: [usize; 2] = serde_json::from_value(json[tensor]["data_offsets"].clone()).expect(tensor);
    let at = 8 + header + (span[0] + span[1]) / 8 * 4;
    let old = f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    bytes[at..at + 4].copy_from_slice(&value(old).to_le_bytes());
}

#[test]
fn a_perturbed_golden_is_a_failure() {
    tch::set_num_threads(1);
    let perturbed = [
        ("cap_eval_a", "outputs/decoder/EncDecBlock0/CrossAttn"),
        ("cap_eval_b", "params/encoder/Transformer/encoder_norm/scale"),
        ("cap_train_a", "grads/encoder/embedding/kernel"),
        ("cappa_train_b", "outputs/logits"),
        ("mixed_train", "inputs/image"),
        ("partial_mask_train", "outputs/loss_per_example"),
        ("greedy", "outputs/margin"),
        ("scoring", "outputs/scores_with_prompt"),
        ("optimizer_unit_a", "final_opt/v_col/enc/out/kernel"),
        ("optimizer_unit_b", "outputs/l2_grads"),
        ("trajectory", "final_params/decoder/LogitsDense/kernel"),
        ("contrastive_a", "grads_softmax/txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel"),
        ("contrastive_a", "outputs/logits_sigmoid"),
        ("contrastive_b", "params/txt/MAPHead_0/probe"),
        ("resize", "outputs/up/default/value_range"),
    ];
    for (case, tensor) in perturbed {
        let folder = changed(case, |bytes| set_middle(bytes, tensor, |old| old * 1.01 + 0.01));
        let reason = failure(folder.path());
        assert!(reason.contains("error"), "{case} {tensor}: {reason}");
    }
}

#[test]
fn a_perturbed_few_shot_score_is_a_failure() {
    // Beyond what f32 eigendecompositions lose, which is its tolerance.
    let folder = changed("fewshot", |bytes| set_middle(bytes, "outputs/wide/scores", |old| old + 0.03));
    assert!(failure(folder.path()).contains("outputs/wide/scores"));
}

#[test]
fn a_value_that_is_not_finite_is_a_failure() {
    let key_bias = "params/encoder/Transformer/encoderblock_0/MultiHeadDotProductAttention_0/key/bias";
    let folder = changed("cap_eval_a", |bytes| set_middle(bytes, key_bias, |_| f32::NAN));
    assert!(failure(folder.path()).contains("not finite"));
}

#[test]
fn a_truncated_file_is_a_failure_not_a_crash() {
    for keep in [0, 7, 500, 100_000] {
        let folder = changed("cap_eval_a", |bytes| bytes.truncate(keep));
        assert!(failure(folder.path()).contains("damaged"), "{keep} bytes");
    }
}

#[test]
fn a_tensor_that_nothing_checks_is_a_failure() {
    let folder = changed("greedy", |_| {});
    let json = folder.path().join("greedy.json");
    let text = std::fs::read_to_string(&json).expect("the json").replace("\"greedy\"", "\"scoring\"");
    std::fs::write(&json, text).expect("another kind");
    assert!(failure(folder.path()).contains("inputs/label_tokens"));
}

#[test]
fn an_empty_folder_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(check_folder(folder.path(), Device::Cpu).is_err());
    assert!(check_folder(&folder.path().join("nowhere"), Device::Cpu).is_err());
}
