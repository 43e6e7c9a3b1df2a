//! The roofline plot of a profile as SVG: each kernel against the two limits of its adapter.
//!
//! The horizontal axis is arithmetic intensity (floating-point operations per byte moved), the vertical axis is operations per second,
//! both logarithmic. The slope on the left is the adapter's bandwidth, the level on the right its peak arithmetic rate: no kernel can
//! exceed them, and the closer it is, the better. Source: Williams, Waterman, Patterson, Roofline, 2009.

use super::ReportError;
use super::plots::{Canvas, FAINT, Failure, INK, SERIES, escape, printable, svg, text};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The data of a roofline plot.
#[derive(Clone, Debug)]
pub struct Roofline {
    /// Title: what was profiled.
    pub title: String,
    /// Subtitle: device and driver.
    pub subtitle: String,
    /// Peak rate of multiply-adds without memory access, 10^9 floating-point operations per second.
    pub peak_gflops: f64,
    /// Copy bandwidth, 10^9 bytes per second.
    pub peak_gb_per_second: f64,
    /// The kernels, in the order of the list beside the plot.
    pub points: Vec<RooflinePoint>,
}

/// One kernel.
#[derive(Clone, Debug)]
pub struct RooflinePoint {
    /// Its entry point.
    pub name: String,
    /// Floating-point operations of its sums of products, 10^9 per second; 0 if only memory counts.
    pub gflops: f64,
    /// Minimum bytes to move, 10^9 per second.
    pub gb_per_second: f64,
    /// Its percentage of the step, 0 to 100.
    pub percent_of_step: f64,
}

impl RooflinePoint {
    /// Returns the floating-point operations per byte.
    fn intensity(&self) -> f64 {
        self.gflops / self.gb_per_second
    }

    /// Returns whether it can be drawn on logarithmic axes.
    fn has_place(&self) -> bool {
        self.gflops > 0.0 && self.intensity().is_finite() && self.intensity() > 0.0
    }
}

/// Minimum size of the image and width of the plot in it, pixels; the list takes the rest, and a long one makes the image taller.
const SIZE: (u32, u32) = (1240, 640);
const PLOT_WIDTH: u32 = 640;
const TOP: i32 = 72;
const LINE: i32 = 22;
/// Right edges of the columns of numbers in the list.
const COLUMNS: [(&str, i32); 3] = [("speed", 440), ("% of limit", 518), ("% of step", 592)];
const NOTES: [&str; 5] = [
    "The limit of a kernel is the roof above its point. A kernel without sums of",
    "products has no point; its limit is the bandwidth, and its speed is in GB/s.",
    "Above 100 %, caches held the data, or the limit was measured too low, as on a",
    "busy machine. Intensity counts every required byte once. The larger a point, the",
    "larger its share of the step.",
];

/// Em sizes in pixels.
const TITLE: f64 = 18.0;
const TEXT: f64 = 13.0;

const ROOF: RGBColor = RGBColor(178, 34, 34);

/// Draws the plot.
///
/// # Errors
/// The limits are not above zero, or the plot library reports an error.
pub fn draw_roofline(roofline: &Roofline) -> Result<String, ReportError> {
    let (peak, bandwidth) = (roofline.peak_gflops, roofline.peak_gb_per_second);
    if !(peak > 0.0 && peak.is_finite() && bandwidth > 0.0 && bandwidth.is_finite()) {
        let reason = format!("the limits are {peak} GFLOP/s and {bandwidth} GB/s; both must be above 0");
        return Err(ReportError::Plot(reason));
    }
    // For screen readers and for the standalone file.
    let labels = format!(
        " role=\"img\" aria-labelledby=\"roofline-title roofline-desc\"><title id=\"roofline-title\">{}</title><desc id=\"roofline-desc\">{}</desc>",
        escape(&roofline.title),
        escape(&description(roofline))
    );
    let height = TOP + LINE * (roofline.points.len() + 2 + NOTES.len()) as i32;
    svg((SIZE.0, SIZE.1.max(height as u32)), &labels, |root| draw(roofline, root))
}

