//! The roofline picture of a profile: each kernel beside the two limits of its adapter, as SVG.
//!
//! From left to right the multiply-adds that a kernel does with each byte it moves, from bottom to top how many it does a second, both
//! in powers of ten. The slope on the left is the adapter's bandwidth, the level on the right its arithmetic: nothing can be
//! above them, and a kernel is as good as it is close. Source: Williams, Waterman, Patterson, Roofline, 2009.

use super::ReportError;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Roofline {
    /// Heading: what was profiled.
    pub title: String,
    /// Below it: device and driver.
    pub subtitle: String,
    /// Multiply-adds without memory, 10^9 floating-point operations a second.
    pub peak_gflops: f64,
    /// Copying, 10^9 bytes a second.
    pub peak_gb_per_second: f64,
    /// The kernels, in the order of the list beside the picture.
    pub points: Vec<RooflinePoint>,
}

/// One kernel.
#[derive(Clone, Debug)]
pub struct RooflinePoint {
    /// Its entry point.
    pub name: String,
    /// Floating-point operations of its sums of products, 10^9 a second; 0 where memory is all that counts.
    pub gflops: f64,
    /// Bytes that must move at least, 10^9 a second.
    pub gb_per_second: f64,
    /// Its share of the step, 0 to 100.
    pub percent_of_step: f64,
}

impl RooflinePoint {
    /// Floating-point operations with each byte.
    fn intensity(&self) -> f64 {
        self.gflops / self.gb_per_second
    }

    /// Whether it can be drawn on logarithmic axes.
    fn has_place(&self) -> bool {
        self.gflops > 0.0 && self.intensity().is_finite() && self.intensity() > 0.0
    }
}

/// Pixels of the picture, and of the plot in it; the rest is the list.
const SIZE: (u32, u32) = (1180, 640);
const PLOT_WIDTH: u32 = 620;
const TOP: i32 = 64;
const LINE: i32 = 21;

const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(224, 224, 224);
const ROOF: RGBColor = RGBColor(178, 34, 34);
const POINT: RGBColor = RGBColor(31, 101, 176);

/// Draws the picture.
///
/// # Errors
/// The limits are not above zero, or the plot library refuses.
pub fn draw_roofline(roofline: &Roofline) -> Result<String, ReportError> {
    let (peak, bandwidth) = (roofline.peak_gflops, roofline.peak_gb_per_second);
    if !(peak > 0.0 && peak.is_finite() && bandwidth > 0.0 && bandwidth.is_finite()) {
        let reason = format!("the limits are {peak} GFLOP/s and {bandwidth} GB/s; both must be above 0");
        return Err(ReportError::Plot { reason });
    }
    let mut svg = String::new();
    draw(roofline, &mut svg).map_err(|error| ReportError::Plot { reason: error.to_string() })?;
    // For screen readers, and for whoever opens the file without the page around it.
    let described = format!(
        "<svg role=\"img\" aria-labelledby=\"title desc\"><title id=\"title\">{}</title><desc id=\"desc\">{}</desc>",
        escaped(&roofline.title),
        escaped(&description(roofline))
    );
    let (opening, inner) = described.split_once('>').unwrap_or_default();
    let Some(end) = svg.find("<svg ").and_then(|at| svg[at..].find('>').map(|end| at + end)) else {
        return Err(ReportError::Plot { reason: "the plot library wrote no <svg>".to_string() });
    };
    let attributes = opening.trim_start_matches("<svg");
    Ok(format!("{}{attributes}>{inner}{}", &svg[..end], &svg[end + 1..]))
}

