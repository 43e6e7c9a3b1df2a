//! How the gradient of a filter is split into parts, which a second dispatch or the optimizer adds up.

use super::conv2d::{CELLS_PER_LANE, Conv2dDims, by_4, sums_in_registers};
use super::{Form, SharedTiles};
use crate::gpu::{Constant, workgroups_linear};

/// Returns the number of rows of the filter's gradient: its cells and the bias.
pub(super) fn dw_rows(d: &Conv2dDims) -> usize {
    d.kh * d.kw * d.c + 1
}

/// How the sum of the filter's gradient over all positions of the batch is split into parts, each computed by a set of
/// tiles.
///
/// The filter has few cells, so its gradient alone would keep few cores busy: the batch is split until there are some
/// tens of workgroups (on a CPU) or hundreds (on a GPU). The count depends only on the shapes and the form, so results
/// are reproducible.
pub(super) struct Split {
    pub(super) parts: usize,
    pub(super) constant: Constant,
    pub(super) workgroups: [u32; 3],
}

impl Split {
    /// Splits by whole images, for the plain and the subgroup forms.
    fn by_images(form: Form, d: &Conv2dDims) -> Split {
        // Of the plain form, for one part. Four by four, the bias is computed along with the cells.
        let invocations = if by_4(d) { d.w_len() / 16 } else { dw_rows(d) * d.o };
        let tiles = match form {
            Form::Subgroup(lanes) => [(d.kh * d.kw * d.c).div_ceil(CELLS_PER_LANE * lanes), d.o.div_ceil(4 * lanes)],
            _ => [invocations.div_ceil(64), 1],
        };
        let parts = 32usize.div_ceil(tiles[0] * tiles[1]).clamp(1, d.n);
        // lavapipe stops an invocation's loops after 65,535 iterations in total, including the last one of each loop, which only finds
        // that its condition is false; the sum would silently be incomplete. The loops that store need some of them too.
        let rounds_per_image = d.ho * (d.wo + 2) + 2;
        let images_per_part = d.n.div_ceil(parts).min((65_000 / rounds_per_image).max(1));
        let parts = d.n.div_ceil(images_per_part);
        let workgroups = match form {
            Form::Subgroup(_) => [tiles[0] as u32, tiles[1] as u32, parts as u32],
            _ => workgroups_linear(parts * invocations, 64),
        };
        Split { parts, constant: ("IMAGES_PER_PART", images_per_part as f64), workgroups }
    }

    /// Splits by positions, for workgroup memory. `width` is the number of columns that the tiles are made for; `more`
    /// workgroups do other work in the same dispatch.
    fn by_positions(tiles: SharedTiles, d: &Conv2dDims, width: usize, more: usize) -> Split {
        let n_tiles = tiles.tiles_as(width, dw_rows(d), d.o);
        let positions = d.n * d.ho * d.wo;
        let positions_per_part = tiles.steps_per_part(n_tiles, positions);
        let parts = positions.div_ceil(positions_per_part);
        let workgroups = workgroups_linear(n_tiles * parts + more, 1);
        Split { parts, constant: ("POSITIONS_PER_PART", positions_per_part as f64), workgroups }
    }

    /// Splits by positions, or by windows of a pooling, for sums in registers.
    fn by_strips(tiles: SharedTiles, d: &Conv2dDims, pooled: bool) -> Split {
        let [_, columns] = tiles.tile(d.o);
        let n_tiles = d.o.div_ceil(columns);
        let positions = if pooled { d.y_len() / d.o / 4 } else { d.y_len() / d.o };
        // As in `by_images`: an invocation's loops must not have more iterations than lavapipe allows.
        let longest = 65_000 / (dw_rows(d) + 2) * (256 / columns);
        let positions_per_part = tiles.steps_per_part(n_tiles, positions).min(longest);
        let parts = positions.div_ceil(positions_per_part);
        let workgroups = workgroups_linear(n_tiles * parts, 1);
        Split { parts, constant: ("POSITIONS_PER_PART", positions_per_part as f64), workgroups }
    }
}

/// Returns how the gradient of the filter alone is split.
pub(super) fn split_w(form: Form, d: &Conv2dDims, pooled: bool) -> Split {
    match form {
        Form::Shared(tiles) if sums_in_registers(form, d) => Split::by_strips(tiles, d, pooled),
        Form::Shared(tiles) => Split::by_positions(tiles, d, d.o, 0),
        _ => Split::by_images(form, d),
    }
}

/// Returns the number of parts of the gradient of the filter with tiles in workgroup memory, computed along with that of the input if `dx`.
pub fn parts(tiles: SharedTiles, d: &Conv2dDims, dx: bool, pooled: bool) -> usize {
    if dx { split_x_and_w(tiles, d).parts } else { split_w(Form::Shared(tiles), d, pooled).parts }
}

/// Returns how the gradient of the filter is split in one dispatch with that of the input.
pub(super) fn split_x_and_w(tiles: SharedTiles, d: &Conv2dDims) -> Split {
    let width = d.c.min(d.o);
    Split::by_positions(tiles, d, width, tiles.tiles_as(width, d.n * d.h * d.w, d.c))
}
