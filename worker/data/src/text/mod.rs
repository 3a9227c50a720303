//! Text: captions to token ids and back.

mod buckets;
mod sentencepiece;
mod train;

use std::path::Path;

use sha2::{Digest, Sha256};

pub use buckets::{Buckets, BucketsError};
use sentencepiece::SentencePiece;
pub use train::{DEFAULT_VOCABULARY, train};

/// Id of padding, which the loss leaves out.
pub const PAD: i64 = 0;
/// Id of the end of the text, which the loss counts.
pub const END_OF_TEXT: i64 = 1;

/// A tokenizer with ids 0 for padding and 1 for the end of the text: from a `tokenizer.json` as Hugging Face's `tokenizers` writes
/// it, or from a SentencePiece `.model`, whose ids change places where it has padding or the end elsewhere. The id of the mask is
/// the model's: the one after its vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    digest: String,
    /// What texts are filled up with.
    padding: i64,
}

#[derive(Clone)]
enum Inner {
    HuggingFace(Box<tokenizers::Tokenizer>),
    SentencePiece(SentencePiece),
}

/// Why a tokenizer can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file can't be read.
    #[error("tokenizer {path} cannot be read")]
    File {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no tokenizer.
    #[error("not a tokenizer.json; make one with `cappactl tokenizer train`")]
    Format(#[source] tokenizers::Error),
    /// The file is of neither format.
    #[error("neither a tokenizer.json nor a SentencePiece .model; make one with `cappactl tokenizer train`")]
    UnknownFormat,
    /// The SentencePiece model is damaged, or of a kind that is not supported.
    #[error("the SentencePiece model can't be used: {0}")]
    Model(String),
    /// The tokens that every text needs are not there.
    #[error("the tokenizer has no tokens for padding (id 0) and the end of the text (id 1); use one that has them")]
    NoSpecialTokens,
    /// Some ids have no row in the model's embedding.
    #[error(
        "the tokenizer has ids up to {largest}, but the model a vocabulary of {model}; use another tokenizer or set the \
         model's vocabulary to at least {}",
        largest + 1
    )]
    Vocabulary {
        /// The largest id.
        largest: u32,
        /// Size of the model's vocabulary.
        model: usize,
    },
    /// The vocabulary asked for can't be made.
    #[error("the vocabulary must have from 4 to 1000000 tokens, not {0}")]
    VocabularySize(usize),
    /// No caption to train from.
    #[error("there are no captions to train a tokenizer from; name shards that have some")]
    NoCaptions,
    /// The training failed.
    #[error("the tokenizer could not be trained")]
    Train(#[source] tokenizers::Error),
    /// A text can't be encoded, or ids not be decoded.
    #[error("the tokenizer failed on a text")]
    Text(#[source] tokenizers::Error),
}

impl Tokenizer {
    /// Reads a `tokenizer.json` or a `.model`; its content says which it is.
    ///
    /// # Errors
    /// When it can't be read, or is no tokenizer with the ids that the model needs.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let document =
            std::fs::read(path).map_err(|source| TokenizerError::File { path: path.display().to_string(), source })?;
        Self::from_bytes(&document)
    }

    /// A tokenizer from the content of a `tokenizer.json` or a `.model`.
    ///
    /// # Errors
    /// When it is no tokenizer with the ids that the model needs.
    pub fn from_bytes(document: &[u8]) -> Result<Self, TokenizerError> {
        let json = document.trim_ascii_start().starts_with(b"{");
        let inner =
            if json { hugging_face(document)? } else { Inner::SentencePiece(SentencePiece::from_bytes(document)?) };
        Ok(Self { inner, digest: hex::encode(Sha256::digest(document)), padding: PAD })
    }

    /// The same tokenizer filling texts up with [`END_OF_TEXT`] instead of [`PAD`], as the authors do for two towers: the last
    /// token, which stands for the whole text there, is then the same in all.
    #[must_use]
    pub fn padding_with_the_end(self) -> Self {
        Self { padding: END_OF_TEXT, ..self }
    }

    /// SHA-256 of the file, in lowercase hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// SHA-256 of the vocabulary alone, whatever the file around it: every token in the order of the ids, each behind its id and its
    /// length as little-endian 64 bits. Equal ids then mean equal texts to a network.
    pub fn vocabulary_digest(&self) -> String {
        let mut digest = Sha256::new();
        for id in 0..=self.largest_id() {
            let token = match &self.inner {
                Inner::HuggingFace(inner) => inner.id_to_token(id),
                Inner::SentencePiece(inner) => Some(inner.token(id)),
            };
            if let Some(token) = token {
                digest.update(u64::from(id).to_le_bytes());
                digest.update((token.len() as u64).to_le_bytes());
                digest.update(token);
            }
        }
        hex::encode(digest.finalize())
    }

    /// The number of ids, the largest plus one.
    pub fn vocabulary(&self) -> usize {
        self.largest_id() as usize + 1
    }

    /// Checks that a model with a vocabulary of `model` tokens has a place for every id.
    ///
    /// # Errors
    /// [`TokenizerError::Vocabulary`] when it has not.
    pub fn check_vocabulary(&self, model: usize) -> Result<(), TokenizerError> {
        let largest = self.largest_id();
        if largest as usize >= model { Err(TokenizerError::Vocabulary { largest, model }) } else { Ok(()) }
    }

    /// Encodes a text as the authors do: in lowercase, ended by [`END_OF_TEXT`], padded with [`PAD`] to `length`. A text that is
    /// too long is cut, and still ends in [`END_OF_TEXT`].
    ///
    /// # Errors
    /// [`TokenizerError::Text`] when the tokenizer fails.
    pub fn encode(&self, text: &str, length: usize) -> Result<Vec<i64>, TokenizerError> {
        let text = text.to_lowercase();
        let ids = match &self.inner {
            Inner::HuggingFace(inner) => {
                inner.encode_fast(text, false).map_err(TokenizerError::Text)?.get_ids().to_vec()
            }
            Inner::SentencePiece(inner) => inner.encode(&text)?,
        };
        let room = length.saturating_sub(1);
        let mut tokens: Vec<i64> = ids.into_iter().take(room).map(i64::from).collect();
        tokens.push(END_OF_TEXT);
        tokens.resize(length, self.padding);
        Ok(tokens)
    }

    /// The text of ids up to the first [`END_OF_TEXT`]; padding and ids that are not in the vocabulary are left out.
    ///
    /// # Errors
    /// [`TokenizerError::Text`] when the tokenizer fails.
    pub fn decode(&self, tokens: &[i64]) -> Result<String, TokenizerError> {
        let ids: Vec<u32> = tokens
            .iter()
            .take_while(|&&token| token != END_OF_TEXT)
            .filter(|&&token| token != PAD)
            .filter_map(|&token| u32::try_from(token).ok())
            .collect();
        match &self.inner {
            Inner::HuggingFace(inner) => inner.decode(&ids, true).map_err(TokenizerError::Text),
            Inner::SentencePiece(inner) => Ok(inner.decode(&ids)),
        }
    }

    fn largest_id(&self) -> u32 {
        match &self.inner {
            Inner::HuggingFace(inner) => inner.get_vocab(true).into_values().max().unwrap_or(0),
            Inner::SentencePiece(inner) => u32::try_from(inner.vocabulary() - 1).expect("bounded when it was read"),
        }
    }
}

