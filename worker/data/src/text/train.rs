//! Training a tokenizer from captions.

use tokenizers::decoders::metaspace::Metaspace as MetaspaceDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::{Lowercase, NFKC, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, PostProcessorWrapper, TokenizerBuilder};

use super::TokenizerError;

/// Tokens of the vocabulary unless asked otherwise; what the preset `tiny` takes.
pub const DEFAULT_VOCABULARY: usize = 512;

/// The first ids in their order: padding, end of text, and what no other token covers.
const SPECIAL_TOKENS: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// Stands for a space, as in SentencePiece.
const SPACE: char = '▁';

/// Trains byte-pair merges (Sennrich et al., arXiv 1508.07909) over words and returns the `tokenizer.json`. The result depends
/// on the set of captions only, not on their order.
///
/// # Errors
/// When there is no caption or the vocabulary's size is unusable.
pub fn train<S: AsRef<str> + Send>(
    captions: impl Iterator<Item = S> + Send,
    vocabulary: usize,
) -> Result<Vec<u8>, TokenizerError> {
    if !(4..=1_000_000).contains(&vocabulary) {
        return Err(TokenizerError::VocabularySize(vocabulary));
    }
    let special = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .special_tokens(special.to_vec())
        // Rare characters give way to the unknown token before merges would have no room.
        .limit_alphabet(vocabulary / 2)
        .show_progress(false)
        .build();
    let model =
        BPE::builder().unk_token(SPECIAL_TOKENS[2].into()).fuse_unk(true).build().map_err(TokenizerError::Train)?;
    let mut tokenizer = TokenizerBuilder::default()
        .with_model(model)
        .with_normalizer(Some(Sequence::new(vec![NFKC.into(), Lowercase.into()])))
        .with_pre_tokenizer(Some(Metaspace::new(SPACE, PrependScheme::Always, true)))
        .with_post_processor(None::<PostProcessorWrapper>)
        .with_decoder(Some(MetaspaceDecoder::new(SPACE, PrependScheme::Always, true)))
        .build()
        .map_err(TokenizerError::Train)?;
    let mut count = 0u64;
    let counted = captions.inspect(|_| count += 1);
    tokenizer.train(&mut trainer, counted).map_err(TokenizerError::Train)?;
    if count == 0 {
        return Err(TokenizerError::NoCaptions);
    }
    let document = tokenizer.to_string(true).map_err(TokenizerError::Train)?;
    Ok((document + "\n").into_bytes())
}
