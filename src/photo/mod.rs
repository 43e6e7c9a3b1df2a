//! The user's own images: PNG, JPEG, WebP and BMP files, decoded and turned upright ([`Photo`]), and converted to the format of the
//! training images ([`prepare`]). Also filters that can be applied to such an image ([`Filter`]).

mod filter;
mod garment;

pub use filter::{Filter, FilterError, MAX_FILTER_SIDE, Shown};
pub use garment::{Doubt, Garment, Invert, MAX_DISTANCE, distance, features, prepare};

use crate::files::ShownPath;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbaImage, imageops};
use std::any::Any;
use std::cell::Cell;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
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
    /// The path is a folder.
    #[error("{name} is a folder, not an image file")]
    Folder {
        /// The folder.
        name: String,
    },
    /// The file has no bytes.
    #[error("{name} is empty (0 bytes)")]
    Empty {
        /// The file.
        name: String,
    },
    /// The file is larger than the limit.
    #[error("{name}: the file exceeds {} MiB; make the image smaller, as the network sees only 28 x 28 pixels of it", MAX_FILE_BYTES >> 20)]
    TooLarge {
        /// The file.
        name: String,
    },
    /// The bytes are in none of the supported formats.
    #[error("{name}: not a PNG, JPEG, WebP or BMP image")]
    Format {
        /// The file.
        name: String,
    },
    /// The image has a well-known format that is not supported.
    #[error("{name}: {format} images cannot be read; {advice}")]
    Unsupported {
        /// The file.
        name: String,
        /// Name of the format.
        format: &'static str,
        /// How to convert it.
        advice: &'static str,
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
    /// Reads a PNG, JPEG, WebP or BMP file. The format is detected from the content, not from the name. A named pipe is read to its end.
    ///
    /// # Errors
    /// The file cannot be read, is not such an image, or exceeds [`MAX_FILE_BYTES`], [`MAX_SIDE`] or [`MAX_BYTES`].
    pub fn open(path: &Path) -> Result<Self, PhotoError> {
        let name = path.shown();
        if path.is_dir() {
            return Err(PhotoError::Folder { name });
        }
        match std::fs::File::open(path) {
            Ok(file) => Self::read(file, &name),
            Err(source) => Err(PhotoError::Read { name, source }),
        }
    }

    /// Like [`Photo::open`], from a reader such as standard input; `name` stands for the file in errors.
    ///
    /// # Errors
    /// As for [`Photo::open`].
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
            return Err(PhotoError::TooLarge { name: name.to_string() });
        }
        Self::decode(&bytes, name)
    }

    /// Decodes the bytes of a file and turns the image according to its EXIF orientation; `name` stands for the file in errors.
    ///
    /// # Errors
    /// The bytes are not such an image, or it exceeds [`MAX_SIDE`] or [`MAX_BYTES`].
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, PhotoError> {
        let fail = |reason: String| PhotoError::Decode { name: name.to_string(), reason: printable(&reason) };
        if bytes.is_empty() {
            return Err(PhotoError::Empty { name: name.to_string() });
        }
        if let Some((format, advice)) = unsupported_format(bytes) {
            return Err(PhotoError::Unsupported { name: name.to_string(), format, advice });
        }
        if !webp_chunks_fit(bytes) {
            return Err(fail(
                "a chunk would extend past the end of the file; the file is truncated or malformed".to_string(),
            ));
        }
        if !png_palette_fits(bytes) {
            return Err(fail("its palette does not have at most 256 colours of three bytes each".to_string()));
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
                Err(fail(format!("the file ends after {} bytes, before the image does", bytes.len())))
            }
            Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Bmp) => {
                catching(name, || Self::from_reader(reader).map_err(|error| error.of(name)))
            }
            _ => Err(PhotoError::Format { name: name.to_string() }),
        }
    }

    fn from_reader(reader: ImageReader<Cursor<&[u8]>>) -> Result<Self, Failure> {
        let mut decoder = reader.into_decoder()?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(Failure::Decode(format!("it has {width} x {height} pixels")));
        }
        // The crate applies the limits only to a decoder's working memory: a header of 60 bytes can request 8 GiB of pixels.
        let pixels = u64::from(width) * u64::from(height);
        let bytes = decoder.total_bytes().max(4 * pixels);
        if bytes > MAX_BYTES {
            let reason =
                format!("{width} x {height} pixels would take {bytes} bytes, and the limit is {MAX_BYTES} bytes");
            return Err(Failure::Decode(reason));
        }
        // A damaged EXIF block is no reason to refuse the image: it is then used as stored.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let color = decoder.color_type();
        let mut rgba = zeroed(bytes)?;
        let decoded = decoder.total_bytes() as usize;
        decoder.read_image(&mut rgba[..decoded])?;
        to_rgba(&mut rgba, pixels as usize, color)?;
        let upright = upright(rgba, [width, height], orientation)?;
        let (width, height) = (upright.width() as usize, upright.height() as usize);
        Ok(Photo { width, height, rgba: upright.into_raw() })
    }
}

/// Why an image could not be decoded, without the name of its file.
enum Failure {
    Decode(String),
    OutOfMemory(u64),
}

impl Failure {
    fn of(self, name: &str) -> PhotoError {
        let name = name.to_string();
        match self {
            Failure::Decode(reason) => PhotoError::Decode { name, reason: printable(&reason) },
            Failure::OutOfMemory(bytes) => PhotoError::OutOfMemory { name, bytes },
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Failure::Decode(error.to_string())
    }
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
        Err(Failure::Decode(format!("internal error of the decoder: {message}")).of(name))
    })
}

