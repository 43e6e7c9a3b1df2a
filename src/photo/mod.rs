//! The user's own images: PNG, JPEG, WebP and BMP files, decoded and turned upright ([`Photo`]), and converted to the format of the
//! training images ([`prepare`]). Also filters that can be applied to such an image ([`ImageFilter`]).

#[cfg(feature = "disk")]
mod disk;
mod filter;
mod garment;
#[cfg(feature = "native")]
mod native;

pub use filter::{FilterError, ImageFilter, MAX_FILTER_SIDE, Shown};
pub use garment::{Doubt, Garment, Invert, MAX_DISTANCE, distance, features, prepare};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use thiserror::Error;

/// Largest width and height of an image, pixels.
pub const MAX_SIDE: u32 = 32_768;
/// Largest size of an image's pixels in memory, bytes, as decoded or in RGBA: enough for 128 megapixels.
pub const MAX_BYTES: u64 = 512 << 20;
/// Largest image file that is read, bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// An image file that cannot be used.
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
    /// This path is a folder.
    #[error("{0} is a folder, not an image file")]
    Folder(String),
    /// This file has no bytes.
    #[error("{0} is empty (0 bytes)")]
    Empty(String),
    /// This file is larger than the limit.
    #[error(
        "{name}: the file exceeds {} MiB; make the image smaller, as the network sees only 28 x 28 pixels of it",
        MAX_FILE_BYTES >> 20,
        name = .0
    )]
    TooLarge(String),
    /// The bytes of this file are in none of the supported formats.
    #[error("{0}: not a PNG, JPEG, WebP or BMP image")]
    Format(String),
    /// The image has a well-known format that is not supported.
    #[error("{name}: {format} images cannot be read; {advice}")]
    Unsupported {
        /// The file.
        name: String,
        /// Name of the format.
        format: &'static str,
        /// How to convert it.
        advice: String,
    },
    /// The image is damaged or exceeds the limits.
    #[error("{name}: the image cannot be decoded: {reason}")]
    Decode {
        /// The file.
        name: String,
        /// The cause.
        reason: String,
    },
    /// Memory ran out.
    #[error("{name}: out of memory: the image needs {bytes} bytes; free memory or make the image smaller")]
    OutOfMemory {
        /// The file.
        name: String,
        /// Bytes that were needed.
        bytes: u64,
    },
}

impl PhotoError {
    /// Returns a [`PhotoError::Decode`], without control characters: a decoder's message may quote the file.
    fn decode(name: &str, reason: impl Display) -> Self {
        let reason = reason.to_string().replace(char::is_control, " ");
        PhotoError::Decode { name: name.to_string(), reason }
    }
}

/// An RGBA image, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    /// Width in pixels; at least 1.
    pub width: usize,
    /// Height in pixels; at least 1.
    pub height: usize,
    /// `[height, width, 4]`: red, green, blue, opacity, 0 to 255, sRGB.
    pub rgba: Vec<u8>,
}

