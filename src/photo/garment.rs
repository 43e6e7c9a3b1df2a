//! Converts a photo to the format of the training images: light ink on a black background, 28 x 28, filling the longer side.
//!
//! The training images were made from catalogue photos on a light, plain background: trimmed, resized so that the longer side has 28
//! pixels, centred, negated, converted to grey (Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017, section 2). [`prepare`] does the same
//! with any photo of a garment on a plain background, light or dark, and flags results that are doubtful.

use super::{Photo, covered};
use thiserror::Error;

/// Rows and columns of a prepared image: those of the training images, on which everything here was measured.
const IMAGE_SIDE: usize = 28;
/// Pixels of a prepared image.
const PIXELS: usize = IMAGE_SIDE * IMAGE_SIDE;

/// Whether to invert light and dark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invert {
    /// Invert if the background is light.
    #[default]
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

/// Why a prediction is flagged as doubtful.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Doubt {
    /// Nothing stands out from the background.
    #[error("nothing stands out from the background; the prediction is meaningless")]
    Empty,
    /// The background is not plain, so it cannot be separated from the garment.
    #[error("the background is not plain; place the garment on a plain background that is lighter or darker")]
    BusyGround,
    /// The input of the network is unlike any training image.
    #[error(
        "unlike the training images (distance {distance:.1}; 99 % of them are below {MAX_DISTANCE}); the prediction may be \
         meaningless"
    )]
    Unlike {
        /// See [`distance`].
        distance: f64,
    },
    /// No class has a probability of at least one half.
    #[error("no class is likely: the best has a probability of {:.0} %", probability * 100.0)]
    Unsure {
        /// Probability of the best class, 0 to 1.
        probability: f32,
    },
}

/// A photo prepared as input for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Garment {
    /// `[28, 28]`: 0 is background, 255 is full ink.
    pub image: Vec<u8>,
    /// Whether light and dark were inverted.
    pub inverted: bool,
    /// The part of the photo that was used, in its pixels: left, top, width, height.
    pub crop: [usize; 4],
    /// Reasons to distrust a prediction; empty if there are none.
    pub doubts: Vec<Doubt>,
}

/// Longer side of the working image, pixels: enough for 28, and few enough to average out noise.
const WORK_SIDE: usize = 448;
/// Minimum contrast with the background that counts as garment, relative to the maximum: that of Fashion-MNIST's own trimming.
const MIN_CONTRAST: f32 = 0.05;
/// Standard deviation above which the background is not plain, relative to the maximum difference.
const BUSY: f32 = 0.10;
/// Components smaller than this fraction of the largest are specks.
const SPECK: f64 = 0.02;
/// A garment smaller than this fraction of the photo is ignored.
const MIN_GARMENT: f64 = 0.002;
/// The 95th percentile of ink is below this in 5 % of the 60,000 training images; fainter photos are stretched to it.
const FAINT: f32 = 158.0;
/// Maximum stretch factor; more would amplify noise.
const MAX_STRETCH: f32 = 6.0;

/// Prepares a photo as input for the network.
///
/// A grey image of 28 x 28 with a dark background is used unchanged: the images of the data set are like that.
pub fn prepare(photo: &Photo, invert: Invert) -> Garment {
    if let Some(image) = as_data_set_image(photo, invert) {
        let doubts = doubts_about(&image).into_iter().collect();
        return Garment { image, inverted: false, crop: [0, 0, IMAGE_SIDE, IMAGE_SIDE], doubts };
    }
    let work = Work::new(photo);
    let background = Background::of(&work);
    let inverted = match invert {
        Invert::Yes => true,
        Invert::No => false,
        Invert::Auto => work.is_cut_out || luma(background.colour([0.0, 0.0])) >= 0.5,
    };
    let contrast = work.contrast(&background);
    // Above the variation of the background itself.
    let threshold = if work.is_cut_out { 0.5 } else { (4.0 * background.deviation).clamp(MIN_CONTRAST, 0.25) };
    let Some(pieces) = Pieces::of(&contrast, threshold, work.width) else {
        let crop = [0, 0, photo.width, photo.height];
        return Garment { image: vec![0; PIXELS], inverted, crop, doubts: vec![Doubt::Empty] };
    };
    let mut ink = work.ink(&background, inverted);
    for (i, ink) in ink.iter_mut().enumerate() {
        // Soft edges: from 0 at half the threshold to 1 at the threshold.
        let edge = (2.0 * contrast[i] / threshold - 1.0).clamp(0.0, 1.0);
        *ink *= if pieces.is_speck(i) { 0.0 } else { edge };
    }
    stretch(&mut ink, &pieces);
    let image = fit(&ink, work.width, pieces.bounds);
    let mut doubts = Vec::new();
    if background.deviation > BUSY {
        doubts.push(Doubt::BusyGround);
    }
    doubts.extend(doubts_about(&image));
    Garment { image, inverted, crop: work.in_photo(photo, pieces.bounds), doubts }
}

