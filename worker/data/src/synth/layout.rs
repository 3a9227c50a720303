//! Where the items go: inside the picture, apart from each other, and plainly in their relation.
//!
//! All lengths are fractions of the picture's side; axis 0 is x (to the right), axis 1 is y (down).

use super::rng::Rng;
use super::scene::{Content, Item, Scene};
use super::vocabulary::{Relation, Size};
use super::words::lettering;

/// Kept free along the borders.
const MARGIN: f32 = 0.02;
/// Kept free between two items: 2.5 pixels of 64.
const GAP: f32 = 0.04;
/// Two items in a relation deviate across its axis by at most this share of their distance along it.
const MAX_SLANT: f32 = 0.5;
/// Keeps a short word from filling the picture.
const MAX_WORD_HALF_HEIGHT: f32 = 0.2;

/// The box of an item: centre and half extents.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Place {
    pub(super) centre: [f32; 2],
    pub(super) half: [f32; 2],
}

/// A range along one axis.
type Span = (f32, f32);

const WHOLE: Span = (MARGIN, 1.0 - MARGIN);

/// The grid of lone objects where they are regular, of the picture's side.
const GRID: f32 = 0.125;

/// Gives every item of the scene its extent and position; `regular`: see [`super::rules::Rules`].
pub(super) fn arrange(scene: &mut Scene, regular: bool, rng: &mut Rng) {
    let alone = scene.items.len() == 1;
    for item in &mut scene.items {
        item.place.half = extent(item.content, alone, regular, rng);
    }
    match (scene.items.as_mut_slice(), scene.relation, scene.third) {
        ([only], _, _) => {
            only.place.centre = [0, 1].map(|axis| within(rng, WHOLE, only.place.half[axis]));
            if regular && matches!(only.content, Content::Object { .. }) {
                only.place.centre = [0, 1].map(|axis| on_grid(only.place.centre[axis], only.place.half[axis]));
            }
        }
        ([first, second], Some(relation), _) => arrange_pair(first, second, relation, WHOLE, rng),
        ([first, second, third], Some(relation), Some(beside)) => {
            arrange_triple(first, second, third, relation, beside, rng);
        }
        _ => unreachable!("two items have a relation, three have two"),
    }
}

/// A lone object is drawn closer than one of several, as people picture things.
const CLOSE_UP: f32 = 1.6;

/// Half width and half height. Objects stay within a circle, so that a rotation keeps them in their box.
fn extent(content: Content, alone: bool, regular: bool, rng: &mut Rng) -> [f32; 2] {
    let close = if alone { CLOSE_UP } else { 1.0 };
    let mut radius = |least, most| {
        let drawn = rng.range(least, most);
        [close * if regular { (least + most) / 2.0 } else { drawn }; 2]
    };
    match content {
        Content::Object { size: Size::Small, .. } => radius(0.13, 0.15),
        Content::Object { size: Size::Large, .. } => radius(0.2, 0.225),
        Content::Word { word, typeface } => {
            let aspect = lettering(word, typeface).aspect;
            let half_width = if alone { rng.range(0.43, 0.46) } else { rng.range(0.34, 0.44) };
            let half_width = half_width.min(MAX_WORD_HALF_HEIGHT / aspect);
            [half_width, half_width * aspect]
        }
    }
}

/// Puts two items into their relation; across its axis they stay inside `band`.
fn arrange_pair(first: &mut Item, second: &mut Item, relation: Relation, band: Span, rng: &mut Rng) {
    let along = usize::from(!relation.is_horizontal());
    let across = 1 - along;
    let (near, far) = if relation.first_comes_first() { (first, second) } else { (second, first) };
    let [near, far] = [&mut near.place, &mut far.place];
    [near.centre[along], far.centre[along]] = spread(rng, WHOLE, [near.half[along], far.half[along]]);

    // The item with less room goes first, the other stays close to it.
    let reach = MAX_SLANT * (far.centre[along] - near.centre[along]);
    let (tight, loose) = if near.half[across] > far.half[across] { (near, far) } else { (far, near) };
    tight.centre[across] = within(rng, band, tight.half[across]);
    let wished = tight.centre[across] + rng.range(-reach, reach);
    loose.centre[across] = wished.clamp(band.0 + loose.half[across], band.1 - loose.half[across]);
}

/// Puts a third item on one side of a pair, across the pair's axis.
fn arrange_triple(
    first: &mut Item,
    second: &mut Item,
    third: &mut Item,
    relation: Relation,
    beside: Relation,
    rng: &mut Rng,
) {
    let along = usize::from(!relation.is_horizontal());
    let across = 1 - along;
    let pair_half = first.place.half[across].max(second.place.half[across]);
    let third_half = third.place.half[across];
    let pair_centre;
    if beside.first_comes_first() {
        [third.place.centre[across], pair_centre] = spread(rng, WHOLE, [third_half, pair_half]);
    } else {
        [pair_centre, third.place.centre[across]] = spread(rng, WHOLE, [pair_half, third_half]);
    }
    third.place.centre[along] = within(rng, WHOLE, third.place.half[along]);
    arrange_pair(first, second, relation, (pair_centre - pair_half, pair_centre + pair_half), rng);
}

/// A centre at which something of this half extent lies inside the span.
fn within(rng: &mut Rng, span: Span, half: f32) -> f32 {
    rng.range(span.0 + half, span.1 - half)
}

/// The grid's point that is nearest to the centre of something of this half extent and keeps it inside.
fn on_grid(centre: f32, half: f32) -> f32 {
    let nearest = (centre / GRID).round() * GRID;
    let (least, most) = (((WHOLE.0 + half) / GRID).ceil() * GRID, ((WHOLE.1 - half) / GRID).floor() * GRID);
    nearest.clamp(least, most)
}

/// Two centres in order, with at least the gap between the two extents; the room that is left is cut at random.
fn spread(rng: &mut Rng, span: Span, half: [f32; 2]) -> [f32; 2] {
    let slack = (span.1 - span.0 - 2.0 * (half[0] + half[1]) - GAP).max(0.0);
    let (a, b) = (rng.range(0.0, slack), rng.range(0.0, slack));
    let first = span.0 + a.min(b) + half[0];
    let second = span.0 + a.max(b) + 2.0 * half[0] + GAP + half[1];
    [first, second]
}
