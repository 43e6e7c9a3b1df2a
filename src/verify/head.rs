//! Proof of the end of a model in two dispatches: its kernels agree with [`crate::cpu::head`].

use super::gradients::{Gradients, check};
use super::softmax_xent::{gradient_bound, row_bounds};
use super::{Bounded, Verifier, absolute, coarse, sum_bound, widen};
use crate::cpu::head as cpu;
use crate::cpu::softmax_xent::softmax_xent_totals;
use crate::gpu::GpuError;
use crate::ops::head::{BACKWARD_W, HeadDims, HeadRows, ROWS, record_backward_w, record_rows};
use crate::ops::softmax_xent::BatchTotals;

/// What the mirror computes, in the order of [`HeadRows`].
fn mirror(d: &HeadDims, n_valid: usize, inputs: [&[f64]; 4], labels: &[u32]) -> ([Vec<f64>; 5], Vec<u32>) {
    let mut values = [d.n * d.i, d.n * d.c, d.n * d.c, d.n * d.i, d.n].map(|len| vec![0.0; len]);
    let mut correct = vec![0; d.n];
    let [hidden, logits, dlogits, dhidden, loss] = values.each_mut().map(Vec::as_mut_slice);
    let rows = cpu::HeadRows { hidden, logits, dlogits, dhidden, loss, correct: &mut correct };
    cpu::head_rows(d, n_valid, inputs, labels, rows);
    (values, correct)
}

/// Compares both kernels with the mirror: `n_valid` rows count.
///
/// Parts, weights and biases have few digits, so that hidden units and logits must be exact: any mistake in an index shows, and only softmax
/// rounds, as [`super::softmax_xent`] bounds it.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &HeadDims, n_valid: usize) -> Result<(), GpuError> {
    let case = format!("{d:?}, valid {n_valid}");
    let inputs = [d.parts * d.n * d.i, d.i, d.i * d.c, d.c].map(|len| coarse(v.random(len)));
    let inputs64 = inputs.each_ref().map(|values| widen(values));
    let labels: Vec<u32> = (0..d.n).map(|n| ((n * 7 + 3) % d.c) as u32).collect();
    let inputs64 = inputs64.each_ref().map(Vec::as_slice);
    let ([hidden, logits, dlogits, dhidden, loss], correct) = mirror(d, n_valid, inputs64, &labels);
    let bounds = || logits.chunks(d.c).zip(&labels).map(|(row, &label)| row_bounds(row, label as usize));
    let relative: Vec<f64> = bounds().map(|bounds| bounds.probability).collect();
    let dlogits_bound = |(k, &gradient): (usize, &f64)| {
        let (n, c) = (k / d.c, k % d.c);
        let probability = gradient * n_valid as f64 + if c == labels[n] as usize { 1.0 } else { 0.0 };
        if n < n_valid { gradient_bound(n_valid, gradient, probability * relative[n]) } else { 0.0 }
    };
    let dlogits_bounds: Vec<f64> = dlogits.iter().enumerate().map(dlogits_bound).collect();
    let w = &inputs64[2];
    let dhidden_bound = |k: usize| {
        let (n, i) = (k / d.i, k % d.i);
        if hidden[k] <= 0.0 || n >= n_valid {
            return 0.0;
        }
        let products = (0..d.c).map(|c| (n * d.c + c, w[i * d.c + c].abs()));
        let (error, scale) = products.fold((0.0, 0.0), |(error, scale), (at, w)| {
            let (bound, value) = (dlogits_bounds[at], dlogits[at].abs());
            (error + w * bound, scale + w * (value + bound))
        });
        error + sum_bound(d.c, scale)
    };
    let loss_bounds: Vec<f64> = bounds().map(|bounds| bounds.loss).collect();
    // Two whole batches are done, and n_valid samples are left.
    let expected = [
        Bounded::exact(hidden.clone()),
        Bounded::exact(logits.clone()),
        Bounded::by_index(dlogits.clone(), |k| dlogits_bounds[k]),
        Bounded::by_index(dhidden, dhidden_bound),
        Bounded::by_index(loss, |n| if n < n_valid { loss_bounds[n] } else { 0.0 }),
        Bounded::exact(correct.iter().map(|&correct| f64::from(correct)).collect()),
        Bounded::exact(vec![2.0]),
    ];
    let mut run = v.run();
    let tensors = [run.input(&inputs[0])?, run.input(&inputs[1])?, run.input(&inputs[2])?, run.input(&inputs[3])?];
    let (tlabels, progress) = (run.input_u32(&labels)?, run.input_u32(&[2, (2 * d.n + n_valid) as u32])?);
    let rows = HeadRows::within(run.output(HeadRows::len(d))?, d);
    let [parts, hidden_b, w, b] = &tensors;
    record_rows(&mut run.plan, d, [parts, hidden_b, w, b, &tlabels, &progress], &rows)?;
    let HeadRows { hidden, logits, dlogits, dhidden, of_rows: [loss, correct], batch, .. } = &rows;
    let outputs: Vec<_> = [hidden, logits, dlogits, dhidden, loss, correct, batch].into_iter().zip(&expected).collect();
    run.check(ROWS.entry, &case, &outputs, &[]);
    verify_backward_w(v, d, n_valid, &case)
}

