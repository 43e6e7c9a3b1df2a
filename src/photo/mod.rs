//! Pictures of the user's own: PNG, JPEG, WebP and BMP files, decoded and turned upright ([`Photo`]), and made into what the
//! network was trained on ([`prepare`]). And one filter slid over one of them ([`Filter`]).

mod filter;
mod garment;

pub use filter::{Filter, FilterError, MAX_FILTER_SIDE, Shown};
pub use garment::{Doubt, Garment, Invert, MAX_DISTANCE, distance, features, prepare};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;
use thiserror::Error;

/// Most pixels of one picture from left to right and from top to bottom.
pub const MAX_SIDE: u32 = 32_768;
/// Most memory that the pixels of one picture may take, bytes, decoded or in colour: enough for 128 megapixels.
pub const MAX_BYTES: u64 = 512 << 20;
/// Largest picture file that is read, bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// A picture file that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PhotoError {
    /// The file cannot be read.
    #[error("{name}: {source}")]
    Read {
        /// The file.
        name: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is larger than what is read.
    #[error("{name}: the file has more than {} MiB; make it smaller, the network sees 28 x 28 pixels of it", MAX_FILE_BYTES >> 20)]
    TooLarge {
        /// The file.
        name: String,
    },
    /// The bytes are none of the formats.
    #[error("{name}: not a PNG, JPEG, WebP or BMP picture")]
    Format {
        /// The file.
        name: String,
    },
    /// The picture is damaged, or larger than the limits.
    #[error("{name}: the picture cannot be decoded: {reason}")]
    Decode {
        /// The file.
        name: String,
        /// The cause.
        reason: String,
    },
}

/// A picture in colour, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    /// Pixels from left to right; at least 1.
    pub width: usize,
    /// Pixels from top to bottom; at least 1.
    pub height: usize,
    /// `[height, width, 4]`: red, green, blue, opacity, 0 to 255, sRGB.
    pub rgba: Vec<u8>,
}

impl Photo {
    /// Reads a file: PNG, JPEG, WebP or BMP, told apart by their first bytes, not by the name.
    ///
    /// # Errors
    /// It cannot be read, is no such picture, or exceeds [`MAX_FILE_BYTES`], [`MAX_SIDE`] or [`MAX_BYTES`].
    pub fn open(path: &Path) -> Result<Self, PhotoError> {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|source| PhotoError::Read { name: name.clone(), source })?;
        Self::read(file, &name)
    }

    /// As [`Photo::open`], from a reader such as standard input; errors call it `name`.
    ///
    /// # Errors
    /// As [`Photo::open`].
    pub fn read(reader: impl std::io::Read, name: &str) -> Result<Self, PhotoError> {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(reader, MAX_FILE_BYTES + 1), &mut bytes)
            .map_err(|source| PhotoError::Read { name: name.to_string(), source })?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(PhotoError::TooLarge { name: name.to_string() });
        }
        Self::decode(&bytes, name)
    }

    /// Decodes the bytes of a file and turns the picture as its EXIF orientation says; errors call it `name`.
    ///
    /// # Errors
    /// The bytes are no such picture, or it exceeds [`MAX_SIDE`] or [`MAX_BYTES`].
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, PhotoError> {
        let fail = |error: ImageError| match error {
            ImageError::Unsupported(_) => PhotoError::Format { name: name.to_string() },
            error => PhotoError::Decode { name: name.to_string(), reason: error.to_string() },
        };
        if !webp_chunks_fit(bytes) {
            let reason = "a part of the file would reach past its end: it was cut or made up".to_string();
            return Err(PhotoError::Decode { name: name.to_string(), reason });
        }
        if !png_palette_fits(bytes) {
            let reason = "its palette is not one of at most 256 colours, three bytes each".to_string();
            return Err(PhotoError::Decode { name: name.to_string(), reason });
        }
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|source| PhotoError::Read { name: name.to_string(), source })?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_BYTES);
        reader.limits(limits);
        if reader.format() == Some(ImageFormat::Jpeg) && is_cut_off(bytes) {
            let reason = format!("the file ends after {} bytes, before the picture does", bytes.len());
            return Err(PhotoError::Decode { name: name.to_string(), reason });
        }
        let mut decoder = reader.into_decoder().map_err(fail)?;
        // The crate holds a decoder to the limits only for its own working memory: a header of 60 bytes can ask for 8 GiB of pixels.
        let (width, height) = decoder.dimensions();
        let bytes = decoder.total_bytes().max(4 * u64::from(width) * u64::from(height));
        if bytes > MAX_BYTES {
            let reason =
                format!("{width} x {height} pixels would take {bytes} bytes, and at most {MAX_BYTES} are taken");
            return Err(PhotoError::Decode { name: name.to_string(), reason });
        }
        // A damaged EXIF block is no reason to refuse the picture: it is then taken as it lies.
        let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(fail)?;
        picture.apply_orientation(orientation);
        let rgba = picture.into_rgba8();
        let (width, height) = (rgba.width() as usize, rgba.height() as usize);
        if width == 0 || height == 0 {
            let reason = format!("it has {width} x {height} pixels");
            return Err(PhotoError::Decode { name: name.to_string(), reason });
        }
        Ok(Photo { width, height, rgba: rgba.into_raw() })
    }
}

