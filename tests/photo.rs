use crate::support::program::{Place, Ran};
use crate::support::{genuine_data, gpu};
use fmnist_gpu::data::{Split, fashion_mnist};
use fmnist_gpu::model::{ModelFile, TRAINED_TINY, weights};
use fmnist_gpu::photo::{
    Doubt, Garment, Invert, MAX_DISTANCE, MAX_FILE_BYTES, Photo, PhotoError, distance, features, prepare,
};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageFormat, RgbaImage};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

/// Outlines in the unit square; y points down.
const T_SHIRT: &[&[[f32; 2]]] = &[&[
    [0.34, 0.06],
    [0.42, 0.11],
    [0.58, 0.11],
    [0.66, 0.06],
    [0.80, 0.10],
    [0.99, 0.36],
    [0.84, 0.46],
    [0.76, 0.36],
    [0.76, 0.97],
    [0.24, 0.97],
    [0.24, 0.36],
    [0.16, 0.46],
    [0.01, 0.36],
    [0.20, 0.10],
]];
const BOOT: &[&[[f32; 2]]] = &[&[
    [0.52, 0.10],
    [0.94, 0.10],
    [0.93, 0.45],
    [0.97, 0.72],
    [0.97, 0.88],
    [0.80, 0.88],
    [0.78, 0.82],
    [0.62, 0.85],
    [0.05, 0.88],
    [0.02, 0.78],
    [0.06, 0.68],
    [0.30, 0.60],
    [0.50, 0.48],
]];
const BAG: &[&[[f32; 2]]] = &[
    &[[0.05, 0.42], [0.95, 0.42], [0.98, 0.95], [0.02, 0.95]],
    &[
        [0.30, 0.42],
        [0.30, 0.20],
        [0.38, 0.10],
        [0.62, 0.10],
        [0.70, 0.20],
        [0.70, 0.42],
        [0.63, 0.42],
        [0.63, 0.22],
        [0.58, 0.16],
        [0.42, 0.16],
        [0.37, 0.22],
        [0.37, 0.42],
    ],
];

fn is_inside(outline: &[[f32; 2]], x: f32, y: f32) -> bool {
    let mut inside = false;
    for (i, a) in outline.iter().enumerate() {
        let b = outline[(i + 1) % outline.len()];
        if (a[1] > y) != (b[1] > y) && x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0] {
            inside = !inside;
        }
    }
    inside
}

/// A photo of a garment: its position and its background.
#[derive(Clone, Copy)]
struct Scene {
    size: [u32; 2],
    /// Left, top and side of the outline's square, relative to the photo's shorter side.
    at: [f32; 3],
    garment: [u8; 3],
    background: [u8; 4],
}

const ON_WHITE: Scene =
    Scene { size: [400, 400], at: [0.15, 0.15, 0.7], garment: [70, 82, 120], background: [250, 250, 248, 255] };

fn draw(outlines: &[&[[f32; 2]]], scene: Scene) -> RgbaImage {
    let [width, height] = scene.size;
    let short = width.min(height) as f32;
    let [left, top, side] = scene.at.map(|share| share * short);
    RgbaImage::from_fn(width, height, |x, y| {
        let (u, v) = ((x as f32 + 0.5 - left) / side, (y as f32 + 0.5 - top) / side);
        if outlines.iter().any(|outline| is_inside(outline, u, v)) {
            // Cloth: lighter towards one side, with a weave.
            let shade = 0.85 + 0.25 * u + if (x / 3 + y / 3) % 2 == 0 { 0.04 } else { 0.0 };
            let [r, g, b] = scene.garment.map(|c| (f32::from(c) * shade).min(255.0) as u8);
            image::Rgba([r, g, b, 255])
        } else {
            image::Rgba(scene.background)
        }
    })
}

fn photo(image: &RgbaImage) -> Photo {
    Photo { width: image.width() as usize, height: image.height() as usize, rgba: image.as_raw().clone() }
}

