//! ONNX: the whole network as a graph that takes grey values and returns probabilities.
//!
//! Input `pixels`: single precision `[batch, 28, 28, 1]`, grey values from 0 to 255. Outputs `probabilities` and
//! `logits`: `[batch, 10]`. The batch can have any size. The division by 255 is part of the graph. ONNX's windows
//! expect channels first: images are transposed once, at the start, where it is free (one channel), and the weights are
//! stored in PyTorch's order. Nodes, their values and the initializers have the names of this program's layers and
//! parameters; only a layer with a name that the graph itself uses, such as `logits`, is called `logits.y`.
//!
//! Opset 17 with IR version 8 (ONNX 1.12, 2022) has almost everything needed, and onnxruntime supports it from version 1.12.

use super::layers;
use super::layout::{Orders, slots};
use super::npz::little_endian;
use super::onnx_proto::{FLOAT, Message, int_attribute, sizes_attribute};
use super::{ExportError, Facts, checked_shapes, python};
use crate::model::{LayerShape, Model, Source};

/// Version of the operator set.
const OPSET: i64 = 17;
/// Version of the file format that belongs to it.
const IR_VERSION: i64 = 8;
/// Name of the input.
pub const INPUT: &str = "pixels";
/// Name of the first output, `[batch, 10]`.
pub const PROBABILITIES: &str = "probabilities";
/// Name of the second output, `[batch, 10]`.
pub const LOGITS: &str = "logits";
/// The division by 255.
const RESCALE: &str = "rescale";
/// Its divisor.
const DIVISOR: &str = "rescale.divisor";
/// The images as the first layer reads them.
const IMAGES: &str = "to_channels_first";
/// Maximum size of a protobuf message in bytes; 64 KiB are reserved for everything but the parameters.
pub(super) const MAX_BYTES: u64 = i32::MAX as u64 - (64 << 10);

/// Returns the bytes of an ONNX file.
///
/// # Errors
/// The model cannot be built or has more than 2 GiB of parameters, or the parameters do not belong to it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>], facts: &Facts) -> Result<Vec<u8>, ExportError> {
    check_size(&model.shapes()?)?;
    let shapes = checked_shapes(model, parameters)?;
    // Without the domain's name, the operators are ONNX's own.
    let opset = Message::default().bytes(1, "").int(2, OPSET);
    let description = "Classifies Fashion-MNIST images: grey values 0 to 255 (0 is background) in, probabilities of the ten \
                       classes out. The division by 255 is part of the graph.";
    // `ModelProto`: ir_version, producer_name, producer_version, doc_string, graph, opset_import, metadata_props.
    let file = Message::default()
        .int(1, IR_VERSION)
        .bytes(2, "fmnist-gpu")
        .bytes(3, env!("CARGO_PKG_VERSION"))
        .bytes(6, description)
        .bytes(7, graph(model, &shapes, parameters))
        .bytes(8, opset)
        .all(14, metadata(model, facts)?);
    Ok(file.0)
}

/// Returns the Python code that opens the file with onnxruntime and predicts a batch.
pub fn python(file: &str) -> String {
    format!(
        "import numpy as np\n\
         import onnxruntime\n\
         \n\
         session = onnxruntime.InferenceSession({}, providers=[\"CPUExecutionProvider\"])\n\
         images = np.zeros((5, 28, 28, 1), np.float32)  # grey values 0 to 255, any number of images\n\
         [probabilities] = session.run([\"{PROBABILITIES}\"], {{\"{INPUT}\": images}})\n",
        python::text(file)
    )
}

fn check_size(shapes: &[LayerShape]) -> Result<(), ExportError> {
    let values: u64 = slots(shapes).iter().map(|slot| slot.shape.iter().product::<usize>() as u64).sum();
    if values * 4 <= MAX_BYTES { Ok(()) } else { Err(ExportError::TooLarge(values * 4)) }
}

fn metadata(model: &Model, facts: &Facts) -> Result<Vec<Message>, ExportError> {
    let mut entries = facts.metadata(model, "layers")?;
    entries.insert(1, ("model", model.name.clone()));
    Ok(entries.iter().map(|(key, value)| Message::default().bytes(1, key).bytes(2, value)).collect())
}

