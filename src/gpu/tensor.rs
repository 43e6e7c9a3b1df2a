//! Named, shaped ranges of GPU buffers.

/// The type of an element; all are four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floating point.
    F32,
    /// 32-bit unsigned integer (labels, argmax, packed pixels, counters).
    U32,
}

/// A named range of a GPU buffer with a shape. Cloning copies the handle, not the data.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(super) name: String,
    pub(super) buffer: wgpu::Buffer,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) element: Element,
}

impl Tensor {
    /// Returns the name, which is also the label of the buffer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the type of the elements.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Returns the size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.len() as u64 * 4
    }

    /// Returns where the range starts in its buffer, in elements.
    pub fn first_element(&self) -> usize {
        (self.offset / 4) as usize
    }

    /// Whether both tensors are ranges of one buffer.
    pub fn shares_buffer(&self, other: &Tensor) -> bool {
        self.buffer == other.buffer
    }

    /// Returns a range of this tensor under another name: `first` is an offset in elements.
    ///
    /// # Panics
    /// If the range exceeds the tensor, which is a mistake in the caller's arithmetic.
    pub fn slice(&self, name: impl Into<String>, first: usize, shape: &[usize]) -> Tensor {
        let len: usize = shape.iter().product();
        assert!(
            first + len <= self.len(),
            "slice {first}..{} of `{}`, which has {}",
            first + len,
            self.name,
            self.len()
        );
        Tensor {
            name: name.into(),
            buffer: self.buffer.clone(),
            offset: self.offset + first as u64 * 4,
            shape: shape.to_vec(),
            element: self.element,
        }
    }
}
