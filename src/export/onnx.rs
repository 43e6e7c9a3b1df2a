//! ONNX: the whole network as a graph that takes grey values and returns probabilities.
//!
//! Input `pixels`: single precision `[batch, 28, 28, 1]`, grey values from 0 to 255. Outputs `probabilities` and
//! `logits`: `[batch, 10]`. The batch can have any size. The division by 255 is part of the graph. ONNX's windows
//! expect channels first: images are transposed once, at the start, where it is free (one channel), and the weights are
//! stored in PyTorch's order. Nodes, their values and the initializers have the names of this program's layers and
//! parameters.
//!
//! Opset 17 with IR version 8 (ONNX 1.12, 2022) has everything needed, and onnxruntime supports it from version 1.12.
//! Source: the operators' documentation of ONNX, docs/Operators.md.

use super::layout::filters;
use super::npz::little_endian;
use super::onnx_proto::{
    AttributeProto, Dimension, DimensionProto, FLOAT, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::window::Window;
use super::{ExportError, Facts, checked_shapes, python_text};
use crate::data::{CLASS_NAMES, N_CLASSES};
use crate::model::weights::WeightsError;
use crate::model::{Activation, Layer, LayerShape, Model};
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
/// Maximum size of a protobuf message in bytes; 64 KiB are reserved for everything but the parameters.
const MAX_BYTES: u64 = i32::MAX as u64 - (64 << 10);

/// Returns the bytes of an ONNX file.
///
/// # Errors
/// The model cannot be built or has more than 2 GiB of parameters, or the parameters do not belong to it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>], facts: &Facts) -> Result<Vec<u8>, ExportError> {
    check_size(model)?;
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
        python_text(file)
    )
}

fn check_size(model: &Model) -> Result<(), ExportError> {
    let values: u64 = model.parameters()?.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum();
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
        ("class_names", serde_json::Value::from(CLASS_NAMES.to_vec()).to_string()),
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
    let mut graph = Graph { value: INPUT.to_string(), ..Graph::default() };
    graph.constant("rescale.divisor", &[], &[255.0]);
    graph.apply("Div", "rescale", &["rescale.divisor"], vec![]);
    graph.apply("Transpose", "to_channels_first", &[], vec![AttributeProto::ints("perm", &[0, 3, 1, 2])]);
    for (filter, pair) in filters(shapes).iter().zip(parameters.chunks(2)) {
        graph.constant(&format!("{}.weight", filter.layer), &filter.torch_shape(), &filter.torch_values(&pair[0]));
        graph.constant(&format!("{}.bias", filter.layer), &[pair[1].len()], &pair[1]);
    }
    for shape in shapes {
        graph.layer(shape);
    }
    // The output of the last layer is the graph's output, so it takes that name.
    graph.rename_last(LOGITS);
    graph.apply("Softmax", PROBABILITIES, &[], vec![AttributeProto::int("axis", -1)]);
    // The checker requires a name, and a model file may leave it empty.
    let name = if model.name.is_empty() { "model" } else { &model.name };
    GraphProto {
        node: graph.nodes,
        name: Some(name.to_string()),
        initializer: graph.constants,
        input: vec![value_info(INPUT, &[h, w, c], "grey values 0 to 255")],
        output: vec![
            value_info(PROBABILITIES, &[N_CLASSES], "probabilities of the classes"),
            value_info(LOGITS, &[N_CLASSES], "scores before the softmax"),
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

/// A graph under construction: a chain of nodes, each reading the output of the previous one.
#[derive(Default)]
struct Graph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// The value that the next node reads.
    value: String,
}

impl Graph {
    fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.constants.push(TensorProto {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: Some(FLOAT),
            name: Some(name.to_string()),
            raw_data: Some(little_endian(values)),
        });
    }

    /// Adds a node that reads the last value and some constants; node and value have the same name.
    fn apply(&mut self, op: &str, name: &str, constants: &[&str], attribute: Vec<AttributeProto>) {
        let value = std::mem::replace(&mut self.value, name.to_string());
        let constants = constants.iter().map(|constant| constant.to_string());
        self.nodes.push(NodeProto {
            input: std::iter::once(value).chain(constants).collect(),
            output: vec![name.to_string()],
            name: Some(name.to_string()),
            op_type: Some(op.to_string()),
            attribute,
        });
    }

    fn rename_last(&mut self, value: &str) {
        if let Some(node) = self.nodes.last_mut() {
            node.output = vec![value.to_string()];
        }
        self.value = value.to_string();
    }

    fn layer(&mut self, shape: &LayerShape) {
        let name = &shape.name;
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        match &shape.layer {
            Layer::Conv2d { activation, .. } => {
                self.apply("Conv", name, &[&weight, &bias], window_attributes(shape));
                self.activate(name, *activation);
            }
            Layer::Dense { activation, .. } => {
                // The weight is [out, in].
                self.apply("Gemm", name, &[&weight, &bias], vec![AttributeProto::int("transB", 1)]);
                self.activate(name, *activation);
            }
            Layer::MaxPool2d { .. } => self.apply("MaxPool", name, &[], window_attributes(shape)),
            Layer::AveragePool2d { .. } => self.apply("AveragePool", name, &[], window_attributes(shape)),
            Layer::SumPool2d { .. } => self.sum_pool(shape),
            Layer::BatchNorm { .. } | Layer::Add | Layer::Gelu => {}
            Layer::Relu => self.apply("Relu", name, &[], vec![]),
            Layer::Flatten => self.apply("Flatten", name, &[], vec![AttributeProto::int("axis", 1)]),
        }
    }

    /// The softmax is a separate output.
    fn activate(&mut self, name: &str, activation: Activation) {
        if activation == Activation::Relu {
            self.apply("Relu", &format!("{name}.relu"), &[], vec![]);
        }
    }

    /// ONNX has no sum pooling: it is an average, counting the padding's zeros, times the number of cells in the
    /// window.
    fn sum_pool(&mut self, shape: &LayerShape) {
        let name = &shape.name;
        let cells = Window::of(shape).expect("a pooling has a window").cells();
        let mut attributes = window_attributes(shape);
        attributes.push(AttributeProto::int("count_include_pad", 1));
        self.apply("AveragePool", &format!("{name}.average"), &[], attributes);
        self.constant(&format!("{name}.cells"), &[], &[cells as f32]);
        self.apply("Mul", name, &[&format!("{name}.cells")], vec![]);
    }
}

/// Returns size, stride and padding. `auto_pad` is deprecated, and tools interpret it differently, so the padding is
/// explicit.
fn window_attributes(shape: &LayerShape) -> Vec<AttributeProto> {
    let Window { size, stride, begin, end } = Window::of(shape).expect("the layer has a window");
    vec![
        AttributeProto::ints("kernel_shape", &size),
        AttributeProto::ints("strides", &stride),
        AttributeProto::ints("pads", &[begin, end].concat()),
    ]
}
