//! Named, shaped ranges of GPU buffers: how they are created, written and read back.

use super::{Gpu, GpuError, Readback};
use bytemuck::Pod;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

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

    /// Returns a tensor of integers as one of numbers: the same bits.
    pub(crate) fn into_floats(self) -> Tensor {
        Tensor { element: Element::F32, ..self }
    }

    /// Records a copy of the first elements of another tensor, as many as this one has.
    pub(crate) fn copy_from(&self, encoder: &mut wgpu::CommandEncoder, from: &Tensor) {
        encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &self.buffer, self.offset, self.size_bytes());
    }

    /// Returns a range of this tensor under another name: `first` is an offset in elements.
    ///
    /// # Panics
    /// If the range exceeds the tensor, which is a mistake in the caller's arithmetic.
    pub fn slice(&self, name: impl Into<String>, first: usize, shape: &[usize]) -> Tensor {
        let len: usize = shape.iter().product();
        let end = first + len;
        assert!(end <= self.len(), "slice {first}..{end} of `{}`, which has {}", self.name, self.len());
        let offset = self.offset + first as u64 * 4;
        Tensor { name: name.into(), offset, shape: shape.to_vec(), ..self.clone() }
    }
}

impl Gpu {
    /// Creates an uninitialized tensor in its own buffer (wgpu returns zeroed memory).
    ///
    /// # Errors
    /// The tensor exceeds the device's binding limit, or memory runs out.
    pub fn tensor(&self, name: &str, shape: &[usize], element: Element) -> Result<Tensor, GpuError> {
        let len: usize = shape.iter().product();
        // A binding of zero bytes is not allowed, so an empty tensor is given room for one element.
        let bytes = (len as u64 * 4).max(4);
        let allowed = self.limits().max_storage_buffer_binding_size.min(self.limits().max_buffer_size);
        if bytes > allowed {
            let adapter = self.info().name.clone();
            return Err(GpuError::TensorTooLarge { name: name.to_string(), bytes, allowed, adapter });
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = self.buffer(name, bytes, usage)?;
        Ok(Tensor { name: name.to_string(), buffer, offset: 0, shape: shape.to_vec(), element })
    }

    /// Creates a tensor of floats, filled from `data`.
    ///
    /// # Errors
    /// As [`Gpu::tensor`].
    pub fn tensor_from(&self, name: &str, shape: &[usize], data: &[f32]) -> Result<Tensor, GpuError> {
        let tensor = self.tensor(name, shape, Element::F32)?;
        self.write(&tensor, data);
        Ok(tensor)
    }

    /// As [`Gpu::tensor_from`], for unsigned integers.
    ///
    /// # Errors
    /// As [`Gpu::tensor`].
    pub fn tensor_from_u32(&self, name: &str, shape: &[usize], data: &[u32]) -> Result<Tensor, GpuError> {
        let tensor = self.tensor(name, shape, Element::U32)?;
        self.write_u32(&tensor, data);
        Ok(tensor)
    }

    /// Creates tensors of the given names and shapes side by side in one buffer, each at an offset that can be bound.
    ///
    /// Returns the whole buffer as one tensor (including the padding, zeroed) and the parts in order.
    ///
    /// # Errors
    /// As [`Gpu::tensor`].
    pub fn arena(
        &self,
        name: &str,
        element: Element,
        parts: &[(String, Vec<usize>)],
    ) -> Result<(Tensor, Vec<Tensor>), GpuError> {
        let align = self.limits().min_storage_buffer_offset_alignment as usize / 4;
        let room = |shape: &[usize]| shape.iter().product::<usize>().next_multiple_of(align);
        let whole = self.tensor(name, &[parts.iter().map(|(_, shape)| room(shape)).sum()], element)?;
        let (mut tensors, mut first) = (Vec::with_capacity(parts.len()), 0);
        for (part, shape) in parts {
            tensors.push(whole.slice(format!("{name}.{part}"), first, shape));
            first += room(shape);
        }
        Ok((whole, tensors))
    }

    pub(super) fn buffer(&self, name: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, GpuError> {
        // A scope answers at once, except in a browser: so that nobody has to await a tensor, there is none there. If memory runs out, the
        // handler of uncaptured errors hears of it, and the next submission or read-back fails.
        let memory = !cfg!(target_family = "wasm");
        let memory = memory.then(|| self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory));
        let descriptor = wgpu::BufferDescriptor { label: Some(name), size: bytes, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        let answer = memory.map(|scope| pin!(scope.pop()).poll(&mut Context::from_waker(Waker::noop())));
        let Some(Poll::Ready(Some(error))) = answer else { return Ok(buffer) };
        let (adapter, name) = (self.info().name.clone(), name.to_string());
        Err(GpuError::OutOfMemory { adapter, name, bytes, reason: error.to_string() })
    }

    /// Queues the upload of `data` into `tensor`, ahead of the next submission.
    ///
    /// # Panics
    /// If `data` has a different element type or is longer than the tensor, which is a mistake in the caller's
    /// arithmetic.
    pub fn write(&self, tensor: &Tensor, data: &[f32]) {
        self.upload(tensor, Element::F32, data);
    }

    /// As [`Gpu::write`], for unsigned integers.
    pub fn write_u32(&self, tensor: &Tensor, data: &[u32]) {
        self.upload(tensor, Element::U32, data);
    }

    /// As [`Gpu::write`], as bits of elements of either type.
    pub(super) fn write_words(&self, tensor: &Tensor, words: &[u32]) {
        self.upload(tensor, tensor.element, words);
    }

    fn upload<T: Pod>(&self, tensor: &Tensor, element: Element, data: &[T]) {
        assert!(tensor.element == element && data.len() <= tensor.len(), "write {} into `{}`", data.len(), tensor.name);
        self.queue.write_buffer(&tensor.buffer, tensor.offset, bytemuck::cast_slice(data));
    }

    /// As [`Gpu::write`], for as many bytes as the tensor has, packed four to an element.
    pub(crate) fn write_bytes(&self, tensor: &Tensor, bytes: &[u8]) {
        assert!(bytes.len() as u64 == tensor.size_bytes(), "write {} bytes into `{}`", bytes.len(), tensor.name);
        self.queue.write_buffer(&tensor.buffer, tensor.offset, bytes);
    }

    /// Reads back the bits of a tensor's elements, waiting for them.
    ///
    /// # Errors
    /// The device was lost or reported an error.
    pub async fn read_words(&self, tensor: &Tensor) -> Result<Vec<u32>, GpuError> {
        let mut readback = Readback::new(self, &tensor.name, tensor.len())?;
        let mut encoder = self.encoder("read back");
        readback.record(&mut encoder, &[tensor]);
        let submission = self.submit(encoder.finish())?;
        readback.begin();
        readback.wait(self, submission).await
    }

    /// Reads back a tensor of floats, waiting for it.
    ///
    /// # Errors
    /// The device was lost or reported an error.
    pub async fn read(&self, tensor: &Tensor) -> Result<Vec<f32>, GpuError> {
        debug_assert!(tensor.element == Element::F32);
        Ok(self.read_words(tensor).await?.into_iter().map(f32::from_bits).collect())
    }
}
