//! A self-contained HTML page that opens from disk without a network: the format of the report of a run and of the comparison.
//!
//! Light and dark mode follow the reader's system. Plots are inline SVG, whose few colours the style sheet replaces on a dark
//! background; images are inline PNG. Every figure is accompanied by equivalent text, mostly a table.

use super::plots::{NARROW, escape};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use std::fmt::Write as _;

/// A page under construction. It is also valid XML, so that a test can parse it.
pub(super) struct Page {
    title: String,
    body: String,
    /// Id and heading of each section.
    sections: Vec<(String, String)>,
    heading: String,
    figures: usize,
}

impl Page {
    pub(super) fn new(title: &str) -> Self {
        Page { title: escape(title), body: String::new(), sections: Vec::new(), heading: String::new(), figures: 0 }
    }

    pub(super) fn title(&mut self, text: &str) {
        self.heading = escape(text);
    }

    /// Ends the current section and starts the next.
    pub(super) fn section(&mut self, id: &str, heading: &str) {
        if !self.sections.is_empty() {
            self.body.push_str("</section>\n");
        }
        let heading = escape(heading);
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{heading}</h2>");
        self.sections.push((id.to_string(), heading));
    }

    pub(super) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h3>{}</h3>", escape(text));
    }

    pub(super) fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    pub(super) fn html(&mut self, html: &str) {
        self.body.push_str(html);
        self.body.push('\n');
    }

    pub(super) fn details(&mut self, summary: &str, inside: impl FnOnce(&mut Page)) {
        let _ = writeln!(self.body, "<details><summary>{}</summary>", escape(summary));
        inside(self);
        self.html("</details>");
    }

    /// Adds a plot, which includes its own description.
    pub(super) fn svg(&mut self, svg: &str, name: &str) {
        self.figures += 1;
        let inner = svg.find("<svg ").map_or(svg, |at| &svg[at..]);
        let tag = inner.split('>').next().unwrap_or_default();
        // Narrow plots shrink to fit a phone; wide ones scroll horizontally, by touch or keyboard, and stay legible.
        let open = if tag.contains(&format!(" width=\"{NARROW}\"")) {
            "<div class=\"plot fits\">".to_string()
        } else {
            format!("<div class=\"scroll plot\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">", escape(name))
        };
        let _ = writeln!(self.body, "<figure>{open}{inner}</div></figure>");
    }

    pub(super) fn png(&mut self, png: &[u8], caption: &str, description: &str) {
        self.figures += 1;
        let size = |at: usize| png.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        // On a phone, a wide image scrolls horizontally, because its captions would not be legible otherwise.
        let region =
            format!("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">", escape(caption));
        let (open, close) = if size(16) > 600 { (region.as_str(), "</div>") } else { ("", "") };
        let _ = writeln!(
            self.body,
            "<figure>{open}<img src=\"data:image/png;base64,{}\" width=\"{}\" height=\"{}\" alt=\"{}\"/>{close}<figcaption>{}</figcaption></figure>",
            BASE64_STANDARD.encode(png),
            size(16),
            size(20),
            escape(description),
            escape(caption)
        );
    }

    /// Adds a list of names and values; the values are HTML.
    pub(super) fn facts(&mut self, rows: &[(String, String)]) {
        self.html("<dl>");
        for (name, value) in rows {
            let _ = writeln!(self.body, "<div><dt>{}</dt><dd>{value}</dd></div>", escape(name));
        }
        self.html("</dl>");
    }

    pub(super) fn table(&mut self, caption: &str, head: &[&str], rows: &[Vec<String>]) {
        let caption = escape(caption);
        let _ = writeln!(
            self.body,
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><caption>{caption}</caption><thead><tr>"
        );
        for name in head {
            // An empty corner cell is not a heading.
            let tag = if name.is_empty() { "td" } else { "th scope=\"col\"" };
            let end = if name.is_empty() { "td" } else { "th" };
            let _ = write!(self.body, "<{tag}>{}</{end}>", escape(name));
        }
        self.html("</tr></thead><tbody>");
        for row in rows {
            self.body.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let cell = escape(cell);
                let cell = if i == 0 { format!("<th scope=\"row\">{cell}</th>") } else { format!("<td>{cell}</td>") };
                self.body.push_str(&cell);
            }
            self.html("</tr>");
        }
        self.html("</tbody></table></div>");
    }

    pub(super) fn finish(mut self) -> String {
        if !self.sections.is_empty() {
            self.body.push_str("</section>\n");
        }
        let link = |(id, heading): &(String, String)| format!("<li><a href=\"#{id}\">{heading}</a></li>");
        let links: String = self.sections.iter().map(link).collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
             <meta name=\"color-scheme\" content=\"light dark\"/><link rel=\"icon\" href=\"data:,\"/>\
             <title>{}</title>\n<style>\n{STYLE}</style></head>\n<body>\n\
             <a class=\"skip\" href=\"#main\">Skip to content</a>\n\
             <header><h1>{}</h1></header>\n<nav aria-label=\"Sections\"><ul>{links}</ul></nav>\n\
             <main id=\"main\">\n{}</main>\n\
             <footer><p>Generated by fmnist-gpu {}. This page works offline.</p></footer>\n</body></html>\n",
            self.title,
            self.heading,
            self.body,
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// Escapes text and keeps its line breaks.
pub(super) fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// Formats a number with commas as thousands separators.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

const STYLE: &str = include_str!("page.css");