fn encoded(image: &RgbaImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let rgb = image::DynamicImage::ImageRgba8(image.clone());
    let rgb = if format == ImageFormat::Png || format == ImageFormat::WebP { rgb } else { rgb.to_rgb8().into() };
    rgb.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Returns a JPEG with an EXIF orientation.
fn jpeg_with_orientation(image: &RgbaImage, orientation: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 92);
    encoder.set_exif_metadata(exif).unwrap();
    let rgb = image::DynamicImage::ImageRgba8(image.clone()).to_rgb8();
    encoder.write_image(&rgb, rgb.width(), rgb.height(), ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// Returns the mean absolute difference in grey levels.
fn difference(a: &Garment, b: &Garment) -> f64 {
    let sum: f64 = a.image.iter().zip(&b.image).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).sum();
    sum / a.image.len() as f64
}

#[track_caller]
fn close(a: &Garment, b: &Garment, within: f64) {
    let found = difference(a, b);
    assert!(found <= within, "the images differ by {found:.2} grey levels, {within} are allowed");
}

#[test]
fn position_and_size_in_the_photo_do_not_matter() {
    let upright = prepare(&photo(&draw(T_SHIRT, ON_WHITE)), Invert::Auto);
    assert!(upright.inverted && upright.doubts.is_empty(), "{:?}", upright.doubts);
    for (size, at) in [
        ([400, 400], [0.02, 0.28, 0.7]),
        ([900, 400], [1.3, 0.25, 0.7]),
        ([300, 700], [0.1, 1.2, 0.6]),
        ([4000, 3000], [0.4, 0.2, 0.75]),
        ([160, 160], [0.2, 0.2, 0.6]),
    ] {
        let garment = prepare(&photo(&draw(T_SHIRT, Scene { size, at, ..ON_WHITE })), Invert::Auto);
        close(&garment, &upright, 6.0);
        // The crop matches the drawn position within 2 %.
        let short = size[0].min(size[1]) as f32;
        let expected = [at[0] + 0.01 * at[2], at[1] + 0.06 * at[2], 0.98 * at[2], 0.91 * at[2]].map(|s| s * short);
        for (found, expected) in garment.crop.into_iter().zip(expected) {
            assert!((found as f32 - expected).abs() <= 0.02 * short, "{:?}, expected {expected:?}", garment.crop);
        }
    }
}

/// Like the training images: the longer side is filled, the shorter one centred, and the background black.
#[test]
fn the_garment_fills_the_longer_side_and_is_centred() {
    for (outlines, wide) in [(T_SHIRT, true), (BOOT, true), (BAG, true)] {
        let garment = prepare(&photo(&draw(outlines, ON_WHITE)), Invert::Auto);
        let ink = |i: usize| garment.image[i] > 20;
        let columns: Vec<usize> = (0..28).filter(|x| (0..28).any(|y| ink(y * 28 + x))).collect();
        let rows: Vec<usize> = (0..28).filter(|y| (0..28).any(|x| ink(y * 28 + x))).collect();
        let (across, down) = (columns.len(), rows.len());
        assert!(if wide { across == 28 && down < 28 } else { down == 28 }, "{across} x {down}");
        let (before, after) = (rows[0], 27 - rows[rows.len() - 1]);
        assert!(before == after || before == after + 1, "{before} rows above, {after} below");
        assert!(garment.image.iter().filter(|&&v| v == 0).count() > 100);
    }
}

#[test]
fn white_black_coloured_and_transparent_backgrounds_yield_nearly_the_same_outline() {
    let outline = |garment: &Garment| garment.image.iter().map(|&v| u8::from(v > 40)).collect::<Vec<_>>();
    let on_white = prepare(&photo(&draw(BAG, ON_WHITE)), Invert::Auto);
    for (garment, background, inverted) in [
        ([230, 220, 215], [8, 8, 10, 255], false),
        ([60, 40, 30], [150, 190, 220, 255], true),
        ([240, 240, 200], [30, 60, 40, 255], false),
        ([70, 82, 120], [0, 0, 0, 0], true),
        ([90, 90, 90], [255, 255, 255, 0], true),
    ] {
        let found = prepare(&photo(&draw(BAG, Scene { garment, background, ..ON_WHITE })), Invert::Auto);
        assert_eq!(found.inverted, inverted, "{background:?}");
        let differ = outline(&found).iter().zip(outline(&on_white)).filter(|(a, b)| **a != *b).count();
        assert!(differ <= 20, "{background:?}: {differ} of 784 pixels differ");
        assert!(found.doubts.is_empty(), "{background:?}: {:?}", found.doubts);
    }
    // An explicit choice overrides the automatic one.
    let white = photo(&draw(BAG, ON_WHITE));
    assert!(!prepare(&white, Invert::No).inverted);
    assert_eq!(prepare(&white, Invert::Yes), on_white);
}

/// Light that falls off to one side, noise and dust do not change the outline.
#[test]
fn uneven_light_noise_and_specks_do_not_change_the_outline() {
    let clean = prepare(&photo(&draw(BOOT, ON_WHITE)), Invert::Auto);
    let mut image = draw(BOOT, ON_WHITE);
    let mut state = 1u32;
    let (width, height) = image.dimensions();
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        let light = 1.0 - 0.25 * x as f32 / width as f32 - 0.1 * y as f32 / height as f32;
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 24) as f32 / 16.0 - 8.0;
        let is_speck = (10..13).contains(&x) && (380..383).contains(&y);
        for c in 0..3 {
            pixel[c] = if is_speck { 0 } else { (f32::from(pixel[c]) * light + noise).clamp(0.0, 255.0) as u8 };
        }
    }
    let found = prepare(&photo(&image), Invert::Auto);
    close(&found, &clean, 14.0);
    for (found, expected) in found.crop.into_iter().zip(clean.crop) {
        assert!(found.abs_diff(expected) <= 4, "{:?}", found);
    }
}

