//! The outlines of the shapes, as paths inside the unit circle around the origin, y pointing down.

use std::sync::LazyLock;

use tiny_skia::{FillRule, Path, PathBuilder};

use super::vocabulary::Shape;

/// A ring's hole, of its radius.
const RING_HOLE: f32 = 0.55;
/// Half the width of a cross's arms.
const CROSS_ARM: f32 = 0.32;
/// How far a star's inner corners are from its centre.
const STAR_WAIST: f32 = 0.42;

/// How shapes are filled: a ring is two circles.
pub(super) const FILL_RULE: FillRule = FillRule::EvenOdd;

static OUTLINES: LazyLock<Vec<Path>> = LazyLock::new(|| Shape::ALL.iter().map(|&shape| draw(shape)).collect());

/// The outline of a shape.
pub(super) fn outline(shape: Shape) -> &'static Path {
    &OUTLINES[shape as usize]
}

fn draw(shape: Shape) -> Path {
    let mut builder = PathBuilder::new();
    match shape {
        Shape::Circle => builder.push_circle(0.0, 0.0, 0.95),
        Shape::Square => polygon(&mut builder, &corners(4, 0.5, |_| 1.0)),
        Shape::Triangle => polygon(&mut builder, &corners(3, 0.0, |_| 1.0)),
        Shape::Star => {
            let radius = |corner| if corner % 2 == 0 { 1.0 } else { STAR_WAIST };
            polygon(&mut builder, &corners(10, 0.0, radius));
        }
        Shape::Ring => {
            builder.push_circle(0.0, 0.0, 0.98);
            builder.push_circle(0.0, 0.0, RING_HOLE);
        }
        Shape::Cross => cross(&mut builder),
        Shape::Diamond => polygon(&mut builder, &[(0.0, -1.0), (0.62, 0.0), (0.0, 1.0), (-0.62, 0.0)]),
        Shape::Heart => heart(&mut builder),
    }
    builder.finish().expect("an outline has an area")
}

/// Corners at equal angles, clockwise from the top, the first one `offset` steps further; `radius` is of each corner.
fn corners(count: u16, offset: f32, radius: impl Fn(u16) -> f32) -> Vec<(f32, f32)> {
    let corner = |index: u16| {
        let (sin, cos) = ((f32::from(index) + offset) * std::f32::consts::TAU / f32::from(count)).sin_cos();
        (radius(index) * sin, -radius(index) * cos)
    };
    (0..count).map(corner).collect()
}

fn polygon(builder: &mut PathBuilder, corners: &[(f32, f32)]) {
    for (index, &(x, y)) in corners.iter().enumerate() {
        if index == 0 { builder.move_to(x, y) } else { builder.line_to(x, y) }
    }
    builder.close();
}

fn cross(builder: &mut PathBuilder) {
    let (arm, end) = (CROSS_ARM, (1.0 - CROSS_ARM * CROSS_ARM).sqrt());
    polygon(
        builder,
        &[
            (-arm, -end),
            (arm, -end),
            (arm, -arm),
            (end, -arm),
            (end, arm),
            (arm, arm),
            (arm, end),
            (-arm, end),
            (-arm, arm),
            (-end, arm),
            (-end, -arm),
            (-arm, -arm),
        ],
    );
}

fn heart(builder: &mut PathBuilder) {
    builder.move_to(0.0, 0.95);
    builder.cubic_to(-0.5, 0.5, -0.98, 0.15, -0.92, -0.35);
    builder.cubic_to(-0.85, -0.85, -0.2, -0.95, 0.0, -0.42);
    builder.cubic_to(0.2, -0.95, 0.85, -0.85, 0.92, -0.35);
    builder.cubic_to(0.98, 0.15, 0.5, 0.5, 0.0, 0.95);
    builder.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outline_stays_inside_the_unit_circle() {
        for &shape in Shape::ALL {
            for point in outline(shape).points() {
                // Control points of curves may lie outside; the corners of a circle's are at most √2 away.
                let limit = if matches!(shape, Shape::Circle | Shape::Ring | Shape::Heart) { 1.42 } else { 1.001 };
                assert!(point.length() <= limit, "{shape:?}: {point:?}");
            }
            let bounds = outline(shape).compute_tight_bounds().expect("an outline has an area");
            assert!(bounds.left() >= -1.0 && bounds.right() <= 1.0 && bounds.top() >= -1.001 && bounds.bottom() <= 1.0);
        }
    }
}