fn doubts_about(image: &[u8]) -> Option<Doubt> {
    let distance = distance(image);
    (distance > MAX_DISTANCE).then_some(Doubt::Unlike { distance })
}

/// Returns the pixels unchanged if the photo looks like an image of the data set: 28 x 28, grey, with more black than white on its edge.
fn as_data_set_image(photo: &Photo, invert: Invert) -> Option<Vec<u8>> {
    let is_grey = photo.rgba.as_chunks::<4>().0.iter().all(|[r, g, b, a]| r == g && g == b && *a == 255);
    if (photo.width, photo.height) != (IMAGE_SIDE, IMAGE_SIDE) || !is_grey || invert == Invert::Yes {
        return None;
    }
    let image: Vec<u8> = photo.rgba.iter().step_by(4).copied().collect();
    let is_edge =
        |i: usize| [0, IMAGE_SIDE - 1].contains(&(i % IMAGE_SIDE)) || [0, IMAGE_SIDE - 1].contains(&(i / IMAGE_SIDE));
    let edge = || (0..PIXELS).filter(|&i| is_edge(i)).map(|i| image[i]);
    let (black, white) = (edge().filter(|&v| v <= 8).count(), edge().filter(|&v| v >= 247).count());
    (invert == Invert::No || black >= white).then_some(image)
}

/// The photo reduced to [`WORK_SIDE`].
struct Work {
    width: usize,
    height: usize,
    /// Red, green, blue, 0 to 1, in the photo's own (sRGB) encoding, like the training images.
    colour: Vec<[f32; 3]>,
    opacity: Vec<f32>,
    /// Whether the photo's background is transparent, so that the opacity outlines the garment.
    is_cut_out: bool,
}

impl Work {
    fn new(photo: &Photo) -> Self {
        let longer = photo.width.max(photo.height);
        let scale = (WORK_SIDE as f64 / longer as f64).min(1.0);
        let side = |length: usize| ((length as f64 * scale).round() as usize).max(1);
        let (width, height) = (side(photo.width), side(photo.height));
        let mut colour = Vec::with_capacity(width * height);
        let mut opacity = Vec::with_capacity(width * height);
        // Each pixel is the mean of the photo's pixels that it covers, weighted by their opacity.
        for y in 0..height {
            for x in 0..width {
                let mut sum = [0.0f64; 4];
                let mut count = 0.0;
                for row in covered(y, height, photo.height) {
                    for column in covered(x, width, photo.width) {
                        let at = 4 * (row * photo.width + column);
                        let [r, g, b, a] = [0, 1, 2, 3].map(|c| f64::from(photo.rgba[at + c]) / 255.0);
                        sum = [sum[0] + r * a, sum[1] + g * a, sum[2] + b * a, sum[3] + a];
                        count += 1.0;
                    }
                }
                let alpha = sum[3].max(1e-9);
                colour.push([0, 1, 2].map(|c| (sum[c] / alpha) as f32));
                opacity.push((sum[3] / count) as f32);
            }
        }
        let mut work = Work { width, height, colour, opacity, is_cut_out: false };
        let clear = work.border().filter(|&i| work.opacity[i] < 0.5).count();
        work.is_cut_out = 2 * clear > work.border().count();
        // Any other transparency is shown on white.
        let behind = 1.0;
        for (colour, &alpha) in work.colour.iter_mut().zip(&work.opacity) {
            *colour = colour.map(|c| c * alpha + behind * (1.0 - alpha));
        }
        work
    }

