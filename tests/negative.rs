use crate::support::gpu;
use fmnist_gpu::gpu::{Gpu, GpuOptions, KernelSpec, Tiling, bind, read, workgroups_linear, write};
use fmnist_gpu::ops::{Form, SharedTiles};
use fmnist_gpu::verify::{Bounded, Breadth, Verifier, compare, compare_exact, sum_bound};
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

/// What one dispatch of an operation hands to another is watched as well.
#[test]
fn a_write_past_the_end_of_a_scratch_tensor_fails() {
    let mut verifier = Verifier::new(gpu(), 14);
    let mut run = verifier.run();
    let (tx, ty) = (run.input(&[1.0; 100]).unwrap(), run.output(80).unwrap());
    let scratch = run.plan.scratch("between", &[90]).unwrap();
    let past = run.with_guard_cells(&scratch, 10);
    let first = [bind("x", &tx, 100), bind("y", &past, 100)];
    run.plan.push(&RIGHT, &[("LEN", 100.0)], workgroups_linear(100, 64), &first).unwrap();
    let second = [bind("x", &scratch, 90), bind("y", &ty, 80)];
    run.plan.push(&RIGHT, &[("LEN", 80.0)], workgroups_linear(80, 64), &second).unwrap();
    run.check("right", "scratch", &[(&ty, &Bounded::sums(vec![4.0; 80], &[4.0; 80], 1))], &[]);
    let [failure] = &verifier.verdicts().block_on().unwrap()[0].failures[..] else { panic!("one failure is expected") };
    assert!(failure.contains("past the end") && failure.contains("90"), "{failure}");
}

/// Which forms of a heavy kernel are compared, on devices that train with each of them.
#[test]
fn as_many_forms_are_compared_as_are_asked_for() {
    let changes = &[(|tiles| SharedTiles { loads_by_4: true, ..tiles }) as fn(SharedTiles) -> SharedTiles];
    let loads_by_4 = Form::Shared(SharedTiles { loads_by_4: true, ..SharedTiles::default() });
    for tiling in [Tiling::Plain, Tiling::Subgroup, Tiling::Shared] {
        let options = GpuOptions { tiling: Some(tiling), ..GpuOptions::default() };
        // Not every adapter has subgroups.
        let Ok(gpu) = Gpu::open(&options).block_on() else { continue };
        let verifier = Verifier::new(&gpu, 15);
        let shared = Form::Shared(SharedTiles::default());
        let subgroup = gpu.lanes().map(Form::Subgroup);
        let own = match tiling {
            Tiling::Plain => Form::Plain,
            Tiling::Subgroup => subgroup.unwrap_or(Form::Plain),
            Tiling::Shared => shared,
        };
        // 64 columns: shared tiles of two heights.
        let forms = |breadth| verifier.forms(breadth, 64, &[64], &[]);
        let every = forms(Breadth::EveryForm);
        assert_eq!(every, Form::all(&gpu, 64, &[64]), "{tiling:?}");
        assert!(every.len() >= 3 && forms(Breadth::Everything) == every, "{tiling:?}: {every:?}");
        assert_eq!(forms(Breadth::AsTrained), [own], "{tiling:?}");
        let tall = every.iter().copied().find(|form| matches!(form, Form::Shared(_)) && *form != shared);
        let wanted = |breadth: Breadth| -> Vec<Form> {
            let is_wanted = |form: &Form| match breadth {
                Breadth::Forms => [Some(Form::Plain), Some(shared), subgroup].contains(&Some(*form)),
                _ => [Form::Plain, own].contains(form),
            };
            let may_train = |form: &Form| is_wanted(form) || own == shared && Some(*form) == tall;
            every.iter().copied().filter(may_train).collect()
        };
        assert_eq!(forms(Breadth::Forms), wanted(Breadth::Forms), "{tiling:?}");
        assert_eq!(forms(Breadth::OwnForms), wanted(Breadth::OwnForms), "{tiling:?}");
        // Each change is one more form for each shared one.
        let changed = verifier.forms(Breadth::OwnForms, 32, &[64], changes);
        assert_eq!(changed.contains(&loads_by_4), own == shared, "{tiling:?}: {changed:?}");
    }
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
