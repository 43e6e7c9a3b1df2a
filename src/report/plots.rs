//! The plots of a report as SVG: curves, the confusion matrix, the reliability diagram, bar charts.
//!
//! They use few colours, each for one purpose, so that a page can replace them on a dark background (see `templates/page.css`).

use super::ReportError;
use super::metrics::Bin;
use crate::data::Description;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const FAINT: RGBColor = RGBColor(224, 224, 224);
/// Distinguishable in light and dark mode and with colour blindness (Okabe and Ito, 2008, darkened for thin lines on white).
pub(super) const SERIES: [RGBColor; 6] = [
    RGBColor(31, 101, 176),
    RGBColor(200, 80, 0),
    RGBColor(0, 125, 90),
    RGBColor(170, 75, 130),
    RGBColor(120, 95, 0),
    RGBColor(90, 90, 90),
];
pub(super) const TITLE: f64 = 16.0;
pub(super) const TEXT: f64 = 12.5;
/// Width in pixels of a plot that stays legible when it shrinks to fit a phone.
pub(super) const NARROW: u32 = 460;

/// Points beyond these limits are not drawn: no training has that many epochs, and no meaningful loss is that large.
const MAX_EPOCH: f64 = 1e9;
const MAX_VALUE: f64 = 1e100;

/// Any error of the plot library.
pub(super) type Failure = Box<dyn std::error::Error>;
/// What a plot, or a part of it, is drawn on.
pub(super) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line of a plot over epochs.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Its label in the legend.
    pub name: String,
    /// Index of its colour.
    pub colour: usize,
    /// Whether the line is dashed.
    pub dashed: bool,
    /// Epochs and values; points that are not finite or too large are omitted.
    pub points: Vec<(f64, f64)>,
}

/// Draws curves over epochs. A curve with a single point is drawn as a dot.
///
/// # Errors
/// The plot library reports an error.
pub fn draw_curves(title: &str, quantity: &str, curves: &[Curve]) -> Result<String, ReportError> {
    // The plot library searches round numbers for an axis forever if its length is not finite.
    let drawable = |curve: &Curve| {
        let points =
            curve.points.iter().copied().filter(|(x, y)| x.abs() <= MAX_EPOCH && y.abs() <= MAX_VALUE).collect();
        Curve { points, ..curve.clone() }
    };
    let curves: Vec<Curve> = curves.iter().map(drawable).filter(|curve| !curve.points.is_empty()).collect();
    let line = |curve: &Curve| {
        let at = |(x, y): &(f64, f64)| format!("epoch {:.*}: {y:.4}", if x.fract() == 0.0 { 0 } else { 2 }, x);
        let points: Vec<String> = curve.points.iter().map(at).collect();
        format!("{}: {}", curve.name, points.join(", "))
    };
    let lines: Vec<String> = curves.iter().map(line).collect();
    svg((NARROW, 330 + 20 * curves.len() as u32), &labels(title, &lines.join(". ")), |root| {
        root.draw(&Text::new(printable(title), (20, 12), text(TITLE, &INK)))?;
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let (first, last) = (points().map(|p| p.0).fold(1.0, f64::min), points().map(|p| p.0).fold(1.0, f64::max));
        let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let high = points().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let room = ((high - low) * 0.08).max(0.01 * high.abs()).max(1e-6);
        let (plot, legend) = root.split_vertically(330);
        let mut chart = ChartBuilder::on(&plot)
            .margin_top(44)
            .margin_left(12)
            .margin_right(24)
            .x_label_area_size(42)
            .y_label_area_size(62)
            .build_cartesian_2d(first - 0.25..last + 0.25, (low - room).max(0.0)..high + room)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(text(TEXT, &INK))
            .x_labels((last as usize).clamp(2, 10))
            .y_labels(6)
            .y_label_formatter(&|y| format!("{y:.3}"))
            .x_desc("epoch")
            .y_desc(printable(quantity))
            .x_label_formatter(&|x| if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
            .draw()?;
        for curve in &curves {
            let colour = SERIES[curve.colour % SERIES.len()];
            if curve.dashed {
                chart.draw_series(DashedLineSeries::new(curve.points.iter().copied(), 7, 4, colour.stroke_width(2)))?;
            } else {
                chart.draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)))?;
            }
            // Dots of many points would hide the line.
            let size = match curve.points.len() {
                1 => 5,
                2..=40 => 3,
                _ => 0,
            };
            chart.draw_series(curve.points.iter().map(|&at| Circle::new(at, size, colour.filled())))?;
        }
        for (i, curve) in (0..).zip(&curves) {
            let (y, colour) = (4 + 20 * i, SERIES[curve.colour % SERIES.len()]);
            if curve.points.len() > 1 {
                // The gaps beside the dot distinguish a dashed line from a solid one.
                let pieces: &[[i32; 2]] = if curve.dashed { &[[70, 77], [97, 104]] } else { &[[70, 104]] };
                for &[from, to] in pieces {
                    legend.draw(&PathElement::new([(from, y + 7), (to, y + 7)], colour.stroke_width(2)))?;
                }
            }
            legend.draw(&Circle::new((87, y + 7), if curve.points.len() > 1 { 3 } else { 5 }, colour.filled()))?;
            let value = curve.points.last().map_or(f64::NAN, |p| p.1);
            legend.draw(&Text::new(format!("{}: {value:.4}", printable(&curve.name)), (110, y), text(TEXT, &INK)))?;
        }
        Ok(())
    })
}

