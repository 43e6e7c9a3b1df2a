//! The host side of each operation: its dimensions, its kernels as data, how to record it into a plan.
//!
//! Each operation has files of the same name (`shaders/<op>.wgsl`, `src/ops/<op>.rs`,
//! `src/cpu/<op>.rs`, `src/verify/<op>.rs`, `tests/<op>.rs`) and a row in the table of `src/verify/table.rs`. The
//! dimension structs are defined beside the CPU mirrors, which are the specification. The functions that record take their
//! tensors as one array, in the order of the kernel's bindings. Nothing here imports the proofs, so that training can be
//! read without them.

/// The text of a file in `shaders/`.
#[cfg(not(target_family = "wasm"))]
macro_rules! shader_text {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file))
    };
}

/// The text of a file in `shaders/`, without the comments: every visitor of the page downloads it. `build.rs` leaves them out.
#[cfg(target_family = "wasm")]
macro_rules! shader_text {
    ($file:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/shaders/", $file))
    };
}

pub mod adam;
pub mod add;
pub mod average;
pub mod batch_gather;
pub mod batchnorm;
pub mod bias;
pub mod clip;
pub mod conv2d;
mod conv2d_split;
pub mod dense;
pub mod dropout;
pub mod gelu;
pub mod groupedconv2d;
mod groups;
pub mod head;
pub mod leakyrelu;
pub mod non_finite;
mod pending;
pub mod pool2d;
pub mod relu;
pub mod scale;
pub mod sgd;
pub mod silu;
pub mod softmax_xent;

pub use groups::Groups;
pub use pending::{FilterParts, Pending};

use crate::gpu::{Binding, Constant, Gpu, GpuError, KernelSpec, LANES, PlanBuilder, Tensor, Tiling};
use crate::gpu::{bind, workgroups_linear};
use crate::text::count;
use serde::{Deserialize, Serialize};

/// A shader file: the operation, and the text.
struct Shader {
    op: &'static str,
    source: &'static str,
}

impl Shader {
    /// Describes a kernel of the file.
    const fn kernel(self, entry: &'static str, bindings: &'static [Binding]) -> KernelSpec {
        KernelSpec { op: self.op, entry, source: self.source, bindings }
    }
}

/// Returns sizes as constants of a shader, followed by `more`.
fn constants(sizes: &[(&'static str, usize)], more: &[Constant]) -> Vec<Constant> {
    sizes.iter().map(|&(name, size)| (name, size as f64)).chain(more.iter().copied()).collect()
}

/// Records a kernel with its tensors in the order of its bindings, each with the number of elements that it expects.
fn push(
    plan: &mut PlanBuilder,
    spec: &'static KernelSpec,
    constants: &[Constant],
    workgroups: [u32; 3],
    tensors: &[(&Tensor, usize)],
) -> Result<(), GpuError> {
    let named = spec.bindings.iter().zip(tensors);
    let bound: Vec<_> = named.map(|(binding, &(tensor, len))| bind(binding.name, tensor, len)).collect();
    plan.push(spec, constants, workgroups, &bound)
}

/// Records a kernel that computes each of `len` elements by itself: all tensors have that many.
fn push_each(
    plan: &mut PlanBuilder,
    spec: &'static KernelSpec,
    len: usize,
    tensors: &[&Tensor],
) -> Result<(), GpuError> {
    push_each_with(plan, spec, len, &[], tensors)
}

/// Does the same for a kernel that has more constants than `LEN`.
fn push_each_with(
    plan: &mut PlanBuilder,
    spec: &'static KernelSpec,
    len: usize,
    more: &[Constant],
    tensors: &[&Tensor],
) -> Result<(), GpuError> {
    let tensors: Vec<_> = tensors.iter().map(|&tensor| (tensor, len)).collect();
    push(plan, spec, &constants(&[("LEN", len)], more), workgroups_linear(len, 64), &tensors)
}

/// The form of a heavy kernel; all three compute the same sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One output per invocation: any shape, and the easiest to read; four by four where the shape allows it.
    Plain,
    /// Tiles in the registers of a subgroup with that many lanes (one of [`LANES`]), for software adapters; sizes must
    /// be multiples of four.
    Subgroup(usize),
    /// Tiles in workgroup memory, for GPUs; any shape.
    Shared(SharedTiles),
}

/// The tiling in workgroup memory: the best one differs between GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SharedTiles {
    /// Rows that an invocation sums, 4 or 8. Eight need fewer reads of workgroup memory, but leave half as many
    /// workgroups.
    pub rows_each: usize,
    /// With fewer workgroups than this, sums over a long inner dimension are split into parts, to keep the whole GPU
    /// busy.
    pub workgroups: usize,
    /// Whether the gradient of a filter with few cells is summed in registers instead of in tiles that it fills only in part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub small_filters: bool,
    /// Whether four values are loaded at a time where channels come in fours. The sums are the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loads_by_4: bool,
    /// Whether the end of a model whose last hidden layer is dense is computed in two dispatches ([`head`]), and such a layer gathers the images if it
    /// reads them. Sums are added in another order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub head: bool,
    /// With `head`: whether Adam finishes the gradients ([`Pending`]). Sums are added in another order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fused_update: bool,
}

