//! Text in the embedded typeface: measured, wrapped and drawn with antialiasing.

use super::canvas::{Picture, Rect, Rgb};
use ab_glyph::{Font, FontRef, GlyphId, PxScale, PxScaleFont, ScaleFont, point};

/// DejaVu Sans, Latin-1 and a few symbols; for origin and licence see `assets/README.md`.
static TYPEFACE: &[u8] = include_bytes!("../../assets/DejaVuSans-subset.ttf");

/// Marks truncated text.
const ELLIPSIS: char = '…';

/// The typeface at one size.
pub(super) struct Typesetter {
    font: PxScaleFont<FontRef<'static>>,
}

impl Typesetter {
    /// Returns the typeface with an em size of `em` pixels.
    pub(super) fn new(em: f32) -> Self {
        let font = FontRef::try_from_slice(TYPEFACE).expect("the embedded typeface is valid: the tests draw with it");
        let units = font.units_per_em().expect("the embedded typeface defines its em size");
        // The crate's scale is the height from descender to ascender, not the em size.
        let scale = PxScale::from(em * font.height_unscaled() / units);
        Self { font: font.into_scaled(scale) }
    }

    /// Returns the distance between baselines in pixels.
    pub(super) fn line_height(&self) -> u32 {
        (self.font.height() + self.font.line_gap()).ceil() as u32
    }

    /// Returns the width of a line in pixels.
    pub(super) fn width(&self, line: &str) -> f32 {
        let mut width = 0.0;
        self.place(line, |_, x, advance| width = x + advance);
        width
    }

    /// Wraps `text` at spaces into at most `max_lines` lines of at most `max_width` pixels; text that does not fit is truncated with `…`.
    pub(super) fn lines(&self, text: &str, max_width: f32, max_lines: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for paragraph in text.lines() {
            // A line that fits keeps its spaces: the two in `Shirt  7% (Coat)` are intended.
            if self.width(paragraph) <= max_width {
                lines.push(paragraph.to_string());
                continue;
            }
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                let longer = if line.is_empty() { word.to_string() } else { format!("{line} {word}") };
                if line.is_empty() || self.width(&longer) <= max_width {
                    line = longer;
                } else {
                    lines.push(std::mem::replace(&mut line, word.to_string()));
                }
            }
            lines.push(line);
        }
        let cut_off = lines.len() > max_lines;
        lines.truncate(max_lines);
        if cut_off && let Some(last) = lines.last_mut() {
            last.push(ELLIPSIS);
        }
        lines.into_iter().map(|line| self.shortened(line, max_width)).collect()
    }

    /// Returns the line, truncated with `…` if it is too wide.
    fn shortened(&self, line: String, max_width: f32) -> String {
        if self.width(&line) <= max_width {
            return line;
        }
        let room = max_width - self.width(ELLIPSIS.encode_utf8(&mut [0; 4]));
        let mut n_fitting = 0;
        self.place(&line, |_, x, advance| n_fitting += usize::from(x + advance <= room));
        let fitting: String = line.chars().take(n_fitting).collect();
        format!("{}{ELLIPSIS}", fitting.trim_end())
    }

    /// Draws one line: `left` may be fractional, `top` is the top of the line box.
    pub(super) fn draw(&self, picture: &mut Picture, line: &str, left: f32, top: u32, colour: Rgb) {
        // A baseline on a pixel boundary keeps the letters sharp.
        let baseline = top as f32 + self.font.ascent().round();
        self.place(line, |id, x, _| {
            let glyph = id.with_scale_and_position(self.font.scale(), point(left + x, baseline));
            let Some(outline) = self.font.font.outline_glyph(glyph) else { return };
            let corner = outline.px_bounds().min;
            let (x0, y0) = (corner.x as i32, corner.y as i32);
            outline.draw(|dx, dy, coverage| picture.blend(x0 + dx as i32, y0 + dy as i32, colour, coverage));
        });
    }

    /// Draws lines centred horizontally in `area`, from its top down.
    pub(super) fn draw_centred(&self, picture: &mut Picture, lines: &[String], area: Rect, colour: Rgb) {
        for (i, line) in (0..).zip(lines) {
            let left = area.left as f32 + (area.width as f32 - self.width(line)) / 2.0;
            self.draw(picture, line, left, area.top + i * self.line_height(), colour);
        }
    }

    /// Calls `each` with every glyph of a line, its offset from the start of the line and its advance, in pixels.
    fn place(&self, line: &str, mut each: impl FnMut(GlyphId, f32, f32)) {
        let mut x = 0.0;
        let mut previous = None;
        for c in line.chars() {
            let id = self.font.glyph_id(if c.is_control() { ' ' } else { c });
            if let Some(previous) = previous {
                x += self.font.kern(previous, id);
            }
            let advance = self.font.h_advance(id);
            each(id, x, advance);
            x += advance;
            previous = Some(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is cut off keeps as many characters as fit before the `…`.
    #[test]
    fn a_line_that_is_too_wide_keeps_what_fits() {
        let typesetter = Typesetter::new(14.0);
        let line = "Sneakers_and_ankle_boots";
        for max_width in [20.0, 60.0, 100.0, 150.0] {
            let found = typesetter.shortened(line.to_string(), max_width);
            let kept = found.strip_suffix(ELLIPSIS).expect("it is cut off");
            let longer = format!("{}{ELLIPSIS}", &line[..=kept.len()]);
            assert!(line.starts_with(kept) && typesetter.width(&found) <= max_width + 1.0, "{found} in {max_width}");
            assert!(typesetter.width(&longer) > max_width - 1.0, "{longer} fits in {max_width}");
        }
        assert_eq!(typesetter.shortened(line.to_string(), 400.0), line);
    }
}
