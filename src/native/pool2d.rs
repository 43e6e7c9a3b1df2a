//! Max, average and sum pooling; the results have the same bits as [`crate::cpu::pool2d`].
//!
//! The plain loops finish one channel after the other, whose cells are far apart in memory. Here a window is read cell by cell,
//! all channels of a cell at once.

use super::vectorized_loop;
use crate::cpu::pool2d::Pool2dDims;
use std::ops::Range;

/// The window of an output.
struct Window {
    /// The offset of the output's first channel.
    y: usize,
    /// The offset of its image.
    image: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Returns the windows in the order of the outputs.
fn windows(d: &Pool2dDims) -> impl Iterator<Item = Window> {
    let outputs = d.ho * d.wo;
    (0..d.n * outputs).map(move |at| Window {
        y: at * d.c,
        image: at / outputs * d.h * d.w * d.c,
        rows: d.rows(at % outputs / d.wo),
        columns: d.columns(at % d.wo),
    })
}

impl Window {
    /// Calls `f` with the position of each cell in the image, and the offset of its first channel.
    #[inline(always)]
    fn for_each_cell(&self, d: &Pool2dDims, mut f: impl FnMut(usize, usize)) {
        for row in self.rows.clone() {
            for column in self.columns.clone() {
                let position = row * d.w + column;
                f(position, self.image + position * d.c);
            }
        }
    }

    /// Returns the number of cells.
    fn len(&self) -> f32 {
        (self.rows.len() * self.columns.len()) as f32
    }
}

/// Computes max pooling, with the position of each maximum in its image. Shapes: x `[N, H, W, C]`, y and argmax `[N, HO, WO, C]`.
pub fn pool2d_max_forward(d: &Pool2dDims, x: &[f32], y: &mut [f32], argmax: &mut [u32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for window in windows(d) {
                let y = &mut y[window.y..][..d.c];
                let argmax = &mut argmax[window.y..][..d.c];
                let first = window.rows.start * d.w + window.columns.start;
                y.copy_from_slice(&x[window.image + first * d.c..][..d.c]);
                argmax.fill(first as u32);
                window.for_each_cell(d, |position, at| raise(&x[at..][..d.c], position as u32, y, argmax));
            }
        },
    );
}

/// Makes y the larger of y and x, and argmax the position where x is larger.
#[inline(always)]
fn raise(x: &[f32], position: u32, y: &mut [f32], argmax: &mut [u32]) {
    for ((y, argmax), &x) in y.iter_mut().zip(argmax).zip(x) {
        *argmax = if x > *y { position } else { *argmax };
        *y = if x > *y { x } else { *y };
    }
}

/// Computes the gradient of max pooling. Shapes: argmax and dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
pub fn pool2d_max_backward_x(d: &Pool2dDims, argmax: &[u32], dy: &[f32], dx: &mut [f32]) {
    dx.fill(0.0);
    for window in windows(d) {
        let chosen = argmax[window.y..][..d.c].iter().zip(&dy[window.y..][..d.c]);
        for (c, (&position, &dy)) in chosen.enumerate() {
            dx[window.image + position as usize * d.c + c] += dy;
        }
    }
}

/// Computes average pooling: the mean of the window's cells inside the image. Shapes: x `[N, H, W, C]`, y `[N, HO, WO, C]`.
pub fn pool2d_average_forward(d: &Pool2dDims, x: &[f32], y: &mut [f32]) {
    mean_forward(d, Window::len, x, y);
}

/// Computes the gradient of average pooling. Shapes: dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
pub fn pool2d_average_backward_x(d: &Pool2dDims, dy: &[f32], dx: &mut [f32]) {
    mean_backward_x(d, Window::len, dy, dx);
}

/// Computes sum pooling. Shapes: x `[N, H, W, C]`, y `[N, HO, WO, C]`.
pub fn pool2d_sum_forward(d: &Pool2dDims, x: &[f32], y: &mut [f32]) {
    mean_forward(d, |_| 1.0, x, y);
}

/// Computes the gradient of sum pooling. Shapes: dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
pub fn pool2d_sum_backward_x(d: &Pool2dDims, dy: &[f32], dx: &mut [f32]) {
    mean_backward_x(d, |_| 1.0, dy, dx);
}

fn mean_forward(d: &Pool2dDims, divisor: fn(&Window) -> f32, x: &[f32], y: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for window in windows(d) {
                let y = &mut y[window.y..][..d.c];
                y.fill(0.0);
                window.for_each_cell(d, |_, at| {
                    for (y, &x) in y.iter_mut().zip(&x[at..][..d.c]) {
                        *y += x;
                    }
                });
                let divisor = divisor(&window);
                for y in y {
                    *y /= divisor;
                }
            }
        },
    );
}

fn mean_backward_x(d: &Pool2dDims, divisor: fn(&Window) -> f32, dy: &[f32], dx: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            dx.fill(0.0);
            for window in windows(d) {
                let divisor = divisor(&window);
                let dy = &dy[window.y..][..d.c];
                window.for_each_cell(d, |_, at| {
                    for (dx, &dy) in dx[at..][..d.c].iter_mut().zip(dy) {
                        *dx += dy / divisor;
                    }
                });
            }
        },
    );
}