/// Whether a JPEG ends before its end-of-image marker. The decoder fills what is missing with grey and says nothing; half a download
/// would be predicted as if it were whole.
///
/// Walks from segment to segment, as previews in the EXIF block and videos behind the picture have markers of their own.
fn is_cut_off(jpeg: &[u8]) -> bool {
    const STUFFED: u8 = 0x00;
    const FIRST_RESTART: u8 = 0xd0;
    const LAST_RESTART: u8 = 0xd7;
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    // Behind the two bytes of the start.
    let mut at = 2;
    let mut in_scan = false;
    loop {
        match jpeg.get(at..at + 2) {
            None => return true,
            Some([0xff, END]) => return false,
            // Fill bytes may stand before a marker.
            Some([0xff, 0xff]) => at += 1,
            Some([0xff, STUFFED | FIRST_RESTART..=LAST_RESTART]) if in_scan => at += 2,
            Some([0xff, marker]) => {
                in_scan = *marker == SCAN;
                let Some(length) = jpeg.get(at + 2..at + 4) else { return true };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
            Some(_) if in_scan => at += 1,
            // Not a marker where one must be: damaged, which the decoder says better.
            Some(_) => return false,
        }
    }
}

/// Whether every chunk of a WebP file lies within it; other files pass. The decoder takes memory for a chunk of metadata on the word
/// of its header: 180 bytes can ask for 4 GiB.
fn webp_chunks_fit(bytes: &[u8]) -> bool {
    let Some((riff, mut rest)) = bytes.split_first_chunk::<12>() else { return true };
    if !riff.starts_with(b"RIFF") || !riff.ends_with(b"WEBP") {
        return true;
    }
    while let Some((header, content)) = rest.split_first_chunk::<8>() {
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if size > content.len() {
            return false;
        }
        // Chunks begin at even offsets.
        rest = content.get(size.next_multiple_of(2)..).unwrap_or_default();
    }
    true
}

/// Whether the palettes of a PNG file have three bytes for each of at most 256 colours; other files pass. The `png` crate, up to 0.18.1,
/// takes other lengths and panics where it looks colours up (its issue 694).
fn png_palette_fits(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n") else { return true };
    while let Some((header, content)) = rest.split_first_chunk::<8>() {
        let size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if header.ends_with(b"PLTE") && (!size.is_multiple_of(3) || size > 3 * 256) {
            return false;
        }
        // A checksum of four bytes follows.
        rest = content.get(size.saturating_add(4)..).unwrap_or_default();
    }
    true
}

impl Photo {
    /// Brightness `[rows, columns]`, 0 to 255, with the weights of ITU-R BT.601, over white where it is transparent; reduced by area
    /// averaging so that no side is longer than `max_side`. The sizes are `[rows, columns]`.
    pub fn grey(&self, max_side: usize) -> (Vec<f32>, [usize; 2]) {
        let longer = self.width.max(self.height).max(max_side);
        let side = |length: usize| (length * max_side / longer).max(1);
        let (rows, columns) = (side(self.height), side(self.width));
        let mut grey = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            let ys = row * self.height / rows..((row + 1) * self.height / rows).max(row * self.height / rows + 1);
            for column in 0..columns {
                let first = column * self.width / columns;
                let xs = first..((column + 1) * self.width / columns).max(first + 1);
                let mut sum = 0.0f64;
                for y in ys.clone() {
                    for pixel in
                        self.rgba[4 * (y * self.width + xs.start)..4 * (y * self.width + xs.end)].chunks_exact(4)
                    {
                        let [r, g, b, a] = [0, 1, 2, 3].map(|c| f64::from(pixel[c]));
                        sum += (0.299 * r + 0.587 * g + 0.114 * b) * a / 255.0 + 255.0 - a;
                    }
                }
                grey.push((sum / (ys.len() * xs.len()) as f64) as f32);
            }
        }
        (grey, [rows, columns])
    }
}
