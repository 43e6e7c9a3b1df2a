//! ONNX: the model as a graph of standard operators, opset 17.
//!
//! Input `pixels`, float32 `[batch, 28, 28, 1]` from 0 to 255; output `probabilities`, float32 `[batch, 10]`. Inside, channels
//! come first, as ONNX's Conv and pooling demand; the rows of the first dense layer are in that order too, so that nothing is
//! transposed back. Metadata: `class_names` (a JSON list), `model`, `dataset`, `test_accuracy`.
//! Source: onnx/onnx.proto and the operators' descriptions at opset 17.

use super::layout::{Window, filters_first, layers, outputs_first};
use super::{About, ExportError, Exported};
use crate::data::{CLASS_NAMES, IMAGE_SIDE};
use crate::model::{Activation, Layer, Model, N_CLASSES};
use prost::Message;

/// Operators of this version are used; anything that reads ONNX since 2021 knows it.
pub const OPSET: i64 = 17;
/// The version of the file format that came with opset 17.
const IR_VERSION: i64 = 8;

const FLOAT: i32 = 1;

/// Name of the graph's input.
pub const INPUT: &str = "pixels";
/// Name of the graph's output.
pub const OUTPUT: &str = "probabilities";

/// `model.onnx`; see the module for what it holds.
///
/// # Errors
/// The model cannot be built.
pub fn export(model: &Model, parameters: &[Vec<f32>], about: &About) -> Result<Exported, ExportError> {
    let mut graph = Graph::default();
    graph.constant("scale", &[], vec![255.0]);
    graph.node("scaled", "Div", &[INPUT, "scale"], vec![]);
    graph.node("channels_first", "Transpose", &["scaled"], vec![ints("perm", &[0, 3, 1, 2])]);
    let mut x = "channels_first".to_string();
    for layer in layers(model, parameters)? {
        let name = &layer.shape.name;
        if let [w, b] = layer.parameters {
            let shapes: Vec<Vec<usize>> = layer.shape.parameters().into_iter().map(|p| p.shape).collect();
            let (shape, values) = match shapes[0][..] {
                [kh, kw, c, o] => (vec![o, c, kh, kw], filters_first(w, [kh, kw, c, o])),
                [inputs, outputs] => (vec![outputs, inputs], outputs_first(w, [inputs, outputs], layer.flattened)),
                _ => unreachable!("weights have four dimensions or two"),
            };
            graph.constant(&format!("{name}.weight"), &shape, values);
            graph.constant(&format!("{name}.bias"), &shapes[1], b.clone());
        }
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let window = Window::of(&layer.shape);
        let windowed = |more: &[Attribute]| {
            let Window { kernel, strides, pads } = window.expect("convolutions and poolings have a window");
            let mut attributes = vec![ints("kernel_shape", &kernel), ints("strides", &strides), ints("pads", &pads)];
            attributes.extend_from_slice(more);
            attributes
        };
        let mut activation = Activation::None;
        match &layer.shape.layer {
            Layer::Conv2d { activation: after, .. } => {
                graph.node(name, "Conv", &[&x, &weight, &bias], windowed(&[]));
                activation = *after;
            }
            Layer::MaxPool2d { .. } => graph.node(name, "MaxPool", &[&x], windowed(&[])),
            Layer::AveragePool2d { .. } => {
                graph.node(name, "AveragePool", &[&x], windowed(&[int("count_include_pad", 0)]));
            }
            Layer::SumPool2d { .. } => {
                // An average that counts the padding is the sum divided by the same number everywhere.
                let average = format!("{name}.average");
                let area = format!("{name}.area");
                graph.node(&average, "AveragePool", &[&x], windowed(&[int("count_include_pad", 1)]));
                let [kh, kw] = window.expect("poolings have a window").kernel;
                graph.constant(&area, &[], vec![(kh * kw) as f32]);
                graph.node(name, "Mul", &[&average, &area], vec![]);
            }
            Layer::Relu => graph.node(name, "Relu", &[&x], vec![]),
            Layer::Flatten => graph.node(name, "Flatten", &[&x], vec![int("axis", 1)]),
            Layer::Dense { activation: after, .. } => {
                graph.node(name, "Gemm", &[&x, &weight, &bias], vec![int("transB", 1)]);
                activation = *after;
            }
        }
        x.clone_from(name);
        if activation == Activation::Relu {
            x = format!("{name}.relu");
            graph.node(&x, "Relu", &[name], vec![]);
        }
    }
    graph.node(OUTPUT, "Softmax", &[&x], vec![int("axis", 1)]);
    let side = Dimension::of(IMAGE_SIDE);
    let file = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "fmnist-gpu".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        model_version: 1,
        doc_string:
            "Classifies images of clothing as in Fashion-MNIST: 28 x 28 grey values, 0 background, 255 full ink.".into(),
        graph: Some(GraphProto {
            node: graph.nodes,
            name: model.name.clone(),
            initializer: graph.constants,
            input: vec![value(INPUT, vec![Dimension::batch(), side.clone(), side, Dimension::of(1)])],
            output: vec![value(OUTPUT, vec![Dimension::batch(), Dimension::of(N_CLASSES)])],
        }),
        opset_import: vec![OperatorSetId { domain: String::new(), version: OPSET }],
        metadata_props: metadata(model, about),
    };
    Ok(Exported { bytes: file.encode_to_vec(), python: PYTHON.to_string() })
}