#[test]
fn exif_orientations_are_undone() {
    let upright = draw(BOOT, Scene { size: [420, 300], ..ON_WHITE });
    let expected = prepare(&Photo::decode(&jpeg_with_orientation(&upright, 1), "a").unwrap(), Invert::Auto);
    use image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};
    // The stored image for each orientation tag.
    let stored = [
        (1, upright.clone()),
        (2, flip_horizontal(&upright)),
        (3, rotate180(&upright)),
        (4, flip_vertical(&upright)),
        (5, flip_horizontal(&rotate90(&upright))),
        (6, rotate270(&upright)),
        (7, flip_horizontal(&rotate270(&upright))),
        (8, rotate90(&upright)),
    ];
    for (orientation, image) in stored {
        let decoded = Photo::decode(&jpeg_with_orientation(&image, orientation), "a").unwrap();
        assert_eq!((decoded.width, decoded.height), (420, 300), "orientation {orientation}");
        let found = difference(&prepare(&decoded, Invert::Auto), &expected);
        assert!(found <= 2.0, "orientation {orientation}: {found}");
    }
}

#[test]
fn every_format_is_read_and_invalid_files_are_refused() {
    let image = draw(BAG, ON_WHITE);
    let expected = prepare(&photo(&image), Invert::Auto);
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
        let decoded = Photo::decode(&encoded(&image, format), "image").unwrap();
        close(&prepare(&decoded, Invert::Auto), &expected, 3.0);
    }
    assert!(matches!(Photo::decode(b"nonsense", "image"), Err(PhotoError::Format { .. })));
    let empty = Photo::read(std::io::empty(), "standard input").unwrap_err();
    assert!(matches!(empty, PhotoError::Empty { .. }));
    assert_eq!(empty.to_string(), "standard input is empty (0 bytes)");
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
        let bytes = encoded(&image, format);
        let error = Photo::decode(&bytes[..bytes.len() / 2], "half").expect_err(&format!("half of a {format:?}"));
        assert!(error.to_string().starts_with("half: the image cannot be decoded"), "{format:?}: {error}");
    }
    // A JPEG without its end marker is incomplete; one with a preview before the image and other bytes after it is complete.
    let jpeg = jpeg_with_orientation(&image, 1);
    let error = Photo::decode(&jpeg[..jpeg.len() - 2], "half").unwrap_err();
    assert!(error.to_string().contains(&format!("ends after {} bytes", jpeg.len() - 2)), "{error}");
    let preview = encoded(&draw(BOOT, Scene { size: [60, 60], ..ON_WHITE }), ImageFormat::Jpeg);
    let length = u16::try_from(preview.len() + 2).unwrap().to_be_bytes();
    let whole = [&jpeg[..2], &[0xff, 0xef], &length[..], &preview, &jpeg[2..], &[0xff, 0xda, 0, 9]].concat();
    close(&prepare(&Photo::decode(&whole, "whole").unwrap(), Invert::Auto), &expected, 3.0);
    let cut = whole[..whole.len() - 6].to_vec();
    assert!(Photo::decode(&cut, "half").is_err(), "the end of the preview was mistaken for that of the image");
    // A stray byte between two segments is damage; that nothing follows says nothing about the file's end.
    let second = 4 + usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]]));
    assert_eq!(jpeg[second], 0xff, "the second segment");
    let damaged = [&jpeg[..second], &[0], &jpeg[second..jpeg.len() - 2]].concat();
    let reason = Photo::decode(&damaged, "damaged").err().map_or(String::new(), |error| error.to_string());
    assert!(!reason.contains("ends after"), "{reason}");
    let png = encoded(&image, ImageFormat::Png);
    // A PNG of a few bytes that announces 100,000 x 100,000 pixels.
    let mut huge = png[..33].to_vec();
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    assert!(Photo::decode(&huge, "huge.png").is_err());
    // A bitmap without columns, and one without rows.
    for at in [18, 22] {
        let mut nothing = encoded(&image, ImageFormat::Bmp);
        nothing[at..at + 4].fill(0);
        let error = Photo::decode(&nothing, "nothing.bmp").unwrap_err().to_string();
        assert!(error.starts_with("nothing.bmp: the image cannot be decoded"), "{error}");
    }
    let endless = Photo::read(std::io::repeat(7), "endless").unwrap_err().to_string();
    assert!(endless.contains(&format!("{} MiB", MAX_FILE_BYTES >> 20)), "{endless}");
    // 16 bits, grey, and grey with opacity are all converted to 8-bit RGBA.
    let deep = image::DynamicImage::ImageRgba8(image.clone());
    for dynamic in [deep.to_rgb16().into(), deep.to_luma8().into(), deep.to_luma_alpha16().into()] {
        let dynamic: image::DynamicImage = dynamic;
        let mut bytes = Cursor::new(Vec::new());
        dynamic.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let decoded = Photo::decode(&bytes.into_inner(), "image").unwrap();
        close(&prepare(&decoded, Invert::Auto), &expected, 25.0);
    }
}

