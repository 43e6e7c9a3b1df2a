//! Grids of images, tested as a black box: pixels in, pixels out.

use fmnist_gpu::data::{Description, FASHION_MNIST};
use fmnist_gpu::report::{
    GridItem, PIXEL_SCALE, Picture, ReportError, Tone, columns_for, draw_grid, prediction_caption,
};

const WHITE: [u8; 3] = [255; 3];
const BLUE: [u8; 3] = [0x1f, 0x4f, 0xd8];
const RED: [u8; 3] = [0xd6, 0x27, 0x28];
const PAPER: &[u8] = &[0; 784];
const INK: &[u8] = &[255; 784];
const CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
/// Side of a drawn image in pixels.
const IMAGE: usize = 28 * PIXEL_SCALE as usize;

fn item<'a>(image: &'a [u8], caption: &str, tone: Tone) -> GridItem<'a> {
    GridItem { image, caption: caption.to_string(), tone }
}

fn grid(items: &[GridItem<'_>], columns: usize) -> Picture {
    let picture = draw_grid(items, columns, &FASHION_MNIST).unwrap();
    assert_eq!(picture.rgb.len(), 3 * picture.width as usize * picture.height as usize);
    picture
}

fn single(image: &[u8], caption: &str, tone: Tone) -> Picture {
    grid(&[item(image, caption, tone)], 1)
}

fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
    let first = (y * picture.width as usize + x) * 3;
    [picture.rgb[first], picture.rgb[first + 1], picture.rgb[first + 2]]
}

/// Returns `(x, y)` of every pixel with this property, row by row.
fn where_pixels(picture: &Picture, holds: impl Fn([u8; 3]) -> bool) -> Vec<(usize, usize)> {
    let width = picture.width as usize;
    let pixels = picture.rgb.as_chunks().0.iter().enumerate();
    pixels.filter(|(_, rgb)| holds(**rgb)).map(|(i, _)| (i % width, i / width)).collect()
}

/// Returns the first and last position of each band of ink; gaps of fewer than `gutter` pixels do not end a band.
fn bands(mut positions: Vec<usize>, gutter: usize) -> Vec<(usize, usize)> {
    positions.sort_unstable();
    positions.dedup();
    let mut bands: Vec<(usize, usize)> = Vec::new();
    for position in positions {
        match bands.last_mut() {
            Some((_, last)) if position <= *last + gutter => *last = position,
            _ => bands.push((position, position)),
        }
    }
    bands
}

/// Returns the bands of ink, horizontally and vertically.
fn ink_bands(picture: &Picture) -> [Vec<(usize, usize)>; 2] {
    let ink = where_pixels(picture, |rgb| rgb != WHITE);
    [bands(ink.iter().map(|p| p.0).collect(), 12), bands(ink.iter().map(|p| p.1).collect(), 16)]
}

fn assert_white_edge(picture: &Picture, edge: usize) {
    let (width, height) = (picture.width as usize, picture.height as usize);
    for (x, y) in where_pixels(picture, |rgb| rgb != WHITE) {
        let inside = x >= edge && y >= edge && x + edge < width && y + edge < height;
        assert!(inside, "ink at ({x}, {y}) of {width} x {height}, within {edge} pixels of the edge");
    }
}

/// Returns whether `rgb` lies on the line from white to `colour`.
fn is_tint(rgb: [u8; 3], colour: [u8; 3]) -> bool {
    let coverage = f32::from(255 - rgb[1]) / f32::from(255 - colour[1]);
    let expected = |c: u8| 255.0 - coverage * f32::from(255 - c);
    (0..3).all(|i| (f32::from(rgb[i]) - expected(colour[i])).abs() <= 2.0)
}

/// Returns the non-white pixels below the frame of an `INK` image: the caption.
fn caption_pixels(picture: &Picture) -> Vec<[u8; 3]> {
    let black = where_pixels(picture, |rgb| rgb == [0; 3]);
    let bottom = black.last().unwrap().1 + 5;
    let below = where_pixels(picture, |rgb| rgb != WHITE);
    below.into_iter().filter(|p| p.1 > bottom).map(|(x, y)| pixel(picture, x, y)).collect()
}