/// Draws the confusion matrix, `[original][predicted]`; the darker a cell, the larger its fraction of the row.
///
/// # Errors
/// The plot library reports an error.
pub fn draw_confusion(confusion: &[Vec<u64>], description: &Description) -> Result<String, ReportError> {
    const CELL: i32 = 46;
    const LEFT: i32 = 108;
    const TOP: i32 = 124;
    let side = CELL * description.classes() as i32;
    let row = |(i, row): (usize, &Vec<u64>)| {
        let cells = row.iter().enumerate().filter(|(_, count)| **count > 0);
        let cells: Vec<String> = cells.map(|(j, count)| format!("{count} as {}", description.class_name(j))).collect();
        format!("{}: {}", description.class_name(i), cells.join(", "))
    };
    let labels = labels("Confusion matrix", &confusion.iter().enumerate().map(row).collect::<Vec<_>>().join(". "));
    svg(((LEFT + side + 20) as u32, (TOP + side + 20) as u32), &labels, |root| {
        root.draw(&Text::new("Confusion matrix: rows are original, columns predicted", (20, 12), text(TITLE, &INK)))?;
        for (i, row) in (0..).zip(confusion) {
            let total: u64 = row.iter().sum();
            let y = TOP + CELL * i;
            let name = description.class_name(i as usize);
            root.draw(&Text::new(name, (LEFT - 8, y + CELL / 2), anchored(&INK, HPos::Right, VPos::Center)))?;
            let turned = ("sans-serif", 1.24 * TEXT).into_font().transform(FontTransform::Rotate270).color(&INK);
            let turned = turned.pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(name, (LEFT + CELL * i + CELL / 2, TOP - 8), turned))?;
            for (j, &count) in (0..).zip(row) {
                let x = LEFT + CELL * j;
                let share = if total == 0 { 0.0 } else { count as f64 / total as f64 };
                // Small fractions matter most: the square root makes them visible.
                let strength = share.sqrt();
                let colour = SERIES[usize::from(i != j)];
                root.draw(&Rectangle::new([(x, y), (x + CELL, y + CELL)], colour.mix(strength).filled()))?;
                root.draw(&Rectangle::new([(x, y), (x + CELL, y + CELL)], FAINT))?;
                let ink = if strength > 0.6 { &WHITE } else { &INK };
                let at = (x + CELL / 2, y + CELL / 2);
                root.draw(&Text::new(count.to_string(), at, anchored(ink, HPos::Center, VPos::Center)))?;
            }
        }
        Ok(())
    })
}