/// Every pixel format of the decoders is converted exactly as by the `image` crate.
#[test]
fn every_pixel_format_is_converted_to_the_same_colours() {
    use image::DynamicImage;
    let noise = |x: u32, y: u32, c: u32| ((x * 7919 + y * 104_729 + c * 1_299_709) % 65_536) as u16;
    let deep = image::ImageBuffer::from_fn(300, 200, |x, y| image::Rgba([0, 1, 2, 3].map(|c| noise(x, y, c))));
    let deep = DynamicImage::ImageRgba16(deep);
    let formats: [DynamicImage; 8] = [
        deep.to_luma8().into(),
        deep.to_luma_alpha8().into(),
        deep.to_rgb8().into(),
        deep.to_rgba8().into(),
        deep.to_luma16().into(),
        deep.to_luma_alpha16().into(),
        deep.to_rgb16().into(),
        deep.clone(),
    ];
    for format in formats {
        let mut bytes = Cursor::new(Vec::new());
        format.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let decoded = Photo::decode(&bytes.into_inner(), "image").unwrap();
        assert_eq!((decoded.width, decoded.height), (300, 200));
        assert!(decoded.rgba == format.to_rgba8().into_raw(), "{:?}", format.color());
    }
}

/// Returns the start of an ISO base media file with these brands.
fn with_brands(brands: &[[u8; 4]]) -> Vec<u8> {
    let size = 12 + 4 * brands.len() as u32;
    [&size.to_be_bytes()[..], b"ftyp", &brands[0], &[0; 4], brands[1..].as_flattened(), &[0; 64]].concat()
}

