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

use crate::gpu::{GpuError, KernelSpec, Tiling};
use crate::verify::Verifier;

/// One operation in the registry.
#[derive(Debug)]
pub struct Op {
    /// The stem of its four files.
    pub name: &'static str,
    /// Every entry point of `shaders/<name>.wgsl`.
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
    /// Register tiles without barriers, for adapters that are processors; needs columns in multiples of four.
    Registers,
    /// Tiles in workgroup memory, for GPUs; any shape.
    Shared,
}

impl Form {
    /// The form for a device's tiling and the number of columns of the matrix product. This is the one place that chooses.
    pub fn choose(tiling: Tiling, columns: usize) -> Form {
        match tiling {
            Tiling::Shared => Form::Shared,
            Tiling::Registers if Form::Registers.takes(columns) => Form::Registers,
            Tiling::Registers => Form::Plain,
        }
    }

    /// Whether this form can compute a product with that many columns.
    pub fn takes(self, columns: usize) -> bool {
        self != Form::Registers || columns.is_multiple_of(4)
    }

    /// Every form that can compute a product with that many columns.
    pub fn all(columns: usize) -> impl Iterator<Item = Form> {
        [Form::Plain, Form::Registers, Form::Shared].into_iter().filter(move |form| form.takes(columns))
    }

    /// The one of three kernels that has this form.
    fn pick(self, kernels: [&'static KernelSpec; 3]) -> &'static KernelSpec {
        match self {
            Form::Plain => kernels[0],
            Form::Registers => kernels[1],
            Form::Shared => kernels[2],
        }
    }

    /// Rows and columns of outputs that one workgroup computes, where `registers` is the tile of the kernel's register form.
    fn tile(self, registers: [usize; 2]) -> [usize; 2] {
        match self {
            Form::Plain => [64, 1],
            Form::Registers => registers,
            // TILE of the shaders.
            Form::Shared => [64, 64],
        }
    }

    /// Workgroups for a product of `rows` x `columns`: row tiles in x (folded into z), column tiles in y.
    fn workgroups(self, rows: usize, columns: usize, registers: [usize; 2]) -> [u32; 3] {
        let [tile_rows, tile_columns] = self.tile(registers);
        match self {
            Form::Plain => crate::gpu::workgroups_linear(rows * columns, 64),
            _ => {
                let [x, z, _] = crate::gpu::workgroups_linear(rows, tile_rows);
                [x, columns.div_ceil(tile_columns) as u32, z]
            }
        }
    }
}
