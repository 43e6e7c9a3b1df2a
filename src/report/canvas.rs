//! An image in memory, the two ways to paint on it, and its division into cells.

use super::ReportError;

/// A colour: red, green, blue, 0 to 255, sRGB.
pub(super) type Rgb = [u8; 3];

/// Maximum number of pixels of an image (805 MB in memory).
pub(super) const MAX_PIXELS: u64 = 1 << 28;

/// An RGB image, row by row from the top left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `[height, width, 3]`: red, green, blue of every pixel, sRGB.
    pub rgb: Vec<u8>,
}

/// A rectangle of pixels with its top left corner at `left`, `top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

impl Rect {
    /// Returns the rectangle grown by `by` pixels on each side; the result must lie inside the image.
    pub(super) fn grown(self, by: u32) -> Self {
        Self { left: self.left - by, top: self.top - by, width: self.width + 2 * by, height: self.height + 2 * by }
    }
}

/// Cells of the same size, row by row, with white gaps between them and a white margin around them.
pub(super) struct Cells {
    pub columns: usize,
    /// Width and height of a cell in pixels.
    pub size: [u32; 2],
    /// Width of the gaps between columns, and height of those between rows.
    pub gaps: [u32; 2],
    pub margin: u32,
}

impl Cells {
    /// Returns a white image with `n_items` cells, which may be fewer than the columns.
    pub(super) fn white(&self, n_items: usize) -> Result<Picture, ReportError> {
        if n_items == 0 {
            return Err(ReportError::NoImages);
        }
        if self.columns == 0 {
            return Err(ReportError::NoColumns { n_items });
        }
        let length = |n: usize, axis: usize| {
            let gap = u64::from(self.gaps[axis]);
            n as u64 * (u64::from(self.size[axis]) + gap) - gap + 2 * u64::from(self.margin)
        };
        let (width, height) = (length(self.columns.min(n_items), 0), length(n_items.div_ceil(self.columns), 1));
        if width.saturating_mul(height) > MAX_PIXELS {
            return Err(ReportError::TooLarge { n_items, width, height, limit: MAX_PIXELS });
        }
        // The limit guarantees that both sides fit in 32 bits.
        Ok(Picture::white(width as u32, height as u32))
    }

    /// Returns the position of cell `i`.
    pub(super) fn cell(&self, i: usize) -> Rect {
        let at = |n: usize, axis: usize| self.margin + n as u32 * (self.size[axis] + self.gaps[axis]);
        let [width, height] = self.size;
        Rect { left: at(i % self.columns, 0), top: at(i / self.columns, 1), width, height }
    }
}

impl Picture {
    /// Returns a white image; the caller has checked `width * height` against [`MAX_PIXELS`].
    pub(super) fn white(width: u32, height: u32) -> Self {
        Self { width, height, rgb: vec![255; width as usize * height as usize * 3] }
    }

    /// Fills a rectangle with one colour, clipped to the image.
    pub(super) fn fill(&mut self, rect: Rect, colour: Rgb) {
        let right = rect.left.saturating_add(rect.width).min(self.width);
        let bottom = rect.top.saturating_add(rect.height).min(self.height);
        for y in rect.top..bottom {
            let (first, end) = (self.offset(rect.left.min(right), y), self.offset(right, y));
            self.rgb[first..end].as_chunks_mut().0.fill(colour);
        }
    }

    /// Blends a colour into one pixel with the given coverage (0 to 1); pixels outside the image are ignored.
    pub(super) fn blend(&mut self, x: i32, y: i32, colour: Rgb, coverage: f32) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let first = self.offset(x, y);
        let coverage = coverage.clamp(0.0, 1.0);
        for (old, new) in self.rgb[first..first + 3].iter_mut().zip(colour) {
            *old = (f32::from(*old) * (1.0 - coverage) + f32::from(new) * coverage).round() as u8;
        }
    }

    /// Returns the offset of a pixel in `rgb`.
    fn offset(&self, x: u32, y: u32) -> usize {
        (y as usize * self.width as usize + x as usize) * 3
    }

    /// Encodes the image as a PNG file: 8 bits per channel, sRGB.
    ///
    /// # Errors
    /// `rgb` does not have `3 * width * height` bytes, or the image has no pixels.
    pub fn encode_png(&self) -> Result<Vec<u8>, ReportError> {
        let Self { width, height, .. } = *self;
        if u64::from(width) * u64::from(height) * 3 != self.rgb.len() as u64 {
            return Err(ReportError::PictureLength { width, height, found: self.rgb.len() });
        }
        self.encode().map_err(|source| ReportError::Encode { width, height, source })
    }

    fn encode(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        Ok(file)
    }
}
