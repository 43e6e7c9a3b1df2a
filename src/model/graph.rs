//! The graph of a model: layers with names and inputs, and the shapes that follow from them.
//!
//! A layer reads the layer before it unless its `input` or `inputs` name others. Only earlier layers can be named, so there are no
//! circles, and every output but the last must be read by some layer.

use super::{Activation, Layer, Model, ModelError, Parameter, whitening};
use crate::text::shortened;
use serde::{Deserialize, Deserializer, Serialize};

/// The name by which a layer can read the images.
pub const INPUT_NAME: &str = "input";
/// Maximum number of characters in a layer's name.
const MAX_LAYER_NAME: usize = 64;
/// Maximum number of values per image.
const MAX_INPUT: usize = 1 << 24;
/// Maximum number of bytes of a model's parameters: they are in one buffer, and larger weight files are not read.
const MAX_PARAMETER_BYTES: u64 = 1 << 30;

/// A layer in a graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    /// The layer.
    #[serde(flatten)]
    pub layer: Layer,
    /// Its name; `conv2d_1`, `conv2d_2` and so on if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The name of the layer that it reads; the layer before if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The names of the layers that it reads, for a layer with several inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<String>>,
}

impl From<Layer> for Node {
    fn from(layer: Layer) -> Self {
        Node { layer, name: None, input: None, inputs: None }
    }
}

/// By hand, because serde can either flatten or refuse unknown fields.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut fields = serde_json::Map::deserialize(deserializer)?;
        let mut take = |key: &str| fields.remove(key).unwrap_or_default();
        let text = |value| serde_json::from_value(value).map_err(D::Error::custom);
        let (name, input) = (text(take("name"))?, text(take("input"))?);
        let inputs = serde_json::from_value(take("inputs")).map_err(D::Error::custom)?;
        let layer = Layer::deserialize(serde_json::Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(Node { layer, name, input, inputs })
    }
}

/// Where a layer reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The images.
    Image,
    /// The output of the layer with this index.
    Layer(usize),
}

/// A layer with its name, its inputs and its shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShape {
    /// For example `conv2d_1`.
    pub name: String,
    /// The layer.
    pub layer: Layer,
    /// What it reads: one value, or several for a layer such as [`Layer::Add {}`].
    pub sources: Vec<Source>,
    /// Shape of each of its inputs, without the batch: `[H, W, C]` or `[I]`.
    pub input: Vec<usize>,
    /// Shape of its output, without the batch.
    pub output: Vec<usize>,
    /// Multiply-adds of the forward pass for one sample.
    pub multiply_adds: usize,
}

impl LayerShape {
    /// Returns the parameters, in the order of the files.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.layer.parameters(&self.name, &self.input)
    }
}

impl Model {
    /// Returns the layers with names, inputs and shapes, for images of any shape and any number of classes.
    ///
    /// # Errors
    /// A layer does not fit its input, or the layers as a whole are not a classifier.
    pub fn graph(&self) -> Result<Vec<LayerShape>, ModelError> {
        self.build(None)
    }

    /// Does the same for a data set with that number of classes.
    pub(super) fn build(&self, classes: Option<usize>) -> Result<Vec<LayerShape>, ModelError> {
        let values = self.input.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if !values.is_some_and(|values| (1..=MAX_INPUT).contains(&values)) {
            return Err(
                self.fault(format!("`input` is {:?}; use a height, a width and a number of channels", self.input))
            );
        }
        let mut shapes: Vec<LayerShape> = Vec::with_capacity(self.layers.len());
        for (i, node) in self.layers.iter().enumerate() {
            let shape = self.layer_shape(node, &shapes).map_err(|reason| ModelError::Layer {
                model: self.name.clone(),
                number: i + 1,
                layer: node.layer.kind(),
                reason,
            })?;
            shapes.push(shape);
        }
        let elements = |parameter: Parameter| parameter.shape.iter().map(|&size| size as u64).product::<u64>();
        let bytes = 4 * shapes.iter().flat_map(LayerShape::parameters).map(elements).sum::<u64>();
        if bytes > MAX_PARAMETER_BYTES {
            return Err(self.fault(format!(
                "its parameters take {bytes} bytes, but at most {MAX_PARAMETER_BYTES} are supported; make its layers smaller"
            )));
        }
        let reads = |i: usize| shapes.iter().any(|shape| shape.sources.contains(&Source::Layer(i)));
        if let Some(i) = (0..shapes.len().saturating_sub(1)).find(|&i| !reads(i)) {
            let name = &shapes[i].name;
            return Err(
                self.fault(format!("no layer reads the output of `{name}`; name it in an `input`, or remove it"))
            );
        }
        match shapes.last().map(|shape| &shape.layer) {
            Some(Layer::Dense { units, activation: Activation::None | Activation::Softmax, .. })
                if classes.is_none_or(|classes| classes == *units) =>
            {
                if !shapes.iter().flat_map(LayerShape::parameters).any(|parameter| parameter.is_trained()) {
                    return Err(self.fault("no layer is trained; use `trainable = true` for one of them".to_string()));
                }
                Ok(shapes)
            }
            _ => {
                let units = classes.map(|classes| format!("{classes} units")).unwrap_or("units".to_string());
                Err(self
                    .fault(format!("the last layer must be dense with {units}, one per class, and activation softmax")))
            }
        }
    }

