//! Compares kernels with their CPU mirrors; used by `fmnist-gpu selftest` and the tests. Each operation has a row in
//! [`OPS`] and a file with its proofs: that of the kernels (`verify`, `selftest`) and that of the mirrors' gradients
//! (`gradients`), which share what is in [`gradients`]. The proofs of the loops of the native engine are in `native`.
//!
//! - Outputs are filled with NaN before each dispatch, so that a cell that is not written is detected.
//! - Each output is followed by guard cells, which must keep their pattern.
//! - The bound is derived, not tuned: for a sum of k products it is `|gpu - cpu64| <= C * k * u * mirror(|x|, |w|)`,
//!   element by element, with one `C` for the whole project and u the unit roundoff of single precision. It is valid
//!   for any order of summation.
//! - Comparisons are written so that NaN is a failure.

pub mod adam;
pub mod add;
pub mod average;
pub mod batch_gather;
pub mod batchnorm;
pub mod bias;
pub mod clip;
mod compare;
pub mod conv2d;
pub mod dense;
pub mod dropout;
pub mod gelu;
pub mod gradients;
pub mod groupedconv2d;
pub mod head;
pub mod leakyrelu;
#[cfg(feature = "native")]
pub mod native;
pub mod non_finite;
pub mod pool2d;
pub mod relu;
pub mod scale;
pub mod sgd;
pub mod silu;
pub mod softmax_xent;
pub mod step;
mod table;

pub use compare::{Bounded, Comparison, compare, compare_exact};
pub use table::{Entry, OPS, Op};

use crate::clock::Instant;
use crate::gpu::{Element, GUARD, Gpu, GpuError, PlanBuilder, Tensor, UNWRITTEN};
use crate::ops::{Form, SharedTiles};
use crate::text::count;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use std::array;
use std::time::Duration;

/// Half the distance from 1 to the next single-precision number: the relative error of one rounding.
pub const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

/// The only constant in bounds on sums: one rounding per product and one per addition, with no slack.
pub const C: f64 = 2.0;

/// Returns the error that a sum of `k` products may have, where `scale` is the sum of their absolute values.
///
/// The smallest normal number is added, since smaller results may be flushed to zero.
pub fn sum_bound(k: usize, scale: f64) -> f64 {
    C * k as f64 * UNIT_ROUNDOFF * scale + f64::from(f32::MIN_POSITIVE)
}

/// Converts the values to double precision.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Returns the absolute values.
pub fn absolute(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}

/// Rounds values of -1..1 to numbers of at most a quarter with so few digits that sums of thousands of their products are exact.
fn coarse(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|value| (value * 16.0).round() / 64.0).collect()
}

/// Returns `len` values, uniform in -0.6..1: not symmetric about zero, so that sums do not cancel out.
fn values(random: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| (random.next_u32() >> 8) as f32 / (1u32 << 24) as f32 * 1.6 - 0.6).collect()
}

/// The result of a self-test: the fields of `selftest --json`.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// Name of the device.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Whether all verdicts are positive.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// Kernels of the device, and loops of the native engine, against their mirrors in double precision.
    pub kernels: Vec<Verdict>,
    /// Gradients of the mirrors against finite differences.
    pub gradients: Vec<Verdict>,
}

impl SelfTest {
    /// A result that passed if each of its verdicts did.
    pub fn new(device: String, driver: String, time: Duration, kernels: Vec<Verdict>, gradients: Vec<Verdict>) -> Self {
        let passed = kernels.iter().chain(&gradients).all(Verdict::passed);
        SelfTest { device, driver, passed, seconds: time.as_secs_f64(), kernels, gradients }
    }
}

/// The verdict on a kernel over all its cases.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Verdict {
    /// The entry point.
    pub kernel: &'static str,
    /// Number of comparisons: cases times outputs.
    pub comparisons: usize,
    /// Number of elements compared.
    pub elements: usize,
    /// The largest error as a fraction of its bound; above 1 the kernel is wrong. Infinite if a value is NaN.
    pub worst_ratio: f64,
    /// The sum of the bounds of all floating-point numbers: the smaller it is beside the magnitudes, the stricter is the comparison.
    pub bounds: f64,
    /// The sum of the magnitudes of these numbers.
    pub magnitudes: f64,
    /// Describes the failures; empty if there are none.
    pub failures: Vec<String>,
}

impl Verdict {
    /// Whether there was at least one comparison and all of them passed.
    pub fn passed(&self) -> bool {
        self.comparisons > 0 && self.failures.is_empty()
    }

