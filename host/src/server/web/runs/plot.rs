//! A series as a drawing: SVG that needs no script, with a title and a description for those who do not see it.

use maud::{Markup, html};

/// Of the drawing's own units; the page scales it.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
/// Room for the numbers of the axes.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// More are no wider than a line: neighbours are drawn as their mean.
const MOST_POINTS: usize = 256;

/// What is drawn.
pub(super) struct Plot<'a> {
    /// Makes the ids of its parts differ from those of others on the page.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    /// For those who do not see it: what the lines do.
    pub(super) description: String,
    /// Where the axis of steps ends.
    pub(super) last_step: usize,
    pub(super) lines: Vec<Line<'a>>,
    /// Whether the vertical axis starts there, wherever the values are.
    pub(super) from_zero: bool,
    /// How a number of the vertical axis is written.
    pub(super) number: fn(f64) -> String,
}

/// A line, or points where there are few.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    /// Its class in the style sheet.
    pub(super) class: &'a str,
    /// Steps and values.
    pub(super) points: Vec<(f64, f64)>,
    pub(super) dots: bool,
}

impl Plot<'_> {
    pub(super) fn draw(&self) -> Markup {
        let (title, description) = (format!("{}-title", self.id), format!("{}-description", self.id));
        let last_step = self.last_step.max(1) as f64;
        let lines: Vec<_> = self.lines.iter().map(|line| (line, drawn(&line.points))).collect();
        let values = lines.iter().flat_map(|(_, points)| points.iter().map(|(_, value)| *value));
        let (low, high) = range(values.chain(self.from_zero.then_some(0.0)));
        let x = |step: f64| LEFT + (WIDTH - LEFT - RIGHT) * step / last_step;
        let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low);
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        html! {
            figure.plot {
                figcaption {
                    span.plot-title { (self.title) }
                    @if self.lines.len() > 1 {
                        @for line in &self.lines { span.key.(line.class) { (line.name) } }
                    }
                }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-labelledby={ (title) " " (description) } {
                    title #(title) { (self.title) }
                    desc #(description) { (self.description) }
                    @for value in ticks(low, high, 4) {
                        line.grid x1=(LEFT) x2=(right) y1=(short(y(value))) y2=(short(y(value))) {}
                        text.tick x=(LEFT - 6.0) y=(short(y(value) + 4.0)) text-anchor="end" { ((self.number)(value)) }
                    }
                    line.axis x1=(LEFT) x2=(right) y1=(bottom) y2=(bottom) {}
                    @for step in ticks(0.0, last_step, 4).into_iter().filter(|step| step.fract() == 0.0) {
                        text.tick x=(short(x(step))) y=(bottom + 17.0) text-anchor="middle" { (step) }
                    }
                    text.tick x=((LEFT + right) / 2.0) y=(HEIGHT - 5.0) text-anchor="middle" { "step" }
                    @for (line, points) in &lines {
                        @if points.len() > 1 { path.line.(line.class) d=(path(points, x, y)) {} }
                        @if line.dots || points.len() == 1 {
                            @for (step, value) in points {
                                circle.dot.(line.class) cx=(short(x(*step))) cy=(short(y(*value))) r="3.5" {}
                            }
                        }
                    }
                }
            }
        }
    }
}

fn path(points: &[(f64, f64)], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    for (step, value) in points {
        path.push(if path.is_empty() { 'M' } else { 'L' });
        path.push_str(&format!("{} {}", short(x(*step)), short(y(*value))));
    }
    path
}

/// Means of neighbours where there are many; without what is no number.
fn drawn(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points: Vec<_> = points.iter().filter(|(_, value)| value.is_finite()).copied().collect();
    let each = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (chunk.iter().map(|it| it.0).sum::<f64>() / n, chunk.iter().map(|it| it.1).sum::<f64>() / n)
    };
    points.chunks(each).map(mean).collect()
}

/// From the lowest to the highest value, or from zero where that is not far; never empty.
fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    match (low.is_finite() && high.is_finite(), low, high) {
        (false, ..) => (0.0, 1.0),
        (true, low, high) if low == high => (low.min(0.0), if high == 0.0 { 1.0 } else { high.max(0.0) * 1.1 }),
        (true, low, high) if low >= 0.0 && low < 0.5 * high => (0.0, high * 1.04),
        (true, low, high) => (low - 0.05 * (high - low), high + 0.05 * (high - low)),
    }
}

/// Round numbers in a range, about `n` of them.
fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let rough = (high - low) / n as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let Some(step) = step.filter(|step| step.is_finite() && *step > 0.0) else { return Vec::new() };
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).max(-1.0) as usize; // some ten at the most
    (0..=count).map(|index| (first + index as f64) * step).filter(|value| *value <= high).collect()
}

fn short(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> String {
        let line = Line { name: "training", class: "training", points, dots: false };
        let number = |value: f64| format!("{value:.1}");
        let description = "It falls.".to_owned();
        Plot { id: "loss", title: "Loss", description, last_step: 100, lines: vec![line], from_zero: false, number }
            .draw()
            .into_string()
    }

    #[test]
    fn a_line_goes_from_the_first_step_to_the_last_within_its_axes() {
        let svg = plot(vec![(0.0, 1.0), (50.0, 0.5), (100.0, 0.0)]);
        assert!(svg.contains(r#"<path class="line training" d="M58 19.6L233 114.8L408 210">"#), "{svg}");
        assert!(svg.contains(r#"role="img" aria-labelledby="loss-title loss-description""#), "{svg}");
        assert!(svg.contains(r#"<desc id="loss-description">It falls.</desc>"#), "{svg}");
    }

    #[test]
    fn what_is_no_number_is_left_out_and_nothing_is_no_fault() {
        for points in [vec![], vec![(1.0, f64::NAN)], vec![(1.0, f64::INFINITY)]] {
            let svg = plot(points);
            assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<path"), "{svg}");
        }
        let one = plot(vec![(1.0, 0.0)]);
        assert!(one.contains("<circle") && !one.contains("NaN"), "{one}");
    }

    #[test]
    fn many_points_are_drawn_as_their_means() {
        let points: Vec<_> = (0..1000).map(|step| (f64::from(step), f64::from(step % 2))).collect();
        let drawn = drawn(&points);
        assert_eq!(drawn.len(), 250);
        assert!(drawn.iter().all(|(_, value)| *value == 0.5), "{drawn:?}");
        assert_eq!(drawn[0].0, 1.5);
    }

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        assert_eq!(ticks(0.0, 210.0, 4), [0.0, 100.0, 200.0]);
        assert_eq!(ticks(0.0, 1.0, 4), [0.0, 0.5, 1.0]);
        assert_eq!(ticks(0.0, 3.0, 4), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(ticks(0.0, 0.0, 4), [0.0; 0]);
        assert!(ticks(-1e300, 1e300, 4).len() < 12);
    }
}