impl Default for SharedTiles {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// Steps of the inner dimension that tiles in workgroup memory stage at once: `STEPS` in the shaders.
const SHARED_STEPS: usize = 16;

impl SharedTiles {
    const STANDARD: SharedTiles = SharedTiles {
        rows_each: 4,
        workgroups: 128,
        small_filters: false,
        loads_by_4: false,
        head: false,
        fused_update: false,
    };

    /// Tiles whose invocations sum eight rows.
    const TALL: SharedTiles = SharedTiles { rows_each: 8, ..Self::STANDARD };

    /// Whether the shaders support these values.
    pub fn is_possible(self) -> bool {
        matches!(self.rows_each, 4 | 8) && (1..=65_535).contains(&self.workgroups)
    }

    /// Returns the rows and columns of a tile for outputs with at least this many columns: `tile_rows()` and
    /// `TILE_COLUMNS` in the shaders.
    fn tile(self, columns: usize) -> [usize; 2] {
        match (columns <= 32, self.rows_each) {
            (true, _) => [128, 32],
            (false, 8) => [128, 64],
            (false, _) => [64, 64],
        }
    }

    /// Returns the number of tiles of `rows` x `columns` outputs.
    fn tiles(self, rows: usize, columns: usize) -> usize {
        self.tiles_as(columns, rows, columns)
    }

    /// The same, with tiles made for `width` columns: two products that share a dispatch also share its tiles.
    fn tiles_as(self, width: usize, rows: usize, columns: usize) -> usize {
        let [tile_rows, tile_columns] = self.tile(width);
        rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns)
    }

    /// Returns the number of steps per part when a sum over `inner` steps is split, given that the outputs make
    /// `tiles`: a multiple of [`SHARED_STEPS`].
    fn steps_per_part(self, tiles: usize, inner: usize) -> usize {
        // Such a short sum is finished before a second dispatch, which adds up the parts, would have started.
        const SHORT: usize = 16 * SHARED_STEPS;
        // lavapipe stops an invocation's loops after 65,535 iterations in total; a step is one, plus a sixteenth of
        // another.
        const LONGEST: usize = 32_768;
        let parts = if inner <= SHORT { 1 } else { self.workgroups.div_ceil(tiles) };
        inner.div_ceil(parts).next_multiple_of(SHARED_STEPS).min(LONGEST)
    }
}

impl Form {
    /// Chooses the form of a heavy kernel for a device; `by_4` are the sizes that the subgroup form loads four at a
    /// time. Only this function chooses by device; choices that depend only on sizes are made in each operation's
    /// module.
    pub fn choose(gpu: &Gpu, tiles: SharedTiles, by_4: &[usize]) -> Form {
        match (gpu.tiling(), gpu.lanes()) {
            (Tiling::Shared, _) => Form::Shared(tiles),
            (Tiling::Subgroup, Some(lanes)) if Form::Subgroup(lanes).takes(by_4) => Form::Subgroup(lanes),
            (Tiling::Subgroup | Tiling::Plain, _) => Form::Plain,
        }
    }