const PYTHON: &str = r#"import json, numpy as np, onnxruntime as ort
session = ort.InferenceSession("{file}")
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
pixels = np.zeros((1, 28, 28, 1), np.float32)  # 0 to 255, 0 is background; any number of images
probabilities = session.run(["probabilities"], {"pixels": pixels})[0]
print(names[probabilities[0].argmax()], probabilities[0].max())"#;

fn metadata(model: &Model, about: &About) -> Vec<StringPair> {
    let names = serde_json::to_string(&CLASS_NAMES).expect("a list of strings has a JSON form");
    let accuracy = about.test_accuracy.map(|accuracy| format!("{accuracy}"));
    let pairs = [
        ("class_names", Some(names)),
        ("model", Some(model.name.clone())),
        ("dataset", about.dataset.clone()),
        ("test_accuracy", accuracy),
    ];
    let known = pairs.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
    known.map(|(key, value)| StringPair { key: key.to_string(), value }).collect()
}

/// A graph as it grows. Each node's output has the node's name.
#[derive(Default)]
struct Graph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl Graph {
    fn node(&mut self, name: &str, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![name.to_string()],
            name: name.to_string(),
            op_type: operator.to_string(),
            attribute: attributes,
        });
    }

    fn constant(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        self.constants.push(TensorProto {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: FLOAT,
            name: name.to_string(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
    }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_string(), i: Some(value), ints: vec![], kind: 2 }
}

fn ints(name: &str, values: &[usize]) -> Attribute {
    Attribute { name: name.to_string(), i: None, ints: values.iter().map(|&v| v as i64).collect(), kind: 7 }
}

fn value(name: &str, dim: Vec<Dimension>) -> ValueInfo {
    let tensor = TensorType { elem_type: FLOAT, shape: Some(TensorShape { dim }) };
    ValueInfo { name: name.to_string(), kind: Some(TypeProto { tensor_type: Some(tensor) }) }
}

impl Dimension {
    fn of(size: usize) -> Self {
        Dimension { value: Some(dimension::Value::Size(size as i64)) }
    }

    fn batch() -> Self {
        Dimension { value: Some(dimension::Value::Name("batch".to_string())) }
    }
}

// The messages of onnx.proto, as far as they are used; the numbers are those of its fields.

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(int64, tag = "5")]
    model_version: i64,
    #[prost(string, tag = "6")]
    doc_string: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetId>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<StringPair>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSetId {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StringPair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    /// 2 for an integer, 7 for a list of them.
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    /// Little-endian.
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShape>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(oneof = "dimension::Value", tags = "1, 2")]
    value: Option<dimension::Value>,
}

mod dimension {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(int64, tag = "1")]
        Size(i64),
        #[prost(string, tag = "2")]
        Name(String),
    }
}