    /// Returns the verdict of one comparison.
    fn of(kernel: &'static str, case: &str, elements: usize, comparison: &Comparison) -> Verdict {
        let failure = (!comparison.passed()).then(|| format!("{case}: {comparison}"));
        let Comparison { worst_ratio, bounds, magnitudes, .. } = *comparison;
        let failures = failure.into_iter().collect();
        Verdict { kernel, comparisons: 1, elements, worst_ratio, bounds, magnitudes, failures }
    }

    /// Adds this to `verdicts`, which has one per kernel.
    fn add_to(self, verdicts: &mut Vec<Verdict>) {
        let Some(same) = verdicts.iter_mut().find(|v| v.kernel == self.kernel) else { return verdicts.push(self) };
        same.comparisons += self.comparisons;
        same.elements += self.elements;
        same.worst_ratio = same.worst_ratio.max(self.worst_ratio);
        same.bounds += self.bounds;
        same.magnitudes += self.magnitudes;
        same.failures.extend(self.failures);
    }
}

/// How thoroughly an operation is compared on a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// Every form that supports the shape, with subgroup tiles of every width that the device can run, each with and
    /// without ReLU.
    Everything,
    /// The same without ReLU.
    EveryForm,
    /// Every form that supports the shape, with the tile sizes that the device may train with, without ReLU.
    Forms,
    /// Of these forms, the plain one and the one that this device trains with.
    OwnForms,
    /// The form that this device trains with, with ReLU.
    AsTrained,
}

impl Breadth {
    /// Returns whether to compare the passes without and with ReLU.
    pub fn relu(self) -> &'static [bool] {
        match self {
            Breadth::Everything => &[false, true],
            Breadth::EveryForm | Breadth::Forms | Breadth::OwnForms => &[false],
            Breadth::AsTrained => &[true],
        }
    }
}

/// Another way to compute the same with tiles in workgroup memory, for shapes that allow it.
pub type TilesChange = fn(SharedTiles) -> SharedTiles;

/// Loads of four values.
const LOADS_BY_4: TilesChange = |tiles| SharedTiles { loads_by_4: true, ..tiles };

/// Runs kernels on generated inputs, compares the outputs, and collects the verdicts. The proofs only record what to run: nothing waits for the
/// device before [`Verifier::verdicts`].
#[derive(Debug)]
pub struct Verifier {
    gpu: Gpu,
    random: ChaCha8Rng,
    recorded: Vec<Recorded>,
    /// Kernels that are tested by the comparisons of another one.
    covered: Vec<(&'static str, &'static str)>,
    only: Option<&'static str>,
    takes: fn(&Form) -> bool,
    verdicts: Vec<Verdict>,
}

/// A run with the comparisons of its outputs.
#[derive(Debug)]
struct Recorded {
    kernel: &'static str,
    case: String,
    plan: PlanBuilder,
    outputs: Vec<(Tensor, Bounded)>,
    exact: Vec<(Tensor, Vec<u32>)>,
}

impl Verifier {
    /// Creates a verifier on `gpu` whose inputs are generated from `seed`.
    pub fn new(gpu: &Gpu, seed: u64) -> Self {
        let (recorded, covered, verdicts) = (Vec::new(), Vec::new(), Vec::new());
        let random = ChaCha8Rng::seed_from_u64(seed);
        Verifier { gpu: gpu.clone(), random, only: None, takes: |_| true, recorded, covered, verdicts }
    }

    /// Compares this kernel alone, on the same inputs: the others are neither compiled nor run.
    pub fn only(mut self, kernel: &'static str) -> Self {
        self.only = Some(kernel);
        self
    }

    /// Compares heavy kernels only in the forms that `takes` accepts.
    pub fn in_forms(mut self, takes: fn(&Form) -> bool) -> Self {
        self.takes = takes;
        self
    }

    /// Calls `prove` while heavy kernels are compared only in the tiles that `takes` accepts.
    fn within<T>(
        &mut self,
        takes: fn(&Form) -> bool,
        prove: impl FnOnce(&mut Verifier) -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        let before = std::mem::replace(&mut self.takes, takes);
        let result = prove(self);
        self.takes = before;
        result
    }

    /// Returns `len` values, uniform in -0.6..1.
    pub fn random(&mut self, len: usize) -> Vec<f32> {
        values(&mut self.random, len)
    }