/// Draws the accuracy of predictions per confidence bin, compared with the ideal.
///
/// # Errors
/// The plot library reports an error.
pub fn draw_calibration(bins: &[Bin], ece: f64) -> Result<String, ReportError> {
    let bin = |bin: &Bin| {
        let (confidence, accuracy) = (100.0 * bin.confidence, 100.0 * bin.accuracy);
        format!("{} images with a mean confidence of {confidence:.1} %: {accuracy:.1} % correct", bin.images)
    };
    let filled = bins.iter().filter(|bin| bin.images > 0);
    let labels = labels("Reliability diagram", &filled.clone().map(bin).collect::<Vec<_>>().join(". "));
    svg((NARROW, 380), &labels, |root| {
        let title = format!("Calibration: expected error {:.1} %", 100.0 * ece);
        root.draw(&Text::new(title, (20, 12), text(TITLE, &INK)))?;
        let mut chart = ChartBuilder::on(root)
            .margin_top(44)
            .margin_left(12)
            .margin_right(24)
            .margin_bottom(8)
            .x_label_area_size(42)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        let percent = |v: &f64| format!("{:.0} %", v * 100.0);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(text(TEXT, &INK))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&percent)
            .y_label_formatter(&percent)
            .x_desc("confidence: probability of the predicted class")
            .y_desc("accuracy")
            .draw()?;
        chart.draw_series(filled.clone().map(|bin| {
            Rectangle::new([(bin.above + 0.004, 0.0), (bin.to - 0.004, bin.accuracy)], SERIES[0].mix(0.35).filled())
        }))?;
        chart.draw_series(DashedLineSeries::new([(0.0, 0.0), (1.0, 1.0)], 6, 4, INK.stroke_width(1)))?;
        chart.draw_series(filled.map(|bin| Circle::new((bin.confidence, bin.accuracy), 4, SERIES[0].filled())))?;
        Ok(())
    })
}

/// Draws horizontal bars with names and values, the first one at the top.
///
/// # Errors
/// The plot library reports an error.
pub fn draw_bars(title: &str, unit: &str, bars: &[(String, f64)]) -> Result<String, ReportError> {
    const LINE: i32 = 24;
    const LEFT: i32 = 290;
    const WIDTH: i32 = 330;
    let lines: Vec<String> = bars.iter().map(|(name, value)| format!("{name}: {value:.0} {unit}")).collect();
    svg((740, (60 + LINE * bars.len() as i32) as u32), &labels(title, &lines.join(". ")), |root| {
        root.draw(&Text::new(printable(title), (20, 12), text(TITLE, &INK)))?;
        let most = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
        for (i, (name, value)) in (0..).zip(bars) {
            let y = 46 + LINE * i;
            let middle = y + LINE / 2 - 2;
            root.draw(&Text::new(printable(name), (LEFT - 8, middle), anchored(&INK, HPos::Right, VPos::Center)))?;
            let end = LEFT + (f64::from(WIDTH) * value / most).round() as i32;
            root.draw(&Rectangle::new([(LEFT, y), (end.max(LEFT + 1), y + LINE - 5)], SERIES[0].filled()))?;
            let value = format!("{value:.0} {unit}");
            root.draw(&Text::new(value, (end + 6, middle), anchored(&INK, HPos::Left, VPos::Center)))?;
        }
        Ok(())
    })
}

/// Returns a drawing as SVG. `labels` replaces the end of the opening tag.
pub(super) fn svg(
    size: (u32, u32),
    labels: &str,
    draw: impl FnOnce(&Canvas<'_>) -> Result<(), Failure>,
) -> Result<String, ReportError> {
    let failed = |error: Failure| ReportError::Plot(error.to_string());
    let mut svg = String::new();
    let drawn = (|| {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        draw(&root)?;
        root.present()?;
        Ok(())
    })();
    drawn.map_err(failed)?;
    // The element has a view box, so a page can scale the plot.
    let whole = svg.split_once('>').ok_or_else(|| failed("the plot library did not write an <svg> element".into()));
    whole.map(|(tag, content)| format!("{tag}{labels}{content}"))
}

/// Returns a title and a description for screen readers and for the standalone file.
pub(super) fn labels(title: &str, description: &str) -> String {
    let (title, description) = (escape(title), escape(description));
    format!(" role=\"img\" aria-label=\"{title}\"><title>{title}</title><desc>{description}</desc>")
}

/// Returns a text style with an em size of `em` pixels; the library's unit is a height of 1.24 em.
pub(super) fn text<'a>(em: f64, colour: &'a RGBColor) -> TextStyle<'a> {
    ("sans-serif", 1.24 * em).into_font().color(colour)
}

pub(super) fn anchored(colour: &RGBColor, h: HPos, v: VPos) -> TextStyle<'_> {
    text(TEXT, colour).pos(Pos::new(h, v))
}

/// Escapes text for HTML and XML, also for quoted attributes; characters that XML does not allow become spaces.
pub fn escape(text: &str) -> String {
    let text = printable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

/// Returns whether XML does not allow a character, or it is a control character.
pub(super) fn is_forbidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Returns the text with spaces instead of such characters.
pub(super) fn printable(text: &str) -> String {
    text.replace(is_forbidden, " ")
}
