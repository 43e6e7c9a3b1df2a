//! The bounds of the proofs stay what they are: a comparison that allows more than before finds fewer mistakes.
//!
//! `tests/fixtures/bounds.json` has, for each kernel, loop and gradient, the number of elements that are compared and the sums of their bounds
//! and of their magnitudes. After a change that is meant to change them, `FMNIST_RECORD=1 cargo test --release bounds_stay` writes those of
//! this machine again, with each of its instruction sets: `FMNIST_NATIVE_VECTORS=avx2` too.

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

/// Elements, the sum of their bounds, and that of their magnitudes.
type Sums = BTreeMap<String, (u64, f64, f64)>;

/// Adds the sums of some verdicts.
fn add(all: &mut Sums, prefix: &str, verdicts: Vec<Verdict>) {
    for of in verdicts {
        all.insert(format!("{prefix}{}", of.kernel), (of.elements as u64, of.bounds, of.magnitudes));
    }
}

#[test]
fn bounds_stay_what_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bounds.json");
    gpu();
    let report = Place::new().run("selftest --json").exits(0).json();
    let (mut of_kernels, mut certain) = (Sums::new(), Sums::new());
    let of_shaders = |verdict: &&Value| !verdict["kernel"].as_str().unwrap().starts_with("native ");
    for verdict in report["kernels"].as_array().unwrap().iter().filter(of_shaders) {
        let number = |name: &str| verdict[name].as_f64().unwrap();
        let sums = (verdict["elements"].as_u64().unwrap(), number("bounds"), number("magnitudes"));
        of_kernels.insert(verdict["kernel"].as_str().unwrap().to_string(), sums);
    }
    // These have the same cases and inputs everywhere.
    add(&mut certain, "gradient: ", gradients::check_all(0));
    add(&mut certain, &format!("{}: ", instruction_set()), check_all(0, Breadth::AsTrained));
    add(&mut certain, &format!("{}, everything: ", instruction_set()), check_all(0, Breadth::Everything));
    let text = fs::read_to_string(&path).unwrap();
    let mut recorded: Sums = serde_json::from_str(&text).unwrap();
    if std::env::var_os("FMNIST_RECORD").is_some() {
        recorded.extend(of_kernels.clone().into_iter().chain(certain.clone()));
        let lines: Vec<String> = recorded.iter().map(|(name, sums)| format!("{name:?}: {}", json!(sums))).collect();
        fs::write(&path, format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
    }
    let close = |name: &str, found: f64, expected: f64, tolerance: f64| {
        assert!((found - expected).abs() <= tolerance * expected, "{name}: {found:e}; recorded is {expected:e}");
    };
    // Loops for instruction sets that nobody recorded cannot be compared.
    let is_recorded = |name: &str| name.starts_with("gradient") || text.contains(&format!("\"{}: ", instruction_set()));
    for (name, &(elements, bounds, magnitudes)) in certain.iter().filter(|(name, _)| is_recorded(name)) {
        let Some(expected) = recorded.get(name) else { panic!("{name} is not recorded") };
        assert_eq!(elements, expected.0, "{name}: the number of elements");
        close(&format!("{name}: the sum of the bounds"), bounds, expected.1, 1e-3);
        close(&format!("{name}: the sum of the magnitudes"), magnitudes, expected.2, 1e-3);
    }
    let is_of_this_set =
        |name: &str| name.starts_with("gradient") || name.starts_with(&format!("{}: ", instruction_set()));
    for name in recorded.keys().filter(|name| is_of_this_set(name)) {
        assert!(certain.contains_key(name), "{name} is not compared any more");
    }
    // Which cases a kernel has depends on the adapter, and with them its inputs: what they are by chance has less weight the more there are.
    let mut compared = 0;
    for (name, &(elements, bounds, magnitudes)) in &of_kernels {
        let Some(expected) = recorded.get(name).filter(|recorded| recorded.0 == elements) else { continue };
        let tolerance = 0.01 + 2.0 / (elements as f64).sqrt();
        close(&format!("{name}: the sum of the bounds"), bounds, expected.1, tolerance);
        close(&format!("{name}: the sum of the magnitudes"), magnitudes, expected.2, tolerance);
        compared += 1;
    }
    println!("{compared} of {} kernels have the recorded cases", of_kernels.len());
    assert!(compared >= 20, "only {compared} have the recorded cases");
}
