//! Self-contained HTML pages that open from disk without a network: the report of a run and the comparison, from `templates/`.
//!
//! Light and dark mode follow the reader's system. Plots are inline SVG, whose few colours the style sheet replaces on a dark
//! background; images are inline PNG. Every figure is accompanied by equivalent text, mostly a table. The pages are also valid
//! XML, so that a test can parse them.

pub(super) use crate::text::grouped;

use super::plots::is_forbidden;
use super::{Picture, ReportError};
use askama::Template;
use base64::prelude::{BASE64_STANDARD, Engine as _};

/// Returns the text of a page. The values are escaped; characters in them that XML does not allow become spaces.
pub(super) fn rendered(page: &impl Template) -> Result<String, ReportError> {
    Ok(page.render()?.replace(|c: char| c != '\n' && is_forbidden(c), " "))
}

/// An image of a page.
pub(super) struct Figure {
    pub width: u32,
    pub height: u32,
    pub png: Vec<u8>,
    pub caption: String,
    /// The text alternative.
    pub description: String,
}

impl Figure {
    pub(super) fn new(picture: &Picture, caption: &str, description: &str) -> Result<Self, ReportError> {
        let Picture { width, height, .. } = *picture;
        let (png, caption, description) = (picture.encode_png()?, caption.to_string(), description.to_string());
        Ok(Figure { width, height, png, caption, description })
    }

    /// Returns the bytes of the file in Base64.
    pub(super) fn base64(&self) -> String {
        BASE64_STANDARD.encode(&self.png)
    }
}
