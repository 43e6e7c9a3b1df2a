//! What is proved: every operation with its kernels, the mirror of each, and the proofs.

use super::{Verifier, gradients::Gradients};
use crate::gpu::{GpuError, KernelSpec};
use crate::ops::{
    adam, add, average, batch_gather, batchnorm, bias, clip, conv2d, dense, dropout, gelu, groupedconv2d, head,
    leakyrelu, non_finite, pool2d, relu, scale, sgd, silu, softmax_xent,
};

/// An operation: its kernels, each with the plain loops that specify it, and the proofs; all are in `src/verify/<name>.rs`.
#[derive(Debug)]
pub struct Op {
    /// The stem of the names of its files.
    pub name: &'static str,
    /// Every entry point of `shaders/<name>.wgsl`, and of `shaders/<name>_shared.wgsl`, `_shared_by_4.wgsl` and
    /// `_subgroup.wgsl` if they exist.
    pub kernels: &'static [Entry],
    /// Compares every kernel with its mirror for the shapes that `fmnist-gpu selftest` uses.
    pub proof: fn(&mut Verifier) -> Result<(), GpuError>,
    /// Compares the gradients of the mirrors with central differences; `None` if no gradient passes through.
    pub gradients: Option<fn(&mut Gradients)>,
    /// Compares the loops of the native engine with the mirrors; `None` if it uses the plain loops.
    #[cfg(feature = "native")]
    pub native: Option<fn(&mut super::native::Check)>,
}

/// A kernel and its mirror.
#[derive(Debug)]
pub struct Entry {
    /// The kernel.
    pub spec: &'static KernelSpec,
    /// The function of `src/cpu/<op>.rs` that computes the same. The forms of a pass share a mirror; a kernel that
    /// computes two passes names the first.
    pub mirror: &'static str,
}

/// Returns the name of a function of [`crate::cpu`]; a mirror that does not exist does not compile.
macro_rules! mirror {
    ($op:ident::$name:ident) => {
        const {
            let _ = crate::cpu::$op::$name::<f64>;
            stringify!($name)
        }
    };
}