fn draw(roofline: &Roofline, root: &Canvas<'_>) -> Result<(), Failure> {
    let (peak, bandwidth) = (roofline.peak_gflops, roofline.peak_gb_per_second);
    root.draw(&Text::new(printable(&roofline.title), (24, 14), text(TITLE, &INK)))?;
    root.draw(&Text::new(printable(&roofline.subtitle), (24, 42), text(TEXT, &INK)))?;
    let (plot, list) = root.split_horizontally(PLOT_WIDTH);
    let (plot, _) = plot.split_vertically(SIZE.1);

    let placed: Vec<&RooflinePoint> = roofline.points.iter().filter(|point| point.has_place()).collect();
    let ridge = peak / bandwidth;
    let lowest_x = placed.iter().map(|p| p.intensity()).fold(ridge / 10.0, f64::min) / 2.0;
    let highest_x = placed.iter().map(|p| p.intensity()).fold(ridge * 10.0, f64::max) * 2.0;
    let lowest_y = placed.iter().map(|p| p.gflops).fold(peak / 10.0, f64::min) / 2.5;
    let mut chart = ChartBuilder::on(&plot)
        .margin_top(TOP)
        .margin_left(16)
        .margin_bottom(12)
        .margin_right(12)
        .x_label_area_size(48)
        .y_label_area_size(66)
        .build_cartesian_2d((lowest_x..highest_x).log_scale(), (lowest_y..2.0 * peak).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(text(TEXT, &INK))
        .x_desc("floating-point operations per byte")
        .y_desc("GFLOP/s")
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .draw()?;
    let roof = [(lowest_x, lowest_x * bandwidth), (ridge, peak), (highest_x, peak)];
    let from = roof[0].1.max(lowest_y);
    let visible = [(from / bandwidth, from), roof[1], roof[2]];
    chart.draw_series(LineSeries::new(visible, ROOF.stroke_width(2)))?;
    // The labels of the roof are on the other side of it than the points.
    let mut taken: Vec<Area> = Vec::new();
    let (x, y) = chart.backend_coord(&(highest_x, peak));
    let note = format!("{peak:.0} GFLOP/s of multiply-adds");
    taken.push(Area::around((x - 100, y - 14), 200, 20));
    root.draw(&Text::new(note, (x - 4, y - 6), aligned(&ROOF, HPos::Right, VPos::Bottom)))?;
    let (x, y) = chart.backend_coord(&(visible[0].0, visible[0].1));
    let note = format!("{bandwidth:.1} GB/s of copying");
    taken.push(Area::around((x + 84, y + 2), 160, 18));
    root.draw(&Text::new(note, (x + 20, y + 2), aligned(&ROOF, HPos::Left, VPos::Center)))?;

    for ends in visible.windows(2) {
        let ((x0, y0), (x1, y1)) = (chart.backend_coord(&ends[0]), chart.backend_coord(&ends[1]));
        let steps = (x1 - x0).abs().max((y1 - y0).abs()) / 4 + 1;
        taken.extend((0..=steps).map(|i| Area::around((x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps), 4, 4)));
    }
    let mut circles = Vec::new();
    for (i, point) in roofline.points.iter().enumerate().filter(|(_, point)| point.has_place()) {
        let at = (point.intensity(), point.gflops);
        let radius = 3 + (point.percent_of_step.clamp(0.0, 100.0).sqrt() * 1.4) as i32;
        chart.draw_series([Circle::new(at, radius, SERIES[0].mix(0.55).filled())])?;
        let centre = chart.backend_coord(&at);
        taken.push(Area::around(centre, 2 * radius, 2 * radius));
        circles.push((i + 1, centre, radius));
    }
    let (across, down) = chart.plotting_area().get_pixel_range();
    let inside = Area { left: across.start, top: down.start, right: across.end, bottom: down.end };
    draw_numbers(root, circles, &inside, taken)?;
    draw_list(roofline, &list)
}

/// Draws the number of each circle (number, centre, radius) where there is room: not over what is `taken`, nor outside of `inside`.
fn draw_numbers(
    root: &Canvas<'_>,
    circles: Vec<(usize, (i32, i32), i32)>,
    inside: &Area,
    mut taken: Vec<Area>,
) -> Result<(), Failure> {
    for (number, centre, radius) in circles {
        let number = number.to_string();
        let size = (9 * number.len() as i32, 15);
        let (label, near) = free_place(centre, radius, size, inside, &taken);
        taken.push(Area::around(label, size.0, size.1));
        if !near {
            let (dx, dy) = (f64::from(label.0 - centre.0), f64::from(label.1 - centre.1));
            let shown = 1.0 - 10.0 / dx.hypot(dy);
            let end = (centre.0 + (dx * shown) as i32, centre.1 + (dy * shown) as i32);
            root.draw(&PathElement::new([centre, end], INK.mix(0.5)))?;
        }
        root.draw(&Text::new(number, label, aligned(&INK, HPos::Center, VPos::Center)))?;
    }
    Ok(())
}

/// Draws the list of kernels below the plot, with the numbers that the circles have, and the notes.
fn draw_list(roofline: &Roofline, list: &Canvas<'_>) -> Result<(), Failure> {
    let right = || aligned(&INK, HPos::Right, VPos::Top);
    list.draw(&Text::new("kernel", (34, TOP), text(TEXT, &INK)))?;
    for (column, x) in COLUMNS {
        list.draw(&Text::new(column, (x, TOP), right()))?;
    }
    for (i, point) in roofline.points.iter().enumerate() {
        let y = TOP + LINE * (i as i32 + 1);
        list.draw(&Text::new((i + 1).to_string(), (24, y), right()))?;
        list.draw(&Text::new(printable(&point.name), (34, y), text(TEXT, &INK)))?;
        let values = [
            speed(point),
            format!("{:.0}", percent_of_limit(roofline, point)),
            format!("{:.1}", point.percent_of_step),
        ];
        for (value, (_, x)) in values.into_iter().zip(COLUMNS) {
            list.draw(&Text::new(value, (x, y), right()))?;
        }
    }
    for (i, line) in (0..).zip(NOTES) {
        list.draw(&Text::new(line, (34, TOP + 10 + LINE * (roofline.points.len() as i32 + 1 + i)), text(TEXT, &INK)))?;
    }
    Ok(())
}

fn aligned(colour: &RGBColor, h: HPos, v: VPos) -> TextStyle<'_> {
    text(TEXT, colour).pos(Pos::new(h, v))
}

