//! Proof of Adam: one step of the kernel is one step of [`crate::cpu::adam`].

use super::step::{by_element, decay_error, groups, more_roundings, steps};
use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::adam as cpu;
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::dense::{DenseDims, dense_backward_w};
use crate::cpu::step::Step;
use crate::gpu::GpuError;
use crate::ops::adam::{AdamConfig, STEP, STEP_PENDING, record, record_pending};
use crate::ops::head::{HeadDims, HeadRows};
use crate::ops::{FilterParts, Groups, Pending};

const DECAY: f32 = 0.01;
const CLIP: f32 = 0.75;

/// Parameters and both moments.
type Values<T> = [T; 3];

/// Compares three steps on `len` parameters with the mirror.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(verifier: &mut Verifier, len: usize, groups: &Groups) -> Result<(), GpuError> {
    let config = AdamConfig::default();
    let mut before = values(verifier, len);
    for number in 1..=3u64 {
        let case = format!("{len}, factors {:?}, step {number}", groups.factors);
        let g: Vec<f32> = verifier.random(len).iter().map(|x| x * 0.1).collect();
        let alpha = config.step_size(number) as f32;
        let after = expected(&config, groups, alpha, &g, &before);
        let mut run = verifier.run();
        let tg = run.input(&g)?;
        let [w, m, v] = &before;
        let (tw, tm, tv) = (run.in_place(w)?, run.in_place(m)?, run.in_place(v)?);
        let rates = run.input(&rates(alpha))?;
        let (progress, clip) = (run.input_u32(&[2, 3])?, run.input(&[CLIP])?);
        record(&mut run.plan, &config, groups, [&tg, &tw, &tm, &tv, &rates, &progress, &clip])?;
        run.check(STEP.entry, &case, &[(&tw, &after[0]), (&tm, &after[1]), (&tv, &after[2])], &[]);
        before = after.map(|of| of.narrow());
    }
    Ok(())
}

fn values(verifier: &mut Verifier, len: usize) -> Values<Vec<f32>> {
    let [w, m, v] = [0; 3].map(|_| verifier.random(len));
    [w, m.iter().map(|x| x * 1e-2).collect(), v.iter().map(|x| (x * x) * 1e-4).collect()]
}

/// The numbers of the batches of an epoch; using those of any other batch than the second would change the result.
fn rates(alpha: f32) -> Vec<f32> {
    [[9.0; 4], [alpha, DECAY, 9.0, 9.0], [9.0; 4]].concat()
}

/// Computes a step by the mirror.
fn expected(
    config: &AdamConfig,
    groups: &Groups,
    alpha: f32,
    g: &[f32],
    [w, m, v]: &Values<Vec<f32>>,
) -> Values<Bounded> {
    let (mut w64, mut m64, mut v64) = (widen(w), widen(m), widen(v));
    let g64 = widen(g);
    let (size, decay, clip) = (f64::from(alpha), f64::from(DECAY), f64::from(CLIP));
    let steps = steps(groups, g.len(), Step { size, decay, clip });
    for (range, step) in steps.clone() {
        let [w, m, v] = [&mut w64, &mut m64, &mut v64].map(|values| &mut values[range.clone()]);
        cpu::adam_step(config, step, &g64[range], w, m, v);
    }
    let step_of = by_element(&steps);
    let g64: Vec<f64> = g64.iter().zip(&step_of).map(|(g, step)| g * step.clip).collect();
    let u = UNIT_ROUNDOFF;
    // These hold with the rounding of a clipped gradient too, of which a small part goes into the moments.
    let m_after = Bounded::by_index(m64, |i| 4.0 * u * (f64::from(m[i]).abs() + g64[i].abs()));
    let v_bound = |i: usize| 5.0 * u * (f64::from(v[i]) + g64[i] * g64[i]) + f64::from(f32::MIN_POSITIVE);
    let v_after = Bounded::by_index(v64, v_bound);
    let w_after = Bounded::by_index(w64, |i| {
        let step = &step_of[i];
        let root = v_after.values[i].sqrt() + config.epsilon;
        let update = step.size * (m_after.values[i].abs() + m_after.bound[i]) / root;
        // The moment's own error, the error of v through the root, and a root and a division with the accuracy of
        // the WGSL specification (about ten roundoffs), then the rounding of the sum.
        step.size * m_after.bound[i] / root
            + update
                * (v_after.bound[i] / (2.0 * v_after.values[i]).max(f64::MIN_POSITIVE)
                    + (12.0 + more_roundings(step, size)) * u)
            + u * (f64::from(w[i]).abs() + update + decay_error(step, w[i]))
    });
    [w_after, m_after, v_after]
}

