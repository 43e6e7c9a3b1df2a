//! The encoding of `onnx.proto`: a message is its fields, one after the other, with the numbers of the standard.
//!
//! Written by hand, so that the build does not need protoc. Source: onnx/onnx.proto of ONNX 1.12 (IR version 8). A number that is 0
//! and a text that is empty are written too, which ONNX's checker requires.

/// `TensorProto.DataType.FLOAT`, single precision.
pub(super) const FLOAT: i64 = 1;

/// An encoded message; its fields are added in the order of their numbers.
#[derive(Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    /// Adds an integer or a constant of an enumeration.
    pub(super) fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    /// Adds a number in single precision.
    pub(super) fn float(mut self, field: u64, value: f32) -> Self {
        self.varint((field << 3) | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds a text, bytes or a message.
    pub(super) fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.varint((field << 3) | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Adds sizes, each as an integer: all fit, since they are less than 2^32.
    pub(super) fn sizes(self, field: u64, sizes: &[usize]) -> Self {
        sizes.iter().fold(self, |message, &size| message.int(field, size as i64))
    }

    /// Adds several texts or messages.
    pub(super) fn all(self, field: u64, values: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        values.into_iter().fold(self, |message, value| message.bytes(field, value))
    }

    /// Adds an integer by seven bits per byte, the lowest first; the highest bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
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