/// An area in pixels; right and bottom are exclusive.
struct Area {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
}

impl Area {
    fn around(centre: (i32, i32), width: i32, height: i32) -> Self {
        let (left, top) = (centre.0 - width / 2, centre.1 - height / 2);
        Area { left, top, right: left + width, bottom: top + height }
    }

    fn meets(&self, other: &Area) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn holds(&self, other: &Area) -> bool {
        self.left <= other.left && other.right <= self.right && self.top <= other.top && other.bottom <= self.bottom
    }
}

/// Returns the centre of a label of `size` near a point such that it covers no `taken` area, and whether it is close enough
/// to need no leader line. If no place is free, the label is placed to the right of the point.
fn free_place(centre: (i32, i32), radius: i32, size: (i32, i32), inside: &Area, taken: &[Area]) -> ((i32, i32), bool) {
    // Right, left, above, below, then the diagonals.
    const DIRECTIONS: [(f64, f64); 12] = [
        (1.0, 0.0),
        (-1.0, 0.0),
        (0.0, -1.0),
        (0.0, 1.0),
        (0.7, -0.7),
        (0.7, 0.7),
        (-0.7, -0.7),
        (-0.7, 0.7),
        (0.9, -0.4),
        (0.9, 0.4),
        (-0.9, -0.4),
        (-0.9, 0.4),
    ];
    let place = |distance: i32, (dx, dy): (f64, f64)| {
        let (reach_x, reach_y) = (f64::from(radius + distance + size.0 / 2), f64::from(radius + distance + size.1 / 2));
        (centre.0 + (dx * reach_x) as i32, centre.1 + (dy * reach_y) as i32)
    };
    for distance in (3..300).step_by(6) {
        for direction in DIRECTIONS {
            let at = place(distance, direction);
            let label = Area::around(at, size.0, size.1);
            if inside.holds(&label) && !taken.iter().any(|area| area.meets(&label)) {
                return (at, distance == 3);
            }
        }
    }
    (place(3, DIRECTIONS[0]), true)
}

/// Formats the arithmetic rate, or the bandwidth if there is no significant arithmetic.
fn speed(point: &RooflinePoint) -> String {
    if point.has_place() { format!("{:.1} GFLOP/s", point.gflops) } else { format!("{:.2} GB/s", point.gb_per_second) }
}

/// Returns the percentage of the roof above the kernel's point; above 100 if caches help or the limit was measured too low.
fn percent_of_limit(roofline: &Roofline, point: &RooflinePoint) -> f64 {
    if !point.has_place() {
        return 100.0 * point.gb_per_second / roofline.peak_gb_per_second;
    }
    100.0 * point.gflops / roofline.peak_gflops.min(point.intensity() * roofline.peak_gb_per_second)
}

/// Formats a power of ten without unnecessary digits.
fn short(value: &f64) -> String {
    if *value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

fn description(roofline: &Roofline) -> String {
    let points = roofline.points.iter().map(|point| {
        let (name, speed, share) = (&point.name, speed(point), percent_of_limit(roofline, point));
        format!("{name}: {speed}, {share:.0} % of its limit, {:.1} % of the step", point.percent_of_step)
    });
    format!(
        "{}. Limits: {:.1} GFLOP/s, {:.1} GB/s. {}.",
        roofline.subtitle,
        roofline.peak_gflops,
        roofline.peak_gb_per_second,
        points.collect::<Vec<_>>().join("; ")
    )
}
