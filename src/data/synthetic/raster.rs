//! Converts outlines to antialiased pixels.
//!
//! Garments are drawn in coordinates of about one pixel per unit: `x` from the middle axis, -14 to 14, to the right; `y`
//! from the upper edge, 0 to 28, downwards. A [`Frame`] places them in the image.

use std::slice;

use super::cloth::Cloth;
use crate::data::{IMAGE_SIDE, PIXELS};

/// A point, `[x, y]`.
pub(super) type Point = [f32; 2];

const MIDDLE: f32 = IMAGE_SIDE as f32 / 2.0;

/// The pose of a garment in the image.
pub(super) struct Frame {
    /// Pixels to the right and down.
    pub(super) shift: [f32; 2],
    /// Tangent of half the rotation angle: it yields sine and cosine without platform-dependent functions.
    pub(super) slope: f32,
    /// Horizontal and vertical scale.
    pub(super) scale: [f32; 2],
    /// Whether left and right are swapped.
    pub(super) mirror: bool,
}

impl Frame {
    /// Returns the cosine and sine of the rotation.
    fn rotation(&self) -> [f32; 2] {
        let t = self.slope;
        [(1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)]
    }

    fn width(&self) -> f32 {
        if self.mirror { -self.scale[0] } else { self.scale[0] }
    }

    fn to_image(&self, [x, y]: Point) -> Point {
        let [cos, sin] = self.rotation();
        let [x, y] = [x * self.width(), (y - MIDDLE) * self.scale[1]];
        [cos * x - sin * y + MIDDLE + self.shift[0], sin * x + cos * y + MIDDLE + self.shift[1]]
    }

    fn to_garment(&self, [x, y]: Point) -> Point {
        let [cos, sin] = self.rotation();
        let [x, y] = [x - MIDDLE - self.shift[0], y - MIDDLE - self.shift[1]];
        [(cos * x + sin * y) / self.width(), (cos * y - sin * x) / self.scale[1] + MIDDLE]
    }
}

/// A closed outline.
pub(super) struct Outline(Vec<Point>);

impl Outline {
    /// Starts an outline at this point.
    pub(super) fn from(start: Point) -> Self {
        Self(vec![start])
    }

    /// Returns the polygon with these corners.
    pub(super) fn polygon(corners: &[Point]) -> Self {
        Self(corners.to_vec())
    }

    /// Returns the ellipse with this centre and these semi-axes.
    pub(super) fn ellipse([x, y]: Point, [a, b]: [f32; 2]) -> Self {
        Self::from([x - a, y])
            .curve([x - a, y - b], [x, y - b])
            .curve([x + a, y - b], [x + a, y])
            .curve([x + a, y + b], [x, y + b])
            .curve([x - a, y + b], [x - a, y])
    }

    /// Appends a straight line.
    pub(super) fn line(mut self, end: Point) -> Self {
        self.0.push(end);
        self
    }

    /// Appends a quadratic Bézier curve.
    pub(super) fn curve(mut self, control: Point, end: Point) -> Self {
        const N_PIECES: usize = 6;
        let start = self.0[self.0.len() - 1];
        for i in 1..=N_PIECES {
            let t = i as f32 / N_PIECES as f32;
            let along = |axis: usize| {
                let (a, b, c) = (start[axis], control[axis], end[axis]);
                (1.0 - t) * ((1.0 - t) * a + t * b) + t * ((1.0 - t) * b + t * c)
            };
            self.0.push([along(0), along(1)]);
        }
        self
    }

    /// Completes the outline with its mirror image across the middle axis.
    pub(super) fn mirrored(mut self) -> Self {
        for i in (0..self.0.len()).rev() {
            let [x, y] = self.0[i];
            self.0.push([-x, y]);
        }
        self
    }

    /// Returns the mirror image across the middle axis.
    pub(super) fn flipped(self) -> Self {
        self.moved(|[x, y]| [-x, y])
    }

    /// Returns the outline with each point mapped.
    pub(super) fn moved(mut self, to: impl Fn(Point) -> Point) -> Self {
        for point in &mut self.0 {
            *point = to(*point);
        }
        self
    }

    /// Returns the points, for use as an open line.
    pub(super) fn points(&self) -> &[Point] {
        &self.0
    }
}

/// The drawing in progress.
pub(super) struct Easel {
    frame: Frame,
    /// `[28, 28]` grey values, 0 to 1.
    pub(super) tones: [f32; PIXELS],
    /// `[28, 28]` coverage of each pixel by the garment, 0 to 1.
    pub(super) ink: [f32; PIXELS],
}

impl Easel {
    /// Returns an empty drawing.
    pub(super) fn new(frame: Frame) -> Self {
        Self { frame, tones: [0.0; PIXELS], ink: [0.0; PIXELS] }
    }

    /// Fills an outline with cloth.
    pub(super) fn fill(&mut self, outline: &Outline, cloth: &Cloth) {
        let coverage = self.coverage(slice::from_ref(outline));
        for (i, &cover) in coverage.iter().enumerate() {
            if cover > 0.0 {
                let pixel = [(i % IMAGE_SIDE) as f32 + 0.5, (i / IMAGE_SIDE) as f32 + 0.5];
                let tone = cloth.tone_at(self.frame.to_garment(pixel));
                self.tones[i] += cover * (tone - self.tones[i]);
                self.ink[i] = self.ink[i].max(cover);
            }
        }
    }

