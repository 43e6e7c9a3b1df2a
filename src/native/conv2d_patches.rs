//! The convolution as matrix products over patches, which work for every shape: what the filter sees at each position is
//! one row of a matrix.

use super::conv2d::{Conv2d, Scratch, Sums, add};
use super::{Matrix, matmul};
use crate::cpu::pool2d::pool2d_max_forward;
use std::ops::Range;

impl Conv2d {
    /// As [`Conv2d::forward`], for one image.
    pub(super) fn forward_by_patches(
        &self,
        [x, w, b]: [&[f32]; 3],
        y: &mut [f32],
        argmax: &mut [u32],
        scratch: &mut Scratch,
    ) {
        let d = &self.d;
        let (convolved, pooled) = match &self.pool {
            Some(pool) => (&mut scratch.rows[..d.y_len()], Some((pool, y))),
            None => (y, None),
        };
        for row in convolved.chunks_exact_mut(d.o) {
            row.copy_from_slice(b);
        }
        for band in self.bands() {
            let y = &mut convolved[band.start * d.wo * d.o..band.end * d.wo * d.o];
            let patches = self.gather_patches(x, band, &mut scratch.patches);
            matmul(patches, Matrix::new(w, d.terms(), d.o), true, y);
        }
        if self.relu {
            for y in convolved.iter_mut() {
                *y = if *y > 0.0 { *y } else { 0.0 };
            }
        }
        if let Some((pool, y)) = pooled {
            pool2d_max_forward(pool, convolved, y, argmax);
        }
    }

    /// As [`Conv2d::backward`], for one image.
    pub(super) fn backward_by_patches(
        &self,
        masked: bool,
        [x, w, dy]: [&[f32]; 3],
        argmax: &[u32],
        mut sums: Sums<'_>,
        mut dx: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) {
        let d = &self.d;
        let Scratch { patches: room, rows, .. } = scratch;
        let dy = self.unpooled(dy, argmax, rows);
        if let Some(dx) = &mut dx {
            dx.fill(0.0);
        }
        for band in self.bands() {
            let dy = &dy[band.start * d.wo * d.o..band.end * d.wo * d.o];
            let dy = Matrix::new(dy, band.len() * d.wo, d.o);
            if let Some([dw, _]) = &mut sums {
                let patches = self.gather_patches(x, band.clone(), room);
                matmul(patches.transposed(), dy, true, dw);
            }
            if let Some(dx) = &mut dx {
                let patches = &mut room[..band.len() * d.wo * d.terms()];
                matmul(dy, Matrix::new(w, d.terms(), d.o).transposed(), false, patches);
                self.for_each_patch_row(band, |patch_at, x_at, len| {
                    add(&patches[patch_at..][..len], &mut dx[x_at..][..len])
                });
            }
        }
        if let Some([_, db]) = sums {
            dy.chunks_exact(d.o).for_each(|dy| add(dy, db));
        }
        if let (Some(dx), true) = (dx, masked) {
            super::mask(x, dx);
        }
    }

    /// Returns the number of output rows whose patches are built together: few enough to stay in cache, whatever the
    /// size of the image.
    pub(super) fn band(&self) -> usize {
        const NEAR: usize = 1 << 16;
        (NEAR / (self.d.wo * self.d.terms())).clamp(1, self.d.ho)
    }

    fn bands(&self) -> impl Iterator<Item = Range<usize>> {
        let (rows, band) = (self.d.ho, self.band());
        (0..rows).step_by(band).map(move |first| first..rows.min(first + band))
    }

    /// Builds one row per position of some rows of the output: what the filter sees there, zeros outside the image.
    /// `[positions, KH * KW * C]`.
    fn gather_patches<'a>(&self, x: &[f32], rows: Range<usize>, patches: &'a mut [f32]) -> Matrix<'a> {
        let n = rows.len() * self.d.wo;
        let patches = &mut patches[..n * self.d.terms()];
        patches.fill(0.0);
        self.for_each_patch_row(rows, |patch_at, x_at, len| {
            patches[patch_at..][..len].copy_from_slice(&x[x_at..][..len]);
        });
        Matrix::new(patches, n, self.d.terms())
    }

    /// Calls `f` for each row of a window that overlaps the image: its offset in the patches of some rows of the
    /// output, its offset in the image, and its length.
    fn for_each_patch_row(&self, rows: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let d = &self.d;
        let first_row = rows.start;
        for i in rows {
            for j in 0..d.wo {
                let patch = ((i - first_row) * d.wo + j) * d.terms();
                // The columns of the window that lie inside the image.
                let first = d.pad_left.saturating_sub(j * d.stride_w).min(d.kw);
                let end = (d.w + d.pad_left).saturating_sub(j * d.stride_w).min(d.kw);
                for p in 0..d.kh {
                    let row = (i * d.stride_h + p).checked_sub(d.pad_top).filter(|&row| row < d.h);
                    let (Some(row), true) = (row, first < end) else { continue };
                    let column = j * d.stride_w + first - d.pad_left;
                    f(patch + (p * d.kw + first) * d.c, (row * d.w + column) * d.c, (end - first) * d.c);
                }
            }
        }
    }
}