    /// Returns the number of classes: the outputs of the last layer.
    pub fn classes(&self) -> usize {
        match self.layers.last().map(|node| &node.layer) {
            Some(Layer::Dense { units, .. }) => *units,
            _ => 0,
        }
    }

    /// Returns a layer with its shapes, given the layers before it, or why it does not fit.
    fn layer_shape(&self, node: &Node, before: &[LayerShape]) -> Result<LayerShape, String> {
        let layer = &node.layer;
        let is_last = before.len() + 1 == self.layers.len();
        if layer.activation() == Activation::Softmax && !(is_last && matches!(layer, Layer::Dense { .. })) {
            return Err(match layer {
                Layer::Dense { .. } => "`activation` is softmax, which only the last layer can have".to_string(),
                _ => "`activation` is softmax, which only the last layer, a dense one, can have".to_string(),
            });
        }
        let sources = sources(node, before)?;
        let shape_of = |source: &Source| match source {
            Source::Image => &self.input[..],
            Source::Layer(i) => &before[*i].output[..],
        };
        let input = shape_of(&sources[0]).to_vec();
        if let Some(other) = sources.iter().find(|source| shape_of(source) != input) {
            return Err(format!("its inputs have the shapes {input:?} and {:?}; they must be equal", shape_of(other)));
        }
        let (output, multiply_adds) = layer.output(&input)?;
        whitening::check(layer, &sources, &input)?;
        let name = match &node.name {
            Some(name) => checked_name(name)?.to_string(),
            None => {
                let number = 1 + before.iter().filter(|shape| shape.layer.kind() == layer.kind()).count();
                format!("{}_{number}", layer.kind())
            }
        };
        if before.iter().any(|shape| shape.name == name) {
            return Err(format!("another layer is called `{name}` too; give it another `name`"));
        }
        Ok(LayerShape { name, layer: layer.clone(), sources, input, output, multiply_adds })
    }
}

/// Returns what a layer reads, given the layers before it.
fn sources(node: &Node, before: &[LayerShape]) -> Result<Vec<Source>, String> {
    let find = |name: &String| {
        if name == INPUT_NAME {
            return Ok(Source::Image);
        }
        before.iter().position(|shape| shape.name == *name).map(Source::Layer).ok_or_else(|| {
            let shown = shortened(name, MAX_LAYER_NAME).escape_debug().to_string();
            let known: Vec<&str> = before.iter().map(|shape| shape.name.as_str()).collect();
            let known = shortened(&known.join(", "), 400);
            let known = if known.is_empty() { String::new() } else { format!(", {known}") };
            format!("no layer before it is called `{shown}`; there are: {INPUT_NAME}{known}")
        })
    };
    let before_it = || before.len().checked_sub(1).map_or(Source::Image, Source::Layer);
    match (&node.layer, &node.input, &node.inputs) {
        (_, Some(_), Some(_)) => Err("it has both `input` and `inputs`; use one of them".to_string()),
        (Layer::Add {}, None, Some(names)) if names.len() >= 2 => names.iter().map(find).collect(),
        (Layer::Add {}, ..) => Err("`inputs` must name the two or more layers whose outputs it adds".to_string()),
        (_, _, Some(_)) => Err("it reads one layer; use `input` instead of `inputs`".to_string()),
        (_, Some(name), None) => Ok(vec![find(name)?]),
        (_, None, None) => Ok(vec![before_it()]),
    }
}

/// Returns the name if it can be that of a layer: it becomes part of names in files and of Python code.
fn checked_name(name: &str) -> Result<&str, String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fine = name.chars().all(is_word) && name.starts_with(|c: char| c.is_ascii_alphabetic());
    match name {
        INPUT_NAME => Err(format!("`name` is {INPUT_NAME}, which stands for the images; use another one")),
        _ if fine && name.len() <= MAX_LAYER_NAME => Ok(name),
        _ => {
            let shown = shortened(name, MAX_LAYER_NAME).escape_debug().to_string();
            Err(format!(
                "`name` is `{shown}`; use a letter followed by at most {} letters, digits or `_`",
                MAX_LAYER_NAME - 1
            ))
        }
    }
}
