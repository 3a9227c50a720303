//! The file: a protocol buffer. Reference: `src/sentencepiece_model.proto` of SentencePiece.

use prost::Message;

use crate::text::TokenizerError;

/// Bound on the vocabulary.
const MAX_PIECES: usize = 4_000_000;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43")]
    pad_id: Option<i32>,
}

/// How text is normalised.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NormalizerSpec {
    /// A trie of what is replaced, and the replacements; empty: nothing.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) precompiled_charsmap: Option<Vec<u8>>,
    /// Whether a text begins with a space.
    #[prost(bool, optional, tag = "3")]
    pub(super) add_dummy_prefix: Option<bool>,
    /// Whether spaces around the text go, and several become one.
    #[prost(bool, optional, tag = "4")]
    pub(super) remove_extra_whitespaces: Option<bool>,
    /// Whether a space is written as `▁`.
    #[prost(bool, optional, tag = "5")]
    pub(super) escape_whitespaces: Option<bool>,
}

/// How text is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte(u8),
}

/// A piece of text with an id: its place in the file.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// A file in which nothing is left to check.
pub(super) struct ModelFile {
    pub(super) pieces: Vec<Piece>,
    pub(super) algorithm: Algorithm,
    pub(super) byte_fallback: bool,
    pub(super) unknown: u32,
    pub(super) begin: Option<u32>,
    pub(super) end: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) normalizer: NormalizerSpec,
}

impl ModelFile {
    pub(super) fn parse(content: &[u8]) -> Result<Self, TokenizerError> {
        let refused = |message: String| TokenizerError::Model(message);
        let file = ModelProto::decode(content).map_err(|_| TokenizerError::UnknownFormat)?;
        if file.pieces.is_empty() {
            return Err(TokenizerError::UnknownFormat);
        }
        if file.pieces.len() > MAX_PIECES {
            return Err(refused(format!("it has {} pieces, more than {MAX_PIECES}", file.pieces.len())));
        }
        let trainer = file.trainer.unwrap_or_default();
        let algorithm = match trainer.model_type.unwrap_or(1) {
            1 => Algorithm::Unigram,
            2 => Algorithm::Bpe,
            other => return Err(refused(format!("its type is {other}; only unigram (1) and BPE (2) are supported"))),
        };
        if trainer.treat_whitespace_as_suffix == Some(true) {
            return Err(refused("it writes spaces after words, which is not supported".into()));
        }
        let pieces = file.pieces.into_iter().map(piece).collect::<Result<Vec<_>, _>>()?;
        let unknown = pieces.iter().position(|piece| piece.kind == Kind::Unknown);
        let unknown = unknown.ok_or_else(|| refused("it has no piece for unknown text".into()))?;
        let control = |id: i32| {
            let id = u32::try_from(id).ok()?;
            (pieces.get(id as usize)?.kind == Kind::Control).then_some(id)
        };
        Ok(Self {
            algorithm,
            byte_fallback: trainer.byte_fallback.unwrap_or(false),
            unknown: u32::try_from(unknown).expect("below the bound on pieces"),
            begin: control(trainer.bos_id.unwrap_or(1)),
            end: control(trainer.eos_id.unwrap_or(2)),
            pad: control(trainer.pad_id.unwrap_or(-1)),
            normalizer: file.normalizer.unwrap_or_default(),
            pieces,
        })
    }
}

fn piece(raw: PieceProto) -> Result<Piece, TokenizerError> {
    let text = raw.piece.unwrap_or_default();
    let byte = || u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok();
    let kind = match raw.kind.unwrap_or(1) {
        1 => Some(Kind::Normal),
        2 => Some(Kind::Unknown),
        3 => Some(Kind::Control),
        4 => Some(Kind::UserDefined),
        5 => Some(Kind::Unused),
        6 => byte().map(Kind::Byte),
        _ => None,
    };
    let score = raw.score.unwrap_or(0.0);
    match kind {
        Some(kind) if score.is_finite() => Ok(Piece { text, score, kind }),
        _ => Err(TokenizerError::Model(format!("the piece {text:?} is of no known kind"))),
    }
}
