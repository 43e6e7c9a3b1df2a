//! Models as data: a graph of layers with their shapes and parameters, the built-in models, initial weights, and weight
//! files.

mod built_in;
#[cfg(feature = "disk")]
mod disk;
mod eigen;
mod graph;
mod init;
mod layer;
mod parameter;
mod summary;
mod views;
pub mod weights;
mod whitening;

pub use crate::text::Named;
pub use built_in::TRAINED_TINY;
pub use eigen::eigenvectors;
pub use graph::{INPUT_NAME, LayerShape, Node, Source};
pub use init::{Init, initial_parameters, permutation};
pub use layer::{Activation, Layer, Pair, Pooling};
pub(crate) use layer::{DEFAULT_SLOPE, conv2d_dims, pool2d_dims};
pub use parameter::{Parameter, Role, Trainable};
pub use summary::{summary, training_mflop};
pub use views::{Predict, View, Views};

use crate::data::{Description, FASHION_MNIST};
use crate::files::ShownPath;
use crate::text::{shortened, shortened_words};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A model: a name, the shape of a sample, and a graph of layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name: that of a built-in model, or the name in the model file.
    pub name: String,
    /// Shape of a sample, [H, W, C].
    #[serde(default = "fashion_mnist_input")]
    pub input: [usize; 3],
    /// The layers, each after those that it reads.
    #[serde(rename = "layer", alias = "layers")]
    pub layers: Vec<Node>,
    /// How it predicts.
    #[serde(default, skip_serializing_if = "Predict::is_default")]
    pub predict: Predict,
}

fn fashion_mnist_input() -> [usize; 3] {
    FASHION_MNIST.shape
}

/// Largest description of a model that is read, in bytes, as a file or in a file's metadata: a layer takes about a hundred.
pub const MAX_DESCRIPTION_BYTES: usize = 64 << 10;
/// Maximum number of characters in a model's name.
const MAX_NAME: usize = 100;

/// A model that cannot be built.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The name is neither a built-in model nor a file.
    #[error(
        "there is no model `{0}`; use `mlp`, `cnn`, `tiny`, `fast`, `best`, or the path of a .toml file that lists layers (see docs/model-files.md)"
    )]
    Unknown(String),
    /// The file cannot be read.
    #[error("model file {}: {source}", path.shown())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a model.
    #[error("model file {}: {reason}", path.shown())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line and cause, as reported by the parser.
        reason: String,
    },
    /// A layer does not fit its input.
    #[error("model `{model}`, layer {number} ({layer}): {reason}")]
    Layer {
        /// The model.
        model: String,
        /// Position of the layer, from 1.
        number: usize,
        /// The kind of layer.
        layer: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The layers as a whole are not a classifier.
    #[error("model `{model}`: {reason}")]
    Shape {
        /// The model.
        model: String,
        /// What is wrong.
        reason: String,
    },
}

impl Model {
    /// Returns a model of Fashion-MNIST whose layers each read the one before.
    pub fn sequential(name: &str, layers: impl IntoIterator<Item = Layer>) -> Self {
        let layers = layers.into_iter().map(Node::from).collect();
        Model { name: name.to_string(), input: FASHION_MNIST.shape, layers, predict: Predict::default() }
    }

    /// Returns the built-in model of this name, or the model in the file at this path.
    ///
    /// # Errors
    /// There is neither, or the file is not a model that can be built.
    pub fn load(name: &str) -> Result<Self, ModelError> {
        Ok(ModelFile::load(name)?.model)
    }

    /// Whether it computes the same as another one of the same name: both may predict by different views.
    pub fn computes_like(&self, other: &Model) -> bool {
        let plain = |model: &Model| Model { predict: Predict::default(), ..model.clone() };
        plain(self) == plain(other)
    }

