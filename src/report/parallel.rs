//! Parallel coordinates as SVG: an axis for each setting, a line across them for each run.

use super::ReportError;
use super::plots::{Canvas, Failure, INK, SERIES, TEXT, TITLE, anchored, labels, printable, svg, text};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Pixels from one axis to the next.
const STEP: i32 = 150;
const LEFT: i32 = 60;
const RIGHT: i32 = 140;
const TOP: i32 = 76;
const HEIGHT: i32 = 260;
const LEGEND: i32 = 54;
/// Least distance of two labels, a share of the axis.
const APART: f64 = 0.06;
/// Where runs are drawn to which a setting of numbers does not apply: below the numbers, which end at [`LOWEST`].
const NONE: f64 = 0.0;
const LOWEST: f64 = 0.15;
/// From this ratio of the largest to the smallest number on, an axis is logarithmic.
const LOGARITHMIC: f64 = 20.0;
/// Colour of the best run.
const BEST: RGBColor = SERIES[1];
/// Lines that the description for screen readers has.
const DESCRIBED: usize = 20;

/// An axis with the position of each run on it, 0 at the bottom to 1.
#[derive(Debug, PartialEq)]
pub(super) struct Axis {
    pub name: String,
    pub positions: Vec<f64>,
    /// Positions with labels.
    pub ticks: Vec<(f64, String)>,
}

/// A run.
#[derive(Debug)]
pub(super) struct Line {
    pub name: String,
    /// Its settings and result, for screen readers.
    pub text: String,
}

impl Axis {
    /// An axis of names, in the order of their first appearance from the top.
    pub(super) fn names(name: &str, values: &[Option<String>]) -> Axis {
        let mut names: Vec<&str> = Vec::new();
        for value in values.iter().map(shown) {
            if !names.contains(&value) {
                names.push(value);
            }
        }
        let last = names.len().saturating_sub(1).max(1) as f64;
        let at = |i: usize| 1.0 - i as f64 / last;
        let position = |value| at(names.iter().position(|name| *name == shown(value)).unwrap_or(0));
        let positions = values.iter().map(position).collect();
        let ticks = names.iter().enumerate().map(|(i, name)| (at(i), name.to_string())).collect();
        Axis { name: name.to_string(), positions, ticks: apart(ticks) }
    }

    /// An axis of numbers, each labelled with its text; logarithmic if they are far apart.
    pub(super) fn numbers(name: &str, values: &[Option<f64>], texts: &[Option<String>]) -> Axis {
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        let (low, high) = range(&known);
        let is_logarithmic = low > 0.0 && high / low >= LOGARITHMIC;
        let scale = |value: f64| if is_logarithmic { value.ln() } else { value };
        let lowest = if known.len() < values.len() { LOWEST } else { 0.0 };
        let place = |value: f64| lowest + (1.0 - lowest) * share(scale(value), scale(low), scale(high));
        let positions: Vec<f64> = values.iter().map(|value| value.map_or(NONE, place)).collect();
        let labels = texts.iter().map(|text| shown(text).to_string());
        let mut ticks: Vec<(f64, String)> = positions.iter().copied().zip(labels).collect();
        // The ends come first: they are labelled whatever is near them.
        let is_end = |at: f64| at == 1.0 || at == lowest || at == NONE;
        ticks.sort_by(|a, b| is_end(b.0).cmp(&is_end(a.0)).then(a.0.total_cmp(&b.0)));
        Axis { name: name.to_string(), positions, ticks: apart(ticks) }
    }

    /// An axis of a measured quantity, labelled at regular distances.
    pub(super) fn quantity(name: &str, values: &[f64]) -> Axis {
        let (low, high) = range(values);
        let positions = values.iter().map(|&value| share(value, low, high)).collect();
        let tick = |i: u32| (f64::from(i) / 4.0, format!("{:.4}", low + (high - low) * f64::from(i) / 4.0));
        let ticks = if high > low { (0..=4).map(tick).collect() } else { vec![(0.5, format!("{low:.4}"))] };
        Axis { name: name.to_string(), positions, ticks }
    }
}

fn shown(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("none")
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
}

/// Where a value lies between two others, 0 to 1; in the middle if these are equal.
fn share(value: f64, low: f64, high: f64) -> f64 {
    // Half of each, as the difference of two large numbers may overflow.
    let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 }
}

/// Leaves labels out that would cover an earlier one.
fn apart(ticks: Vec<(f64, String)>) -> Vec<(f64, String)> {
    let mut kept: Vec<(f64, String)> = Vec::new();
    for (at, label) in ticks {
        if kept.iter().all(|(other, _)| (other - at).abs() >= APART) {
            kept.push((at, label));
        }
    }
    kept
}

/// Draws a line for each run, the best first, across axes that have as many positions.
pub(super) fn draw_parallel(title: &str, axes: &[Axis], lines: &[Line]) -> Result<String, ReportError> {
    let described: Vec<String> =
        lines.iter().take(DESCRIBED).map(|line| format!("{}: {}", line.name, line.text)).collect();
    let more = lines.len().saturating_sub(DESCRIBED);
    let more = if more > 0 { format!(". And {more} more") } else { String::new() };
    let width = LEFT + STEP * axes.len().saturating_sub(1) as i32 + RIGHT;
    let labels = labels(title, &(described.join(". ") + &more));
    svg((width as u32, (TOP + HEIGHT + LEGEND) as u32), &labels, |root| {
        root.draw(&Text::new(printable(title), (20, 12), text(TITLE, &INK)))?;
        draw_lines(root, axes, lines)?;
        draw_axes(root, axes)?;
        let (y, best) = (TOP + HEIGHT + 28, lines.first().map_or("", |line| &line.name));
        root.draw(&PathElement::new([(20, y + 7), (54, y + 7)], BEST.stroke_width(3)))?;
        root.draw(&Text::new(format!("best: {}", printable(best)), (62, y), text(TEXT, &INK)))?;
        Ok(())
    })
}

