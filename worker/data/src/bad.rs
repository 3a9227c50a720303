//! Samples that can't be used, and why.

use serde::{Deserialize, Serialize};

/// Why a sample can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadReason {
    /// The shard is not the one that the manifest records.
    ShardChanged,
    /// The manifest promises more samples than can be read from the tar.
    TarDamaged,
    /// No file with an image's extension.
    ImageMissing,
    /// The image can't be decoded.
    ImageDamaged,
    /// The image, or a file of the sample, exceeds a limit.
    TooLarge,
    /// No caption where it was looked for, or an empty one.
    CaptionMissing,
    /// The caption's file is not text, or not JSON.
    CaptionDamaged,
    /// No class where it was looked for.
    ClassMissing,
    /// A class that the job does not list.
    ClassUnknown,
}

impl BadReason {
    /// The reason as a label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShardChanged => "shard_changed",
            Self::TarDamaged => "tar_damaged",
            Self::ImageMissing => "image_missing",
            Self::ImageDamaged => "image_damaged",
            Self::TooLarge => "too_large",
            Self::CaptionMissing => "caption_missing",
            Self::CaptionDamaged => "caption_damaged",
            Self::ClassMissing => "class_missing",
            Self::ClassUnknown => "class_unknown",
        }
    }
}

impl std::fmt::Display for BadReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with a sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct BadSample {
    /// The kind of fault.
    pub reason: BadReason,
    /// The fault in words.
    pub message: String,
    /// The sample's key in its shard, where it was found.
    pub key: Option<String>,
}

impl BadSample {
    pub(crate) fn new(reason: BadReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), key: None }
    }
}
