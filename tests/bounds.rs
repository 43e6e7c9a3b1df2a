//! The bounds of the proofs stay what they are: a comparison that allows more than before finds fewer mistakes.
//!
//! `tests/fixtures/bounds.json` has, for each kernel, loop and gradient, the number of elements that are compared and the sums of their bounds
//! and of their magnitudes. After a change that is meant to change them, `FMNIST_RECORD=1 cargo test --release bounds::` writes those of
//! this machine again, with each of its instruction sets: `FMNIST_NATIVE_VECTORS=avx2` too.

use crate::native::ALL_FORMS;
use crate::support::gpu;
use crate::support::program::Place;
use fmnist_gpu::native::instruction_set;
use fmnist_gpu::verify::gradients;
use fmnist_gpu::verify::native::check_all;
use fmnist_gpu::verify::{Breadth, Verdict};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Elements, the sum of their bounds, and that of their magnitudes.
type Sums = BTreeMap<String, (u64, f64, f64)>;

/// The file is read and written by several tests at once.
static FILE: Mutex<()> = Mutex::new(());

/// Returns what is recorded, after recording these sums if that is asked for.
fn recorded(sums: &Sums) -> Sums {
    let _alone = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bounds.json");
    let mut recorded: Sums = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    if std::env::var_os("FMNIST_RECORD").is_some() {
        recorded.extend(sums.clone());
        let lines: Vec<String> = recorded.iter().map(|(name, sums)| format!("{name:?}: {}", json!(sums))).collect();
        fs::write(&path, format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
    }
    recorded
}

#[track_caller]
fn assert_close(name: &str, [bounds, magnitudes]: [f64; 2], expected: (u64, f64, f64), tolerance: f64) {
    for (what, found, expected) in [("bounds", bounds, expected.1), ("magnitudes", magnitudes, expected.2)] {
        let is_close = (found - expected).abs() <= tolerance * expected;
        assert!(is_close, "{name}: the sum of the {what} is {found:e}; recorded is {expected:e}");
    }
}

/// Compares proofs that have the same cases and inputs everywhere with those that are recorded under names with this prefix.
fn assert_as_recorded(prefix: &str, verdicts: &[Verdict]) {
    let of = |of: &Verdict| (format!("{prefix}: {}", of.kernel), (of.elements as u64, of.bounds, of.magnitudes));
    let sums: Sums = verdicts.iter().map(of).collect();
    let mut recorded = recorded(&sums);
    // Loops for instruction sets that nobody recorded cannot be compared.
    let of_set = format!("{}: ", instruction_set());
    if prefix != "gradient" && !recorded.keys().any(|name| name.starts_with(&of_set)) {
        return println!("{prefix}: nobody recorded this instruction set");
    }
    recorded.retain(|name, _| name.starts_with(&format!("{prefix}: ")));
    assert_eq!(sums.keys().collect::<Vec<_>>(), recorded.keys().collect::<Vec<_>>(), "others are compared");
    for (name, &(elements, bounds, magnitudes)) in &sums {
        let expected = recorded[name];
        assert_eq!(elements, expected.0, "{name}: the number of elements");
        assert_close(name, [bounds, magnitudes], expected, 1e-3);
    }
}

#[test]
fn bounds_of_gradients_stay_what_they_are() {
    assert_as_recorded("gradient", &gradients::check_all(0));
}

#[test]
fn bounds_of_native_loops_stay_what_they_are() {
    assert_as_recorded(instruction_set(), &check_all(0, Breadth::AsTrained));
}

#[test]
fn bounds_of_all_forms_of_native_loops_stay_what_they_are() {
    assert_as_recorded(&format!("{}, everything", instruction_set()), &ALL_FORMS);
}

/// Which cases a kernel has depends on the adapter, and with them its inputs: what they are by chance has less weight the more there are.
#[test]
fn bounds_of_kernels_stay_what_they_are() {
    gpu();
    let report = Place::new().run("selftest --json").exits(0).json();
    let of_kernel = |verdict: &Value| {
        let number = |name: &str| verdict[name].as_f64().unwrap();
        let sums = (verdict["elements"].as_u64().unwrap(), number("bounds"), number("magnitudes"));
        (verdict["kernel"].as_str().unwrap().to_string(), sums)
    };
    let sums: Sums = report["kernels"].as_array().unwrap().iter().map(of_kernel).collect();
    let sums: Sums = sums.into_iter().filter(|(name, _)| !name.starts_with("native ")).collect();
    let recorded = recorded(&sums);
    let mut compared = 0;
    for (name, &(elements, bounds, magnitudes)) in &sums {
        let Some(&expected) = recorded.get(name).filter(|recorded| recorded.0 == elements) else { continue };
        let tolerance = 0.01 + 2.0 / (elements as f64).sqrt();
        assert_close(name, [bounds, magnitudes], expected, tolerance);
        compared += 1;
    }
    println!("{compared} of {} kernels have the recorded cases", sums.len());
    assert!(compared >= 20, "only {compared} have the recorded cases");
}
