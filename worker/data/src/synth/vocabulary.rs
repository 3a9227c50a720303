//! What can be seen and said: shapes, colours, sizes, textures, relations.

/// Declares a closed set of names; the first spelling is the canonical one, the others are what harder levels may say.
macro_rules! names {
    ($(#[$doc:meta])* $set:ident { $($(#[$item_doc:meta])* $variant:ident: $($word:literal)|+),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum $set { $($(#[$item_doc])* $variant),+ }

        impl $set {
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// All the spellings, the canonical one first.
            pub(super) fn words(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($word),+]),+ }
            }

            /// The canonical spelling: what facts, classes and the easy level say.
            pub(super) fn name(self) -> &'static str {
                self.words()[0]
            }
        }
    };
}

names! {
    /// The outlines. The easy level uses the first six.
    Shape {
        Circle: "circle" | "disc",
        Square: "square",
        Triangle: "triangle",
        Star: "star",
        Ring: "ring" | "hoop",
        Cross: "cross" | "plus sign",
        Diamond: "diamond" | "rhombus",
        Heart: "heart",
    }
}

names! {
    /// The colours. The easy level uses the first eight, the corners of the RGB cube, more or less.
    Colour {
        Red: "red",
        Green: "green",
        Blue: "blue",
        Yellow: "yellow",
        Purple: "purple" | "violet",
        Cyan: "cyan",
        White: "white",
        Black: "black",
        Orange: "orange",
        Pink: "pink",
    }
}

names! {
    /// How large an object is drawn; the ranges of radii do not touch.
    Size { Small: "small" | "little", Large: "large" | "big" }
}

names! {
    /// How the inside of a shape is filled. Plain is never said.
    Texture { Plain: "plain", Striped: "striped", Dotted: "dotted" | "spotted", Checked: "checked" | "chequered" }
}

names! {
    /// Where the first item lies, seen from the second.
    Relation {
        LeftOf: "left of" | "to the left of",
        RightOf: "right of" | "to the right of",
        Above: "above" | "over",
        Below: "below" | "under",
    }
}

impl Colour {
    /// The sRGB value before the jitter of one picture.
    pub(super) fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [222, 30, 32],
            Self::Green => [28, 158, 52],
            Self::Blue => [32, 66, 222],
            Self::Yellow => [246, 220, 34],
            Self::Purple => [158, 38, 196],
            Self::Cyan => [36, 208, 220],
            Self::White => [248, 248, 248],
            Self::Black => [16, 16, 16],
            Self::Orange => [246, 132, 20],
            Self::Pink => [252, 152, 196],
        }
    }
}

impl Relation {
    pub(super) fn reversed(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    pub(super) fn is_horizontal(self) -> bool {
        matches!(self, Self::LeftOf | Self::RightOf)
    }

    /// Whether the first item has the smaller coordinate on the axis of the relation.
    pub(super) fn first_comes_first(self) -> bool {
        matches!(self, Self::LeftOf | Self::Above)
    }

    /// The two relations along the other axis.
    pub(super) fn across(self) -> [Self; 2] {
        if self.is_horizontal() { [Self::Above, Self::Below] } else { [Self::LeftOf, Self::RightOf] }
    }
}