    /// Returns what is wrong with the name. It comes from an untrusted file, and is used in file names and printed to terminals.
    fn name_fault(&self) -> Option<&'static str> {
        match &self.name {
            name if name.chars().count() > MAX_NAME => Some("its name has more than 100 characters"),
            name if name.contains(['/', '\\']) || name == "." || name == ".." => {
                Some("its name is a path; use a name without `/` and `\\`")
            }
            name if name.chars().any(char::is_control) => Some("its name contains control characters"),
            _ => None,
        }
    }

    /// Returns the layers of a model of Fashion-MNIST, as [`Model::graph`] does for any images.
    ///
    /// # Errors
    /// A layer does not fit its input, or the model is for other images or another number of classes.
    pub fn shapes(&self) -> Result<Vec<LayerShape>, ModelError> {
        if let Some(reason) = self.name_fault() {
            return Err(self.fault(reason.to_string()));
        }
        let Description { name, shape, class_names } = &FASHION_MNIST;
        if self.input != *shape {
            return Err(self.fault(format!("`input` is {:?}, but the images of {name} are {shape:?}", self.input)));
        }
        self.build(Some(class_names.len()))
    }

    /// Returns the parameters in the order of the layers.
    ///
    /// # Errors
    /// As [`Model::graph`].
    pub fn parameters(&self) -> Result<Vec<Parameter>, ModelError> {
        Ok(self.graph()?.iter().flat_map(LayerShape::parameters).collect())
    }

    fn fault(&self, reason: String) -> ModelError {
        ModelError::Shape { model: shortened(&self.name, MAX_NAME).escape_debug().to_string(), reason }
    }
}

/// A model file: a model, and how it is trained.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// The model.
    pub model: Model,
    /// Its `[train]`, as written; empty if it has none.
    pub train: toml::Table,
    /// The file; `None` for a built-in model.
    pub path: Option<PathBuf>,
}

/// The fields of a model file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default = "fashion_mnist_input")]
    input: [usize; 3],
    #[serde(rename = "layer", alias = "layers")]
    layers: Vec<Node>,
    #[serde(default)]
    train: toml::Table,
    #[serde(default)]
    predict: Predict,
}

impl ModelFile {
    /// Returns the built-in model of this name, or the file at this path.
    ///
    /// # Errors
    /// There is neither, or the file has no model that can be built.
    pub fn load(name: &str) -> Result<Self, ModelError> {
        ModelFile::built_in(name).map_or_else(|| ModelFile::read(name), Ok)
    }

    /// There are no files.
    #[cfg(not(feature = "disk"))]
    fn read(name: &str) -> Result<Self, ModelError> {
        Err(ModelError::Unknown(name.to_string()))
    }

    /// Parses the text of a model file; errors name the file `path`.
    ///
    /// # Errors
    /// The text has no model that can be built.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ModelError> {
        let fail = |reason| ModelError::Parse { path: path.to_path_buf(), reason };
        if text.len() > MAX_DESCRIPTION_BYTES {
            return Err(fail(format!("it has {} bytes, but at most {MAX_DESCRIPTION_BYTES} are allowed", text.len())));
        }
        let fields: Fields = toml::from_str(text).map_err(|error| fail(parse_error(&error, text)))?;
        let Fields { name, input, layers, train, predict } = fields;
        let model = Model { name, input, layers, predict };
        model.shapes()?;
        Ok(ModelFile { model, train, path: Some(path.to_path_buf()) })
    }
}

/// The most characters in a line of the parser's excerpt of a model file.
const MAX_EXCERPT: usize = 120;

/// Describes why a model file cannot be parsed, with line and column. The parser repeats the whole line, which is replaced by
/// a short excerpt if it, or a word in it, is long.
fn parse_error(error: &toml::de::Error, text: &str) -> String {
    let shown = error.to_string();
    if shortened_words(&shown) == shown && shown.lines().all(|line| line.chars().count() <= MAX_EXCERPT) {
        return shown;
    }
    let message = shortened(&shortened_words(error.message()), MAX_EXCERPT);
    let place = shown.lines().next().unwrap_or("TOML parse error");
    let excerpt = error.span().and_then(|span| text.get(span)).filter(|excerpt| !excerpt.trim().is_empty());
    let excerpt = excerpt.map(|excerpt| format!(": `{}`", shortened(excerpt.trim(), 40).replace('\n', " ")));
    format!("{}: {message}{}", shortened_words(place), excerpt.unwrap_or_default())
}
