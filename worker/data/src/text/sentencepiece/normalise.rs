//! Normalising text as SentencePiece does. Reference: `src/normalizer.cc` there.

use super::model::NormalizerSpec;
use crate::text::TokenizerError;

/// Stands for a space.
pub(super) const SPACE: char = '▁';

/// Longest chain of bytes that is looked up.
const MAX_MATCH: usize = 256;

/// Text in, text with [`SPACE`] for spaces out.
pub(super) struct Normaliser {
    map: Option<Charsmap>,
    add_prefix: bool,
    remove_extra: bool,
}

impl Normaliser {
    pub(super) fn new(spec: &NormalizerSpec) -> Result<Self, TokenizerError> {
        if spec.escape_whitespaces == Some(false) {
            return Err(TokenizerError::Model("it keeps spaces as they are, which is not supported".into()));
        }
        let map = match spec.precompiled_charsmap.as_deref() {
            None | Some([]) => None,
            Some(blob) => Some(
                Charsmap::parse(blob).ok_or_else(|| TokenizerError::Model("its character map is damaged".into()))?,
            ),
        };
        Ok(Self {
            map,
            add_prefix: spec.add_dummy_prefix.unwrap_or(true),
            remove_extra: spec.remove_extra_whitespaces.unwrap_or(true),
        })
    }

    /// Whether a text begins with a space that it had not.
    pub(super) fn adds_prefix(&self) -> bool {
        self.add_prefix
    }

    /// Whether spaces around a text go, and several become one.
    pub(super) fn removes_extra(&self) -> bool {
        self.remove_extra
    }

    pub(super) fn normalise(&self, text: &str) -> String {
        let mut rest = text;
        let mut normal = String::with_capacity(text.len() + 3);
        let mut after_space = self.remove_extra;
        while !rest.is_empty() {
            let (mut part, consumed) = self.prefix(rest);
            rest = &rest[consumed..];
            if after_space {
                part = part.trim_start_matches(' ');
            }
            if part.is_empty() {
                continue;
            }
            if normal.is_empty() && self.add_prefix {
                normal.push(SPACE);
            }
            normal.extend(part.chars().map(|character| if character == ' ' { SPACE } else { character }));
            after_space = self.remove_extra && part.ends_with(' ');
        }
        if self.remove_extra {
            normal.truncate(normal.trim_end_matches(SPACE).len());
        }
        normal
    }

    /// What the beginning of a text becomes, and how many bytes that takes.
    fn prefix<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some((replacement, consumed)) = self.map.as_ref().and_then(|map| map.longest(text)) {
            return (replacement, consumed);
        }
        let first = text.chars().next().map_or(text.len(), char::len_utf8);
        (&text[..first], first)
    }
}

/// What is replaced by what: a double-array trie (as Darts-clone lays it out) over the bytes of what is replaced, whose values are
/// places in a buffer of texts that end in a zero byte.
struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    fn parse(blob: &[u8]) -> Option<Self> {
        let (&size, rest) = blob.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_le_bytes(size)).ok()?;
        let (trie, texts) = rest.split_at_checked(size)?;
        let units = trie.as_chunks::<4>().0.iter().map(|&unit| u32::from_le_bytes(unit)).collect();
        Some(Self { units, texts: String::from_utf8(texts.to_vec()).ok()? })
    }

    /// The replacement of the longest beginning of `text` that has one, and that beginning's bytes.
    fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let unit = |place: u32| self.units.get(place as usize).copied();
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut place = offset(unit(0)?);
        let mut best = None;
        for (index, byte) in text.bytes().take(MAX_MATCH).enumerate() {
            place ^= u32::from(byte);
            let Some(node) = unit(place) else { break };
            // The label and the bit that marks values.
            if node & ((1 << 31) | 0xFF) != u32::from(byte) {
                break;
            }
            place ^= offset(node);
            if node & (1 << 8) != 0 {
                best = unit(place).map(|leaf| (leaf & 0x7FFF_FFFF, index + 1)).or(best);
            }
        }
        let (start, consumed) = best?;
        let texts = self.texts.get(start as usize..)?;
        // A map that would cut a character in two is not used there.
        text.is_char_boundary(consumed).then(|| (texts.split('\0').next().unwrap_or_default(), consumed))
    }
}