fn draw(roofline: &Roofline, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let (peak, bandwidth) = (roofline.peak_gflops, roofline.peak_gb_per_second);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
    root.draw(&Text::new(roofline.title.clone(), (24, 14), text(19)))?;
    root.draw(&Text::new(roofline.subtitle.clone(), (24, 40), text(13)))?;
    let (plot, list) = root.split_horizontally(PLOT_WIDTH);

    let placed: Vec<&RooflinePoint> = roofline.points.iter().filter(|point| point.has_place()).collect();
    let ridge = peak / bandwidth;
    let least = |values: &mut dyn Iterator<Item = f64>, start: f64| values.fold(start, f64::min);
    let lowest_x = least(&mut placed.iter().map(|p| p.intensity()), ridge / 10.0) / 2.0;
    let highest_x = placed.iter().map(|p| p.intensity()).fold(ridge * 10.0, f64::max) * 2.0;
    let lowest_y = least(&mut placed.iter().map(|p| p.gflops), peak / 10.0) / 2.5;
    let mut chart = ChartBuilder::on(&plot)
        .margin_top(TOP)
        .margin_left(16)
        .margin_bottom(12)
        .margin_right(12)
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d((lowest_x..highest_x).log_scale(), (lowest_y..2.0 * peak).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(text(13))
        .x_desc("floating-point operations a byte")
        .y_desc("GFLOP/s")
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .draw()?;
    let roof = [(lowest_x, lowest_x * bandwidth), (ridge, peak), (highest_x, peak)];
    let from = roof[0].1.max(lowest_y);
    let visible = [(from / bandwidth, from), roof[1], roof[2]];
    chart.draw_series(LineSeries::new(visible, ROOF.stroke_width(2)))?;
    let (x, y) = chart.backend_coord(&(highest_x, peak));
    let note = ("sans-serif", 13).into_font().color(&ROOF);
    let right = note.pos(Pos::new(HPos::Right, VPos::Bottom));
    root.draw(&Text::new(format!("{peak:.0} GFLOP/s of multiply-adds"), (x - 4, y - 5), right))?;
    let (x, y) = chart.backend_coord(&(visible[0].0, visible[0].1));
    root.draw(&Text::new(format!("{bandwidth:.1} GB/s of copying"), (x + 16, y - 10), note))?;

    let mut taken: Vec<(i32, i32)> = Vec::new();
    for (i, point) in roofline.points.iter().enumerate() {
        if !point.has_place() {
            continue;
        }
        let at = (point.intensity(), point.gflops);
        let radius = 3 + (point.percent_of_step.clamp(0.0, 100.0).sqrt() * 1.4) as i32;
        chart.draw_series([Circle::new(at, radius, POINT.mix(0.55).filled())])?;
        let (x, y) = chart.backend_coord(&at);
        let label = free_place((x + radius + 9, y), &taken);
        taken.push(label);
        if label.1 != y {
            root.draw(&PathElement::new([(x, y), (label.0 - 7, label.1)], INK.mix(0.5)))?;
        }
        let middle = text(13).pos(Pos::new(HPos::Center, VPos::Center));
        root.draw(&Text::new((i + 1).to_string(), label, middle))?;
    }

    list.draw(&Text::new("kernel", (34, TOP + 4), text(13)))?;
    for (column, x) in [("GFLOP/s", 410), ("% of limit", 480), ("% of step", 548)] {
        list.draw(&Text::new(column, (x, TOP + 4), text(13).pos(Pos::new(HPos::Right, VPos::Top))))?;
    }
    for (i, point) in roofline.points.iter().enumerate() {
        let y = TOP + 4 + LINE * (i as i32 + 1);
        let right = || text(13).pos(Pos::new(HPos::Right, VPos::Top));
        list.draw(&Text::new((i + 1).to_string(), (24, y), right()))?;
        list.draw(&Text::new(point.name.clone(), (34, y), text(13)))?;
        let speed = if point.gflops > 0.0 { format!("{:.1}", point.gflops) } else { "bytes only".to_string() };
        list.draw(&Text::new(speed, (410, y), right()))?;
        list.draw(&Text::new(format!("{:.0}", percent_of_limit(roofline, point)), (480, y), right()))?;
        list.draw(&Text::new(format!("{:.1}", point.percent_of_step), (548, y), right()))?;
    }
    let rows = roofline.points.len() as i32;
    for (i, line) in [
        "The limit of a kernel is the roof above its point, or the",
        "bandwidth where it does no arithmetic to speak of.",
    ]
    .into_iter()
    .enumerate()
    {
        list.draw(&Text::new(line, (34, TOP + 16 + LINE * (rows + 1 + i as i32)), text(12)))?;
    }
    root.present()?;
    Ok(())
}

/// Of the roof above the kernel's place, 0 to 100 and above where caches help.
fn percent_of_limit(roofline: &Roofline, point: &RooflinePoint) -> f64 {
    if !point.has_place() {
        return 100.0 * point.gb_per_second / roofline.peak_gb_per_second;
    }
    100.0 * point.gflops / roofline.peak_gflops.min(point.intensity() * roofline.peak_gb_per_second)
}

/// The place nearest to `wanted`, up or down, where a label of two digits covers no other.
fn free_place(wanted: (i32, i32), taken: &[(i32, i32)]) -> (i32, i32) {
    let steps = (0..40).flat_map(|step| [-step, step]).map(|step| (wanted.0, wanted.1 + 5 * step));
    let covers = |a: (i32, i32), b: (i32, i32)| (a.0 - b.0).abs() < 18 && (a.1 - b.1).abs() < 15;
    steps.into_iter().find(|&place| !taken.iter().any(|&other| covers(place, other))).unwrap_or(wanted)
}

/// A power of ten without needless digits.
fn short(value: &f64) -> String {
    if *value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

fn description(roofline: &Roofline) -> String {
    let points = roofline.points.iter().map(|point| {
        let share = percent_of_limit(roofline, point);
        format!("{} reaches {share:.0} % of its limit and takes {:.1} % of the step", point.name, point.percent_of_step)
    });
    format!(
        "{}. Limits: {:.1} GFLOP/s, {:.1} GB/s. {}.",
        roofline.subtitle,
        roofline.peak_gflops,
        roofline.peak_gb_per_second,
        points.collect::<Vec<_>>().join("; ")
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