/// The same for sums over rows, of any values.
fn verify_backward_w(v: &mut Verifier, d: &HeadDims, n_valid: usize, case: &str) -> Result<(), GpuError> {
    let (hidden, dlogits) = (v.random(d.n * d.i), v.random(d.n * d.c));
    let mut loss: Vec<f32> = v.random(d.n).into_iter().map(f32::abs).collect();
    loss[n_valid..].fill(0.0);
    let correct: Vec<u32> = (0..d.n).map(|n| u32::from(n % 3 != 1 && n < n_valid)).collect();
    let sums = |which: usize, len: usize| {
        Bounded::mirrored([&hidden, &dlogits], len, d.n, |x, y| {
            let mut gradients = [vec![0.0; d.i * d.c], vec![0.0; d.c]];
            cpu::head_backward_w(d, x, gradients.each_mut().map(Vec::as_mut_slice));
            y.copy_from_slice(&gradients[which]);
        })
    };
    let [dw, db] = [sums(0, d.i * d.c), sums(1, d.c)];
    let loss64 = widen(&loss);
    let (total, n_correct) = softmax_xent_totals(n_valid, &loss64, &correct);
    let bound = sum_bound(d.n, absolute(&loss64).iter().sum());
    // Other slots keep their content.
    let batch_loss = Bounded { values: vec![5.0, 5.0, total, 5.0], bound: vec![0.0, 0.0, bound, 0.0] };
    let mut run = v.run();
    // Parts that the kernel has no use for are not numbers.
    let mut content = vec![f32::NAN; HeadRows::len(d)];
    let correct: Vec<f32> = correct.iter().map(|&correct| correct as f32).collect();
    let [at_hidden, _, at_dlogits, _, at_loss, at_correct, ..] = HeadRows::starts(d);
    for (first, values) in [(at_hidden, &hidden), (at_dlogits, &dlogits), (at_loss, &loss), (at_correct, &correct)] {
        content[first..first + values.len()].copy_from_slice(values);
    }
    let rows = HeadRows::within(run.input(&content)?, d);
    let (tdw, tdb) = (run.output(d.i * d.c)?, run.output(d.c)?);
    let progress = [2, (2 * d.n + n_valid) as u32];
    let (tloss, tcorrect) = (run.in_place(&[5.0; 4])?, run.in_place_u32(&[7; 4])?);
    let tprogress = run.in_place_u32(&progress)?;
    let totals = BatchTotals { progress: &tprogress, batch_loss: &tloss, batch_correct: &tcorrect };
    record_backward_w(&mut run.plan, d, &rows, [&tdw, &tdb], &totals)?;
    let exact = [(&tcorrect, &[7, 7, n_correct, 7][..]), (&tprogress, &[3, progress[1]])];
    run.check(BACKWARD_W.entry, case, &[(&tdw, &dw), (&tdb, &db), (&tloss, &batch_loss)], &exact);
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let cases = [(32, 7, 128, 10, 32), (5, 1, 300, 3, 3), (19, 3, 7, 100, 18), (1, 1, 1, 1, 1)];
    cases.into_iter().try_for_each(|(n, parts, i, c, n_valid)| verify(v, &HeadDims { n, parts, i, c }, n_valid))
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, parts, i, c, n_valid) in [(4, 2, 5, 3, 4), (3, 1, 4, 10, 2)] {
        let d = HeadDims { n, parts, i, c };
        let labels: Vec<u32> = (0..n).map(|n| ((n * 3 + 1) % c) as u32).collect();
        // Far from the kink of the ReLU: the parts are small beside the biases.
        let parts: Vec<f64> = g.values(parts * n * i).iter().map(|x| 0.1 * x).collect();
        let hidden_b: Vec<f64> = (0..i).map(|i| if i % 3 == 1 { -0.5 } else { 0.5 }).collect();
        let (w, b) = (g.values(i * c), g.values(c));
        let run = |parts: &[f64], w: &[f64], b: &[f64]| mirror(&d, n_valid, [parts, &hidden_b, w, b], &labels).0;
        let mean = |rows: [Vec<f64>; 5]| rows[4].iter().sum::<f64>() / n_valid as f64;
        let [hidden, _, dlogits, dhidden, _] = run(&parts, &w, &b);
        // Each part has the gradient of the sum.
        let of_parts: Vec<f64> = dhidden.iter().copied().cycle().take(parts.len()).collect();
        g.note(check("head_rows", &format!("{d:?}"), &parts, &of_parts, &mut |parts| mean(run(parts, &w, &b))));
        let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; b.len()]);
        cpu::head_backward_w(&d, [&hidden, &dlogits], [&mut dw, &mut db]);
        g.note(check("head_backward_w", &format!("{d:?}"), &w, &dw, &mut |w| mean(run(&parts, w, &b))));
        g.note(check("head_backward_w", &format!("{d:?} b"), &b, &db, &mut |b| mean(run(&parts, &w, b))));
    }
}