/// Unsupported formats of phones and browsers are named, with a way to convert them.
#[test]
fn unsupported_formats_are_named() {
    for (bytes, format, advice) in [
        (with_brands(&[*b"heic", *b"mif1", *b"heic"]), "HEIC", "Most Compatible"),
        (with_brands(&[*b"mif1", *b"miaf", *b"heix"]), "HEIC", "heif-convert"),
        (with_brands(&[*b"hevc", *b"msf1"]), "HEIC", "heif-convert"),
        (with_brands(&[*b"mif1", *b"miaf"]), "HEIF", "heif-convert"),
        (with_brands(&[*b"msf1"]), "HEIF", "heif-convert"),
        (with_brands(&[*b"avif", *b"mif1", *b"miaf"]), "AVIF", "avifdec"),
        (b"GIF89a".to_vec(), "GIF", "IN.gif OUT.png"),
        (b"II*\0\x08\0\0\0".to_vec(), "TIFF", "IN.tif OUT.png"),
        (b"MM\0*\0\0\0\x08".to_vec(), "TIFF", "IN.tif OUT.png"),
    ] {
        let error = Photo::decode(&bytes, "photo").unwrap_err();
        assert!(matches!(error, PhotoError::Unsupported { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.starts_with(&format!("photo: {format} images cannot be read; convert it to")), "{error}");
        assert!(error.contains(advice), "{error}");
    }
    // A video, a file that ends inside its brands, and a sound that is cut off.
    let sound = b"RIFF\xff\xff\0\0WAVEfmt \xff\xff\0\0".to_vec();
    for bytes in [with_brands(&[*b"isom", *b"mp42"]), with_brands(&[*b"heic"])[..10].to_vec(), sound] {
        assert!(matches!(Photo::decode(&bytes, "photo"), Err(PhotoError::Format { .. })));
    }
}

#[test]
fn a_panic_of_a_decoder_becomes_an_error() {
    use fmnist_gpu::photo::{catching, is_decoding};
    assert!(!is_decoding());
    let error = catching::<()>("a.png", || {
        assert!(is_decoding());
        panic!("index {}\u{1b}[2J", 7)
    });
    let error = error.unwrap_err();
    assert!(matches!(error, PhotoError::Decode { .. }));
    let expected = "a.png: the image cannot be decoded: internal error of the decoder: index 7 [2J";
    assert_eq!(error.to_string(), expected);
    assert!(!is_decoding());
    assert!(catching("a.png", || Ok(is_decoding())).unwrap());
    assert!(!std::thread::spawn(is_decoding).join().unwrap());
}

/// 144 MB of pixels with 64 MB of memory: an error, neither a panic nor an abort.
#[cfg(target_os = "linux")]
#[test]
fn an_image_that_exceeds_memory_is_refused() {
    use crate::data::{in_a_separate_process, is_child, limit_memory_to};
    if !is_child() {
        in_a_separate_process("photo::an_image_that_exceeds_memory_is_refused", &[]);
        return;
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 6000, 6000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![0; 750 * 6000]).unwrap();
    writer.finish().unwrap();
    limit_memory_to(64 << 20);
    let error = Photo::decode(&bytes, "large.png").unwrap_err();
    assert!(matches!(error, PhotoError::OutOfMemory { bytes: 144_000_000, .. }), "{error:?}");
    assert!(error.to_string().contains("out of memory: the image needs 144000000 bytes"), "{error}");
}

#[test]
fn folders_are_refused_and_named_pipes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let error = Photo::open(folder.path()).unwrap_err();
    assert!(matches!(error, PhotoError::Folder { .. }), "{error:?}");
    assert!(error.to_string().ends_with("is a folder, not an image file"), "{error}");
    if cfg!(unix) {
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let image = draw(BAG, ON_WHITE);
        let bytes = encoded(&image, ImageFormat::Png);
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, bytes).unwrap()
        });
        assert_eq!(Photo::open(&pipe).unwrap().rgba, image.into_raw());
        writer.join().unwrap();
    }
}

/// Uniform images, single pixels and single lines, in every polarity: a result that is flagged as doubtful, and no panic.
#[test]
fn degenerate_images_are_flagged_as_doubtful() {
    for (width, height) in [(1, 1), (1, 500), (500, 1), (2, 3), (28, 28), (5000, 2), (64, 64)] {
        for value in [0, 128, 255] {
            for alpha in [0, 128, 255] {
                let flat = Photo { width, height, rgba: [value, value, value, alpha].repeat(width * height) };
                for invert in [Invert::Auto, Invert::Yes, Invert::No] {
                    let garment = prepare(&flat, invert);
                    assert_eq!(garment.image.len(), 784);
                    assert!(!garment.doubts.is_empty(), "{width} x {height}, {value}, {alpha}, {invert:?}");
                }
            }
        }
    }
}