    /// Fills an outline with a uniform tone of this opacity.
    pub(super) fn tint(&mut self, outline: &Outline, tone: f32, opacity: f32) {
        self.lay(slice::from_ref(outline), tone, opacity);
    }

    /// Erases an outline, so that the background shows.
    pub(super) fn cut(&mut self, outline: &Outline) {
        for (i, cover) in self.coverage(slice::from_ref(outline)).iter().enumerate() {
            self.tones[i] *= 1.0 - cover;
            self.ink[i] *= 1.0 - cover;
        }
    }

    /// Draws a line of this width.
    pub(super) fn stroke(&mut self, points: &[Point], width: f32, tone: f32, opacity: f32) {
        let pieces: Vec<Outline> = points.windows(2).map(|ends| segment(ends[0], ends[1], width)).collect();
        self.lay(&pieces, tone, opacity);
    }

    /// Draws a line and its mirror image across the middle axis.
    pub(super) fn stroke_both(&mut self, points: &[Point], width: f32, tone: f32, opacity: f32) {
        let mirrored: Vec<Point> = points.iter().map(|[x, y]| [-x, *y]).collect();
        self.stroke(&mirrored, width, tone, opacity);
        self.stroke(points, width, tone, opacity);
    }

    fn lay(&mut self, outlines: &[Outline], tone: f32, opacity: f32) {
        for (i, cover) in self.coverage(outlines).iter().enumerate() {
            self.tones[i] += cover * opacity * (tone - self.tones[i]);
            self.ink[i] = self.ink[i].max(cover * opacity);
        }
    }

    /// Returns the coverage of each pixel by the union of the outlines.
    ///
    /// Each edge adds its signed area to the pixels that it crosses, so that the running sum along a row is the area inside.
    /// Overlapping pieces must have the same winding direction.
    fn coverage(&self, outlines: &[Outline]) -> [f32; PIXELS] {
        let mut area = [0.0; PIXELS];
        for outline in outlines {
            let points = &outline.0;
            let mut from = self.frame.to_image(points[points.len() - 1]);
            for &point in points {
                let to = self.frame.to_image(point);
                add_edge(&mut area, from, to);
                from = to;
            }
        }
        for row in area.chunks_exact_mut(IMAGE_SIDE) {
            let mut sum = 0.0_f32;
            for pixel in row {
                sum += *pixel;
                // Rounding leaves values of 1e-7 in empty pixels.
                *pixel = if sum.abs() < 1e-4 { 0.0 } else { sum.abs().min(1.0) };
            }
        }
        area
    }
}

/// Returns a straight segment of a line, extended slightly at both ends so that segments join.
fn segment([x0, y0]: Point, [x1, y1]: Point, width: f32) -> Outline {
    let [dx, dy] = [x1 - x0, y1 - y0];
    let length = (dx * dx + dy * dy).sqrt().max(1e-3);
    let [ux, uy] = [dx / length * width / 2.0, dy / length * width / 2.0];
    let overlap = 0.3;
    let [x0, y0] = [x0 - overlap * ux, y0 - overlap * uy];
    let [x1, y1] = [x1 + overlap * ux, y1 + overlap * uy];
    Outline::polygon(&[[x0 - uy, y0 + ux], [x1 - uy, y1 + ux], [x1 + uy, y1 - ux], [x0 + uy, y0 - ux]])
}

/// Adds the signed area to the right of an edge, row by row.
fn add_edge(area: &mut [f32; PIXELS], from: Point, to: Point) {
    let (sign, upper, lower) = if from[1] < to[1] { (1.0, from, to) } else { (-1.0, to, from) };
    let height = lower[1] - upper[1];
    if height < 1e-6 {
        return;
    }
    let slope = (lower[0] - upper[0]) / height;
    let side = IMAGE_SIDE as f32;
    let [top, bottom] = [upper[1].clamp(0.0, side), lower[1].clamp(0.0, side)];
    let mut y = top;
    let mut row = top as usize;
    while y < bottom && row < IMAGE_SIDE {
        let next = bottom.min((row + 1) as f32);
        let x_at = |y: f32| (upper[0] + slope * (y - upper[1])).clamp(0.0, side - 1e-3);
        add_row(&mut area[row * IMAGE_SIDE..], x_at(y), x_at(next), sign * (next - y));
        y = next;
        row += 1;
    }
}

/// Adds the part of an edge within a row: it runs from column `x0` to `x1` and covers `height` (signed) of the row.
///
/// In the running sum, a pixel to the right of the edge receives all of `height`, and a pixel that the edge crosses receives
/// the area to the right of the edge. Past the last column is the next row, which must not change.
fn add_row(row: &mut [f32], x0: f32, x1: f32, height: f32) {
    let [left, right] = if x0 < x1 { [x0, x1] } else { [x1, x0] };
    let [first, last] = [left as usize, right as usize];
    let mut put = |column: usize, amount: f32| {
        if column < IMAGE_SIDE {
            row[column] += amount;
        }
    };
    let width = right - left;
    for column in first..=last {
        let [from, to] = [left.max(column as f32), right.min((column + 1) as f32)];
        let share = if width > 1e-6 { height * (to - from) / width } else { height };
        // The trapezoid between this segment and the right side of the pixel.
        let inside = share * ((column + 1) as f32 - (from + to) / 2.0);
        put(column, inside);
        put(column + 1, share - inside);
    }
}
