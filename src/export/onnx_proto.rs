//! The encoding of `onnx.proto`: a message is its fields, one after the other, with the numbers of the standard.
//!
//! The fields are listed by hand, so that the build does not need protoc; prost encodes them. Source: onnx/onnx.proto of ONNX 1.12 (IR version 8). A number that is 0
//! and a text that is empty are written too, which ONNX's checker requires.

use prost::encoding::{self, WireType};

/// `TensorProto.DataType.FLOAT`, single precision.
pub(super) const FLOAT: i64 = 1;

/// An encoded message; its fields are added in the order of their numbers.
#[derive(Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    /// Adds an integer or a constant of an enumeration.
    pub(super) fn int(mut self, field: u32, value: i64) -> Self {
        encoding::int64::encode(field, &value, &mut self.0);
        self
    }

    /// Adds a number in single precision.
    pub(super) fn float(mut self, field: u32, value: f32) -> Self {
        encoding::float::encode(field, &value, &mut self.0);
        self
    }

    /// Adds a text, bytes or a message.
    pub(super) fn bytes(mut self, field: u32, value: impl AsRef<[u8]>) -> Self {
        encoding::encode_key(field, WireType::LengthDelimited, &mut self.0);
        encoding::encode_varint(value.as_ref().len() as u64, &mut self.0);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    /// Adds sizes, each as an integer: all fit, since they are less than 2^32.
    pub(super) fn sizes(self, field: u32, sizes: &[usize]) -> Self {
        sizes.iter().fold(self, |message, &size| message.int(field, size as i64))
    }

    /// Adds several texts or messages.
    pub(super) fn all(self, field: u32, values: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        values.into_iter().fold(self, |message, value| message.bytes(field, value))
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// `AttributeProto`: name (1), the value as f (2), i (3) or ints (8), type (20: FLOAT 1, INT 2, INTS 7).

/// An attribute of an operation: a number, in single precision.
pub(super) fn float_attribute(name: &str, value: f64) -> Message {
    Message::default().bytes(1, name).float(2, value as f32).int(20, 1)
}

/// An attribute of an operation: an integer.
pub(super) fn int_attribute(name: &str, value: i64) -> Message {
    Message::default().bytes(1, name).int(3, value).int(20, 2)
}

/// An attribute of an operation: several sizes.
pub(super) fn sizes_attribute(name: &str, sizes: &[usize]) -> Message {
    Message::default().bytes(1, name).sizes(8, sizes).int(20, 7)
}
