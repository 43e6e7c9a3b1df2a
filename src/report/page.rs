//! A page of HTML in one file, that opens from disk without a network: what the report of a run and the comparison are written in.
//!
//! Light and dark follow the reader's system. The plots are SVG inside the page, whose few colours the style sheet replaces on a dark
//! ground; pictures are PNG inside the page. Each picture has a text beside it that says the same, mostly as a table.

use super::plots::{NARROW, escape};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use std::fmt::Write as _;

/// A page as it grows. It is XML too, so that a test can read it whole.
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

    /// Ends the section before, and begins the next.
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

    /// A plot; it says itself what it shows.
    pub(super) fn svg(&mut self, svg: &str, name: &str) {
        self.figures += 1;
        let inner = svg.find("<svg ").map_or(svg, |at| &svg[at..]);
        let tag = inner.split('>').next().unwrap_or_default();
        // Narrow plots shrink to a phone; wide ones are moved sideways there, by touch or by keyboard, and stay legible.
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
        // On a phone a wide picture is moved sideways, as its captions could not be read otherwise.
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

    /// Names and values; the values are HTML.
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
            // An empty corner is no heading.
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
             <a class=\"skip\" href=\"#main\">Skip to the content</a>\n\
             <header><h1>{}</h1></header>\n<nav aria-label=\"Sections\"><ul>{links}</ul></nav>\n\
             <main id=\"main\">\n{}</main>\n\
             <footer><p>Made by fmnist-gpu {}. This file needs no network.</p></footer>\n</body></html>\n",
            self.title,
            self.heading,
            self.body,
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// Text with its lines kept.
pub(super) fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// A number with a comma before every three digits.
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
