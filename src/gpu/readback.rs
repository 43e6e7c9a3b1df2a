//! Asynchronous read-back: copies into a staging buffer as part of the submission, and maps the buffer when the work is
//! done.

use super::{Gpu, GpuError, Submission, Tensor};
use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};

/// A reusable staging buffer that tensors are copied into and read from.
#[derive(Debug)]
pub(crate) struct Readback {
    name: String,
    staging: wgpu::Buffer,
    words: usize,
    used: usize,
    pending: Option<OneshotReceiver<Result<(), wgpu::BufferAsyncError>>>,
}

impl Readback {
    /// Creates a staging buffer for `words` four-byte elements.
    pub(crate) fn new(gpu: &Gpu, name: &str, words: usize) -> Result<Self, GpuError> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer(&format!("{name} (read back)"), (words as u64 * 4).max(4), usage)?;
        Ok(Readback { name: name.to_string(), staging, words, used: 0, pending: None })
    }

    /// Records copies of `tensors`, one after the other.
    ///
    /// # Panics
    /// If they do not fit, or an earlier read has not been waited for: both are mistakes of the caller.
    pub(crate) fn record(&mut self, encoder: &mut wgpu::CommandEncoder, tensors: &[&Tensor]) {
        assert!(self.pending.is_none(), "`{}` is still being read", self.name);
        self.used = 0;
        for tensor in tensors {
            assert!(self.used + tensor.len() <= self.words, "`{}` has room for {} words", self.name, self.words);
            let (end, bytes) = (self.used as u64 * 4, tensor.size_bytes());
            encoder.copy_buffer_to_buffer(&tensor.buffer, tensor.offset, &self.staging, end, bytes);
            self.used += tensor.len();
        }
    }

    /// Requests the mapping; call it after the submission with the copies.
    pub(crate) fn begin(&mut self) {
        let (sender, receiver) = oneshot_channel();
        self.staging.map_async(wgpu::MapMode::Read, ..self.used as u64 * 4, move |result| {
            // The receiver is gone only if nobody wants the answer any more.
            let _ = sender.send(result);
        });
        self.pending = Some(receiver);
    }

    /// Waits for the mapping, which follows `submission`, and returns the words in the order of the recorded tensors.
    pub(crate) async fn wait(&mut self, gpu: &Gpu, submission: Submission) -> Result<Vec<u32>, GpuError> {
        gpu.drive(submission)?;
        let fail =
            |reason: String| GpuError::Readback { name: self.name.clone(), adapter: gpu.info().name.clone(), reason };
        let receiver = self.pending.take().ok_or_else(|| fail("no read was started".to_string()))?;
        let mapped = receiver.receive().await;
        gpu.check()?;
        let mapped = mapped.ok_or_else(|| fail("the driver dropped the request".to_string()))?;
        mapped.map_err(|error| fail(error.to_string()))?;
        let view = self.staging.get_mapped_range(..self.used as u64 * 4).map_err(|error| fail(error.to_string()))?;
        let words = bytemuck::pod_collect_to_vec::<u8, u32>(&view);
        drop(view);
        self.staging.unmap();
        Ok(words)
    }
}