    /// Returns the forms to compare for a product with this many columns; `by_4` are the sizes that the subgroup form
    /// loads four at a time. Tiles in workgroup memory are compared with each of the `changes` too.
    pub fn forms(&self, breadth: Breadth, columns: usize, by_4: &[usize], changes: &[TilesChange]) -> Vec<Form> {
        let mut forms = match breadth {
            Breadth::Everything | Breadth::EveryForm => Form::all(&self.gpu, columns, by_4),
            Breadth::Forms | Breadth::OwnForms => {
                let own = Form::choose(&self.gpu, SharedTiles::default(), by_4);
                let wanted = |form: &Form| match *form {
                    Form::Plain => true,
                    Form::Shared(tiles) => {
                        // A browser's software adapter compiles each of these for up to 19 s, until the browser takes it for hung.
                        let is_slow = cfg!(target_family = "wasm") && self.gpu.is_software();
                        own == *form
                            || matches!(own, Form::Shared(_))
                            || breadth == Breadth::Forms && tiles == SharedTiles::default() && !is_slow
                    }
                    Form::Subgroup(lanes) => {
                        own == *form || breadth == Breadth::Forms && Some(lanes) == self.gpu.lanes()
                    }
                };
                Form::all(&self.gpu, columns, by_4).into_iter().filter(wanted).collect()
            }
            Breadth::AsTrained => vec![Form::choose(&self.gpu, SharedTiles::default(), by_4)],
        };
        let tiles = forms.iter().filter_map(|form| if let Form::Shared(tiles) = form { Some(*tiles) } else { None });
        let changed = |tiles| changes.iter().map(move |change| Form::Shared(change(tiles)));
        forms.extend(tiles.flat_map(changed).collect::<Vec<_>>());
        forms.retain(self.takes);
        forms
    }

    /// Records the comparison of a kernel whose inputs and outputs are floating-point tensors: `record` is given both.
    ///
    /// # Errors
    /// The device failed.
    pub fn check<const I: usize, const O: usize>(
        &mut self,
        kernel: &'static str,
        case: &str,
        inputs: [&[f32]; I],
        expected: [&Bounded; O],
        record: impl FnOnce(&mut PlanBuilder, [&Tensor; I], [&Tensor; O]) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let mut run = self.run();
        let (x, y) = run.tensors(&inputs, &expected)?;
        record(&mut run.plan, array::from_fn(|i| &x[i]), array::from_fn(|i| &y[i]))?;
        run.check(kernel, case, &y.iter().zip(expected).collect::<Vec<_>>(), &[]);
        Ok(())
    }

    /// Starts a new run: tensors, a plan, and the comparison of its outputs.
    pub fn run(&mut self) -> Trial<'_> {
        Trial { plan: PlanBuilder::guarded(&self.gpu), verifier: self }
    }

    /// Records that `kernel` is tested by the comparisons listed under `compared`.
    pub fn covered(&mut self, kernel: &'static str, compared: &'static str) {
        self.covered.push((kernel, compared));
    }

    /// Runs and compares what was recorded since the last call. Returns the verdicts so far, one per kernel, in the order in which kernels were
    /// first compared.
    ///
    /// # Errors
    /// The device failed, or a kernel does not compile; a wrong result is a verdict instead.
    pub async fn verdicts(&mut self) -> Result<&[Verdict], GpuError> {
        for recorded in std::mem::take(&mut self.recorded) {
            recorded.compare(&self.gpu, &mut self.verdicts).await?;
        }
        for (kernel, compared) in self.covered.drain(..) {
            if let Some(verdict) = self.verdicts.iter().find(|v| v.kernel == compared) {
                let same = Verdict { kernel, ..verdict.clone() };
                self.verdicts.retain(|v| v.kernel != kernel);
                self.verdicts.push(same);
            }
        }
        Ok(&self.verdicts)
    }
}

impl Recorded {
    /// Runs the plan and compares floating-point outputs under their bounds, integers and guard cells exactly.
    async fn compare(self, gpu: &Gpu, verdicts: &mut Vec<Verdict>) -> Result<(), GpuError> {
        let Recorded { kernel, case, plan, outputs, exact } = self;
        let (started, watched) = (Instant::now(), plan.all_watched().to_vec());
        gpu.run(&plan.finish().await?).await?;
        log::debug!("{kernel}, {case}: {:.2} s to compile and run", started.elapsed().as_secs_f64());
        for (tensor, Bounded { values, bound }) in &outputs {
            let result = compare(&gpu.read(tensor).await?, values, bound);
            Verdict::of(kernel, &case, values.len(), &result).add_to(verdicts);
        }
        for (tensor, expected) in &exact {
            let result = compare_exact(&gpu.read_words(tensor).await?, expected);
            Verdict::of(kernel, &case, expected.len(), &result).add_to(verdicts);
        }
        for (whole, len) in &watched {
            let words = gpu.read_words(whole).await?;
            if let Some(at) = words[*len..].iter().position(|&word| word != GUARD) {
                let name = whole.name();
                let failure =
                    format!("{case}: wrote past the end of `{name}` of {}, at {}", count(*len, "element"), len + at);
                let (worst_ratio, failures) = (f64::INFINITY, vec![failure]);
                let [bounds, magnitudes] = [0.0; 2];
                Verdict { kernel, comparisons: 0, elements: 0, worst_ratio, bounds, magnitudes, failures }
                    .add_to(verdicts);
            }
        }
        Ok(())
    }
}

