//! A synthetic corpus of rendered scenes with captions, to train and to measure on without anybody's data.
//!
//! A sample is a picture of one to three items (objects with shape, colour, size and texture; words in a real font) in
//! spatial relations, its captions, its facts, and captions that are false of it. Shards are WebDataset tar files
//! named and filled as img2dataset does it: `train-000000.tar` … and `heldout-000000.tar` …, each with `<key>.jpg`,
//! `<key>.txt` (the first caption) and `<key>.json` ([`Facts`]). Beside them lie `classes.json` ([`Classes`], what
//! zero-shot classification scores) and `corpus.json` ([`CorpusCard`], what was asked for and whether it is complete).
//!
//! **Determinism.** Every sample is a function of (seed, split, index), so equal configurations give byte-identical
//! shards, whatever the number of threads.
//!
//! **Splits.** Where items are combined, which nouns (shapes and words) and which colours occur together decides the
//! split: one in eight combinations is held out, under every seed, so no held-out combination is ever trained on, and
//! compositions are measured that were never seen. Which noun has which colour and how they are related does not enter:
//! a right caption and its exchanged or reversed counterpart are therefore equally unseen. Single objects and single
//! words cannot be disjoint, since every class has to be trained; there, held-out pictures are other draws of position,
//! size and colour.
//!
//! | file | what it holds |
//! |---|---|
//! | `vocabulary` | shapes, colours, sizes, textures, relations |
//! | `rules` | what each level draws from |
//! | `scene`, `layout` | what a picture shows, and where |
//! | `grammar`, `questions` | what is said and asked about it |
//! | `outline`, `words`, `render` | how it is drawn |
//! | `facts` | what is written beside it |
//! | `corpus`, `folder` | the shards and the folder they lie in |
//! | `photograph` | pictures for measuring decoders; not part of the corpus |

mod config;
mod corpus;
mod facts;
mod folder;
mod grammar;
mod layout;
mod outline;
mod photograph;
mod questions;
mod render;
mod rng;
mod rules;
mod scene;
mod vocabulary;
mod words;

use std::io;
use std::path::PathBuf;

pub use config::{Level, Split, SynthConfig};
pub use corpus::{SplitReport, SynthReport, generate};
pub use facts::{Classes, Facts, Negatives, ObjectFacts, Prompts, TextFacts};
pub use folder::CorpusCard;
pub use photograph::photograph;

/// Why a corpus could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The configuration asks for something that can't be; all reasons at once.
    #[error("the corpus cannot be made as asked: {}", problems.join("; "))]
    Config {
        /// One line each: what is wrong, and what would be right.
        problems: Vec<String>,
    },
    /// The folder holds something else, which is not ours to replace.
    #[error("{} holds files but no earlier synthetic corpus: choose an empty or a new folder", folder.display())]
    FolderInUse {
        /// The folder that was named.
        folder: PathBuf,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: check its permissions and the space left", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A picture could not be encoded.
    #[error("cannot encode the picture of sample {key}: report this with the corpus configuration")]
    Encode {
        /// Of the sample.
        key: String,
        /// What the encoder said.
        #[source]
        source: jpeg_encoder::EncodingError,
    },
}

impl SynthError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