#[test]
fn images_lie_in_rows_and_columns() {
    for (n, columns, expected_columns, expected_rows) in
        [(1, 1, 1, 1), (25, 5, 5, 5), (7, 3, 3, 3), (3, 10, 3, 1), (4, 1, 1, 4), (30, 6, 6, 5)]
    {
        let picture = grid(&vec![item(INK, "Bag", Tone::Neutral); n], columns);
        let black = where_pixels(&picture, |rgb| rgb == [0; 3]).len();
        assert_eq!(black, n * IMAGE * IMAGE, "{n} images in {columns} columns");
        let [across, down] = ink_bands(&picture);
        assert_eq!((across.len(), down.len()), (expected_columns, expected_rows), "{n} images in {columns} columns");
        assert_white_edge(&picture, 16);
    }
}

#[test]
fn images_are_in_reading_order() {
    let shades: Vec<Vec<u8>> = (1..=5).map(|i| vec![i * 40; 784]).collect();
    let items: Vec<_> = shades.iter().map(|image| item(image, "", Tone::Neutral)).collect();
    let picture = grid(&items, 2);
    let places: Vec<_> = (1..=5).map(|i| where_pixels(&picture, |rgb| rgb == [255 - i * 40; 3])).collect();
    let corners: Vec<_> = places.iter().map(|place| place[0]).collect();
    assert!(places.iter().all(|place| place.len() == IMAGE * IMAGE));
    let [a, b, c, d, e] = corners[..] else { panic!("five images, {} places", corners.len()) };
    assert!(a.0 < b.0 && a.1 == b.1, "the second image is to the right of the first");
    assert_eq!([c.0, d.0, e.0], [a.0, b.0, a.0]);
    assert!(a.1 < c.1 && c.1 == d.1 && d.1 < e.1);
}

#[test]
fn every_additional_cell_adds_the_same_size() {
    let size = |n, columns| {
        let picture = grid(&vec![item(PAPER, "Sneaker", Tone::Right); n], columns);
        (picture.width, picture.height)
    };
    let (one, two, three) = (size(1, 3), size(2, 3), size(3, 3));
    assert_eq!(three.0 - two.0, two.0 - one.0);
    assert_eq!((one.1, two.1), (two.1, three.1));
    let (two, three) = (size(2, 1), size(3, 1));
    assert_eq!(three.1 - two.1, two.1 - one.1);
    assert_eq!((one.0, two.0), (two.0, three.0));
}

#[test]
fn zero_is_white_and_255_black_and_each_pixel_a_square() {
    let ramp: Vec<u8> = (0..784).map(|i| (i % 256) as u8).collect();
    let picture = single(&ramp, "", Tone::Neutral);
    let marked = |at: usize| {
        let mut image = vec![0; 784];
        image[at] = 255;
        where_pixels(&single(&image, "", Tone::Neutral), |rgb| rgb == [0; 3])
    };
    let origin = marked(0)[0];
    let scale = PIXEL_SCALE as usize;
    for (i, value) in ramp.iter().enumerate() {
        let (left, top) = (origin.0 + i % 28 * scale, origin.1 + i / 28 * scale);
        for (x, y) in [(0, 0), (scale - 1, 0), (0, scale - 1), (scale - 1, scale - 1), (scale / 2, scale / 2)] {
            assert_eq!(pixel(&picture, left + x, top + y), [255 - value; 3], "pixel {i} of the image at +({x}, {y})");
        }
    }
    // Row 3, column 20: a transposed image would have it elsewhere.
    let dot = marked(3 * 28 + 20);
    assert_eq!(dot.len(), scale * scale);
    assert_eq!(dot[0], (origin.0 + 20 * scale, origin.1 + 3 * scale));
}

#[test]
fn captions_are_blue_if_correct_and_red_if_wrong() {
    for (tone, colour) in [(Tone::Right, BLUE), (Tone::Wrong, RED), (Tone::Neutral, [0x22; 3])] {
        for caption in ["•••", "Ankle boot 97% (Sneaker)"] {
            let ink = caption_pixels(&single(INK, caption, tone));
            assert!(ink.len() > 20, "{tone:?}: {} pixels of {caption}", ink.len());
            if let Some(rgb) = ink.iter().find(|rgb| !is_tint(**rgb, colour)) {
                panic!("{tone:?}: {caption} has the colour {rgb:?}, which is not a tint of {colour:?}");
            }
        }
        // A bullet is large enough to have fully covered pixels; edges are antialiased.
        let ink = caption_pixels(&single(INK, "•••", tone));
        assert!(ink.contains(&colour), "{tone:?}: {colour:?} does not occur");
        assert!(ink.iter().any(|rgb| *rgb != colour), "{tone:?}: no antialiased edges");
    }
}

