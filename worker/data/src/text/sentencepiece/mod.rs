//! SentencePiece `.model` files (Kudo and Richardson, arXiv 1808.06226), unigram and byte-pair ones: the ids that SentencePiece itself
//! gives. The text is normalised here as SentencePiece does it; pieces are found by the models of the crate `tokenizers`.

mod model;
mod normalise;

use std::sync::Arc;

use tokenizers::Model;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;

use super::{END_OF_TEXT, PAD, TokenizerError};
use model::{Algorithm, Kind, ModelFile, Piece};
use normalise::{Normaliser, SPACE};

/// A tokenizer from a `.model` file.
#[derive(Clone)]
pub(super) struct SentencePiece {
    normaliser: Arc<Normaliser>,
    model: Arc<ModelWrapper>,
    pieces: Arc<[Piece]>,
    unknown: u32,
    /// Ids of the bytes, where characters that are in no piece become their bytes.
    bytes: Option<Arc<[u32; 256]>>,
    ids: Ids,
}

impl SentencePiece {
    /// Reads the content of a `.model` file.
    pub(super) fn from_bytes(content: &[u8]) -> Result<Self, TokenizerError> {
        let file = ModelFile::parse(content)?;
        let normaliser = Normaliser::new(&file.normalizer)?;
        let model = match file.algorithm {
            Algorithm::Unigram => ModelWrapper::Unigram(unigram(&file)?),
            Algorithm::Bpe => ModelWrapper::BPE(byte_pairs(&file)?),
        };
        let bytes = if file.byte_fallback { Some(Arc::new(byte_ids(&file.pieces)?)) } else { None };
        Ok(Self {
            normaliser: Arc::new(normaliser),
            model: Arc::new(model),
            unknown: file.unknown,
            ids: Ids::new(&file)?,
            bytes,
            pieces: file.pieces.into(),
        })
    }

    /// The number of ids.
    pub(super) fn vocabulary(&self) -> usize {
        self.pieces.len()
    }

    /// The text of an id.
    pub(super) fn token(&self, id: u32) -> String {
        name(&self.pieces[self.ids.theirs(id) as usize])
    }