/// Parameters side by side, each at a multiple of 64.
#[derive(Default)]
struct Arena {
    len: usize,
    /// Gradients that are finished; not a number where something is pending, and zero between the parameters.
    unfinished: Vec<f32>,
    g: Vec<f64>,
}

impl Arena {
    /// Adds a parameter with its gradients, which must be pending unless `finished`. Returns its first element.
    fn add(&mut self, g: &[f64], finished: bool) -> usize {
        let first = self.len;
        self.len += g.len().next_multiple_of(64);
        self.g.extend(g);
        self.unfinished.extend(g.iter().map(|&g| if finished { g as f32 } else { f32::NAN }));
        self.g.resize(self.len, 0.0);
        self.unfinished.resize(self.len, 0.0);
        first
    }
}

/// Compares a step that finishes the gradients with the mirrors: those of the classes of `head`, of a hidden layer if the number of its inputs is given,
/// and of filters: parts, values, channels. What is summed has few digits, so that the gradients must be exact.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify_pending(
    verifier: &mut Verifier,
    head: &HeadDims,
    inputs: Option<usize>,
    filters: &[[usize; 3]],
) -> Result<(), GpuError> {
    let case = format!("{head:?}, hidden layer of {inputs:?}, filters {filters:?}");
    let HeadDims { n, i, c, .. } = *head;
    let mut coarse = |len: usize| super::coarse(verifier.random(len));
    let [hidden, dlogits, dhidden, loss] = [n * i, n * c, n * i, n].map(&mut coarse);
    let x = coarse(n * inputs.unwrap_or(1));
    let parts: Vec<Vec<f32>> = filters.iter().map(|[parts, w, o]| coarse(parts * (w + o))).collect();
    let sums: Vec<Vec<f64>> = parts.iter().zip(filters).map(|(of, [_, w, o])| sum_of_parts(of, w + o)).collect();
    let of_classes = weight_gradients(&DenseDims { n, i, o: c }, &hidden, &dlogits);
    let of_hidden = inputs.map(|inputs| weight_gradients(&DenseDims { n, i: inputs, o: i }, &x, &dhidden));
    // Weights first, then biases, as in the arena of a model.
    let mut arena = Arena::default();
    let mut firsts = |which: usize| {
        let mut add = |g: &[f64]| arena.add(g, false);
        let of_filters =
            sums.iter().zip(filters).map(|(sums, [_, w, _])| if which == 0 { &sums[..*w] } else { &sums[*w..] });
        let of_filters: Vec<usize> = of_filters.map(&mut add).collect();
        let others = (add(&of_classes[which]), of_hidden.as_ref().map(|of_hidden| add(&of_hidden[which])));
        arena.add(&widen(&[0.25, -0.5, 0.125, 1.0, 2.0]), true);
        (of_filters, others, arena.len)
    };
    let [(w_filters, (w_classes, w_hidden), end), (b_filters, (b_classes, b_hidden), _)] = [firsts(0), firsts(1)];
    let of_filter = |((&[parts, w, o], w_first), b_first): ((&[usize; 3], usize), usize)| FilterParts {
        parts,
        lens: [w, o],
        first: [w_first, b_first],
    };
    let pending = Pending {
        head: *head,
        classes: [w_classes, b_classes],
        hidden: w_hidden.zip(b_hidden).zip(inputs).map(|((w, b), inputs)| ([w, b], inputs)),
        filters: filters.iter().zip(w_filters).zip(b_filters).map(of_filter).collect(),
    };
    // What the kernel has no use for is not a number.
    let mut content = vec![f32::NAN; pending.room()];
    let correct: Vec<f32> = (0..n).map(|n| if n % 3 == 1 { 0.0 } else { 1.0 }).collect();
    let [at_hidden, _, at_dlogits, at_dhidden, at_loss, at_correct, at_batch, _] = HeadRows::starts(head);
    let rows = [
        (at_hidden, &hidden),
        (at_dlogits, &dlogits),
        (at_loss, &loss),
        (at_correct, &correct),
        (at_batch, &vec![1.0]),
    ];
    let rows = rows.into_iter().chain(inputs.map(|_| (at_dhidden, &dhidden)));
    let rows = rows.map(|(at, values)| (pending.rows_at() + at, &values[..]));
    let of_parts = parts.iter().enumerate().map(|(i, values)| (pending.parts_at(i), &values[..]));
    let table = pending.table();
    for (at, values) in rows.chain(of_parts).chain([(0, &table[..])]) {
        content[at..at + values.len()].copy_from_slice(values);
    }
    let groups = Groups { starts: [end, arena.len, arena.len], clip: false, ..groups(arena.len) };
    let (config, g) = (AdamConfig::default(), Bounded::exact(arena.g.clone()));
    let (alpha, before) = (config.step_size(2) as f32, values(verifier, arena.len));
    let after = expected(&config, &groups, alpha, &g.narrow(), &before);
    let total: f64 = widen(&loss).iter().sum();
    let n_correct = correct.iter().sum::<f32>() as u32;
    let mut run = verifier.run();
    let [w, m, v] = &before;
    let (tg, tw, tm, tv) = (run.in_place(&arena.unfinished)?, run.in_place(w)?, run.in_place(m)?, run.in_place(v)?);
    let (rates, tpending, x) = (run.input(&rates(alpha))?, run.input(&content)?, run.input(&x)?);
    let totals = run.in_place_u32(&[1, 99, 7, 7, 7, 8, 8, 8])?;
    let tensors = [&tg, &tw, &tm, &tv, &rates, &tpending, &x, &totals];
    record_pending(&mut run.plan, &config, &groups, &pending, tensors, [2, 5])?;
    let outputs = [(&tg, &g), (&tw, &after[0]), (&tm, &after[1]), (&tv, &after[2])];
    // The sum of the losses is exact too.
    let exact = [2, 99, 7, (total as f32).to_bits(), 7, 8, n_correct, 8];
    run.check(STEP_PENDING.entry, &case, &outputs, &[(&totals, &exact)]);
    Ok(())
}

fn sum_of_parts(parts: &[f32], len: usize) -> Vec<f64> {
    (0..len).map(|at| parts[at..].iter().step_by(len).map(|&part| f64::from(part)).sum()).collect()
}

/// The gradients of weights and bias.
fn weight_gradients(d: &DenseDims, x: &[f32], dy: &[f32]) -> [Vec<f64>; 2] {
    let (x, dy) = (widen(x), widen(dy));
    let [mut dw, mut db] = [vec![0.0; d.i * d.o], vec![0.0; d.o]];
    dense_backward_w(d, &x, &dy, &mut dw);
    bias_backward_b(&BiasDims { n: d.n, o: d.o }, &dy, &mut db);
    [dw, db]
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [4, 64, 10_004].into_iter().try_for_each(|len| verify(v, len, &Groups::alike(len)))?;
    [64, 10_004].into_iter().try_for_each(|len| verify(v, len, &groups(len)))?;
    verify_pending(v, &HeadDims { n: 32, parts: 1, i: 16, c: 10 }, Some(50), &[])?;
    verify_pending(v, &HeadDims { n: 70, parts: 1, i: 6, c: 3 }, None, &[[7, 36, 4], [2, 72, 8]])
}