/// The examples of `docs/photos.md`: what is flagged as doubtful and what is not.
#[test]
fn images_unlike_a_garment_are_flagged_as_doubtful() {
    let mut state = 7u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let made = |value: &mut dyn FnMut(u32, u32) -> u8| {
        photo(&RgbaImage::from_fn(300, 300, |x, y| {
            let v = value(x, y);
            image::Rgba([v, v, v, 255])
        }))
    };
    let blocks: Vec<u8> = (0..900).map(|_| random()).collect();
    let distance_to = |x: u32, y: u32| ((x as f32 - 150.0).powi(2) + (y as f32 - 150.0).powi(2)).sqrt();
    let images = [
        ("noise", made(&mut |x, y| blocks[(y / 10 * 30 + x / 10) as usize])),
        ("a gradient", made(&mut |x, _| (x * 255 / 299) as u8)),
        ("a disc", made(&mut |x, y| if distance_to(x, y) < 100.0 { 60 } else { 250 })),
        ("a bar", made(&mut |x, y| if x.abs_diff(150) < 20 && y.abs_diff(150) < 120 { 30 } else { 250 })),
        ("stripes", made(&mut |x, _| if x / 20 % 2 == 0 { 20 } else { 250 })),
    ];
    for (name, image) in images {
        let garment = prepare(&image, Invert::Auto);
        assert!(!garment.doubts.is_empty(), "{name}: distance {:.2}", distance(&garment.image));
        assert_eq!(garment.doubts.contains(&Doubt::BusyGround), name == "noise", "{name}: {:?}", garment.doubts);
    }
    // One in 500 pixels is the least: smaller things are no garment.
    for (side, is_empty) in [(12, true), (16, false)] {
        let spot = made(&mut |x, y| if x.max(y) < 150 + side && x.min(y) >= 150 { 30 } else { 250 });
        assert_eq!(prepare(&spot, Invert::Auto).doubts == [Doubt::Empty], is_empty, "{side} x {side} pixels");
    }
    for (name, outlines) in [("a T-shirt", T_SHIRT), ("a boot", BOOT), ("a bag", BAG)] {
        let garment = prepare(&photo(&draw(outlines, ON_WHITE)), Invert::Auto);
        assert!(garment.doubts.is_empty(), "{name}: distance {:.2}", distance(&garment.image));
    }
}

/// The constants of the distance are those of the genuine training images, and about 1 % of the test images are flagged.
#[test]
fn the_distance_fits_the_genuine_images() {
    let Some(folder) = genuine_data() else { return };
    let (train, test) = fashion_mnist::load_from_dir(&folder, &fashion_mnist::FILES).unwrap();
    let whitened: Vec<f64> = (0..train.len()).map(|i| distance(train.image(i))).collect();
    // The mean square of a whitened vector with seven components is 7.
    let mean_square = whitened.iter().map(|d| d * d).sum::<f64>() / whitened.len() as f64;
    assert!((mean_square - 7.0).abs() < 0.05, "{mean_square}");
    let beyond =
        |distances: &[f64]| distances.iter().filter(|&&d| d > MAX_DISTANCE).count() as f64 / distances.len() as f64;
    assert!((beyond(&whitened) - 0.01).abs() < 0.001, "{}", beyond(&whitened));
    let of_test: Vec<f64> = (0..test.len()).map(|i| distance(test.image(i))).collect();
    assert!(beyond(&of_test) < 0.015, "{}", beyond(&of_test));
    assert!(features(&[0; 784]).iter().all(|f| f.is_finite()));
    // Loaded as photos they are unchanged, except for a few with a white edge.
    let unchanged = (0..test.len()).filter(|&i| prepare(&grey(&test, i), Invert::Auto).image == test.image(i)).count();
    assert!(unchanged >= 9_990, "{unchanged}");
    assert!((0..test.len()).all(|i| prepare(&grey(&test, i), Invert::No).image == test.image(i)));
}

fn grey(split: &Split, i: usize) -> Photo {
    Photo { width: 28, height: 28, rgba: split.image(i).iter().flat_map(|&v| [v, v, v, 255]).collect() }
}

/// Returns a model trained for a few seconds, shared by the tests of the program.
fn trained() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::new();
        let data = match genuine_data() {
            Some(folder) => format!("--data-dir {}", fs::canonicalize(folder).unwrap().display()),
            None => "--dataset synthetic".to_string(),
        };
        place
            .run(&format!("train {data} --train-limit 6000 --epochs 3 --device cpu --out run --quiet --no-report"))
            .exits(0);
        place
    })
}

