//! What other programs' networks have that ours have not, in words.

/// What a name says, by a piece of it.
const KNOWN: [(&str, &str); 18] = [
    ("cls_token", CLASS_TOKEN),
    ("class_embedding", CLASS_TOKEN),
    ("cls", CLASS_TOKEN),
    ("dist_token", "a distillation token"),
    ("reg_token", "register tokens"),
    ("fc_norm", "a layer norm after pooling instead of before it"),
    ("norm_pre", "a layer norm before the first block"),
    ("ln_pre", "a layer norm before the first block"),
    (".ls1.", "scales at the ends of a block's branches"),
    (".ls2.", "scales at the ends of a block's branches"),
    ("gamma_", "scales at the ends of a block's branches"),
    ("q_norm", "norms of queries and keys"),
    ("k_norm", "norms of queries and keys"),
    ("cls_emb", "a class token in its texts"),
    ("conv1", "patches without bias"),
    ("pre_logits", "a hidden layer before its classes"),
    ("head_dist", "a distillation token"),
    ("resblocks", "another vision transformer than timm's"),
];
const CLASS_TOKEN: &str = "a class token, and without it the features are others: take a model without one, as \
                           vit_base_patch16_siglip_224 of timm";

/// A sentence for every kind of name.
pub(super) fn differences<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(difference).collect()
}

fn difference(name: &str) -> String {
    let pattern = pattern(name);
    let is_projection = matches!(name, "text_projection" | "text.text_projection");
    let what = if is_projection {
        Some("a projection of texts without bias, as networks with a causal mask have it")
    } else if name == "visual.proj" {
        Some("a projection of images without bias")
    } else {
        KNOWN.iter().find(|(piece, _)| matches(name, piece)).map(|(_, what)| *what)
    };
    match what {
        Some(what) => format!("it has {what} ({pattern})"),
        None => format!("it has {pattern}, networks here do not"),
    }
}

/// Short pieces are whole names.
fn matches(name: &str, piece: &str) -> bool {
    if piece == "cls" { name.rsplit('/').next() == Some(piece) } else { name.contains(piece) }
}

/// The name of all blocks' parameters of a kind.
pub(super) fn pattern(name: &str) -> String {
    let separator = if name.contains('/') { "/" } else { "." };
    let piece = |piece: &str| {
        if !piece.is_empty() && piece.bytes().all(|b| b.is_ascii_digit()) {
            return "*".to_owned();
        }
        match piece.trim_end_matches(|c: char| c.is_ascii_digit()) {
            block @ ("encoderblock_" | "EncDecBlock") => format!("{block}*"),
            _ => piece.to_owned(),
        }
    };
    name.split(separator).map(piece).collect::<Vec<_>>().join(separator)
}