/// Every operation; a new one needs a row here, and each of its kernels a line in it.
pub static OPS: &[Op] = &[
    Op {
        name: "conv2d",
        kernels: &[
            Entry { spec: &conv2d::FORWARD, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_BY_4, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SUBGROUP, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SUBGROUP_ANY, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SUBGROUP_POOL, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SUBGROUP_ANY_POOL, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SHARED, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SHARED_POOL, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SHARED_BY_4, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::FORWARD_SHARED_BY_4_POOL, mirror: mirror!(conv2d::conv2d_forward) },
            Entry { spec: &conv2d::BACKWARD_X, mirror: mirror!(conv2d::conv2d_backward_x) },
            Entry { spec: &conv2d::BACKWARD_X_BY_4, mirror: mirror!(conv2d::conv2d_backward_x) },
            Entry { spec: &conv2d::BACKWARD_X_SUBGROUP, mirror: mirror!(conv2d::conv2d_backward_x) },
            Entry { spec: &conv2d::BACKWARD_X_SHARED, mirror: mirror!(conv2d::conv2d_backward_x) },
            Entry { spec: &conv2d::BACKWARD_X_SHARED_BY_4, mirror: mirror!(conv2d::conv2d_backward_x) },
            Entry { spec: &conv2d::BACKWARD_W, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_W_BY_4, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_W_SUBGROUP, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_W_SUBGROUP_ANY, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_W_SUBGROUP_ANY_POOL, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_W_SHARED, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_W_SHARED_BY_4, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_W_SHARED_SMALL, mirror: mirror!(conv2d::conv2d_backward_w) },
            Entry { spec: &conv2d::BACKWARD_X_AND_W_SHARED, mirror: mirror!(conv2d::conv2d_backward_x) },
            Entry { spec: &conv2d::BACKWARD_X_AND_W_SHARED_BY_4, mirror: mirror!(conv2d::conv2d_backward_x) },
            Entry { spec: &conv2d::BACKWARD_W_SUM, mirror: mirror!(conv2d::conv2d_backward_w) },
        ],
        proof: super::conv2d::selftest,
        gradients: Some(super::conv2d::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::conv2d::proof),
    },
    Op {
        name: "groupedconv2d",
        kernels: &[
            Entry { spec: &groupedconv2d::FORWARD, mirror: mirror!(groupedconv2d::groupedconv2d_forward) },
            Entry { spec: &groupedconv2d::FORWARD_BY_4, mirror: mirror!(groupedconv2d::groupedconv2d_forward) },
            Entry { spec: &groupedconv2d::BACKWARD_X, mirror: mirror!(groupedconv2d::groupedconv2d_backward_x) },
            Entry { spec: &groupedconv2d::BACKWARD_X_BY_4, mirror: mirror!(groupedconv2d::groupedconv2d_backward_x) },
            Entry { spec: &groupedconv2d::BACKWARD_W, mirror: mirror!(groupedconv2d::groupedconv2d_backward_w) },
            Entry { spec: &groupedconv2d::BACKWARD_W_BY_4, mirror: mirror!(groupedconv2d::groupedconv2d_backward_w) },
            Entry { spec: &groupedconv2d::BACKWARD_W_SUM, mirror: mirror!(groupedconv2d::groupedconv2d_backward_w) },
        ],
        proof: super::groupedconv2d::selftest,
        gradients: Some(super::groupedconv2d::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::groupedconv2d::proof),
    },
    Op {
        name: "pool2d",
        kernels: &[
            Entry { spec: &pool2d::MAX_FORWARD, mirror: mirror!(pool2d::pool2d_max_forward) },
            Entry { spec: &pool2d::MAX_FORWARD_BY_4, mirror: mirror!(pool2d::pool2d_max_forward) },
            Entry { spec: &pool2d::MAX_BACKWARD_X, mirror: mirror!(pool2d::pool2d_max_backward_x) },
            Entry { spec: &pool2d::MAX_BACKWARD_X_BY_4, mirror: mirror!(pool2d::pool2d_max_backward_x) },
            Entry { spec: &pool2d::AVERAGE_FORWARD, mirror: mirror!(pool2d::pool2d_average_forward) },
            Entry { spec: &pool2d::AVERAGE_BACKWARD_X, mirror: mirror!(pool2d::pool2d_average_backward_x) },
            Entry { spec: &pool2d::SUM_FORWARD, mirror: mirror!(pool2d::pool2d_sum_forward) },
            Entry { spec: &pool2d::SUM_BACKWARD_X, mirror: mirror!(pool2d::pool2d_sum_backward_x) },
        ],
        proof: super::pool2d::selftest,
        gradients: Some(super::pool2d::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::pool2d::proof),
    },
    Op {
        name: "dense",
        kernels: &[
            Entry { spec: &dense::FORWARD, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_BY_4, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_SUBGROUP, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_SHARED, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_SHARED_PARTS, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_SHARED_BY_4, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_SHARED_BY_4_PARTS, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_SHARED_BY_4_GATHERED_PARTS, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::FORWARD_SUM, mirror: mirror!(dense::dense_forward) },
            Entry { spec: &dense::BACKWARD_X, mirror: mirror!(dense::dense_backward_x) },
            Entry { spec: &dense::BACKWARD_X_BY_4, mirror: mirror!(dense::dense_backward_x) },
            Entry { spec: &dense::BACKWARD_X_SUBGROUP, mirror: mirror!(dense::dense_backward_x) },
            Entry { spec: &dense::BACKWARD_X_SHARED, mirror: mirror!(dense::dense_backward_x) },
            Entry { spec: &dense::BACKWARD_X_SHARED_BY_4, mirror: mirror!(dense::dense_backward_x) },
            Entry { spec: &dense::BACKWARD_W, mirror: mirror!(dense::dense_backward_w) },
            Entry { spec: &dense::BACKWARD_W_BY_4, mirror: mirror!(dense::dense_backward_w) },
            Entry { spec: &dense::BACKWARD_W_SUBGROUP, mirror: mirror!(dense::dense_backward_w) },
            Entry { spec: &dense::BACKWARD_W_SHARED, mirror: mirror!(dense::dense_backward_w) },
            Entry { spec: &dense::BACKWARD_W_SHARED_BY_4, mirror: mirror!(dense::dense_backward_w) },
            Entry { spec: &dense::BACKWARD_X_AND_W_SHARED, mirror: mirror!(dense::dense_backward_x) },
            Entry { spec: &dense::BACKWARD_X_AND_W_SHARED_BY_4, mirror: mirror!(dense::dense_backward_x) },
        ],
        proof: super::dense::selftest,
        gradients: Some(super::dense::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::dense::proof),
    },
    Op {
        name: "bias",
        kernels: &[
            Entry { spec: &bias::FORWARD, mirror: mirror!(bias::bias_forward) },
            Entry { spec: &bias::BACKWARD_B, mirror: mirror!(bias::bias_backward_b) },
        ],
        proof: super::bias::selftest,
        gradients: Some(super::bias::gradients),
        #[cfg(feature = "native")]
        native: None,
    },
    Op {
        name: "relu",
        kernels: &[
            Entry { spec: &relu::FORWARD, mirror: mirror!(relu::relu_forward) },
            Entry { spec: &relu::BACKWARD_X, mirror: mirror!(relu::relu_backward_x) },
        ],
        proof: super::relu::selftest,
        gradients: Some(super::relu::gradients),
        #[cfg(feature = "native")]
        native: None,
    },
    Op {
        name: "gelu",
        kernels: &[
            Entry { spec: &gelu::FORWARD, mirror: mirror!(gelu::gelu_forward) },
            Entry { spec: &gelu::BACKWARD_X, mirror: mirror!(gelu::gelu_backward_x) },
        ],
        proof: super::gelu::selftest,
        gradients: Some(super::gelu::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::gelu::proof),
    },
    Op {
        name: "leakyrelu",
        kernels: &[
            Entry { spec: &leakyrelu::FORWARD, mirror: mirror!(leakyrelu::leakyrelu_forward) },
            Entry { spec: &leakyrelu::BACKWARD_X, mirror: mirror!(leakyrelu::leakyrelu_backward_x) },
        ],
        proof: super::leakyrelu::selftest,
        gradients: Some(super::leakyrelu::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::leakyrelu::proof),
    },
    Op {
        name: "silu",
        kernels: &[
            Entry { spec: &silu::FORWARD, mirror: mirror!(silu::silu_forward) },
            Entry { spec: &silu::BACKWARD_X, mirror: mirror!(silu::silu_backward_x) },
        ],
        proof: super::silu::selftest,
        gradients: Some(super::silu::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::silu::proof),
    },
    Op {
        name: "scale",
        kernels: &[
            Entry { spec: &scale::FORWARD, mirror: mirror!(scale::scale_forward) },
            Entry { spec: &scale::BACKWARD_X, mirror: mirror!(scale::scale_backward_x) },
        ],
        proof: super::scale::selftest,
        gradients: Some(super::scale::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::scale::proof),
    },
    Op {
        name: "dropout",
        kernels: &[
            Entry { spec: &dropout::FORWARD, mirror: mirror!(dropout::dropout_forward) },
            Entry { spec: &dropout::BACKWARD_X, mirror: mirror!(dropout::dropout_backward_x) },
        ],
        proof: super::dropout::selftest,
        gradients: Some(super::dropout::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::dropout::proof),
    },
    Op {
        name: "add",
        kernels: &[Entry { spec: &add::FORWARD, mirror: mirror!(add::add_forward) }],
        proof: super::add::selftest,
        gradients: None,
        #[cfg(feature = "native")]
        native: Some(super::native::add::proof),
    },
    Op {
        name: "batchnorm",
        kernels: &[
            Entry { spec: &batchnorm::STATISTICS_PARTS, mirror: mirror!(batchnorm::batchnorm_statistics) },
            Entry { spec: &batchnorm::STATISTICS, mirror: mirror!(batchnorm::batchnorm_statistics) },
            Entry { spec: &batchnorm::MOMENTS, mirror: mirror!(batchnorm::batchnorm_moments) },
            Entry { spec: &batchnorm::FORWARD, mirror: mirror!(batchnorm::batchnorm_forward) },
            Entry { spec: &batchnorm::BACKWARD_W_PARTS, mirror: mirror!(batchnorm::batchnorm_backward_w) },
            Entry { spec: &batchnorm::BACKWARD_W, mirror: mirror!(batchnorm::batchnorm_backward_w) },
            Entry { spec: &batchnorm::BACKWARD_X, mirror: mirror!(batchnorm::batchnorm_backward_x) },
            Entry { spec: &batchnorm::FOLD, mirror: mirror!(batchnorm::batchnorm_fold) },
        ],
        proof: super::batchnorm::selftest,
        gradients: Some(super::batchnorm::gradients),
        #[cfg(feature = "native")]
        native: Some(super::native::batchnorm::proof),
    },
    Op {
        name: "softmax_xent",
        kernels: &[
            Entry { spec: &softmax_xent::FORWARD, mirror: mirror!(softmax_xent::softmax_xent_forward) },
            Entry { spec: &softmax_xent::BACKWARD_X, mirror: mirror!(softmax_xent::softmax_xent_backward_x) },
            Entry { spec: &softmax_xent::SOFT_BACKWARD_X, mirror: mirror!(softmax_xent::softmax_xent_soft_backward_x) },
        ],
        proof: super::softmax_xent::selftest,
        gradients: Some(super::softmax_xent::gradients),
        #[cfg(feature = "native")]
        native: None,
    },
    Op {
        name: "head",
        kernels: &[
            Entry { spec: &head::ROWS, mirror: mirror!(head::head_rows) },
            Entry { spec: &head::BACKWARD_W, mirror: mirror!(head::head_backward_w) },
        ],
        proof: super::head::selftest,
        gradients: Some(super::head::gradients),
        #[cfg(feature = "native")]
        native: None,
    },
    Op {
        name: "batch_gather",
        kernels: &[
            Entry { spec: &batch_gather::GATHER, mirror: mirror!(batch_gather::batch_gather) },
            Entry { spec: &batch_gather::GATHER_AUGMENTED, mirror: mirror!(batch_gather::batch_gather_augmented) },
        ],
        proof: super::batch_gather::selftest,
        gradients: None,
        #[cfg(feature = "native")]
        native: Some(super::native::batch_gather::proof),
    },
    Op {
        name: "clip",
        kernels: &[
            Entry { spec: &clip::FACTOR_PARTS, mirror: mirror!(clip::clip_factor) },
            Entry { spec: &clip::FACTOR, mirror: mirror!(clip::clip_factor) },
        ],
        proof: super::clip::selftest,
        gradients: None,
        #[cfg(feature = "native")]
        native: Some(super::native::clip::proof),
    },
    Op {
        name: "adam",
        kernels: &[
            Entry { spec: &adam::STEP, mirror: mirror!(adam::adam_step) },
            Entry { spec: &adam::STEP_PENDING, mirror: mirror!(adam::adam_step) },
        ],
        proof: super::adam::selftest,
        gradients: None,
        #[cfg(feature = "native")]
        native: Some(super::native::adam::proof),
    },
    Op {
        name: "sgd",
        kernels: &[Entry { spec: &sgd::STEP, mirror: mirror!(sgd::sgd_step) }],
        proof: super::sgd::selftest,
        gradients: None,
        #[cfg(feature = "native")]
        native: Some(super::native::sgd::proof),
    },
    Op {
        name: "average",
        kernels: &[Entry { spec: &average::STEP, mirror: mirror!(average::average_step) }],
        proof: super::average::selftest,
        gradients: None,
        #[cfg(feature = "native")]
        native: Some(super::native::average::proof),
    },
    Op {
        name: "non_finite",
        kernels: &[Entry { spec: &non_finite::NON_FINITE, mirror: mirror!(non_finite::non_finite) }],
        proof: super::non_finite::selftest,
        gradients: None,
        #[cfg(feature = "native")]
        native: None,
    },
];