#[test]
fn drawn_garments_are_recognised_on_any_background_in_any_format_and_orientation() {
    gpu();
    let place = trained();
    let folder = place.path("garments");
    fs::create_dir_all(&folder).unwrap();
    let mut expected = Vec::new();
    for (name, class, outlines) in
        [("shirt", "T-shirt/top", T_SHIRT), ("boot", "Ankle boot", BOOT), ("bag", "Bag", BAG)]
    {
        let on_black = Scene { garment: [200, 190, 180], background: [5, 5, 8, 255], ..ON_WHITE };
        let aside = Scene { size: [900, 500], at: [1.05, 0.28, 0.68], ..ON_WHITE };
        let large = Scene { size: [4000, 3000], at: [0.4, 0.15, 0.7], ..ON_WHITE };
        let clear = Scene { background: [0, 0, 0, 0], ..ON_WHITE };
        let turned = image::imageops::rotate270(&draw(outlines, aside));
        for (file, bytes) in [
            ("white.png", encoded(&draw(outlines, ON_WHITE), ImageFormat::Png)),
            ("black.webp", encoded(&draw(outlines, on_black), ImageFormat::WebP)),
            ("aside.bmp", encoded(&draw(outlines, aside), ImageFormat::Bmp)),
            ("large.jpg", encoded(&draw(outlines, large), ImageFormat::Jpeg)),
            ("clear.png", encoded(&draw(outlines, clear), ImageFormat::Png)),
            ("turned.jpeg", jpeg_with_orientation(&turned, 6)),
        ] {
            let file = format!("{name}-{file}");
            fs::write(folder.join(&file), bytes).unwrap();
            expected.push((format!("garments/{file}"), class));
        }
    }
    expected.sort();
    let ran = place.run("predict run garments --json --grid grid.png --show-input input.png").exits(0);
    let list = ran.json();
    let found: Vec<(String, &str)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["file"].as_str().unwrap().to_string(), p["class"].as_str().unwrap()))
        .collect();
    assert_eq!(found, expected);
    for p in list.as_array().unwrap() {
        assert_eq!(p["probabilities"].as_array().unwrap().len(), 10);
        assert!(p["inverted"].is_boolean() && p["crop"].as_array().unwrap().len() == 4 && p.get("warning").is_some());
    }
    for picture in ["grid.png", "input.png"] {
        let drawn = image::open(place.path(picture)).unwrap();
        assert!(drawn.width() > 300 && drawn.height() > 300, "{picture}");
    }
    let text = place.run("predict run garments/boot-white.png --top 2").exits(0).out;
    assert!(text.contains("garments/boot-white.png") && text.contains("Ankle boot"), "{text}");
    assert_eq!(text.matches('%').count(), 2, "{text}");
}

/// The trained model that comes with the program is small, as `assets/README.md` describes it, and as good as that says.
#[test]
fn the_trained_model_is_the_one_described() {
    assert!(TRAINED_TINY.len() <= 200_000, "{} bytes", TRAINED_TINY.len());
    let digest: String = Sha256::digest(TRAINED_TINY).iter().map(|byte| format!("{byte:02x}")).collect();
    let described = include_str!("../assets/README.md");
    assert!(described.contains(&digest), "assets/README.md does not have {digest}");
    let (model, _) = weights::from_bytes(TRAINED_TINY).unwrap();
    assert_eq!(model, ModelFile::built_in("tiny").unwrap().model, "models/tiny.toml is another network");
    let Some(folder) = genuine_data() else { return };
    let folder = fs::canonicalize(folder).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny.safetensors");
    let line = format!("evaluate {} --data-dir {} --device cpu --json", file.display(), folder.display());
    let accuracy = Place::new().run(&line).exits(0).json()["test_accuracy"].as_f64().unwrap();
    let said: f64 = described.split("Test accuracy ").nth(1).unwrap()[..6].parse().unwrap();
    assert!((accuracy - said).abs() <= 0.0005, "{accuracy}, not {said}");
}