/// A run of a plan with guarded tensors.
#[derive(Debug)]
pub struct Trial<'v> {
    /// The plan to record into.
    pub plan: PlanBuilder,
    verifier: &'v mut Verifier,
}

impl Trial<'_> {
    /// Creates a tensor that is only read.
    ///
    /// # Errors
    /// The device failed.
    pub fn input(&mut self, data: &[f32]) -> Result<Tensor, GpuError> {
        self.verifier.gpu.tensor_from("input", &[data.len()], data)
    }

    /// Creates an integer tensor that is only read.
    ///
    /// # Errors
    /// The device failed.
    pub fn input_u32(&mut self, data: &[u32]) -> Result<Tensor, GpuError> {
        self.verifier.gpu.tensor_from_u32("input", &[data.len()], data)
    }

    /// Creates a tensor that is written: filled with NaN, followed by guard cells.
    ///
    /// # Errors
    /// The device failed.
    pub fn output(&mut self, len: usize) -> Result<Tensor, GpuError> {
        self.guarded(&vec![UNWRITTEN; len], Element::F32)
    }

    /// As [`Trial::output`], for integers.
    ///
    /// # Errors
    /// The device failed.
    pub fn output_u32(&mut self, len: usize) -> Result<Tensor, GpuError> {
        self.guarded(&vec![UNWRITTEN; len], Element::U32)
    }

    /// Creates a tensor that is read and written, followed by guard cells.
    ///
    /// # Errors
    /// The device failed.
    pub fn in_place(&mut self, data: &[f32]) -> Result<Tensor, GpuError> {
        let words: Vec<u32> = data.iter().map(|value| value.to_bits()).collect();
        self.guarded(&words, Element::F32)
    }

    /// As [`Trial::in_place`], for integers.
    ///
    /// # Errors
    /// The device failed.
    pub fn in_place_u32(&mut self, data: &[u32]) -> Result<Tensor, GpuError> {
        self.guarded(data, Element::U32)
    }

    /// Returns `output` with the first `cells` of its guard cells, for testing that a write into them is detected.
    pub fn with_guard_cells(&self, output: &Tensor, cells: usize) -> Tensor {
        let mut watched = self.plan.all_watched().iter();
        let whole = watched.find(|(whole, len)| *len == output.len() && whole.shares_buffer(output));
        let (whole, len) = whole.expect("`output` was created by this run");
        whole.slice("guarded", 0, &[len + cells])
    }

    /// Inputs and outputs; compiled once, while what records a kernel is compiled for each.
    fn tensors(&mut self, inputs: &[&[f32]], outputs: &[&Bounded]) -> Result<(Vec<Tensor>, Vec<Tensor>), GpuError> {
        let x = inputs.iter().map(|data| self.input(data)).collect::<Result<_, _>>()?;
        let y = outputs.iter().map(|y| self.output(y.values.len())).collect::<Result<_, _>>()?;
        Ok((x, y))
    }

    fn guarded(&mut self, words: &[u32], element: Element) -> Result<Tensor, GpuError> {
        self.plan.watched("guarded", words, element)
    }

    /// Records the comparison of floating-point outputs under their bounds, and of integers exactly.
    pub fn check(self, kernel: &'static str, case: &str, outputs: &[(&Tensor, &Bounded)], exact: &[(&Tensor, &[u32])]) {
        let Trial { plan, verifier } = self;
        if verifier.only.is_some_and(|only| only != kernel) {
            return;
        }
        let outputs = outputs.iter().map(|&(tensor, expected)| (tensor.clone(), expected.clone())).collect();
        let exact = exact.iter().map(|&(tensor, expected)| (tensor.clone(), expected.to_vec())).collect();
        verifier.recorded.push(Recorded { kernel, case: case.to_string(), plan, outputs, exact });
    }
}