/// The pixel of a position on an axis.
fn pixel(axis: usize, position: f64) -> (i32, i32) {
    (LEFT + STEP * axis as i32, TOP + HEIGHT - (position * f64::from(HEIGHT)).round() as i32)
}

/// The lines, the worst first, so that the better ones cover them.
fn draw_lines(root: &Canvas<'_>, axes: &[Axis], lines: &[Line]) -> Result<(), Failure> {
    for i in (0..lines.len()).rev() {
        let points: Vec<(i32, i32)> =
            axes.iter().enumerate().map(|(axis, values)| pixel(axis, values.positions[i])).collect();
        let style = if i == 0 {
            BEST.stroke_width(3)
        } else {
            // The better, the stronger.
            let strength = 0.85 - 0.6 * i as f64 / lines.len() as f64;
            SERIES[0].mix(strength).stroke_width(2)
        };
        for &point in &points {
            root.draw(&Circle::new(point, if i == 0 { 4 } else { 3 }, style.color.filled()))?;
        }
        root.draw(&PathElement::new(points, style))?;
    }
    Ok(())
}

fn draw_axes(root: &Canvas<'_>, axes: &[Axis]) -> Result<(), Failure> {
    for (i, axis) in axes.iter().enumerate() {
        let (x, bottom) = pixel(i, 0.0);
        root.draw(&PathElement::new([(x, TOP), (x, bottom)], INK.stroke_width(1)))?;
        root.draw(&Text::new(printable(&axis.name), (x - 12, TOP - 22), anchored(&INK, HPos::Left, VPos::Center)))?;
        for (at, label) in &axis.ticks {
            let (x, y) = pixel(i, *at);
            root.draw(&PathElement::new([(x - 4, y), (x + 4, y)], INK.stroke_width(1)))?;
            // A plate keeps the label legible where lines cross it.
            let label = shortened(&printable(label));
            let wide = 8 * label.chars().count() as i32;
            root.draw(&Rectangle::new([(x + 6, y - 8), (x + 10 + wide, y + 8)], WHITE.mix(0.75).filled()))?;
            root.draw(&Text::new(label, (x + 8, y), anchored(&INK, HPos::Left, VPos::Center)))?;
        }
    }
    Ok(())
}

/// A label that fits between two axes.
fn shortened(label: &str) -> String {
    const MOST: usize = 16;
    if label.chars().count() <= MOST {
        return label.to_string();
    }
    label.chars().take(MOST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| Some(value.to_string()).filter(|value| !value.is_empty())).collect()
    }

    #[test]
    fn numbers_far_apart_are_on_a_logarithmic_axis() {
        let values = [1e-4, 1e-2, 1e-3].map(Some);
        let axis = Axis::numbers("rate", &values, &texts(&["1e-4", "0.01", "0.001"]));
        let wanted = [0.0, 1.0, 0.5];
        assert!(axis.positions.iter().zip(wanted).all(|(at, wanted)| (at - wanted).abs() < 1e-12), "{axis:?}");
        let axis = Axis::numbers("batch", &[16.0, 64.0, 40.0].map(Some), &texts(&["16", "64", "40"]));
        assert_eq!(axis.positions, [0.0, 1.0, 0.5]);
        let labels: Vec<&str> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["16", "64", "40"]);
    }

    /// Where a setting does not apply, its run is below the numbers.
    #[test]
    fn what_does_not_apply_has_a_place_of_its_own() {
        let axis = Axis::numbers("momentum", &[Some(0.9), None, Some(0.5)], &texts(&["0.9", "", "0.5"]));
        assert_eq!(axis.positions, [1.0, NONE, LOWEST]);
        assert!(axis.ticks.contains(&(NONE, "none".to_string())), "{axis:?}");
        let axis = Axis::names("optimizer", &texts(&["sgd", "", "adam", "sgd"]));
        assert_eq!(axis.positions, [1.0, 0.5, 0.0, 1.0]);
    }

    #[test]
    fn equal_values_are_in_the_middle_and_labels_do_not_cover_each_other() {
        assert_eq!(Axis::quantity("a", &[0.5, 0.5]).positions, [0.5, 0.5]);
        assert_eq!(Axis::quantity("a", &[f64::MAX, -f64::MAX]).positions, [1.0, 0.0]);
        let values: Vec<Option<f64>> = (0..1000).map(|i| Some(f64::from(i))).collect();
        let labels: Vec<Option<String>> = (0..1000).map(|i| Some(i.to_string())).collect();
        let axis = Axis::numbers("seed", &values, &labels);
        assert!((3..=17).contains(&axis.ticks.len()) && axis.positions.len() == 1000, "{:?}", axis.ticks);
        assert!(axis.ticks.contains(&(0.0, "0".into())) && axis.ticks.contains(&(1.0, "999".into())));
    }
}