/// Without a run, the model that comes with the program answers, and says so. It was trained on mirrored images too: a boot may show its toe
/// to the right. So was `fast`.
#[test]
fn mirrored_boots_are_boots_to_models_that_train_on_both_sides() {
    let place = trained();
    let folder = place.path("mirrored");
    fs::create_dir_all(&folder).unwrap();
    for (name, outlines) in [("shirt", T_SHIRT), ("boot", BOOT), ("bag", BAG)] {
        let drawn = draw(outlines, ON_WHITE);
        fs::write(folder.join(format!("{name}.png")), encoded(&drawn, ImageFormat::Png)).unwrap();
        let mirrored = image::imageops::flip_horizontal(&drawn);
        fs::write(folder.join(format!("{name}-mirrored.png")), encoded(&mirrored, ImageFormat::Png)).unwrap();
    }
    let expected = [
        ("bag-mirrored.png", "Bag"),
        ("bag.png", "Bag"),
        ("boot-mirrored.png", "Ankle boot"),
        ("boot.png", "Ankle boot"),
        ("shirt-mirrored.png", "T-shirt/top"),
        ("shirt.png", "T-shirt/top"),
    ];
    let answers = |line: &str, model: &str| {
        let ran = place.run(line).exits(0);
        let list = ran.json();
        for (answer, (file, class)) in list.as_array().unwrap().iter().zip(expected) {
            assert_eq!(answer["model"], model, "{line}");
            assert_eq!([&answer["file"], &answer["class"]], [&format!("mirrored/{file}"), class], "{line}: {answer}");
        }
        assert_eq!(list.as_array().unwrap().len(), expected.len());
        ran
    };
    answers("predict mirrored --json --device cpu", "tiny").says(&["Model: tiny"]);
    answers("predict mirrored --json --device reference", "tiny");
    let data = match genuine_data() {
        Some(folder) => format!("--data-dir {}", fs::canonicalize(folder).unwrap().display()),
        None => "--dataset synthetic".to_string(),
    };
    let flags = "--train-limit 15000 --epochs 3 --views one --device cpu --out fast --quiet --no-report";
    place.run(&format!("train --model fast {data} {flags}")).exits(0);
    answers("predict fast mirrored --json --device cpu", "fast");
    // Single files, and standard input, need no run either; flags that belong to the other kind of images are refused.
    let text = place.run("predict mirrored/boot.png --device cpu").exits(0);
    assert!(text.out.contains("Ankle boot"), "{}", text.out);
    place.run("predict mirrored/missing.jpg").exits(2).says(&["missing.jpg", "nothing was predicted"]);
    place.run("predict mirrored/boot.png --test-index 3").exits(2).says(&["--test-index", "photos"]);
    place.run("predict fast --show-input seen.png").exits(2).says(&["--show-input is for photos"]);
    place.run("predict --invert yes").exits(2).says(&["--invert is for photos"]);
}

#[test]
fn standard_input_and_unreadable_files() {
    gpu();
    let place = trained();
    fs::write(place.path("bag.png"), encoded(&draw(BAG, ON_WHITE), ImageFormat::Png)).unwrap();
    fs::write(place.path("bad.png"), b"no picture").unwrap();
    let line = "predict run - --json";
    let mut child =
        place.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(place.path("bag.png")).unwrap()).unwrap();
    let ran = Ran::new(child.wait_with_output().unwrap(), line).exits(0);
    assert_eq!(ran.json()[0]["file"], "standard input");
    assert_eq!(ran.json()[0]["class"], "Bag");
    // If some files cannot be read, the others are classified, and the exit code reports it.
    let ran = place.run("predict run bad.png bag.png missing.png --json").exits(2);
    assert_eq!(ran.json().as_array().unwrap().len(), 1);
    ran.says(&["bad.png: not a PNG", "missing.png", "2 images could not be read"]);
    place.run("predict run bad.png").exits(2).says(&["bad.png", "nothing was predicted"]);
    fs::create_dir_all(place.path("empty")).unwrap();
    place.run("predict run empty").exits(2).says(&["the folder empty contains no images"]);
    place.run("predict run bag.png --test-index 3").exits(2).says(&["--test-index"]);
    place.run("predict run bag.png --invert maybe").exits(2).says(&["maybe", "auto"]);
    let flat = RgbaImage::from_pixel(50, 50, image::Rgba([200, 200, 200, 255]));
    fs::write(place.path("flat.png"), encoded(&flat, ImageFormat::Png)).unwrap();
    let text = place.run("predict run flat.png").exits(0).out;
    assert!(text.contains("Doubtful: nothing stands out"), "{text}");
    place.run("predict run bag.png --show-input bag.png").exits(2).says(&["bag.png exists", "--force"]);
    assert!(Path::new(&place.path("bag.png")).metadata().unwrap().len() > 100);
}

/// The messages of doubts contain the numbers.
#[test]
fn doubts_are_explained() {
    assert!(Doubt::Unsure { probability: 0.31 }.to_string().contains("31 %"));
    assert!(Doubt::Unlike { distance: 9.87 }.to_string().contains("9.9"));
}
