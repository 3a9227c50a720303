//! Line plots as SVG: axes with round ticks, a light grid, and lines that take their colours from
//! the page's style, so that they suit a light and a dark page.

use std::fmt::Write as _;

use super::html::escape;

/// Size of the drawing in its own units; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 230.0;
/// Room for the labels.
const LEFT: f64 = 54.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 38.0;
/// A line with more points than this looks the same as one with this many.
const MOST_POINTS: usize = 640;

/// One line of a plot.
pub(crate) struct Line {
    /// The style's class, which gives the colour.
    pub(crate) class: &'static str,
    /// x and y; points that are no numbers interrupt the line.
    pub(crate) points: Vec<(f64, f64)>,
}

/// One plot.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_label: &'a str,
    pub(crate) lines: Vec<Line>,
    /// The vertical axis begins at zero.
    pub(crate) from_zero: bool,
}

impl Plot<'_> {
    /// The plot as an `<svg>` element.
    pub(crate) fn svg(&self) -> String {
        let x = Axis::over(self.values(|point| point.0), false, 6);
        let y = Axis::over(self.values(|point| point.1), self.from_zero, 5);
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(self.title));
        self.draw_axes(&mut svg, &x, &y);
        for line in &self.lines {
            let path = path(&line.points, &x, &y);
            let _ = writeln!(svg, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
        }
        svg + "</svg>\n"
    }

    fn values(&self, of: impl Fn(&(f64, f64)) -> f64) -> impl Iterator<Item = f64> {
        self.lines.iter().flat_map(|line| &line.points).map(of).filter(|value| value.is_finite())
    }

    fn draw_axes(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let (at, label) = (vertical(y, tick), y.label(tick));
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
            let (text_x, text_y) = (LEFT - 8.0, at + 3.5);
            let _ = writeln!(
                svg,
                "<text class=\"tick\" x=\"{text_x}\" y=\"{text_y:.1}\" text-anchor=\"end\">{label}</text>"
            );
        }
        let _ = writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>");
        for tick in x.ticks() {
            let (at, label, text_y) = (horizontal(x, tick), x.label(tick), bottom + 16.0);
            let _ = writeln!(
                svg,
                "<text class=\"tick\" x=\"{at:.1}\" y=\"{text_y}\" text-anchor=\"middle\">{label}</text>"
            );
        }
        let (middle, base) = (f64::midpoint(LEFT, right), HEIGHT - 4.0);
        let label = escape(self.x_label);
        let _ =
            writeln!(svg, "<text class=\"label\" x=\"{middle}\" y=\"{base}\" text-anchor=\"middle\">{label}</text>");
    }
}

fn horizontal(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)
}

fn vertical(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)
}

fn path(points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    let stride = points.len().div_ceil(MOST_POINTS).max(1);
    let mut path = String::new();
    let mut pen_down = false;
    for &(px, py) in thin(points, stride).iter() {
        if px.is_finite() && py.is_finite() {
            let command = if pen_down { 'L' } else { 'M' };
            let _ = write!(path, "{command}{:.1} {:.1}", horizontal(x, px), vertical(y, py));
        }
        pen_down = px.is_finite() && py.is_finite();
    }
    path
}

/// Every `stride`-th point and the last: the smallest and largest of each stretch would need two, and
/// what is drawn here is smooth or drawn faintly.
fn thin(points: &[(f64, f64)], stride: usize) -> Vec<(f64, f64)> {
    let mut thinned: Vec<_> = points.iter().copied().step_by(stride).collect();
    if let Some(&last) = points.last()
        && thinned.last() != Some(&last)
    {
        thinned.push(last);
    }
    thinned
}

/// One axis with ticks at multiples of 1, 2 or 5 times a power of ten.
#[derive(Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis that covers the values with about `ticks` ticks.
    fn over(values: impl Iterator<Item = f64>, from_zero: bool, ticks: u32) -> Self {
        let (mut low, mut high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0); // There are no values.
        }
        if from_zero {
            low = low.min(0.0);
        }
        if high - low < f64::EPSILON * high.abs().max(1.0) {
            high = low + low.abs().max(1.0);
        }
        let rough = (high - low) / f64::from(ticks);
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| rough <= factor * power).unwrap_or(10.0);
        let step = factor * power;
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as u32;
        (0..=count).map(|index| self.low + f64::from(index) * self.step)
    }

    /// As many decimals as the ticks need to differ.
    fn label(&self, tick: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if !(1e-2..1e7).contains(&largest) {
            let power = largest.log10().floor();
            let digits = (power - self.step.log10().floor()).max(0.0) as usize;
            return if tick.abs() < self.step / 2.0 {
                "0".into()
            } else {
                format!("{tick:.digits$e}").replace(".0e", "e")
            };
        }
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        // Adding zero turns a negative zero into zero.
        format!("{:.decimals$}", (tick / self.step).round() * self.step + 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> Vec<String> {
        let axis = Axis::over([low, high].into_iter(), false, 5);
        axis.ticks().map(|tick| axis.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(labels(0.31, 6.24), ["0", "2", "4", "6", "8"]);
        assert_eq!(labels(0.0, 1_500.0), ["0", "500", "1000", "1500"]);
        assert_eq!(labels(-0.2, 0.25), ["-0.2", "-0.1", "0.0", "0.1", "0.2", "0.3"]);
        assert_eq!(labels(0.0, 1e-3), ["0", "2e-4", "4e-4", "6e-4", "8e-4", "1e-3"]);
    }

    #[test]
    fn no_values_and_one_value_still_make_an_axis() {
        for values in [vec![], vec![3.0], vec![0.0, 0.0]] {
            let axis = Axis::over(values.into_iter(), false, 5);
            assert!(axis.high > axis.low && axis.ticks().count() >= 2, "{axis:?}");
        }
    }

    #[test]
    fn a_loss_that_is_no_number_interrupts_the_line() {
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0)];
        let (x, y) = (Axis { low: 0.0, high: 3.0, step: 1.0 }, Axis { low: 0.0, high: 2.0, step: 1.0 });
        assert_eq!(path(&points, &x, &y).matches('M').count(), 2);
    }
}