impl Photo {
    /// Reads a PNG, JPEG, WebP or BMP image from a reader such as standard input. The format is detected from the content; `name` stands for
    /// the file in errors.
    ///
    /// # Errors
    /// The content cannot be read, is not such an image, or exceeds [`MAX_FILE_BYTES`], [`MAX_SIDE`] or [`MAX_BYTES`].
    pub fn read(reader: impl Read, name: &str) -> Result<Self, PhotoError> {
        let mut bytes = Vec::new();
        let result = reader.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        result.map_err(|source| match source.kind() {
            std::io::ErrorKind::OutOfMemory => {
                PhotoError::OutOfMemory { name: name.to_string(), bytes: bytes.len() as u64 + 1 }
            }
            _ => PhotoError::Read { name: name.to_string(), source },
        })?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(PhotoError::TooLarge(name.to_string()));
        }
        Self::decode(&bytes, name)
    }

    /// Decodes the bytes of a file and turns the image according to its EXIF orientation; `name` stands for the file in errors.
    ///
    /// # Errors
    /// The bytes are not such an image, or it exceeds [`MAX_SIDE`] or [`MAX_BYTES`].
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, PhotoError> {
        if bytes.is_empty() {
            return Err(PhotoError::Empty(name.to_string()));
        }
        if let Some((format, advice)) = unsupported_format(bytes) {
            return Err(PhotoError::Unsupported { name: name.to_string(), format, advice });
        }
        if !webp_chunks_fit(bytes) {
            let reason = "a chunk would extend past the end of the file; the file is truncated or malformed";
            return Err(PhotoError::decode(name, reason));
        }
        if !png_palette_fits(bytes) {
            return Err(PhotoError::decode(name, "its palette does not have at most 256 colours of three bytes each"));
        }
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|source| PhotoError::Read { name: name.to_string(), source })?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_BYTES);
        reader.limits(limits);
        match reader.format() {
            Some(ImageFormat::Jpeg) if is_cut_off(bytes) => {
                let reason = format!("the file ends after {} bytes, before the image does", bytes.len());
                Err(PhotoError::decode(name, reason))
            }
            Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Bmp) => {
                catching(name, || Self::from_reader(reader, name))
            }
            _ => Err(PhotoError::Format(name.to_string())),
        }
    }

    fn from_reader(reader: ImageReader<Cursor<&[u8]>>, name: &str) -> Result<Self, PhotoError> {
        let fail = |error| PhotoError::decode(name, error);
        let mut decoder = reader.into_decoder().map_err(fail)?;
        let (width, height) = decoder.dimensions();
        let rgba_bytes = 4 * u64::from(width) * u64::from(height);
        if rgba_bytes == 0 {
            return Err(PhotoError::decode(name, format!("it has {width} x {height} pixels")));
        }
        // The crate applies the limits only to a decoder's working memory: a header of 60 bytes can request 8 GiB of pixels.
        let bytes = decoder.total_bytes().max(rgba_bytes);
        if bytes > MAX_BYTES {
            let reason =
                format!("{width} x {height} pixels would take {bytes} bytes, and the limit is {MAX_BYTES} bytes");
            return Err(PhotoError::decode(name, reason));
        }
        // A damaged EXIF block is no reason to refuse the image: it is then used as stored.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let is_rgba = decoder.color_type() == ColorType::Rgba8;
        check_memory(name, bytes)?;
        let decoded = DynamicImage::from_decoder(decoder).map_err(fail)?;
        if !is_rgba {
            check_memory(name, rgba_bytes)?;
        }
        let mut image = DynamicImage::from(decoded.into_rgba8());
        if orientation != Orientation::NoTransforms {
            check_memory(name, rgba_bytes)?;
            image.apply_orientation(orientation);
        }
        Ok(Photo { width: image.width() as usize, height: image.height() as usize, rgba: image.into_bytes() })
    }
}

/// Checks whether memory for so many bytes is available; the `image` crate would end the program if it were not.
fn check_memory(name: &str, bytes: u64) -> Result<(), PhotoError> {
    let mut probe = Vec::<u8>::new();
    let reserved = probe.try_reserve_exact(bytes as usize);
    // The compiler may remove an allocation that nothing uses.
    std::hint::black_box(&mut probe);
    reserved.map_err(|_| PhotoError::OutOfMemory { name: name.to_string(), bytes })
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread is decoding an image. A panic of the decoder becomes a [`PhotoError::Decode`], so a panic hook need not
/// report it.
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Runs a decoder and converts a panic to a [`PhotoError::Decode`]. Public only for tests.
///
/// # Errors
/// The decoder fails or panics.
#[doc(hidden)]
pub fn catching<T>(name: &str, decode: impl FnOnce() -> Result<T, PhotoError>) -> Result<T, PhotoError> {
    let before = DECODING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(before);
    result.unwrap_or_else(|panic: Box<dyn Any + Send>| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(PhotoError::decode(name, format!("internal error of the decoder: {message}")))
    })
}

