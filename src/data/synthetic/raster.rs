//! Outlines to pixels, antialiased.
//!
//! Garments are drawn in coordinates of about a pixel a unit: `x` from the middle axis, -14 to 14, to the right; `y` from
//! the upper edge, 0 to 28, downwards. A [`Frame`] places them in the picture.

use super::cloth::Cloth;
use crate::data::{IMAGE_SIDE, PIXELS};

/// A point, `[x, y]`.
pub(super) type Point = [f32; 2];

const MIDDLE: f32 = IMAGE_SIDE as f32 / 2.0;

/// The pose of a garment in the picture.
pub(super) struct Frame {
    /// Pixels to the right and down.
    pub(super) shift: [f32; 2],
    /// Tangent of half the angle of rotation: it gives sine and cosine without a function of the platform's.
    pub(super) slope: f32,
    /// Size across and down.
    pub(super) scale: [f32; 2],
    /// Whether left and right are exchanged.
    pub(super) mirror: bool,
}

impl Frame {
    /// Cosine and sine of the rotation.
    fn rotation(&self) -> [f32; 2] {
        let t = self.slope;
        [(1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)]
    }

    fn width(&self) -> f32 {
        if self.mirror { -self.scale[0] } else { self.scale[0] }
    }

    fn to_picture(&self, [x, y]: Point) -> Point {
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
#[derive(Clone)]
pub(super) struct Outline(Vec<Point>);

impl Outline {
    /// An outline that starts here.
    pub(super) fn from(start: Point) -> Self {
        Self(vec![start])
    }

    /// The outline through these corners.
    pub(super) fn polygon(corners: &[Point]) -> Self {
        Self(corners.to_vec())
    }

    /// An ellipse by centre and half axes.
    pub(super) fn ellipse([x, y]: Point, [a, b]: [f32; 2]) -> Self {
        Self::from([x - a, y])
            .curve([x - a, y - b], [x, y - b])
            .curve([x + a, y - b], [x + a, y])
            .curve([x + a, y + b], [x, y + b])
            .curve([x - a, y + b], [x - a, y])
    }

    /// On, straight.
    pub(super) fn line(mut self, end: Point) -> Self {
        self.0.push(end);
        self
    }

    /// On, along a quadratic Bézier curve.
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

    /// Completed by its mirror image across the middle axis.
    pub(super) fn mirrored(mut self) -> Self {
        for i in (0..self.0.len()).rev() {
            let [x, y] = self.0[i];
            self.0.push([-x, y]);
        }
        self
    }

    /// The mirror image across the middle axis.
    pub(super) fn flipped(mut self) -> Self {
        for point in &mut self.0 {
            point[0] = -point[0];
        }
        self
    }

    /// The outline with each point moved.
    pub(super) fn moved(mut self, to: impl Fn(Point) -> Point) -> Self {
        for point in &mut self.0 {
            *point = to(*point);
        }
        self
    }

    /// The points, of a line that is not closed.
    pub(super) fn points(&self) -> &[Point] {
        &self.0
    }
}

/// The drawing under way.
pub(super) struct Easel {
    frame: Frame,
    /// `[28, 28]` grey values, 0 to 1.
    pub(super) tones: [f32; PIXELS],
    /// `[28, 28]` share of each pixel that is garment, 0 to 1.
    pub(super) ink: [f32; PIXELS],
}

impl Easel {
    /// An empty picture.
    pub(super) fn new(frame: Frame) -> Self {
        Self { frame, tones: [0.0; PIXELS], ink: [0.0; PIXELS] }
    }

    /// Fills an outline with cloth.
    pub(super) fn fill(&mut self, outline: &Outline, cloth: &Cloth) {
        let coverage = self.coverage(&[outline]);
        for (i, &cover) in coverage.iter().enumerate() {
            if cover > 0.0 {
                let pixel = [(i % IMAGE_SIDE) as f32 + 0.5, (i / IMAGE_SIDE) as f32 + 0.5];
                let tone = cloth.tone_at(self.frame.to_garment(pixel));
                self.tones[i] += cover * (tone - self.tones[i]);
                self.ink[i] = self.ink[i].max(cover);
            }
        }
    }

    /// Lays an even tone of this opacity over an outline.
    pub(super) fn tint(&mut self, outline: &Outline, tone: f32, opacity: f32) {
        let coverage = self.coverage(&[outline]);
        self.lay(&coverage, tone, opacity);
    }

    /// Takes an outline away: background shows.
    pub(super) fn cut(&mut self, outline: &Outline) {
        let coverage = self.coverage(&[outline]);
        for (i, cover) in coverage.iter().enumerate() {
            self.tones[i] *= 1.0 - cover;
            self.ink[i] *= 1.0 - cover;
        }
    }

    /// Draws a line of this width.
    pub(super) fn stroke(&mut self, points: &[Point], width: f32, tone: f32, opacity: f32) {
        let pieces: Vec<Outline> = points.windows(2).map(|ends| segment(ends[0], ends[1], width)).collect();
        let coverage = self.coverage(&pieces.iter().collect::<Vec<_>>());
        self.lay(&coverage, tone, opacity);
    }

    fn lay(&mut self, coverage: &[f32; PIXELS], tone: f32, opacity: f32) {
        for (i, cover) in coverage.iter().enumerate() {
            self.tones[i] += cover * opacity * (tone - self.tones[i]);
            self.ink[i] = self.ink[i].max(cover * opacity);
        }
    }

    /// The share of each pixel that the outlines cover together.
    ///
    /// Each edge adds its signed area to the pixels it crosses, in such a way that the running sum along a row is the
    /// area inside. Pieces that overlap must turn the same way round.
    fn coverage(&self, outlines: &[&Outline]) -> [f32; PIXELS] {
        let mut area = [0.0; PIXELS];
        for outline in outlines {
            let points = &outline.0;
            let mut from = self.frame.to_picture(points[points.len() - 1]);
            for &point in points {
                let to = self.frame.to_picture(point);
                add_edge(&mut area, from, to);
                from = to;
            }
        }
        let mut coverage = [0.0; PIXELS];
        for (covers, areas) in coverage.chunks_exact_mut(IMAGE_SIDE).zip(area.chunks_exact(IMAGE_SIDE)) {
            let mut sum = 0.0_f32;
            for (cover, area) in covers.iter_mut().zip(areas) {
                sum += area;
                // Rounding leaves specks of 1e-7 where there is nothing.
                *cover = if sum.abs() < 1e-4 { 0.0 } else { sum.abs().min(1.0) };
            }
        }
        coverage
    }
}

/// A straight piece of a line, a little longer at both ends, so that pieces join.
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

/// Adds the part of an edge within a row: it goes from column `x0` to `x1` and covers `height` (signed) of the row.
///
/// In the running sum a pixel to the right of the edge gets all of `height`, and one that the edge crosses the area to
/// the right of it. Beyond the last column lies the next row, which must stay untouched.
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
        // The trapezium between this stretch and the pixel's right edge.
        let inside = share * ((column + 1) as f32 - (from + to) / 2.0);
        put(column, inside);
        put(column + 1, share - inside);
    }
}