    /// The ids of a text, without an end of text.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let normal = self.normaliser.normalise(text);
        if normal.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = Vec::new();
        for token in self.model.tokenize(&normal).map_err(TokenizerError::Text)? {
            match &self.bytes {
                Some(bytes) if token.id == self.unknown => {
                    let part = normal.get(token.offsets.0..token.offsets.1).unwrap_or_default();
                    ids.extend(part.bytes().map(|byte| self.ids.ours(bytes[usize::from(byte)])));
                }
                _ => ids.push(self.ids.ours(token.id)),
            }
        }
        Ok(ids)
    }

    /// The text of ids; padding, ends and ids outside the vocabulary are left out.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let mut text = Vec::new();
        // Spaces before the text are those that normalising adds or would have removed.
        let mut at_start = self.normaliser.adds_prefix() || self.normaliser.removes_extra();
        for &id in ids {
            match self.pieces.get(self.ids.theirs(id) as usize) {
                Some(Piece { kind: Kind::Control, .. }) | None => continue,
                Some(Piece { kind: Kind::Unknown, .. }) => text.extend_from_slice(" \u{2047} ".as_bytes()),
                Some(Piece { kind: Kind::Byte(byte), .. }) => text.push(*byte),
                Some(piece) => {
                    let part = if at_start { piece.text.strip_prefix(SPACE) } else { None };
                    at_start &= part.is_some() && self.normaliser.removes_extra();
                    text.extend_from_slice(part.unwrap_or(&piece.text).replace(SPACE, " ").as_bytes());
                }
            }
            at_start &= text.is_empty();
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The file's ids to ours, where padding is 0 and the end of the text 1: ids change places where the file has them elsewhere.
#[derive(Debug, Clone, Copy)]
struct Ids {
    /// Of the file.
    end: u32,
    /// Of the file, after the end took its place.
    pad: u32,
}

impl Ids {
    fn new(file: &ModelFile) -> Result<Self, TokenizerError> {
        let end = file.end.ok_or(TokenizerError::NoSpecialTokens)?;
        // A model without padding has another control piece, which no text contains: the beginning of the text.
        let pad = file.pad.or(file.begin).ok_or(TokenizerError::NoSpecialTokens)?;
        let pad = exchange(pad, end, END_OF_TEXT as u32);
        Ok(Self { end, pad })
    }

    fn ours(self, theirs: u32) -> u32 {
        exchange(exchange(theirs, self.end, END_OF_TEXT as u32), self.pad, PAD as u32)
    }

    fn theirs(self, ours: u32) -> u32 {
        exchange(exchange(ours, self.pad, PAD as u32), self.end, END_OF_TEXT as u32)
    }
}

fn exchange(id: u32, a: u32, b: u32) -> u32 {
    match id {
        id if id == a => b,
        id if id == b => a,
        id => id,
    }
}

/// A piece's name in the model. Only pieces that text may match keep theirs; the others get a space, which normalised text has not.
fn name(piece: &Piece) -> String {
    match piece.kind {
        Kind::Normal | Kind::UserDefined => piece.text.clone(),
        _ => format!("{} ", piece.text),
    }
}

fn unigram(file: &ModelFile) -> Result<Unigram, TokenizerError> {
    let normal = || file.pieces.iter().filter(|piece| matches!(piece.kind, Kind::Normal));
    let largest = normal().map(|piece| piece.score).fold(f32::MIN, f32::max);
    let vocabulary = file.pieces.iter().map(|piece| {
        let score = match piece.kind {
            // A user's piece wins over any other way to cut the same text.
            Kind::UserDefined => piece.text.chars().count() as f32 * largest - 0.1,
            // They can't be matched, and must not lower the least score, to which that of unknown text is relative.
            Kind::Control | Kind::Unknown | Kind::Byte(_) | Kind::Unused => 0.0,
            Kind::Normal => piece.score,
        };
        (name(piece), f64::from(score))
    });
    Unigram::from(vocabulary.collect(), Some(file.unknown as usize), false).map_err(TokenizerError::Format)
}

/// Byte pairs: two neighbours merge into a piece, the piece with the best score first.
fn byte_pairs(file: &ModelFile) -> Result<BPE, TokenizerError> {
    if file.pieces.iter().any(|piece| matches!(piece.kind, Kind::UserDefined)) {
        return Err(TokenizerError::Model("user-defined pieces in a byte-pair model are not supported".into()));
    }
    let vocabulary: Vocab = file.pieces.iter().map(name).zip(0..).collect();
    let mut normal: Vec<&Piece> = file.pieces.iter().filter(|piece| matches!(piece.kind, Kind::Normal)).collect();
    normal.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merges = Vec::new();
    for piece in normal {
        for (place, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(place);
            if vocabulary.contains_key(left) && vocabulary.contains_key(right) {
                merges.push((left.to_owned(), right.to_owned()));
            }
        }
    }
    let unknown = name(&file.pieces[file.unknown as usize]);
    BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .unk_token(unknown)
        .fuse_unk(true)
        .build()
        .map_err(TokenizerError::Format)
}

fn byte_ids(pieces: &[Piece]) -> Result<[u32; 256], TokenizerError> {
    let mut ids = [None; 256];
    for (piece, id) in pieces.iter().zip(0..) {
        if let Kind::Byte(byte) = piece.kind {
            ids[usize::from(byte)] = Some(id);
        }
    }
    let missing = || TokenizerError::Model("it falls back to bytes, but lacks pieces for some".into());
    let all: Option<Vec<u32>> = ids.into_iter().collect();
    all.and_then(|ids| ids.try_into().ok()).ok_or_else(missing)
}
