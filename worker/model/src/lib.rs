//! Networks, losses and optimizers of CapPa over libtorch.
//!
//! A [`Captioner`] is a vision transformer whose representation is learned by captioning: its
//! decoder predicts a caption autoregressively, or all tokens in parallel from masked inputs
//! (Tschannen et al., "Image Captioners Are Scalable Vision Learners Too", arXiv 2306.07915).
//! A [`TwoTower`] model learns by telling the right pairs of a batch from the wrong ones (CLIP, SigLIP), a [`Classifier`] by
//! telling classes apart.
//! Parameters carry the names of the authors' tree; `tests/golden` defines what is correct.
//!
//! This crate knows no network, no storage and no clock.
//!
//! Dimensions: B batch, P patches, L text length, E width, H heads, D head dim, V vocabulary.

mod architecture;
pub mod average;
mod captioner;
mod classifier;
mod config;
mod contrastive;
mod decoder;
mod encoder;
mod error;
pub mod export;
pub mod fewshot;
mod flops;
mod generate;
pub mod golden;
pub mod import;
mod init;
mod layers;
mod layout;
mod linear;
mod loss;
pub mod optim;
mod params;
mod position;
mod recompute;
pub mod schedule;
mod score;
pub mod spec;
mod tap;
pub mod transfer;
mod transformer;

pub use architecture::{Architecture, ImageNetwork};
pub use captioner::{Batch, Captioner, LossOutput};
pub use classifier::{ClassLoss, Classifier, ClassifierConfig};
pub use config::{ModelConfig, PositionEmbedding};
pub use contrastive::{Contrast, ContrastiveConfig, ContrastiveLoss, Embeddings, Pooling, TowerConfig, TwoTower};
pub use error::ModelError;
pub use flops::{flop_per_classified, flop_per_image, flop_per_pair};
pub use generate::Search;
pub use init::initial_value;
pub use layers::Precision;
pub use loss::{END_OF_TEXT, PAD};
pub use params::ParamTable;
pub use recompute::Tape;