/// Removes control characters from a decoder's message, which may quote the file.
fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn zeroed(bytes: u64) -> Result<Vec<u8>, Failure> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes as usize).map_err(|_| Failure::OutOfMemory(bytes))?;
    buffer.resize(bytes as usize, 0);
    Ok(buffer)
}

/// Converts the decoded pixels at the start of `buffer` to RGBA in place, so that a large photo is in memory only once.
fn to_rgba(buffer: &mut Vec<u8>, pixels: usize, color: ColorType) -> Result<(), Failure> {
    // From 16 to 8 bits, rounded; decoders store 16 bits in native byte order.
    let narrow = |high_and_low: [u8; 2]| ((u32::from(u16::from_ne_bytes(high_and_low)) + 128) / 257) as u8;
    match color {
        ColorType::L8 => convert(buffer, pixels, |[v]| [v, v, v, 255]),
        ColorType::La8 => convert(buffer, pixels, |[v, a]| [v, v, v, a]),
        ColorType::Rgb8 => convert(buffer, pixels, |[r, g, b]| [r, g, b, 255]),
        ColorType::Rgba8 => {}
        ColorType::L16 => convert(buffer, pixels, |v: [u8; 2]| {
            let v = narrow(v);
            [v, v, v, 255]
        }),
        ColorType::La16 => convert(buffer, pixels, |[v, w, a, b]| {
            let v = narrow([v, w]);
            [v, v, v, narrow([a, b])]
        }),
        ColorType::Rgb16 => {
            convert(buffer, pixels, |[r, s, g, h, b, c]| [narrow([r, s]), narrow([g, h]), narrow([b, c]), 255]);
        }
        ColorType::Rgba16 => convert(buffer, pixels, |[r, s, g, h, b, c, a, z]| {
            [narrow([r, s]), narrow([g, h]), narrow([b, c]), narrow([a, z])]
        }),
        other => return Err(Failure::Decode(format!("its pixel format {other:?} is not supported"))),
    }
    buffer.truncate(4 * pixels);
    buffer.shrink_to_fit();
    Ok(())
}

fn convert<const BYTES: usize>(buffer: &mut [u8], pixels: usize, to_rgba: impl Fn([u8; BYTES]) -> [u8; 4]) {
    let mut one = |i: usize| {
        let mut pixel = [0; BYTES];
        pixel.copy_from_slice(&buffer[BYTES * i..BYTES * (i + 1)]);
        buffer[4 * i..4 * (i + 1)].copy_from_slice(&to_rgba(pixel));
    };
    // In the direction in which no pixel is overwritten before it is read.
    if BYTES <= 4 { (0..pixels).rev().for_each(&mut one) } else { (0..pixels).for_each(&mut one) }
}

/// Turns an image upright that was stored with this EXIF orientation.
fn upright(rgba: Vec<u8>, [width, height]: [u32; 2], orientation: Orientation) -> Result<RgbaImage, Failure> {
    let image = |width: u32, height: u32, pixels: Vec<u8>| {
        let reason = || Failure::Decode(format!("its pixels are not {width} x {height}"));
        RgbaImage::from_raw(width, height, pixels).ok_or_else(reason)
    };
    let bytes = rgba.len() as u64;
    let mut stored = image(width, height, rgba)?;
    let turned = || image(height, width, zeroed(bytes)?);
    match orientation {
        Orientation::NoTransforms => {}
        Orientation::Rotate180 => imageops::rotate180_in_place(&mut stored),
        Orientation::FlipHorizontal => imageops::flip_horizontal_in_place(&mut stored),
        Orientation::FlipVertical => imageops::flip_vertical_in_place(&mut stored),
        Orientation::Rotate90 | Orientation::Rotate90FlipH => {
            let mut turned = turned()?;
            imageops::rotate90_in(&stored, &mut turned)?;
            stored = turned;
        }
        Orientation::Rotate270 | Orientation::Rotate270FlipH => {
            let mut turned = turned()?;
            imageops::rotate270_in(&stored, &mut turned)?;
            stored = turned;
        }
    }
    if matches!(orientation, Orientation::Rotate90FlipH | Orientation::Rotate270FlipH) {
        imageops::flip_horizontal_in_place(&mut stored);
    }
    Ok(stored)
}

/// Returns the name of a well-known unsupported image format and how to convert from it; `None` for all other content.
fn unsupported_format(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const HEIC_ADVICE: &str = "convert it to JPEG, for example with `heif-convert IN.heic OUT.jpg`, or set the iPhone camera to \
                               Most Compatible";
    match bytes {
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => {
            Some(("GIF", "convert it to PNG, for example with `magick IN.gif OUT.png`"))
        }
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => {
            Some(("TIFF", "convert it to PNG, for example with `magick IN.tif OUT.png`"))
        }
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => {
            Some(("JPEG XL", "convert it to PNG, for example with `djxl IN.jxl OUT.png`"))
        }
        [a, b, c, d, b'f', b't', b'y', b'p', rest @ ..] => {
            // The major brand, a version, and the compatible brands.
            let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let brands = rest[..rest.len().min(size.saturating_sub(8))].as_chunks::<4>().0;
            let has = |names: &[&[u8; 4]]| brands.iter().any(|brand| names.contains(&brand));
            if has(&[b"avif", b"avis"]) {
                Some(("AVIF", "convert it to PNG, for example with `avifdec IN.avif OUT.png`"))
            } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"]) {
                Some(("HEIC", HEIC_ADVICE))
            } else if has(&[b"mif1", b"mif2", b"msf1"]) {
                Some(("HEIF", HEIC_ADVICE))
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