    /// Returns the pixels of a ring along the edges, 3 % of the shorter side wide.
    fn border(&self) -> impl Iterator<Item = usize> + '_ {
        let ring = (self.width.min(self.height) * 3 / 100).max(1);
        let near = move |i: usize, n: usize| i < ring || i + ring >= n;
        let is_border = move |i: &usize| near(i % self.width, self.width) || near(i / self.width, self.height);
        (0..self.width * self.height).filter(is_border)
    }

    /// Returns the column and the row of a pixel.
    fn position(&self, i: usize) -> [f64; 2] {
        [i % self.width, i / self.width].map(|at| at as f64)
    }

    /// Returns each pixel's colour difference from the background, 0 to 1; for a cut-out, its opacity.
    fn contrast(&self, background: &Background) -> Vec<f32> {
        if self.is_cut_out {
            return self.opacity.clone();
        }
        (0..self.colour.len()).map(|i| background.difference(self, i)).collect()
    }

    /// Returns the ink, 0 to 255: the difference in luma from the background, relative to the maximum on this background.
    fn ink(&self, background: &Background, inverted: bool) -> Vec<f32> {
        let one = |i: usize| {
            let value = luma(self.colour[i]);
            // Catalogue photos show cut-out garments on white.
            let under =
                if self.is_cut_out { f32::from(u8::from(inverted)) } else { luma(background.colour(self.position(i))) };
            let range = if inverted { under } else { 1.0 - under };
            // A garment lighter than a light background is also visible by its difference.
            (255.0 * (value - under).abs() / range.max(0.1)).min(255.0)
        };
        (0..self.colour.len()).map(one).collect()
    }

    /// Converts a rectangle of the working image to the photo's pixels.
    fn in_photo(&self, photo: &Photo, [left, top, width, height]: [usize; 4]) -> [usize; 4] {
        let (x, y) = (|i: usize| i * photo.width / self.width, |i: usize| i * photo.height / self.height);
        [x(left), y(top), x(left + width) - x(left), y(top + height) - y(top)]
    }
}

