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
use super::onnx_proto::{
    AttributeProto, Dimension, DimensionProto, FLOAT, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::{ExportError, Facts, checked_shapes, python};
use crate::model::weights::WeightsError;
use crate::model::{LayerShape, Model, Source};
use prost::Message;

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
const MAX_BYTES: u64 = i32::MAX as u64 - (64 << 10);

/// Returns the bytes of an ONNX file.
///
/// # Errors
/// The model cannot be built or has more than 2 GiB of parameters, or the parameters do not belong to it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>], facts: &Facts) -> Result<Vec<u8>, ExportError> {
    check_size(&model.shapes()?)?;
    let shapes = checked_shapes(model, parameters)?;
    let proto = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("fmnist-gpu".to_string()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_string()),
        doc_string: Some(
            "Classifies Fashion-MNIST images: grey values 0 to 255 (0 is background) in, probabilities of the ten classes \
             out. The division by 255 is part of the graph."
                .to_string(),
        ),
        graph: Some(graph(model, &shapes, parameters)),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: metadata(model, facts)?,
    };
    Ok(proto.encode_to_vec())
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
    if values * 4 <= MAX_BYTES {
        return Ok(());
    }
    Err(ExportError::TooLarge {
        format: "an ONNX file",
        bytes: values * 4,
        limit: MAX_BYTES,
        advice: "torch, keras and npz have no such limit",
    })
}

fn metadata(model: &Model, facts: &Facts) -> Result<Vec<StringStringEntryProto>, ExportError> {
    let layers = serde_json::to_string(model).map_err(|e| WeightsError::Model(e.to_string()))?;
    let mut entries = vec![
        ("class_names", facts.class_names()),
        ("model", model.name.clone()),
        ("layers", layers),
        ("version", format!("fmnist-gpu {}", env!("CARGO_PKG_VERSION"))),
    ];
    entries.extend(facts.dataset.map(|dataset| ("dataset", dataset.to_string())));
    entries.extend(facts.test_accuracy.map(|accuracy| ("test_accuracy", accuracy.to_string())));
    let entry = |(key, value): (&str, String)| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    Ok(entries.into_iter().map(entry).collect())
}

fn graph(model: &Model, shapes: &[LayerShape], parameters: &[Vec<f32>]) -> GraphProto {
    let [h, w, c] = model.input;
    let orders = Orders::of(shapes);
    let mut graph = Graph::default();
    graph.constant(DIVISOR, &[], &[255.0]);
    graph.apply("Div", RESCALE, &[INPUT, DIVISOR], vec![]);
    graph.apply("Transpose", IMAGES, &[RESCALE], vec![AttributeProto::ints("perm", &[0, 3, 1, 2])]);
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
        let output = layers::onnx(shape, &name, &inputs, orders.is_channels_last(i), &mut graph);
        outputs.push(output);
    }
    // The output of the last layer is the graph's output, so it takes that name.
    if let Some(node) = graph.nodes.last_mut() {
        node.output = vec![LOGITS.to_string()];
    }
    graph.apply("Softmax", PROBABILITIES, &[LOGITS], vec![AttributeProto::int("axis", -1)]);
    // The checker requires a name, and a model file may leave it empty.
    let name = if model.name.is_empty() { "model" } else { &model.name };
    let classes = model.classes();
    GraphProto {
        node: graph.nodes,
        name: Some(name.to_string()),
        initializer: graph.constants,
        input: vec![value_info(INPUT, &[h, w, c], "grey values 0 to 255")],
        output: vec![
            value_info(PROBABILITIES, &[classes], "probabilities of the classes"),
            value_info(LOGITS, &[classes], "scores before the softmax"),
        ],
    }
}

/// Describes a single-precision tensor `[batch, ..]`.
fn value_info(name: &str, shape: &[usize], meaning: &str) -> ValueInfoProto {
    let sizes = shape.iter().map(|&size| Dimension::Value(size as i64));
    let dim = std::iter::once(Dimension::Param("batch".to_string()))
        .chain(sizes)
        .map(|value| DimensionProto { value: Some(value) })
        .collect();
    let tensor = TensorTypeProto { elem_type: Some(FLOAT), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.to_string()),
        r#type: Some(TypeProto { tensor_type: Some(tensor) }),
        doc_string: Some(meaning.to_string()),
    }
}

/// A graph under construction.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl Graph {
    /// Adds a constant.
    pub(super) fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.constants.push(TensorProto {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: Some(FLOAT),
            name: Some(name.to_string()),
            raw_data: Some(little_endian(values)),
        });
    }

    /// Adds a node that reads values and constants; node and output have the same name.
    pub(super) fn apply(&mut self, op: &str, name: &str, inputs: &[&str], attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![name.to_string()],
            name: Some(name.to_string()),
            op_type: Some(op.to_string()),
            attribute,
        });
    }
}