    /// Returns every form that the device can run with these sizes and this number of columns.
    pub fn all(gpu: &Gpu, columns: usize, by_4: &[usize]) -> Vec<Form> {
        let lanes = LANES.into_iter().filter(|&lanes| gpu.lanes().is_some_and(|has| lanes <= has));
        let mut shared = vec![Form::Shared(SharedTiles::default())];
        // With few columns, all tiles have the same height.
        if SharedTiles::TALL.tile(columns) != SharedTiles::default().tile(columns) {
            shared.push(Form::Shared(SharedTiles::TALL));
        }
        let forms = [Form::Plain].into_iter().chain(shared).chain(lanes.map(Form::Subgroup));
        forms.filter(|form| form.takes(by_4)).collect()
    }

    /// Rejects sizes that a kernel of this form cannot compute; `by_4` as for [`Form::choose`].
    fn check(self, spec: &KernelSpec, by_4: &[usize]) -> Result<(), GpuError> {
        let message = match self {
            Form::Subgroup(lanes) if !LANES.contains(&lanes) => {
                format!("subgroup tiles of {} are not supported; use one of {LANES:?}", count(lanes, "lane"))
            }
            Form::Subgroup(_) if !self.takes(by_4) => format!("the sizes {by_4:?} are not all multiples of four"),
            Form::Shared(tiles) if !tiles.is_possible() => format!("the shaders do not support {tiles:?}"),
            _ => return Ok(()),
        };
        Err(GpuError::Record { entry: spec.entry, message })
    }

    fn takes(self, by_4: &[usize]) -> bool {
        !matches!(self, Form::Subgroup(_)) || by_4.iter().all(|size| size.is_multiple_of(4))
    }

    /// Whether this form loads four values at a time from tensors whose rows have these lengths.
    fn loads_by_4(self, sizes: &[usize]) -> bool {
        matches!(self, Form::Shared(tiles) if tiles.loads_by_4) && sizes.iter().all(|size| size.is_multiple_of(4))
    }

    /// Returns the kernel of this form, out of three: plain, subgroup, shared.
    pub(crate) fn pick(self, kernels: [&'static KernelSpec; 3]) -> &'static KernelSpec {
        match self {
            Form::Plain => kernels[0],
            Form::Subgroup(_) => kernels[1],
            Form::Shared(_) => kernels[2],
        }
    }

    /// Returns the constants of a kernel of this form with this number of columns, given those of the operation.
    fn constants(self, mut of_op: Vec<Constant>, columns: usize) -> Vec<Constant> {
        match self {
            Form::Plain => {}
            Form::Subgroup(lanes) => of_op.push(("LANES", lanes as f64)),
            Form::Shared(tiles) => {
                let [_, tile_columns] = tiles.tile(columns);
                let rows_each = if tile_columns == 32 { 4 } else { tiles.rows_each };
                of_op.extend([("TILE_COLUMNS", tile_columns as f64), ("ROWS_EACH", rows_each as f64)]);
            }
        }
        of_op
    }

    /// Returns the workgroups for a product of `rows` x `columns`. In the subgroup form, row tiles of `rows_per_lane`
    /// times the lanes are in x (folded into z) and column tiles in y; in the other forms everything is in x (folded
    /// into y).
    fn workgroups(self, rows: usize, columns: usize, rows_per_lane: usize) -> [u32; 3] {
        match self {
            Form::Plain => workgroups_linear(rows * columns, 64),
            Form::Subgroup(lanes) => {
                let [x, z, _] = workgroups_linear(rows, rows_per_lane * lanes);
                [x, columns.div_ceil(4 * lanes) as u32, z]
            }
            Form::Shared(tiles) => workgroups_linear(tiles.tiles(rows, columns), 1),
        }
    }
}
