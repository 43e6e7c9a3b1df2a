//! Batch normalization.

use super::{OnGpu, Operands, Operation};
use crate::cpu::batchnorm::{
    BatchNormDims, batchnorm_backward_w, batchnorm_backward_x, batchnorm_fold, batchnorm_forward, batchnorm_moments,
    batchnorm_statistics,
};
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::BatchNorm;
use crate::ops::batchnorm;

impl Operation for BatchNorm {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], on: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            BatchNorm::Statistics(d, momentum) => {
                let tensors = [x[0], on.totals.progress, y[0], y[1], y[2]];
                batchnorm::record_statistics(plan, &d, momentum, tensors)
            }
            BatchNorm::Moments => batchnorm::record_moments(plan, x[0].len(), [x[0], x[1], y[0]]),
            BatchNorm::Forward(d, epsilon) => {
                batchnorm::record_forward(plan, &d, epsilon, [x[0], x[1], x[2], x[3], y[0]])
            }
            BatchNorm::BackwardW(d, epsilon) => {
                batchnorm::record_backward_w(plan, &d, epsilon, [x[0], x[1], x[2], y[0], y[1]])
            }
            BatchNorm::BackwardX(d, epsilon) => {
                let tensors = [x[0], x[1], x[2], x[3], x[4], x[5], y[0]];
                batchnorm::record_backward_x(plan, &d, epsilon, tensors)
            }
            BatchNorm::Fold(epsilon) => {
                let o = x[1].len();
                let tensors = [x[0], x[1], x[2], x[3], x[4], x[5], y[0], y[1]];
                batchnorm::record_fold(plan, [x[0].len() / o, o], epsilon, tensors)
            }
            _ => unreachable!("{self:?} is one of the native engine"),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { n, x, y, answers, .. } = on;
        match (self, y) {
            (BatchNorm::Statistics(d, momentum), [moments, mean, variance]) => {
                let d = BatchNormDims { n, ..d };
                batchnorm_statistics(&d, momentum, answers.n_valid, x[0], moments, mean, variance);
            }
            (BatchNorm::Moments, [moments]) => batchnorm_moments(x[0], x[1], moments),
            (BatchNorm::Forward(d, epsilon), [y]) => {
                batchnorm_forward(&BatchNormDims { n, ..d }, epsilon, x[0], x[1], x[2], x[3], y);
            }
            (BatchNorm::BackwardW(d, epsilon), [dscale, dshift]) => {
                batchnorm_backward_w(&BatchNormDims { n, ..d }, epsilon, x[0], x[1], x[2], dscale, dshift);
            }
            (BatchNorm::BackwardX(d, epsilon), [dx]) => {
                let x = [x[0], x[1], x[2], x[3], x[4], x[5]];
                batchnorm_backward_x(&BatchNormDims { n, ..d }, epsilon, x, dx);
            }
            (BatchNorm::Fold(epsilon), [w, b]) => {
                batchnorm_fold(b.len(), epsilon, [x[0], x[1], x[2], x[3], x[4], x[5]], [w, b]);
            }
            (_, y) => unreachable!("{self:?} is one of the native engine, or does not write {} tensors", y.len()),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for BatchNorm {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::batchnorm::{
            batchnorm_backward_images, batchnorm_backward_w, batchnorm_backward_x, batchnorm_forward,
            batchnorm_gelu_backward_images, batchnorm_gelu_forward, batchnorm_images, batchnorm_statistics,
        };
        let (n, x) = (on.n, on.x);
        let of_rows = |d: BatchNormDims| BatchNormDims { n, ..d };
        match (self, &mut *on.y) {
            (BatchNorm::Moments | BatchNorm::Fold(_), _) => self.compute(on),
            (BatchNorm::Images(d), [images]) => batchnorm_images(&of_rows(d), x[0], images),
            (BatchNorm::StatisticsOfImages(d, momentum), [moments, mean, variance]) => {
                batchnorm_statistics(&of_rows(d), momentum, x[0], [moments, mean, variance]);
            }
            (BatchNorm::Forward(d, epsilon), [y]) => {
                batchnorm_forward(&of_rows(d), epsilon, [x[0], x[1], x[2], x[3]], y);
            }
            (BatchNorm::GeluForward(d, epsilon), [y]) => {
                batchnorm_gelu_forward(&of_rows(d), epsilon, [x[0], x[1], x[2], x[3]], y);
            }
            (BatchNorm::BackwardImages(d), [images]) => {
                batchnorm_backward_images(&of_rows(d), [x[0], x[1], x[2]], images);
            }
            (BatchNorm::GeluBackwardImages(d, epsilon), [dz, images]) => {
                let x = [x[0], x[1], x[2], x[3], x[4]];
                batchnorm_gelu_backward_images(&of_rows(d), epsilon, x, [dz, images]);
            }
            (BatchNorm::BackwardWOfImages(d, epsilon), [dscale, dshift]) => {
                batchnorm_backward_w(&of_rows(d), epsilon, [x[0], x[1]], [dscale, dshift]);
            }
            (BatchNorm::BackwardX(d, epsilon), [dx]) => {
                let x = [x[0], x[1], x[2], x[3], x[4], x[5]];
                batchnorm_backward_x(&of_rows(d), epsilon, x, dx);
            }
            (_, y) => unreachable!("{self:?} does not write {} tensors", y.len()),
        }
    }
}
