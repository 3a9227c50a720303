//! What can be wrong with a model's configuration, parameters or inputs.

/// Why a network can't be built, loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The configuration describes no network.
    #[error("{field} is {value}: {remedy}")]
    Config {
        /// The field of [`crate::ModelConfig`].
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        remedy: &'static str,
    },
    /// A named tensor that the network needs was not given.
    #[error("tensor {name} is missing: the checkpoint belongs to another model configuration")]
    MissingTensor {
        /// The parameter or state tensor.
        name: String,
    },
    /// A named tensor, or an input, has another shape than the network's.
    #[error("{name} has shape {found:?} but must have {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<i64>,
        /// The shape that fits, in words.
        expected: String,
    },
    /// A checkpoint does not have what a network is to start from.
    #[error("{}", listed(differences))]
    Transfer {
        /// What differs, a sentence for each parameter.
        differences: Vec<String>,
    },
    /// Texts can't go on from what was given.
    #[error(
        "{given} prefixes of up to {longest} tokens were given for {images} images and texts of at most {length}: give each image one that leaves room for a token"
    )]
    Prefixes {
        /// How many there are.
        given: usize,
        /// How many are needed.
        images: usize,
        /// Tokens of the longest.
        longest: usize,
        /// Tokens of a text.
        length: usize,
    },
    /// Projected features were asked of a network without a projection.
    #[error("only networks of clip and siglip project: ask for pooled features")]
    NoProjection,
    /// Two towers were asked of a network that has only one.
    #[error(
        "open_clip takes an image and a text tower, and only networks of clip and siglip have both: export to timm"
    )]
    NoTowers,
    /// No network has the weights of another program.
    #[error("{}", differences.join("; "))]
    Import {
        /// What differs, a sentence for each kind of parameters.
        differences: Vec<String>,
    },
    /// Texts were given to a network that knows none.
    #[error("a classifier knows no texts: use a network of cap, cappa, clip or siglip")]
    NoTexts,
    /// Parallel prediction was asked of a network without a mask token.
    #[error("the model has no mask token: set masked_pred_prob above 0 to train with parallel prediction")]
    NoMaskToken,
    /// A tensor operation failed.
    #[error("a tensor operation failed")]
    Torch(#[source] tch::TchError),
    /// An operation on lists of tensors failed.
    #[error("an operation on lists of tensors failed")]
    List(#[from] cappa_collective::Error),
}

/// Differences that are told one by one.
const TOLD: usize = 5;

fn listed(differences: &[String]) -> String {
    let told = differences.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
    match differences.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

impl ModelError {
    pub(crate) fn shape(name: &str, found: &tch::Tensor, expected: impl std::fmt::Debug) -> Self {
        Self::Shape { name: name.to_owned(), found: found.size(), expected: format!("{expected:?}") }
    }
}
