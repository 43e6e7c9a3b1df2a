//! Arrays that start at the beginning of a cache line, so that no vector crosses two lines: such a load costs twice as
//! much, which made the convolution a third slower.

use bytemuck::{Pod, Zeroable};
use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// A fixed number of `f32` or `u32` elements, initially zero.
#[derive(Clone, Debug, Default)]
pub struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Aligned<T> {
    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn zeros(len: usize) -> Result<Self, TryReserveError> {
        const { assert!(size_of::<T>() == size_of::<u32>()) };
        let mut lines = Vec::new();
        let n_lines = len.div_ceil(16);
        lines.try_reserve_exact(n_lines)?;
        lines.resize(n_lines, Line([0; 16]));
        Ok(Aligned { lines, len, element: PhantomData })
    }

    /// Makes room for at least `len` elements; the previous content may be lost.
    pub fn grow(&mut self, len: usize) {
        self.len = self.len.max(len);
        self.lines.resize(self.len.div_ceil(16), Line([0; 16]));
    }
}

impl<T: Pod> From<&[T]> for Aligned<T> {
    fn from(values: &[T]) -> Self {
        let lines = vec![Line([0; 16]); values.len().div_ceil(16)];
        let mut aligned = Aligned { lines, len: values.len(), element: PhantomData };
        aligned.copy_from_slice(values);
        aligned
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
