//! Matrix products by the crate `matrixmultiply`, behind a function that checks the sizes.
//!
//! Compared with the crate `gemm` 0.19 on one core with AVX-512, in GFLOP/s of a peak of about 240, median of 50, for
//! the sizes of the dense layers at batch 32 (forward, dx, dw; 784 inputs): `matrixmultiply` 118, 114, 144; `gemm` 122,
//! 136, 64. At batch 256: 142, 146, 149 against 132, 135, 135; the second convolution over patches: 120 against 99. It
//! also has the smaller dependency tree: two crates.

/// A matrix in a slice, stored by rows or by columns.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Creates a matrix `[rows, columns]`, stored row after row.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Matrix { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Returns the same matrix with rows and columns swapped.
    pub fn transposed(self) -> Self {
        let (rows, columns) = (self.columns, self.rows);
        let (row_stride, column_stride) = (self.column_stride, self.row_stride);
        Matrix { values: self.values, rows, columns, row_stride, column_stride }
    }

    /// Returns `n` columns starting at `first`.
    ///
    /// # Panics
    /// There are not that many columns.
    pub fn columns(self, first: usize, n: usize) -> Self {
        assert!(first + n <= self.columns, "columns {first}..{} of {}", first + n, self.columns);
        Matrix { values: &self.values[first * self.column_stride..], columns: n, ..self }
    }

    fn is_whole(&self) -> bool {
        // Of an empty matrix nothing is read.
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.values.len()
    }
}

/// Computes `y = a b`, or `y += a b` if `add`; y is `[a.rows, b.columns]`, stored row after row.
///
/// The order in which each element is summed depends only on the inner dimension, so rows may be divided among calls in
/// any way.
///
/// # Panics
/// The sizes do not fit each other or the slices.
pub fn matmul(a: Matrix<'_>, b: Matrix<'_>, add: bool, y: &mut [f32]) {
    assert_eq!(a.columns, b.rows, "inner dimensions of a matrix product");
    assert_eq!(y.len(), a.rows * b.columns, "elements of a matrix product");
    assert!(a.is_whole() && b.is_whole(), "a matrix is longer than its slice");
    let stride = |stride: usize| isize::try_from(stride).expect("a slice has at most isize::MAX bytes");
    // SAFETY: the assertions above check that every element that is read or written lies in its slice; `y` is borrowed
    // exclusively, so it overlaps neither `a` nor `b`, and its rows do not overlap each other.
    unsafe {
        matrixmultiply::sgemm(
            a.rows,
            a.columns,
            b.columns,
            1.0,
            a.values.as_ptr(),
            stride(a.row_stride),
            stride(a.column_stride),
            b.values.as_ptr(),
            stride(b.row_stride),
            stride(b.column_stride),
            if add { 1.0 } else { 0.0 },
            y.as_mut_ptr(),
            stride(b.columns),
            1,
        );
    }
}
