//! Fully connected layer; see [`crate::cpu::dense`].

use super::dense_direct::{self, BackwardW, BackwardX, Forward};
use super::{Matrix, lanes, matmul, vectorized, vectorized_loop};
use crate::cpu::dense::DenseDims;
use std::ops::Range;

/// Computes `y = x w + b`, followed by ReLU if `with_relu`. Shapes: x `[N, I]`, w `[I, O]`, b `[O]`, y `[N, O]`.
pub fn dense_forward(d: &DenseDims, with_relu: bool, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
    if dense_direct::suits(d, lanes()) {
        return in_tiles(Forward { d, relu: with_relu, x, w, b, y });
    }
    for row in y.chunks_exact_mut(d.o) {
        row.copy_from_slice(b);
    }
    matmul(Matrix::new(x, d.n, d.i), Matrix::new(w, d.i, d.o), true, y);
    if with_relu {
        relu(y);
    }
}

/// Computes the products `y` of some inputs and their weights. Shapes: x `[N, I]`, w `[I, O]`, y `[N, O]`.
pub fn dense_products(d: &DenseDims, inputs: Range<usize>, x: &[f32], w: &[f32], y: &mut [f32]) {
    let of_inputs = &w[inputs.start * d.o..inputs.end * d.o];
    if dense_direct::suits(d, lanes()) {
        in_tiles(Forward { d, relu: false, x: &x[inputs.start..], w: of_inputs, b: &[], y });
    } else {
        let x = Matrix::new(x, d.n, d.i).columns(inputs.start, inputs.len());
        matmul(x, Matrix::new(of_inputs, inputs.len(), d.o), false, y);
    }
}

/// One function for both: the module of the page has to be small.
#[inline(never)]
fn in_tiles(forward: Forward<'_>) {
    vectorized(forward);
}

/// Adds the products of some inputs to those of others.
pub fn add_products(products: &[f32], y: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || y.iter_mut().zip(products).for_each(|(y, product)| *y += product),
    );
}

/// Sets what is not above zero to zero.
pub fn relu(y: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || y.iter_mut().for_each(|y| *y = if *y > 0.0 { *y } else { 0.0 }),
    );
}

/// Computes the gradient of the input, `dy w^T`. If `masked` (x is the output of a ReLU), it is zero where x is not
/// above zero.
///
/// Shapes: x and dx `[N, I]`, w `[I, O]`, dy `[N, O]`.
pub fn dense_backward_x(d: &DenseDims, masked: bool, x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32]) {
    if BackwardX::suits(d, lanes()) {
        vectorized(BackwardX { d, w, dy, dx });
    } else {
        matmul(Matrix::new(dy, d.n, d.o), Matrix::new(w, d.i, d.o).transposed(), false, dx);
    }
    if masked {
        super::mask(x, dx);
    }
}

/// Computes rows of the gradient of the weights, `x^T dy`, starting at row `first`, as many as fit into `dw`.
///
/// Shapes: x `[N, I]`, dy `[N, O]`, dw `[rows, O]`.
pub fn dense_backward_w(d: &DenseDims, x: &[f32], dy: &[f32], first: usize, dw: &mut [f32]) {
    if dense_direct::suits(d, lanes()) {
        vectorized(BackwardW { d, x, dy, first, dw });
        return;
    }
    let rows = Matrix::new(x, d.n, d.i).columns(first, dw.len() / d.o).transposed();
    matmul(rows, Matrix::new(dy, d.n, d.o), false, dw);
}
