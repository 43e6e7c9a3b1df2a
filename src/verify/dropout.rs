//! Proof of the dropout: its kernels drop what [`crate::cpu::dropout`] drops.

use super::gradients::Gradients;
use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::dropout::{self as cpu, Dropping};
use crate::cpu::philox::Random;
use crate::gpu::GpuError;
use crate::ops::batch_gather::random_words;
use crate::ops::dropout::{BACKWARD_X, FORWARD, record_backward_x, record_forward};

/// Returns y of x; the first element is the element `first` of the batch.
pub(super) fn forward(d: &Dropping, random: Random, first: usize, x: &[f32]) -> Bounded {
    let (x, mut values) = (widen(x), vec![0.0; x.len()]);
    cpu::dropout_forward(d, random, first, &x, &mut values);
    // The factor and the product; zeros are exact.
    Bounded::by_index(values.clone(), |i| 2.0 * UNIT_ROUNDOFF * values[i].abs())
}

/// Compares both kernels with the mirror.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &Dropping, random: Random, len: usize) -> Result<(), GpuError> {
    let case = format!("{len} at rate {}, layer {}, {random:?}", d.rate, d.layer);
    // No zeros, so that what is dropped shows.
    let x: Vec<f32> = v.random(len).iter().map(|x| x.abs() + 1.0).collect();
    let expected = forward(d, random, 0, &x);
    for backward in [false, true] {
        let mut run = v.run();
        // The loss has advanced the counter before the backward pass.
        let progress = run.input_u32(&[random.step + u32::from(backward), 1000])?;
        let (tx, trandom, ty) = (run.input(&x)?, run.input_u32(&random_words(random))?, run.output(len)?);
        let tensors = [&tx, &ty, &progress, &trandom];
        let spec = if backward { &BACKWARD_X } else { &FORWARD };
        match backward {
            false => record_forward(&mut run.plan, d, len, tensors)?,
            true => record_backward_x(&mut run.plan, d, len, tensors)?,
        }
        run.check(spec.entry, &case, &[(&ty, &expected)], &[]);
    }
    Ok(())
}

/// Rates, layers and positions in a training, with all words of the counter and the key.
pub(super) const CASES: [(f64, u32, Random); 4] = [
    (0.5, 0, Random { seed: 0, epoch: 1, step: 0 }),
    (0.2, 3, Random { seed: 7, epoch: 2, step: 5 }),
    (0.999, 1, Random { seed: u64::MAX, epoch: 100_000, step: 59_999 }),
    (1e-9, 1, Random { seed: 0x0123_4567_89ab_cdef, epoch: 3, step: 1 }),
];

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let sizes = [1, 255, 256, 257, 10_007];
    CASES.iter().try_for_each(|&(rate, layer, random)| {
        sizes.iter().try_for_each(|&len| verify(v, &Dropping { rate, layer }, random, len))
    })
}

pub(super) fn gradients(g: &mut Gradients) {
    let (d, random) = (Dropping { rate: 0.3, layer: 2 }, Random { seed: 5, epoch: 1, step: 9 });
    let (x, dy, mut dx) = (g.values(41), g.values(41), vec![0.0; 41]);
    cpu::dropout_backward_x(&d, random, 3, &dy, &mut dx);
    g.check("dropout_backward_x", "41", [&x, &dx], &dy, |x, y| cpu::dropout_forward(&d, random, 3, x, y));
}
