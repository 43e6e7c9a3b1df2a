//! The host side of each operation: its dimensions, its kernels as data, how it is recorded into a plan, how it is proven.
//!
//! An operation has one stem in four places: `shaders/<op>.wgsl`, `src/ops/<op>.rs`, `src/cpu/<op>.rs`, `tests/<op>.rs`,
//! and one line in [`OPS`]. The dimension structs are defined beside the CPU mirrors, which are the specification.

pub mod adam;
pub mod batch_gather;
pub mod bias;
pub mod conv2d;
pub mod dense;
pub mod metrics;
pub mod pool2d;
pub mod relu;
pub mod sgd;
pub mod softmax_xent;

use crate::gpu::{Constant, Gpu, GpuError, KernelSpec, LANES, Tiling};
use crate::verify::Verifier;

/// One operation in the registry.
#[derive(Debug)]
pub struct Op {
    /// The stem of its four files.
    pub name: &'static str,
    /// Every entry point of `shaders/<name>.wgsl`, and of `shaders/<name>_subgroup.wgsl` where there is one.
    pub kernels: &'static [&'static KernelSpec],
    /// Compares every kernel with its CPU mirror on the shapes that `fmnist-gpu selftest` uses.
    pub selftest: fn(&mut Verifier<'_>) -> Result<(), GpuError>,
}

/// Every operation: adding one adds a line here.
pub static OPS: &[Op] = &[
    Op { name: "conv2d", kernels: conv2d::KERNELS, selftest: conv2d::selftest },
    Op { name: "pool2d", kernels: pool2d::KERNELS, selftest: pool2d::selftest },
    Op { name: "dense", kernels: dense::KERNELS, selftest: dense::selftest },
    Op { name: "bias", kernels: bias::KERNELS, selftest: bias::selftest },
    Op { name: "relu", kernels: relu::KERNELS, selftest: relu::selftest },
    Op { name: "softmax_xent", kernels: softmax_xent::KERNELS, selftest: softmax_xent::selftest },
    Op { name: "batch_gather", kernels: batch_gather::KERNELS, selftest: batch_gather::selftest },
    Op { name: "metrics", kernels: metrics::KERNELS, selftest: metrics::selftest },
    Op { name: "adam", kernels: adam::KERNELS, selftest: adam::selftest },
    Op { name: "sgd", kernels: sgd::KERNELS, selftest: sgd::selftest },
];

/// Which of its three forms a heavy kernel takes; all three compute the same sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One output an invocation: any shape, the one to read first.
    Plain,
    /// Tiles in the registers of a subgroup of that many lanes, one of [`LANES`], for adapters that are processors; needs sizes
    /// in multiples of four.
    Subgroup(usize),
    /// Tiles in workgroup memory, for GPUs; any shape.
    Shared,
}

impl Form {
    /// The form of a heavy kernel on a device; `by_4` are the sizes that the subgroup form loads four at a time. This is the
    /// one place that chooses by the device; what follows from the sizes alone is chosen beside each operation.
    pub fn choose(gpu: &Gpu, by_4: &[usize]) -> Form {
        match (gpu.tiling(), gpu.lanes()) {
            (Tiling::Shared, _) => Form::Shared,
            (Tiling::Subgroup, Some(lanes)) if Form::Subgroup(lanes).takes(by_4) => Form::Subgroup(lanes),
            (Tiling::Subgroup | Tiling::Plain, _) => Form::Plain,
        }
    }

    /// Every form that the device can run with those sizes.
    pub fn all(gpu: &Gpu, by_4: &[usize]) -> Vec<Form> {
        let lanes = LANES.into_iter().filter(|&lanes| gpu.lanes().is_some_and(|has| lanes <= has));
        let forms = [Form::Plain, Form::Shared].into_iter().chain(lanes.map(Form::Subgroup));
        forms.filter(|form| form.takes(by_4)).collect()
    }

    /// Refuses sizes that a kernel of this form cannot compute; `by_4` as for [`Form::choose`].
    fn check(self, spec: &KernelSpec, by_4: &[usize]) -> Result<(), GpuError> {
        let message = match self {
            Form::Subgroup(lanes) if !LANES.contains(&lanes) => format!("{lanes} lanes, which are none of {LANES:?}"),
            Form::Subgroup(_) if !self.takes(by_4) => format!("sizes {by_4:?}, which are not all multiples of four"),
            _ => return Ok(()),
        };
        Err(GpuError::Record { entry: spec.entry, message })
    }

    fn takes(self, by_4: &[usize]) -> bool {
        !matches!(self, Form::Subgroup(_)) || by_4.iter().all(|size| size.is_multiple_of(4))
    }

    /// The one of three kernels that has this form: plain, subgroup, shared.
    fn pick(self, kernels: [&'static KernelSpec; 3]) -> &'static KernelSpec {
        match self {
            Form::Plain => kernels[0],
            Form::Subgroup(_) => kernels[1],
            Form::Shared => kernels[2],
        }
    }

    /// The constants of a kernel of this form, from those of the operation.
    fn constants(self, mut of_op: Vec<Constant>) -> Vec<Constant> {
        if let Form::Subgroup(lanes) = self {
            of_op.push(("LANES", lanes as f64));
        }
        of_op
    }

    /// Rows and columns of outputs that one workgroup computes; in the subgroup form `rows_per_lane` times the lanes.
    fn tile(self, rows_per_lane: usize) -> [usize; 2] {
        match self {
            Form::Plain => [64, 1],
            Form::Subgroup(lanes) => [rows_per_lane * lanes, 4 * lanes],
            // TILE of the shaders.
            Form::Shared => [64, 64],
        }
    }

    /// Workgroups for a product of `rows` x `columns`: row tiles in x (folded into z), column tiles in y.
    fn workgroups(self, rows: usize, columns: usize, rows_per_lane: usize) -> [u32; 3] {
        let [tile_rows, tile_columns] = self.tile(rows_per_lane);
        match self {
            Form::Plain => crate::gpu::workgroups_linear(rows * columns, 64),
            _ => {
                let [x, z, _] = crate::gpu::workgroups_linear(rows, tile_rows);
                [x, columns.div_ceil(tile_columns) as u32, z]
            }
        }
    }
}
