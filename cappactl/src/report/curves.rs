//! The curves of a report, from the run's one point a step.

use super::plot::{Line, Plot};
use crate::views::Point;

/// The smoothed loss is a mean over this share of the run around each step, and over so many steps at most.
const SMOOTHING: (usize, usize) = (40, 100);
/// Throughput is averaged over stretches, so many over the run at most.
const STRETCHES: usize = 120;

/// Title and drawing of each curve.
pub(super) fn plots(curve: &[Point]) -> Vec<(&'static str, String)> {
    let of = |value: fn(&Point) -> f64| curve.iter().map(|p| (p.step as f64, value(p))).collect::<Vec<_>>();
    // An update that was not made has neither, and interrupts the line.
    let made = |value: fn(&Point) -> f64| {
        let value = |point: &Point| if point.loss_made().is_nan() { f64::NAN } else { value(point) };
        curve.iter().map(|point| (point.step as f64, value(point))).collect::<Vec<_>>()
    };
    let loss = of(Point::loss_made);
    let smooth = smoothed(&loss);
    let titled = [
        ("Loss", vec![Line { class: "faint", points: loss }, Line { class: "first", points: smooth }], false),
        ("Learning rate", vec![Line { class: "second", points: made(|point| point.learning_rate) }], true),
        ("Images per second", vec![Line { class: "third", points: throughput(curve) }], true),
        ("Gradient norm", vec![Line { class: "fourth", points: made(|point| point.grad_norm) }], true),
    ];
    titled
        .into_iter()
        .map(|(title, lines, from_zero)| (title, Plot { title, x_label: "step", lines, from_zero }.svg()))
        .collect()
}

/// The mean of the points around each, narrower at both ends, so that the line neither lags nor leans.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (share, most) = SMOOTHING;
    let reach = (points.len() / share).min(most) / 2;
    let mean = |index: usize| {
        let reach = reach.min(index).min(points.len() - 1 - index);
        let around = points[index - reach..=index + reach].iter().map(|(_, y)| y).filter(|y| y.is_finite());
        let (sum, count) = around.fold((0.0, 0.0), |(sum, count), y| (sum + y, count + 1.0));
        sum / count
    };
    points.iter().enumerate().map(|(index, &(x, _))| (x, mean(index))).collect()
}

/// Images a second over stretches of the run.
fn throughput(curve: &[Point]) -> Vec<(f64, f64)> {
    let stretch = curve.len().div_ceil(STRETCHES).max(1);
    let rate = |points: &[Point]| {
        let step = points.last().map_or(0, |point| point.step);
        (step as f64, images_per_second(points))
    };
    curve.chunks(stretch).map(rate).collect()
}

/// Examples over step time; not a number where there was none.
pub(super) fn images_per_second(points: &[Point]) -> f64 {
    let examples: u64 = points.iter().map(|point| point.examples).sum();
    let seconds: f64 = points.iter().map(|point| point.seconds).sum();
    if seconds > 0.0 { examples as f64 / seconds } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Update;

    #[test]
    fn an_update_that_was_not_made_is_a_gap_in_the_curve_and_does_not_spread() {
        let mut points: Vec<_> = (0..200).map(|step| (f64::from(step), 3.0)).collect();
        points[70].1 = f64::NAN;
        assert!(smoothed(&points).iter().all(|(_, y)| *y == 3.0));
        let point =
            |update| Point { update, ..Point::from(cappa_proto::StepMetrics { loss: 9.0, ..Default::default() }) };
        assert_eq!(point(Update::Made).loss_made(), 9.0);
        assert!(point(Update::Rewound).loss_made().is_nan());
    }

    #[test]
    fn a_straight_loss_stays_straight_when_smoothed() {
        let points: Vec<_> = (0..500).map(|step| (f64::from(step), 3.0 - 0.004 * f64::from(step))).collect();
        let straight =
            |((x, y), (smooth_x, smooth_y)): (&(f64, f64), &(f64, f64))| x == smooth_x && (y - smooth_y).abs() < 1e-12;
        assert!(points.iter().zip(&smoothed(&points)).all(straight));
    }
}