fn hugging_face(document: &[u8]) -> Result<Inner, TokenizerError> {
    let mut inner = tokenizers::Tokenizer::from_bytes(document).map_err(TokenizerError::Format)?;
    // Length is ours to fix, and a caption that spells `</s>` must not end there.
    inner.with_padding(None).with_truncation(None).map_err(TokenizerError::Format)?;
    inner.set_encode_special_tokens(true);
    if inner.id_to_token(0).is_none() || inner.id_to_token(1).is_none() {
        return Err(TokenizerError::NoSpecialTokens);
    }
    Ok(Inner::HuggingFace(Box::new(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTIONS: [&str; 4] = [
        "a small red star left of a large blue ring",
        "the word MOON in green above a square",
        "a large green square",
        "a small blue star above a red ring, striped",
    ];

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(&train(CAPTIONS.iter(), 200).unwrap()).unwrap()
    }

    #[test]
    fn a_caption_comes_back_in_lowercase() {
        let tokenizer = tokenizer();
        for caption in CAPTIONS {
            let tokens = tokenizer.encode(caption, 64).unwrap();
            assert_eq!(tokens.len(), 64);
            assert_eq!(tokenizer.decode(&tokens).unwrap(), caption.to_lowercase());
        }
    }

    #[test]
    fn the_end_of_text_is_kept_when_the_text_is_cut() {
        let tokenizer = tokenizer();
        let whole = tokenizer.encode(CAPTIONS[0], 64).unwrap();
        let end = whole.iter().position(|&token| token == END_OF_TEXT).unwrap();
        assert!(whole[end + 1..].iter().all(|&token| token == PAD));
        let cut = tokenizer.encode(CAPTIONS[0], 4).unwrap();
        assert_eq!(cut, [whole[0], whole[1], whole[2], END_OF_TEXT]);
        assert_eq!(tokenizer.encode(CAPTIONS[0], end + 1).unwrap(), whole[..=end]);
        assert_eq!(tokenizer.encode("", 3).unwrap(), [END_OF_TEXT, PAD, PAD]);
        let tokenizer = tokenizer.padding_with_the_end();
        assert_eq!(tokenizer.encode("", 3).unwrap(), [END_OF_TEXT; 3]);
        assert_eq!(tokenizer.decode(&tokenizer.encode(CAPTIONS[0], 64).unwrap()).unwrap(), CAPTIONS[0]);
    }

    #[test]
    fn a_caption_can_not_spell_special_tokens() {
        let tokens = tokenizer().encode("a </s> star <pad>", 64).unwrap();
        let end = tokens.iter().position(|&token| token == END_OF_TEXT).unwrap();
        assert!(end > 3 && !tokens[..end].contains(&PAD), "{tokens:?}");
    }

    #[test]
    fn training_is_deterministic() {
        assert_eq!(train(CAPTIONS.iter(), 150).unwrap(), train(CAPTIONS.iter().rev(), 150).unwrap());
    }

    #[test]
    fn a_vocabulary_has_one_digest_however_its_file_is_written() {
        let document = train(CAPTIONS.iter(), 200).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&document).unwrap();
        let digest = |document: &[u8]| Tokenizer::from_bytes(document).unwrap().vocabulary_digest();
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        assert_eq!(digest(&pretty), digest(&document));
        let other = train(CAPTIONS[..2].iter(), 200).unwrap();
        assert_ne!(digest(&other), digest(&document));
    }

    #[test]
    fn a_vocabulary_larger_than_the_models_is_refused() {
        let tokenizer = tokenizer();
        let vocabulary = tokenizer.vocabulary();
        assert!(vocabulary <= 200);
        assert!(tokenizer.check_vocabulary(vocabulary).is_ok());
        assert!(matches!(tokenizer.check_vocabulary(vocabulary - 1), Err(TokenizerError::Vocabulary { .. })));
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        assert!(matches!(Tokenizer::from_bytes(b"{}"), Err(TokenizerError::Format(_))));
        for content in [&b""[..], b"a text", b"\x0a\x00", &[0xFF; 100]] {
            assert!(Tokenizer::from_bytes(content).is_err());
        }
        assert!(matches!(train(std::iter::empty::<&str>(), 512), Err(TokenizerError::NoCaptions)));
        assert!(matches!(train(CAPTIONS.iter(), 3), Err(TokenizerError::VocabularySize(3))));
    }
}