#[test]
fn a_wrong_prediction_is_recognisable_without_colour() {
    let frame_width = |tone| {
        let picture = single(PAPER, "Coat", tone);
        let middle = picture.height as usize / 2;
        let row: Vec<_> = (0..picture.width as usize).filter(|&x| pixel(&picture, x, middle) != WHITE).collect();
        let sides = bands(row, 1);
        assert_eq!(sides.len(), 2, "{tone:?}: {sides:?}");
        assert_eq!(sides[0].1 - sides[0].0, sides[1].1 - sides[1].0);
        assert_eq!(sides[1].0 - sides[0].1 - 1, IMAGE, "{tone:?}: the frame must not cover the image");
        sides[0].1 - sides[0].0 + 1
    };
    assert_eq!(frame_width(Tone::Neutral), 1);
    assert_eq!(frame_width(Tone::Right), 1);
    assert!(frame_width(Tone::Wrong) >= 3);
}

#[test]
fn no_caption_leaves_its_cell() {
    let pairs = CLASSES.iter().flat_map(|p| CLASSES.iter().map(move |o| prediction_caption(p, 1.0, o)));
    let wide = "W".repeat(500);
    let words = "a caption of many words ".repeat(20);
    let hard =
        [&wide, &words, "two\nlines", "a\r\nb\nc\nd", "\tJÅÇgjpq|ß\u{0}", "靴 100% (靴)", "ffff/////", "jjjj", " "];
    let captions: Vec<String> = pairs.chain(hard.iter().map(ToString::to_string)).collect();
    for row in captions.chunks(4) {
        // Each row twice, so that every caption has neighbours on all sides.
        let items: Vec<_> = row.iter().chain(row).map(|caption| item(INK, caption, Tone::Wrong)).collect();
        let picture = grid(&items, row.len());
        let [across, down] = ink_bands(&picture);
        assert_eq!((across.len(), down.len()), (row.len(), 2), "{row:?}");
        assert_white_edge(&picture, 16);
    }
}

#[test]
fn captions_of_the_article_fit_on_one_line_and_others_on_two() {
    let height = |caption: &str| single(PAPER, caption, Tone::Right).height;
    let (none, one) = (height(""), height("x"));
    let line = one - none;
    assert!(line >= 12, "a line of {line} pixels");
    for predicted in CLASSES {
        for original in CLASSES {
            assert_eq!(height(&prediction_caption(predicted, 1.0, original)), one, "{predicted} ({original})");
        }
    }
    for caption in ["one\ntwo", "one\ntwo\nthree", &"word ".repeat(30), &"word ".repeat(3000)] {
        assert_eq!(height(caption), one + line, "{caption}");
    }
    assert_eq!(height(&"W".repeat(20_000)), one);
    // Truncated text has no influence on the image; the rest does.
    let drawn = |caption: &str| single(PAPER, caption, Tone::Right).rgb;
    assert_eq!(drawn(&"W".repeat(90)), drawn(&"W".repeat(91)));
    assert_ne!(drawn("one\ntwo"), drawn("one\ntwo\nthree"));
}

#[test]
fn every_letter_has_a_shape_of_its_own() {
    let drawn = |c: char| single(PAPER, &format!("n{c}n"), Tone::Neutral).rgb;
    let missing = drawn('靴');
    let mut seen = vec![missing];
    let no_break_space_and_soft_hyphen = ['\u{a0}', '\u{ad}'];
    for c in (' '..='~').chain('\u{a1}'..='ÿ').chain("–—‘’“”•…→".chars()) {
        if no_break_space_and_soft_hyphen.contains(&c) {
            continue;
        }
        let shape = drawn(c);
        assert!(!seen.contains(&shape), "{c} (U+{:04X}) looks like another character or is missing", u32::from(c));
        seen.push(shape);
    }
}

#[test]
fn png_contains_the_same_pixels() {
    let noise: Vec<u8> = (0..784u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let items: Vec<_> =
        [Tone::Neutral, Tone::Right, Tone::Wrong].iter().map(|&tone| item(&noise, "T-shirt/top", tone)).collect();
    let picture = draw_grid(&items, 2, &FASHION_MNIST).unwrap();
    let file = picture.encode_png().unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
    let info = reader.info();
    assert_eq!((info.width, info.height), (picture.width, picture.height));
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    assert!(info.srgb.is_some(), "the file is not marked as sRGB");
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut rgb).unwrap();
    rgb.truncate(frame.buffer_size());
    assert_eq!(rgb, picture.rgb);
}