fn graph(model: &Model, shapes: &[LayerShape], parameters: &[Vec<f32>]) -> Message {
    let [h, w, c] = model.input;
    let orders = Orders::of(shapes);
    let mut graph = Graph::default();
    graph.constant(DIVISOR, &[], &[255.0]);
    graph.apply("Div", RESCALE, &[INPUT, DIVISOR], vec![]);
    graph.apply("Transpose", IMAGES, &[RESCALE], vec![sizes_attribute("perm", &[0, 3, 1, 2])]);
    for slot in slots(shapes) {
        graph.constant(&slot.name(), &slot.torch_shape, &slot.torch_values(parameters));
    }
    let mut outputs: Vec<String> = Vec::new();
    for (i, shape) in shapes.iter().enumerate() {
        let read = |source: &Source| match source {
            Source::Image => IMAGES,
            Source::Layer(i) => outputs[*i].as_str(),
        };
        let inputs: Vec<&str> = shape.sources.iter().map(read).collect();
        let is_taken = [INPUT, RESCALE, IMAGES, LOGITS, PROBABILITIES].contains(&shape.name.as_str());
        let name = if is_taken { format!("{}.y", shape.name) } else { shape.name.clone() };
        let output = layers::onnx(shape, &name, &inputs, orders.channels_last[i], &mut graph);
        outputs.push(output);
    }
    // The output of the last layer is the graph's output, so it takes that name.
    if let Some(node) = graph.nodes.last_mut() {
        node.output = LOGITS.to_string();
    }
    graph.apply("Softmax", PROBABILITIES, &[LOGITS], vec![int_attribute("axis", -1)]);
    // The checker requires a name, and a model file may leave it empty.
    let name = if model.name.is_empty() { "model" } else { &model.name };
    let classes = model.classes();
    // `GraphProto`: node, name, initializer, input, output.
    Message::default()
        .all(1, graph.nodes.into_iter().map(Node::encoded))
        .bytes(2, name)
        .all(5, graph.constants)
        .bytes(11, value_info(INPUT, &[h, w, c], "grey values 0 to 255"))
        .bytes(12, value_info(PROBABILITIES, &[classes], "probabilities of the classes"))
        .bytes(12, value_info(LOGITS, &[classes], "scores before the softmax"))
}

/// Describes a single-precision tensor `[batch, ..]`.
fn value_info(name: &str, shape: &[usize], meaning: &str) -> Message {
    // `TensorShapeProto`: a dimension has a dim_value (1), or a dim_param (2), the name of a size that is not fixed.
    let batch = Message::default().bytes(2, "batch");
    let sizes = shape.iter().map(|&size| Message::default().int(1, size as i64));
    let dimensions = Message::default().bytes(1, batch).all(1, sizes);
    // `TypeProto.Tensor`: elem_type, shape.
    let tensor = Message::default().int(1, FLOAT).bytes(2, dimensions);
    // `ValueInfoProto`: name, type, of which the tensor is the first kind, doc_string.
    Message::default().bytes(1, name).bytes(2, Message::default().bytes(1, tensor)).bytes(3, meaning)
}

/// A graph under construction.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    constants: Vec<Message>,
}

impl Graph {
    /// Adds a constant.
    pub(super) fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        // `TensorProto`: dims, data_type, name, raw_data.
        let tensor = Message::default().sizes(1, shape).int(2, FLOAT).bytes(8, name).bytes(9, little_endian(values));
        self.constants.push(tensor);
    }

    /// Adds a node that reads values and constants; node and output have the same name.
    pub(super) fn apply(&mut self, op: &str, name: &str, inputs: &[&str], attributes: Vec<Message>) {
        let inputs = inputs.iter().map(|input| input.to_string()).collect();
        let (op, name) = (op.to_string(), name.to_string());
        self.nodes.push(Node { inputs, output: name.clone(), name, op, attributes });
    }
}

/// An operation, with the names of the values that it reads and writes.
struct Node {
    inputs: Vec<String>,
    output: String,
    name: String,
    op: String,
    attributes: Vec<Message>,
}

impl Node {
    fn encoded(self) -> Message {
        // `NodeProto`: input, output, name, op_type, attribute.
        let values = Message::default().all(1, self.inputs).bytes(2, self.output);
        values.bytes(3, self.name).bytes(4, self.op).all(5, self.attributes)
    }
}
