//! Moving averages of the parameters; the results have the same bits as [`crate::cpu::average`].

use super::vectorized_loop;

/// Moves the average of some elements of a parameter; `rate` is [`crate::cpu::average::AverageConfig::rate`].
pub fn average_step(rate: f32, pulls: bool, w: &mut [f32], average: &mut [f32]) {
    if rate == 0.0 {
        return;
    }
    vectorized_loop(
        #[inline(always)]
        || {
            for (average, &w) in average.iter_mut().zip(&*w) {
                *average += rate * (w - *average);
            }
        },
    );
    if pulls {
        w.copy_from_slice(average);
    }
}