/// Returns the luma of a colour, with the weights of ITU-R BT.601.
fn luma([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// The colour of the background: one plane per channel, so that light may fall off to one side.
struct Background {
    /// For each channel: value at the top left, change per column, change per row.
    planes: [[f64; 3]; 3],
    /// Standard deviation of the retained border pixels from the planes.
    deviation: f32,
}

impl Background {
    /// Fits the border by least squares, three times, each time without outliers, because a garment may touch the edge.
    fn of(work: &Work) -> Background {
        let border: Vec<usize> = work.border().collect();
        // The median is correct even if the garment covers up to half of the border.
        let median = |c: usize| {
            let mut values: Vec<f32> = border.iter().map(|&i| work.colour[i][c]).collect();
            values.sort_unstable_by(f32::total_cmp);
            f64::from(values[values.len() / 2])
        };
        let mut background = Background { planes: [0, 1, 2].map(|c| [median(c), 0.0, 0.0]), deviation: 0.0 };
        let mut limit = f32::INFINITY;
        for _ in 0..3 {
            let mut residuals: Vec<(f32, usize)> =
                border.iter().map(|&i| (background.difference(work, i), i)).collect();
            residuals.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            // At least half of the border counts as background; of the rest, what is within three deviations.
            let half = residuals.len().div_ceil(2);
            let spread = 1.5 * residuals[half - 1].0 + 0.004;
            limit = limit.min(3.0 * spread);
            let kept: Vec<usize> = residuals.iter().take_while(|(off, _)| *off <= limit).map(|(_, i)| *i).collect();
            let squares: f32 = residuals.iter().take(kept.len()).map(|(off, _)| off * off).sum();
            background.deviation = (squares / kept.len().max(1) as f32).sqrt();
            // The limit is above the median, so about half of the pixels or more remain; three define a plane.
            if kept.len() >= 3 {
                background.planes = [0, 1, 2].map(|c| {
                    plane(kept.iter().map(|&i| (work.position(i), f64::from(work.colour[i][c]))))
                        .unwrap_or(background.planes[c])
                });
            }
        }
        background
    }

    fn colour(&self, [x, y]: [f64; 2]) -> [f32; 3] {
        self.planes.map(|[value, across, down]| (value + across * x + down * y).clamp(0.0, 1.0) as f32)
    }

    /// Returns the difference of a pixel's colour from the background, 0 to 1.
    fn difference(&self, work: &Work, i: usize) -> f32 {
        let under = self.colour(work.position(i));
        let squares = work.colour[i].iter().zip(under).map(|(c, g)| (c - g) * (c - g));
        (squares.sum::<f32>() / 3.0).sqrt()
    }
}

/// Fits the plane `value + across x + down y` to the points by least squares; returns `None` if they are collinear.
fn plane(points: impl Iterator<Item = ([f64; 2], f64)>) -> Option<[f64; 3]> {
    // The normal equations, symmetric 3 x 3.
    let (mut a, mut b) = ([[0.0f64; 3]; 3], [0.0f64; 3]);
    for ([x, y], value) in points {
        let row = [1.0, x, y];
        for i in 0..3 {
            for j in 0..3 {
                a[i][j] += row[i] * row[j];
            }
            b[i] += row[i] * value;
        }
    }
    let determinant = |m: [[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = determinant(a);
    if whole.abs() <= 1e-9 * a[0][0] * a[1][1] * a[2][2] {
        return None;
    }
    // Cramer's rule.
    Some([0, 1, 2].map(|column| {
        let mut replaced = a;
        for (row, value) in replaced.iter_mut().zip(b) {
            row[column] = value;
        }
        determinant(replaced) / whole
    }))
}

/// The connected components of what stands out from the background.
struct Pieces {
    /// For each pixel the number of its component, 0 for the background.
    piece: Vec<u32>,
    /// Number of pixels per component.
    sizes: Vec<usize>,
    /// Bounding box of all components that are not specks: left, top, width, height.
    bounds: [usize; 4],
}

impl Pieces {
    /// Finds the components; returns `None` if almost nothing stands out.
    fn of(contrast: &[f32], threshold: f32, width: usize) -> Option<Pieces> {
        let height = contrast.len() / width;
        let mut piece = vec![0u32; contrast.len()];
        let mut sizes = vec![0usize];
        let mut open = Vec::new();
        for start in 0..contrast.len() {
            if piece[start] != 0 || contrast[start] < threshold {
                continue;
            }
            let number = sizes.len() as u32;
            sizes.push(0);
            piece[start] = number;
            open.push(start);
            while let Some(i) = open.pop() {
                sizes[number as usize] += 1;
                let (x, y) = (i % width, i / width);
                let beside = [
                    (x > 0).then(|| i - 1),
                    (x + 1 < width).then(|| i + 1),
                    (y > 0).then(|| i - width),
                    (y + 1 < height).then(|| i + width),
                ];
                for j in beside.into_iter().flatten() {
                    if piece[j] == 0 && contrast[j] >= threshold {
                        piece[j] = number;
                        open.push(j);
                    }
                }
            }
        }
        let mut pieces = Pieces { piece, sizes, bounds: [0; 4] };
        let garment = (0..contrast.len()).filter(|&i| pieces.is_garment(i));
        let (mut left, mut top, mut right, mut bottom, mut count) = (width, height, 0, 0, 0usize);
        for i in garment {
            let (x, y) = (i % width, i / width);
            (left, right, top, bottom) = (left.min(x), right.max(x + 1), top.min(y), bottom.max(y + 1));
            count += 1;
        }
        if count == 0 || (count as f64) < MIN_GARMENT * contrast.len() as f64 {
            return None;
        }
        pieces.bounds = [left, top, right - left, bottom - top];
        Some(pieces)
    }

    fn is_garment(&self, i: usize) -> bool {
        self.piece[i] != 0 && !self.is_speck(i)
    }

    fn is_speck(&self, i: usize) -> bool {
        let largest = self.sizes.iter().max().copied().unwrap_or(0);
        let size = self.sizes[self.piece[i] as usize];
        self.piece[i] != 0 && (size as f64) < SPECK * largest as f64
    }
}

/// Scales faint ink up to the level of faint training images.
fn stretch(ink: &mut [f32], pieces: &Pieces) {
    let mut values: Vec<f32> = (0..ink.len()).filter(|&i| pieces.is_garment(i)).map(|i| ink[i]).collect();
    let at = values.len() * 95 / 100;
    let (_, high, _) = values.select_nth_unstable_by(at, f32::total_cmp);
    let factor = (FAINT / high.max(1.0)).clamp(1.0, MAX_STRETCH);
    for value in ink {
        *value = (*value * factor).min(255.0);
    }
}

/// Resizes a rectangle by exact area averaging so that its longer side has 28 pixels, and centres it in 28 x 28.
///
/// Nearly every training image fills its longer side (27 of 28 pixels at the first percentile of 60,000), and an odd pixel of margin
/// comes first.
fn fit(ink: &[f32], stride: usize, [left, top, width, height]: [usize; 4]) -> Vec<u8> {
    let longer = width.max(height);
    let side = |length: usize| ((length * IMAGE_SIDE + longer / 2) / longer).clamp(1, IMAGE_SIDE);
    let (columns, rows) = (side(width), side(height));
    let margin = |cells: usize| (IMAGE_SIDE - cells).div_ceil(2);
    let across = coverage(left, width, columns);
    let down = coverage(top, height, rows);
    let mut image = vec![0u8; PIXELS];
    for (row, down) in down.iter().enumerate() {
        for (column, across) in across.iter().enumerate() {
            let (mut sum, mut area) = (0.0, 0.0);
            for &(y, share_y) in down {
                for &(x, share_x) in across {
                    sum += f64::from(ink[y * stride + x]) * share_x * share_y;
                    area += share_x * share_y;
                }
            }
            image[(margin(rows) + row) * IMAGE_SIDE + margin(columns) + column] = (sum / area).round() as u8;
        }
    }
    image
}

/// Returns, for each of `cells` along a range of pixels, the pixels that it covers, each with the covered fraction.
fn coverage(first: usize, length: usize, cells: usize) -> Vec<Vec<(usize, f64)>> {
    let size = length as f64 / cells as f64;
    let cell = |i: usize| {
        let (begin, end) = (i as f64 * size, ((i + 1) as f64 * size).min(length as f64));
        let pixels = begin as usize..(end.ceil() as usize).min(length);
        let share = move |j: usize| (end.min(j as f64 + 1.0) - begin.max(j as f64)).max(0.0);
        pixels.map(|j| (first + j, share(j))).filter(|(_, share)| *share > 0.0).collect()
    };
    (0..cells).map(cell).collect()
}

/// The 99th percentile of [`distance`] over the training images.
pub const MAX_DISTANCE: f64 = 5.2;

/// Means of [`features`] over the 60,000 training images of Fashion-MNIST.
const MEANS: [f64; 7] = [0.286, 0.3202, 0.4442, -1.189, -1.482, -0.2674, 0.6841];
/// Decorrelates the features of the training images and scales them to unit variance: the upper factor of their inverse covariance.
const WHITEN: [[f64; 7]; 7] = [
    [33.62, -28.63, -17.7, 0.9147, 0.111, -0.4978, -0.2563],
    [0.0, 19.3, 0.7885, 2.299, 1.877, -0.986, 0.8641],
    [0.0, 0.0, 9.828, -3.535, -2.471, 7.384, -0.6952],
    [0.0, 0.0, 0.0, 7.291, 4.675, -10.51, 0.2857],
    [0.0, 0.0, 0.0, 0.0, 2.682, -2.803, 1.412],
    [0.0, 0.0, 0.0, 0.0, 0.0, 2.498, 1.462],
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.323],
];

/// Returns how far an image `[28, 28]` is from the training images: the Mahalanobis distance of seven [`features`].
///
/// A test recomputes the constants from the genuine data. `docs/photos.md` describes what the distance detects and what it misses.
pub fn distance(image: &[u8]) -> f64 {
    let features = features(image);
    let centred: Vec<f64> = features.iter().zip(MEANS).map(|(value, mean)| value - mean).collect();
    let component = |row: &[f64; 7]| row.iter().zip(&centred).map(|(w, v)| w * v).sum::<f64>();
    WHITEN.iter().map(|row| component(row).powi(2)).sum::<f64>().sqrt()
}

/// Describes an image `[28, 28]` by seven numbers: mean and standard deviation (relative to 255), fraction of pixels with ink above
/// 32, logarithms of its horizontal, vertical and two-dimensional roughness (sums of absolute first and second differences per unit
/// of ink), and its correlation with its own mirror image.
pub fn features(image: &[u8]) -> [f64; 7] {
    let at = |y: usize, x: usize| f64::from(image[y * IMAGE_SIDE + x]);
    let cells = PIXELS as f64;
    let sum: f64 = image.iter().map(|&v| f64::from(v)).sum();
    let mean = sum / cells;
    let (mut squares, mut mirrored) = (0.0, 0.0);
    let (mut across, mut down, mut both) = (0.0, 0.0, 0.0);
    for y in 0..IMAGE_SIDE {
        for x in 0..IMAGE_SIDE {
            squares += (at(y, x) - mean).powi(2);
            mirrored += (at(y, x) - mean) * (at(y, IMAGE_SIDE - 1 - x) - mean);
            if x > 0 {
                across += (at(y, x) - at(y, x - 1)).abs();
            }
            if y > 0 {
                down += (at(y, x) - at(y - 1, x)).abs();
            }
            if (1..IMAGE_SIDE - 1).contains(&x) && (1..IMAGE_SIDE - 1).contains(&y) {
                both += (4.0 * at(y, x) - at(y - 1, x) - at(y + 1, x) - at(y, x - 1) - at(y, x + 1)).abs();
            }
        }
    }
    // The added units keep an empty image finite.
    let roughness = |differences: f64| ((differences + 1.0) / (sum + 255.0)).ln();
    [
        mean / 255.0,
        (squares / cells).sqrt() / 255.0,
        image.iter().filter(|&&v| v > 32).count() as f64 / cells,
        roughness(across),
        roughness(down),
        roughness(both),
        mirrored / (squares + 1.0),
    ]
}