#[test]
fn drawing_a_grid_is_deterministic() {
    let items = [item(INK, "Bag", Tone::Wrong), item(PAPER, "Coat", Tone::Right)];
    assert_eq!(grid(&items, 2).encode_png().unwrap(), grid(&items, 2).encode_png().unwrap());
}

/// The size of the images comes from their description, height before width.
#[test]
fn images_of_another_size_are_drawn_at_their_own() {
    let wide = Description { name: "wide", shape: [2, 40, 1], class_names: &["yes", "no"] };
    let image = [[255; 40], [0; 40]].concat();
    let items = [item(&image, "", Tone::Neutral)];
    let picture = draw_grid(&items, 1, &wide).unwrap();
    let black = where_pixels(&picture, |rgb| rgb == [0; 3]);
    let (left, top) = black[0];
    let (width, height) = (40 * PIXEL_SCALE as usize, PIXEL_SCALE as usize);
    assert_eq!(black.len(), width * height);
    assert_eq!(*black.last().unwrap(), (left + width - 1, top + height - 1));
    // The second row, which is white, and the frame below it.
    assert_eq!(pixel(&picture, left, top + 2 * height - 1), WHITE);
    assert_ne!(pixel(&picture, left, top + 2 * height), WHITE);
    let error = draw_grid(&items, 1, &FASHION_MNIST).unwrap_err();
    assert!(error.to_string().contains("has 80 bytes; expected 784 (28 x 28"), "{error}");
}

#[test]
fn wrong_input_is_refused_with_numbers() {
    assert!(matches!(draw_grid(&[], 5, &FASHION_MNIST), Err(ReportError::NoImages)));
    let one = item(PAPER, "", Tone::Neutral);
    let error = draw_grid(&[one.clone(), one.clone()], 0, &FASHION_MNIST).unwrap_err();
    assert!(matches!(error, ReportError::NoColumns { n_items: 2 }), "{error}");
    for found in [0, 783, 785] {
        let bytes = vec![0; found];
        let error = draw_grid(&[one.clone(), item(&bytes, "", Tone::Right)], 1, &FASHION_MNIST).unwrap_err();
        assert!(matches!(error, ReportError::ImageLength { index: 1, found: n, .. } if n == found), "{error}");
        assert!(error.to_string().contains("784"), "{error}");
    }
    let error = draw_grid(&vec![one; 10_000], 100, &FASHION_MNIST).unwrap_err();
    let ReportError::TooLarge { n_items: 10_000, width, height, limit } = error else { panic!("{error}") };
    assert!(width * height > limit);
}

#[test]
fn an_inconsistent_image_is_not_encoded() {
    let short = Picture { width: 2, height: 2, rgb: vec![0; 11] };
    assert!(matches!(short.encode_png(), Err(ReportError::PictureLength { width: 2, height: 2, found: 11 })));
    let empty = Picture { width: 0, height: 0, rgb: Vec::new() };
    let error = empty.encode_png().unwrap_err();
    assert!(matches!(error, ReportError::Encode { width: 0, .. }), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn captions_have_the_article_format() {
    let caption = |probability| prediction_caption("Ankle boot", probability, "Sneaker");
    assert_eq!(caption(0.97), "Ankle boot 97% (Sneaker)");
    assert_eq!(caption(1.0), "Ankle boot 100% (Sneaker)");
    assert_eq!(caption(0.996), "Ankle boot 100% (Sneaker)");
    assert_eq!(caption(0.994), "Ankle boot 99% (Sneaker)");
    assert_eq!(caption(0.07), "Ankle boot  7% (Sneaker)");
    assert_eq!(caption(0.0), "Ankle boot  0% (Sneaker)");
}

#[test]
fn columns_make_a_grid_about_square() {
    for (count, columns) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (24, 5), (25, 5), (26, 6), (30, 6)] {
        assert_eq!(columns_for(count), columns, "{count}");
    }
    for count in 1..2_000 {
        let columns = columns_for(count);
        assert!(columns * columns >= count && (columns - 1) * (columns - 1) < count, "{count}: {columns}");
    }
    assert_eq!(columns_for(usize::MAX), 1 << (usize::BITS / 2));
}
