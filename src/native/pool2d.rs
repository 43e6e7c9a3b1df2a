//! Max, average and sum pooling; the results have the same bits as [`crate::cpu::pool2d`].
//!
//! The plain loops finish one channel after the other, whose cells are far apart in memory. Here a window is read cell by cell,
//! all channels of a cell at once.

use super::vectorized;
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
    /// Returns the position of each cell in the image, and the offset of its first channel.
    fn cells(&self, d: &Pool2dDims) -> impl Iterator<Item = (u32, usize)> {
        let positions =
            self.rows.clone().flat_map(move |row| self.columns.clone().map(move |column| row * d.w + column));
        positions.map(move |position| (position as u32, self.image + position * d.c))
    }

    /// Returns the number of cells.
    fn len(&self) -> f32 {
        (self.rows.len() * self.columns.len()) as f32
    }
}

/// Computes max pooling, with the position of each maximum in its image. Shapes: x `[N, H, W, C]`, y and argmax `[N, HO, WO, C]`.
pub fn pool2d_max_forward(d: &Pool2dDims, x: &[f32], y: &mut [f32], argmax: &mut [u32]) {
    vectorized(
        #[inline(always)]
        || {
            for window in windows(d) {
                let y = &mut y[window.y..][..d.c];
                let argmax = &mut argmax[window.y..][..d.c];
                for (i, (position, at)) in window.cells(d).enumerate() {
                    for ((y, argmax), &x) in y.iter_mut().zip(&mut *argmax).zip(&x[at..][..d.c]) {
                        let better = i == 0 || x > *y;
                        *y = if better { x } else { *y };
                        *argmax = if better { position } else { *argmax };
                    }
                }
            }
        },
    );
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
    vectorized(
        #[inline(always)]
        || {
            for window in windows(d) {
                let y = &mut y[window.y..][..d.c];
                y.fill(0.0);
                for (_, at) in window.cells(d) {
                    for (y, &x) in y.iter_mut().zip(&x[at..][..d.c]) {
                        *y += x;
                    }
                }
                let divisor = divisor(&window);
                for y in y {
                    *y /= divisor;
                }
            }
        },
    );
}

fn mean_backward_x(d: &Pool2dDims, divisor: fn(&Window) -> f32, dy: &[f32], dx: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            dx.fill(0.0);
            for window in windows(d) {
                let divisor = divisor(&window);
                for (_, at) in window.cells(d) {
                    for (dx, &dy) in dx[at..][..d.c].iter_mut().zip(&dy[window.y..][..d.c]) {
                        *dx += dy / divisor;
                    }
                }
            }
        },
    );
}