/// Returns the name of a well-known unsupported image format and how to convert from it; `None` for all other content.
fn unsupported_format(bytes: &[u8]) -> Option<(&'static str, String)> {
    let to_png = |command: &str| format!("convert it to PNG, for example with `{command}`");
    let to_jpeg = || {
        "convert it to JPEG, for example with `heif-convert IN.heic OUT.jpg`, or set the iPhone camera to Most Compatible"
            .to_string()
    };
    match bytes {
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(("GIF", to_png("magick IN.gif OUT.png"))),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(("TIFF", to_png("magick IN.tif OUT.png"))),
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => {
            Some(("JPEG XL", to_png("djxl IN.jxl OUT.png")))
        }
        [a, b, c, d, b'f', b't', b'y', b'p', rest @ ..] => {
            // The major brand, a version, and the compatible brands.
            let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let brands = rest[..rest.len().min(size.saturating_sub(8))].as_chunks::<4>().0;
            let has = |names: &[&[u8; 4]]| brands.iter().any(|brand| names.contains(&brand));
            if has(&[b"avif", b"avis"]) {
                Some(("AVIF", to_png("avifdec IN.avif OUT.png")))
            } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"]) {
                Some(("HEIC", to_jpeg()))
            } else if has(&[b"mif1", b"mif2", b"msf1"]) {
                Some(("HEIF", to_jpeg()))
            } else {
                None
            }
        }
        _ => None,
    }
}

/// Returns whether a JPEG ends before its end-of-image marker. The decoder silently fills missing parts with grey, so an incomplete
/// download would be classified as if it were complete.
///
/// Walks from segment to segment, because previews in the EXIF block and videos after the image contain markers as well.
fn is_cut_off(jpeg: &[u8]) -> bool {
    const STUFFED: u8 = 0x00;
    const FIRST_RESTART: u8 = 0xd0;
    const LAST_RESTART: u8 = 0xd7;
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    // After the start marker of two bytes.
    let mut at = 2;
    let mut in_scan = false;
    loop {
        match jpeg.get(at..at + 2) {
            None => return true,
            Some([0xff, END]) => return false,
            // Fill bytes may precede a marker.
            Some([0xff, 0xff]) => at += 1,
            Some([0xff, STUFFED | FIRST_RESTART..=LAST_RESTART]) if in_scan => at += 2,
            Some([0xff, marker]) => {
                in_scan = *marker == SCAN;
                let Some(length) = jpeg.get(at + 2..at + 4) else { return true };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
            Some(_) if in_scan => at += 1,
            // No marker where one is required: damaged, which the decoder reports better.
            Some(_) => return false,
        }
    }
}

/// Returns whether every chunk of a WebP file ends within the file; other files pass. The decoder allocates memory for a metadata
/// chunk based on its header alone: 180 bytes can request 4 GiB.
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
        // Chunks start at even offsets.
        rest = content.get(size.next_multiple_of(2)..).unwrap_or_default();
    }
    true
}

/// Returns whether the palettes of a PNG file have three bytes for each of at most 256 colours; other files pass. The `png` crate, up
/// to 0.18.1, accepts other lengths and panics when it looks colours up (its issue 694).
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
    /// Returns the luma `[rows, columns]`, 0 to 255, with the weights of ITU-R BT.601 and on white where the image is transparent, and
    /// its size `[rows, columns]`. Reduced by area averaging so that no side exceeds `max_side`.
    pub fn grey(&self, max_side: usize) -> (Vec<f32>, [usize; 2]) {
        let longer = self.width.max(self.height).max(max_side);
        let side = |length: usize| (length * max_side / longer).max(1);
        let (rows, columns) = (side(self.height), side(self.width));
        let mut grey = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            let ys = covered(row, rows, self.height);
            for column in 0..columns {
                let xs = covered(column, columns, self.width);
                let mut sum = 0.0f64;
                for y in ys.clone() {
                    let pixels = &self.rgba[4 * (y * self.width + xs.start)..4 * (y * self.width + xs.end)];
                    for pixel in pixels.as_chunks::<4>().0 {
                        let [r, g, b, a] = pixel.map(f64::from);
                        sum += (0.299 * r + 0.587 * g + 0.114 * b) * a / 255.0 + 255.0 - a;
                    }
                }
                grey.push((sum / (ys.len() * xs.len()) as f64) as f32);
            }
        }
        (grey, [rows, columns])
    }
}

/// Returns the pixels out of `length` that pixel `i` of an image reduced to `n` covers; at least one.
pub(crate) fn covered(i: usize, n: usize, length: usize) -> Range<usize> {
    let first = i * length / n;
    first..((i + 1) * length / n).max(first + 1)
}
