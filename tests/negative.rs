use crate::support::gpu;
use fmnist_gpu::gpu::{KernelSpec, bind, read, workgroups_linear, write};
use fmnist_gpu::verify::{Bounded, Verifier, compare, compare_exact, sum_bound};
use pollster::FutureExt as _;

fn within(values: &[f64]) -> (Vec<f32>, Vec<f64>) {
    (values.iter().map(|&v| v as f32).collect(), values.iter().map(|v| sum_bound(3, v.abs())).collect())
}

#[test]
fn equal_tensors_pass() {
    let expected = [1.0, -2.5, 0.0, 1e-30];
    let (actual, bound) = within(&expected);
    let result = compare(&actual, &expected, &bound);
    assert!(result.passed() && result.worst_ratio <= 1.0, "{result}");
}

#[test]
fn one_wrong_element_fails() {
    let expected: Vec<f64> = (0..1000).map(|i| f64::from(i) * 0.37).collect();
    let (mut actual, bound) = within(&expected);
    assert!(compare(&actual, &expected, &bound).passed());
    // Six roundings are allowed, eight are not.
    actual[613] *= 1.0 + 8.0 * f32::EPSILON;
    let result = compare(&actual, &expected, &bound);
    assert_eq!(result.n_failed, 1);
    assert!(result.to_string().contains("element 613"), "{result}");
}

#[test]
fn nan_fails_on_either_side_and_in_the_bound() {
    let (actual, bound) = within(&[1.0, 2.0]);
    assert!(!compare(&[f32::NAN, 2.0], &[1.0, 2.0], &bound).passed());
    assert!(!compare(&actual, &[f64::NAN, 2.0], &bound).passed());
    assert!(!compare(&actual, &[1.0, 2.0], &[f64::NAN, 1.0]).passed());
    assert!(!compare(&[f32::INFINITY], &[1.0], &[1.0]).passed());
    assert_eq!(compare(&[f32::NAN], &[1.0], &[f64::INFINITY]).n_failed, 1);
}

#[test]
fn another_length_fails() {
    assert!(!compare(&[1.0], &[1.0, 2.0], &[1.0, 1.0]).passed());
    assert!(!compare(&[], &[1.0], &[1.0]).passed());
    assert!(!compare_exact(&[1, 2], &[1]).passed());
}

#[test]
fn unequal_integers_fail() {
    assert!(compare_exact(&[1, 2, 3], &[1, 2, 3]).passed());
    let wrong = compare_exact(&[1, 2, 3, 7], &[1, 5, 4, 7]);
    assert!(!wrong.passed() && wrong.worst_ratio == f64::INFINITY);
    assert_eq!(wrong.to_string(), "2 wrong, worst: element 1 is 2, expected 5");
}

/// Kernels that double their input, wrong in several ways.
const SOURCE: &str = "
    override LEN: u32 = 1u;
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<f32>;

    @compute @workgroup_size(64) fn right(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x < LEN) { y[id.x] = 2.0 * x[id.x]; }
    }
    @compute @workgroup_size(64) fn one_element(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x < LEN) { y[id.x] = select(2.0, 2.00001, id.x == 37u) * x[id.x]; }
    }
    @compute @workgroup_size(64) fn tail_unwritten(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x + 1u < LEN) { y[id.x] = 2.0 * x[id.x]; }
    }
    @compute @workgroup_size(64) fn swapped(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x < LEN) { y[LEN - 1u - id.x] = 2.0 * x[id.x]; }
    }
    @compute @workgroup_size(64) fn nothing(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x > LEN + 1000000u) { y[0] = x[0]; }
    }
";

macro_rules! kernel {
    ($name:ident, $entry:literal) => {
        static $name: KernelSpec =
            KernelSpec { op: "negative", entry: $entry, source: SOURCE, bindings: &[read(0, "x"), write(1, "y")] };
    };
}

kernel!(RIGHT, "right");
kernel!(ONE_ELEMENT, "one_element");
kernel!(TAIL_UNWRITTEN, "tail_unwritten");
kernel!(SWAPPED, "swapped");
kernel!(NOTHING, "nothing");

/// Runs a kernel as an operation's test does; `bound_len` elements of the output are bound.
fn passes(kernel: &'static KernelSpec, bound_len: usize) -> bool {
    let mut verifier = Verifier::new(gpu(), 12);
    let x = verifier.random(100);
    let expected: Vec<f64> = x[..bound_len].iter().map(|&x| 2.0 * f64::from(x)).collect();
    let scale: Vec<f64> = expected.iter().map(|y| y.abs()).collect();
    let mut run = verifier.run();
    let (tx, ty) = (run.input(&x).unwrap(), run.output(bound_len).unwrap());
    let tensors = [bind("x", &tx, 100), bind("y", &ty, bound_len)];
    run.plan.push(kernel, &[("LEN", 100.0)], workgroups_linear(100, 64), &tensors).unwrap();
    run.check(kernel.entry, "negative", &[(&ty, &Bounded::sums(expected, &scale, 1))], &[]);
    verifier.verdicts().block_on().unwrap().iter().all(|verdict| verdict.passed())
}

#[test]
fn a_right_kernel_passes_and_every_wrong_one_fails() {
    assert!(passes(&RIGHT, 100));
    assert!(!passes(&ONE_ELEMENT, 100), "one element off by five parts in a million");
    assert!(!passes(&TAIL_UNWRITTEN, 100), "the last element was never written");
    assert!(!passes(&SWAPPED, 100), "written in reverse");
    assert!(!passes(&NOTHING, 100), "nothing was written");
}

/// Guard cells are compared too: a verdict fails if one of them was overwritten.
#[test]
fn a_write_past_the_end_of_an_output_fails() {
    let mut verifier = Verifier::new(gpu(), 13);
    let mut run = verifier.run();
    let ty = run.output(90).unwrap();
    let tx = run.input(&[1.0; 100]).unwrap();
    // The run's tensor is followed by 64 guard cells: ten of them are bound to the kernel, as a wrong size would do.
    let past = run.with_guard_cells(&ty, 10);
    let tensors = [bind("x", &tx, 100), bind("y", &past, 100)];
    run.plan.push(&RIGHT, &[("LEN", 100.0)], workgroups_linear(100, 64), &tensors).unwrap();
    run.check("right", "guard", &[(&ty, &Bounded::sums(vec![2.0; 90], &[2.0; 90], 1))], &[]);
    let verdict = &verifier.verdicts().block_on().unwrap()[0];
    assert!(!verdict.passed());
    assert!(verdict.failures[0].contains("past the end"), "{:?}", verdict.failures);
}

#[test]
fn a_verdict_without_a_comparison_does_not_pass() {
    let verdict = fmnist_gpu::verify::Verdict {
        kernel: "none",
        comparisons: 0,
        elements: 0,
        worst_ratio: 0.0,
        bounds: 0.0,
        magnitudes: 0.0,
        failures: Vec::new(),
    };
    assert!(!verdict.passed());
}
