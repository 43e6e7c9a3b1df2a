//! Python code: literals, and the variables for a model's values.

use crate::model::{LayerShape, Source};

/// Words that cannot be names. Source: `keyword.kwlist` of Python 3.14.
pub(super) const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// Formats a pair of sizes, height and width, for Python: `3`, or `(3, 5)`.
pub(super) fn pair([down, across]: [usize; 2]) -> String {
    if down == across { down.to_string() } else { format!("({down}, {across})") }
}

/// Formats a string for Python, in double quotes. JSON's escapes are valid in Python too.
pub(super) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The variables that hold the values of a model.
///
/// A value that only the next layer reads, and reads once, needs no name of its own: it is `x`. Any other value gets a variable with
/// the name of its layer.
pub(super) struct Variables {
    image: Option<String>,
    layers: Vec<Option<String>>,
}

impl Variables {
    /// Chooses the variables; `taken` are the names that the code around them uses.
    pub(super) fn new(shapes: &[LayerShape], taken: &[&str]) -> Self {
        let is_layer = |name: &str| shapes.iter().any(|shape| shape.name == name);
        let is_taken = |name: &str| name == "x" || taken.contains(&name) || KEYWORDS.contains(&name);
        // Whether the layer `next` alone reads a value, and once.
        let flows = |source: Source, next: usize| {
            let reads = (0..shapes.len()).flat_map(|i| shapes[i].sources.iter().map(move |&read| (i, read)));
            let mut readers = reads.filter(|(_, read)| *read == source).map(|(i, _)| i);
            readers.next() == Some(next) && readers.next().is_none()
        };
        let layer = |(i, shape): (usize, &LayerShape)| {
            let named = i + 1 < shapes.len() && !flows(Source::Layer(i), i + 1);
            named.then(|| unused(&shape.name, |name| is_taken(name) || (name != shape.name && is_layer(name))))
        };
        Variables {
            image: (!flows(Source::Image, 0)).then(|| unused("image", |name| is_taken(name) || is_layer(name))),
            layers: shapes.iter().enumerate().map(layer).collect(),
        }
    }

    /// Whether every value is read by the next layer alone, so that the model is a chain of layers.
    pub(super) fn is_chain(&self) -> bool {
        self.image.is_none() && self.layers.iter().all(Option::is_none)
    }

    /// Returns the variable of a value; `None` if it is `x`.
    pub(super) fn of(&self, source: Source) -> Option<&str> {
        match source {
            Source::Image => self.image.as_deref(),
            Source::Layer(i) => self.layers[i].as_deref(),
        }
    }
}

/// Returns the name, with as many underscores after it as it takes for it not to be taken.
fn unused(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut unused = name.to_string();
    while is_taken(&unused) {
        unused.push('_');
    }
    unused
}

/// Returns such a name that no layer has.
pub(super) fn unused_layer(name: &str, shapes: &[LayerShape]) -> String {
    unused(name, |name| shapes.iter().any(|shape| shape.name == name))
}
