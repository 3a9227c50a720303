//! Rendered words: the vocabulary and its letter forms, as paths, in DejaVu (Bitstream Vera licence).

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, GlyphId, OutlineCurve, Point};
use tiny_skia::{Path, PathBuilder, Transform};

/// The words, none of which names a shape or a colour. The easy level uses the first 16, all of four letters, so
/// that the length of the picture gives nothing away.
pub(super) const WORDS: [&str; 48] = [
    "MOON", "FISH", "TREE", "BOOK", "LAMP", "SHIP", "BIRD", "CAKE", "DOOR", "RAIN", "KING", "WOLF", "MILK", "LEAF",
    "SAND", "FROG", "SUN", "CAT", "DOG", "BUS", "HAT", "KEY", "CUP", "OWL", "BEAR", "BELL", "BOAT", "CORN", "DESK",
    "DUCK", "FIRE", "GATE", "HORSE", "HOUSE", "JUICE", "KITE", "LION", "MOUSE", "NEST", "OCEAN", "PIANO", "QUEEN",
    "RIVER", "SNOW", "TRAIN", "VIOLIN", "WATER", "ZEBRA",
];

/// A typeface; all are bold, which is what stays legible on 64 pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typeface {
    Sans,
    Serif,
    Mono,
}

impl Typeface {
    pub(super) const ALL: [Self; 3] = [Self::Sans, Self::Serif, Self::Mono];

    fn file(self) -> &'static [u8] {
        match self {
            Self::Sans => dejavu::sans::bold(),
            Self::Serif => dejavu::serif::bold(),
            Self::Mono => dejavu::sans_mono::bold(),
        }
    }
}

/// A word as one path, centred at the origin, from -1 to 1 in x, y pointing down; filled by the winding rule.
pub(super) struct Lettering {
    pub(super) path: Path,
    /// Height over width.
    pub(super) aspect: f32,
}

static LETTERINGS: LazyLock<Vec<Vec<Lettering>>> = LazyLock::new(|| {
    let draw = |typeface: Typeface| {
        let font = FontRef::try_from_slice(typeface.file()).expect("the bundled font is valid");
        WORDS.iter().map(|word| Lettering::new(&font, word)).collect()
    };
    Typeface::ALL.into_iter().map(draw).collect()
});

/// The letter forms of `WORDS[word]`.
pub(super) fn lettering(word: usize, typeface: Typeface) -> &'static Lettering {
    &LETTERINGS[typeface as usize][word]
}

impl Lettering {
    fn new(font: &FontRef<'_>, word: &str) -> Self {
        let mut builder = PathBuilder::new();
        let mut pen = 0.0;
        let mut previous = None;
        for letter in word.chars() {
            let glyph = font.glyph_id(letter);
            pen += previous.map_or(0.0, |before| font.kern_unscaled(before, glyph));
            push_glyph(&mut builder, font, glyph, pen);
            pen += font.h_advance_unscaled(glyph);
            previous = Some(glyph);
        }
        let path = builder.finish().expect("a word has outlines");
        let bounds = path.bounds();
        let (centre_x, centre_y) = ((bounds.left() + bounds.right()) / 2.0, (bounds.top() + bounds.bottom()) / 2.0);
        let scale = 2.0 / bounds.width();
        let normalise = Transform::from_translate(-centre_x, -centre_y).post_scale(scale, scale);
        Self {
            aspect: bounds.height() / bounds.width(),
            path: path.transform(normalise).expect("a finite path stays finite"),
        }
    }
}

/// Appends the contours of a glyph at `pen`, in font units with y flipped to point down.
fn push_glyph(builder: &mut PathBuilder, font: &FontRef<'_>, glyph: GlyphId, pen: f32) {
    let Some(outline) = font.outline(glyph) else {
        return;
    };
    let place = |point: Point| (pen + point.x, -point.y);
    let mut end = None;
    for curve in outline.curves {
        let (start, stop) = match &curve {
            OutlineCurve::Line(a, b) | OutlineCurve::Quad(a, _, b) | OutlineCurve::Cubic(a, _, _, b) => (*a, *b),
        };
        if end != Some(start) {
            let (x, y) = place(start);
            builder.move_to(x, y);
        }
        let (x, y) = place(stop);
        match curve {
            OutlineCurve::Line(..) => builder.line_to(x, y),
            OutlineCurve::Quad(_, control, _) => {
                let (x1, y1) = place(control);
                builder.quad_to(x1, y1, x, y);
            }
            OutlineCurve::Cubic(_, first, second, _) => {
                let ((x1, y1), (x2, y2)) = (place(first), place(second));
                builder.cubic_to(x1, y1, x2, y2, x, y);
            }
        }
        end = Some(stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_wide_letter_forms_in_every_typeface() {
        for typeface in Typeface::ALL {
            for (index, word) in WORDS.iter().enumerate() {
                let aspect = lettering(index, typeface).aspect;
                assert!((0.15..0.6).contains(&aspect), "{word}: {aspect}");
            }
        }
    }
}
